//! Measures what applications get: connections and requests a second and latencies of a real client and real servers,
//! through the director and through others in its place.
//!
//! All take turns in the same network, several times over. The forwarder has a CPU of its own; client and servers have
//! the others. `bench/README.md` says what the figures show.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use sluice_bench::figures::apps::{self, Forwarder};
use sluice_bench::figures::{self, Machine, Rounds};
use sluice_bench::lab::others::{self, Dnat, Forwarding, Proxy};
use sluice_bench::lab::site::{self, Gateway, Method, VIP, server_address};
use sluice_bench::lab::wrk::{self, Distribution};
use sluice_bench::lab::{self, Netns, Site, SiteOptions};

const PORT: u16 = 80;

/// Measure connections, requests and latencies through the director and through others.
#[derive(Debug, Parser)]
#[command(name = "bench-apps")]
struct Arguments {
    /// Where the result goes, as JSON
    #[arg(long, default_value = "target/bench/apps.json")]
    output: PathBuf,
    /// How often each forwarder is measured; the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Seconds of one measurement; each forwarder has two in a round
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Connections of the client at a time
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    connections: u32,
    /// The CPU that forwards
    #[arg(long, default_value_t = 1)]
    worker_cpu: usize,
    /// The CPUs of client, routers and servers
    #[arg(long, default_value = "0", value_delimiter = ',')]
    client_cpus: Vec<usize>,
    /// Measure only this one (can be given several times)
    #[arg(long = "forwarder", value_enum)]
    forwarders: Vec<Forwarder>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match measure(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-apps: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> Result<()> {
    if arguments.client_cpus.contains(&arguments.worker_cpu) {
        bail!(
            "the forwarder needs a CPU of its own: --worker-cpu {} is among --client-cpus",
            arguments.worker_cpu
        );
    }
    let chosen =
        |forwarder: &Forwarder| arguments.forwarders.is_empty() || arguments.forwarders.contains(forwarder);
    lab::exit_cleanly_on_signals(|| eprintln!("bench-apps: interrupted"))?;
    let machine = Machine::this();
    println!("{machine}; forwarded on CPU {}, all else on {:?}", arguments.worker_cpu, arguments.client_cpus);
    println!(
        "{} rounds of {} s for each figure; wrk with {} connections\n",
        arguments.rounds, arguments.seconds, arguments.connections
    );
    // What is started from here is where this is.
    run_on(&arguments.client_cpus)?;
    let bench = Bench::new(arguments)?;
    let _nginx = bench.site.start_nginx()?;
    let mut rounds = Rounds::default();
    for round in 1..=arguments.rounds {
        for forwarder in Forwarder::ALL.into_iter().filter(chosen) {
            let (kept, new) = bench.through(forwarder).with_context(|| forwarder.title())?;
            println!(
                "round {round}: {:<18}{:>8.0} connections/s {:>8.0} requests/s",
                forwarder.title(),
                new.requests_per_second,
                kept.requests_per_second
            );
            apps::add(&mut rounds, forwarder, &kept, &new);
        }
    }
    println!("\n{}", apps::table(&rounds));
    let versions = [
        ("haproxy", others::version("haproxy", "-v")),
        ("nginx", others::version("nginx", "-v")),
        ("nftables", others::version("nft", "--version")),
    ];
    figures::write_json(&arguments.output, &apps::json(&rounds, &machine, &versions))?;
    println!("written to {}", arguments.output.display());
    Ok(())
}

struct Bench<'a> {
    site: Site,
    servers: Vec<Ipv4Addr>,
    arguments: &'a Arguments,
}

impl<'a> Bench<'a> {
    fn new(arguments: &'a Arguments) -> Result<Self> {
        let site = Site::new(SiteOptions { queues: 1, ..SiteOptions::default() })?;
        for netns in site.servers.iter().chain([&site.client, &site.director]) {
            // As many connections as there are ports, and room for those that wait to be accepted.
            netns.sysctl("net.ipv4.ip_local_port_range", "1024 65535")?;
            netns.sysctl("net.ipv4.tcp_tw_reuse", "1")?;
            netns.sysctl("net.core.somaxconn", "4096")?;
        }
        let cpus = &arguments.client_cpus;
        // What leaves the director's CPU is to be handled elsewhere.
        receive_on(&site.router, &["director", "lan", "client"], cpus)?;
        receive_on(&site.switch, &["director"], cpus)?;
        Ok(Self { site, servers: (1..=site::SERVERS).map(server_address).collect(), arguments })
    }

