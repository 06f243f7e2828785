//! Never queue (`ip_vs_nq.c`): the first server with no active connection,
//! else that of the shortest expected delay.

use super::sed::expected_delay;
use super::{Algorithm, Arrival, Member, least_loaded, taking};

#[derive(Debug)]
pub(super) struct NeverQueue;

impl Algorithm for NeverQueue {
    fn peek(&mut self, servers: &[Member], _arrival: &Arrival) -> Option<usize> {
        let idle = taking(servers).find(|(_, server)| server.counters.active() == 0);
        match idle {
            Some((place, _)) => Some(place),
            None => least_loaded(taking(servers), expected_delay),
        }
    }
}
