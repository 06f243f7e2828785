//! Maglev hashing (`ip_vs_mh.c`): a client always gets the same server, and
//! keeps it as far as possible when other servers come and go, by a table that
//! every server fills in an order of its own.
//!
//! Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load
//! Balancer", NSDI 2016, section 3.4. Table size and keys are those of IPVS, so
//! that directors of both kinds agree.
//!
//! Beside the weight, [`Member::last_weight`] counts: a server that was set to
//! 0 keeps its part of the table. Its clients get no server, unless `mh-fallback`
//! lets them have another one. With `mh-port`, the client's port is hashed as
//! well.

use std::sync::Arc;

use super::hash::{folded, siphash};
use super::maglev::{KEY, Maglev, SIZE};
use super::{Algorithm, Arrival, Member};
use crate::service::{Family, SchedulerFlags, ServiceTable, VirtualService};

#[derive(Debug, Default)]
pub(super) struct MaglevHashing {
    /// Filled by who made the service table
    maglev: Option<Arc<Maglev>>,
    flags: SchedulerFlags,
    service_is_v6: bool,
}

impl Algorithm for MaglevHashing {
    fn settled(&mut self, _servers: &[Member], service: &VirtualService, table: &ServiceTable) {
        self.flags = service.scheduler_flags;
        self.service_is_v6 = service.key.family() == Family::V6;
        self.maglev = table.maglev(&service.key).cloned();
    }

    fn peek(&mut self, servers: &[Member], arrival: &Arrival) -> Option<usize> {
        let port = if self.flags.port() { u32::from(arrival.source_port) } else { 0 };
        let client = folded(arrival.source, !self.service_is_v6).wrapping_add(port);
        let taking = |hash: u32| {
            let place = self.maglev.as_ref()?.place(hash)?;
            servers.get(place)?.takes().then_some(place)
        };
        let hash = siphash(client, KEY);
        let hashed = taking(hash);
        if hashed.is_some() || !self.flags.fallback() {
            return hashed;
        }
        // Without a server that takes any, the search below is long and vain.
        if !servers.iter().any(Member::takes) {
            return None;
        }
        let first = hash % SIZE;
        (0..SIZE).find_map(|offset| taking(siphash(client.wrapping_add((first + offset) % SIZE), KEY)))
    }
}
