//! What there is to be seen of a running director: for metrics, the web page,
//! `sluice top` and the event log.
//!
//! [`Observatory`] is shared between threads and takes everything from what
//! workers go by and count, never from the rules: whoever looks costs the
//! control thread nothing. What only that thread knows, it leaves here
//! ([`Observatory::set_interfaces`], [`Observatory::set_health`],
//! [`Observatory::set_sync`]).

mod history;
mod overview;
#[doc(hidden)]
pub mod sample;
mod state;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;
use sluice_dataplane::service::ServiceTable;
use sluice_dataplane::stats::WorkerCounters;
use sluice_dataplane::worker::Published;

pub use history::{PLOTTED_SERVICES, POINTS, RatePoint};
pub use overview::{
    DropView, InterfaceView, MAX_LISTED, Overview, OverviewQuery, ServerView, ServicePage, ServiceView, Sort,
    WorkerView,
};
pub use state::{Health, InterfaceState, PeerState, ServerHealth, ServerState, SyncState};

use crate::events::EventLog;
use crate::sync::lvs;
use history::History;

/// How often rates are sampled.
pub const SAMPLE_INTERVAL: std::time::Duration = std::time::Duration::from_secs(1);

/// Everything that may be looked at.
#[derive(Debug)]
pub struct Observatory {
    published: Arc<Published>,
    workers: Vec<Arc<WorkerCounters>>,
    /// Connections that each worker has room for
    capacity: u64,
    interfaces: ArcSwap<Vec<InterfaceState>>,
    health: ArcSwap<Health>,
    sync: ArcSwap<SyncState>,
    lvs: Arc<lvs::counters::Counters>,
    events: Arc<EventLog>,
    history: Mutex<History>,
    started: SystemTime,
}

impl Default for Observatory {
    fn default() -> Self {
        Observatory::new(Arc::default(), Vec::new(), 0, Arc::default())
    }
}

impl Observatory {
    /// Looks at workers, each with room for `capacity` connections, that go by
    /// what is published.
    pub fn new(
        published: Arc<Published>,
        workers: Vec<Arc<WorkerCounters>>,
        capacity: u64,
        events: Arc<EventLog>,
    ) -> Self {
        Observatory {
            published,
            history: Mutex::new(History::new(workers.len())),
            workers,
            capacity,
            interfaces: ArcSwap::default(),
            health: ArcSwap::default(),
            sync: ArcSwap::default(),
            lvs: Arc::default(),
            events,
            started: SystemTime::now(),
        }
    }

    /// The services that workers go by, or are about to.
    pub fn services(&self) -> Arc<ServiceTable> {
        Arc::clone(&self.published.services.load())
    }

    /// Counters of each worker.
    pub fn workers(&self) -> &[Arc<WorkerCounters>] {
        &self.workers
    }

    /// Connections that each worker has room for.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// The event log.
    pub fn events(&self) -> &Arc<EventLog> {
        &self.events
    }

    /// When the director started.
    pub fn started(&self) -> SystemTime {
        self.started
    }

    /// The interfaces, in the order of the configuration.
    pub fn interfaces(&self) -> Arc<Vec<InterfaceState>> {
        self.interfaces.load_full()
    }

    /// Leaves what is known of the interfaces.
    pub fn set_interfaces(&self, interfaces: Vec<InterfaceState>) {
        self.interfaces.store(Arc::new(interfaces));
    }

    /// What checks say of servers.
    pub fn health(&self) -> Arc<Health> {
        self.health.load_full()
    }

    /// Leaves what checks say of servers.
    pub fn set_health(&self, health: Arc<Health>) {
        self.health.store(health);
    }

    /// How sessions are exchanged with other directors.
    pub fn sync(&self) -> Arc<SyncState> {
        self.sync.load_full()
    }

    /// What the sync daemons did.
    pub fn lvs(&self) -> &Arc<lvs::counters::Counters> {
        &self.lvs
    }

    /// Leaves how sessions are exchanged with other directors.
    pub fn set_sync(&self, sync: Arc<SyncState>) {
        self.sync.store(sync);
    }

    /// Takes a sample for rates and plots; to be called every
    /// [`SAMPLE_INTERVAL`].
    pub fn sample(&self, now: Instant) {
        let services = self.services();
        self.history().sample(&services, &self.workers, now);
    }

    fn history(&self) -> MutexGuard<'_, History> {
        // A history with a hole in it is one all the same.
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
