//! What lblc and lblcr know of destinations: a bounded table of those that
//! connections came to, with what is kept of each.
//!
//! It forgets as IPVS does. Once a minute it looks whether there are more
//! destinations than [`MOST`]; if so, some go that had no connection for six
//! minutes. After half an hour without that, all go that had none for a day.
//! IPVS has a timer for this; here it is caught up with at the next
//! connection, or between two bursts, and where there are many destinations, a
//! look is made in portions. IPVS has no limit between two such looks; here, no
//! destination beyond twice [`MOST`] is remembered.

use std::sync::Arc;

use hashbrown::HashMap;

use super::hash::{folded, multiplied};
use super::overhead;
use super::{Member, Servers};
use crate::conn::timer::ticks;
use crate::service::ServerId;
use crate::stats::ServerCounters;
use crate::wire::Address;

/// How long a destination is kept where there are too many (`ENTRY_TIMEOUT`).
const SHORT_EXPIRATION: u32 = 6 * 60;

/// Ticks between two looks (`CHECK_EXPIRE_INTERVAL`).
const INTERVAL: u32 = ticks(60);

/// Every so many looks, all destinations are looked at
/// (`COUNT_FOR_FULL_EXPIRATION`).
const FULL: u32 = 30;

const BITS: u32 = 10;
const BUCKETS: usize = 1 << BITS;

/// Destinations above which some are forgotten early (`max_size`).
const MOST: usize = 16 * BUCKETS;

/// Destinations that are looked at between two bursts: some ten microseconds if
/// nothing is in the cache.
const SLICE: usize = 256;

/// Those that are looked at for a connection while a look is under way.
const BY_THE_WAY: usize = 4;

/// End of a list.
const END: u32 = u32::MAX;

/// Whether something of `since` is more than so many seconds old at `now`.
pub(super) fn is_old(since: u32, seconds: u32, now: u32) -> bool {
    now > since.saturating_add(ticks(seconds))
}

#[derive(Debug)]
struct Slot<V> {
    destination: Address,
    value: V,
    last_use: u32,
    next: u32,
}

/// A look that is under way.
#[derive(Clone, Copy, Debug)]
struct Look {
    /// When it began
    at: u32,
    /// How long a destination is kept, in seconds
    expiration: u32,
    /// Buckets that are yet to be looked at
    buckets: usize,
    /// So many destinations left are few enough
    enough: Option<usize>,
}

/// Destinations with what is kept of each.
#[derive(Debug)]
pub(super) struct Destinations<V> {
    buckets: Box<[u32]>,
    slots: Vec<Option<Slot<V>>>,
    free: Vec<u32>,
    /// The bucket looked at last when there were too many destinations
    rover: usize,
    looks: u32,
    last_look: u32,
    /// What is left of the last look
    look: Option<Look>,
    /// How long a destination is kept, in seconds (`lblc_expiration` and
    /// `lblcr_expiration`)
    expiration: u32,
}

impl<V> Destinations<V> {
    pub(super) fn new(now: u32) -> Self {
        Destinations {
            buckets: vec![END; BUCKETS].into(),
            slots: Vec::new(),
            free: Vec::new(),
            rover: 0,
            looks: 1,
            last_look: now,
            look: None,
            expiration: 0,
        }
    }

