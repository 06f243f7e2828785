//! The hash index of the connection table: hashes to references, made for
//! lookups in batches.
//!
//! A bucket is one cache line: twelve one-byte tags, a count, and twelve
//! references. A reference that finds its bucket full goes to the next one
//! that is not, and every bucket that it passes counts it; so a lookup goes on
//! to the next bucket only where something was passed on, and removing leaves
//! nothing behind that would have to be cleaned up later. There is no rehash:
//! the index is made large enough for all that will ever be in it.

use zerocopy::FromZeros;

use crate::memory;
use crate::prefetch::prefetch;

/// References in a bucket.
const SLOTS: usize = 12;

/// Tenths of all slots that may be in use.
///
/// A reference that was passed on stays where it is when its home has room again,
/// so an index is fuller than it looks once all that was in it was replaced, the
/// oldest first. Buckets that a lookup in vain then looks at in the mean, and hits
/// that are not at home:
///
/// | tenths | buckets | not at home |
/// |--------|---------|-------------|
/// | 8      | 5.4     | 22 %        |
/// | 7      | 2.0     | 11 %        |
/// | 6      | 1.2     | 4 %         |
/// | 5      | 1.05    | 1 %         |
///
/// Half of the slots empty are 8 bytes more for a connection than a fifth, and took
/// a third off the time of a new one at a million.
const LOAD_TENTHS: usize = 5;

#[derive(Clone, Debug, FromZeros)]
#[repr(C, align(64))]
struct Bucket {
    /// Eight bits of each reference's hash; 0 where there is none
    tags: [u8; SLOTS],
    /// References that were meant for this bucket or one before it and are
    /// in one behind it
    passed: u32,
    references: [u32; SLOTS],
}

/// What is known of a lookup after a look at one bucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Guess {
    /// It ends here, most likely
    Here(u32),
    /// It may end in a bucket behind
    Beyond,
    /// It ends without
    Nowhere,
}

/// References by hash.
pub(crate) struct Index {
    buckets: Vec<Bucket>,
}

impl Index {
    /// Bytes that it takes for each reference, rounded up.
    pub(super) const BYTES: usize = (size_of::<Bucket>() * 10).div_ceil(SLOTS * LOAD_TENTHS);

    /// An index for at most `capacity` references. Its memory is taken at once.
    pub(crate) fn new(capacity: usize) -> Self {
        let number = (capacity * 10).div_ceil(SLOTS * LOAD_TENTHS) + 1;
        let mut buckets = Vec::with_capacity(number);
        memory::provide(&buckets);
        buckets.resize_with(number, Bucket::new_zeroed);
        Index { buckets }
    }

    /// References in it.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.buckets.iter().flat_map(|bucket| bucket.tags).filter(|tag| *tag != 0).count()
    }

    /// References that it has slots for.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.buckets.len() * SLOTS
    }

    /// The bucket that a hash is meant for, by its upper half; tags are of the
    /// lower half.
    #[inline]
    fn home(&self, hash: u64) -> usize {
        (((hash >> 32) * self.buckets.len() as u64) >> 32) as usize
    }

    #[inline]
    fn next(&self, place: usize) -> usize {
        if place + 1 == self.buckets.len() { 0 } else { place + 1 }
    }

    /// Asks the cache for what a lookup begins with.
    #[inline]
    pub(crate) fn prefetch(&self, hash: u64) {
        prefetch(&self.buckets[self.home(hash)]);
    }

    /// The reference that a lookup most likely ends with, and `ask` for those that
    /// it may end with. Where there is none but in the next bucket, the cache is
    /// asked for that.
    #[inline]
    pub(crate) fn likely(&self, hash: u64, ask: impl Fn(u32)) -> Guess {
        let home = self.home(hash);
        let guess = self.guess(home, hash, ask);
        if guess == Guess::Beyond {
            prefetch(&self.buckets[self.next(home)]);
        }
        guess
    }

    /// The same where [`Index::likely`] came to the end of a bucket.
    pub(crate) fn likely_beyond(&self, hash: u64, ask: impl Fn(u32)) -> Guess {
        self.guess(self.next(self.home(hash)), hash, ask)
    }

    #[inline(always)]
    fn guess(&self, place: usize, hash: u64, ask: impl Fn(u32)) -> Guess {
        let bucket = &self.buckets[place];
        let mut slots = matches(bucket, tag(hash)).map(|slot| bucket.references[slot]);
        let Some(first) = slots.next() else {
            return if bucket.passed == 0 { Guess::Nowhere } else { Guess::Beyond };
        };
        ask(first);
        slots.for_each(ask);
        Guess::Here(first)
    }

    /// The reference under `hash` that `is_it` says is it.
    #[inline]
    pub(crate) fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut place = self.home(hash);
        // The bound is never reached, as not all buckets are full.
        for _ in 0..self.buckets.len() {
            let bucket = &self.buckets[place];
            for slot in matches(bucket, tag(hash)) {
                if is_it(bucket.references[slot]) {
                    return Some(bucket.references[slot]);
                }
            }
            if bucket.passed == 0 {
                return None;
            }
            place = self.next(place);
        }
        None
    }

    /// Enters a reference. Returns false, and enters nothing, when every slot
    /// is taken.
    pub(crate) fn insert(&mut self, hash: u64, reference: u32) -> bool {
        let home = self.home(hash);
        let mut place = home;
        for _ in 0..self.buckets.len() {
            if let Some(slot) = matches(&self.buckets[place], 0).next() {
                self.buckets[place].tags[slot] = tag(hash);
                self.buckets[place].references[slot] = reference;
                self.pass(home, place, 1);
                return true;
            }
            place = self.next(place);
        }
        false
    }

    /// Takes a reference out; nothing happens where it is not in.
    pub(crate) fn remove(&mut self, hash: u64, reference: u32) {
        let home = self.home(hash);
        let mut place = home;
        for _ in 0..self.buckets.len() {
            let bucket = &mut self.buckets[place];
            let found = matches(bucket, tag(hash)).find(|slot| bucket.references[*slot] == reference);
            if let Some(slot) = found {
                bucket.tags[slot] = 0;
                self.pass(home, place, -1);
                return;
            }
            if bucket.passed == 0 {
                return;
            }
            place = self.next(place);
        }
    }

    /// Counts a reference that is in `place` in all buckets from `home` on
    /// that it was passed on by.
    fn pass(&mut self, home: usize, place: usize, change: i32) {
        let mut passed = home;
        while passed != place {
            let count = &mut self.buckets[passed].passed;
            *count = count.wrapping_add_signed(change);
            passed = self.next(passed);
        }
    }
}

