//! What is known of packets that come in fragments.
//!
//! Nothing is reassembled: fragments go on one by one, the later ones as the
//! first was. What is kept of a packet is what became of its first fragment;
//! later ones that come before it wait for a moment. Both are bounded in number
//! and time.

use std::collections::VecDeque;

use hashbrown::HashTable;

use super::held::Waiting;
use crate::conn::{Seed, Tuple};
use crate::packet::FragmentKey;
use crate::stats::DropReason;

/// Packets whose first fragment is remembered. Beyond it the oldest are
/// forgotten.
pub(super) const MOST_KNOWN: usize = 4096;

/// How long it is, nanoseconds: as long as the kernel waits for the rest of a
/// packet (`net.ipv4.ipfrag_time`).
pub(super) const KNOWN_FOR: u64 = 30_000_000_000;

/// Frames that wait for the first fragment of their packet.
pub(super) const MOST_WAITING: usize = 256;

/// How long one waits, nanoseconds.
pub(super) const WAITS_FOR: u64 = 1_000_000_000;

/// What became of a first fragment, and is to become of the later ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum First {
    /// It belongs to this connection, whose packets come with this tuple
    Connection(Tuple),
    /// It was left to the kernel
    Kernel,
    /// It was passed on to the next worker
    PassedOn,
    /// It was dropped
    Dropped(DropReason),
}

struct Known {
    key: FragmentKey,
    first: First,
    /// Tells it from an earlier packet of the same key in `Gather::order`
    serial: u64,
}

/// The packets in fragments of one worker.
pub(super) struct Gather<F> {
    known: HashTable<Known>,
    /// When each was entered, the oldest first; serials that are not in `known`
    /// any more were replaced
    order: VecDeque<(FragmentKey, u64, u64)>,
    serial: u64,
    waiting: VecDeque<(FragmentKey, Waiting<F>)>,
    seed: Seed,
}

impl<F> Gather<F> {
    pub(super) fn new(seed: Seed) -> Self {
        Gather { known: HashTable::new(), order: VecDeque::new(), serial: 0, waiting: VecDeque::new(), seed }
    }

    /// Frames that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// What became of the first fragment, if it came already.
    pub(super) fn first(&self, key: &FragmentKey) -> Option<First> {
        self.known.find(key.hash(self.seed), |known| known.key == *key).map(|known| known.first)
    }

    /// Remembers what became of a first fragment.
    pub(super) fn learn(&mut self, key: FragmentKey, first: First, now: u64) {
        self.forget(now);
        if self.order.len() >= MOST_KNOWN {
            self.forget_oldest();
        }
        self.serial += 1;
        let (serial, seed) = (self.serial, self.seed);
        let hash = key.hash(seed);
        match self.known.find_mut(hash, |known| known.key == key) {
            Some(known) => (known.first, known.serial) = (first, serial),
            None => {
                let known = Known { key, first, serial };
                self.known.insert_unique(hash, known, |known| known.key.hash(seed));
            }
        }
        self.order.push_back((key, serial, now + KNOWN_FOR));
    }

    /// Forgets what was known for long enough.
    pub(super) fn forget(&mut self, now: u64) {
        while self.order.front().is_some_and(|(_, _, until)| *until <= now) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((key, serial, _)) = self.order.pop_front() else { return };
        let of_serial = |known: &Known| known.key == key && known.serial == serial;
        if let Ok(known) = self.known.find_entry(key.hash(self.seed), of_serial) {
            known.remove();
        }
    }

    /// Lets a later fragment wait for the first, or gives it back if too many
    /// do.
    pub(super) fn wait(&mut self, key: FragmentKey, frame: F, interface: usize, now: u64) -> Result<(), F> {
        if self.waiting.len() >= MOST_WAITING {
            return Err(frame);
        }
        self.waiting.push_back((key, Waiting { frame, interface, until: now + WAITS_FOR }));
        Ok(())
    }

    /// The oldest fragment that waits for this packet's first.
    pub(super) fn take(&mut self, key: &FragmentKey) -> Option<Waiting<F>> {
        let place = self.waiting.iter().position(|(waiting, _)| waiting == key)?;
        self.waiting.remove(place).map(|(_, waiting)| waiting)
    }

    /// A fragment that has waited too long.
    pub(super) fn take_expired(&mut self, now: u64) -> Option<Waiting<F>> {
        self.waiting.front().filter(|(_, waiting)| waiting.until <= now)?;
        self.take_any()
    }

    /// Any fragment that waits.
    pub(super) fn take_any(&mut self) -> Option<Waiting<F>> {
        self.waiting.pop_front().map(|(_, waiting)| waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Protocol;
    use crate::wire::Address;

    fn key(id: u32) -> FragmentKey {
        let address = Address::from_v4([192, 0, 2, 1]);
        FragmentKey { source: address, destination: address, id, protocol: Some(Protocol::Udp) }
    }

    #[test]
    fn a_flood_of_first_fragments_is_bounded() {
        let mut gather = Gather::<()>::new(Seed::new([1; 16]));
        for id in 0..1_000_000 {
            gather.learn(key(id), First::Kernel, 0);
        }
        assert_eq!((gather.known.len(), gather.order.len()), (MOST_KNOWN, MOST_KNOWN));
        assert!(gather.order.capacity() <= 2 * MOST_KNOWN);
        assert_eq!(gather.first(&key(999_999 - MOST_KNOWN as u32)), None);
        assert_eq!(gather.first(&key(1_000_000 - MOST_KNOWN as u32)), Some(First::Kernel));
        // One packet over and over.
        for _ in 0..100_000 {
            gather.learn(key(7), First::PassedOn, 1);
        }
        assert!(gather.order.len() <= MOST_KNOWN && gather.known.len() == 1);
        assert_eq!(gather.first(&key(7)), Some(First::PassedOn));
        gather.forget(KNOWN_FOR);
        assert_eq!(gather.first(&key(7)), Some(First::PassedOn));
        gather.forget(KNOWN_FOR + 1);
        assert_eq!((gather.known.len(), gather.order.len()), (0, 0));
    }

    #[test]
    fn fragments_wait_in_order_and_not_for_ever() {
        let mut gather = Gather::<u32>::new(Seed::new([1; 16]));
        for n in 0..MOST_WAITING as u32 {
            assert_eq!(gather.wait(key(n % 2), n, 0, n.into()), Ok(()));
        }
        assert_eq!(gather.wait(key(0), 999, 0, 0), Err(999));
        assert_eq!(gather.take(&key(1)).map(|waiting| waiting.frame), Some(1));
        assert_eq!(gather.take(&key(1)).map(|waiting| waiting.frame), Some(3));
        assert!(gather.take(&key(2)).is_none());
        assert!(gather.take_expired(WAITS_FOR - 1).is_none());
        assert_eq!(gather.take_expired(WAITS_FOR).map(|waiting| waiting.frame), Some(0));
        assert!(gather.take_expired(WAITS_FOR + 1).is_none());
    }
}
