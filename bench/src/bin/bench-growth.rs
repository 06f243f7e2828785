//! Measures what growing costs: memory for each connection, and the longest time for which a worker does not look at
//! its port.
//!
//! A worker on a port in memory gets ten million FULLNAT connections while its 10 000 other services are replaced again
//! and again, 100 of mh and one with 10 000 servers among them, and at the end all connections are listed. Another
//! worker has a single service with 10 000 servers, of each scheduler in turn, which come and go while connections
//! begin. Between two polls a worker does nothing else, so the longest gap is the longest poll.
//!
//! What the kernel does meanwhile is not the worker's. Time that it gives to others does not count as the thread's, but
//! interrupts do. So all is done in several rounds, poll by poll the same, and a poll's time is that of the round in
//! which it was the shortest: what the worker itself takes its time for comes again in every round.
//! `bench/README.md` says what the figures show.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use clap::Parser;
use core_affinity::CoreId;
use crossbeam::channel::bounded;
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;
use sluice_bench::figures::{self, Machine, rounded};
use sluice_bench::pipeline::Pipeline;
use sluice_bench::pipeline::crowd::{Task, longest_polls};
use sluice_bench::pipeline::rules::Rules;
use sluice_dataplane::port::BURST;
use sluice_dataplane::service::{Method, SchedulerKind, ServiceTable};
use sluice_dataplane::worker::{Slice, Slices};

/// The most bytes that a connection is to take.
const MEMORY_GOAL: f64 = 160.0;
/// The longest gap between two polls that is to be, in microseconds.
const GAP_GOAL: f64 = 500.0;
/// Slices of a listing that may wait for the reader.
const LISTING_SLICES: usize = 32;
/// Connections of a slice, if all are listed.
const LISTING_SLICE: usize = 64;
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
    /// Servers of the service that has many
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=20_000))]
    servers: u32,
    /// How often the services are replaced while the connections grow
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
    swaps: u32,
    /// How often all that is done, to tell the worker's time from the kernel's
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
    /// The CPU of the worker
    #[arg(long, default_value_t = 1)]
    worker_cpu: usize,
}

/// What a poll is counted as.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nothing but new connections
    Growing,
    /// While a new service table is taken up
    Swapping,
    /// While a listing is under way
    Listing,
}

/// How long a poll took, in microseconds.
#[derive(Clone, Copy)]
struct Poll {
    kind: Kind,
    /// By the time that the thread ran
    cpu_us: f32,
    /// By the clock
    wall_us: f32,
}

/// The longest poll of a kind, in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Longest {
    /// In every round at least, by the time that the thread ran: this is judged
    us: f32,
    /// In one round or another, interrupts included
    cpu_us: f32,
    /// In one round or another, by the clock
    wall_us: f32,
}

impl Longest {
    fn with(self, other: Self) -> Self {
        Self {
            us: self.us.max(other.us),
            cpu_us: self.cpu_us.max(other.cpu_us),
            wall_us: self.wall_us.max(other.wall_us),
        }
    }

    /// Of the polls of a kind.
    fn of(rounds: &[Vec<Poll>], kind: Kind) -> Self {
        let Some(first) = rounds.first() else { return Self::default() };
        let polls = (0..first.len()).filter(|place| first[*place].kind == kind).map(|place| {
            let of_rounds = rounds.iter().map(|round| round[place]);
            Self {
                us: of_rounds.clone().map(|poll| poll.cpu_us).fold(f32::INFINITY, f32::min),
                cpu_us: of_rounds.clone().map(|poll| poll.cpu_us).fold(0.0, f32::max),
                wall_us: of_rounds.map(|poll| poll.wall_us).fold(0.0, f32::max),
            }
        });
        polls.fold(Self::default(), Self::with)
    }
}

/// The longest polls.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Gaps {
    /// With nothing but new connections
    growing: Longest,
    /// While a new service table was taken up
    swapping: Longest,
    /// While a listing was under way
    listing: Longest,
}

impl Gaps {
    fn all(self) -> Longest {
        self.growing.with(self.swapping).with(self.listing)
    }
}

/// The longest polls with a service of many servers, in microseconds.
#[derive(Clone, Debug, Serialize)]
struct Crowd {
    scheduler: &'static str,
    /// While the service or changes of it were taken up, and connections began
    swapping_us: f32,
    /// While connections began
    opening_us: f32,
}

