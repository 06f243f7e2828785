//! What listings show of the rules and their counters.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_dataplane::stats::Traffic;

use super::{Rates, Rules, RulesError, Server, ServiceEntry, ServiceName, ServiceSettings};

/// Counters since the last `-Z`; units as in
/// [`Traffic`](sluice_dataplane::stats::Traffic).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TrafficListing {
    /// Connections scheduled
    pub connections: u64,
    /// Packets from clients
    pub in_packets: u64,
    /// Packets to clients
    pub out_packets: u64,
    /// Bytes from clients
    pub in_bytes: u64,
    /// Bytes to clients
    pub out_bytes: u64,
}

impl TrafficListing {
    fn since(now: Traffic, baseline: Traffic) -> Self {
        TrafficListing {
            connections: now.connections.wrapping_sub(baseline.connections),
            in_packets: now.in_packets.wrapping_sub(baseline.in_packets),
            out_packets: now.out_packets.wrapping_sub(baseline.out_packets),
            in_bytes: now.in_bytes.wrapping_sub(baseline.in_bytes),
            out_bytes: now.out_bytes.wrapping_sub(baseline.out_bytes),
        }
    }

    /// Has what is counted from a baseline begin with this.
    fn carry(&self, baseline: &mut Traffic) {
        for (from, traffic) in [
            (&mut baseline.connections, self.connections),
            (&mut baseline.in_packets, self.in_packets),
            (&mut baseline.out_packets, self.out_packets),
            (&mut baseline.in_bytes, self.in_bytes),
            (&mut baseline.out_bytes, self.out_bytes),
        ] {
            *from = from.wrapping_sub(traffic);
        }
    }
}

/// A virtual service with everything that any listing shows of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceListing {
    /// What it is known by
    pub name: ServiceName,
    /// Its settings
    pub settings: ServiceSettings,
    /// Its own LIPs; none where it uses the director's
    pub local_addresses: Vec<IpAddr>,
    /// `--stats`
    pub traffic: TrafficListing,
    /// `--rate`
    pub rates: Rates,
    /// Its servers, newest first as IPVS has them
    pub servers: Vec<ServerListing>,
}

/// A real server with everything that any listing shows of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServerListing {
    /// As configured
    pub server: Server,
    /// Connections that IPVS calls active
    pub active: u64,
    /// All others
    pub inactive: u64,
    /// Persistence templates
    pub persistent: u64,
    /// `--stats`
    pub traffic: TrafficListing,
    /// `--rate`
    pub rates: Rates,
}

/// The LIPs that FULLNAT servers of a service are reached from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LocalAddressListing {
    /// The service
    pub service: ServiceName,
    /// Its LIPs
    pub addresses: Vec<IpAddr>,
    /// Whether these are the director's default ones, because the service
    /// names none
    pub default: bool,
}

impl Rules {
    /// All services, newest first, or the one of a name.
    ///
    /// # Errors
    /// [`RulesError::NoSuchService`].
    pub fn list(&self, service: Option<&ServiceName>) -> Result<Vec<ServiceListing>, RulesError> {
        Ok(self.chosen(service)?.map(list_service).collect())
    }

    /// The LIPs in use by every service that has FULLNAT servers or names
    /// LIPs, or by the service of a name.
    ///
    /// # Errors
    /// [`RulesError::NoSuchService`].
    pub fn local_addresses(
        &self,
        service: Option<&ServiceName>,
    ) -> Result<Vec<LocalAddressListing>, RulesError> {
        let uses_them = |entry: &ServiceEntry| {
            !entry.local_addresses.is_empty()
                || entry.servers.iter().any(|s| s.server.method == super::Method::FullNat)
        };
        Ok(self
            .chosen(service)?
            .filter(|entry| service.is_some() || uses_them(entry))
            .map(|entry| {
                let default = entry.local_addresses.is_empty();
                let addresses = if default { &self.default_local_addresses } else { &entry.local_addresses };
                LocalAddressListing { service: entry.name, addresses: addresses.clone(), default }
            })
            .collect())
    }

    /// Has the traffic of services and servers begin with what is listed; that of
    /// which is not there is left out.
    pub fn carry_traffic(&mut self, listed: &[ServiceListing]) {
        for service in listed {
            let Some(index) = self.find(&service.name) else { continue };
            let entry = &mut self.services[index];
            service.traffic.carry(&mut entry.measured.baseline);
            for ServerListing { server, traffic, .. } in &service.servers {
                if let Some(position) = entry.server(server.address, server.port) {
                    traffic.carry(&mut entry.servers[position].measured.baseline);
                }
            }
        }
    }

    fn chosen(
        &self,
        service: Option<&ServiceName>,
    ) -> Result<impl Iterator<Item = &ServiceEntry>, RulesError> {
        let range = match service {
            Some(name) => {
                let index = self.find(name).ok_or(RulesError::NoSuchService)?;
                index..index + 1
            }
            None => 0..self.services.len(),
        };
        Ok(self.services[range].iter().rev())
    }
}

fn list_service(entry: &ServiceEntry) -> ServiceListing {
    ServiceListing {
        name: entry.name,
        settings: entry.settings.clone(),
        local_addresses: entry.local_addresses.clone(),
        traffic: TrafficListing::since(entry.counters.sum(), entry.measured.baseline),
        rates: entry.measured.estimator.rates(),
        servers: entry
            .servers
            .iter()
            .rev()
            .map(|server| ServerListing {
                server: server.server.clone(),
                active: server.counters.active(),
                inactive: server.counters.inactive(),
                persistent: server.counters.persistent(),
                traffic: TrafficListing::since(server.counters.traffic(), server.measured.baseline),
                rates: server.measured.estimator.rates(),
            })
            .collect(),
    }
}
