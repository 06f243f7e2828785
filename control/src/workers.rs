//! Spawning and pinning workers, and what the control thread shares with them.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded};
use sluice_dataplane::capture::{CaptureFilter, CaptureReader};
use sluice_dataplane::conn::{ConnectionFilter, ConnectionRecord, Tuple};
use sluice_dataplane::offload::{Board, Share};
use sluice_dataplane::port::afxdp::{AfXdpPort, Left, Offered, OpenError};
use sluice_dataplane::stats::WorkerCounters;
use sluice_dataplane::steer::Mode;
use sluice_dataplane::trace::Question;
use sluice_dataplane::worker::{Command, Event, Exchange, Published, Settings, Slice, Slices, Worker};
use thiserror::Error;

use crate::sync;

use crate::config::Idle;

/// How long an idle worker sleeps at most before it looks for new snapshots.
const SLEEP: Duration = Duration::from_millis(2);

/// How long a worker without interfaces sleeps.
const CLOSED_SLEEP: Duration = Duration::from_micros(100);

/// Slices of a listing that may wait at each worker for the reader.
const LISTING_SLICES: usize = 32;

/// How long the reader of a listing sleeps when there is nothing to be read:
/// workers do not wake it, as that takes a system call.
const LISTING_SLEEP: Duration = Duration::from_micros(500);

/// Why workers could not be started.
#[derive(Debug, Error)]
pub enum StartError {
    /// A socket could not be opened
    #[error(transparent)]
    Port(#[from] OpenError),
    /// There is no such CPU
    #[error("workers: CPU {0} is not there or not allowed (allowed are {1})")]
    NoCpu(usize, String),
    /// The system refused
    #[error("{0}: {1}")]
    System(&'static str, io::Error),
}

/// What workers need to have connections carried in the kernel.
#[derive(Clone, Debug)]
pub struct Carry {
    /// What they have in common with the program
    pub board: Arc<Board>,
    /// Connections that are carried at most, over all workers
    pub connections: u32,
    /// Packets after which a connection is carried
    pub after: u8,
    /// Nanoseconds after which a worker without a sign of life is taken to be dead
    pub stale: u64,
}

/// How workers are made.
#[derive(Clone, Debug)]
pub struct Setup<'a> {
    /// The CPU of each
    pub cpus: &'a [usize],
    /// Connections of each at most
    pub connections: usize,
    /// What they do when there is nothing to do
    pub idle: Idle,
    /// What they need if connections are to be carried in the kernel
    pub carry: Option<Carry>,
}

/// When a worker's sockets are opened.
#[derive(Clone, Copy, Debug)]
pub enum Sockets<'a> {
    /// At once
    Now,
    /// By [`Workers::reopen`]: another process has the queues. By interface,
    /// whether it shares frames with the driver there, as this one will.
    Later(&'a [bool]),
}

/// The running workers.
pub struct Workers {
    threads: Vec<JoinHandle<()>>,
    exchanges: Arc<[Exchange]>,
    counters: Vec<Arc<WorkerCounters>>,
    published: Arc<Published>,
    stop: Arc<AtomicBool>,
    ports: Vec<PortStatus>,
    clock: Instant,
}

/// What is known of a worker's queue on an interface since it was opened.
#[derive(Clone, Debug)]
pub struct PortStatus {
    /// Number of the worker
    pub worker: usize,
    /// The interface
    pub interface: String,
    /// Whether frames are shared with the driver
    pub zero_copy: bool,
    /// Why punted frames appear on a TAP rather than on the interface
    pub punt_fallback: Option<String>,
}

impl Workers {
    /// Opens a port for each CPU of the setup and starts a worker pinned to it. `interfaces`
    /// have the steering program attached, in the mode given; `mtu` is the
    /// largest of theirs.
    pub fn start(
        interfaces: &[(String, Mode)],
        mtu: usize,
        sockets: Sockets,
        Setup { cpus, connections, idle, carry }: Setup,
        published: Arc<Published>,
    ) -> Result<Self, StartError> {
        let allowed = core_affinity::get_core_ids().unwrap_or_default();
        let mut cores = Vec::new();
        for cpu in cpus {
            let core = allowed.iter().find(|core| core.id == *cpu).ok_or_else(|| {
                let ids: Vec<_> = allowed.iter().map(|core| core.id.to_string()).collect();
                StartError::NoCpu(*cpu, ids.join(", "))
            })?;
            cores.push(*core);
        }
        // All ports before any thread, so that an error leaves nothing behind.
        let mut ports = Vec::new();
        for queue in 0..cpus.len() {
            ports.push(match sockets {
                Sockets::Now => AfXdpPort::open(interfaces, queue, mtu)?,
                Sockets::Later(_) => AfXdpPort::closed(interfaces, queue, mtu)?,
            });
        }
        let exchanges = Exchange::of_all(cpus.len(), connections, random_seed()?);
        let mut workers = Workers {
            threads: Vec::new(),
            exchanges: Arc::clone(&exchanges),
            counters: Vec::new(),
            published: Arc::clone(&published),
            stop: Arc::new(AtomicBool::new(false)),
            ports: Vec::new(),
            clock: Instant::now(),
        };
        let clock = workers.clock;
        let share = match carry {
            Some(Carry { board, connections, after, stale }) => {
                board.set_stale(stale);
                let connections = connections as usize / cpus.len().max(1);
                Some(Share { board, connections, after, clock: since_boot(clock)? })
            }
            None => None,
        };
        for (number, (port, core)) in ports.into_iter().zip(cores).enumerate() {
            for (index, (interface, _)) in interfaces.iter().enumerate() {
                workers.ports.push(PortStatus {
                    worker: number,
                    interface: interface.clone(),
                    zero_copy: match sockets {
                        Sockets::Now => port.zero_copy(index),
                        Sockets::Later(zero_copy) => zero_copy.get(index).copied().unwrap_or(false),
                    },
                    punt_fallback: port.punt_fallback(index).map(str::to_owned),
                });
            }
            let settings =
                Settings { worker: number, workers: cpus.len(), connections, seed: random_seed()? };
            let counters = Arc::new(WorkerCounters::default());
            workers.counters.push(Arc::clone(&counters));
            let (published, exchanges) = (Arc::clone(&published), Arc::clone(&exchanges));
            let stop = Arc::clone(&workers.stop);
            let share = share.clone();
            let run = move || {
                if !core_affinity::set_for_current(core) {
                    tracing::warn!(worker = number, cpu = core.id, "could not be pinned to its CPU");
                }
                let now = || clock.elapsed().as_nanos() as u64;
                let mut worker = Worker::new(settings, port, published, exchanges, counters, now());
                if let Some(share) = share {
                    worker.carry(share);
                }
                while !stop.load(Ordering::Relaxed) {
                    if worker.poll(now()) == 0 {
                        match idle {
                            // The worker of another process may need the CPU.
                            _ if worker.is_closed() => thread::sleep(CLOSED_SLEEP),
                            Idle::Spin => worker.tidy(),
                            Idle::Sleep => worker.wait(SLEEP),
                        }
                    }
                }
            };
            let thread = thread::Builder::new().name(format!("worker-{number}")).spawn(run);
            workers.threads.push(thread.map_err(|error| StartError::System("starting a worker", error))?);
        }
        Ok(workers)
    }

