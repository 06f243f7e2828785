//! When connections expire: a hierarchical timing wheel.
//!
//! Time is counted in ticks of 125 ms since the worker started, in a `u32`: it
//! lasts for 17 years, and the wheel never wraps around.
//!
//! A connection's deadline moves with each packet, so moving it must cost no
//! more than a store. [`Wheel::touch`] does only that: the entry stays linked
//! where its old deadline put it, and when that slot comes up and the deadline
//! turns out to lie ahead, the entry is linked anew. An entry with packets all
//! the time is thus moved once in its timeout, not once a packet.
//!
//! There are four levels of 256 slots. An entry sits on the level of the
//! highest byte in which its deadline differs from the wheel's time, in the
//! slot of that byte's value (Varghese and Lauck's scheme 7). On every level the
//! occupied slots lie ahead of the wheel's time, and a bitmap finds the next of
//! them, so that hours without a timer are skipped in one step.
//!
//! Entries are known by number, and their [`Deadlines`] may be kept with what
//! else there is of them. All memory is taken at construction, and as an entry
//! of zeroes means "not linked", the pages of entries never used are not
//! touched unless that is asked for.

use crate::memory;
use crate::prefetch::prefetch;

/// Ticks in a second.
pub const TICKS_PER_SECOND: u32 = 8;

/// The ticks of so many seconds, at most `u32::MAX`.
#[inline]
pub const fn ticks(seconds: u32) -> u32 {
    seconds.saturating_mul(TICKS_PER_SECOND)
}

const LEVELS: usize = 4;
const SLOTS: usize = 256;

/// In a `previous` link: what follows is a slot, as the entry is its first.
const FIRST: u32 = 1 << 31;

/// The neighbours of an entry in its slot's list.
///
/// Entries are written as their number plus one, and 0 is none. An array
/// and no struct, since the standard library takes lazily zeroed memory for
/// arrays of integers only.
type Links = [u32; 2];
const NEXT: usize = 0;
const PREVIOUS: usize = 1;

/// The deadlines of a wheel's entries. One of an entry that is not linked means
/// nothing.
pub trait Deadlines {
    /// That of an entry; 0 if there is no such entry.
    fn deadline(&self, id: u32) -> u32;
    /// Changes it, if there is such an entry.
    fn set_deadline(&mut self, id: u32, deadline: u32);
    /// Asks the cache for it.
    fn prefetch_deadline(&self, id: u32);
}

impl Deadlines for Vec<u32> {
    #[inline]
    fn deadline(&self, id: u32) -> u32 {
        self.get(id as usize).copied().unwrap_or(0)
    }

    #[inline]
    fn set_deadline(&mut self, id: u32, deadline: u32) {
        if let Some(present) = self.get_mut(id as usize) {
            *present = deadline;
        }
    }

    #[inline]
    fn prefetch_deadline(&self, id: u32) {
        if let Some(deadline) = self.get(id as usize) {
            prefetch(deadline);
        }
    }
}

/// A timing wheel over entries `0..capacity`.
///
/// Entry numbers beyond the capacity are ignored by all methods.
#[derive(Debug)]
pub struct Wheel<D = Vec<u32>> {
    /// Every deadline that is due before this tick was handled, but for the
    /// rest of the slot `draining`
    time: u32,
    /// A slot of which the last call left a part behind
    draining: Option<u16>,
    linked: usize,
    /// Apart from the deadlines, which are all that the packet path writes
    links: Vec<Links>,
    deadlines: D,
    /// First entry of each slot, plus one; level by level
    heads: Vec<u32>,
    /// A bit for each slot that holds an entry
    occupied: [[u64; SLOTS / 64]; LEVELS],
}

impl Wheel {
    /// A wheel for entries `0..capacity` that starts at tick `now`. Takes 12
    /// bytes an entry, which the kernel provides as they are used.
    ///
    /// # Panics
    /// When `capacity` is 2³¹ or more: the top bit of a link tells slots
    /// from entries.
    pub fn new(capacity: usize, now: u32) -> Self {
        Wheel::of(vec![0; capacity], capacity, now)
    }
}