    /// Sets how many seconds an unused destination is kept.
    pub(super) fn keep_for(&mut self, seconds: u32) {
        self.expiration = seconds;
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The slot of a destination, if there is one of this number.
    fn place(&self, destination: Address) -> u32 {
        let mut at = self.buckets[bucket(destination)];
        while let Some(Some(slot)) = self.slots.get(at as usize) {
            if slot.destination == destination {
                break;
            }
            at = slot.next;
        }
        at
    }

    /// What is kept of a destination.
    pub(super) fn get(&self, destination: Address) -> Option<&V> {
        let slot = self.slots.get(self.place(destination) as usize)?.as_ref()?;
        Some(&slot.value)
    }

    /// The same, to change what makes no difference.
    pub(super) fn get_mut(&mut self, destination: Address) -> Option<&mut V> {
        let place = self.place(destination);
        let slot = self.slots.get_mut(place as usize)?.as_mut()?;
        Some(&mut slot.value)
    }

    /// What is kept of a destination, which is used at `now`.
    pub(super) fn find(&mut self, destination: Address, now: u32) -> Option<&mut V> {
        let place = self.place(destination);
        let slot = self.slots.get_mut(place as usize)?.as_mut()?;
        slot.last_use = now;
        Some(&mut slot.value)
    }

    /// Remembers a destination that is not there, if there is room.
    pub(super) fn insert(&mut self, destination: Address, value: V, now: u32) {
        if self.len() >= 2 * MOST {
            return;
        }
        let head = &mut self.buckets[bucket(destination)];
        let slot = Some(Slot { destination, value, last_use: now, next: *head });
        match self.free.pop() {
            Some(free) => {
                *head = free;
                self.slots[free as usize] = slot;
            }
            None => {
                *head = self.slots.len() as u32;
                self.slots.push(slot);
            }
        }
    }

    /// Forgets what IPVS would have forgotten by now, before a connection is looked
    /// at; `gone` gets each value, and says how much it was beside the destination.
    pub(super) fn forget(&mut self, now: u32, gone: impl FnMut(V) -> usize) {
        let budget = if self.look.is_some() { BY_THE_WAY } else { SLICE };
        self.proceed(now, budget, gone);
    }

    /// The same between two bursts.
    pub(super) fn tend(&mut self, now: u32, gone: impl FnMut(V) -> usize) {
        self.proceed(now, SLICE, gone);
    }

    /// Looks at about so many destinations, if a look is due or under way.
    fn proceed(&mut self, now: u32, budget: usize, mut gone: impl FnMut(V) -> usize) {
        let mut left = budget;
        loop {
            while let Some(look) = self.look {
                if look.buckets == 0 || look.enough.is_some_and(|enough| self.len() <= enough) {
                    self.look = None;
                } else if left == 0 {
                    return;
                } else {
                    self.look = Some(Look { buckets: look.buckets - 1, ..look });
                    self.rover = (self.rover + 1) % BUCKETS;
                    left = left.saturating_sub(self.sweep(self.rover, look, &mut gone));
                }
            }
            let due = now.saturating_sub(self.last_look) / INTERVAL;
            if due == 0 {
                return;
            }
            self.begin(due);
        }
    }

    /// Begins the next look (`ip_vs_lblc_check_expire`), of so many that are due.
    fn begin(&mut self, due: u32) {
        // Where there are not too many, nothing but a look at all does anything, and
        // the last of several does what they all do.
        let looks = if self.len() <= MOST { due } else { 1 };
        let until_full = FULL - self.looks + 1;
        if looks >= until_full {
            let last_full = until_full + (looks - until_full) / FULL * FULL;
            let at = self.last_look + last_full * INTERVAL;
            self.look = Some(Look { at, expiration: self.expiration, buckets: BUCKETS, enough: None });
        } else if self.len() > MOST {
            let goal = ((self.len() - MOST) * 4 / 3).min(MOST / 2);
            let (at, enough) = (self.last_look + INTERVAL, Some(self.len() - goal));
            self.look = Some(Look { at, expiration: SHORT_EXPIRATION, buckets: BUCKETS, enough });
        }
        self.looks = (self.looks - 1 + looks % FULL) % FULL + 1;
        self.last_look += looks * INTERVAL;
    }

    /// Lets go of a bounded portion; returns whether that was all. For one that is
    /// not asked any more.
    pub(super) fn dismantle(&mut self, mut gone: impl FnMut(V) -> usize) -> bool {
        let mut left = SLICE;
        while left > 0 {
            let Some(slot) = self.slots.pop() else { return true };
            left = left.saturating_sub(1 + slot.map_or(0, |slot| gone(slot.value)));
        }
        false
    }

    /// Forgets the destinations of a bucket that were not used for so long. Returns
    /// how many were looked at.
    fn sweep(&mut self, bucket: usize, look: Look, gone: &mut impl FnMut(V) -> usize) -> usize {
        let mut at = std::mem::replace(&mut self.buckets[bucket], END);
        let mut kept = None;
        let mut count = 0;
        while let Some(Some(slot)) = self.slots.get_mut(at as usize) {
            count += 1;
            let next = std::mem::replace(&mut slot.next, END);
            if look.at < slot.last_use.saturating_add(ticks(look.expiration)) {
                match kept.replace(at) {
                    None => self.buckets[bucket] = at,
                    Some(before) => self.link(before, at),
                }
            } else {
                if let Some(slot) = self.slots.get_mut(at as usize).and_then(Option::take) {
                    count += gone(slot.value);
                }
                self.free.push(at);
            }
            at = next;
        }
        count
    }

    fn link(&mut self, before: u32, at: u32) {
        if let Some(Some(slot)) = self.slots.get_mut(before as usize) {
            slot.next = at;
        }
    }
}

/// The bucket of a destination. IPv4 in an IPv6 service cannot be.
fn bucket(destination: Address) -> usize {
    multiplied(folded(destination, destination.is_v4()), BITS)
}

/// A server that is remembered, whether it still exists or not.
#[derive(Clone, Debug)]
pub(super) struct Remembered {
    id: ServerId,
    /// They tell it from another server in the same slot
    counters: Arc<ServerCounters>,
}

impl Remembered {
    pub(super) fn new(server: &Member) -> Self {
        Remembered { id: server.id, counters: server.counters.clone() }
    }

