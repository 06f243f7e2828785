//! Weighted least connections (`ip_vs_wlc.c`): the server with the least
//! overhead for its weight, the first of several in list order.

use super::{Algorithm, Member};

#[derive(Debug)]
pub(super) struct WeightedLeastConnections;

impl Algorithm for WeightedLeastConnections {
    fn choose(&mut self, servers: &[Member]) -> Option<usize> {
        let takes = servers.iter().enumerate().filter(|(_, server)| server.weight > 0);
        let loads = takes.map(|(place, server)| (place, server.overhead(), server.weight));
        // a/v <= b/w without dividing; wide, as weights have up to 32 bits.
        let least = loads.reduce(|least, other| {
            let (_, a, v) = least;
            let (_, b, w) = other;
            if u128::from(a) * u128::from(w) <= u128::from(b) * u128::from(v) { least } else { other }
        });
        least.map(|(place, ..)| place)
    }
}
