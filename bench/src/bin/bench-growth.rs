//! Measures what growing costs: memory for each connection, and the longest time for which a worker does not look at
//! its port.
//!
//! A worker on a port in memory gets ten million FULLNAT connections while its 10 000 other services are replaced again
//! and again, and at the end all connections are listed. Between two polls a worker does nothing else, so the longest
//! gap is the longest poll. `bench/README.md` says what the figures show.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use clap::Parser;
use core_affinity::CoreId;
use crossbeam::channel::bounded;
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;
use sluice_bench::figures::{self, Machine, rounded};
use sluice_bench::pipeline::Pipeline;
use sluice_dataplane::port::BURST;
use sluice_dataplane::service::{Method, ServiceTable};
use sluice_dataplane::worker::Command;

/// The most bytes that a connection is to take.
const MEMORY_GOAL: f64 = 160.0;
/// The longest gap between two polls that is to be, in microseconds.
const GAP_GOAL: f64 = 500.0;
/// Slices of a listing that may wait for the reader, as in the director.
const LISTING_SLICES: usize = 8;
/// As long as nothing of the listing comes.
const LISTING_TIMEOUT: Duration = Duration::from_secs(60);

/// Measure memory for each connection and the longest gap between two polls.
#[derive(Debug, Parser)]
#[command(name = "bench-growth")]
struct Arguments {
    /// Where the result goes, as JSON
    #[arg(long, default_value = "target/bench/growth.json")]
    output: PathBuf,
    /// FULLNAT connections to grow to
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u32).range(1_000..=15_000_000))]
    connections: u32,
    /// Services beside that of the connections
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    services: u32,
    /// How often the services are replaced while the connections grow
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
    swaps: u32,
    /// The CPU of the worker
    #[arg(long, default_value_t = 1)]
    worker_cpu: usize,
}

/// The longest poll of a kind, in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Longest {
    /// By the time that the thread ran, without what the kernel gave to others meanwhile
    cpu_us: f64,
    /// By the clock
    wall_us: f64,
}

impl Longest {
    fn with(self, other: Self) -> Self {
        Self { cpu_us: self.cpu_us.max(other.cpu_us), wall_us: self.wall_us.max(other.wall_us) }
    }
}

/// The longest polls.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Gaps {
    /// With nothing but new connections
    growing: Longest,
    /// That took up a new service table
    swapping: Longest,
    /// While a listing was under way
    listing: Longest,
}

impl Gaps {
    fn all(self) -> Longest {
        self.growing.with(self.swapping).with(self.listing)
    }
}

#[derive(Debug, Serialize)]
struct Measured {
    connections: usize,
    memory_per_connection_bytes: f64,
    services: u32,
    swaps: u32,
    longest_gap_us: f64,
    longest_gap_wall_us: f64,
    gaps: Gaps,
    machine: Machine,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match measure(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-growth: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> Result<()> {
    let memory = memory(arguments)?;
    let (connections, gaps) = gaps(arguments)?;
    let Longest { cpu_us, wall_us } = gaps.all();
    let verdict = |reached| if reached { "reached" } else { "MISSED" };
    println!(
        "memory for each of {} fullnat connections: {memory:.0} bytes; the goal of {MEMORY_GOAL:.0} is {}",
        arguments.connections,
        verdict(memory <= MEMORY_GOAL)
    );
    println!(
        "longest gap between two polls: {cpu_us:.0} µs (growing {:.0}, {} services swapped {:.0}, listing {:.0}; by \
         the clock {wall_us:.0}); the goal of {GAP_GOAL:.0} is {}",
        gaps.growing.cpu_us,
        arguments.services,
        gaps.swapping.cpu_us,
        gaps.listing.cpu_us,
        verdict(cpu_us <= GAP_GOAL)
    );
    let measured = Measured {
        connections,
        memory_per_connection_bytes: rounded(memory),
        services: arguments.services,
        swaps: arguments.swaps,
        longest_gap_us: rounded(cpu_us),
        longest_gap_wall_us: rounded(wall_us),
        gaps,
        machine: Machine::this(),
    };
    figures::write_json(&arguments.output, &measured)?;
    println!("written to {}", arguments.output.display());
    Ok(())
}

/// Resident bytes for each connection: all that a worker with room for exactly so many takes when they are there.
fn memory(arguments: &Arguments) -> Result<f64> {
    let before = resident()?;
    let mut pipeline = Pipeline::empty(Method::FullNat, arguments.connections as usize);
    pipeline.discard_sent();
    let mut left = arguments.connections;
    while left > 0 {
        let count = left.min(BURST as u32);
        pipeline.arrive_new(count);
        pipeline.forward();
        left -= count;
    }
    if pipeline.connections() != arguments.connections as usize {
        bail!("the worker has {} connections instead of {}", pipeline.connections(), arguments.connections);
    }
    Ok(resident()?.saturating_sub(before) as f64 / f64::from(arguments.connections))
}

/// `VmRSS`, in bytes.
fn resident() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS in it")?;
    let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kilobytes * 1024)
}

