//! The carrier: a thread that enters flows in the map and takes them out, so
//! that workers make no system calls.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::lane::{Answer, Entered, Lane, Request};
use super::layout::Key;

/// Requests of a worker that are carried out at a time.
const BATCH: usize = 1024;

/// How long it sleeps when there is nothing to do. Workers do not wake it, as that
/// takes a system call.
const PAUSE: Duration = Duration::from_millis(2);

/// Where flows are entered.
pub trait FlowMap {
    /// Enters flows, in the place of those with the same keys. Returns the indexes
    /// of those for which there was no room.
    fn enter(&mut self, flows: &[Entered]) -> Vec<usize>;
    /// Takes flows out; nothing happens with those that are not there.
    fn take_out(&mut self, keys: &[Key]);
}

/// Carries out what workers ask for.
pub struct Carrier<M> {
    map: M,
    lanes: Vec<Arc<Lane>>,
    /// Answers that a worker has not had room for
    owed: Vec<VecDeque<Answer>>,
    requests: Vec<Request>,
    entering: Vec<Entered>,
    leaving: Vec<Key>,
}

impl<M: FlowMap> Carrier<M> {
    /// One for these workers.
    pub fn new(map: M, lanes: Vec<Arc<Lane>>) -> Self {
        let owed = lanes.iter().map(|_| VecDeque::with_capacity(BATCH)).collect();
        Carrier {
            map,
            lanes,
            owed,
            requests: Vec::with_capacity(BATCH),
            entering: Vec::with_capacity(2 * BATCH),
            leaving: Vec::with_capacity(2 * BATCH),
        }
    }

    /// The map, for tests.
    pub fn map(&mut self) -> &mut M {
        &mut self.map
    }

    /// Goes round once; returns how many requests there were.
    pub fn round(&mut self) -> usize {
        (0..self.lanes.len()).map(|lane| self.serve(lane)).sum()
    }

    fn serve(&mut self, number: usize) -> usize {
        let lane = Arc::clone(&self.lanes[number]);
        self.settle(number, &lane);
        if !self.owed[number].is_empty() {
            // A worker that reads no answers is not given more.
            return 0;
        }
        self.requests.clear();
        self.requests.extend(std::iter::from_fn(|| lane.requests.pop()).take(BATCH));
        let requests = std::mem::take(&mut self.requests);
        // In runs of one kind, so that what was asked for first is done first.
        for run in requests.chunk_by(|a, b| {
            matches!(
                (a, b),
                (Request::Install { .. }, Request::Install { .. }) | (Request::Remove(_), Request::Remove(_))
            )
        }) {
            self.carry_out(number, run);
        }
        let count = requests.len();
        self.requests = requests;
        self.settle(number, &lane);
        count
    }

    fn carry_out(&mut self, number: usize, run: &[Request]) {
        self.entering.clear();
        self.leaving.clear();
        for request in run {
            match request {
                Request::Install { client, server } => {
                    self.entering.push(*client);
                    self.entering.extend(*server);
                }
                Request::Remove(removal) => {
                    self.leaving.push(removal.client);
                    self.leaving.extend(removal.server);
                }
            }
        }
        let refused: Vec<u32> = match self.entering.is_empty() {
            true => Vec::new(),
            false => {
                let refused = self.map.enter(&self.entering);
                refused.iter().filter_map(|at| Some(self.entering.get(*at)?.1.place())).collect()
            }
        };
        for request in run {
            let answer = match request {
                Request::Install { client, server } => {
                    let entered = !refused.contains(&client.1.place());
                    if !entered {
                        // Half of a connection is none.
                        self.leaving.push(client.0);
                        self.leaving.extend(server.map(|server| server.0));
                    }
                    Answer::Installed(client.1.place(), entered)
                }
                Request::Remove(removal) => Answer::Removed(removal.place),
            };
            self.owed[number].push_back(answer);
        }
        if !self.leaving.is_empty() {
            self.map.take_out(&self.leaving);
        }
    }

    fn settle(&mut self, number: usize, lane: &Lane) {
        let owed = &mut self.owed[number];
        while let Some(answer) = owed.pop_front() {
            if let Err(answer) = lane.answers.push(answer) {
                owed.push_front(answer);
                return;
            }
        }
    }
}

/// A carrier on a thread of its own, which ends when this is dropped.
#[derive(Debug)]
pub struct CarrierThread {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl CarrierThread {
    /// Starts it.
    ///
    /// # Errors
    /// When the system has no thread.
    pub fn start<M: FlowMap + Send + 'static>(mut carrier: Carrier<M>) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name("offload".into()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if carrier.round() == 0 {
                    thread::sleep(PAUSE);
                }
            }
        })?;
        Ok(CarrierThread { stop, thread: Some(thread) })
    }
}

impl Drop for CarrierThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has nothing to say; a panic of it was printed.
            let _ = thread.join();
        }
    }
}
