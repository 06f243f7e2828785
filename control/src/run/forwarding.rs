//! The running data plane as the API sees it: workers, steering, next hops.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};
use sluice_dataplane::conn::ConnectionRecord;
use sluice_dataplane::service::{Method, ServiceTable};
use sluice_dataplane::stats::{DropReason, WorkerCounters};
use sluice_dataplane::steer::{Steering, SteeringRules};
use tokio::sync::mpsc;

use crate::api::DataPlane;
use crate::netlink;
use crate::workers::Workers;

/// Workers with the XDP programs that feed them.
pub(super) struct Forwarding {
    workers: Workers,
    steering: RefCell<Vec<Steering>>,
    in_force: RefCell<SteeringRules>,
    next_hops: netlink::Handle,
}

impl Forwarding {
    pub(super) fn new(workers: Workers, steering: Vec<Steering>, next_hops: netlink::Handle) -> Self {
        Forwarding { workers, steering: RefCell::new(steering), in_force: RefCell::default(), next_hops }
    }

    pub(super) fn workers(&self) -> &Workers {
        &self.workers
    }

    /// Follows changes of the interfaces' MACs.
    pub(super) fn refresh_macs(&self) {
        for steering in self.steering.borrow_mut().iter_mut() {
            match steering.refresh_mac() {
                Ok(true) => tracing::info!(interface = steering.interface(), "its MAC changed"),
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "looking after the interface"),
            }
        }
    }
}

impl DataPlane for Forwarding {
    fn publish(&self, table: Arc<ServiceTable>) {
        let servers: BTreeSet<_> = table.servers().map(|(_, server)| server.address).collect();
        for address in servers {
            self.next_hops.ask(address);
        }
        self.workers.published().services.store(table);
    }

    fn adopted_generation(&self) -> u64 {
        self.workers.adopted_generation()
    }

    fn adopted(&self) {
        let table = self.workers.published().services.load();
        let mut rules = SteeringRules::of(&table);
        // Connections through a LIP may outlast the service that named it.
        let mut removed = table.servers().filter(|(_, s)| s.method == Method::FullNat && !s.available);
        if removed.next().is_some() {
            rules.local_addresses.extend(&self.in_force.borrow().local_addresses);
        }
        if rules == *self.in_force.borrow() {
            return;
        }
        for steering in self.steering.borrow_mut().iter_mut() {
            if let Err(error) = steering.update(&rules) {
                tracing::error!(%error, "not all packets reach the workers");
            }
        }
        self.in_force.replace(rules);
    }

    fn connections(&self) -> mpsc::Receiver<Vec<ConnectionRecord>> {
        let slices = self.workers.connections();
        let (answer, receiver) = mpsc::channel(1);
        tokio::task::spawn_blocking(move || {
            for slice in slices {
                if answer.blocking_send(slice).is_err() {
                    return;
                }
            }
        });
        receiver
    }

    fn status(&self) -> Value {
        let steering = self.steering.borrow();
        let interfaces: Vec<_> = steering
            .iter()
            .map(|s| {
                let zero_copy = self.workers.ports().iter().any(|p| p.interface == s.interface() && p.zero_copy);
                json!({
                    "name": s.interface(),
                    "xdp": s.mode().name(),
                    "socket": if zero_copy { "zero-copy" } else { "copy" },
                })
            })
            .collect();
        let workers: Vec<_> = self.workers.counters().iter().map(|c| worker_status(c)).collect();
        json!({ "version": env!("CARGO_PKG_VERSION"), "interfaces": interfaces, "workers": workers })
    }
}

fn worker_status(counters: &WorkerCounters) -> Value {
    let drops: serde_json::Map<_, _> = DropReason::ALL
        .iter()
        .map(|reason| (reason.name().to_owned(), counters.dropped(*reason).into()))
        .collect();
    json!({
        "received": counters.received.get(),
        "transmitted": counters.transmitted.get(),
        "punted": counters.punted.get(),
        "handed": counters.handed.get(),
        "held": counters.held.get(),
        "connections": counters.connections.get(),
        "expired": counters.expired.get(),
        "polls": counters.polls.get(),
        "drops": drops,
    })
}
