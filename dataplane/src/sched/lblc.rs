//! Locality-based least connections (`ip_vs_lblc.c`), for caches: a
//! destination always goes to the same server, as long as that is not busy
//! while another one idles. A new destination goes to the server with the least
//! overhead for its weight.
//!
//! Thresholds count where a server is chosen, and not for one that a
//! destination has already, as in IPVS.

use super::locality::{Destinations, Places, Remembered, is_beyond_its_weight};
use super::{Algorithm, Arrival, Member, least_loaded, taking};
use crate::service::{ServiceTable, Tunables, VirtualService};

#[derive(Debug)]
pub(super) struct LocalityBased {
    destinations: Destinations<Remembered>,
    places: Places,
}

impl LocalityBased {
    pub(super) fn new(now: u32) -> Self {
        LocalityBased { destinations: Destinations::new(now), places: Places::default() }
    }
}

impl Algorithm for LocalityBased {
    fn tune(&mut self, tunables: &Tunables) {
        self.destinations.keep_for(tunables.lblc_expiration);
    }

    fn settled(&mut self, servers: &[Member], _service: &VirtualService, _table: &ServiceTable) {
        self.places.renew(servers);
    }

    fn peek(&mut self, servers: &[Member], arrival: &Arrival) -> Option<usize> {
        self.destinations.forget(arrival.now, drop);
        let known = self.destinations.get(arrival.destination);
        let place = known.and_then(|known| self.places.of(known, servers));
        place
            .filter(|place| servers[*place].weight > 0 && !is_beyond_its_weight(&servers[*place], servers))
            .or_else(|| least_loaded(taking(servers), Member::overhead))
    }

    fn choose(&mut self, servers: &[Member], arrival: &Arrival) -> Option<usize> {
        let Arrival { destination, now, .. } = *arrival;
        self.destinations.forget(now, drop);
        let known = self.destinations.find(destination, now);
        if let Some(place) = known.as_ref().and_then(|known| self.places.of(known, servers)) {
            let server = &servers[place];
            if server.weight > 0 && !is_beyond_its_weight(server, servers) {
                return Some(place);
            }
        }
        let place = least_loaded(taking(servers), Member::overhead)?;
        match known {
            Some(known) if known.is(&servers[place]) => {}
            Some(known) => *known = Remembered::new(&servers[place]),
            None => self.destinations.insert(destination, Remembered::new(&servers[place]), now),
        }
        Some(place)
    }
}