impl<D: Deadlines> Wheel<D> {
    /// Bytes that it takes for each entry itself.
    pub(super) const BYTES: usize = size_of::<Links>();

    /// A wheel for entries `0..capacity` with these deadlines. Takes 8 bytes an
    /// entry itself.
    ///
    /// # Panics
    /// As [`Wheel::new`].
    pub fn of(deadlines: D, capacity: usize, now: u32) -> Self {
        assert!(capacity < FIRST as usize, "a wheel of {capacity} entries: at most {} fit", FIRST - 1);
        Wheel {
            time: now,
            draining: None,
            linked: 0,
            links: vec![[0; 2]; capacity],
            deadlines,
            heads: vec![0; LEVELS * SLOTS],
            occupied: [[0; SLOTS / 64]; LEVELS],
        }
    }

    /// Lets the kernel provide all memory of the wheel itself.
    pub(super) fn provide(&self) {
        memory::provide(&self.links);
    }

    /// Asks the cache for what linking or unlinking an entry changes of it.
    #[inline]
    pub(super) fn prefetch(&self, id: u32) {
        if let Some(links) = self.links.get(id as usize) {
            prefetch(links);
        }
        self.deadlines.prefetch_deadline(id);
    }

    /// What the deadlines are kept with.
    #[inline]
    pub fn entries(&self) -> &D {
        &self.deadlines
    }

    /// What the deadlines are kept with. A deadline may be moved there to a later
    /// tick, and not to an earlier one.
    #[inline]
    pub fn entries_mut(&mut self) -> &mut D {
        &mut self.deadlines
    }

    /// Lets `id` expire at tick `deadline`, whether it had a deadline or not.
    /// One that is past expires at the next [`Wheel::advance`].
    #[inline]
    pub fn schedule(&mut self, id: u32, deadline: u32) {
        if self.is_linked(id) {
            self.touch(id, deadline);
        } else if (id as usize) < self.links.len() {
            self.deadlines.set_deadline(id, deadline);
            self.link(id);
        }
    }

    /// Moves the deadline of a scheduled entry. This is what the packet path
    /// calls: a later deadline is one comparison and one store, an earlier
    /// one is [`Wheel::shorten`]. Nothing happens to an entry that is not
    /// scheduled.
    #[inline]
    pub fn touch(&mut self, id: u32, deadline: u32) {
        if deadline >= self.deadlines.deadline(id) {
            // Harmless where the entry is not linked: linking stores it anew.
            self.deadlines.set_deadline(id, deadline);
        } else {
            self.shorten(id, deadline);
        }
    }

    /// Moves the deadline of a scheduled entry to an earlier tick, which needs
    /// linking it anew. Nothing happens to an entry that is not scheduled.
    #[cold]
    #[inline(never)]
    pub fn shorten(&mut self, id: u32, deadline: u32) {
        if self.is_linked(id) {
            self.unlink(id);
            self.deadlines.set_deadline(id, deadline);
            self.link(id);
        }
    }

    /// Takes the deadline off an entry. Nothing happens to one without.
    #[inline]
    pub fn cancel(&mut self, id: u32) {
        if self.is_linked(id) {
            self.unlink(id);
        }
    }

    /// The tick at which `id` expires; `None` while it is not scheduled.
    #[inline]
    pub fn deadline(&self, id: u32) -> Option<u32> {
        self.is_linked(id).then(|| self.deadlines.deadline(id))
    }

    /// Number of entries that are scheduled.
    pub fn len(&self) -> usize {
        self.linked
    }

    /// Whether no entry is scheduled.
    pub fn is_empty(&self) -> bool {
        self.linked == 0
    }

    /// Calls `expired` for entries whose deadline has come, and takes it off
    /// them first. Handles at most `budget` entries, expired or moved on, and
    /// continues there in the next call. An entry never expires early; it
    /// expires in the first call at or after its deadline that the budget
    /// reaches. The order among entries that are due is not defined.
    ///
    /// Returns false when the budget was used up, so that more may be due. The
    /// cost is that of the entries handled, however far `now` is from the
    /// last call.
    #[inline]
    pub fn advance(&mut self, now: u32, budget: usize, mut expired: impl FnMut(u32)) -> bool {
        if now == self.time && self.draining.is_none() && self.heads[usize::from(now as u8)] == 0 {
            return true;
        }
        let mut budget = budget;
        while let Some(id) = self.pop(now, &mut budget) {
            expired(id);
        }
        budget > 0
    }

