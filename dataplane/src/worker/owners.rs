//! Which worker has the connection of a packet that another one received.
//!
//! A network card sends all packets of a flow to one queue, until its
//! indirection table changes; other devices go by what they like (a veth by a
//! hash of the sender's socket, which it changes when it sends a SYN again). A
//! packet in the middle of a TCP connection goes round the workers until its
//! owner takes it, but one that could begin a connection would do so wherever it
//! arrives, and split its flow. So before a worker begins a connection it looks
//! here whether another one did.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use zerocopy::FromZeros;

use crate::conn::{Seed, Tuple};

/// Bits of a slot that name the worker.
const WORKER_BITS: u32 = 8;
const WORKERS: u32 = (1 << WORKER_BITS) - 1;

/// Workers by the tuples of clients, for all workers together.
///
/// A slot has a tag of 24 bits of the tuple's hash and a worker's number plus
/// one, in one atomic word: any worker writes any slot when it begins a
/// connection, and the newest stays. It is a hint and nothing more. One that is
/// out of date costs its packet a detour, and one that was overwritten is
/// missed; neither happens while there are no more connections than slots and
/// tags differ. Nothing else is published by a slot, so `Relaxed` will do.
#[derive(Debug)]
pub struct Owners {
    slots: Box<[AtomicU32]>,
    seed: Seed,
}

impl Owners {
    /// For `workers` workers with room for `connections` each. A single worker
    /// needs none, and workers beyond the 255th are not told of. The kernel
    /// provides the memory, of four to eight bytes a connection, as it is used.
    pub(super) fn new(workers: usize, connections: usize, seed: Seed) -> Self {
        let slots = if workers > 1 { (workers * connections).next_power_of_two() } else { 0 };
        let slots = <[AtomicU32]>::new_box_zeroed_with_elems(slots);
        // Out of memory at start: nothing else can be done.
        Owners { slots: slots.expect("memory for the owners of connections"), seed }
    }

    /// The slot of a tuple, and what `worker` would write into it.
    #[inline]
    fn slot(&self, tuple: &Tuple, worker: usize) -> Option<(&AtomicU32, u32)> {
        if self.slots.is_empty() {
            return None;
        }
        let hash = tuple.hash(self.seed);
        let tag = (hash >> 32) as u32 & !WORKERS;
        Some((&self.slots[hash as usize & (self.slots.len() - 1)], tag | (worker as u32 + 1)))
    }

    /// The other worker that most likely has the connection of a client's
    /// packet which `worker` does not have. That it is `worker` itself is
    /// forgotten, since it does not.
    #[inline]
    pub(super) fn elsewhere(&self, tuple: &Tuple, worker: usize) -> Option<usize> {
        let (slot, own) = self.slot(tuple, worker)?;
        let found = slot.load(Relaxed);
        if found == own {
            slot.store(0, Relaxed);
            return None;
        }
        let (tag, owner) = (found & !WORKERS, found & WORKERS);
        (owner != 0 && tag == own & !WORKERS).then(|| owner as usize - 1)
    }

    /// The worker that most likely has the connection of a client.
    pub(crate) fn of(&self, tuple: &Tuple) -> Option<usize> {
        let (slot, any) = self.slot(tuple, 0)?;
        let found = slot.load(Relaxed);
        let (tag, owner) = (found & !WORKERS, found & WORKERS);
        (owner != 0 && tag == any & !WORKERS).then(|| owner as usize - 1)
    }

    /// Another worker that most likely has it.
    pub(super) fn other(&self, tuple: &Tuple, worker: usize) -> Option<usize> {
        self.of(tuple).filter(|owner| *owner != worker)
    }

    /// Whether another worker began a connection of this client after `worker`
    /// did, which still has the former one.
    pub(super) fn is_outdated(&self, tuple: &Tuple, worker: usize) -> bool {
        let Some((slot, own)) = self.slot(tuple, worker) else { return false };
        let found = slot.load(Relaxed);
        found != own && found & WORKERS != 0 && found & !WORKERS == own & !WORKERS
    }

    /// `worker` has a connection of this client from now on.
    #[inline]
    pub(super) fn begun(&self, tuple: &Tuple, worker: usize) {
        if worker >= WORKERS as usize {
            return;
        }
        if let Some((slot, own)) = self.slot(tuple, worker) {
            slot.store(own, Relaxed);
        }
    }

    /// `worker` has it no more.
    #[inline]
    pub(super) fn over(&self, tuple: &Tuple, worker: usize) {
        if worker >= WORKERS as usize {
            return;
        }
        if let Some((slot, own)) = self.slot(tuple, worker) {
            // Another worker's word of another connection may be there by now.
            let _ = slot.compare_exchange(own, 0, Relaxed, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Protocol;
    use crate::wire::Address;

    fn client(port: u16) -> Tuple {
        Tuple {
            source: Address::from_v4([198, 51, 100, 1]),
            destination: Address::from_v4([192, 0, 2, 10]),
            source_port: port,
            destination_port: 53,
            protocol: Protocol::Udp,
        }
    }

    #[test]
    fn the_worker_that_has_it_is_named_to_the_others() {
        let owners = Owners::new(4, 1000, Seed::new([7; 16]));
        assert_eq!(owners.elsewhere(&client(1), 0), None);
        owners.begun(&client(1), 2);
        assert_eq!([0, 1, 3].map(|worker| owners.elsewhere(&client(1), worker)), [Some(2); 3]);
        assert_eq!(owners.elsewhere(&client(2), 0), None);
        assert_eq!([0, 2].map(|worker| owners.is_outdated(&client(1), worker)), [true, false]);
        assert!(!owners.is_outdated(&client(2), 0));
        owners.over(&client(1), 1);
        assert_eq!(owners.elsewhere(&client(1), 0), Some(2), "another worker cannot end it");
        owners.over(&client(1), 2);
        assert_eq!(owners.elsewhere(&client(1), 0), None);
    }

    /// Otherwise two workers could hand a packet to each other for ever.
    #[test]
    fn who_does_not_have_it_is_not_named_again() {
        let owners = Owners::new(2, 1000, Seed::new([7; 16]));
        owners.begun(&client(1), 1);
        assert_eq!(owners.elsewhere(&client(1), 0), Some(1));
        assert_eq!(owners.elsewhere(&client(1), 1), None);
        assert_eq!(owners.elsewhere(&client(1), 0), None);
    }

    #[test]
    fn one_worker_needs_none_and_the_256th_is_not_named() {
        let alone = Owners::new(1, 1000, Seed::new([7; 16]));
        alone.begun(&client(1), 0);
        assert_eq!((alone.slots.len(), alone.elsewhere(&client(1), 0)), (0, None));
        let many = Owners::new(300, 10, Seed::new([7; 16]));
        many.begun(&client(1), 255);
        assert_eq!(many.elsewhere(&client(1), 0), None);
        many.begun(&client(1), 254);
        assert_eq!(many.elsewhere(&client(1), 0), Some(254));
        assert_eq!(many.elsewhere(&client(1), 299), Some(254));
    }
}
