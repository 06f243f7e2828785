//! Measures the director on a wire: packets a second by each method, against a bare AF_XDP forwarder.
//!
//! All take turns on the same two veth pairs, several times over, so that a machine whose speed drifts does not favour
//! one of them. One CPU makes packets, another forwards. `bench/README.md` says what the figures show.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use sluice_bench::figures::wire::{self as figures, Figure, Forwarder, Load};
use sluice_bench::figures::{self as results, Machine, Rounds, Waiting};
use sluice_bench::lab::{self, Director, Method, Process, Wire, mac_of, wire};
use sluice_bench::limit::{Limit, LimitOptions};
use sluice_bench::traffic::{Flows, Kind, Sink, Source, SourceOptions};
use sluice_bench::xdp_limit::XdpLimit;

const PORT: u16 = 80;
const FRAME_LEN: usize = 60;
const WARM_UP: Duration = Duration::from_millis(500);
const FIRST_PACKETS: Duration = Duration::from_secs(30);
/// Less than a connection lives.
const CONNECTED: Duration = Duration::from_secs(180);
/// Packets a second while connections are opened: less than what is lost of.
const OPENING_RATE: NonZeroU32 = NonZeroU32::new(400_000).expect("it is not 0");
/// A machine on which threads wait for a CPU for a larger share of the time is not quiet.
const QUIET: f64 = 0.05;
/// More than new connections a second can be, on any veth.
const NEW_FLOWS_A_SECOND: f64 = 2e6;
/// The wire has local ports for so many connections.
const MOST_CONNECTIONS: f64 = 30e6;

/// Measure packets a second through the director on a veth wire.
#[derive(Debug, Parser)]
#[command(name = "bench-wire")]
struct Arguments {
    /// Where the result goes, as JSON; the plot goes beside it, as SVG
    #[arg(long, default_value = "target/bench/wire.json")]
    output: PathBuf,
    /// How often each figure is taken; the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Seconds of one measurement
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    seconds: f64,
    /// Seconds of one measurement with a new flow for each packet, at most 14
    #[arg(long, default_value_t = 10.0, value_parser = new_flow_seconds)]
    new_flow_seconds: f64,
    /// The CPU that makes packets
    #[arg(long, default_value_t = 0)]
    source_cpu: usize,
    /// The CPU that forwards
    #[arg(long, default_value_t = 1)]
    worker_cpu: usize,
    /// Take only this figure, by its key in the result (can be given several times)
    #[arg(long = "figure", value_name = "KEY")]
    figures: Vec<String>,
    /// A shell command that runs another forwarder, to be measured on the same wires; bench/README.md says what it is
    /// given
    #[arg(long, value_name = "CMD")]
    peer: Option<String>,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.01..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("seconds are a number from 0.01 to 3600".into()),
    }
}

fn new_flow_seconds(text: &str) -> Result<f64, String> {
    let seconds = seconds(text)?;
    if connections_of(seconds) > MOST_CONNECTIONS {
        return Err("at most 14 seconds: the wire has no local ports for more connections".into());
    }
    Ok(seconds)
}