    /// The next entry whose deadline has come, with its deadline taken off;
    /// `None` when nothing more is due or `budget` is used up. This is
    /// [`Wheel::advance`] in single steps, for a caller that needs the wheel
    /// in between. Each entry that is looked at takes one off `budget`, so what
    /// remains of it tells the two ends apart.
    pub fn pop(&mut self, now: u32, budget: &mut usize) -> Option<u32> {
        while *budget > 0 {
            let slot = match self.draining {
                Some(slot) => slot,
                None => self.next_slot(now)?,
            };
            let head = self.heads[usize::from(slot)];
            if head == 0 {
                self.draining = None;
                continue;
            }
            let id = head - 1;
            self.unlink(id);
            *budget -= 1;
            let next = self.heads[usize::from(slot)];
            self.draining = (next != 0).then_some(slot);
            if next != 0 {
                self.deadlines.prefetch_deadline(next - 1);
            }
            if self.deadlines.deadline(id) <= now {
                return Some(id);
            }
            // The deadline was prolonged, or the slot was a coarse one.
            self.link(id);
        }
        None
    }

    /// Moves the time to the next occupied slot that begins at or before
    /// `now`, else to `now`.
    fn next_slot(&mut self, now: u32) -> Option<u16> {
        for level in 0..LEVELS {
            let shift = 8 * level as u32;
            // Lower levels hold what is due before anything on higher ones.
            let Some(index) = self.next_occupied(level, (self.time >> shift) as u8) else { continue };
            let above = u32::MAX.checked_shl(shift + 8).unwrap_or(0);
            let start = (self.time & above) | (u32::from(index) << shift);
            if start > now {
                break;
            }
            self.time = self.time.max(start);
            return Some(slot_number(level, index));
        }
        // No occupied slot begins in between, so all keep to their levels.
        self.time = self.time.max(now);
        None
    }

    /// The first occupied slot of a level at or after `from`.
    fn next_occupied(&self, level: usize, from: u8) -> Option<u8> {
        let words = &self.occupied[level];
        let mut word = usize::from(from / 64);
        let mut bits = words[word] & (u64::MAX << (from % 64));
        while bits == 0 {
            word += 1;
            bits = *words.get(word)?;
        }
        Some((word * 64) as u8 + bits.trailing_zeros() as u8)
    }

    #[inline]
    fn is_linked(&self, id: u32) -> bool {
        self.links.get(id as usize).is_some_and(|links| links[PREVIOUS] != 0)
    }

    /// Puts an entry that is not linked into the slot of its deadline.
    fn link(&mut self, id: u32) {
        let when = self.deadlines.deadline(id).max(self.time);
        let level = (31 - ((self.time ^ when) | 0xff).leading_zeros()) as usize / 8;
        let index = (when >> (8 * level)) as u8;
        let slot = slot_number(level, index);
        let head = self.heads[usize::from(slot)];
        self.links[id as usize] = [head, FIRST | u32::from(slot)];
        if head != 0 {
            self.links[head as usize - 1][PREVIOUS] = id + 1;
        }
        self.heads[usize::from(slot)] = id + 1;
        self.occupied[level][usize::from(index / 64)] |= 1 << (index % 64);
        self.linked += 1;
    }

    /// Takes a linked entry out of its slot.
    fn unlink(&mut self, id: u32) {
        let [next, previous] = std::mem::take(&mut self.links[id as usize]);
        if next != 0 {
            self.links[next as usize - 1][PREVIOUS] = previous;
        }
        if previous & FIRST == 0 {
            self.links[previous as usize - 1][NEXT] = next;
        } else {
            let slot = (previous & !FIRST) as usize;
            self.heads[slot] = next;
            if next == 0 {
                let (level, index) = (slot / SLOTS, slot % SLOTS);
                self.occupied[level][index / 64] &= !(1 << (index % 64));
            }
        }
        self.linked -= 1;
    }
}

