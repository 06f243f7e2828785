//! The configured virtual services and real servers, with IPVS's rules for
//! changing them.
//!
//! [`Rules`] belongs to the control thread. Every change is checked as the
//! kernel's `ip_vs_ctl.c` checks it, and [`Rules::table`] makes the immutable
//! snapshot that workers forward by. Counters are never written here: `-Z`
//! keeps the value of the moment as a baseline that listings subtract.
//!
//! A removed server that still has connections keeps its slot and counters
//! until the last of them is gone ([`Rules::reclaim`]), and gets both back
//! when it is added again to the service of the same name.

mod configuration;
mod error;
mod health;
mod listing;
mod marks;
mod model;
mod rates;
mod reload;
mod removed;
mod servers;
mod slots;
mod snapshot;
#[cfg(test)]
mod tests;
pub mod unsupported;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use sluice_dataplane::conn::{State, TimeoutOverrides};
use sluice_dataplane::sched::Rosters;
use sluice_dataplane::service::{OffloadChoice, ServerId, ServiceId, ServiceKey, Tunables};
use sluice_dataplane::stats::{ServerCounters, Traffic, TrafficCounters};

pub use configuration::ConfiguredService;
pub use error::{LoadError, RulesError};
pub use health::CheckedServer;
pub use listing::{LocalAddressListing, ServerListing, ServiceListing, TrafficListing};
pub use model::{
    Daemon, DaemonRole, Family, Granularity, Method, Protocol, Server, ServiceName, ServiceRules,
    ServiceSettings, Timeouts, Tunnel, TunnelChecksum,
};
pub use rates::{Rates, SAMPLE_INTERVAL};
pub use reload::{Action, Change, Target};

use marks::Marks;
use rates::Estimator;
use removed::{RemovedKey, RemovedServer, RemovedService};
use slots::Slots;

/// The schedulers of IPVS, whether this version has them or not.
const IPVS_SCHEDULERS: [&str; 13] =
    ["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh"];

/// The persistence engines of IPVS.
const IPVS_ENGINES: [&str; 1] = ["sip"];

/// Largest weight or threshold; IPVS keeps them in a C `int`.
pub const MAX_WEIGHT: u32 = i32::MAX as u32;

/// Longest timeout of [`Timeouts`], in seconds: what ipvsadm takes (31 days).
pub const MAX_TIMEOUT: u32 = 31 * 86_400;

/// All services, their servers, and the servers that are on their way out.
#[derive(Debug)]
pub struct Rules {
    workers: usize,
    refuse_unsupported: bool,
    default_local_addresses: Vec<IpAddr>,
    /// In the order of their creation, newest last
    services: Vec<ServiceEntry>,
    by_name: BTreeMap<ServiceName, usize>,
    service_slots: Slots,
    server_slots: Slots,
    removed_servers: BTreeMap<RemovedKey, RemovedServer>,
    removed_services: Vec<RemovedService>,
    timeouts: Timeouts,
    /// Of the states that [`Timeouts`] has not
    state_timeouts: TimeoutOverrides,
    tunables: Tunables,
    daemons: Vec<Daemon>,
    /// Those of the configuration, whether they run or not
    configured_daemons: Vec<Daemon>,
    marks: Marks,
    /// Of the last table
    rosters: Arc<Rosters>,
}

#[derive(Debug)]
struct ServiceEntry {
    slot: ServiceId,
    name: ServiceName,
    settings: ServiceSettings,
    timeouts: TimeoutOverrides,
    offload: OffloadChoice,
    local_addresses: Vec<IpAddr>,
    /// Newest last
    servers: Vec<ServerEntry>,
    /// Taken out by health checks
    suspended: Vec<Server>,
    counters: Arc<TrafficCounters>,
    measured: Measured,
}

#[derive(Debug)]
struct ServerEntry {
    slot: ServerId,
    server: Server,
    /// The weight to return to, while health checks set another
    own_weight: Option<u32>,
    /// In place of the others while their quorum is lost
    sorry: bool,
    /// The last weight but 0 since the server was added
    last_weight: u32,
    edits: u32,
    counters: Arc<ServerCounters>,
    measured: Measured,
}

/// What `-Z` subtracts, and the rates.
#[derive(Clone, Copy, Debug, Default)]
struct Measured {
    baseline: Traffic,
    estimator: Estimator,
}

impl Measured {
    fn from_zero(traffic: Traffic) -> Self {
        Measured { baseline: traffic, estimator: Estimator::new(traffic) }
    }
}

impl Rules {
    /// No services, for a data plane of `workers` workers.
    pub fn new(workers: usize) -> Self {
        Rules {
            workers,
            refuse_unsupported: true,
            default_local_addresses: Vec::new(),
            services: Vec::new(),
            by_name: BTreeMap::new(),
            service_slots: Slots::default(),
            server_slots: Slots::default(),
            removed_servers: BTreeMap::new(),
            removed_services: Vec::new(),
            timeouts: Timeouts::default(),
            state_timeouts: TimeoutOverrides::default(),
            tunables: Tunables::default(),
            daemons: Vec::new(),
            configured_daemons: Vec::new(),
            marks: Marks::default(),
            rosters: Arc::default(),
        }
    }

