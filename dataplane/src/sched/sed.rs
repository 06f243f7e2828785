//! Shortest expected delay (`ip_vs_sed.c`): the server with the fewest active
//! connections for its weight, the new one included; the first of several in
//! list order. Inactive connections do not count.

use super::{Algorithm, Arrival, Member, Servers, least_loaded, taking};

#[derive(Debug)]
pub(super) struct ShortestExpectedDelay;

impl Algorithm for ShortestExpectedDelay {
    fn peek(&mut self, servers: Servers, _arrival: &Arrival) -> Option<usize> {
        servers.best(|members| least_loaded(taking(members), expected_delay))
    }
}

/// The jobs that a server has once it has one more.
#[inline]
pub(super) fn expected_delay(server: &Member) -> u64 {
    server.counters.active().wrapping_add(1)
}