    /// Requests on kept connections, and with a connection each.
    fn through(&self, forwarder: Forwarder) -> Result<(Distribution, Distribution)> {
        let forwarding = Forwarding {
            netns: &self.site.director,
            dir: self.site.dir(),
            vip: VIP,
            port: PORT,
            servers: &self.servers,
        };
        let worker = [self.arguments.worker_cpu];
        self.site.set_gateway(match forwarder {
            Forwarder::SluiceNat | Forwarder::Nftables => Gateway::Director,
            _ => Gateway::Router,
        })?;
        match forwarder {
            Forwarder::Direct => self.load(self.servers[0]),
            Forwarder::SluiceNat => self.sluice(Method::Nat),
            Forwarder::SluiceFullnat => self.sluice(Method::FullNat),
            Forwarder::Nftables => {
                let _dnat = Dnat::start(forwarding)?;
                self.load_by_kernel()
            }
            Forwarder::Haproxy | Forwarder::NginxStream => {
                run_on(&worker)?;
                let proxy = match forwarder {
                    Forwarder::Haproxy => Proxy::haproxy(forwarding),
                    _ => Proxy::nginx_stream(forwarding),
                };
                run_on(&self.arguments.client_cpus)?;
                let _proxy = proxy?;
                self.load_by_kernel()
            }
        }
    }

    /// With the director's part of the kernel's work on the forwarder's CPU: by default it is where the sender is.
    fn load_by_kernel(&self) -> Result<(Distribution, Distribution)> {
        const INTERFACES: [&str; 2] = ["eth0", "eth1"];
        receive_on(&self.site.director, &INTERFACES, &[self.arguments.worker_cpu])?;
        let result = self.load(VIP);
        receive_on(&self.site.director, &INTERFACES, &[])?;
        result
    }

    fn sluice(&self, method: Method) -> Result<(Distribution, Distribution)> {
        let Arguments { worker_cpu, client_cpus, .. } = self.arguments;
        let config = format!(
            "[director]\ninterfaces = [\"eth0\", \"eth1\"]\nworkers = [{worker_cpu}]\n\
             connections_per_worker = 4_000_000\nlocal_addresses = [\"{}\", \"10.0.2.201\"]\n",
            site::LIP
        ) + &self.site.service("tcp", PORT, "rr", method);
        // Its worker goes to its own CPU, out of those that it is allowed.
        let both: Vec<usize> = client_cpus.iter().chain([worker_cpu]).copied().collect();
        run_on(&both)?;
        let director = self.site.start_director(&config);
        run_on(client_cpus)?;
        let director = director?;
        let result = self.load(VIP).with_context(|| format!("the director said:\n{}", director.log()))?;
        let (status, log) = director.stop()?;
        if !status.success() {
            bail!("the director ended with {status}; it said:\n{log}");
        }
        Ok(result)
    }

    fn load(&self, address: Ipv4Addr) -> Result<(Distribution, Distribution)> {
        let Arguments { seconds, connections, .. } = *self.arguments;
        let load = |new| {
            let url = format!("http://{address}:{PORT}/");
            let load =
                wrk::distribution(&self.site.client, self.site.dir(), &url, seconds, connections, new)?;
            if load.requests == 0 {
                bail!("no request was answered, {} failed", load.failed);
            }
            Ok(load)
        };
        Ok((load(false)?, load(true)?))
    }
}

/// Lets this thread, and what it starts, run on some CPUs only.
fn run_on(cpus: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        set.set(cpu).with_context(|| format!("there is no CPU {cpu}"))?;
    }
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("cannot run on CPUs {cpus:?}"))
}

/// Lets packets that come in by some interfaces be handled on some CPUs (receive packet steering); where the sender is
/// if none is given.
fn receive_on(netns: &Netns, interfaces: &[&str], cpus: &[usize]) -> Result<()> {
    let mask = steering_mask(cpus);
    for interface in interfaces {
        let script = format!("echo {mask} > /sys/class/net/{interface}/queues/rx-0/rps_cpus");
        lab::run(netns.command("sh").args(["-c", &script]))?;
    }
    Ok(())
}

/// A mask of CPUs as the kernel reads it: hexadecimal words of 32, the highest first.
fn steering_mask(cpus: &[usize]) -> String {
    let cpus: BTreeSet<usize> = cpus.iter().copied().collect();
    let words = cpus.last().map_or(1, |last| last / 32 + 1);
    let word = |number: usize| {
        let bits = cpus.iter().filter(|cpu| *cpu / 32 == number).map(|cpu| 1u32 << (cpu % 32));
        format!("{:08x}", bits.sum::<u32>())
    };
    (0..words).rev().map(word).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_as_the_kernel_reads_them() {
        assert_eq!(steering_mask(&[]), "00000000");
        assert_eq!(steering_mask(&[1]), "00000002");
        assert_eq!(steering_mask(&[0, 33, 33]), "00000002,00000001");
    }
}
