//! Least connections (`ip_vs_lc.c`): the server with the least overhead, the
//! first of several in list order. Weights matter only where they are 0.

use super::{Algorithm, Arrival, Servers, taking};

#[derive(Debug)]
pub(super) struct LeastConnections;

impl Algorithm for LeastConnections {
    fn peek(&mut self, servers: Servers, _arrival: &Arrival) -> Option<usize> {
        // `min_by_key` takes the first of several minima.
        servers.best(|members| {
            taking(members).min_by_key(|(_, server)| server.overhead()).map(|(place, _)| place)
        })
    }
}
