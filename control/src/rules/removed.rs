//! What was removed and is not forgotten yet.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use sluice_dataplane::conn::TimeoutOverrides;
use sluice_dataplane::service::ServiceId;
use sluice_dataplane::stats::TrafficCounters;

use super::slots::Since;
use super::{Rules, Server, ServerEntry, ServiceEntry, ServiceName};

/// By what a removed server is found again.
pub(super) type RemovedKey = (ServiceName, IpAddr, u16);

/// What a removed server needs of its service.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    pub(super) name: ServiceName,
    pub(super) slot: ServiceId,
    pub(super) counters: Arc<TrafficCounters>,
    pub(super) timeouts: TimeoutOverrides,
}

impl ServiceEntry {
    pub(super) fn owner(&self) -> Owner {
        let ServiceEntry { name, slot, counters, timeouts, .. } = self;
        Owner { name: *name, slot: *slot, counters: Arc::clone(counters), timeouts: *timeouts }
    }
}

#[derive(Debug)]
pub(super) struct RemovedServer {
    pub(super) service: ServiceName,
    pub(super) service_slot: ServiceId,
    pub(super) service_counters: Arc<TrafficCounters>,
    pub(super) timeouts: TimeoutOverrides,
    pub(super) entry: ServerEntry,
    pub(super) unavailable: Since,
}

#[derive(Debug)]
pub(super) struct RemovedService {
    pub(super) slot: ServiceId,
    pub(super) absent: Since,
}

impl Rules {
    /// Frees the slots of removed servers that have neither connections nor templates left and
    /// that no worker can give new ones: all have adopted table
    /// `adopted_generation`. Returns how many were freed.
    pub fn reclaim(&mut self, adopted_generation: u64) -> usize {
        let before = self.removed_servers.len();
        let slots = &mut self.server_slots;
        self.removed_servers.retain(|_, removed| {
            let counters = &removed.entry.counters;
            let gone = removed.unavailable.known_in(adopted_generation)
                && counters.active() + counters.inactive() + counters.persistent() == 0;
            if gone {
                slots.release(removed.entry.slot.0);
            }
            !gone
        });
        let named: HashSet<ServiceId> = self.removed_servers.values().map(|r| r.service_slot).collect();
        let slots = &mut self.service_slots;
        self.removed_services.retain(|removed| {
            let gone = removed.absent.known_in(adopted_generation) && !named.contains(&removed.slot);
            if gone {
                slots.release(removed.slot.0);
            }
            !gone
        });
        before - self.removed_servers.len()
    }

    /// How many removed servers still have their slot.
    pub fn removed_servers(&self) -> usize {
        self.removed_servers.len()
    }

    /// Remembers a server that is not in its service any more.
    pub(super) fn put_aside(&mut self, owner: &Owner, entry: ServerEntry) {
        let Owner { name, slot, counters, timeouts } = owner.clone();
        let key = (name, entry.server.address, entry.server.port);
        let removed = RemovedServer {
            service: name,
            service_slot: slot,
            service_counters: counters,
            timeouts,
            entry,
            unavailable: Since::default(),
        };
        self.removed_servers.insert(key, removed);
    }

    pub(super) fn retire(&mut self, mut service: ServiceEntry) {
        let owner = service.owner();
        for entry in std::mem::take(&mut service.servers) {
            self.put_aside(&owner, entry);
        }
        self.removed_services.push(RemovedService { slot: owner.slot, absent: Since::default() });
    }

    pub(super) fn take_removed(&mut self, service: &ServiceName, server: &Server) -> Option<RemovedServer> {
        self.removed_servers.remove(&(*service, server.address, server.port))
    }
}
