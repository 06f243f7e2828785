//! Copies of packets for somebody who looks on: which are wanted, and their way
//! from a worker to its reader.
//!
//! A capture is a [`CaptureFilter`] and, for each worker, a bounded number of
//! places for packets, which the reader's side takes and frees. A worker copies
//! what matches into the next free place; where there is none, it counts what is
//! lost and goes on. Neither ever waits for the other.

mod ends;
mod filter;
mod ring;

pub(crate) use ends::Ends;
pub use filter::{CaptureFilter, Drops};
pub(crate) use filter::{Facts, Passed};
pub(crate) use ring::Ring;
pub use ring::{CaptureOrder, CaptureReader};

use crate::conn::ConnectionRecord;
use crate::service::{Method, Protocol};
use crate::stats::DropReason;
use crate::wire::Address;

/// Captures that may be under way at once.
pub const MOST_CAPTURES: usize = 4;

/// Most bytes of a frame that are copied: no frame of a port is larger.
pub const LONGEST_SNAP: usize = 4096;

/// Packets that may wait at a worker for the reader of one capture.
pub const PLACES: usize = 1024;

/// What became of a received packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It was sent on
    Sent,
    /// It waits: for its next hop, or for the first of its fragments
    Waits,
    /// It was left to the kernel
    Kernel,
    /// It was dropped
    Dropped(DropReason),
}

/// What is seen of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sight {
    /// As it was received, before anything was rewritten
    Before(Fate),
    /// As it is sent
    After,
    /// What the director itself sends because of it
    Answer,
    /// It was dropped after it had waited, or behind the forwarding
    Dropped(DropReason),
}

/// The connection that a packet belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parties {
    /// Transport protocol
    pub protocol: Protocol,
    /// Client address and port
    pub client: (Address, u16),
    /// VIP and port
    pub service: (Address, u16),
    /// LIP and port of a FULLNAT connection
    pub local: Option<(Address, u16)>,
    /// Real server address and port
    pub server: (Address, u16),
    /// How packets reach the server
    pub method: Method,
}

impl Parties {
    pub(crate) fn of(record: &ConnectionRecord) -> Self {
        let ConnectionRecord { protocol, client, service, local, server, method, .. } = *record;
        Parties { protocol, client, service, local, server, method }
    }
}

/// Source and destination of a frame's IP packet, and the IP protocol number of
/// what it carries, if it is one of IP.
pub fn summary(frame: &[u8]) -> Option<(Address, Address, u8)> {
    let Ends { source, destination, protocol } = Ends::of(frame)?;
    Some((source.0, destination.0, protocol))
}

/// All that is told of a packet but its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sighting {
    /// When, on the worker's clock in nanoseconds: that of its burst
    pub at: u64,
    /// The same for a packet before and after it was rewritten, and for no other
    pub packet: u64,
    /// The worker
    pub worker: u16,
    /// The director's interface that it came by or is sent by, by its number
    pub interface: u8,
    /// What is seen of it
    pub sight: Sight,
    /// Bytes of the frame, of which fewer may have been copied
    pub length: u32,
    /// The connection that it belongs to
    pub parties: Option<Parties>,
}
