//! Filters on NICs that lead servers' answers to the queue of their worker, where
//! the NIC has no RSS table that could be read.

use std::collections::{BTreeMap, BTreeSet};

use sluice_dataplane::link::{Filter, Link, Refused};
use sluice_dataplane::wire::Address;

/// What filters are set on; a NIC, but in tests.
pub(super) trait Nic {
    /// The filters that are set already, with their places.
    fn list(&self) -> Result<Vec<(Filter, u32)>, Refused>;
    /// Sets one; returns its place.
    fn add(&self, filter: &Filter) -> Result<u32, Refused>;
    /// Removes that at a place.
    fn remove(&self, place: u32) -> Result<(), Refused>;
}

impl Nic for Link {
    fn list(&self) -> Result<Vec<(Filter, u32)>, Refused> {
        self.filters()
    }

    fn add(&self, filter: &Filter) -> Result<u32, Refused> {
        self.add_filter(filter)
    }

    fn remove(&self, place: u32) -> Result<(), Refused> {
        self.remove_filter(place)
    }
}

/// Filters of one interface.
#[derive(Debug, Default)]
struct Set {
    /// Where each filter is
    places: BTreeMap<Filter, u32>,
    /// What was wanted when the NIC refused: it is not asked again for the same
    refused: Option<BTreeSet<Filter>>,
}

impl Set {
    /// Sets what is wanted and is not there, and removes what is not wanted.
    /// All or nothing: a NIC that refuses one keeps none.
    fn follow(&mut self, nic: &impl Nic, wanted: BTreeSet<Filter>) -> Result<(), Refused> {
        if self.places.keys().eq(&wanted) || self.refused.as_ref() == Some(&wanted) {
            return Ok(());
        }
        self.refused = None;
        let set = self.replace(nic, &wanted);
        if set.is_err() {
            self.clear(nic);
            self.refused = Some(wanted);
        }
        set
    }

    fn replace(&mut self, nic: &impl Nic, wanted: &BTreeSet<Filter>) -> Result<(), Refused> {
        if self.places.is_empty() {
            // Those of a director that could not remove them, or gave way to this one.
            self.places.extend(nic.list()?);
        }
        let gone: Vec<_> = self.places.keys().filter(|filter| !wanted.contains(filter)).copied().collect();
        for filter in gone {
            if let Some(place) = self.places.remove(&filter) {
                nic.remove(place)?;
            }
        }
        for filter in wanted {
            if !self.places.contains_key(filter) {
                self.places.insert(*filter, nic.add(filter)?);
            }
        }
        Ok(())
    }

    fn clear(&mut self, nic: &impl Nic) {
        for (_, place) in std::mem::take(&mut self.places) {
            // There is nothing else to do about one that stays.
            let _ = nic.remove(place);
        }
    }
}

/// The filters of all interfaces, which are removed at the end.
#[derive(Debug, Default)]
pub(super) struct Filters {
    by_interface: BTreeMap<String, Set>,
    /// What each interface was to do last
    told: BTreeMap<String, (BTreeSet<Address>, usize, bool)>,
}

impl Filters {
    /// Whether filters lead answers on an interface.
    pub(super) fn lead(&self, interface: &str) -> bool {
        self.by_interface.get(interface).is_some_and(|set| !set.places.is_empty())
    }

    /// Has an interface lead answers to these LIPs to `workers` workers, or not if
    /// it does by itself (`by_rss`).
    pub(super) fn follow(&mut self, interface: &str, lips: &BTreeSet<Address>, workers: usize, by_rss: bool) {
        let told = self.told.get(interface);
        if told.is_some_and(|told| (&told.0, told.1, told.2) == (lips, workers, by_rss)) {
            return;
        }
        self.told.insert(interface.to_owned(), (lips.clone(), workers, by_rss));
        let of = |lip: &Address| Filter::all_of(*lip, workers).into_iter().flatten();
        let wanted: BTreeSet<_> = if by_rss { BTreeSet::new() } else { lips.iter().flat_map(of).collect() };
        if wanted.is_empty() && !self.lead(interface) {
            return;
        }
        let Ok(link) = Link::new(interface) else { return };
        let set = self.by_interface.entry(interface.to_owned()).or_default();
        let before = set.places.len();
        match set.follow(&link, wanted) {
            Ok(()) if set.places.len() == before => {}
            Ok(()) => {
                let filters = set.places.len();
                tracing::info!(interface, filters, "filters lead servers' answers to their worker's queue");
            }
            Err(error) => tracing::info!(
                interface,
                %error,
                "no filters lead servers' answers to their worker's queue; they are handed over"
            ),
        }
    }