/// The tag of a hash, which is never 0.
#[inline]
fn tag(hash: u64) -> u8 {
    (hash as u8).max(1)
}

/// The slots with a tag.
#[inline(always)]
fn matches(bucket: &Bucket, tag: u8) -> impl Iterator<Item = usize> + use<> {
    let mut found = equal(bucket, tag) & ((1 << SLOTS) - 1);
    std::iter::from_fn(move || {
        if found == 0 {
            return None;
        }
        let slot = found.trailing_zeros() as usize;
        found &= found - 1;
        Some(slot)
    })
}

/// A bit for each byte of the bucket's first sixteen that is `tag`: in two
/// instructions, which every processor of this architecture has.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
#[allow(unsafe_code)]
fn equal(bucket: &Bucket, tag: u8) -> u32 {
    use std::arch::x86_64::{_mm_cmpeq_epi8, _mm_load_si128, _mm_movemask_epi8, _mm_set1_epi8};
    // SAFETY: SSE2 is a part of x86-64. A bucket is plain bytes, more than sixteen
    // of them, and aligned to 64.
    unsafe {
        let head = _mm_load_si128(std::ptr::from_ref(bucket).cast());
        _mm_movemask_epi8(_mm_cmpeq_epi8(head, _mm_set1_epi8(tag as i8))) as u32
    }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn equal(bucket: &Bucket, tag: u8) -> u32 {
    (0..).zip(&bucket.tags).fold(0, |found, (slot, other)| found | u32::from(*other == tag) << slot)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Few homes and tags, so that buckets fill up, pass on, and hold others
    /// with the same tag. A reference has one hash, as in the table.
    fn hash(reference: u32) -> u64 {
        u64::from(reference % 7) << 60 | u64::from(reference % 5)
    }

    proptest! {
        #[test]
        fn an_index_is_a_set(steps in proptest::collection::vec((any::<bool>(), 0u32..200), 0..2000)) {
            const CAPACITY: usize = 100;
            let mut index = Index::new(CAPACITY);
            let mut model = BTreeSet::new();
            for (add, reference) in steps {
                let known = model.contains(&reference);
                let found = index.find(hash(reference), |found| found == reference);
                prop_assert_eq!(found, known.then_some(reference));
                if add && !known && model.len() < CAPACITY {
                    prop_assert!(index.insert(hash(reference), reference));
                    model.insert(reference);
                } else if !add {
                    index.remove(hash(reference), reference);
                    model.remove(&reference);
                }
            }
            for reference in &model {
                index.remove(hash(*reference), *reference);
            }
            for bucket in &index.buckets {
                prop_assert_eq!((bucket.passed, bucket.tags), (0, [0; SLOTS]));
            }
        }
    }

    /// As in a director at a steady rate: the oldest connections make room for new
    /// ones.
    #[test]
    fn lookups_stay_short_when_all_was_replaced() {
        const CAPACITY: u32 = 20_000;
        let mut index = Index::new(CAPACITY as usize);
        let seed = crate::conn::Seed::new([7; 16]);
        let hash = |number: u32| seed.hash_bytes(0, &number.to_le_bytes());
        for number in 0..5 * CAPACITY {
            if let Some(oldest) = number.checked_sub(CAPACITY) {
                index.remove(hash(oldest), oldest);
            }
            assert!(index.insert(hash(number), number));
        }
        let passed = index.buckets.iter().filter(|bucket| bucket.passed > 0).count();
        assert!(passed * 100 < index.buckets.len() * 8, "{passed} of {}", index.buckets.len());
    }

    #[test]
    fn a_bucket_is_a_cache_line() {
        assert_eq!(size_of::<Bucket>(), 64);
    }

    #[test]
    fn a_full_index_says_so() {
        let mut index = Index::new(1);
        let slots = index.buckets.len() * SLOTS;
        for i in 0..slots {
            assert!(index.insert(u64::MAX, i as u32));
        }
        assert!(!index.insert(u64::MAX, 7));
        assert_eq!(index.find(u64::MAX, |r| r == slots as u32 - 1), Some(slots as u32 - 1));
        assert_eq!(index.find(0, |_| true), None);
    }
}
