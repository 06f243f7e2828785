//! What workers are told.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use super::{Record, Router, Way};
use crate::neigh::NextHops;
use crate::service::ServiceTable;
use crate::worker::Exchange;

/// Records that go to a worker in one piece.
pub(crate) const BATCH: usize = 256;

/// Who tells of a connection, which decides how long to believe it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// A director that goes on telling: what it has is kept as long as it says
    /// so, and not told to others. Once it is lost ([`Step::Lost`]) all is as if
    /// it had begun here.
    Peer,
    /// One that says nothing when a connection ends: the connection lives as
    /// long as it was told to
    Foreign,
    /// Nobody who has it still: it is as if it had begun here
    Former,
}

/// What a worker is told.
#[derive(Debug)]
pub enum Step {
    /// The peer tells everything from here on. What another process of it told
    /// (`instance` is one's number) is no longer its.
    Begin {
        /// Tells a process of the peer from those before
        instance: u64,
    },
    /// These are there, or are over
    Records(Vec<Record>),
    /// The peer has told everything since the last [`Step::Begin`]: what it did
    /// not name, and had named before, is over
    End,
    /// The peer tells nothing any more
    Lost,
}

/// Something that a worker is told.
#[derive(Debug)]
pub struct Import {
    /// By whom
    pub source: Source,
    /// What
    pub step: Step,
    /// Where the worker says what became of it
    pub report: Arc<Report>,
}

/// What became of what one worker was told. The worker alone writes it.
#[derive(Debug, Default)]
pub struct Report {
    /// Pieces that were dealt with; stored with `Release` after the rest
    done: AtomicU64,
    /// Records that were taken
    pub taken: AtomicU64,
    /// Records of connections that the worker has itself and keeps as they are
    pub own: AtomicU64,
    /// Records that no service and server here goes with
    pub unknown: AtomicU64,
    /// Records whose local port is another connection's or another worker's
    pub port: AtomicU64,
    /// Records that there was no room for
    pub full: AtomicU64,
}

impl Report {
    pub(crate) fn count(&self, counter: impl Fn(&Self) -> &AtomicU64) {
        let counter = counter(self);
        counter.store(counter.load(Relaxed).wrapping_add(1), Relaxed);
    }

    pub(crate) fn finish(&self) {
        self.done.store(self.done.load(Relaxed).wrapping_add(1), Release);
    }
}

/// Tells workers what somebody else told.
///
/// Nothing here waits: what a worker's queue has no room for stays in the
/// importer, which its owner is to [pump](Importer::pump) until it is empty
/// before giving it more. So whoever tells too fast is held back.
#[derive(Debug)]
pub struct Importer {
    exchanges: Arc<[Exchange]>,
    source: Source,
    router: Router,
    reports: Vec<Arc<Report>>,
    batches: Vec<Vec<Record>>,
    outbox: VecDeque<(usize, Step)>,
    pushed: Vec<u64>,
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange").finish_non_exhaustive()
    }
}

impl Importer {
    /// An importer for what `source` tells. `hops` says where packets will
    /// arrive; see [`Importer::route_by`].
    pub fn new(exchanges: Arc<[Exchange]>, source: Source, hops: Arc<NextHops>) -> Self {
        let workers = exchanges.len();
        Importer {
            router: Router::new(hops, Arc::clone(&exchanges)),
            exchanges,
            source,
            reports: (0..workers).map(|_| Arc::default()).collect(),
            batches: vec![Vec::new(); workers],
            outbox: VecDeque::new(),
            pushed: vec![0; workers],
        }
    }

    /// Takes up where packets arrive now. To be called at the begin of a
    /// transfer only: a connection would else be told to another worker than
    /// before, and there twice.
    pub fn route_by(&mut self, hops: Arc<NextHops>) {
        self.router = Router::new(hops, Arc::clone(&self.exchanges));
    }

    /// [`Step::Begin`] for all workers.
    pub fn begin(&mut self, instance: u64) {
        self.all(|| Step::Begin { instance });
    }

    /// [`Step::End`] for all workers.
    pub fn end(&mut self) {
        self.all(|| Step::End);
    }

    /// [`Step::Lost`] for all workers.
    pub fn lost(&mut self) {
        self.all(|| Step::Lost);
    }

    fn all(&mut self, step: impl Fn() -> Step) {
        self.flush();
        self.outbox.extend((0..self.exchanges.len()).map(|worker| (worker, step())));
    }

    /// Tells a record to whom it concerns. It goes with the next
    /// [`Importer::flush`], or when there are many.
    pub fn add(&mut self, record: Record, services: &ServiceTable) {
        match self.router.way(&record, services) {
            Way::One(worker) => self.put(worker, record),
            Way::All => {
                for worker in 1..self.batches.len() {
                    self.put(worker, record.clone());
                }
                self.put(0, record);
            }
        }
    }

    fn put(&mut self, worker: usize, record: Record) {
        self.batches[worker].push(record);
        if self.batches[worker].len() >= BATCH {
            let batch = std::mem::take(&mut self.batches[worker]);
            self.outbox.push_back((worker, Step::Records(batch)));
        }
    }

    /// Sends what was added off.
    pub fn flush(&mut self) {
        for worker in 0..self.batches.len() {
            if !self.batches[worker].is_empty() {
                let batch = std::mem::take(&mut self.batches[worker]);
                self.outbox.push_back((worker, Step::Records(batch)));
            }
        }
    }

    /// Puts what was sent off into the workers' queues; returns whether all of
    /// it is there.
    pub fn pump(&mut self) -> bool {
        while let Some((worker, step)) = self.outbox.pop_front() {
            let import = Import { source: self.source, step, report: Arc::clone(&self.reports[worker]) };
            if let Err(refused) = self.exchanges[worker].imports.push(import) {
                self.outbox.push_front((worker, refused.step));
                return false;
            }
            self.pushed[worker] += 1;
        }
        true
    }

    /// What is in the workers' queues now, to be compared with
    /// [`Importer::has_done`].
    pub fn mark(&self) -> Box<[u64]> {
        self.pushed.clone().into()
    }

    /// Whether workers are through with all up to a mark.
    pub fn has_done(&self, mark: &[u64]) -> bool {
        self.reports.iter().zip(mark).all(|(report, mark)| report.done.load(Acquire) >= *mark)
    }

    /// What became of all that was told, one for each worker.
    pub fn reports(&self) -> &[Arc<Report>] {
        &self.reports
    }
}
