//! Places of one size in memory that is asked for once.
//!
//! The kernel provides the memory as it is used, and gets it back where it is
//! not used any more: not when a place is given back, as that takes a system
//! call, but when the worker has nothing to do.

use std::marker::PhantomData;

use memmap2::{MmapMut, MmapOptions, UncheckedAdvice};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Pages that are looked at in one go for memory to be given back, and those
/// that are given back.
const LOOKED_AT: usize = 64;
const RETURNED: usize = 8;

/// Pages at the beginning that are never given back, so that a few places which
/// come and go cost no page fault each time.
const KEPT: usize = 2;

/// Levels of [`Places`]: enough for the connections that a worker may have.
const LEVELS: usize = 5;

/// Which places are taken, and which is the lowest that is not.
#[derive(Debug)]
struct Places {
    count: usize,
    /// A bit for each place that is taken, for each word of those that is full, and
    /// so on: zeroes at first, so that memory is used for those in use only
    levels: [Vec<u64>; LEVELS],
}

impl Places {
    fn new(count: usize) -> Self {
        let most = 1 << (6 * LEVELS);
        assert!(count <= most, "{count} places: at most {most} fit");
        let words = |level: u32| count.div_ceil(64usize.pow(level + 1)).max(1);
        Places { count, levels: std::array::from_fn(|level| vec![0; words(level as u32)]) }
    }

    fn take(&mut self) -> Option<usize> {
        let mut place = 0;
        for level in self.levels.iter().rev() {
            let bits = !*level.get(place)?;
            if bits == 0 {
                return None;
            }
            place = place * 64 + bits.trailing_zeros() as usize;
        }
        if place >= self.count {
            return None;
        }
        let mut bit = place;
        for level in &mut self.levels {
            level[bit / 64] |= 1 << (bit % 64);
            if level[bit / 64] != u64::MAX {
                break;
            }
            bit /= 64;
        }
        Some(place)
    }

    fn give_back(&mut self, place: usize) {
        let mut bit = place;
        for level in &mut self.levels {
            level[bit / 64] &= !(1 << (bit % 64));
            bit /= 64;
        }
    }

    fn is_taken(&self, place: usize) -> bool {
        self.levels[0][place / 64] & 1 << (place % 64) != 0
    }
}

/// Places for a `T`, each of zeroes when it is taken.
pub(crate) struct Arena<T> {
    memory: MmapMut,
    places: Places,
    capacity: usize,
    taken: usize,
    /// One more than the highest place that was ever taken
    reached: usize,
    /// A bit for each page that has something else than zeroes
    used_pages: Box<[u64]>,
    /// The page to be looked at next for what can be given back
    rover: usize,
    page: usize,
    of: PhantomData<T>,
}

impl<T> std::fmt::Debug for Arena<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Arena({} of {})", self.taken, self.capacity)
    }
}

impl<T: FromBytes + IntoBytes + Immutable + KnownLayout> Arena<T> {
    /// Room for `capacity` places.
    ///
    /// # Panics
    /// When the system has no address space left, or a page does not hold a
    /// whole number of places.
    pub(crate) fn new(capacity: usize) -> Self {
        let page = page_size();
        assert!(page.is_multiple_of(size_of::<T>()), "places lie in one page each");
        let bytes = (capacity * size_of::<T>()).next_multiple_of(page).max(page);
        // Out of memory at start: nothing else can be done.
        let memory = MmapOptions::new().len(bytes).no_reserve_swap().map_anon();
        Arena {
            memory: memory.expect("address space"),
            places: Places::new(capacity),
            capacity,
            taken: 0,
            reached: 0,
            used_pages: vec![0; (bytes / page).div_ceil(64)].into(),
            rover: KEPT,
            page,
            of: PhantomData,
        }
    }

    /// Places that are taken.
    pub(crate) fn taken(&self) -> usize {
        self.taken
    }

    /// One more than the highest place that was ever taken.
    pub(crate) fn reached(&self) -> u32 {
        self.reached as u32
    }

    /// Takes the lowest place that is vacant.
    pub(crate) fn take(&mut self) -> Option<u32> {
        let place = self.places.take()?;
        self.taken += 1;
        self.reached = self.reached.max(place + 1);
        let page = place * size_of::<T>() / self.page;
        self.used_pages[page / 64] |= 1 << (page % 64);
        Some(place as u32)
    }

    /// Gives a place back, which is of zeroes from now on.
    pub(crate) fn give_back(&mut self, place: u32) {
        if self.is_taken(place) {
            self.bytes(place).fill(0);
            self.places.give_back(place as usize);
            self.taken -= 1;
        }
    }

