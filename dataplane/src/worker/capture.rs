//! Copying packets for somebody who looks on ([`crate::capture`]).
//!
//! While nobody does, a burst costs no more than to see that. Otherwise its
//! frames go one by one the way that all go, and what came of each is seen from
//! outside: which frames are there to be sent that were not before, and whether it
//! was dropped, left to the kernel, or handed to another worker. That one then
//! shows it, so that no packet is shown twice.

use super::flow::{Flows, View};
use super::gather::First;
use super::{BURST, Worker, listing};
use crate::capture::{
    CaptureOrder, Ends, Facts, Fate, LONGEST_SNAP, MOST_CAPTURES, Parties, Sight, Sighting,
};
use crate::conn::{ConnectionRecord, Tuple};
use crate::packet::{Fragment, Packet, Related, Unparsed};
use crate::port::{Frame, Port};
use crate::service::ServiceKey;
use crate::stats::DropReason;

/// Who looks on at a worker, and the packet that is looked at.
pub(super) struct Watch<F> {
    orders: Vec<CaptureOrder>,
    /// Whether there is a packet at hand, whose way is not to be looked at again
    inside: bool,
    /// When this round of the worker began
    now: u64,
    /// Number of the next packet
    packet: u64,
    /// Where the packet at hand came from
    pub(super) interface: usize,
    /// Why it was dropped, if it was
    dropped: Option<DropReason>,
    /// The packet at hand as it was received
    received: Vec<u8>,
    /// For a burst of the packet at hand
    alone: Vec<F>,
    /// By interface, frames to be sent that were looked at already
    seen: Vec<usize>,
}

/// What a worker counts, to be compared with later.
struct Counted {
    answered: u64,
    handed: u64,
    punted: u64,
}

/// The packet at hand before anything was done with it.
struct Arrived {
    /// What a connection of it would be found by
    tuple: Option<Tuple>,
    ends: Option<Ends>,
    connection: Option<ConnectionRecord>,
    length: usize,
}

impl<F> Watch<F> {
    pub(super) fn new(interfaces: usize) -> Self {
        Watch {
            // One that ended may be there until the next round.
            orders: Vec::with_capacity(2 * MOST_CAPTURES),
            inside: false,
            now: 0,
            packet: 0,
            interface: 0,
            dropped: None,
            received: Vec::with_capacity(LONGEST_SNAP),
            alone: Vec::with_capacity(2 * BURST),
            seen: vec![0; interfaces],
        }
    }

    /// Whether somebody looks on.
    #[inline]
    pub(super) fn is_on(&self) -> bool {
        !self.orders.is_empty()
    }

    /// Whether a burst that comes now is to be looked at.
    #[inline]
    pub(super) fn looks(&self) -> bool {
        self.is_on() && !self.inside
    }

    /// Takes note that the packet at hand was dropped.
    pub(super) fn note(&mut self, reason: DropReason) {
        if self.inside {
            self.dropped.get_or_insert(reason);
        }
    }

    fn add(&mut self, order: CaptureOrder) {
        if self.orders.len() == self.orders.capacity() {
            self.orders.remove(0);
        }
        order.take_up();
        self.orders.push(order);
    }

    /// Shows a frame of which nothing is known but its bytes, and perhaps with
    /// which tuple it came.
    #[cold]
    pub(super) fn show(
        &mut self,
        (flows, view): (&Flows, &View),
        (worker, interface): (usize, usize),
        sight: Sight,
        tuple: Option<&Tuple>,
        bytes: &[u8],
    ) {
        let ends = ends_of(bytes);
        // As it was received; or as it is sent, the other side's turned round.
        let found =
            |tuple: Tuple| flows.record_of(view, &tuple).or_else(|| flows.record_of(view, &tuple.reversed()));
        let connection = tuple.copied().or(ends.and_then(|ends| ends.tuple())).and_then(found);
        self.packet += 1;
        let (received, sent) = match tuple {
            Some(tuple) => (Some(Ends::from(*tuple)), ends),
            None => (ends, None),
        };
        let facts = Facts { received, sent, connection: connection.as_ref(), mark: None };
        let sighting = Sighting {
            at: self.now,
            packet: (worker as u64) << 48 | self.packet,
            worker: worker as u16,
            interface: interface as u8,
            sight,
            length: bytes.len() as u32,
            parties: connection.as_ref().map(Parties::of),
        };
        for order in &mut self.orders {
            order.begin();
            if let Some(passed) = order.passes(&facts) {
                order.copy(passed, &sighting, bytes);
            }
        }
    }
}

