//! Counters that one worker writes and everybody may read.
//!
//! A counter is written by one thread only, so it needs no locked
//! instruction: the writer loads, adds and stores with relaxed ordering, and
//! readers see a value that was true a moment ago. Each worker has a cache
//! line of its own in every set, so that no line is written by two cores. The
//! one exception is [`Overload`], which changes rarely and concerns all.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crossbeam::utils::CachePadded;

mod drop_reason;
mod overload;

pub use drop_reason::DropReason;
pub use overload::Overload;

/// A number that one thread writes and others read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it. Only the owning worker may call this.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Takes from it. Only the owning worker may call this.
    #[inline]
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    /// Its value a moment ago.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Replaces it. Only the owning worker may call this.
    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }
}

/// The five numbers of `ipvsadm --stats`. Bytes are those of the IP packet,
/// without link-layer header, as IPVS counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Connections scheduled
    pub connections: u64,
    /// Packets from clients
    pub in_packets: u64,
    /// Packets to clients that went through the director
    pub out_packets: u64,
    /// Bytes from clients
    pub in_bytes: u64,
    /// Bytes to clients that went through the director
    pub out_bytes: u64,
}

/// One worker's share of a [`TrafficCounters`].
#[derive(Debug, Default)]
pub struct TrafficShare {
    /// Connections scheduled
    pub connections: Counter,
    /// Packets from clients
    pub in_packets: Counter,
    /// Packets to clients
    pub out_packets: Counter,
    /// Bytes from clients
    pub in_bytes: Counter,
    /// Bytes to clients
    pub out_bytes: Counter,
    /// Packets that were not forwarded, of those whose service was known by
    /// then. `ipvsadm` has no such number.
    pub dropped: Counter,
}

impl TrafficShare {
    fn add_to(&self, sum: &mut Traffic) {
        sum.connections += self.connections.get();
        sum.in_packets += self.in_packets.get();
        sum.out_packets += self.out_packets.get();
        sum.in_bytes += self.in_bytes.get();
        sum.out_bytes += self.out_bytes.get();
    }
}

/// Counters of a virtual service: a share for each worker.
#[derive(Debug)]
pub struct TrafficCounters(Box<[CachePadded<TrafficShare>]>);

impl TrafficCounters {
    /// Zeroed counters for `workers` workers.
    pub fn new(workers: usize) -> Self {
        TrafficCounters((0..workers).map(|_| CachePadded::default()).collect())
    }

    /// The share that `worker` writes.
    #[inline]
    pub fn share(&self, worker: usize) -> &TrafficShare {
        &self.0[worker]
    }

    /// The sum over all workers.
    pub fn sum(&self) -> Traffic {
        let mut sum = Traffic::default();
        self.0.iter().for_each(|share| share.add_to(&mut sum));
        sum
    }

    /// Packets that were not forwarded, over all workers.
    pub fn dropped(&self) -> u64 {
        self.0.iter().map(|share| share.dropped.get()).sum()
    }
}

/// One worker's share of a [`ServerCounters`].
#[derive(Debug, Default)]
pub struct ServerShare {
    /// What `--stats` shows
    pub traffic: TrafficShare,
    /// Connections in a state that IPVS counts as active
    pub active: Counter,
    /// All other connections
    pub inactive: Counter,
    /// Persistence templates
    pub persistent: Counter,
}

/// Counters of a real server: a share for each worker.
#[derive(Debug)]
pub struct ServerCounters {
    shares: Box<[CachePadded<ServerShare>]>,
    overload: Overload,
    /// The weight when the server was removed
    kept_weight: AtomicU32,
}

impl ServerCounters {
    /// Zeroed counters for `workers` workers.
    pub fn new(workers: usize) -> Self {
        ServerCounters {
            shares: (0..workers).map(|_| CachePadded::default()).collect(),
            overload: Overload::default(),
            kept_weight: AtomicU32::new(0),
        }
    }

    /// The share that `worker` writes.
    #[inline]
    pub fn share(&self, worker: usize) -> &ServerShare {
        &self.shares[worker]
    }

    /// What `--stats` shows, over all workers.
    pub fn traffic(&self) -> Traffic {
        let mut sum = Traffic::default();
        self.shares.iter().for_each(|share| share.traffic.add_to(&mut sum));
        sum
    }

    /// Packets of its connections that were not forwarded, over all workers.
    pub fn dropped(&self) -> u64 {
        self.shares.iter().map(|share| share.traffic.dropped.get()).sum()
    }

    /// Active connections over all workers (`ActiveConn`).
    #[inline]
    pub fn active(&self) -> u64 {
        self.shares.iter().map(|share| share.active.get()).sum()
    }

    /// Persistence templates over all workers (`PersistConn`).
    pub fn persistent(&self) -> u64 {
        self.shares.iter().map(|share| share.persistent.get()).sum()
    }

