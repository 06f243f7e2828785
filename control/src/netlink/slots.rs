//! Which neighbours have a slot, what is known of them, and when the kernel is
//! to be asked about them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sluice_dataplane::neigh::{EgressId, HopId, NextHops, NextHopsBuilder, Prefix, Resolution};
use sluice_dataplane::rss::Rss;
use sluice_dataplane::wire::Address;
use tokio::time::Instant;

use super::message::{Neighbour, Trust};
use super::model::{Leaving, Way};

/// Neighbours that are tracked because a worker asked, gateways not counted.
/// The kernel's own table rarely holds as many (`gc_thresh3`).
pub(super) const MAX_TRACKED: usize = 65_536;

/// A stale neighbour that carries our traffic is confirmed this often. The
/// kernel does not see that traffic and would otherwise never check.
const CONFIRM_EVERY: Duration = Duration::from_secs(5);

/// First and longest pause before an unanswered neighbour is asked again.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LONGEST: Duration = Duration::from_secs(30);

/// A neighbour that no worker asked for in this time, and that does not
/// answer, is not asked again.
const GIVE_UP: Duration = Duration::from_secs(300);

/// Most neighbours that one round of [`Slots::due`] names.
const ROUND: usize = 256;

/// A neighbour of the kernel's table: link and address.
pub(super) type Key = (u32, Address);

/// What is known of a slot's neighbour.
#[derive(Debug)]
struct Slot {
    key: Key,
    egress: EgressId,
    gateway: bool,
    asked: Instant,
    next_use: Instant,
    failures: u32,
}

/// The slots of the published [`NextHops`], in the order of their [`HopId`]s.
#[derive(Debug)]
pub(super) struct Slots {
    plan: Vec<(Prefix, Way)>,
    /// How each interface spreads what it receives, and the generation since
    /// which local ports have the owners that follow from it
    spread: Arc<[Option<Arc<Rss>>]>,
    port_plan: u64,
    /// The next snapshot; the last one is `hops`
    builder: NextHopsBuilder,
    hops: Arc<NextHops>,
    outdated: bool,
    slots: Vec<Slot>,
    by_key: HashMap<Key, Vec<HopId>>,
    links: HashMap<EgressId, u32>,
    /// Addresses that workers asked for, with the time
    tracked: HashMap<Address, Instant>,
    capacity: usize,
    /// The kernel's table, as far as it is about the director's links
    neighbours: HashMap<Key, Neighbour>,
    /// Where the next round of [`Slots::due`] begins
    cursor: usize,
}

impl Slots {
    pub(super) fn new(capacity: usize) -> Self {
        Slots {
            plan: Vec::new(),
            spread: Arc::default(),
            port_plan: 0,
            builder: NextHopsBuilder::new(0),
            hops: Arc::default(),
            outdated: true,
            slots: Vec::new(),
            by_key: HashMap::new(),
            links: HashMap::new(),
            tracked: HashMap::new(),
            capacity,
            neighbours: HashMap::new(),
            cursor: 0,
        }
    }

    /// Takes up a plan. Slots are laid out anew, in a new generation, when it
    /// differs from the last one.
    pub(super) fn set_plan(&mut self, plan: Vec<(Prefix, Way)>, now: Instant) {
        if plan != self.plan {
            self.plan = plan;
            self.rebuild(now);
        }
    }

    /// Takes up another way in which interfaces spread what they receive.
    pub(super) fn set_spread(&mut self, spread: Arc<[Option<Arc<Rss>>]>, now: Instant) {
        self.spread = spread;
        self.port_plan = self.builder.generation() + 1;
        self.rebuild(now);
    }

    /// Takes a dump of the neighbour table.
    pub(super) fn set_neighbours(&mut self, neighbours: Vec<Neighbour>) {
        self.neighbours = neighbours.into_iter().map(|n| ((n.link, n.address), n)).collect();
        for slot in &self.slots {
            let mac = self.neighbours.get(&slot.key).and_then(|n| n.mac);
            self.builder.neighbour(slot.egress, slot.key.1, mac);
        }
        self.outdated = true;
    }