    pub(crate) fn is_taken(&self, place: u32) -> bool {
        (place as usize) < self.capacity && self.places.is_taken(place as usize)
    }

    fn bytes(&mut self, place: u32) -> &mut [u8] {
        let start = place as usize * size_of::<T>();
        &mut self.memory[start..start + size_of::<T>()]
    }

    /// What is in a place, taken or not.
    #[inline]
    pub(crate) fn get(&self, place: u32) -> Option<&T> {
        let start = place as usize * size_of::<T>();
        T::ref_from_bytes(self.memory.get(start..start + size_of::<T>())?).ok()
    }

    /// The same, to be changed.
    #[inline]
    pub(crate) fn get_mut(&mut self, place: u32) -> Option<&mut T> {
        let start = place as usize * size_of::<T>();
        T::mut_from_bytes(self.memory.get_mut(start..start + size_of::<T>())?).ok()
    }

    /// Gives memory of vacant places back to the kernel, by a bounded portion.
    /// Takes system calls.
    pub(crate) fn tidy(&mut self) {
        let pages = (self.reached * size_of::<T>()).div_ceil(self.page);
        let mut returned = 0;
        for _ in 0..LOOKED_AT.min(pages.saturating_sub(KEPT)) {
            if returned == RETURNED {
                return;
            }
            if self.rover >= pages {
                self.rover = KEPT;
            }
            let page = self.rover;
            self.rover += 1;
            if self.used_pages[page / 64] & 1 << (page % 64) != 0 && self.is_vacant(page) {
                self.used_pages[page / 64] &= !(1 << (page % 64));
                self.return_page(page);
                returned += 1;
            }
        }
    }

    fn is_vacant(&self, page: usize) -> bool {
        let places = self.page / size_of::<T>();
        let first = page * places;
        (first..(first + places).min(self.capacity)).all(|place| !self.places.is_taken(place))
    }

    #[allow(unsafe_code)]
    fn return_page(&mut self, page: usize) {
        // SAFETY: the page is within the mapping, which is private and of no file, so
        // that it reads as zeroes afterwards. All places in it are vacant, and so it
        // does before.
        let returned = unsafe {
            self.memory.unchecked_advise_range(UncheckedAdvice::DontNeed, page * self.page, self.page)
        };
        // A kernel that does not take it back leaves it as it is.
        let _ = returned;
    }
}

#[allow(unsafe_code)]
fn page_size() -> usize {
    // SAFETY: it reads a constant of the system.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Of each connection of a large table there may be one.
    #[test]
    fn there_is_a_place_for_each_of_many() {
        let mut places = Places::new(30_000_000);
        assert_eq!((places.take(), places.take()), (Some(0), Some(1)));
    }

    proptest! {
        #[test]
        fn the_lowest_vacant_place_is_taken_and_is_of_zeroes(
            capacity in 1usize..200,
            steps in prop::collection::vec((0u8..5, 0usize..200), 1..400),
        ) {
            let mut arena = Arena::<[u64; 64]>::new(capacity);
            let mut model = BTreeSet::new();
            for (step, which) in steps {
                match step {
                    0..3 => {
                        let lowest = (0..capacity as u32).find(|place| !model.contains(place));
                        prop_assert_eq!(arena.take(), lowest);
                        let Some(place) = lowest else { continue };
                        prop_assert!(arena.get(place).unwrap().iter().all(|word| *word == 0));
                        *arena.get_mut(place).unwrap() = [u64::from(place) + 1; 64];
                        model.insert(place);
                    }
                    3 => {
                        let Some(place) = model.iter().nth(which % model.len().max(1)).copied() else { continue };
                        arena.give_back(place);
                        arena.give_back(place);
                        model.remove(&place);
                    }
                    _ => arena.tidy(),
                }
                prop_assert_eq!(arena.taken(), model.len());
                for place in 0..capacity as u32 {
                    prop_assert_eq!(arena.is_taken(place), model.contains(&place));
                    let word = if model.contains(&place) { u64::from(place) + 1 } else { 0 };
                    prop_assert_eq!(arena.get(place), Some(&[word; 64]));
                }
            }
        }
    }

    #[test]
    fn all_places_can_be_taken() {
        for capacity in [1, 63, 64, 65, 4096, 4097, 300_000] {
            let mut places = Places::new(capacity);
            assert!((0..capacity).all(|place| places.take() == Some(place)), "{capacity}");
            assert_eq!(places.take(), None);
            places.give_back(capacity - 1);
            assert_eq!(places.take(), Some(capacity - 1));
        }
    }
}
