//! What a worker shares with control and with the other workers: snapshots
//! that it reads, and bounded queues.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;
use crossbeam::channel::Sender;
use crossbeam::queue::ArrayQueue;

use super::owners::Owners;
use super::pages::{Order, Pages, Slices};
use super::snapshot::Snapshot;
use crate::capture::{CaptureFilter, CaptureOrder, CaptureReader, MOST_CAPTURES, PLACES, Ring};
use crate::conn::{ConnectionFilter, Seed};
use crate::local::Claims;
use crate::neigh::NextHops;
use crate::port::afxdp::{Left, Offered};
use crate::sched::Movements;
use crate::service::ServiceTable;
use crate::sync::{Import, Tap};
use crate::trace::Question;
use crate::wire::Address;

/// The snapshots that control publishes and every worker takes up between two
/// bursts. Control writes, workers read.
#[derive(Debug, Default)]
pub struct Published {
    /// Services and servers
    pub services: Snapshot<ServiceTable>,
    /// Next hops
    pub hops: Snapshot<NextHops>,
    /// Whether this director is the backup of another one: packets of known
    /// connections go on, and no others are taken. Control writes, workers read.
    pub standby: AtomicBool,
}

impl Published {
    /// Frees replaced snapshots that no worker goes by any more. For control, to
    /// be called now and then.
    pub fn release(&self) {
        self.services.release();
        self.hops.release();
    }
}

/// What workers tell control.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The next hop towards this address is wanted
    Ask(Address),
}

/// What control asks of a worker.
pub enum Command {
    /// List connections ([`Exchange::list`])
    List(Order),
    /// Open all interfaces anew, and say how that went
    Reopen(Sender<Result<(), String>>),
    /// Close all interfaces, and say so once listeners were told all that
    /// happened until then
    Close(Sender<()>),
    /// Say what another process needs to go on with the interfaces
    Offer(Sender<Option<Offered>>),
    /// Leave the interfaces to the process that has what was offered, and say how
    /// far this one was, once listeners were told all that happened until then;
    /// nothing if that cannot be
    Lend(Sender<Option<Left>>),
    /// Get ready to go on with another process's interfaces, and say how that went
    Prepare(Offered, Sender<Result<(), String>>),
    /// Go on where that one left off, and say how that went
    Assume(Left, Sender<Result<(), String>>),
    /// Tell of connections from now on
    Tell(Arc<Tap>),
    /// Say what would become of a packet ([`Exchange::ask`])
    Trace(Arc<Question>),
    /// Copy packets from now on ([`Exchange::capture`])
    Capture(CaptureOrder),
}

/// Frames of one worker that may be on their way to others.
pub(super) const MOST_HANDED: usize = 4096;

/// A part of memory that a worker took at the start, for a frame on its way to
/// another.
pub(super) type Buffer = BytesMut;

/// A frame that landed on another worker's queue.
pub struct Handed {
    /// The frame, in a buffer that goes back to `from`
    pub bytes: BytesMut,
    /// The worker that handed it over
    pub from: usize,
    /// Where it was received
    pub interface: usize,
    /// How many workers looked at it already
    pub visits: usize,
}

/// One worker's queues.
pub struct Exchange {
    /// Control writes, the worker reads
    pub commands: ArrayQueue<Command>,
    /// Any other worker writes, the worker reads
    pub handed: ArrayQueue<Handed>,
    /// Buffers that the worker handed frames over in: whoever has read one puts
    /// it back, and the worker takes it again.
    pub buffers: ArrayQueue<BytesMut>,
    /// The worker writes, all others read
    pub claims: Arc<Claims>,
    /// The worker writes, control reads. When it is full, events are lost:
    /// each of them comes again with the next packet.
    pub events: ArrayQueue<Event>,
    /// What others told of connections. Control writes, the worker reads.
    pub imports: ArrayQueue<Import>,
    /// What is listed at present, so that the worker is never the last to let go
    /// of it, and frees nothing. Only control locks it.
    listed: Mutex<Vec<Arc<Pages>>>,
    /// The same for captures
    captured: Mutex<Vec<Arc<Ring>>>,
    /// And for what is asked
    asked: Mutex<Vec<Arc<Question>>>,
    /// The same of all workers
    pub(crate) owners: Arc<Owners>,
    /// The same of all workers
    pub(super) movements: Arc<Movements>,
}

/// Pieces of what others told that may wait at a worker.
const MOST_IMPORTS: usize = 16;

impl Exchange {
    /// Those of all workers, which have room for `connections` each. `seed` is
    /// random.
    pub fn of_all(workers: usize, connections: usize, seed: [u8; 16]) -> Arc<[Exchange]> {
        let owners = Arc::new(Owners::new(workers, connections, Seed::new(seed)));
        let movements = Arc::new(Movements::new(workers));
        (0..workers).map(|_| Exchange::new(Arc::clone(&owners), Arc::clone(&movements))).collect()
    }

    fn new(owners: Arc<Owners>, movements: Arc<Movements>) -> Self {
        Exchange {
            commands: ArrayQueue::new(16),
            handed: ArrayQueue::new(MOST_HANDED),
            buffers: ArrayQueue::new(MOST_HANDED),
            claims: Arc::default(),
            events: ArrayQueue::new(1024),
            imports: ArrayQueue::new(MOST_IMPORTS),
            listed: Mutex::default(),
            captured: Mutex::default(),
            asked: Mutex::default(),
            owners,
            movements,
        }
    }

    /// Has the worker list all connections that match. At most `pages` slices
    /// wait for the reader, and the worker goes on with what else it has to do
    /// meanwhile. `None` while it has too many other commands to obey.
    pub fn list(&self, filter: Arc<ConnectionFilter>, pages: usize) -> Option<Slices> {
        self.release();
        let pages = Pages::new(filter, pages);
        self.listed.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&pages));
        self.commands.push(Command::List(Order::new(Arc::clone(&pages)))).ok()?;
        Some(Slices::new(pages))
    }

    /// Has the worker copy packets that match, the first `snap` bytes of each, for
    /// a director with so many interfaces. `None` while there are
    /// [`MOST_CAPTURES`] already, or it has too many other commands to obey.
    pub fn capture(
        &self,
        filter: Arc<CaptureFilter>,
        snap: usize,
        interfaces: usize,
    ) -> Option<CaptureReader> {
        self.release();
        let mut captured = self.captured.lock().unwrap_or_else(PoisonError::into_inner);
        if captured.len() >= MOST_CAPTURES {
            return None;
        }
        let ring = Ring::new(filter, snap, PLACES, interfaces);
        captured.push(Arc::clone(&ring));
        self.commands.push(Command::Capture(CaptureOrder::new(Arc::clone(&ring)))).ok()?;
        Some(CaptureReader::new(ring))
    }

    /// Asks the worker what would become of a packet. Returns false while it has
    /// too many other commands to obey.
    pub fn ask(&self, question: &Arc<Question>) -> bool {
        self.release();
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(question));
        self.commands.push(Command::Trace(Arc::clone(question))).is_ok()
    }

    /// Frees what former listings, captures and questions took. For control, to be called now
    /// and then.
    pub fn release(&self) {
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        listed.retain(|pages| Arc::strong_count(pages) > 1);
        let mut captured = self.captured.lock().unwrap_or_else(PoisonError::into_inner);
        captured.retain(|ring| Arc::strong_count(ring) > 1);
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.retain(|question| Arc::strong_count(question) > 1);
    }
}
