//! Locality-based least connections with replication (`ip_vs_lblcr.c`), for
//! caches: as lblc, but a destination has a set of servers. A server is added
//! when all in the set are busy while another one idles, and the busiest is
//! taken out when the set did not change for a day.

use super::locality::{Destinations, Places, Remembered, is_beyond_its_weight, is_old};
use super::{Algorithm, Arrival, Member, least_loaded, lighter_or_equal, taking};
use crate::service::{ServiceTable, Tunables, VirtualService};

/// Servers in the sets of all destinations together. IPVS has no limit; beyond
/// this one, a set stays as it is.
const MOST: usize = 1 << 17;

/// The servers of a destination, the last added at the end.
#[derive(Debug)]
struct Set {
    servers: Vec<Remembered>,
    last_change: u32,
}

#[derive(Debug)]
pub(super) struct Replicated {
    destinations: Destinations<Set>,
    places: Places,
    /// Servers in all sets
    remembered: usize,
    /// How long a set may stay as it is, in seconds
    expiration: u32,
}

impl Replicated {
    pub(super) fn new(now: u32) -> Self {
        Replicated {
            destinations: Destinations::new(now),
            places: Places::default(),
            remembered: 0,
            expiration: 0,
        }
    }
}

impl Set {
    /// The least loaded server that takes connections (`ip_vs_dest_set_min`).
    fn least_loaded(&self, servers: &[Member], places: &Places) -> Option<usize> {
        let known = self.servers.iter().rev().filter_map(|server| places.of(server, servers));
        let members = known.map(|place| (place, &servers[place]));
        least_loaded(members.filter(|(_, server)| server.takes()), Member::overhead)
    }

    /// Takes the most loaded server out, if one has a weight
    /// (`ip_vs_dest_set_max`). That it was removed, or overloaded, is no matter.
    fn take_busiest(&mut self, servers: &[Member], places: &Places, now: u32) -> Option<Remembered> {
        let all = self.servers.iter().enumerate().rev();
        let loads = all.map(|(i, server)| (i, (server.overhead(), server.weight(servers, places))));
        let weighted = loads.filter(|(_, (_, weight))| *weight > 0);
        let busiest =
            weighted.reduce(|most, other| if lighter_or_equal(other.1, most.1) { most } else { other });
        let (busiest, _) = busiest?;
        self.last_change = now;
        Some(self.servers.remove(busiest))
    }
}

impl Algorithm for Replicated {
    fn removed(&mut self, _place: usize, gone: &Member) {
        self.destinations.values_mut().flat_map(|set| &mut set.servers).for_each(|known| known.removed(gone));
    }

    fn tune(&mut self, tunables: &Tunables) {
        self.expiration = tunables.lblcr_expiration;
        self.destinations.keep_for(tunables.lblcr_expiration);
    }

    fn settled(&mut self, servers: &[Member], _service: &VirtualService, _table: &ServiceTable) {
        self.places.renew(servers);
    }

    fn peek(&mut self, servers: &[Member], arrival: &Arrival) -> Option<usize> {
        let Replicated { destinations, places, remembered, .. } = self;
        destinations.forget(arrival.now, |set| *remembered -= set.servers.len());
        let least = destinations.get(arrival.destination).and_then(|set| set.least_loaded(servers, places));
        least
            .filter(|place| !is_beyond_its_weight(&servers[*place], servers))
            .or_else(|| least_loaded(taking(servers), Member::overhead))
    }

    fn choose(&mut self, servers: &[Member], arrival: &Arrival) -> Option<usize> {
        let Arrival { destination, now, .. } = *arrival;
        let Replicated { destinations, places, remembered, expiration } = self;
        destinations.forget(now, |set| *remembered -= set.servers.len());
        let Some(set) = destinations.find(destination, now) else {
            let place = least_loaded(taking(servers), Member::overhead)?;
            if *remembered < MOST {
                let before = destinations.len();
                let set = Set { servers: vec![Remembered::new(&servers[place])], last_change: now };
                destinations.insert(destination, set, now);
                *remembered += destinations.len() - before;
            }
            return Some(place);
        };
        let least = set.least_loaded(servers, places);
        if set.servers.len() > 1
            && is_old(set.last_change, *expiration, now)
            && set.take_busiest(servers, places, now).is_some()
        {
            *remembered -= 1;
        }
        if let Some(place) = least.filter(|place| !is_beyond_its_weight(&servers[*place], servers)) {
            return Some(place);
        }
        let place = least_loaded(taking(servers), Member::overhead)?;
        let server = &servers[place];
        if *remembered < MOST && !set.servers.iter().any(|known| known.is(server)) {
            set.servers.push(Remembered::new(server));
            set.last_change = now;
            *remembered += 1;
        }
        Some(place)
    }
}