    pub(super) fn is(&self, server: &Member) -> bool {
        self.id == server.id && Arc::ptr_eq(&self.counters, &server.counters)
    }

    /// Its place, unless it was removed.
    #[inline]
    pub(super) fn place(&self, servers: Servers) -> Option<usize> {
        let place = servers.roster.places.of(self.id)?;
        servers.get(place).filter(|server| self.is(server)).map(|_| place)
    }

    /// Its weight, or that which it had when it was removed.
    pub(super) fn weight(&self, servers: Servers) -> u32 {
        self.place(servers).map_or_else(|| self.counters.kept_weight(), |place| servers[place].weight)
    }

    pub(super) fn overhead(&self) -> u64 {
        overhead(self.counters.active(), self.counters.inactive())
    }
}

/// The places of a service's servers.
#[derive(Debug, Default)]
pub(super) struct Places(HashMap<ServerId, u32>);

impl Places {
    pub(super) fn of_all(servers: &[Member]) -> Self {
        Places(servers.iter().zip(0..).map(|(server, place)| (server.id, place)).collect())
    }

    #[inline]
    fn of(&self, id: ServerId) -> Option<usize> {
        self.0.get(&id).map(|place| *place as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPIRATION: u32 = 86_400;

    fn address(number: u32) -> Address {
        Address::from_v4(number.to_be_bytes())
    }

    fn filled(count: u32) -> Destinations<u32> {
        let mut destinations = Destinations::new(0);
        destinations.keep_for(EXPIRATION);
        (0..count).for_each(|n| destinations.insert(address(n), n, 0));
        destinations
    }

    fn forgotten(destinations: &mut Destinations<u32>, seconds: u32) -> usize {
        let mut count = 0;
        let mut rounds = 0;
        loop {
            let before = count;
            destinations.tend(ticks(seconds), |_| {
                count += 1;
                0
            });
            // A portion is not much more than it is to be: it ends with a bucket.
            assert!(count - before < SLICE + 100);
            rounds += 1;
            if destinations.look.is_none() {
                assert!(rounds <= 2 + 8 * MOST / SLICE);
                return count;
            }
        }
    }

    #[test]
    fn has_a_limit_and_finds_what_is_in_it() {
        let most = 2 * MOST as u32;
        let mut destinations = filled(most + 1000);
        assert_eq!(destinations.len(), 2 * MOST);
        for number in [0, 1, most / 2, most - 1] {
            assert_eq!(destinations.find(address(number), 0), Some(&mut number.clone()));
        }
        assert_eq!(destinations.find(address(most), 0), None);
    }

    #[test]
    fn forgets_what_was_not_used_for_a_day_within_half_an_hour() {
        let mut destinations = filled(100);
        destinations.find(address(7), ticks(3600));
        assert_eq!(forgotten(&mut destinations, EXPIRATION - 1), 0);
        assert_eq!(forgotten(&mut destinations, EXPIRATION + 1800), 99);
        assert_eq!(destinations.find(address(7), ticks(EXPIRATION + 1800)), Some(&mut 7));
        assert_eq!(forgotten(&mut destinations, 3 * EXPIRATION), 1);
        assert_eq!((destinations.len(), forgotten(&mut destinations, 30 * EXPIRATION)), (0, 0));
        destinations.insert(address(1), 1, ticks(30 * EXPIRATION));
        assert_eq!(destinations.slots.len(), 100);
    }

    #[test]
    fn forgets_after_six_minutes_what_is_too_much() {
        let mut destinations = filled(MOST as u32 + 3000);
        assert_eq!(forgotten(&mut destinations, 5 * 60), 0);
        (0..9000).for_each(|n| _ = destinations.find(address(n), ticks(300)));
        let gone = forgotten(&mut destinations, 6 * 60);
        // Four thirds of what is too much, to the end of a bucket.
        assert!((4000..4020).contains(&gone), "{gone}");
        assert!((0..9000).all(|n| destinations.find(address(n), ticks(360)).is_some()));
        assert_eq!(forgotten(&mut destinations, 7 * 60), 0);
    }

    #[test]
    fn looks_missed_while_it_was_empty_count() {
        let mut one = Destinations::<u32>::new(0);
        let mut other = Destinations::<u32>::new(0);
        (0..200).for_each(|minute| one.forget(ticks(60 * minute + 59), |_| 0));
        other.forget(ticks(200 * 60 - 1), |_| 0);
        assert_eq!((one.looks, one.last_look), (other.looks, other.last_look));
        assert_eq!(one.looks, 1 + 199 % FULL);
    }
}
