//! A table of flows in memory that the program reads: where a flow is, and how one
//! is entered.
//!
//! There are twice as many slots as flows, so that a flow mostly is in its home, and of a
//! full table four in a million find no place in the [`WINDOW`] of theirs; their
//! connections stay with the worker. Nothing is moved, and nothing grows.
//!
//! The home of a key is made by the program in the same way: words of the key are
//! added to those of a secret seed and multiplied in pairs, and the sum of that is
//! mixed. Two keys have one home by chance alone (Thorup's pair-multiply-shift is
//! universal), and no choice of keys makes it likelier for who does not know the
//! seed.

use super::atomic::{AtomicU64, Ordering};
use super::board::Words;
use super::layout::{Flow, Key, Owner, SEEDS, Vec4, side_of};
use super::slot::{
    self, ADDRESSES, CARRIED, CLOSED, OWNER, PACKET, SETTLED, TERM, WAY, WHAT, WINDOW, WORDS_V4, WORDS_V6,
};
use crate::conn::Side;

/// In place of a slot: there is none.
pub(super) const NOWHERE: u32 = u32::MAX;

/// Homes for so many flows.
pub(super) fn homes(flows: u32) -> u32 {
    flows.max(8).saturating_mul(2)
}

/// Slots for so many flows: the last homes have a window, too.
pub(super) fn slots(flows: u32) -> u32 {
    homes(flows).saturating_add(slot::REACH)
}

/// What the homes of keys are made with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seed(pub(super) [u64; SEEDS]);

impl Seed {
    /// One from bytes that nobody can guess (splitmix64 of either half).
    pub(super) fn from_bytes(bytes: [u8; 16]) -> Self {
        let number = u128::from_ne_bytes(bytes);
        let mut halves = [number as u64, (number >> 64) as u64];
        Seed(std::array::from_fn(|_| {
            halves.iter_mut().fold(0u64, |sum, half| {
                *half = half.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let word = (*half ^ *half >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
                sum.rotate_left(1) ^ word ^ word >> 31
            })
        }))
    }

    /// The home of a key of so many; as `home_of` of the program has it.
    fn home(&self, key: &Key, homes: u32) -> u32 {
        let product = |seed: &[u64], [a, b]: [u32; 2]| {
            seed[0].wrapping_add(a.into()).wrapping_mul(seed[1].wrapping_add(b.into()))
        };
        let (ports, addresses) = key.pairs();
        let addresses: &[[u32; 2]] = match &addresses {
            Vec4::One(pairs) => pairs,
            Vec4::All(pairs) => pairs,
        };
        let mut sum = product(&self.0[..2], ports);
        for (seed, pair) in self.0[2..].chunks_exact(2).zip(addresses) {
            sum = sum.wrapping_add(product(seed, *pair));
        }
        sum ^= sum >> 32;
        sum = sum.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (((sum >> 32) * u64::from(homes)) >> 32) as u32
    }
}

/// A slot that somebody has, and its number in the window of its home.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub(super) slot: u32,
    pub(super) number: u8,
}

/// What a worker finds at a slot that it has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    /// The generation that it is in force in; 0 if it was taken out
    pub(crate) generation: u32,
    /// Whether a packet came by that may end the connection
    pub(crate) closed: bool,
    /// Packets that were carried since somebody looked, and their bytes
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    /// Whose they were
    pub(crate) side: Side,
    pub(crate) owner: Owner,
    /// Looks in a row at which there was nothing, but no more than [`MOST_ROUNDS`]
    pub(crate) rounds: u8,
}

/// Looks in vain are counted up to here.
pub(crate) const MOST_ROUNDS: u8 = SETTLED - 1;

/// When packets were carried at a slot; the latest comes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Last {
    /// Since the last look
    Now,
    /// Before so many looks
    Rounds(u8),
    /// None since that was settled
    Settled,
}

/// The flows of one address family.
pub(super) struct Table {
    words: Words,
    /// Words of a slot
    stride: usize,
    /// How many there are: asked at each look, where a division would be felt
    slots: usize,
    homes: u32,
    seed: Seed,
}

