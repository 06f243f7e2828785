//! Weighted least connections (`ip_vs_wlc.c`): the server with the least
//! overhead for its weight, the first of several in list order.

use super::{Algorithm, Arrival, Servers};

#[derive(Debug)]
pub(super) struct WeightedLeastConnections;

impl Algorithm for WeightedLeastConnections {
    fn peek(&mut self, servers: Servers, _arrival: &Arrival) -> Option<usize> {
        servers.least_loaded()
    }
}
