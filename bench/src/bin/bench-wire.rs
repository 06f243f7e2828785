//! Measures the director on a wire: packets a second through DR and FULLNAT, against a bare AF_XDP forwarder.
//!
//! All three take turns on the same two veth pairs, several times over, so that a machine whose speed drifts does not
//! favour one of them. One CPU makes packets, another forwards.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use serde::Serialize;
use sluice_bench::lab::{self, Director, Wire, mac_of, wire};
use sluice_bench::limit::{Limit, LimitOptions};
use sluice_bench::traffic::{Flows, Kind, Sink, Source, SourceOptions};

const FLOWS: u32 = 1_000;
const PORT: u16 = 80;
/// FULLNAT is to reach this share of the bare forwarder.
const GOAL: f64 = 0.8;
const WARM_UP: Duration = Duration::from_millis(500);
const FIRST_PACKETS: Duration = Duration::from_secs(10);

/// Measure packets a second through the director on a veth wire.
#[derive(Debug, Parser)]
#[command(name = "bench-wire")]
struct Arguments {
    /// Where the result goes, as JSON
    #[arg(long, default_value = "target/bench/wire.json")]
    output: PathBuf,
    /// How often each forwarder is measured; the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Seconds of one measurement
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// The CPU that makes packets
    #[arg(long, default_value_t = 0)]
    source_cpu: usize,
    /// The CPU that forwards
    #[arg(long, default_value_t = 1)]
    worker_cpu: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Forwarder {
    Limit,
    Dr,
    FullNat,
}

impl Forwarder {
    const ALL: [Self; 3] = [Self::Limit, Self::Dr, Self::FullNat];

    const fn title(self) -> &'static str {
        match self {
            Self::Limit => "bare AF_XDP forwarder",
            Self::Dr => "sluice, dr, 1 k flows",
            Self::FullNat => "sluice, fullnat, 1 k flows",
        }
    }
}

/// The result, as written.
#[derive(Debug, Serialize)]
struct Measured {
    limit_mpps: f64,
    dr_1k_mpps: f64,
    fullnat_1k_mpps: f64,
    fullnat_of_limit: f64,
    frame_len: usize,
    seconds: u32,
    rounds: BTreeMap<&'static str, Vec<f64>>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match measure(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-wire: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> Result<()> {
    if arguments.source_cpu == arguments.worker_cpu {
        bail!(
            "the source and the worker need a CPU each: --source-cpu and --worker-cpu are both {}",
            arguments.worker_cpu
        );
    }
    lab::exit_cleanly_on_signals(|| eprintln!("bench-wire: interrupted"))?;
    let wire = Wire::new(1)?;
    let sink = Sink::attach(&wire.sink, "eth0", false)?;
    println!(
        "{} rounds of {} s each; 60-byte UDP, {FLOWS} flows; packets made on CPU {}, forwarded on CPU {}\n",
        arguments.rounds, arguments.seconds, arguments.source_cpu, arguments.worker_cpu
    );
    let mut rates: BTreeMap<Forwarder, Vec<f64>> = BTreeMap::new();
    for round in 1..=arguments.rounds {
        print!("round {round}:");
        for forwarder in Forwarder::ALL {
            let rate = one(&wire, &sink, arguments, forwarder).context(forwarder.title())?;
            print!("  {:.2}", rate);
            std::io::Write::flush(&mut std::io::stdout())?;
            rates.entry(forwarder).or_default().push(rate);
        }
        println!("  Mpps");
    }
    report(arguments, &rates)
}

/// Millions of packets a second that reach the sink.
fn one(wire: &Wire, sink: &Sink, arguments: &Arguments, forwarder: Forwarder) -> Result<f64> {
    match forwarder {
        Forwarder::Limit => {
            let limit = Limit::start(LimitOptions {
                netns: wire.director.clone(),
                from: "eth0".into(),
                to: "eth1".into(),
                source: wire::FAR,
                next_hop: wire::SINK,
                cpu: arguments.worker_cpu,
            })?;
            let rate = rate(wire, sink, arguments)?;
            limit.stop()?;
            Ok(rate)
        }
        Forwarder::Dr | Forwarder::FullNat => {
            let method = if forwarder == Forwarder::Dr { "dr" } else { "fullnat" };
            let director =
                Director::start(&wire.director, wire.dir(), &config(arguments.worker_cpu, method))?;
            let rate = rate(wire, sink, arguments)
                .with_context(|| format!("the director said:\n{}", director.log()))?;
            let (status, log) = director.stop()?;
            if !status.success() {
                bail!("the director ended with {status}; it said:\n{log}");
            }
            Ok(rate)
        }
    }
}

