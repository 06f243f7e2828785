//! What the process whose place is to be taken says of itself: see
//! [`crate::takeover`].

use std::collections::HashMap;

use anyhow::{Context, Result, bail};
use sluice_dataplane::steer::Mode;

use crate::api::{Answer, Client, Request};
use crate::health::ServicePlan;
use crate::marks::MarkRule;
use crate::role::Role;
use crate::rules::{
    ConfiguredService, Daemon, LoadError, Rules, RulesError, ServiceListing, ServiceName, Target, Timeouts,
};
use crate::takeover;

/// The process whose place is to be taken, and what it said of itself.
pub(super) struct Predecessor {
    pub(super) client: Client,
    services: Vec<ConfiguredService>,
    /// What health checks made of them
    listed: HashMap<ServiceName, ServiceListing>,
    marks: Vec<MarkRule>,
    timeouts: Timeouts,
    daemons: Vec<Daemon>,
    /// What it is beside another director
    pub(super) role: Role,
    /// How it is talked to ([`takeover::VERSION`])
    pub(super) version: u32,
    /// Each with how its program runs, and whether it has zero copy
    interfaces: Vec<(String, Mode, bool)>,
}

/// Asks for all services with their traffic.
pub(super) fn list(client: &Client) -> Result<Vec<ServiceListing>> {
    let mut services = Vec::new();
    let listed = client.call_parts(&Request::Services { service: None }, |part| {
        if let Answer::Service(service) = part {
            services.push(service);
        }
        Ok(())
    });
    listed?;
    Ok(services)
}

impl Predecessor {
    /// Asks it for its rules.
    pub(super) fn ask(client: Client) -> Result<Self> {
        let asked = |what: &'static str| move || format!("cannot take over: asking for its {what}");
        let mut services = Vec::new();
        let configuration = client.call_parts(&Request::Configuration, |part| {
            if let Answer::Configured(service) = part {
                services.push(*service);
            }
            Ok(())
        });
        let Answer::Configuration { marks, timeouts, .. } =
            configuration.with_context(asked("configuration"))?
        else {
            bail!("cannot take over: it did not say its configuration");
        };
        let listed = list(&client).with_context(asked("services"))?;
        let Answer::Daemons(daemons) = client.call(&Request::Daemons).with_context(asked("sync daemons"))?
        else {
            bail!("cannot take over: it did not say its sync daemons");
        };
        let Answer::Status(status) = client.call(&Request::Status).with_context(asked("status"))? else {
            bail!("cannot take over: it did not say its status");
        };
        let interface = |value: &serde_json::Value| {
            let mode = match value["xdp"].as_str()? {
                "native" => Mode::Native,
                "generic" => Mode::Generic,
                _ => return None,
            };
            Some((value["name"].as_str()?.to_owned(), mode, value["socket"] == "zero-copy"))
        };
        let interfaces = status["interfaces"].as_array();
        let interfaces = interfaces.and_then(|all| all.iter().map(interface).collect::<Option<_>>());
        let interfaces = interfaces.context("cannot take over: it did not say its interfaces")?;
        let role = serde_json::from_value(status["role"].clone());
        let role = role.context("cannot take over: it did not say its role")?;
        // Those that do not say it are of the first.
        let version = status["takeover"].as_u64().and_then(|version| version.try_into().ok());
        let version = version.unwrap_or(1).min(takeover::VERSION);
        let listed = listed.into_iter().map(|service| (service.name, service)).collect();
        Ok(Predecessor { client, services, listed, marks, timeouts, daemons, role, version, interfaces })
    }

    /// The rules that it has, with what only the configuration says. Servers that
    /// its health checks took out, or gave another weight, are so here where `plans`
    /// have checks that will bring them back.
    pub(super) fn rules(
        &self,
        workers: usize,
        interfaces: Vec<String>,
        file: Target,
        plans: &[(ServiceName, ServicePlan)],
    ) -> Result<Rules, LoadError> {
        let services = self.services.iter().map(|service| {
            let own = service.servers.iter().chain(&service.suspended);
            service.rules(own.cloned().collect())
        });
        let marks = self.marks.iter().cloned().enumerate().map(|(place, rule)| (place + 1, rule));
        let target = Target { services: services.collect(), marks: marks.collect(), ..file };
        let mut rules = Rules::configured(workers, interfaces, target)?;
        rules.replace_daemons(self.daemons.clone());
        rules
            .set_timeouts(self.timeouts)
            .map_err(|source| LoadError::Director { what: "timeouts", source })?;
        let plans: HashMap<_, _> = plans.iter().map(|(name, plan)| (name, plan)).collect();
        for service in &self.services {
            if let Some(plan) = plans.get(&service.name).filter(|plan| !plan.is_empty())
                && let Err(error) = self.follow_health(&mut rules, service, plan)
            {
                // Its checks will see to it.
                tracing::warn!(service = %service.name, %error, "not all of its health is taken over");
            }
        }
        Ok(rules)
    }