impl Crowd {
    fn of(kind: SchedulerKind, arguments: &Arguments) -> Self {
        let longest = longest_polls(kind, arguments.servers, arguments.rounds);
        let of = |is_opening: bool| {
            let tasks =
                Task::ALL.iter().zip(longest).filter(|(task, _)| (**task == Task::Opening) == is_opening);
            tasks.map(|(_, longest)| longest).fold(0.0, f32::max)
        };
        Crowd { scheduler: kind.name(), swapping_us: of(false), opening_us: of(true) }
    }

    fn longest(&self) -> f32 {
        self.swapping_us.max(self.opening_us)
    }
}

#[derive(Debug, Serialize)]
struct Measured {
    connections: u32,
    memory_per_connection_bytes: f64,
    services: u32,
    servers: u32,
    swaps: u32,
    rounds: u32,
    longest_gap_us: f64,
    longest_gap_wall_us: f64,
    gaps: Gaps,
    crowds: Vec<Crowd>,
    machine: Machine,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match measure(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench-growth: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether all goals were reached.
fn measure(arguments: &Arguments) -> Result<bool> {
    let memory = memory(arguments)?;
    let polls = (0..arguments.rounds).map(|_| round(arguments)).collect::<Result<Vec<_>>>()?;
    if polls.iter().any(|round| round.len() != polls[0].len()) {
        bail!("the rounds were not the same");
    }
    let gaps = Gaps {
        growing: Longest::of(&polls, Kind::Growing),
        swapping: Longest::of(&polls, Kind::Swapping),
        listing: Longest::of(&polls, Kind::Listing),
    };
    let crowds: Vec<_> = SchedulerKind::ALL.into_iter().map(|kind| Crowd::of(kind, arguments)).collect();
    let busiest = crowds.iter().max_by(|one, other| one.longest().total_cmp(&other.longest()));
    let longest = gaps.all();
    let longest_us = busiest.map_or(0.0, Crowd::longest).max(longest.us);
    let reached = [memory <= MEMORY_GOAL, f64::from(longest_us) <= GAP_GOAL];
    let verdict = |place: usize| if reached[place] { "reached" } else { "MISSED" };
    println!(
        "memory for each of {} fullnat connections, at its peak: {memory:.0} bytes; the goal of {MEMORY_GOAL:.0} is {}",
        arguments.connections,
        verdict(0)
    );
    println!(
        "longest gap between two polls: {longest_us:.0} µs (growing {:.0}, {} services swapped {:.0}, listing {:.0}, \
         with {} servers in a service {:.0}); the goal of {GAP_GOAL:.0} is {}",
        gaps.growing.us,
        arguments.services,
        gaps.swapping.us,
        gaps.listing.us,
        arguments.servers,
        busiest.map_or(0.0, Crowd::longest),
        verdict(1)
    );
    for Crowd { scheduler, swapping_us, opening_us } in &crowds {
        println!(
            "  {scheduler:>5}: {swapping_us:.0} µs while servers came and went, {opening_us:.0} while none did"
        );
    }
    println!(
        "in one of {} rounds or another, with what the kernel did: {:.0} µs of the thread's time, {:.0} by the clock",
        arguments.rounds, longest.cpu_us, longest.wall_us
    );
    let measured = Measured {
        connections: arguments.connections,
        memory_per_connection_bytes: rounded(memory),
        services: arguments.services,
        servers: arguments.servers,
        swaps: arguments.swaps,
        rounds: arguments.rounds,
        longest_gap_us: rounded(longest_us.into()),
        longest_gap_wall_us: rounded(longest.wall_us.into()),
        gaps,
        crowds,
        machine: Machine::this(),
    };
    figures::write_json(&arguments.output, &measured)?;
    println!("written to {}", arguments.output.display());
    Ok(reached == [true; 2])
}

/// Resident bytes for each connection, at the peak: all that a worker with room for exactly so many takes from its
/// start until they are there.
fn memory(arguments: &Arguments) -> Result<f64> {
    // From here on, the peak is that since now (proc_pid_clear_refs(5)).
    std::fs::write("/proc/self/clear_refs", "5").context("cannot write /proc/self/clear_refs")?;
    let before = resident("VmRSS:")?;
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
    Ok(resident("VmHWM:")?.saturating_sub(before) as f64 / f64::from(arguments.connections))
}

/// A number of the process's status, in bytes.
fn resident(name: &str) -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .with_context(|| format!("no {name} in it"))?;
    let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kilobytes * 1024)
}