impl<P: Port> Worker<P> {
    /// Lets somebody look on from now on.
    pub(super) fn watch(&mut self, order: CaptureOrder) {
        self.watch.add(order);
        self.mark_seen();
        // What the kernel carries is not to be seen here.
        self.keep_all_packets(true);
    }

    /// At the beginning of a round at time `now`, while somebody looks on.
    #[cold]
    pub(super) fn watch_round(&mut self, now: u64) {
        self.watch.now = now;
        self.watch.orders.retain(|order| !order.is_unwanted());
        if !self.watch.is_on() {
            self.keep_all_packets(false);
        }
    }

    /// Handles frames as [`Worker::process`] does, one by one, and shows them.
    #[cold]
    #[inline(never)]
    pub(super) fn process_watched(
        &mut self,
        burst: &mut Vec<P::Frame>,
        parts: &[(usize, usize)],
        visits: usize,
        now: u64,
    ) {
        let mut alone = std::mem::take(&mut self.watch.alone);
        let mut parts = parts.iter();
        let (mut interface, mut left) = (0, 0);
        // What others put there before.
        self.show_unsent(None);
        for frame in burst.drain(..) {
            while left == 0 {
                let Some(part) = parts.next() else { break };
                (interface, left) = *part;
            }
            left = left.saturating_sub(1);
            let arrived = self.watch_arrival(&frame, interface);
            let before = self.counted();
            alone.push(frame);
            self.watch.inside = true;
            self.process(&mut alone, &[(interface, 1)], visits, now);
            self.watch.inside = false;
            self.show(arrived, &before);
        }
        self.watch.alone = alone;
    }

    fn counted(&self) -> Counted {
        let counters = &self.counters;
        Counted {
            answered: counters.answered.get(),
            handed: counters.handed.get(),
            punted: counters.punted.get(),
        }
    }

    fn watch_arrival(&mut self, frame: &P::Frame, interface: usize) -> Arrived {
        let bytes = frame.bytes();
        let tuple = self.tuple_of(bytes);
        let watch = &mut self.watch;
        watch.interface = interface;
        watch.dropped = None;
        watch.packet += 1;
        watch.received.clear();
        watch.received.extend_from_slice(&bytes[..bytes.len().min(LONGEST_SNAP)]);
        watch.orders.iter_mut().for_each(CaptureOrder::begin);
        let connection = tuple.and_then(|tuple| self.flows.record_of(&self.view, &tuple));
        Arrived { tuple, ends: ends_of(bytes), connection, length: bytes.len() }
    }

    /// What the connection of a frame that was received is found by.
    fn tuple_of(&self, bytes: &[u8]) -> Option<Tuple> {
        match Packet::parse(bytes) {
            Ok(packet) => Some(packet.tuple),
            Err(Unparsed::Fragment(network)) => {
                let Fragment { key, packet } = Fragment::parse(bytes, network).ok()?;
                match self.gather.first(&key) {
                    Some(First::Connection(tuple)) => Some(tuple),
                    _ => Some(packet.tuple),
                }
            }
            Err(Unparsed::Icmp(network)) => {
                let related = Related::parse(bytes, network).ok()?;
                Some(if related.tunnel.is_some() { related.quoted.tuple } else { related.packet.tuple })
            }
            Err(Unparsed::Kernel | Unparsed::Drop(_)) => None,
        }
    }

