//! Locality-based least connections (`ip_vs_lblc.c`), for caches: a
//! destination always goes to the same server, as long as that is not busy
//! while another one idles. A new destination goes to the server with the least
//! overhead for its weight.
//!
//! Thresholds count where a server is chosen, and not for one that a
//! destination has already, as in IPVS.

use super::locality::{Destinations, Remembered};
use super::{Algorithm, Arrival, Servers};
use crate::service::Tunables;

#[derive(Debug)]
pub(super) struct LocalityBased {
    destinations: Destinations<Remembered>,
}

impl LocalityBased {
    pub(super) fn new(now: u32) -> Self {
        LocalityBased { destinations: Destinations::new(now) }
    }
}

impl Algorithm for LocalityBased {
    fn tune(&mut self, tunables: &Tunables) {
        self.destinations.keep_for(tunables.lblc_expiration);
    }

    fn peek(&mut self, servers: Servers, arrival: &Arrival) -> Option<usize> {
        self.destinations.forget(arrival.now, |_| 0);
        let known = self.destinations.get(arrival.destination);
        let place = known.and_then(|known| known.place(servers));
        place
            .filter(|place| servers[*place].weight > 0 && !servers.is_beyond_its_weight(*place))
            .or_else(|| servers.least_loaded())
    }

    fn choose(&mut self, servers: Servers, arrival: &Arrival) -> Option<usize> {
        let Arrival { destination, now, .. } = *arrival;
        self.destinations.forget(now, |_| 0);
        let known = self.destinations.find(destination, now);
        let place = known.as_ref().and_then(|known| known.place(servers));
        if let Some(place) = place
            && servers[place].weight > 0
            && !servers.is_beyond_its_weight(place)
        {
            return Some(place);
        }
        let place = servers.least_loaded()?;
        match known {
            Some(known) if known.is(&servers[place]) => {}
            Some(known) => *known = Remembered::new(&servers[place]),
            None => self.destinations.insert(destination, Remembered::new(&servers[place]), now),
        }
        Some(place)
    }

    fn is_tended(&self) -> bool {
        true
    }

    fn tend(&mut self, now: u32) {
        self.destinations.tend(now, |_| 0);
    }

    fn dismantle(&mut self) -> bool {
        self.destinations.dismantle(|_| 0)
    }
}