    /// Counters of each worker.
    pub fn counters(&self) -> &[Arc<WorkerCounters>] {
        &self.counters
    }

    /// What is known of each worker's sockets.
    pub fn ports(&self) -> &[PortStatus] {
        &self.ports
    }

    /// The oldest generation of the service table that a worker goes by.
    pub fn adopted_generation(&self) -> u64 {
        self.counters.iter().map(|counters| counters.generation.get()).min().unwrap_or(0)
    }

    /// What session synchronisation works on.
    pub fn plane(&self) -> sync::Plane {
        let (exchanges, published) = (Arc::clone(&self.exchanges), Arc::clone(&self.published));
        sync::Plane { exchanges, published, clock: self.clock }
    }

    /// The next event of any worker.
    pub fn next_event(&self) -> Option<Event> {
        self.exchanges.iter().find_map(|exchange| exchange.events.pop())
    }

    /// What lists connections, on any thread.
    pub fn lister(&self) -> Lister {
        Lister { exchanges: Arc::clone(&self.exchanges) }
    }

    /// Has every worker copy packets that match, for a director with so many
    /// interfaces. `None` if one of them copies for too many already.
    pub fn capture(
        &self,
        filter: &Arc<CaptureFilter>,
        snap: usize,
        interfaces: usize,
    ) -> Option<Vec<CaptureReader>> {
        self.exchanges.iter().map(|exchange| exchange.capture(Arc::clone(filter), snap, interfaces)).collect()
    }

    /// Asks every worker what would become of a packet that comes by the interface
    /// of this number; `None` for one that has too many other commands to obey.
    pub fn ask(&self, tuple: Tuple, interface: usize, mark: Option<u32>) -> Vec<Option<Arc<Question>>> {
        let ask = |exchange: &Exchange| {
            let question = Question::new(tuple, interface, mark);
            exchange.ask(&question).then_some(question)
        };
        self.exchanges.iter().map(ask).collect()
    }

    /// The clock that workers go by: nanoseconds since this.
    pub fn clock(&self) -> Instant {
        self.clock
    }

    /// Asks every worker to open its interfaces anew; each answers once.
    pub fn reopen(&self) -> Receiver<Result<(), String>> {
        let (answer, results) = bounded(self.exchanges.len());
        for exchange in self.exchanges.iter() {
            let _ = exchange.commands.push(Command::Reopen(answer.clone()));
        }
        results
    }

