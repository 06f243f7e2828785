//! The thread that makes checks: each when it is due, so many at a time.

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, LocalSet, spawn_local};
use tokio::time::{Instant, sleep_until, timeout};

use super::check::{self, Check, Kind};
use super::command;
use super::icmp::Pinger;
use super::status::{Results, State, Streak};
use super::vip::{Passages, Through};
use crate::rules::ServiceName;

/// Most checks under way at a time; others wait for their turn.
const MAX_UNDER_WAY: usize = 8192;

/// Most commands that run at a time.
const MAX_COMMANDS: usize = 32;

/// How long a command of a quorum may run.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// Orders, and verdicts, that may wait to be taken.
const QUEUE: usize = 1024;

/// What the thread is told.
pub(super) enum Order {
    /// Make a check from now on
    Start {
        /// By which it is stopped, and its verdicts are told
        id: u64,
        check: Arc<Check>,
        target: SocketAddr,
        /// Whether it is asked for a VIP
        through: Option<Through>,
        results: Arc<Results>,
    },
    /// Make it no more
    Stop { id: u64 },
    /// Run the command of a quorum, after those of the same service
    Run { service: ServiceName, words: Vec<String>, reached: bool },
}

/// What a check led to.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    pub(super) id: u64,
    pub(super) state: State,
    /// The weight that the server is to have
    pub(super) weight: Option<u32>,
    pub(super) reason: String,
    pub(super) at: SystemTime,
}

/// The thread; it ends when this is dropped.
pub(super) struct Checker {
    pub(super) orders: mpsc::Sender<Order>,
    pub(super) verdicts: mpsc::Receiver<Verdict>,
    thread: Option<JoinHandle<()>>,
}

impl Checker {
    /// On a director of these interfaces.
    pub(super) fn start(interfaces: Vec<String>) -> io::Result<Self> {
        let (orders, received) = mpsc::channel(QUEUE);
        let (sender, verdicts) = mpsc::channel(QUEUE);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let run = move || LocalSet::new().block_on(&runtime, serve(interfaces, received, sender));
        let thread = thread::Builder::new().name("health".into()).spawn(run)?;
        Ok(Checker { orders, verdicts, thread: Some(thread) })
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        // The thread ends when nobody can give it orders.
        self.orders = mpsc::channel(1).0;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of the health checks panicked");
        }
    }
}

/// What all checks share.
struct Shared {
    under_way: Semaphore,
    commands: Semaphore,
    pinger: Pinger,
    passages: Passages,
    random: Cell<u64>,
}

impl Shared {
    /// Evenly from nothing up to `most`.
    fn up_to(&self, most: Duration) -> Duration {
        // xorshift64: it has to be spread, not unforeseeable.
        let mut x = self.random.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.set(x);
        most.mul_f64((x >> 11) as f64 / (1u64 << 53) as f64)
    }
}

async fn serve(interfaces: Vec<String>, mut orders: mpsc::Receiver<Order>, verdicts: mpsc::Sender<Verdict>) {
    let shared = Rc::new(Shared {
        under_way: Semaphore::new(descriptors()),
        commands: Semaphore::new(MAX_COMMANDS),
        pinger: Pinger::default(),
        passages: Passages::new(interfaces),
        random: Cell::new(u64::from(std::process::id()) << 32 | 0x9e37_79b9),
    });
    let mut running: HashMap<u64, AbortHandle> = HashMap::new();
    let mut notices: HashMap<ServiceName, mpsc::Sender<(Vec<String>, bool)>> = HashMap::new();
    while let Some(order) = orders.recv().await {
        match order {
            Order::Start { id, check, target, through, results } => {
                let place = (target, through);
                let task = repeat(Rc::clone(&shared), id, check, place, results, verdicts.clone());
                running.insert(id, spawn_local(task).abort_handle());
            }
            Order::Stop { id } => {
                if let Some(task) = running.remove(&id) {
                    task.abort();
                }
            }
            Order::Run { service, words, reached } => {
                notices.retain(|_, sender| !sender.is_closed());
                let sender = notices.entry(service).or_insert_with(|| {
                    let (sender, receiver) = mpsc::channel(8);
                    spawn_local(run_in_order(Rc::clone(&shared), service, receiver));
                    sender
                });
                if sender.try_send((words, reached)).is_err() {
                    tracing::error!(%service, "too many commands of its quorum wait; one is left out");
                }
            }
        }
    }
}

/// How many checks may have a socket open: half of what the process may have.
fn descriptors() -> usize {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        let wanted = hard.min(4 * MAX_UNDER_WAY as u64).max(soft);
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).map(|()| wanted)
    });
    let limit = limit.unwrap_or(1024);
    usize::try_from(limit / 2).unwrap_or(MAX_UNDER_WAY).clamp(16, MAX_UNDER_WAY)
}

/// Makes a check again and again.
async fn repeat(
    shared: Rc<Shared>,
    id: u64,
    check: Arc<Check>,
    (target, through): (SocketAddr, Option<Through>),
    results: Arc<Results>,
    verdicts: mpsc::Sender<Verdict>,
) {
    let timing = check.timing;
    let mut streak = Streak::new(timing.rise, timing.fall);
    let (mut state, mut weight) = (State::Checking, None);
    // The first ones are spread, so that the later ones are.
    let mut due = Instant::now() + shared.up_to(timing.interval);
    let is_command = matches!(check.kind, Kind::Command(_));
    loop {
        sleep_until(due).await;
        let turns = if is_command { &shared.commands } else { &shared.under_way };
        // Nobody closes them.
        let Ok(turn) = turns.acquire().await else { return };
        let begun = Instant::now();
        let made = check::make(&check, target, through, &shared.pinger, &shared.passages);
        let made = timeout(timing.timeout, made).await;
        drop(turn);
        let found = made.unwrap_or_else(|_| Err(format!("no answer within {:?}", timing.timeout)));
        results.note(found.as_ref().err().map(String::as_str), begun.elapsed());
        let new_state = streak.note(found.is_ok());
        let new_weight = found.as_ref().map_or(weight, |weight| *weight);
        if new_state.is_some() || new_weight != weight {
            state = new_state.unwrap_or(state);
            weight = new_weight;
            let reason = found.err().unwrap_or_else(|| "the check succeeded".into());
            let verdict = Verdict { id, state, weight, reason, at: SystemTime::now() };
            if verdicts.send(verdict).await.is_err() {
                return;
            }
        }
        // One that took long, or waited long, is not made up for.
        due = (due + timing.interval + shared.up_to(timing.jitter)).max(Instant::now());
    }
}

/// Runs the commands of a service's quorum one after the other.
async fn run_in_order(
    shared: Rc<Shared>,
    service: ServiceName,
    mut commands: mpsc::Receiver<(Vec<String>, bool)>,
) {
    while let Ok((words, reached)) = commands.try_recv() {
        let Ok(_turn) = shared.commands.acquire().await else { return };
        let state = if reached { "up" } else { "down" };
        let environment = [("SLUICE_SERVICE", service.to_string()), ("SLUICE_QUORUM", state.to_owned())];
        let problem = match timeout(COMMAND_TIMEOUT, command::run(&words, environment)).await {
            Ok(Ok(0)) => continue,
            Ok(Ok(status)) => format!("it ended with status {status}"),
            Ok(Err(error)) => error,
            Err(_) => format!("it was ended after {COMMAND_TIMEOUT:?}"),
        };
        tracing::warn!(%service, command = words.join(" "), problem, "the command of its quorum failed");
    }
}