/// The most connections that can come about when each packet makes one.
fn connections_of(seconds: f64) -> f64 {
    (seconds + WARM_UP.as_secs_f64() + 0.25) * NEW_FLOWS_A_SECOND
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
    let chosen = chosen(arguments)?;
    lab::exit_cleanly_on_signals(|| eprintln!("bench-wire: interrupted"))?;
    let machine = Machine::this();
    println!(
        "{machine}; packets made on CPU {}, forwarded on CPU {}",
        arguments.source_cpu, arguments.worker_cpu
    );
    println!(
        "{} rounds of {} s for each figure ({} s with new flows); UDP, {FRAME_LEN} bytes\n",
        arguments.rounds, arguments.seconds, arguments.new_flow_seconds
    );
    let bench = Bench::new(Wire::new(1)?, arguments)?;
    let (mut rounds, mut waiting, mut worker) = (Rounds::default(), Rounds::default(), Rounds::default());
    for round in 1..=arguments.rounds {
        for figure in &chosen {
            let rate = match &arguments.peer {
                Some(command) if figure.forwarder == Forwarder::Peer => {
                    // A wire of its own, as it may set up addresses, routes and filters there.
                    let bench = Bench::new(Wire::new(1)?, arguments)?;
                    bench.peer(command, figure.load)
                }
                _ => bench.one(*figure),
            };
            let Rate { rate, waited, worker: busy_worker } = rate.with_context(|| figure.title())?;
            let busy = waited.filter(|share| *share > QUIET);
            let remark =
                busy.map(|share| format!("  (others had its CPUs: {:.0} % of the time)", share * 100.0));
            let mut remark = remark.unwrap_or_default();
            if let Some(share) = busy_worker {
                remark += &format!("  (the worker used {:.1} % of its CPU)", share * 100.0);
                worker.add(figure.key(), share);
            }
            println!("round {round}: {:<34}{rate:>8.3} Mpps{remark}", figure.title());
            if let Some(share) = waited {
                waiting.add(figure.key(), share);
            }
            rounds.add(figure.key(), rate);
        }
    }
    println!("\n{}", figures::table(&rounds));
    if waiting.values().values().flatten().any(|share| *share > QUIET) {
        println!("The machine was not quiet: these figures are not what it can do.\n");
    }
    let mut json = figures::json(&rounds, &machine, FRAME_LEN, arguments.seconds);
    json["waiting"] = serde_json::json!(waiting.values());
    json["worker_cpu"] = serde_json::json!(worker.values());
    results::write_json(&arguments.output, &json)?;
    let plot = arguments.output.with_extension("svg");
    results::write(&plot, &figures::chart(&rounds, &machine).to_svg())?;
    println!("written to {} and {}", arguments.output.display(), plot.display());
    Ok(())
}

fn chosen(arguments: &Arguments) -> Result<Vec<Figure>> {
    let all = Figure::all(arguments.peer.is_some());
    if let Some(unknown) = arguments.figures.iter().find(|key| !all.iter().any(|f| f.key() == **key)) {
        let keys: Vec<_> = all.iter().map(|figure| figure.key()).collect();
        bail!("there is no figure {unknown}; --figure takes one of {}", keys.join(", "));
    }
    let wanted = |figure: &Figure| arguments.figures.is_empty() || arguments.figures.contains(&figure.key());
    Ok(all.into_iter().filter(wanted).collect())
}

/// What was measured.
struct Rate {
    /// Millions of packets a second.
    rate: f64,
    /// The share of the time in which some thread waited for a CPU, if that is known.
    waited: Option<f64>,
    /// The share of its CPU that a worker used that may sleep.
    worker: Option<f64>,
}

/// A wire with a sink at its end.
struct Bench<'a> {
    wire: Wire,
    sink: Sink,
    arguments: &'a Arguments,
}

impl<'a> Bench<'a> {
    fn new(wire: Wire, arguments: &'a Arguments) -> Result<Self> {
        let sink = Sink::attach(&wire.sink, "eth0", false)?;
        Ok(Self { wire, sink, arguments })
    }

    /// Millions of packets a second that reach the sink.
    fn one(&self, figure: Figure) -> Result<Rate> {
        match figure.forwarder {
            Forwarder::Limit => {
                let limit = Limit::start(LimitOptions {
                    netns: self.wire.director.clone(),
                    from: "eth0".into(),
                    to: "eth1".into(),
                    source: wire::FAR,
                    next_hop: wire::SINK,
                    cpu: self.arguments.worker_cpu,
                })?;
                let rate = self.rate(figure.load, None)?;
                limit.stop()?;
                Ok(rate)
            }
            Forwarder::XdpLimit => {
                let _limit = XdpLimit::start(&self.wire.director, "eth0", "eth1", wire::FAR, wire::SINK)?;
                self.rate(figure.load, None)
            }
            Forwarder::Sluice(method) | Forwarder::Carried(method) => {
                let carried = matches!(figure.forwarder, Forwarder::Carried(_));
                let config = self.config(method, figure.load, carried);
                if carried {
                    // A veth takes redirected frames if its other end has GRO; the sink's has an XDP program.
                    lab::run(self.wire.source.command("ethtool").args(["-K", "eth0", "gro", "on"]))?;
                }
                let director = Director::start(&self.wire.director, self.wire.dir(), &config)?;
                let rate = self
                    .through(&director, figure.load, carried)
                    .with_context(|| format!("the director said:\n{}", director.log()))?;
                let (status, log) = director.stop()?;
                if !status.success() {
                    bail!("the director ended with {status}; it said:\n{log}");
                }
                Ok(rate)
            }
            Forwarder::Peer => bail!("no --peer to measure"),
        }
    }

