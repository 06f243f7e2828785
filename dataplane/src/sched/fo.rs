//! Weighted failover (`ip_vs_fo.c`): the server of the greatest weight that
//! takes connections, the first of several in list order.

use super::{Algorithm, Arrival, Servers, ovf::heaviest, taking};

#[derive(Debug)]
pub(super) struct Failover;

impl Algorithm for Failover {
    fn peek(&mut self, servers: Servers, _arrival: &Arrival) -> Option<usize> {
        servers.best(|members| heaviest(taking(members)))
    }
}