    /// Has every worker close its interfaces; each answers once, when listeners
    /// were told of all that happened until then.
    pub fn close(&self) -> Vec<Receiver<()>> {
        self.command(Command::Close)
    }

    /// Asks every worker for what another process needs to go on with its
    /// interfaces.
    pub fn offer(&self) -> Vec<Receiver<Option<Offered>>> {
        self.command(Command::Offer)
    }

    /// Has every worker leave its interfaces to another process; each answers when
    /// listeners were told of all that happened until then.
    pub fn lend(&self) -> Vec<Receiver<Option<Left>>> {
        self.command(Command::Lend)
    }

    /// Has each worker get ready to go on with what another process offers.
    pub fn prepare(&self, offered: Vec<Offered>) -> Vec<Receiver<Result<(), String>>> {
        let mut offered = offered.into_iter();
        let give = |answer| offered.next().map(|offered| Command::Prepare(offered, answer));
        self.command_each(give)
    }

    /// Has each worker go on where another process left off.
    pub fn assume(&self, left: Vec<Left>) -> Vec<Receiver<Result<(), String>>> {
        let mut left = left.into_iter();
        self.command_each(|answer| left.next().map(|left| Command::Assume(left, answer)))
    }

    fn command<T>(&self, command: impl Fn(Sender<T>) -> Command) -> Vec<Receiver<T>> {
        self.command_each(|answer| Some(command(answer)))
    }

    /// What has no room, or is no command, is not answered.
    fn command_each<T>(&self, mut command: impl FnMut(Sender<T>) -> Option<Command>) -> Vec<Receiver<T>> {
        let each = self.exchanges.iter().map(|exchange| {
            let (sender, receiver) = bounded(1);
            if let Some(command) = command(sender) {
                let _ = exchange.commands.push(command);
            }
            receiver
        });
        each.collect()
    }

    /// Whether some worker has an interface that does not work any more.
    pub fn port_failed(&self) -> bool {
        self.counters.iter().any(|counters| counters.port_failed.get() != 0)
    }

    /// Frees what workers do not use any more; they never free anything. To be
    /// called every second or so.
    pub fn release(&self) {
        self.published.release();
        self.exchanges.iter().for_each(Exchange::release);
    }

    /// The snapshots that workers go by.
    pub fn published(&self) -> &Published {
        &self.published
    }

    /// The number of a worker that ended although nobody asked it to.
    pub fn dead(&self) -> Option<usize> {
        self.threads.iter().position(|thread| thread.is_finished())
    }
}

/// Asks workers for their connections.
pub struct Lister {
    exchanges: Arc<[Exchange]>,
}

impl Lister {
    /// Asks every worker; the connections that match come in slices. May wait a
    /// moment for workers that have other commands to obey, and for each slice.
    pub fn connections(&self, filter: ConnectionFilter) -> impl Iterator<Item = Vec<ConnectionRecord>> {
        let filter = Arc::new(filter);
        let mut listings: Vec<Slices> = Vec::new();
        for exchange in self.exchanges.iter() {
            let deadline = Instant::now() + Duration::from_secs(1);
            let listing = loop {
                match exchange.list(Arc::clone(&filter), LISTING_SLICES) {
                    None if Instant::now() < deadline => thread::sleep(SLEEP),
                    listing => break listing,
                }
            };
            if listing.is_none() {
                tracing::warn!("a worker does not obey; a listing lacks its connections");
            }
            listings.extend(listing);
        }
        let mut turn = 0;
        std::iter::from_fn(move || {
            let mut idle = 0;
            while !listings.is_empty() {
                turn %= listings.len();
                match listings[turn].next_slice() {
                    Slice::Of(slice) => return Some(slice),
                    Slice::End => {
                        listings.swap_remove(turn);
                        idle = 0;
                    }
                    Slice::NotYet => {
                        (turn, idle) = (turn + 1, idle + 1);
                        if idle >= listings.len() {
                            idle = 0;
                            thread::sleep(LISTING_SLEEP);
                        }
                    }
                }
            }
            None
        })
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
    }
}

/// Nanoseconds of `CLOCK_MONOTONIC` at an instant that is past.
fn since_boot(instant: Instant) -> Result<u64, StartError> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map_err(|error| StartError::System("reading the clock", error.into()))?;
    let now = Duration::from(now);
    Ok(now.saturating_sub(instant.elapsed()).as_nanos() as u64)
}

/// Bytes that nobody can guess.
pub(crate) fn random_seed() -> Result<[u8; 16], StartError> {
    let mut bytes = [0; 16];
    let read = File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut bytes));
    read.map_err(|error| StartError::System("reading /dev/urandom", error))?;
    Ok(bytes)
}