    /// Rules that take all that IPVS takes, to test the command line against
    /// it. What the data plane lacks is left out of the table.
    #[doc(hidden)]
    pub fn without_refusals(workers: usize) -> Self {
        Rules { refuse_unsupported: false, ..Rules::new(workers) }
    }

    /// The LIPs of services that name none (`local_addresses` of the
    /// director).
    ///
    /// # Errors
    /// [`RulesError::Unsupported`] or [`RulesError::Invalid`] for an address
    /// that connections cannot come from.
    pub fn set_default_local_addresses(&mut self, addresses: Vec<IpAddr>) -> Result<(), RulesError> {
        addresses.iter().try_for_each(|address| self.check_local_address(*address))?;
        self.default_local_addresses = addresses;
        Ok(())
    }

    /// Adds services with their servers and LIPs, in the order given.
    ///
    /// # Errors
    /// The first thing that is refused, with its place. What came before it
    /// stays.
    pub fn load(&mut self, services: impl IntoIterator<Item = ServiceRules>) -> Result<(), LoadError> {
        for ServiceRules { name, settings, timeouts, offload, servers, local_addresses } in services {
            let service = name.to_string();
            self.add_service(name, settings)
                .map_err(|source| LoadError::Service { service: service.clone(), source })?;
            if let Some(index) = self.find(&name) {
                self.services[index].timeouts = timeouts;
                self.services[index].offload = offload;
            }
            for server in servers {
                let (address, port) = (server.address, server.port);
                self.add_server(&name, server).map_err(|source| LoadError::Server {
                    service: service.clone(),
                    address,
                    port,
                    source,
                })?;
            }
            for address in local_addresses {
                self.add_local_address(&name, address).map_err(|source| LoadError::LocalAddress {
                    service: service.clone(),
                    address,
                    source,
                })?;
            }
        }
        Ok(())
    }

    /// `ipvsadm -A`.
    ///
    /// # Errors
    /// [`RulesError::ServiceExists`], [`RulesError::SchedulerNotFound`],
    /// [`RulesError::Unsupported`].
    pub fn add_service(&mut self, name: ServiceName, settings: ServiceSettings) -> Result<(), RulesError> {
        if self.by_name.contains_key(&name) {
            return Err(RulesError::ServiceExists);
        }
        self.check_service(&name, &settings)?;
        self.by_name.insert(name, self.services.len());
        self.services.push(ServiceEntry {
            slot: self.service_slots.take_service(),
            name,
            settings,
            timeouts: TimeoutOverrides::default(),
            offload: OffloadChoice::default(),
            local_addresses: Vec::new(),
            servers: Vec::new(),
            suspended: Vec::new(),
            counters: Arc::new(TrafficCounters::new(self.workers)),
            measured: Measured::default(),
        });
        Ok(())
    }

    /// `ipvsadm -E`: replaces the settings and leaves the servers.
    ///
    /// # Errors
    /// [`RulesError::NoSuchService`], [`RulesError::SchedulerNotFound`],
    /// [`RulesError::Unsupported`].
    pub fn edit_service(&mut self, name: &ServiceName, settings: ServiceSettings) -> Result<(), RulesError> {
        let index = self.find(name).ok_or(RulesError::NoSuchService)?;
        self.check_service(name, &settings)?;
        if self.refuse_unsupported {
            // Those that checks have taken out come back.
            let ServiceEntry { servers, suspended, .. } = &self.services[index];
            let mut all = servers.iter().map(|entry| &entry.server).chain(suspended);
            all.try_for_each(|server| unsupported::pair(name, &settings, server))?;
        }
        self.services[index].settings = settings;
        Ok(())
    }

    /// `ipvsadm -D`: removes the service; its connections stay.
    ///
    /// # Errors
    /// [`RulesError::NoSuchService`].
    pub fn delete_service(&mut self, name: &ServiceName) -> Result<(), RulesError> {
        let index = self.find(name).ok_or(RulesError::NoSuchService)?;
        let service = self.services.remove(index);
        self.by_name.remove(name);
        self.by_name.values_mut().filter(|i| **i > index).for_each(|i| *i -= 1);
        self.retire(service);
        Ok(())
    }

    /// `ipvsadm -C`: removes all services; connections stay.
    pub fn flush(&mut self) {
        self.by_name.clear();
        for service in std::mem::take(&mut self.services) {
            self.retire(service);
        }
    }

    /// `ipvsadm -Z`: zeroes counters and rates of a service and its servers,
    /// or of all services.
    ///
    /// # Errors
    /// [`RulesError::NoSuchService`].
    pub fn zero(&mut self, service: Option<&ServiceName>) -> Result<(), RulesError> {
        match service {
            Some(name) => {
                let index = self.find(name).ok_or(RulesError::NoSuchService)?;
                self.services[index].zero();
            }
            None => self.services.iter_mut().for_each(ServiceEntry::zero),
        }
        Ok(())
    }