/// Lets the worker grow on a CPU of its own; this thread is what control is to it.
fn gaps(arguments: &Arguments) -> Result<(usize, Gaps)> {
    let mut pipeline = Pipeline::empty(Method::FullNat, arguments.connections as usize + BURST);
    pipeline.discard_sent();
    let (published, exchanges) = pipeline.control();
    let tables: Vec<ServiceTable> =
        (0..arguments.swaps).map(|n| pipeline.table(2 + u64::from(n), arguments.services)).collect();
    // The thread says when a table is due, and then when the listing is.
    let (want, wanted) = bounded(0);
    let (sender, slices) = bounded(LISTING_SLICES);
    let (list, listed) = bounded(0);
    let thread: JoinHandle<Result<(usize, Gaps)>> = {
        let (connections, swaps, cpu) = (arguments.connections, arguments.swaps, arguments.worker_cpu);
        std::thread::Builder::new().name("worker-0".into()).spawn(move || {
            if !core_affinity::set_for_current(CoreId { id: cpu }) {
                bail!("cannot run on CPU {cpu}");
            }
            let mut gaps = Gaps::default();
            let mut made = 0;
            for swap in 0..swaps {
                let until = (u64::from(connections) * u64::from(swap + 1) / u64::from(swaps)) as u32;
                // In the middle of each part: connections come before, while and after.
                let middle = made + (until - made) / 2;
                let mut asked = false;
                while made < until {
                    if !asked && made >= middle {
                        asked = want.send(()).is_ok();
                    }
                    let count = (until - made).min(BURST as u32);
                    pipeline.arrive_new(count);
                    made += count;
                    let generation = pipeline.generation();
                    let took = timed(&mut pipeline)?;
                    let kind = if pipeline.generation() == generation {
                        &mut gaps.growing
                    } else {
                        &mut gaps.swapping
                    };
                    *kind = kind.with(took);
                }
            }
            // The last may have come late.
            while pipeline.generation() < 1 + u64::from(swaps) {
                gaps.swapping = gaps.swapping.with(timed(&mut pipeline)?);
            }
            drop(want);
            list.send(()).map_err(|_| anyhow!("nobody lists"))?;
            // Hung up when the reader has all.
            while list.try_send(()).is_err_and(|error| error.is_full()) {
                pipeline.arrive();
                gaps.listing = gaps.listing.with(timed(&mut pipeline)?);
            }
            Ok((pipeline.connections(), gaps))
        })?
    };
    for table in tables {
        if wanted.recv().is_err() {
            break;
        }
        // As control does: this frees former tables that the worker has let go of.
        published.services.store(Arc::new(table));
    }
    let mut count = 0;
    if listed.recv().is_ok() {
        let pushed = exchanges[0].commands.push(Command::List(Arc::default(), sender));
        pushed.map_err(|_| anyhow!("the worker takes no commands"))?;
        loop {
            match slices.recv_timeout(LISTING_TIMEOUT) {
                Ok(slice) => count += slice.len(),
                Err(error) if error.is_disconnected() => break,
                Err(_) => bail!("the listing stopped after {count} connections"),
            }
        }
    }
    drop(listed);
    let (connections, gaps) = thread.join().map_err(|_| anyhow!("the worker panicked"))??;
    if (connections, count) != (arguments.connections as usize, connections) {
        bail!("{connections} connections of {}, {count} of them listed", arguments.connections);
    }
    Ok((connections, gaps))
}

fn timed(pipeline: &mut Pipeline) -> Result<Longest> {
    let now = || anyhow::Ok(Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?));
    let (before, started) = (now()?, Instant::now());
    pipeline.forward();
    let wall_us = started.elapsed().as_secs_f64() * 1e6;
    Ok(Longest { cpu_us: (now()? - before).as_secs_f64() * 1e6, wall_us })
}
