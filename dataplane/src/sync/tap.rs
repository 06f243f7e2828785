//! What workers tell a listener.

use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use crossbeam::queue::ArrayQueue;

use super::Record;
use crate::worker::{Command, Exchange};

/// Something that a worker tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When, on the worker's clock in nanoseconds
    pub at: u64,
    /// Whether a source that does not go on telling told of it here
    /// ([`super::Source::Foreign`]), and no packet came by since
    pub foreign: bool,
    /// What
    pub what: What,
}

/// What a worker tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A connection or template is there, or is over
    Record(Record),
    /// All that the worker has was told for the transfer of this number
    End(u64),
}

/// One worker's word to one listener: the worker writes, the listener reads.
#[derive(Debug)]
pub struct Tap {
    queue: ArrayQueue<Change>,
    /// Number of the transfer that the listener wants; it alone writes it, and
    /// the worker begins anew whenever it grew
    wanted: AtomicU64,
    /// Changes that there was no room for; the worker alone writes it. Stored
    /// with `Release` after the queue was found full, loaded with `Acquire`, so
    /// that a transfer asked for afterwards has what was lost.
    lost: AtomicU64,
    /// Raised by either side for the other; nobody lowers it
    closed: AtomicBool,
    /// Whether the listener is to take this process's place
    successor: bool,
}

impl Tap {
    /// A tap with room for `capacity` changes, which is taken at once.
    pub fn new(capacity: usize) -> Self {
        Tap::of(capacity, false)
    }

    fn of(capacity: usize, successor: bool) -> Self {
        Tap {
            queue: ArrayQueue::new(capacity.max(2)),
            wanted: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            successor,
        }
    }

    /// Adds a change; false where there is no room.
    pub(crate) fn push(&self, change: Change) -> bool {
        self.queue.push(change).is_ok()
    }

    /// Counts a change that was lost.
    pub(crate) fn lose(&self) {
        self.lost.store(self.lost.load(Relaxed).wrapping_add(1), Release);
    }

    /// Whether a transfer may go on: changes come first.
    pub(crate) fn has_room(&self) -> bool {
        self.queue.len() * 2 < self.queue.capacity()
    }

    pub(crate) fn wanted(&self) -> u64 {
        self.wanted.load(Acquire)
    }

    /// Whether the listener is to know what the kernel carries, too.
    pub(crate) fn is_successors(&self) -> bool {
        self.successor
    }

    /// Whether the listener is gone.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }
}

/// A listener's taps, one at each worker. Workers stop telling when it is
/// dropped.
#[derive(Debug)]
pub struct Subscription {
    taps: Vec<Arc<Tap>>,
    next: usize,
    transfer: u64,
    /// Workers that have not told everything yet
    telling: Vec<bool>,
    /// What was lost before the last transfer was asked for
    healed: u64,
}

impl Subscription {
    /// Has each worker tell its changes, up to `capacity` of which may wait at
    /// each. `None` while a worker has no room for another command; the call
    /// may be repeated.
    pub fn new(exchanges: &[Exchange], capacity: usize) -> Option<Self> {
        Subscription::of(exchanges, capacity, false)
    }

    /// The same for a process that is to take this one's place: it is told which
    /// connections the kernel carries ([`super::Session::carried`]), and of each that
    /// comes to be.
    pub fn of_successor(exchanges: &[Exchange], capacity: usize) -> Option<Self> {
        Subscription::of(exchanges, capacity, true)
    }

    fn of(exchanges: &[Exchange], capacity: usize, successor: bool) -> Option<Self> {
        let mut taps = Vec::new();
        for exchange in exchanges {
            let tap = Arc::new(Tap::of(capacity, successor));
            taps.push(Arc::clone(&tap));
            if exchange.commands.push(Command::Tell(tap)).is_err() {
                taps.iter().for_each(|tap| tap.closed.store(true, Relaxed));
                return None;
            }
        }
        let telling = vec![false; taps.len()];
        Some(Subscription { taps, next: 0, transfer: 0, telling, healed: 0 })
    }

    /// Asks every worker for all that it has; whatever transfer is under way
    /// ends here. Returns its number.
    pub fn transfer(&mut self) -> u64 {
        self.healed = self.lost();
        self.transfer += 1;
        self.telling.fill(true);
        self.taps.iter().for_each(|tap| tap.wanted.store(self.transfer, Release));
        self.transfer
    }

    /// Whether a transfer is under way.
    pub fn is_transferring(&self) -> bool {
        self.telling.contains(&true)
    }

    /// The next change, the workers in turn: those of one worker are in order.
    /// [`What::End`] comes once, when all workers are through.
    pub fn next_change(&mut self) -> Option<Change> {
        for _ in 0..self.taps.len() {
            let worker = self.next;
            self.next = (worker + 1) % self.taps.len();
            while let Some(change) = self.taps[worker].queue.pop() {
                match change.what {
                    What::Record(_) => return Some(change),
                    What::End(number) if number == self.transfer && self.telling[worker] => {
                        self.telling[worker] = false;
                        if !self.is_transferring() {
                            return Some(change);
                        }
                    }
                    // Of a transfer that was given up.
                    What::End(_) => {}
                }
            }
        }
        None
    }

    /// Changes that wait to be read.
    pub fn waiting(&self) -> usize {
        self.taps.iter().map(|tap| tap.queue.len()).sum()
    }

    /// Changes that were lost so far.
    pub fn lost(&self) -> u64 {
        self.taps.iter().map(|tap| tap.lost.load(Acquire)).sum()
    }

    /// Whether changes were lost that no transfer has made good: it is time
    /// for another one.
    pub fn is_behind(&self) -> bool {
        self.lost() != self.healed
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.taps.iter().for_each(|tap| tap.closed.store(true, Relaxed));
    }
}
