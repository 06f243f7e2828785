//! The rules as a configuration would have to say them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_dataplane::service::OffloadChoice;

use super::{Rules, Server, ServiceName, ServiceRules, ServiceSettings};
use crate::config::timeouts::{named, of_names};

/// A service as it is configured now, whatever health checks make of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfiguredService {
    /// What it is known by
    pub name: ServiceName,
    /// Its settings
    pub settings: ServiceSettings,
    /// Seconds by state, in the names of the configuration
    pub timeouts: BTreeMap<String, u32>,
    /// Whether its established connections are carried in the kernel
    #[serde(default, with = "crate::config::offload_name")]
    #[schemars(with = "String")]
    pub offload: OffloadChoice,
    /// Its own LIPs
    pub local_addresses: Vec<IpAddr>,
    /// Its servers in the order in which they were added
    pub servers: Vec<Server>,
    /// Servers that health checks took out, which belong to it as well
    pub suspended: Vec<Server>,
}

impl ConfiguredService {
    /// All of it, with the servers in the order given.
    pub fn rules(&self, servers: Vec<Server>) -> ServiceRules {
        ServiceRules {
            name: self.name,
            settings: self.settings.clone(),
            timeouts: of_names(&self.timeouts),
            offload: self.offload,
            servers,
            local_addresses: self.local_addresses.clone(),
        }
    }
}

impl Rules {
    /// All services, in the order in which they were added.
    pub fn configuration(&self) -> Vec<ConfiguredService> {
        let configured = |entry: &super::ServiceEntry| {
            let mut servers = entry.own_servers();
            let suspended = servers.split_off(servers.len() - entry.suspended.len());
            ConfiguredService {
                name: entry.name,
                settings: entry.settings.clone(),
                timeouts: named(&entry.timeouts),
                offload: entry.offload,
                local_addresses: entry.local_addresses.clone(),
                servers,
                suspended,
            }
        };
        self.services.iter().map(configured).collect()
    }
}
