//! What is to be checked, and what follows from it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::check::Check;
use crate::rules::Server;

/// The checks of a service's servers, and what follows from them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServicePlan {
    /// Made of every server that has none of its own
    pub checks: Vec<Arc<Check>>,
    /// Those of one server, by its address and port
    pub own_checks: BTreeMap<(IpAddr, u16), Vec<Arc<Check>>>,
    /// Whether a server that is down keeps its place with weight 0
    pub inhibit_on_failure: bool,
    /// Whether servers are left out until they are known to be up
    pub alpha: bool,
    /// The weight of servers that the service needs
    pub quorum: u32,
    /// How much more it needs to have it again, and less to lose it
    pub hysteresis: u32,
    /// What to run when the quorum is reached; program and arguments
    pub quorum_up: Vec<String>,
    /// What to run when it is lost
    pub quorum_down: Vec<String>,
    /// What takes connections while it is lost
    pub sorry_server: Option<Server>,
}

impl Default for ServicePlan {
    fn default() -> Self {
        ServicePlan {
            checks: Vec::new(),
            own_checks: BTreeMap::new(),
            inhibit_on_failure: false,
            alpha: false,
            quorum: 1,
            hysteresis: 0,
            quorum_up: Vec::new(),
            quorum_down: Vec::new(),
            sorry_server: None,
        }
    }
}

impl ServicePlan {
    /// Whether there is nothing to be done.
    pub fn is_empty(&self) -> bool {
        let quorum =
            !self.quorum_up.is_empty() || !self.quorum_down.is_empty() || self.sorry_server.is_some();
        self.checks.is_empty() && self.own_checks.values().all(Vec::is_empty) && !quorum
    }

    /// The checks of a server.
    pub(super) fn checks_of(&self, address: IpAddr, port: u16) -> &[Arc<Check>] {
        self.own_checks.get(&(address, port)).unwrap_or(&self.checks)
    }
}