    fn through(&self, director: &Director, load: Load, carried: bool) -> Result<Rate> {
        let before = self.sink.total()?.packets;
        if let Load::Flows(flows) = load {
            let deadline = Instant::now() + CONNECTED;
            while director.connections()? < flows.into() {
                if Instant::now() > deadline {
                    bail!(
                        "only {} of {flows} flows have a connection after {CONNECTED:?}",
                        director.connections()?
                    );
                }
                self.open(flows)?;
            }
            while carried && director.offloaded()? < flows.into() {
                if Instant::now() > deadline {
                    bail!("only {} of {flows} flows are carried after {CONNECTED:?}", director.offloaded()?);
                }
                self.open(flows)?;
            }
        }
        let rate = self.rate(load, carried.then_some(director))?;
        let (connections, forwarded) = (director.connections()?, self.sink.total()?.packets - before);
        match load {
            Load::Flows(flows) if connections != u64::from(flows) => {
                bail!("{connections} connections instead of {flows}")
            }
            Load::NewFlows if connections < forwarded => {
                bail!("{forwarded} packets by only {connections} connections: the table was too small")
            }
            _ => Ok(rate),
        }
    }

    /// Sends a packet of each flow.
    fn open(&self, flows: u32) -> Result<()> {
        let options = self.packets(Load::Flows(flows));
        Source::start(SourceOptions { rate: Some(OPENING_RATE), packets: Some(flows.into()), ..options })?
            .finish()?;
        Ok(())
    }

    fn peer(&self, command: &str, load: Load) -> Result<Rate> {
        // Without it, a veth takes no frames that XDP sends, unless its other end runs XDP too.
        lab::run(self.wire.director.command("ethtool").args(["-K", "eth0", "gro", "on"]))?;
        let mut shell = self.wire.director.command("sh");
        shell.args(["-c", command]).envs(self.environment()).stdout(Stdio::from(std::io::stderr()));
        let mut peer = Process::start(&mut shell)?;
        let before = self.sink.total()?.packets;
        lab::wait_for("the peer's first packets", FIRST_PACKETS, || {
            if let Some(status) = peer.ended()? {
                bail!("the peer ended ({status}) before it forwarded a packet");
            }
            self.open(100)?;
            Ok(self.sink.total()?.packets > before)
        })?;
        if let Load::Flows(flows) = load {
            // It cannot be asked how many it knows: twice, should some be lost.
            self.open(flows)?;
            self.open(flows)?;
        }
        let rate = self.rate(load, None)?;
        match peer.ended()? {
            Some(status) => bail!("the peer ended ({status}) while it was measured"),
            None => Ok(rate),
        }
    }

