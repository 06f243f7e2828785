//! Destination hashing (`ip_vs_dh.c`): a destination always gets the same
//! server, by a table of 256 buckets that the servers fill in turn. Weights
//! matter only where they are 0.

use super::hash::{folded, multiplied};
use super::{Algorithm, Arrival, Member};
use crate::service::{Family, ServiceTable, VirtualService};

const BITS: u32 = 8;

#[derive(Debug, Default)]
pub(super) struct DestinationHashing {
    service_is_v6: bool,
}

impl Algorithm for DestinationHashing {
    fn settled(&mut self, _servers: &[Member], service: &VirtualService, _table: &ServiceTable) {
        self.service_is_v6 = service.key.family() == Family::V6;
    }

    fn peek(&mut self, servers: &[Member], arrival: &Arrival) -> Option<usize> {
        let bucket = multiplied(folded(arrival.destination, !self.service_is_v6), BITS);
        // The bucket's server, as all have the same share.
        let place = bucket.checked_rem(servers.len())?;
        servers[place].takes().then_some(place)
    }
}