/// Lets the worker grow on a CPU of its own; this thread is what control is to it. Returns how long its polls took.
fn round(arguments: &Arguments) -> Result<Vec<Poll>> {
    let mut pipeline = Pipeline::empty(Method::FullNat, arguments.connections as usize + BURST);
    pipeline.discard_sent();
    let (published, exchanges) = pipeline.control();
    let crowd = Rules::new(Method::FullNat, arguments.servers);
    let tables: Vec<ServiceTable> =
        (0..arguments.swaps).map(|n| pipeline.table(2 + u64::from(n), arguments.services, &crowd)).collect();
    // The thread says when a table is due, and waits until it is there: always before the same poll.
    let (want, wanted) = bounded(0);
    let (store, stored) = bounded(0);
    let reader = Arc::new(Reader::default());
    let thread: JoinHandle<Result<Vec<Poll>>> = {
        let (connections, swaps, cpu) = (arguments.connections, arguments.swaps, arguments.worker_cpu);
        let reader = Arc::clone(&reader);
        thread::Builder::new().name("worker-0".into()).spawn(move || {
            if !core_affinity::set_for_current(CoreId { id: cpu }) {
                bail!("cannot run on CPU {cpu}");
            }
            let slices = (connections as usize).div_ceil(LISTING_SLICE);
            let mut polls = Vec::with_capacity((connections as usize).div_ceil(BURST) + slices + 1000);
            let mut made = 0;
            let mut generation = 1;
            for swap in 0..swaps {
                let until = (u64::from(connections) * u64::from(swap + 1) / u64::from(swaps)) as u32;
                // In the middle of each part: connections come before, while and after.
                let middle = made + (until - made) / 2;
                while made < until {
                    if generation < 2 + u64::from(swap) && made >= middle {
                        want.send(())?;
                        stored.recv()?;
                        generation += 1;
                    }
                    let count = (until - made).min(BURST as u32);
                    pipeline.arrive_new(count);
                    made += count;
                    let swapping = pipeline.generation() < generation;
                    polls.push(timed(&mut pipeline, if swapping { Kind::Swapping } else { Kind::Growing })?);
                }
            }
            while pipeline.generation() < generation {
                polls.push(timed(&mut pipeline, Kind::Swapping)?);
            }
            if pipeline.connections() != connections as usize {
                bail!("the worker has {} connections instead of {connections}", pipeline.connections());
            }
            want.send(())?;
            stored.recv()?;
            for slice in 0..slices {
                // With room on a page, each poll is at the same connections in every round.
                while slice - reader.taken.load(Relaxed) >= LISTING_SLICES && !reader.over.load(Relaxed) {
                    thread::yield_now();
                }
                pipeline.arrive();
                polls.push(timed(&mut pipeline, Kind::Listing)?);
            }
            while !reader.over.load(Relaxed) {
                pipeline.forward();
            }
            Ok(polls)
        })?
    };
    for table in tables {
        if wanted.recv().is_err() {
            break;
        }
        // As control does: this frees former tables that the worker has let go of.
        published.services.store(Arc::new(table));
        store.send(())?;
    }
    let mut listed = Ok(arguments.connections as usize);
    if wanted.recv().is_ok() {
        let listing = exchanges[0].list(Arc::default(), LISTING_SLICES);
        store.send(())?;
        listed = listing.context("the worker takes no commands").and_then(|slices| reader.read(slices));
        reader.over.store(true, Relaxed);
    }
    drop((wanted, store));
    let polls = thread.join().map_err(|_| anyhow!("the worker panicked"))??;
    let listed = listed?;
    if listed != arguments.connections as usize {
        bail!("{listed} connections of {} were listed", arguments.connections);
    }
    Ok(polls)
}

/// Who reads a listing.
#[derive(Default)]
struct Reader {
    /// Slices that were read
    taken: AtomicUsize,
    /// Nothing more is read
    over: AtomicBool,
}

impl Reader {
    /// Returns how many connections there were.
    fn read(&self, mut slices: Slices) -> Result<usize> {
        let mut count = 0;
        let mut last = Instant::now();
        loop {
            match slices.next_slice() {
                Slice::Of(slice) => {
                    count += slice.len();
                    self.taken.fetch_add(1, Relaxed);
                    last = Instant::now();
                }
                Slice::NotYet if last.elapsed() > LISTING_TIMEOUT => {
                    bail!("the listing stopped after {count} connections")
                }
                Slice::NotYet => thread::sleep(Duration::from_micros(50)),
                Slice::End => return Ok(count),
            }
        }
    }
}

fn timed(pipeline: &mut Pipeline, kind: Kind) -> Result<Poll> {
    let now = || anyhow::Ok(Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?));
    let (before, started) = (now()?, Instant::now());
    pipeline.forward();
    let wall_us = started.elapsed().as_secs_f32() * 1e6;
    Ok(Poll { kind, cpu_us: (now()? - before).as_secs_f32() * 1e6, wall_us })
}