    /// What a peer is told.
    fn environment(&self) -> Vec<(&'static str, String)> {
        let mac = |address| mac_of(address).map(|byte| format!("{byte:02x}")).join(":");
        let list = |addresses: Vec<Ipv4Addr>| {
            addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        vec![
            ("WIRE_IN", "eth0".into()),
            ("WIRE_IN_ADDRESS", wire::NEAR.to_string()),
            ("WIRE_IN_MAC", mac(wire::NEAR)),
            ("WIRE_OUT", "eth1".into()),
            ("WIRE_OUT_ADDRESS", wire::FAR.to_string()),
            ("WIRE_OUT_MAC", mac(wire::FAR)),
            ("WIRE_SOURCE_ADDRESS", wire::SOURCE.to_string()),
            ("WIRE_SOURCE_MAC", mac(wire::SOURCE)),
            ("WIRE_SERVERS", list(wire::servers().collect())),
            ("WIRE_SERVER_MAC", mac(wire::SINK)),
            ("WIRE_VIP", wire::VIP.to_string()),
            ("WIRE_PORT", PORT.to_string()),
            ("WIRE_LOCAL_ADDRESSES", list(wire::local_addresses().collect())),
            ("WIRE_CPU", self.arguments.worker_cpu.to_string()),
        ]
    }

    /// Full speed for a while, in the time of which a director's worker is watched.
    fn rate(&self, load: Load, director: Option<&Director>) -> Result<Rate> {
        let seconds = match load {
            Load::Flows(_) => self.arguments.seconds,
            Load::NewFlows => self.arguments.new_flow_seconds,
        };
        let idle = self.sink.total()?.packets;
        let source = Source::start(self.packets(load))?;
        lab::wait_for("the first packet", FIRST_PACKETS, || Ok(self.sink.total()?.packets > idle))?;
        std::thread::sleep(WARM_UP);
        let waiting = Waiting::begin();
        let worked = director.map(Director::worker_time).transpose()?;
        let (before, started) = (self.sink.total()?, Instant::now());
        std::thread::sleep(Duration::from_secs_f64(seconds));
        let (counted, elapsed) = (self.sink.total()?.since(before), started.elapsed());
        let waited = waiting.and_then(Waiting::share);
        let worked = director.map(Director::worker_time).transpose()?.zip(worked);
        let worker = worked.map(|(after, before)| (after - before).as_secs_f64() / elapsed.as_secs_f64());
        source.stop()?;
        Ok(Rate { rate: counted.packets as f64 / elapsed.as_secs_f64() / 1e6, waited, worker })
    }

    fn packets(&self, load: Load) -> SourceOptions {
        SourceOptions {
            netns: self.wire.source.clone(),
            interface: "eth0".into(),
            source_mac: mac_of(wire::SOURCE),
            destination_mac: mac_of(wire::NEAR),
            client: Ipv4Addr::new(10, 64, 0, 1),
            destination: SocketAddrV4::new(wire::VIP, PORT),
            kind: Kind::Udp,
            flows: match load {
                Load::Flows(flows) => Flows::count(flows),
                Load::NewFlows => Flows::NewEachPacket,
            },
            frame_len: FRAME_LEN,
            cpu: self.arguments.source_cpu,
            rate: None,
            packets: None,
        }
    }

    fn config(&self, method: Method, load: Load, carried: bool) -> String {
        let offload = match (carried, load) {
            (false, _) => "offload = \"off\"\n",
            // What the worker does is seen by the time that it does not sleep. There are more than by default, so that
            // all find a place.
            (true, Load::Flows(1_000_000)) => {
                "idle = \"sleep\"\noffload = \"on\"\noffload_after = 1\noffload_flows = 1_500_000\n"
            }
            (true, _) => "idle = \"sleep\"\noffload = \"on\"\noffload_after = 1\n",
        };
        let connections = match load {
            // A little more than are opened.
            Load::Flows(_) => 1_100_000.0,
            Load::NewFlows => connections_of(self.arguments.new_flow_seconds),
        };
        let local: Vec<String> = wire::local_addresses().map(|address| format!("\"{address}\"")).collect();
        let mut config = format!(
            "[director]\ninterfaces = [\"eth0\", \"eth1\"]\nworkers = [{}]\nconnections_per_worker = {connections:.0}\n\
             local_addresses = [{}]\n{offload}\n[[service]]\naddress = \"{}:{PORT}\"\nprotocol = \"udp\"\nscheduler = \"rr\"\n",
            self.arguments.worker_cpu,
            local.join(", "),
            wire::VIP,
        );
        for server in wire::servers() {
            config += &format!(
                "\n[[service.server]]\naddress = \"{server}:{PORT}\"\nmethod = \"{}\"\nweight = 1\n",
                method.name()
            );
        }
        config
    }
}