fn slot_number(level: usize, index: u8) -> u16 {
    (level * SLOTS) as u16 + u16::from(index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// `ipvsadm` takes timeouts up to this.
    const LONGEST_SECONDS: u32 = 31 * 86_400;

    fn expired(wheel: &mut Wheel, now: u32) -> Vec<u32> {
        let mut ids = Vec::new();
        assert!(wheel.advance(now, usize::MAX, |id| ids.push(id)));
        ids.sort_unstable();
        ids
    }

    #[test]
    fn expires_at_the_deadline_and_not_before() {
        for timeout in [0, 1, 2, 255, 256, 257, 7200, 65_535, 65_536, 1 << 24, ticks(LONGEST_SECONDS)] {
            for start in [0, 1, 200, 255, 256, 65_000, 0x00ff_ffff, 0x7fff_fff0, 0xf000_0000 - timeout] {
                let mut wheel = Wheel::new(1, start);
                wheel.schedule(0, start + timeout);
                if timeout > 0 {
                    assert_eq!(expired(&mut wheel, start + timeout - 1), []);
                }
                assert_eq!(expired(&mut wheel, start + timeout), [0], "{timeout} after {start}");
                assert!(wheel.is_empty());
            }
        }
    }

    #[test]
    fn prolonging_leaves_the_entry_in_its_slot() {
        let mut wheel = Wheel::new(2, 0);
        wheel.schedule(0, 10);
        let links = wheel.links.clone();
        wheel.touch(0, ticks(900));
        assert_eq!(wheel.links, links);
        assert_eq!(wheel.deadline(0), Some(7200));
        assert_eq!(expired(&mut wheel, 7199), []);
        assert_eq!(expired(&mut wheel, 7200), [0]);
    }

    #[test]
    fn an_earlier_deadline_counts_at_once() {
        let mut wheel = Wheel::new(2, 0);
        wheel.schedule(0, ticks(900));
        wheel.schedule(1, ticks(900));
        wheel.touch(0, ticks(120));
        wheel.shorten(1, ticks(10));
        assert_eq!(expired(&mut wheel, 80), [1]);
        assert_eq!(expired(&mut wheel, 959), []);
        assert_eq!(expired(&mut wheel, 960), [0]);
    }

    #[test]
    fn entries_without_a_deadline_stay_without() {
        let mut wheel = Wheel::new(2, 0);
        wheel.touch(1, 5);
        wheel.shorten(1, 0);
        wheel.cancel(1);
        assert_eq!(wheel.deadline(1), None);
        for beyond in [2, u32::MAX] {
            wheel.schedule(beyond, 1);
            wheel.touch(beyond, 1);
            wheel.shorten(beyond, 1);
            wheel.cancel(beyond);
            assert_eq!(wheel.deadline(beyond), None);
        }
        assert_eq!(expired(&mut wheel, u32::MAX), []);
    }

    #[test]
    fn hours_without_a_timer_cost_nothing() {
        let mut wheel = Wheel::new(3, 0);
        wheel.schedule(0, ticks(LONGEST_SECONDS));
        wheel.schedule(1, ticks(LONGEST_SECONDS) + 1);
        wheel.schedule(2, ticks(20 * 86_400));
        let mut budget = 100;
        assert_eq!(wheel.pop(ticks(19 * 86_400), &mut budget), None);
        // The third shares its coarse slots with the time reached, once a level.
        assert!(budget >= 97, "{budget} left");
        assert_eq!(wheel.pop(ticks(21 * 86_400), &mut budget), Some(2));
        assert!(budget >= 94, "{budget} left");
    }

    #[test]
    fn a_budget_slices_the_work_without_losing_any() {
        const ENTRIES: u32 = 1000;
        let mut wheel = Wheel::new(ENTRIES as usize, 0);
        for id in 0..ENTRIES {
            wheel.schedule(id, 7200);
        }
        for id in 0..ENTRIES / 2 {
            wheel.touch(id, 7300);
        }
        for (now, first, last) in [(7299, ENTRIES / 2, ENTRIES), (7300, 0, ENTRIES / 2)] {
            let mut ids = Vec::new();
            let mut calls = 0;
            loop {
                let before = ids.len();
                let finished = wheel.advance(now, 7, |id| ids.push(id));
                assert!(ids.len() - before <= 7);
                calls += 1;
                if finished {
                    break;
                }
                assert!(calls < 1000, "no end");
            }
            ids.sort_unstable();
            assert_eq!(ids, (first..last).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_slot_left_in_the_middle_may_change() {
        let mut wheel = Wheel::new(8, 0);
        (0..4).for_each(|id| wheel.schedule(id, 300));
        let mut budget = 1;
        let first = wheel.pop(300, &mut budget);
        let mut rest: Vec<u32> = (0..4).filter(|id| Some(*id) != first).collect();
        wheel.cancel(rest.pop().unwrap());
        wheel.touch(rest.pop().unwrap(), 400);
        wheel.schedule(7, 100);
        rest.push(7);
        assert_eq!(expired(&mut wheel, 300), rest);
        assert_eq!(expired(&mut wheel, 400).len(), 1);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Schedule(u32, u32),
        Touch(u32, u32),
        Shorten(u32, u32),
        Cancel(u32),
        Advance(u32, usize),
    }

    /// A span of ticks, all magnitudes up to the longest timeout alike.
    fn span() -> impl Strategy<Value = u32> {
        (0..25u32, any::<u32>()).prop_map(|(bits, n)| n % ((1 << bits) + 1)).boxed()
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let id = || 0..40u32;
        let step = prop_oneof![
            4 => (id(), span()).prop_map(|(id, after)| Step::Schedule(id, after)),
            4 => (id(), span()).prop_map(|(id, after)| Step::Touch(id, after)),
            1 => (id(), span()).prop_map(|(id, after)| Step::Shorten(id, after)),
            1 => id().prop_map(Step::Cancel),
            4 => (span(), prop_oneof![0..6usize, Just(usize::MAX)])
                .prop_map(|(after, budget)| Step::Advance(after, budget)),
        ];
        prop::collection::vec(step, 1..200)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn agrees_with_a_sorted_map(start in prop_oneof![Just(0), any::<u32>()], steps in steps()) {
            let mut now = start;
            let mut wheel = Wheel::new(40, now);
            let mut model = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Schedule(id, after) => {
                        wheel.schedule(id, now.saturating_add(after));
                        model.insert(id, now.saturating_add(after));
                    }
                    Step::Touch(id, after) | Step::Shorten(id, after) => {
                        if matches!(step, Step::Touch(..)) {
                            wheel.touch(id, now.saturating_add(after));
                        } else {
                            wheel.shorten(id, now.saturating_add(after));
                        }
                        model.entry(id).and_modify(|deadline| *deadline = now.saturating_add(after));
                    }
                    Step::Cancel(id) => {
                        wheel.cancel(id);
                        model.remove(&id);
                    }
                    Step::Advance(after, budget) => {
                        now = now.saturating_add(after);
                        let mut ids = Vec::new();
                        let finished = wheel.advance(now, budget, |id| ids.push(id));
                        prop_assert!(ids.len() <= budget);
                        for id in ids {
                            let deadline = model.remove(&id);
                            prop_assert!(deadline.is_some_and(|d| d <= now), "{id} at {now}: {deadline:?}");
                        }
                        prop_assert!(!finished || model.values().all(|deadline| *deadline > now));
                    }
                }
                prop_assert_eq!(wheel.len(), model.len());
                for id in 0..40 {
                    prop_assert_eq!(wheel.deadline(id), model.get(&id).copied());
                }
            }
            // With a budget of one entry a call, each is moved once a level at most.
            let mut calls = 0;
            while !wheel.advance(u32::MAX, 1, |id| { model.remove(&id); }) {
                calls += 1;
                prop_assert!(calls <= 40 * LEVELS);
            }
            prop_assert!(model.is_empty());
        }
    }
}
