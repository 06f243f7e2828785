//! Locality-based least connections with replication (`ip_vs_lblcr.c`), for
//! caches: as lblc, but a destination has a set of servers. A server is added
//! when all in the set are busy while another one idles, and the busiest is
//! taken out when the set did not change for a day.

use super::locality::{Destinations, Remembered, is_old};
use super::standing::Standing;
use super::{Algorithm, Arrival, Member, Servers, least_loaded, lighter_or_equal};
use crate::service::Tunables;

/// Servers in the sets of all destinations together. IPVS has no limit; beyond
/// this one, a set stays as it is.
const MOST: usize = 1 << 17;

/// From so many servers on, a set has a [`Standing`].
const LARGE: usize = if cfg!(test) { 2 } else { 64 };

/// As much memory as a standing takes for each server of the service, it has for
/// one in so many of them.
const SPARSE: usize = 32;

/// The servers of a destination, the last added at the end.
#[derive(Debug)]
struct Set {
    servers: Vec<Remembered>,
    last_change: u32,
    /// Where they are many
    standing: Option<Box<Standing>>,
}

#[derive(Debug)]
pub(super) struct Replicated {
    destinations: Destinations<Set>,
    /// Servers in all sets
    remembered: usize,
    /// How long a set may stay as it is, in seconds
    expiration: u32,
}

impl Replicated {
    pub(super) fn new(now: u32) -> Self {
        Replicated { destinations: Destinations::new(now), remembered: 0, expiration: 0 }
    }

    /// Forgets destinations, as lblc does.
    fn forget(&mut self, now: u32) {
        self.destinations.forget(now, forgotten(&mut self.remembered));
    }
}

impl Set {
    fn new(server: &Member, now: u32) -> Self {
        Set { servers: vec![Remembered::new(server)], last_change: now, standing: None }
    }

    /// The least loaded server that takes connections (`ip_vs_dest_set_min`).
    fn least_loaded(&mut self, servers: Servers) -> Option<usize> {
        let is_large = self.servers.len() >= LARGE.max(servers.len() / SPARSE);
        match servers.index.filter(|_| is_large) {
            Some(index) => {
                let standing = self.standing.get_or_insert_default();
                standing.follow(&self.servers, servers, index);
                standing.winner()
            }
            None => {
                self.standing = None;
                let known = self.servers.iter().rev().filter_map(|server| server.place(servers));
                let members = known.map(|place| (place, &servers[place]));
                least_loaded(members.filter(|(_, server)| server.takes()), Member::overhead)
            }
        }
    }

    /// Whether the server at a place is in it; to be asked after
    /// [`Set::least_loaded`].
    fn has(&self, place: usize, servers: Servers) -> bool {
        match &self.standing {
            Some(standing) => standing.has(place),
            None => self.servers.iter().any(|known| known.is(&servers[place])),
        }
    }

    /// Adds the server at a place.
    fn add(&mut self, place: usize, servers: Servers, now: u32) {
        self.servers.push(Remembered::new(&servers[place]));
        self.last_change = now;
        if let (Some(standing), Some(index)) = (&mut self.standing, servers.index) {
            standing.add(place, servers, index);
        }
    }

    /// Takes the most loaded server out, if one has a weight
    /// (`ip_vs_dest_set_max`). That it was removed, or overloaded, is no matter.
    fn take_busiest(&mut self, servers: Servers, now: u32) -> Option<Remembered> {
        let all = self.servers.iter().enumerate().rev();
        let loads = all.map(|(i, server)| (i, (server.overhead(), server.weight(servers))));
        let weighted = loads.filter(|(_, (_, weight))| *weight > 0);
        let busiest =
            weighted.reduce(|most, other| if lighter_or_equal(other.1, most.1) { most } else { other });
        let (busiest, _) = busiest?;
        self.last_change = now;
        self.standing = None;
        Some(self.servers.remove(busiest))
    }
}

/// Takes the servers of a set off those that are remembered, and says how many.
fn forgotten(remembered: &mut usize) -> impl FnMut(Set) -> usize {
    |set| {
        *remembered -= set.servers.len();
        set.servers.len()
    }
}

impl Algorithm for Replicated {
    fn tune(&mut self, tunables: &Tunables) {
        self.expiration = tunables.lblcr_expiration;
        self.destinations.keep_for(tunables.lblcr_expiration);
    }

    fn peek(&mut self, servers: Servers, arrival: &Arrival) -> Option<usize> {
        self.forget(arrival.now);
        let set = self.destinations.get_mut(arrival.destination);
        let least = set.and_then(|set| set.least_loaded(servers));
        least.filter(|place| !servers.is_beyond_its_weight(*place)).or_else(|| servers.least_loaded())
    }

    fn choose(&mut self, servers: Servers, arrival: &Arrival) -> Option<usize> {
        let Arrival { destination, now, .. } = *arrival;
        self.forget(now);
        let Replicated { destinations, remembered, expiration } = self;
        let Some(set) = destinations.find(destination, now) else {
            let place = servers.least_loaded()?;
            if *remembered < MOST {
                let before = destinations.len();
                destinations.insert(destination, Set::new(&servers[place], now), now);
                *remembered += destinations.len() - before;
            }
            return Some(place);
        };
        let least = set.least_loaded(servers);
        if set.servers.len() > 1
            && is_old(set.last_change, *expiration, now)
            && set.take_busiest(servers, now).is_some()
        {
            *remembered -= 1;
        }
        if let Some(place) = least.filter(|place| !servers.is_beyond_its_weight(*place)) {
            return Some(place);
        }
        let place = servers.least_loaded()?;
        if *remembered < MOST && !set.has(place, servers) {
            set.add(place, servers, now);
            *remembered += 1;
        }
        Some(place)
    }

    fn is_tended(&self) -> bool {
        true
    }

    fn tend(&mut self, now: u32) {
        self.destinations.tend(now, forgotten(&mut self.remembered));
    }

    fn dismantle(&mut self) -> bool {
        self.destinations.dismantle(|set| set.servers.len())
    }
}