    /// Forgets those of an interface that went away, and its filters with it.
    pub(super) fn forget(&mut self, interface: &str) {
        self.by_interface.remove(interface);
        self.told.remove(interface);
    }

    /// Leaves the filters as they are, for a process that goes on with them.
    pub(super) fn leave(&mut self) {
        self.by_interface.clear();
        self.told.clear();
    }
}

impl Drop for Filters {
    fn drop(&mut self) {
        for (interface, set) in &mut self.by_interface {
            if let Ok(link) = Link::new(interface) {
                set.clear(&link);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// A NIC with room for so many filters.
    struct Fake {
        room: usize,
        filters: RefCell<BTreeMap<u32, Filter>>,
        asked: RefCell<usize>,
    }

    impl Fake {
        fn new(room: usize) -> Self {
            Fake { room, filters: RefCell::default(), asked: RefCell::default() }
        }

        fn set(&self) -> BTreeSet<Filter> {
            self.filters.borrow().values().copied().collect()
        }
    }

    impl Nic for Fake {
        fn list(&self) -> Result<Vec<(Filter, u32)>, Refused> {
            if self.room == 0 {
                return Err(Refused::Unsupported);
            }
            Ok(self.filters.borrow().iter().map(|(place, filter)| (*filter, *place)).collect())
        }

        fn add(&self, filter: &Filter) -> Result<u32, Refused> {
            *self.asked.borrow_mut() += 1;
            let mut filters = self.filters.borrow_mut();
            let place = (0..self.room as u32).find(|place| !filters.contains_key(place));
            let place = place.ok_or(Refused::Full)?;
            filters.insert(place, *filter);
            Ok(place)
        }

        fn remove(&self, place: u32) -> Result<(), Refused> {
            self.filters.borrow_mut().remove(&place).map(drop).ok_or(Refused::Unsupported)
        }
    }

    fn wanted(lips: &[u8], workers: usize) -> BTreeSet<Filter> {
        let of = |lip: &u8| Filter::all_of(Address::from_v4([10, 0, 2, *lip]), workers).unwrap();
        lips.iter().flat_map(of).collect()
    }

    #[test]
    fn filters_follow_the_local_addresses() {
        let (nic, mut set) = (Fake::new(100), Set::default());
        for lips in [&[200][..], &[200, 201], &[201], &[]] {
            set.follow(&nic, wanted(lips, 4)).unwrap();
            assert_eq!(nic.set(), wanted(lips, 4));
        }
        assert_eq!(*nic.asked.borrow(), 16, "each is set once");
    }

    #[test]
    fn those_of_a_former_process_are_taken_over() {
        let (nic, mut former, mut set) = (Fake::new(100), Set::default(), Set::default());
        former.follow(&nic, wanted(&[200, 201], 2)).unwrap();
        set.follow(&nic, wanted(&[201, 202], 2)).unwrap();
        assert_eq!(nic.set(), wanted(&[201, 202], 2));
        set.clear(&nic);
        assert_eq!(nic.set(), BTreeSet::new());
    }

    #[test]
    fn a_nic_without_room_for_all_has_none_and_is_asked_once() {
        for room in [0, 5] {
            let (nic, mut set) = (Fake::new(room), Set::default());
            assert!(set.follow(&nic, wanted(&[200], 4)).is_err());
            assert_eq!((nic.set(), set.places.len()), (BTreeSet::new(), 0));
            let asked = *nic.asked.borrow();
            assert!(set.follow(&nic, wanted(&[200], 4)).is_ok());
            assert_eq!(*nic.asked.borrow(), asked);
        }
        // Another set may fit.
        let (nic, mut set) = (Fake::new(5), Set::default());
        assert!(set.follow(&nic, wanted(&[200], 4)).is_err());
        assert!(set.follow(&nic, wanted(&[200], 2)).is_ok());
        assert_eq!(nic.set(), wanted(&[200], 2));
    }

    #[test]
    fn an_interface_that_takes_none_hands_over() {
        let mut filters = Filters::default();
        let lips = BTreeSet::from([Address::from_v4([10, 0, 2, 200])]);
        filters.follow("lo", &lips, 2, false);
        assert!(!filters.lead("lo") && filters.by_interface["lo"].refused.is_some());
    }
}
