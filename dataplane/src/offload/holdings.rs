//! Which slots of the tables a worker has.
//!
//! A worker looks at its slots in the order in which they lie in memory: one after the
//! other they cost what a line costs that the cache foresees, and by connection they
//! would each be a line, and a page, that it does not.

/// A set of slots, by their numbers.
#[derive(Default)]
pub(crate) struct Holdings(Vec<u64>);

impl Holdings {
    /// None of so many.
    pub(crate) fn of(slots: usize) -> Self {
        Holdings(vec![0; slots.div_ceil(64)])
    }

    /// Adds one, or takes it out.
    pub(crate) fn set(&mut self, slot: usize, has: bool) {
        if let Some(word) = self.0.get_mut(slot / 64) {
            let bit = 1 << (slot % 64);
            if has { *word |= bit } else { *word &= !bit }
        }
    }

    /// Stretches of 64 slots.
    pub(crate) fn stretches(&self) -> usize {
        self.0.len()
    }

    /// The slots of a stretch that it has, in order, as they are now.
    pub(crate) fn stretch(&self, number: usize) -> impl Iterator<Item = usize> + use<> {
        let mut bits = self.0.get(number).copied().unwrap_or(0);
        std::iter::from_fn(move || {
            let bit = bits.trailing_zeros() as usize;
            bits &= bits.checked_sub(1)?;
            Some(number * 64 + bit)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_has_what_was_added() {
        let mut holdings = Holdings::of(200);
        assert_eq!(holdings.stretches(), 4);
        [0, 63, 64, 100, 199, 5000].into_iter().for_each(|slot| holdings.set(slot, true));
        holdings.set(100, false);
        let all: Vec<_> = (0..5).flat_map(|number| holdings.stretch(number)).collect();
        assert_eq!(all, [0, 63, 64, 199]);
    }
}
