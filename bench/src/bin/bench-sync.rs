//! Measures session synchronisation: how far a peer is behind, what telling it costs forwarding, and how long it takes
//! to tell it everything.
//!
//! Two directors are workers on ports in memory, with the synchronisation of `sluice run` between them over loopback,
//! encrypted. Connections are FULLNAT's. `bench/README.md` says what the figures show.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Parser;
use core_affinity::CoreId;
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;
use sluice_bench::figures::{self, Machine, median, rounded};
use sluice_bench::pipeline::Pipeline;
use sluice_control::sync::{Plane, Settings, Sync, SyncStatus, make_key};
use sluice_dataplane::port::BURST;
use sluice_dataplane::service::Method;

/// New connections a second.
const RATE: f64 = 100_000.0;
/// The most that 99 of 100 changes may take until the peer's workers have them, in milliseconds.
const LAG_GOAL: f64 = 100.0;
/// The most that forwarding may lose, in percent.
const COST_GOAL: f64 = 5.0;
/// The most that a transfer of a million connections may take, in seconds.
const TRANSFER_GOAL: f64 = 3.0;
/// As long as anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks of a worker that had nothing, or of one who waits.
const PAUSE: Duration = Duration::from_micros(100);
/// Connections with packets while the cost to forwarding is measured.
const ESTABLISHED: u32 = 100_000;

/// Measure session synchronisation.
#[derive(Debug, Parser)]
#[command(name = "bench-sync")]
struct Arguments {
    /// Where the result goes, as JSON
    #[arg(long, default_value = "target/bench/sync.json")]
    output: PathBuf,
    /// Connections of the full transfer
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1_000..=15_000_000))]
    connections: u32,
    /// For how long 100 000 connections a second begin, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// How often forwarding is measured with and without synchronisation
    #[arg(long, default_value_t = 21, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// CPU time of each of these, in milliseconds
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(10..=60_000))]
    round_ms: u32,
    /// The CPU of the worker that forwards
    #[arg(long, default_value_t = 1)]
    worker_cpu: usize,
    /// The CPU of the other director's
    #[arg(long, default_value_t = 0)]
    peer_cpu: usize,
}

#[derive(Debug, Serialize)]
struct Measured {
    new_connections_per_second: f64,
    lag_p99_ms: f64,
    lag_overflowed: u64,
    forwarding_without_mpps: f64,
    forwarding_with_mpps: f64,
    /// Of the medians of rounds
    forwarding_cost_percent: f64,
    rounds_without_mpps: Vec<f64>,
    rounds_with_mpps: Vec<f64>,
    transferred: u32,
    transfer_s: f64,
    machine: Machine,
}

fn main() -> ExitCode {
    match measure(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench-sync: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> Result<bool> {
    let transfer_s = transfer(arguments)?;
    let whole = transfer_s <= TRANSFER_GOAL * f64::from(arguments.connections.max(1_000_000)) / 1e6;
    println!(
        "full transfer of {} connections: {transfer_s:.2} s; the goal of {TRANSFER_GOAL:.0} s for a million is {}",
        arguments.connections,
        verdict(whole)
    );
    let (rate, status) = lag(arguments)?;
    let lag_p99_ms = status.outgoing.milliseconds_p99;
    let behind = lag_p99_ms < LAG_GOAL && rate >= 0.99 * RATE && status.outgoing.overflowed == 0;
    println!(
        "sync lag at {rate:.0} new connections/s: p99 {lag_p99_ms:.1} ms, {} changes without room; the goal of \
         {LAG_GOAL:.0} ms at {RATE:.0}/s is {}",
        status.outgoing.overflowed,
        verdict(behind)
    );
    let (without, with) = cost(arguments)?;
    let middle = |values: &[f64]| median(values).unwrap_or(f64::NAN);
    let loss = (1.0 - middle(&with) / middle(&without)) * 100.0;
    println!(
        "forwarding with {RATE:.0} new connections/s: {:.3} Mpps without synchronisation, {:.3} with it, {loss:.1} % \
         less; the goal of {COST_GOAL:.0} % is {}",
        middle(&without),
        middle(&with),
        verdict(loss <= COST_GOAL)
    );
    let measured = Measured {
        new_connections_per_second: rate.round(),
        lag_p99_ms: rounded(lag_p99_ms),
        lag_overflowed: status.outgoing.overflowed,
        forwarding_without_mpps: rounded(middle(&without)),
        forwarding_with_mpps: rounded(middle(&with)),
        forwarding_cost_percent: rounded(loss),
        rounds_without_mpps: without.into_iter().map(rounded).collect(),
        rounds_with_mpps: with.into_iter().map(rounded).collect(),
        transferred: arguments.connections,
        transfer_s: rounded(transfer_s),
        machine: Machine::this(),
    };
    figures::write_json(&arguments.output, &measured)?;
    println!("written to {}", arguments.output.display());
    Ok(whole && behind && loss <= COST_GOAL)
}

fn verdict(reached: bool) -> &'static str {
    if reached { "reached" } else { "MISSED" }
}

/// Two ends that have a key.
struct Ends {
    first: SocketAddr,
    second: SocketAddr,
    dir: tempfile::TempDir,
}

impl Ends {
    fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        make_key(&dir.path().join("key"))?;
        // Free now, and of this process alone.
        let last = (std::process::id() % 200) as u8;
        let end = |which| {
            let listener = std::net::TcpListener::bind(SocketAddr::from(([127, 78, last, which], 0)))?;
            anyhow::Ok(listener.local_addr()?)
        };
        Ok(Ends { first: end(1)?, second: end(2)?, dir })
    }

    fn start(&self, listen: SocketAddr, peer: SocketAddr, plane: Plane) -> Result<Sync> {
        let key = Path::join(self.dir.path(), "key");
        Sync::start(Settings { listen, peer, key }, plane).context("cannot start to synchronise")
    }
}