    /// Inactive connections over all workers (`InActConn`).
    #[inline]
    pub fn inactive(&self) -> u64 {
        self.shares.iter().map(|share| share.inactive.get()).sum()
    }

    /// Connections of any kind over all workers: what thresholds are about
    /// (`ip_vs_dest_totalconns`, which leaves out persistence templates).
    #[inline]
    pub fn connections(&self) -> u64 {
        self.active().wrapping_add(self.inactive())
    }

    /// Keeps the weight of a server that is removed, for schedulers that still
    /// have to do with it. Every worker writes the same.
    pub(crate) fn keep_weight(&self, weight: u32) {
        self.kept_weight.store(weight, Relaxed);
    }

    /// What was kept.
    pub(crate) fn kept_weight(&self) -> u32 {
        self.kept_weight.load(Relaxed)
    }

    /// Whether the server has as many connections as it may have.
    #[inline]
    pub fn overload(&self) -> &Overload {
        &self.overload
    }
}

/// What a worker counts apart from services: packets in and out, what became
/// of those that were not forwarded, and the state of its table.
#[derive(Debug, Default)]
pub struct WorkerCounters {
    /// Frames received from XDP
    pub received: Counter,
    /// Frames handed to a transmit ring
    pub transmitted: Counter,
    /// ICMP errors of our own that were put up for sending, beside the frames
    /// that were received
    pub answered: Counter,
    /// Pieces that packets were fragmented into, beyond the first of each
    pub fragmented: Counter,
    /// Frames given to the kernel because nothing of ours claimed them
    pub punted: Counter,
    /// Frames passed on to another worker, each time that they were
    pub handed: Counter,
    /// Frames that other workers passed on to this one
    pub handed_in: Counter,
    /// Frames that were received on each interface
    received_on: ByInterface,
    /// Frames that were handed to a transmit ring of each interface
    transmitted_on: ByInterface,
    /// Frames that were received on each interface and handed to another
    /// worker from there
    handed_off: ByInterface,
    /// Frames waiting for a next hop's link-layer address, or for the first
    /// fragment of their packet
    pub held: Counter,
    /// Connections in the table now
    pub connections: Counter,
    /// Packets that were carried in the kernel for this worker
    pub carried: Counter,
    /// Connections that have flows in the kernel now
    pub offloaded: Counter,
    /// Connections ended by their timer
    pub expired: Counter,
    /// 1 while an interface does not work any more and waits to be opened anew
    pub port_failed: Counter,
    /// Generation of the service table in use
    pub generation: Counter,
    /// Times that the poll loop ran
    pub polls: Counter,
    drops: DropCounters,
}

/// Interfaces of a director at most.
pub const MAX_INTERFACES: usize = 64;

#[derive(Debug)]
struct ByInterface([Counter; MAX_INTERFACES]);

impl Default for ByInterface {
    fn default() -> Self {
        ByInterface(std::array::from_fn(|_| Counter::default()))
    }
}

impl ByInterface {
    #[inline]
    fn add(&self, interface: usize, n: u64) {
        if let Some(counter) = self.0.get(interface) {
            counter.add(n);
        }
    }

    fn get(&self, interface: usize) -> u64 {
        self.0.get(interface).map_or(0, Counter::get)
    }
}

#[derive(Debug)]
struct DropCounters([Counter; DropReason::ALL.len()]);

impl Default for DropCounters {
    fn default() -> Self {
        DropCounters(std::array::from_fn(|_| Counter::default()))
    }
}

impl WorkerCounters {
    /// Counts frames received from XDP on an interface.
    #[inline]
    pub fn count_received(&self, interface: usize, frames: u64) {
        self.received.add(frames);
        self.received_on.add(interface, frames);
    }

    /// Frames received from XDP on an interface.
    pub fn received_on(&self, interface: usize) -> u64 {
        self.received_on.get(interface)
    }

    /// Counts frames handed to a transmit ring of an interface.
    #[inline]
    pub fn count_transmitted(&self, interface: usize, frames: u64) {
        self.transmitted.add(frames);
        self.transmitted_on.add(interface, frames);
    }

    /// Frames handed to a transmit ring of an interface.
    pub fn transmitted_on(&self, interface: usize) -> u64 {
        self.transmitted_on.get(interface)
    }

    /// Counts a frame that landed on this worker's queue of an interface and
    /// is another's.
    #[inline]
    pub fn count_handed_off(&self, interface: usize) {
        self.handed_off.add(interface, 1);
    }

    /// Frames that landed on this worker's queue of an interface and were
    /// handed to another worker.
    pub fn handed_off(&self, interface: usize) -> u64 {
        self.handed_off.get(interface)
    }

    /// Counts a dropped frame.
    #[inline]
    pub fn count_drop(&self, reason: DropReason) {
        self.drops.0[reason as usize].add(1);
    }

    /// Frames dropped for `reason` so far.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops.0[reason as usize].get()
    }
}
