//! References on their way into the index.

use super::table::Reference;

/// How many are on their way at most, each of which waits for its bucket to come
/// into the cache.
const ROOM: usize = 16;

/// References that are not in the index yet, with their hashes, the oldest first
/// out. The bucket of a client's tuple was looked at just before it is entered;
/// that of a server's is one that nobody could ask the cache for earlier.
pub(super) struct Late {
    /// The lower halves of the hashes, side by side: every lookup in vain
    /// compares all of them
    tags: [u32; ROOM],
    waiting: [(u64, Reference); ROOM],
    /// The place of the oldest, and how many there are
    oldest: usize,
    count: usize,
}

impl Late {
    pub(super) fn new() -> Self {
        Late { tags: [0; ROOM], waiting: [(0, Reference::NONE); ROOM], oldest: 0, count: 0 }
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// The reference under `hash` that `is_it` says is it.
    #[inline]
    pub(super) fn find(&self, hash: u64, mut is_it: impl FnMut(Reference) -> bool) -> Option<Reference> {
        // All at once, without a branch for each.
        let some = self.tags.iter().fold(false, |some, tag| some | (*tag == hash as u32));
        if !some {
            return None;
        }
        let mut waiting = self.waiting.iter().filter(|(other, _)| *other == hash);
        waiting.find(|(_, reference)| is_it(*reference)).map(|(_, reference)| *reference)
    }

    /// Adds one; returns the oldest if that has to make room for it.
    #[inline]
    pub(super) fn push(&mut self, hash: u64, reference: Reference) -> Option<(u64, Reference)> {
        let former = if self.count == ROOM { self.pop() } else { None };
        let place = (self.oldest + self.count) % ROOM;
        (self.tags[place], self.waiting[place]) = (hash as u32, (hash, reference));
        self.count += 1;
        former
    }

    /// Takes the oldest out.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<(u64, Reference)> {
        if self.count == 0 {
            return None;
        }
        let place = self.oldest;
        self.oldest = (place + 1) % ROOM;
        self.count -= 1;
        // What stays of the tag leads to no reference.
        let (hash, _) = self.waiting[place];
        Some((hash, std::mem::replace(&mut self.waiting[place].1, Reference::NONE)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;
    use crate::conn::Side;

    proptest! {
        #[test]
        fn it_is_a_queue_that_is_looked_into(
            steps in prop::collection::vec((0u8..4, 0u32..40, 0u64..5), 1..200),
        ) {
            let (mut late, mut model) = (Late::new(), VecDeque::new());
            for (step, id, hash) in steps {
                // The same lower halves, so that tags alone do not do.
                let hash = (hash << 40) | (hash % 2);
                let reference = Reference::new(id, Side::Server);
                if step == 0 {
                    prop_assert!(late.pop() == model.pop_front());
                } else {
                    let oldest = if model.len() == ROOM { model.pop_front() } else { None };
                    prop_assert!(late.push(hash, reference) == oldest);
                    model.push_back((hash, reference));
                }
                for hash in (0..5).map(|hash| (hash << 40) | (hash % 2)) {
                    let there = model.contains(&(hash, reference));
                    prop_assert!(late.find(hash, |found| found == reference) == there.then_some(reference));
                }
            }
        }
    }
}