/// A worker on a thread of its own.
struct Running {
    plane: Plane,
    connections: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// Lets it go on by itself.
    fn new(mut pipeline: Pipeline, cpu: usize) -> Result<Self> {
        let plane = plane(&pipeline);
        let (connections, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let thread = {
            let (connections, stop, clock) = (Arc::clone(&connections), Arc::clone(&stop), plane.clock);
            std::thread::Builder::new().name("worker-peer".into()).spawn(move || {
                let _ = core_affinity::set_for_current(CoreId { id: cpu });
                while !stop.load(Relaxed) {
                    let busy = pipeline.forward_at(clock.elapsed().as_nanos() as u64) > 0;
                    connections.store(pipeline.connections(), Relaxed);
                    if !busy {
                        std::thread::sleep(PAUSE);
                    }
                }
            })?
        };
        Ok(Running { plane, connections, stop, thread: Some(thread) })
    }

    fn wait_for(&self, connections: usize) -> Result<()> {
        wait_for("all connections at the peer", || self.connections.load(Relaxed) == connections)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn plane(pipeline: &Pipeline) -> Plane {
    let (published, exchanges) = pipeline.control();
    Plane { exchanges, published, clock: Instant::now() }
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        ensure!(Instant::now() < deadline, "{what} did not come");
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// A worker with connections and one with none are joined; returns the seconds until both have all.
fn transfer(arguments: &Arguments) -> Result<f64> {
    let room = arguments.connections as usize + BURST;
    let active = Running::new(Pipeline::new(Method::FullNat, arguments.connections), arguments.worker_cpu)?;
    let mut peer = Pipeline::empty(Method::FullNat, room);
    peer.discard_sent();
    let backup = Running::new(peer, arguments.peer_cpu)?;
    let ends = Ends::new()?;
    // The one that is told is there first, so that connecting to it takes no second try.
    let second = ends.start(ends.second, ends.first, backup.plane.clone())?;
    let started = Instant::now();
    let first = ends.start(ends.first, ends.second, active.plane.clone())?;
    backup.wait_for(arguments.connections as usize)?;
    wait_for("the end of the transfer", || {
        let (first, second) = (first.status(), second.status());
        first.outgoing.complete && first.outgoing.behind == 0 && second.incoming.complete
    })?;
    Ok(started.elapsed().as_secs_f64())
}

/// Begins connections by the clock; returns how many a second, and what is known of the peer at the end.
fn lag(arguments: &Arguments) -> Result<(f64, SyncStatus)> {
    let total = (f64::from(arguments.seconds) * RATE) as u32;
    let room = total as usize + BURST;
    let mut peer = Pipeline::empty(Method::FullNat, room);
    peer.discard_sent();
    let backup = Running::new(peer, arguments.peer_cpu)?;
    let mut pipeline = Pipeline::empty(Method::FullNat, room);
    pipeline.discard_sent();
    let plane = plane(&pipeline);
    let ends = Ends::new()?;
    let _second = ends.start(ends.second, ends.first, backup.plane.clone())?;
    let first = ends.start(ends.first, ends.second, plane.clone())?;
    let clock = plane.clock;
    let cpu = arguments.worker_cpu;
    let connected = AtomicBool::new(false);
    let rate = std::thread::scope(|scope| {
        let forwarding = scope.spawn(|| {
            let _ = core_affinity::set_for_current(CoreId { id: cpu });
            let mut begun: Option<Instant> = None;
            let mut made = 0;
            while made < total {
                let due = match begun {
                    Some(begun) => (begun.elapsed().as_secs_f64() * RATE) as u32,
                    None => 0,
                };
                if begun.is_none() && connected.load(Relaxed) {
                    begun = Some(Instant::now());
                }
                let count = due.min(total).saturating_sub(made).min(BURST as u32);
                pipeline.arrive_new(count);
                made += count;
                if pipeline.forward_at(clock.elapsed().as_nanos() as u64) == 0 {
                    std::thread::sleep(PAUSE);
                }
            }
            let rate = f64::from(total) / begun.map_or(f64::NAN, |begun| begun.elapsed().as_secs_f64());
            // The rest is told.
            while backup.connections.load(Relaxed) < total as usize && connected.load(Relaxed) {
                pipeline.forward_at(clock.elapsed().as_nanos() as u64);
                std::thread::sleep(PAUSE);
            }
            rate
        });
        let joined = wait_for("the connection", || first.status().outgoing.complete);
        connected.store(true, Relaxed);
        let came = backup.wait_for(total as usize);
        connected.store(false, Relaxed);
        let rate = forwarding.join().map_err(|_| anyhow!("the worker panicked"))?;
        joined.and(came).map(|()| rate)
    })?;
    Ok((rate, first.status()))
}

/// Millions of packets that a worker forwards in a second of its CPU time: of each round without synchronisation, and
/// with it.
fn cost(arguments: &Arguments) -> Result<(Vec<f64>, Vec<f64>)> {
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..arguments.rounds {
        without.push(forwarding(arguments, false)?);
        with.push(forwarding(arguments, true)?);
    }
    Ok((without, with))
}

fn forwarding(arguments: &Arguments, synchronised: bool) -> Result<f64> {
    let length = f64::from(arguments.round_ms) / 1000.0;
    let room = ESTABLISHED as usize + (length * RATE) as usize + 2 * BURST;
    let mut pipeline = Pipeline::with_room(Method::FullNat, ESTABLISHED, room);
    let plane = plane(&pipeline);
    let clock = plane.clock;
    let mut peer = Pipeline::empty(Method::FullNat, room);
    peer.discard_sent();
    let backup = Running::new(peer, arguments.peer_cpu)?;
    let ends = Ends::new()?;
    let second = ends.start(ends.second, ends.first, backup.plane.clone())?;
    let first = if synchronised { Some(ends.start(ends.first, ends.second, plane)?) } else { None };
    let stop = Arc::new(AtomicBool::new(false));
    let cpu = arguments.worker_cpu;
    let measured = std::thread::spawn(move || {
        if !core_affinity::set_for_current(CoreId { id: cpu }) {
            bail!("cannot run on CPU {cpu}");
        }
        // Everything is told before the time counts.
        let deadline = Instant::now() + PATIENCE;
        while first.as_ref().is_some_and(|first| !first.status().outgoing.complete) {
            ensure!(Instant::now() < deadline, "the transfer did not end");
            if pipeline.forward_at(clock.elapsed().as_nanos() as u64) == 0 {
                std::thread::sleep(PAUSE);
            }
        }
        let cpu_time = || anyhow::Ok(Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?));
        let (mut packets, mut made, mut spent) = (0, 0, Duration::ZERO);
        while spent.as_secs_f64() < length {
            let due = (spent.as_secs_f64() * RATE) as u32;
            // As many as fit beside a burst.
            if due >= made + BURST as u32 {
                pipeline.arrive_new(BURST as u32);
                made += BURST as u32;
            } else {
                pipeline.arrive();
            }
            let (now, before) = (clock.elapsed().as_nanos() as u64, cpu_time()?);
            packets += pipeline.forward_at(now);
            spent += cpu_time()? - before;
        }
        stop.store(true, Relaxed);
        if let Some(first) = &first {
            let overflowed = first.status().outgoing.overflowed;
            ensure!(overflowed == 0, "{overflowed} changes had no room, so that fewer were told");
        }
        Ok(packets as f64 / spent.as_secs_f64() / 1e6)
    });
    let rate = measured.join().map_err(|_| anyhow!("the worker panicked"))??;
    drop(second);
    Ok(rate)
}
