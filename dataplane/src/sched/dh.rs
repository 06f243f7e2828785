//! Destination hashing (`ip_vs_dh.c`): a destination always gets the same
//! server, by a table of 256 buckets that the servers fill in turn. Weights
//! matter only where they are 0.

use super::hash::{folded, multiplied};
use super::{Algorithm, Arrival, Servers};

const BITS: u32 = 8;

#[derive(Debug)]
pub(super) struct DestinationHashing;

impl Algorithm for DestinationHashing {
    fn peek(&mut self, servers: Servers, arrival: &Arrival) -> Option<usize> {
        let bucket = multiplied(folded(arrival.destination, !servers.roster.is_v6()), BITS);
        // The bucket's server, as all have the same share.
        let place = bucket.checked_rem(servers.len())?;
        servers[place].takes().then_some(place)
    }
}