impl Table {
    pub(super) fn new(words: Words, is_v4: bool, homes: u32, seed: Seed) -> Self {
        let stride = if is_v4 { WORDS_V4 } else { WORDS_V6 };
        let slots = words.all().len() / stride;
        Table { words, stride, slots, homes, seed }
    }

    /// How many slots there are.
    pub(super) fn slots(&self) -> usize {
        self.slots
    }

    /// The words of a slot; none where there is none.
    fn slot(&self, at: u32) -> &[AtomicU64] {
        let first = at as usize * self.stride;
        self.words.all().get(first..first + self.stride).unwrap_or(&[])
    }

    fn home_of(&self, place: Place) -> &[AtomicU64] {
        self.slot(place.slot - slot::offset(place.number.into()))
    }

    fn home(&self, key: &Key) -> u32 {
        self.seed.home(key, self.homes)
    }

    /// Takes a slot for a key, if there is one.
    pub(super) fn claim(&self, key: &Key, token: u32) -> Option<Place> {
        let home = self.home(key);
        let at = |number: usize| home + slot::offset(number);
        let number = (0..WINDOW).find(|number| slot::claim(self.slot(at(*number)), token))?;
        Some(Place { slot: at(number), number: number as u8 })
    }

    /// Writes what a slot is to have.
    pub(super) fn fill(&self, place: Place, words: &[u64]) {
        slot::fill(self.slot(place.slot), words);
    }

    /// Puts a slot in force, to be found by its key.
    pub(super) fn publish(&self, place: Place, term: u64) {
        slot::publish(self.slot(place.slot), self.home_of(place), place.number.into(), term);
    }

    /// Puts a slot in force which only another one leads to.
    pub(super) fn publish_apart(&self, place: Place, term: u64) {
        self.slot(place.slot)[TERM].store(term, Ordering::Release);
    }

    /// Takes a slot out of force.
    pub(super) fn withdraw(&self, place: Place, token: u32) {
        slot::withdraw(self.slot(place.slot), self.home_of(place), place.number.into(), token);
    }

    /// Gives a slot up.
    pub(super) fn release(&self, place: Place) {
        slot::release(self.slot(place.slot));
    }

    /// Whether there is a flow with a key in force, which is left alone.
    pub(super) fn has(&self, key: &Key, generation: u32) -> bool {
        self.find(key, generation).is_some()
    }

    /// The slot of the flow with a key that is in force, and its term; as the
    /// program finds it.
    pub(super) fn find(&self, key: &Key, generation: u32) -> Option<(u32, u64)> {
        let at = self.home(key);
        let home = self.slot(at);
        let wanted = Wanted::of(key, self.stride);
        (0..WINDOW).filter(|number| slot::is_near(home, *number)).find_map(|number| {
            let place = at + slot::offset(number);
            let slot = self.slot(place);
            let term = slot::begin(slot, generation)?;
            (wanted.is_at(slot) && slot::end(slot, term)).then_some((place, term))
        })
    }

    /// Looks at a slot, and takes what was carried. For who has it, once a round.
    #[inline]
    pub(super) fn look(&self, slot: u32) -> Found {
        let slot = self.slot(slot);
        let what = slot[WHAT].load(Ordering::Relaxed);
        let (packets, bytes) = slot::take(slot);
        let before = slot::rounds(what);
        let in_vain = before & SETTLED | ((before & !SETTLED) + 1).min(MOST_ROUNDS);
        let after = if packets > 0 { 0 } else { in_vain };
        if after != before {
            // The program may be about to close it.
            slot[WHAT].fetch_xor(slot::at_rounds(before ^ after), Ordering::Relaxed);
        }
        Found {
            generation: slot::generation(slot[TERM].load(Ordering::Relaxed)),
            closed: what & CLOSED != 0,
            packets,
            bytes,
            side: side_of(what),
            owner: Owner::from_word(slot[OWNER].load(Ordering::Relaxed)),
            rounds: after & !SETTLED,
        }
    }