    /// Shows the packet at hand, and what is sent because of it.
    fn show(&mut self, arrived: Arrived, before: &Counted) {
        let Arrived { tuple, ends, connection, length } = arrived;
        let now = self.counted();
        let is_new = connection.is_none();
        let made = tuple.filter(|_| is_new).and_then(|tuple| self.flows.record_of(&self.view, &tuple));
        let connection = connection.or(made);
        let worker = self.settings.worker;
        let Worker { watch, unsent, .. } = self;
        let Watch { orders, received, seen, dropped, .. } = watch;
        let sent = || {
            unsent
                .iter()
                .zip(&*seen)
                .enumerate()
                .flat_map(|(i, (all, seen))| all.iter().skip(*seen).map(move |frame| (i, frame.bytes())))
        };
        let first = sent().next().and_then(|(_, frame)| ends_of(frame));
        let fate = match *dropped {
            // A piece of it, or a fragment that waited for it, may be dropped while it
            // goes on itself.
            Some(reason) if first.is_none() || now.answered != before.answered => Fate::Dropped(reason),
            _ if first.is_some() => Fate::Sent,
            _ if now.punted != before.punted => Fate::Kernel,
            // Another one shows it.
            _ if now.handed != before.handed => return,
            _ => Fate::Waits,
        };
        let mark = match connection {
            None => tuple.and_then(|tuple| self.flows.mark_of(&self.view, &tuple, watch.interface)),
            Some(_) => None,
        };
        let facts = Facts { received: ends, sent: first, connection: connection.as_ref(), mark };
        let sighting = Sighting {
            at: watch.now,
            packet: (worker as u64) << 48 | watch.packet,
            worker: worker as u16,
            interface: watch.interface as u8,
            sight: Sight::Before(fate),
            length: length as u32,
            parties: connection.as_ref().map(Parties::of),
        };
        let after = if matches!(fate, Fate::Dropped(_)) { Sight::Answer } else { Sight::After };
        for order in orders {
            let Some(passed) = order.passes(&facts) else { continue };
            order.copy(passed, &sighting, received);
            for (interface, frame) in sent() {
                let of = Sighting {
                    interface: interface as u8,
                    sight: after,
                    length: frame.len() as u32,
                    ..sighting
                };
                order.copy(passed, &of, frame);
            }
        }
        for (seen, all) in seen.iter_mut().zip(&*unsent) {
            *seen = all.len();
        }
    }

    /// Shows frames to be sent that are of no packet at hand: of one that waited,
    /// and that came with this tuple, or of nobody knows which.
    #[cold]
    #[inline(never)]
    pub(super) fn show_unsent(&mut self, tuple: Option<&Tuple>) {
        let Worker { watch, unsent, flows, view, settings, .. } = self;
        for (interface, frames) in unsent.iter().enumerate() {
            let seen = watch.seen.get(interface).copied().unwrap_or(0);
            for frame in frames.iter().skip(seen) {
                let at = (settings.worker, interface);
                watch.show((flows, view), at, Sight::After, tuple, frame.bytes());
            }
        }
        self.mark_seen();
    }

    /// Takes it that all frames that are to be sent now were looked at.
    #[cold]
    pub(super) fn mark_seen(&mut self) {
        for (seen, all) in self.watch.seen.iter_mut().zip(&self.unsent) {
            *seen = all.len();
        }
    }

    /// Shows a frame that is dropped.
    #[cold]
    #[inline(never)]
    pub(super) fn show_drop(&mut self, frame: &P::Frame, reason: DropReason) {
        if self.watch.inside && self.watch.dropped.is_none() {
            self.watch.dropped = Some(reason);
            return;
        }
        let Worker { watch, flows, view, settings, .. } = self;
        let at = (settings.worker, watch.interface);
        watch.show((flows, view), at, Sight::Dropped(reason), None, frame.bytes());
    }
}

/// The ends of a frame, with the ports of all packets that services have.
fn ends_of(bytes: &[u8]) -> Option<Ends> {
    match Packet::parse(bytes) {
        Ok(Packet { tuple, .. }) => Some(Ends::from(tuple)),
        Err(_) => Ends::of(bytes),
    }
}

impl Flows {
    /// The connection that packets with this tuple belong to.
    fn record_of(&self, view: &View, tuple: &Tuple) -> Option<ConnectionRecord> {
        let (id, _) = self.table.find(tuple, self.table.hash(tuple))?;
        self.table.get(id).map(|entry| listing::record(&entry, &view.services, 0))
    }

    /// The mark of the service that a packet would begin a connection of.
    fn mark_of(&self, view: &View, tuple: &Tuple, interface: usize) -> Option<u32> {
        match view.services.service(view.services.find_for(tuple, interface)?)?.key {
            ServiceKey::Mark { mark, .. } => Some(mark),
            ServiceKey::Address { .. } => None,
        }
    }
}
