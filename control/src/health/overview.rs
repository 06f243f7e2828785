//! What is known of services and servers, for listings, metrics and the web
//! page.

use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::status::State;
use super::supervisor::{Monitor, Probe, Watch, Watched};
use crate::observe::{self, ServerState};
use crate::rules::{Rules, ServiceName};

/// A service with its servers, for listings and metrics.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ServiceHealth {
    /// Which
    pub service: ServiceName,
    /// The weight of servers that it needs
    pub quorum: u32,
    /// Whether it has it; `None` before anything is known
    pub quorum_reached: Option<bool>,
    /// Its sorry server, and whether that is in use
    pub sorry_server: Option<(IpAddr, u16, bool)>,
    /// Its servers that are checked, by address and port
    pub servers: Vec<ServerHealth>,
}

/// A server and what is known of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ServerHealth {
    /// Its address
    pub address: IpAddr,
    /// Its port
    pub port: u16,
    /// How it is
    pub state: State,
    /// Since when, in milliseconds since 1970
    pub since: u64,
    /// Why
    pub reason: String,
    /// What checks it
    pub checks: Vec<CheckHealth>,
}

/// A check of a server.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CheckHealth {
    /// Its kind, as the configuration names it
    pub kind: String,
    /// Where it goes to
    pub target: SocketAddr,
    /// What it says of the server
    pub state: State,
    /// Successes since it began
    pub passed: u64,
    /// Failures since it began
    pub failed: u64,
    /// How long the last one took, in microseconds
    pub latency: Option<u64>,
    /// What was wrong in the last one; empty if nothing was
    pub problem: String,
}

impl Watch {
    pub(super) fn overview(&self, rules: &Rules) -> Vec<ServiceHealth> {
        self.services.iter().map(|(name, watched)| watched.overview(*name, rules)).collect()
    }

    /// The same for those who look at it from other threads.
    pub(super) fn observed(&self) -> observe::Health {
        let of_service = |(name, watched): (&ServiceName, &Watched)| {
            let checked = watched.monitors.iter().filter(|(_, monitor)| !monitor.probes.is_empty());
            (*name, checked.map(|(key, monitor)| (*key, monitor.observed())).collect())
        };
        observe::Health { services: self.services.iter().map(of_service).collect() }
    }
}

impl Monitor {
    fn observed(&self) -> observe::ServerHealth {
        let latest: Vec<_> = self.probes.iter().map(|probe| probe.results.latest()).collect();
        let problem = latest.iter().map(|latest| &latest.problem).find(|problem| !problem.is_empty());
        observe::ServerHealth {
            state: match self.state {
                State::Checking => ServerState::Checking,
                State::Up => ServerState::Up,
                State::Down => ServerState::Down,
            },
            since_ms: since_1970(self.since),
            reason: problem.unwrap_or(&self.reason).clone(),
            latency: latest.iter().filter_map(|latest| latest.latency).max().map(|l| l.as_secs_f64()),
        }
    }
}

/// In milliseconds.
fn since_1970(at: SystemTime) -> u64 {
    let passed = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(passed.as_millis()).unwrap_or(u64::MAX)
}

impl Watched {
    fn overview(&self, service: ServiceName, rules: &Rules) -> ServiceHealth {
        let in_use = rules.sorry_server(&service).is_some();
        ServiceHealth {
            service,
            quorum: self.plan.quorum,
            quorum_reached: self.quorum.reached(),
            sorry_server: self.plan.sorry_server.as_ref().map(|s| (s.address, s.port, in_use)),
            servers: self
                .monitors
                .iter()
                .filter(|(_, monitor)| !monitor.probes.is_empty())
                .map(|((address, port), monitor)| ServerHealth {
                    address: *address,
                    port: *port,
                    state: monitor.state,
                    since: since_1970(monitor.since),
                    reason: monitor.reason.clone(),
                    checks: monitor.probes.iter().map(Probe::overview).collect(),
                })
                .collect(),
        }
    }
}

impl Probe {
    fn overview(&self) -> CheckHealth {
        let latest = self.results.latest();
        CheckHealth {
            kind: self.check.kind.name().into(),
            target: self.target,
            state: self.state,
            passed: latest.passed,
            failed: latest.failed,
            latency: latest.latency.map(|latency| u64::try_from(latency.as_micros()).unwrap_or(u64::MAX)),
            problem: latest.problem,
        }
    }
}
