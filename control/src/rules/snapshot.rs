//! From the rules to the table that workers forward by.

use std::sync::Arc;

use sluice_dataplane::conn;
use sluice_dataplane::service::{
    RealServer, SchedulerFlags, ServiceId, ServiceKey, ServiceOptions, ServiceTable, ServiceTableBuilder,
    Thresholds, VirtualService,
};
use sluice_dataplane::stats::TrafficCounters;

use super::removed::RemovedServer;
use super::{Rules, ServerEntry, ServiceEntry};

impl Rules {
    /// The table of now, to be published under `generation`, which must grow
    /// from call to call.
    ///
    /// A server that was removed since the last table is in it as
    /// unavailable; its slot is free again once workers adopted this table
    /// and its connections are gone ([`Rules::reclaim`]).
    pub fn table(&mut self, generation: u64) -> ServiceTable {
        let mut builder = ServiceTableBuilder::new(generation);
        let mut timeouts = conn::Timeouts::default().overridden(&self.state_timeouts);
        timeouts.set(self.timeouts.tcp, self.timeouts.tcp_fin, self.timeouts.udp);
        builder.timeouts(timeouts).tunables(self.tunables).marks(Arc::clone(self.marks.compiled()));
        builder.rosters(Arc::clone(&self.rosters));
        for service in &self.services {
            self.put_service(&mut builder, service, &timeouts);
        }
        for removed in self.removed_servers.values_mut() {
            removed.unavailable.in_table(generation);
            let own = own_timeouts(&timeouts, &removed.timeouts);
            let RemovedServer { service, service_slot, service_counters, entry, .. } = removed;
            let Some(key) = service.key() else { continue };
            builder.server(entry.slot, real_server(entry, *service_slot, key, service_counters, own, false));
        }
        for removed in &mut self.removed_services {
            removed.absent.in_table(generation);
        }
        let table = builder.build();
        self.rosters = Arc::clone(table.rosters());
        table
    }

    fn put_service(
        &self,
        builder: &mut ServiceTableBuilder,
        service: &ServiceEntry,
        timeouts: &conn::Timeouts,
    ) {
        // Both are there for all that `unsupported` lets through.
        let (Some(key), Some(scheduler)) = (service.name.key(), service.settings.scheduler_kind()) else {
            return;
        };
        let lips = match service.local_addresses.as_slice() {
            [] => &self.default_local_addresses,
            own => own,
        };
        builder.service(
            service.slot,
            VirtualService {
                key,
                scheduler,
                scheduler_flags: SchedulerFlags::new(service.settings.scheduler_flags),
                servers: service.servers.iter().rev().map(|entry| entry.slot).collect(),
                local_addresses: lips.iter().map(|lip| (*lip).into()).collect(),
                options: ServiceOptions { offload: service.offload, ..service.settings.options() },
                counters: service.counters.clone(),
            },
        );
        let own = own_timeouts(timeouts, &service.timeouts);
        for entry in &service.servers {
            let server = real_server(entry, service.slot, key, &service.counters, own.clone(), true);
            builder.server(entry.slot, server);
        }
    }
}

/// The timeouts of a service that has any of its own.
fn own_timeouts(all: &conn::Timeouts, own: &conn::TimeoutOverrides) -> Option<Arc<conn::Timeouts>> {
    (!own.is_empty()).then(|| Arc::new(all.overridden(own)))
}

fn real_server(
    entry: &ServerEntry,
    service: ServiceId,
    service_key: ServiceKey,
    service_counters: &Arc<TrafficCounters>,
    timeouts: Option<Arc<conn::Timeouts>>,
    available: bool,
) -> RealServer {
    RealServer {
        service,
        service_key,
        address: entry.server.address.into(),
        port: entry.server.port,
        method: entry.server.method.into(),
        encapsulation: entry.server.tunnel.into(),
        weight: entry.server.weight,
        last_weight: entry.last_weight,
        edits: entry.edits,
        thresholds: Thresholds { upper: entry.server.upper_threshold, lower: entry.server.lower_threshold },
        timeouts,
        available,
        counters: entry.counters.clone(),
        service_counters: service_counters.clone(),
    }
}
