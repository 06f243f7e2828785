//! Least connections (`ip_vs_lc.c`): the server with the least overhead, the
//! first of several in list order. Weights matter only where they are 0.

use super::{Algorithm, Arrival, Member, taking};

#[derive(Debug)]
pub(super) struct LeastConnections;

impl Algorithm for LeastConnections {
    fn peek(&mut self, servers: &[Member], _arrival: &Arrival) -> Option<usize> {
        // `min_by_key` takes the first of several minima.
        taking(servers).min_by_key(|(_, server)| server.overhead()).map(|(place, _)| place)
    }
}