fn rate(wire: &Wire, sink: &Sink, arguments: &Arguments) -> Result<f64> {
    let idle = sink.total()?.packets;
    let source = Source::start(SourceOptions {
        netns: wire.source.clone(),
        interface: "eth0".into(),
        source_mac: mac_of(wire::SOURCE),
        destination_mac: mac_of(wire::NEAR),
        client: Ipv4Addr::new(10, 64, 0, 1),
        destination: SocketAddrV4::new(wire::VIP, PORT),
        kind: Kind::Udp,
        flows: Flows::count(FLOWS),
        frame_len: FRAME_LEN,
        cpu: arguments.source_cpu,
        rate: None,
        packets: None,
    })?;
    let started = Instant::now();
    while sink.total()?.packets == idle {
        if started.elapsed() > FIRST_PACKETS {
            bail!("no packet arrived in {FIRST_PACKETS:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(WARM_UP);
    let (before, started) = (sink.total()?, Instant::now());
    std::thread::sleep(Duration::from_secs(arguments.seconds.into()));
    let (counted, elapsed) = (sink.total()?.since(before), started.elapsed());
    source.stop()?;
    Ok(counted.packets as f64 / elapsed.as_secs_f64() / 1e6)
}

const FRAME_LEN: usize = 60;

fn config(cpu: usize, method: &str) -> String {
    let local: Vec<String> = wire::local_addresses().map(|address| format!("\"{address}\"")).collect();
    format!(
        "[director]\ninterfaces = [\"eth0\", \"eth1\"]\nworkers = [{cpu}]\nconnections_per_worker = 1_000_000\n\
         local_addresses = [{}]\n\n[[service]]\naddress = \"{}:{PORT}\"\nprotocol = \"udp\"\nscheduler = \"rr\"\n\n\
         [[service.server]]\naddress = \"{}:{PORT}\"\nmethod = \"{method}\"\nweight = 1\n",
        local.join(", "),
        wire::VIP,
        wire::SINK,
    )
}

fn report(arguments: &Arguments, rates: &BTreeMap<Forwarder, Vec<f64>>) -> Result<()> {
    let medians: BTreeMap<Forwarder, f64> =
        rates.iter().map(|(&forwarder, rates)| (forwarder, median(rates))).collect();
    let limit = medians[&Forwarder::Limit];
    println!("\n{:<28}{:>12}{:>12}", "", "Mpps", "of limit");
    for (forwarder, rate) in &medians {
        println!("{:<28}{rate:>12.2}{:>12.2}", forwarder.title(), rate / limit);
    }
    let measured = Measured {
        limit_mpps: round(limit),
        dr_1k_mpps: round(medians[&Forwarder::Dr]),
        fullnat_1k_mpps: round(medians[&Forwarder::FullNat]),
        fullnat_of_limit: round(medians[&Forwarder::FullNat] / limit),
        frame_len: FRAME_LEN,
        seconds: arguments.seconds,
        rounds: [("limit", Forwarder::Limit), ("dr_1k", Forwarder::Dr), ("fullnat_1k", Forwarder::FullNat)]
            .map(|(name, forwarder)| (name, rates[&forwarder].iter().copied().map(round).collect()))
            .into(),
    };
    let verdict = if measured.fullnat_of_limit >= GOAL { "reached" } else { "MISSED" };
    println!(
        "\nfullnat is at {:.2} of the limit; the goal of {GOAL} is {verdict}",
        measured.fullnat_of_limit
    );
    if let Some(dir) = arguments.output.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    std::fs::write(&arguments.output, serde_json::to_string_pretty(&measured)? + "\n")
        .with_context(|| format!("cannot write {}", arguments.output.display()))?;
    println!("written to {}", arguments.output.display());
    Ok(())
}

fn median(rates: &[f64]) -> f64 {
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
