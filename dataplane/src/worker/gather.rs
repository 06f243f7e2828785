//! What is known of packets that come in fragments.
//!
//! Nothing is reassembled: fragments go on one by one, the later ones as the
//! first was. What is kept of a packet is what became of its first fragment;
//! later ones that come before it wait for a moment. Both are bounded in number
//! and time.

use std::collections::VecDeque;

use super::held::Waiting;
use crate::conn::chains::Chains;
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
    until: u64,
    /// Whether no later packet of the same key took its place
    found: bool,
}

/// The packets in fragments of one worker. All memory is taken at the start.
pub(super) struct Gather<F> {
    /// In turn: that of serial `n` is at `n` modulo [`MOST_KNOWN`]
    known: Vec<Known>,
    index: Chains,
    /// The serial of the oldest that is known, and that of the next
    oldest: u64,
    next: u64,
    waiting: VecDeque<(FragmentKey, Waiting<F>)>,
    seed: Seed,
}

fn place(serial: u64) -> usize {
    (serial % MOST_KNOWN as u64) as usize
}

impl<F> Gather<F> {
    pub(super) fn new(seed: Seed) -> Self {
        Gather {
            known: Vec::with_capacity(MOST_KNOWN),
            index: Chains::new(MOST_KNOWN),
            oldest: 0,
            next: 0,
            waiting: VecDeque::with_capacity(MOST_WAITING),
            seed,
        }
    }

    /// Frames that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn find(&self, key: &FragmentKey) -> Option<u32> {
        let is_it = |place: u32| self.known.get(place as usize).is_some_and(|known| known.key == *key);
        self.index.find(key.hash(self.seed), is_it)
    }

    /// What became of the first fragment, if it came already.
    pub(super) fn first(&self, key: &FragmentKey) -> Option<First> {
        self.find(key).map(|place| self.known[place as usize].first)
    }

    /// Remembers what became of a first fragment.
    pub(super) fn learn(&mut self, key: FragmentKey, first: First, now: u64) {
        self.forget(now);
        if self.next - self.oldest >= MOST_KNOWN as u64 {
            self.forget_oldest();
        }
        let hash = key.hash(self.seed);
        if let Some(former) = self.find(&key) {
            self.index.remove(hash, former);
            self.known[former as usize].found = false;
        }
        let known = Known { key, first, until: now + KNOWN_FOR, found: true };
        let place = place(self.next);
        match self.known.get_mut(place) {
            Some(former) => *former = known,
            None => self.known.push(known),
        }
        self.index.insert(hash, place as u32);
        self.next += 1;
    }

    /// Forgets what was known for long enough.
    pub(super) fn forget(&mut self, now: u64) {
        while self.oldest < self.next && self.known[place(self.oldest)].until <= now {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let place = place(self.oldest);
        self.oldest += 1;
        let known = &self.known[place];
        if known.found {
            self.index.remove(known.key.hash(self.seed), place as u32);
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
        let kept = |gather: &Gather<()>| gather.next - gather.oldest;
        assert_eq!((kept(&gather), gather.known.capacity()), (MOST_KNOWN as u64, MOST_KNOWN));
        assert_eq!(gather.first(&key(999_999 - MOST_KNOWN as u32)), None);
        assert_eq!(gather.first(&key(1_000_000 - MOST_KNOWN as u32)), Some(First::Kernel));
        // One packet over and over.
        for _ in 0..100_000 {
            gather.learn(key(7), First::PassedOn, 1);
        }
        assert!(kept(&gather) == MOST_KNOWN as u64 && gather.first(&key(999_999)).is_none());
        assert_eq!(gather.first(&key(7)), Some(First::PassedOn));
        gather.forget(KNOWN_FOR);
        assert_eq!(gather.first(&key(7)), Some(First::PassedOn));
        gather.forget(KNOWN_FOR + 1);
        assert_eq!((kept(&gather), gather.first(&key(7))), (0, None));
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
