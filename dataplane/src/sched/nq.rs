//! Never queue (`ip_vs_nq.c`): the first server with no active connection,
//! else that of the shortest expected delay.

use super::sed::expected_delay;
use super::{Algorithm, Arrival, Servers, least_loaded, taking};

#[derive(Debug)]
pub(super) struct NeverQueue;

impl Algorithm for NeverQueue {
    fn peek(&mut self, servers: Servers, _arrival: &Arrival) -> Option<usize> {
        servers.best(|members| {
            let idle = taking(members).find(|(_, server)| server.counters.active() == 0);
            match idle {
                Some((place, _)) => Some(place),
                None => least_loaded(taking(members), expected_delay),
            }
        })
    }
}