    /// Sets what IPVS has as sysctls.
    pub fn set_tunables(&mut self, tunables: Tunables) {
        self.tunables = tunables;
    }

    /// How long connections live, for services that do not say otherwise.
    pub fn set_state_timeouts(&mut self, mut timeouts: TimeoutOverrides) {
        let set = |state, seconds: &mut u32, timeouts: &mut TimeoutOverrides| {
            *seconds = timeouts.take(state).unwrap_or(*seconds);
        };
        set(State::Established, &mut self.timeouts.tcp, &mut timeouts);
        set(State::FinWait, &mut self.timeouts.tcp_fin, &mut timeouts);
        set(State::Udp, &mut self.timeouts.udp, &mut timeouts);
        self.state_timeouts = timeouts;
    }

    /// Timeouts now in force.
    pub fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// `ipvsadm --set`: a value of 0 leaves the timeout as it is.
    ///
    /// # Errors
    /// [`RulesError::Invalid`] above [`MAX_TIMEOUT`].
    pub fn set_timeouts(&mut self, timeouts: Timeouts) -> Result<(), RulesError> {
        let Timeouts { tcp, tcp_fin, udp } = timeouts;
        if [tcp, tcp_fin, udp].iter().any(|t| *t > MAX_TIMEOUT) {
            return Err(RulesError::Invalid);
        }
        let or = |new: u32, old: u32| if new == 0 { old } else { new };
        self.timeouts = Timeouts {
            tcp: or(tcp, self.timeouts.tcp),
            tcp_fin: or(tcp_fin, self.timeouts.tcp_fin),
            udp: or(udp, self.timeouts.udp),
        };
        Ok(())
    }

    /// `ipvsadm --start-daemon`.
    ///
    /// # Errors
    /// [`RulesError::DaemonRuns`].
    pub fn start_daemon(&mut self, daemon: Daemon) -> Result<(), RulesError> {
        if self.daemons.iter().any(|d| d.role == daemon.role) {
            return Err(RulesError::DaemonRuns);
        }
        self.daemons.push(daemon);
        self.daemons.sort_by_key(|d| d.role as u8);
        Ok(())
    }

    /// `ipvsadm --stop-daemon`.
    ///
    /// # Errors
    /// [`RulesError::NoDaemon`].
    pub fn stop_daemon(&mut self, role: DaemonRole) -> Result<(), RulesError> {
        let position = self.daemons.iter().position(|d| d.role == role).ok_or(RulesError::NoDaemon)?;
        self.daemons.remove(position);
        Ok(())
    }

    /// Has these sync daemons run in place of the others. Those of the
    /// configuration stay what a reload compares with.
    pub fn replace_daemons(&mut self, mut daemons: Vec<Daemon>) {
        daemons.sort_by_key(|daemon| daemon.role as u8);
        self.daemons = daemons;
    }

    /// The sync daemons that are to run once the configuration is `wanted`: its own,
    /// and of others those that it never had, for they were started by a command.
    fn daemons_with(&self, wanted: &Rules) -> Vec<Daemon> {
        let by_command = self.daemons.iter().filter(|running| {
            !self.configured_daemons.contains(running)
                && wanted.daemons.iter().all(|daemon| daemon.role != running.role)
        });
        let mut all: Vec<_> = wanted.daemons.iter().chain(by_command).cloned().collect();
        all.sort_by_key(|daemon| daemon.role as u8);
        all
    }

    /// The sync daemons that run, the master first.
    pub fn daemons(&self) -> &[Daemon] {
        &self.daemons
    }

    /// Takes a sample for the rates; to be called every [`SAMPLE_INTERVAL`].
    pub fn sample_rates(&mut self) {
        for service in &mut self.services {
            service.measured.estimator.sample(service.counters.sum());
            for server in &mut service.servers {
                server.measured.estimator.sample(server.counters.traffic());
            }
        }
    }

    /// The keys by which workers find the services.
    pub(crate) fn keys(&self) -> impl Iterator<Item = ServiceKey> {
        self.services.iter().filter_map(|service| service.name.key())
    }

    fn find(&self, name: &ServiceName) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    fn check_service(&self, name: &ServiceName, settings: &ServiceSettings) -> Result<(), RulesError> {
        if !IPVS_SCHEDULERS.contains(&settings.scheduler.as_str()) {
            return Err(RulesError::SchedulerNotFound);
        }
        if settings.engine.as_deref().is_some_and(|engine| !IPVS_ENGINES.contains(&engine)) {
            return Err(RulesError::SchedulerNotFound);
        }
        if self.refuse_unsupported { unsupported::service(name, settings) } else { Ok(()) }
    }
}

impl ServiceEntry {
    fn zero(&mut self) {
        self.measured = Measured::from_zero(self.counters.sum());
        for server in &mut self.servers {
            server.measured = Measured::from_zero(server.counters.traffic());
        }
    }
}