    /// Has servers of a service in use as they are there.
    fn follow_health(
        &self,
        rules: &mut Rules,
        service: &ConfiguredService,
        plan: &ServicePlan,
    ) -> Result<(), RulesError> {
        let name = &service.name;
        let listed = self.listed.get(name).map_or(&[][..], |listed| &listed.servers);
        let find = |address, port| {
            listed.iter().find(|s| (s.server.address, s.server.port) == (address, port)).map(|s| &s.server)
        };
        // In before others go, so that something is left at any time.
        if let Some(sorry) = &plan.sorry_server
            && rules.sorry_server(name).is_none()
            && !service.servers.iter().any(|own| (own.address, own.port) == (sorry.address, sorry.port))
            && find(sorry.address, sorry.port).is_some()
        {
            rules.add_sorry_server(name, sorry.clone())?;
        }
        for own in &service.suspended {
            rules.suspend_server(name, own.address, own.port)?;
        }
        for own in &service.servers {
            if let Some(server) = find(own.address, own.port)
                && server.weight != own.weight
            {
                rules.hold_weight(name, own.address, own.port, Some(server.weight))?;
            }
        }
        Ok(())
    }

    /// How programs run on these interfaces, and are to run, and whether their
    /// queues are without copies.
    pub(super) fn modes(&self, interfaces: &[String]) -> Result<Vec<(String, Mode, bool)>> {
        let found =
            |name| {
                self.interfaces.iter().find(|(of, ..)| of == name).cloned().with_context(|| {
                    format!("cannot take over: the running director has no interface {name}")
                })
            };
        interfaces.iter().map(found).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{Family, Method, Protocol, Server, ServiceSettings};

    const NAME: ServiceName = ServiceName::Address {
        protocol: Protocol::Tcp,
        address: std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 10)),
        port: 80,
    };

    fn server(last: u8, weight: u32) -> Server {
        Server::plain([10, 0, 2, last].into(), 80, Method::Nat, weight)
    }

    fn target(rules: &Rules) -> Target {
        let services = rules.configuration().iter().map(|s| s.rules(s.servers.clone())).collect();
        Target { services, ..Target::default() }
    }

    /// Rules of one service with these servers.
    fn with(servers: &[Server]) -> Rules {
        let mut rules = Rules::new(1);
        rules.add_service(NAME, ServiceSettings::plain("rr", Family::Ipv4)).unwrap();
        for server in servers {
            rules.add_server(&NAME, server.clone()).unwrap();
        }
        rules
    }

    fn predecessor(rules: &Rules) -> Predecessor {
        let listed = rules.list(None).unwrap().into_iter().map(|service| (service.name, service)).collect();
        Predecessor {
            client: Client::new(None),
            services: rules.configuration(),
            listed,
            marks: Vec::new(),
            timeouts: rules.timeouts(),
            daemons: Vec::new(),
            role: Role::Active,
            version: takeover::VERSION,
            interfaces: Vec::new(),
        }
    }

    /// Servers as `ipvsadm -Ln` has them, and as a configuration would.
    fn seen(rules: &Rules) -> (Vec<(Server, u32)>, ConfiguredService) {
        let listed = rules.list(None).unwrap().remove(0).servers;
        let listed = listed.into_iter().map(|s| (s.server.clone(), s.server.weight)).collect();
        (listed, rules.configuration().remove(0))
    }

    fn plan(sorry: Option<Server>) -> Vec<(ServiceName, ServicePlan)> {
        // Something to run is enough for a plan.
        let plan =
            ServicePlan { quorum_up: vec!["true".into()], sorry_server: sorry, ..ServicePlan::default() };
        vec![(NAME, plan)]
    }

    #[test]
    fn what_health_checks_made_of_servers_is_not_taken_for_configured() {
        let mut old = with(&[server(1, 5), server(2, 6), server(3, 7)]);
        old.suspend_server(&NAME, [10, 0, 2, 1].into(), 80).unwrap();
        old.hold_weight(&NAME, [10, 0, 2, 2].into(), 80, Some(0)).unwrap();
        old.add_sorry_server(&NAME, server(9, 1)).unwrap();
        let new = predecessor(&old)
            .rules(1, vec!["eth0".into()], target(&with(&[])), &plan(Some(server(9, 1))))
            .unwrap();
        let ((listed, configured), (expected, wanted)) = (seen(&new), seen(&old));
        let sorted = |mut servers: Vec<(Server, u32)>| {
            servers.sort_by_key(|(server, _)| server.address);
            servers
        };
        assert_eq!(sorted(listed), sorted(expected));
        assert_eq!(configured, wanted);
        assert_eq!(new.sorry_server(&NAME), Some(&server(9, 1)));
    }

    #[test]
    fn without_checks_all_servers_are_in_use_as_configured() {
        let mut old = with(&[server(1, 5), server(2, 6)]);
        old.suspend_server(&NAME, [10, 0, 2, 1].into(), 80).unwrap();
        old.hold_weight(&NAME, [10, 0, 2, 2].into(), 80, Some(0)).unwrap();
        old.add_sorry_server(&NAME, server(9, 1)).unwrap();
        let new = predecessor(&old).rules(1, vec!["eth0".into()], target(&with(&[])), &[]).unwrap();
        let weights: Vec<_> = seen(&new).0.into_iter().map(|(_, weight)| weight).collect();
        assert_eq!(weights, [5, 6]);
        assert!(new.sorry_server(&NAME).is_none());
    }
}