    /// Takes what was carried at a slot, and takes note that the connection's timer
    /// says what it says from now on. For who has it.
    pub(super) fn settle(&self, slot: u32) -> (u64, u64) {
        let slot = self.slot(slot);
        let carried = slot::take(slot);
        let what = slot[WHAT].fetch_or(slot::at_rounds(SETTLED), Ordering::Relaxed);
        if carried.0 > 0 {
            slot[WHAT].fetch_and(!slot::at_rounds(slot::rounds(what) & !SETTLED), Ordering::Relaxed);
        }
        carried
    }

    /// When packets were carried at a slot.
    pub(super) fn last(&self, slot: u32) -> Last {
        let slot = self.slot(slot);
        let rounds = slot::rounds(slot[WHAT].load(Ordering::Relaxed));
        match (slot::has_carried(slot), rounds & SETTLED) {
            (true, _) => Last::Now,
            (false, 0) => Last::Rounds(rounds),
            (false, _) => Last::Settled,
        }
    }

    /// Whose a slot is. For who has it.
    pub(super) fn owner(&self, slot: u32) -> Owner {
        Owner::from_word(self.slot(slot)[OWNER].load(Ordering::Relaxed))
    }

    /// Looks in a row at which nothing was carried.
    pub(super) fn rounds(&self, slot: u32) -> u8 {
        let slot = self.slot(slot);
        let rounds = slot::rounds(slot[WHAT].load(Ordering::Relaxed)) & !SETTLED;
        if slot::has_carried(slot) { 0 } else { rounds }
    }

    /// Whether a packet came by that may end the connection of a slot.
    pub(super) fn is_closed(&self, slot: u32) -> bool {
        self.slot(slot).get(WHAT).is_some_and(|word| word.load(Ordering::Relaxed) & CLOSED != 0)
    }

    /// Counts as the program does.
    pub(super) fn count(&self, slot: u32, packets: u64, bytes: u64) {
        self.slot(slot)[CARRIED].fetch_add(packets * PACKET + bytes, Ordering::Relaxed);
    }

    /// Closes as the program does, a slot and its peer.
    pub(super) fn close(&self, slot: u32, term: u64) {
        let [a, b, c, d, ..] = self.slot(slot)[WAY].load(Ordering::Relaxed).to_ne_bytes();
        for slot in [slot, u32::from_ne_bytes([a, b, c, d])] {
            let slot = self.slot(slot);
            if slot.first().is_some_and(|word| word.load(Ordering::Acquire) == term) {
                slot[WHAT].fetch_or(CLOSED, Ordering::Relaxed);
            }
        }
    }

    /// Slots that somebody has, and those of them that are not withdrawn.
    pub(super) fn taken(&self) -> (usize, usize) {
        let terms = self.words.all().iter().step_by(self.stride);
        terms.map(|term| term.load(Ordering::Relaxed)).fold((0, 0), |(taken, standing), term| {
            (taken + usize::from(term != 0), standing + usize::from(slot::generation(term) != 0))
        })
    }

    /// Asks the cache for a slot.
    pub(super) fn prefetch(&self, slot: u32) {
        if let Some(word) = self.slot(slot).first() {
            crate::prefetch::prefetch_to_change(word);
        }
    }
}

/// The words by which a slot is that of a key.
struct Wanted {
    what: u64,
    addresses: [u64; 4],
    count: usize,
}

impl Wanted {
    fn of(key: &Key, stride: usize) -> Self {
        let (what, addresses) = key.words();
        let count = if stride == WORDS_V4 { 1 } else { 4 };
        Wanted { what, addresses, count }
    }

    fn is_at(&self, slot: &[AtomicU64]) -> bool {
        let word = |at: usize| slot[at].load(Ordering::Relaxed);
        let same = word(WHAT) & Flow::KEY == self.what;
        same && (0..self.count).all(|number| word(ADDRESSES + number) == self.addresses[number])
    }
}
