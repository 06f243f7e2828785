//! Numbers by hash, in memory that is taken once: each number is in the chain of
//! its hash. For what is looked up now and then; the index of connections is
//! faster and takes more.

/// Numbers below a capacity, each of which is in at most once. The kernel
/// provides the memory, of eight to twelve bytes each, as it is used.
pub(crate) struct Chains {
    /// The first number of each chain, plus one
    heads: Vec<u32>,
    /// The next number of the chain, plus one
    next: Vec<u32>,
}

impl Chains {
    pub(crate) fn new(capacity: usize) -> Self {
        Chains { heads: vec![0; capacity.next_power_of_two()], next: vec![0; capacity] }
    }

    fn chain(&self, hash: u64) -> usize {
        // The lower half alone would do, but for hashes whose lower bits are few.
        (hash ^ hash >> 32) as usize & (self.heads.len() - 1)
    }

    fn after(&self, link: u32) -> Option<(u32, u32)> {
        let number = link.checked_sub(1)?;
        Some((number, *self.next.get(number as usize)?))
    }

    /// The number under `hash` that `is_it` says is it, the last entered first.
    pub(crate) fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let mut link = self.heads[self.chain(hash)];
        while let Some((number, next)) = self.after(link) {
            if is_it(number) {
                return Some(number);
            }
            link = next;
        }
        None
    }

    /// Enters a number, which is not in yet.
    pub(crate) fn insert(&mut self, hash: u64, number: u32) {
        let chain = self.chain(hash);
        if let Some(next) = self.next.get_mut(number as usize) {
            *next = std::mem::replace(&mut self.heads[chain], number + 1);
        }
    }

    /// Takes a number out; nothing happens where it is not in.
    pub(crate) fn remove(&mut self, hash: u64, number: u32) {
        let chain = self.chain(hash);
        let mut before = None;
        let mut link = self.heads[chain];
        while let Some((present, next)) = self.after(link) {
            if present == number {
                match before {
                    None => self.heads[chain] = next,
                    Some(before) => self.next[before as usize] = next,
                }
                return;
            }
            (before, link) = (Some(present), next);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn chains_are_a_set(steps in prop::collection::vec((any::<bool>(), 0u32..50), 0..500)) {
            let hash = |number: u32| u64::from(number % 7) << 33 | 5;
            let mut chains = Chains::new(50);
            let mut model = BTreeSet::new();
            for (add, number) in steps {
                let found = chains.find(hash(number), |found| found == number);
                prop_assert_eq!(found.is_some(), model.contains(&number));
                if add && model.insert(number) {
                    chains.insert(hash(number), number);
                } else if !add {
                    chains.remove(hash(number), number);
                    model.remove(&number);
                }
            }
            for number in 0..50 {
                let found = chains.find(hash(number), |found| found == number);
                prop_assert_eq!(found.is_some(), model.contains(&number));
            }
        }
    }
}