    /// Takes one neighbour; answers whether the snapshot is out of date.
    pub(super) fn set_neighbour(&mut self, neighbour: Neighbour, now: Instant) -> bool {
        let key = (neighbour.link, neighbour.address);
        let failed = neighbour.trust == Trust::Failed;
        let mac = neighbour.mac;
        let before = self.neighbours.insert(key, neighbour).and_then(|n| n.mac);
        self.noted(key, failed, before != mac, now)
    }

    /// Forgets a neighbour; answers whether the snapshot is out of date.
    pub(super) fn forget_neighbour(&mut self, key: Key, now: Instant) -> bool {
        let before = self.neighbours.remove(&key).and_then(|n| n.mac);
        self.noted(key, true, before.is_some(), now)
    }

    fn noted(&mut self, key: Key, failed: bool, changed: bool, now: Instant) -> bool {
        let Some(ids) = self.by_key.get(&key) else {
            return false;
        };
        let mac = self.neighbours.get(&key).and_then(|n| n.mac);
        for id in ids {
            let slot = &mut self.slots[id.0 as usize];
            if failed && slot.failures == 0 {
                // It was there until now, and may have got another MAC.
                slot.next_use = now;
            } else if failed {
                slot.next_use = slot.next_use.max(now + RETRY_FIRST);
            } else if mac.is_some() {
                slot.failures = 0;
            }
            if changed {
                self.builder.neighbour(slot.egress, key.1, mac);
            }
        }
        self.outdated |= changed;
        changed
    }

    /// A worker wants the way to an address. Answers the neighbour that the
    /// kernel should be asked about, if any, and whether there is a new slot.
    pub(super) fn ask(&mut self, address: Address, now: Instant) -> (Option<Key>, bool) {
        let (id, new) = match self.builder.resolve(address) {
            Resolution::Hop(id) => (id, false),
            Resolution::Ask => match self.track(address, now) {
                Some(id) => (id, true),
                None => return (None, false),
            },
            Resolution::Foreign | Resolution::NoRoute => return (None, false),
        };
        if let Some(asked) = self.tracked.get_mut(&address) {
            *asked = now;
        }
        let Some(slot) = self.slots.get_mut(id.0 as usize) else {
            return (None, new);
        };
        slot.asked = now;
        let known = self.neighbours.get(&slot.key);
        let wanted = known.is_none_or(|n| n.trust != Trust::Settled) && now >= slot.next_use;
        (wanted.then(|| slot.used(known, now)), new)
    }

    /// Gives an on-link address a slot.
    fn track(&mut self, address: Address, now: Instant) -> Option<HopId> {
        if self.tracked.len() >= self.capacity {
            self.evict();
            self.tracked.insert(address, now);
            self.rebuild(now);
        } else {
            self.tracked.insert(address, now);
            self.place(address, now);
        }
        match self.builder.resolve(address) {
            Resolution::Hop(id) => Some(id),
            _ => None,
        }
    }

    /// Drops the eighth of the tracked addresses that was asked for longest
    /// ago; more than one, because each time starts a new generation.
    fn evict(&mut self) {
        let mut by_age: Vec<(Instant, Address)> = self.tracked.iter().map(|(a, t)| (*t, *a)).collect();
        by_age.sort_unstable();
        for (_, address) in by_age.iter().take((by_age.len() / 8).max(1)) {
            self.tracked.remove(address);
        }
    }

