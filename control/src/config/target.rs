//! What a configuration asks of the rules.

use super::{Config, Service};
use crate::health::ServicePlan;
use crate::rules::{self, ServiceName, ServiceRules, ServiceSettings, Target};

impl Config {
    /// How servers are checked.
    pub fn plans(&self) -> Vec<(ServiceName, ServicePlan)> {
        self.services.iter().map(|service| (service.key.into(), service.health.clone())).collect()
    }

    /// The rules that it asks for.
    pub fn target(&self) -> Target {
        Target {
            services: self.services.iter().map(service_rules).collect(),
            marks: self.marks.clone(),
            local_addresses: self.director.local_addresses.iter().map(|a| (*a).into()).collect(),
            tunables: self.director.tunables,
            timeouts: self.director.timeouts,
            daemons: self.daemons.clone(),
        }
    }
}

fn service_rules(service: &Service) -> ServiceRules {
    let name = ServiceName::from(service.key);
    ServiceRules {
        name,
        timeouts: service.timeouts,
        offload: service.options.offload,
        settings: ServiceSettings {
            scheduler_flags: service.flags,
            ..ServiceSettings::plain(service.scheduler.name(), name.family()).with(service.options)
        },
        servers: service
            .servers
            .iter()
            .map(|s| rules::Server {
                upper_threshold: s.upper_threshold,
                lower_threshold: s.lower_threshold,
                tunnel: s.tunnel,
                ..rules::Server::plain(s.address.into(), s.port, s.method.into(), s.weight)
            })
            .collect(),
        local_addresses: service.local_addresses.iter().map(|a| (*a).into()).collect(),
    }
}