    /// Lays all slots out anew, gateways first.
    fn rebuild(&mut self, now: Instant) {
        let generation = self.builder.generation() + 1;
        self.builder = NextHopsBuilder::new(generation);
        // A server's answers may come by another interface now.
        if self.spread.windows(2).any(|two| two[0] != two[1]) {
            self.port_plan = generation;
        }
        self.builder.spread(Arc::clone(&self.spread), self.port_plan);
        self.slots.clear();
        self.by_key.clear();
        self.links.clear();
        self.cursor = 0;
        for never in NEVER {
            self.builder.never(never);
        }
        let plan = std::mem::take(&mut self.plan);
        for (prefix, way) in &plan {
            match *way {
                Way::OnLink(leaving) => {
                    let egress = self.egress(leaving);
                    self.builder.connected(*prefix, egress);
                }
                Way::Via(leaving, gateway) => {
                    let egress = self.egress(leaving);
                    self.slot(egress, gateway, true, now);
                    self.builder.via(*prefix, egress, gateway);
                }
                Way::Foreign => _ = self.builder.foreign(*prefix),
                Way::NoRoute => _ = self.builder.unreachable(*prefix),
                Way::Local => _ = self.builder.local(*prefix),
                Way::Never => _ = self.builder.never(*prefix),
            }
        }
        self.plan = plan;
        let mut tracked: Vec<(Instant, Address)> = self.tracked.iter().map(|(a, t)| (*t, *a)).collect();
        tracked.sort_unstable();
        // Those that are not on-link now may be again when a link comes back.
        for (asked, address) in tracked {
            self.place(address, asked);
        }
        self.outdated = true;
    }

    fn egress(&mut self, leaving: Leaving) -> EgressId {
        let egress = self.builder.egress(leaving.egress);
        self.links.insert(egress, leaving.link);
        egress
    }

    /// Gives an address a slot if it is on-link.
    fn place(&mut self, address: Address, asked: Instant) {
        if let Some(egress) = self.builder.on_link(address) {
            self.slot(egress, address, false, asked);
        }
    }

    fn slot(&mut self, egress: EgressId, address: Address, gateway: bool, asked: Instant) {
        let key = (self.links[&egress], address);
        let mac = self.neighbours.get(&key).and_then(|n| n.mac);
        let id = self.builder.neighbour(egress, address, mac);
        if let Some(slot) = self.slots.get_mut(id.0 as usize) {
            slot.gateway |= gateway;
            return;
        }
        self.slots.push(Slot { key, egress, gateway, asked, next_use: asked, failures: 0 });
        self.by_key.entry(key).or_default().push(id);
        self.outdated = true;
    }

    /// The newest snapshot.
    pub(super) fn update(&mut self) -> Arc<NextHops> {
        if self.outdated {
            self.hops = Arc::new(self.builder.snapshot());
            self.outdated = false;
        }
        self.hops.clone()
    }

    /// The neighbours that the kernel should be asked about now, a bounded
    /// number at a time: those that went stale while they carry our traffic,
    /// and those that do not answer.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Key> {
        let mut due = Vec::new();
        for _ in 0..self.slots.len() {
            if due.len() == ROUND {
                break;
            }
            let at = self.cursor % self.slots.len();
            self.cursor = at + 1;
            let slot = &mut self.slots[at];
            if now < slot.next_use {
                continue;
            }
            let known = self.neighbours.get(&slot.key);
            let wanted = match known.map(|n| n.trust) {
                Some(Trust::Settled) => false,
                Some(Trust::Stale) => true,
                Some(Trust::Failed) | None => slot.gateway || now < slot.asked + GIVE_UP,
            };
            if wanted {
                due.push(slot.used(known, now));
            }
        }
        due
    }
}

impl Slot {
    /// Notes that the kernel is asked now.
    fn used(&mut self, known: Option<&Neighbour>, now: Instant) -> Key {
        if known.is_some_and(|n| n.trust == Trust::Stale) {
            self.next_use = now + CONFIRM_EVERY;
        } else {
            self.next_use = now + (RETRY_FIRST * (1 << self.failures.min(5))).min(RETRY_LONGEST);
            self.failures += 1;
        }
        self.key
    }
}

/// Destinations that no forwarded packet has, whatever the routes say:
/// multicast, limited broadcast and "this network" (RFC 1122, section 3.2.1.3).
const NEVER: [Prefix; 4] =
    [Prefix::V4_THIS_NETWORK, Prefix::V4_MULTICAST, Prefix::V4_BROADCAST, Prefix::V6_MULTICAST];
