//! From the rules that run to those of a configuration, at once or not at all.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_dataplane::conn::TimeoutOverrides;
use sluice_dataplane::service::{OffloadChoice, Tunables};

use super::{
    Daemon, LoadError, Method, Rules, Server, ServerEntry, ServiceEntry, ServiceName, ServiceRules,
    ServiceSettings, Tunnel, TunnelChecksum,
};
use crate::marks::MarkRule;
use crate::sync::lvs::socket::resolved_later;

/// All that a configuration says of rules.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// Services in the order in which they are to be added
    pub services: Vec<ServiceRules>,
    /// Mark rules in order, each with the line that it is from
    pub marks: Vec<(usize, MarkRule)>,
    /// LIPs of services that name none
    pub local_addresses: Vec<IpAddr>,
    /// The sysctls of IPVS
    pub tunables: Tunables,
    /// How long connections live, where that is not the default
    pub timeouts: TimeoutOverrides,
    /// Sync daemons, at most one in each role
    pub daemons: Vec<Daemon>,
}

/// What a change does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Something comes
    Add,
    /// Something goes
    Remove,
    /// Something becomes another
    Change,
}

/// A difference between the rules that run and those of a configuration.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Change {
    /// What is done
    pub action: Action,
    /// To what, as in `service tcp 192.0.2.10:80`
    pub subject: String,
    /// How it is, or how it was and becomes; may be empty
    pub detail: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.action {
            Action::Add => '+',
            Action::Remove => '-',
            Action::Change => '~',
        };
        write!(f, "{sign} {}", self.subject)?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, ": {}", self.detail) }
    }
}

impl Rules {
    /// The rules of a configuration, for a data plane of `workers` workers with
    /// these interfaces.
    ///
    /// # Errors
    /// The first thing that is refused, with its place.
    pub fn configured(workers: usize, interfaces: Vec<String>, target: Target) -> Result<Self, LoadError> {
        let mut rules = Rules::new(workers);
        let Target { services, marks, local_addresses, tunables, timeouts, daemons } = target;
        rules
            .set_default_local_addresses(local_addresses)
            .map_err(|source| LoadError::Director { what: "local_addresses", source })?;
        rules.set_tunables(tunables);
        rules.set_interfaces(interfaces);
        rules.replace_marks(marks).map_err(|source| LoadError::Director { what: "mark rules", source })?;
        rules.set_state_timeouts(timeouts);
        for daemon in daemons {
            rules
                .start_daemon(resolved_later(daemon))
                .map_err(|source| LoadError::Director { what: "sync_daemon", source })?;
        }
        rules.configured_daemons.clone_from(&rules.daemons);
        rules.load(services)?;
        Ok(rules)
    }

    /// What [`Rules::become_like`] would change.
    pub fn differences(&self, wanted: &Rules) -> Vec<Change> {
        let mut changes = Changes::default();
        self.compare_settings(wanted, &mut changes);
        for old in self.services.iter().filter(|old| wanted.find(&old.name).is_none()) {
            changes.add(Action::Remove, format!("service {}", old.name), "");
        }
        for new in &wanted.services {
            let subject = format!("service {}", new.name);
            match self.find(&new.name).map(|index| &self.services[index]) {
                Some(old) => compare_services(old, new, &subject, &mut changes),
                None => {
                    let detail = match new.servers.len() {
                        1 => format!("{}, 1 server", new.settings),
                        servers => format!("{}, {servers} servers", new.settings),
                    };
                    changes.add(Action::Add, subject, detail);
                }
            }
        }
        changes.0
    }

    fn compare_settings(&self, wanted: &Rules, changes: &mut Changes) {
        changes.compare(
            "local_addresses of the director",
            &list(&self.default_local_addresses),
            &list(&wanted.default_local_addresses),
        );
        if self.timeouts != wanted.timeouts {
            let text = |t: &super::Timeouts| format!("tcp {} tcpfin {} udp {}", t.tcp, t.tcp_fin, t.udp);
            changes.compare("timeouts", &text(&self.timeouts), &text(&wanted.timeouts));
        }
        if self.state_timeouts != wanted.state_timeouts {
            changes.add(Action::Change, "timeouts of other states", "");
        }
        if self.tunables != wanted.tunables {
            // Each on a line of its own in this form.
            let (old, new) = (format!("{:#?}", self.tunables), format!("{:#?}", wanted.tunables));
            for (old, new) in old.lines().zip(new.lines()).filter(|(old, new)| old != new) {
                let value = |line: &str| {
                    let value = line.split_once(": ").map_or(line, |(_, value)| value);
                    value.trim().trim_end_matches(',').to_owned()
                };
                let key =
                    old.split_once(": ").map_or("ftp_ports and ftp_passive_ports", |(key, _)| key.trim());
                changes.compare(key, &value(old), &value(new));
            }
        }
        let daemons = self.daemons_with(wanted);
        for (action, those, others) in
            [(Action::Remove, &self.daemons, &daemons), (Action::Add, &daemons, &self.daemons)]
        {
            for daemon in those.iter().filter(|daemon| !others.contains(daemon)) {
                changes.add(action, "sync daemon", daemon.to_string());
            }
        }
        let marks = |rules: &Rules| -> Vec<String> {
            rules.marks().iter().map(|mark| mark.rule.to_string()).collect()
        };
        let (old, new) = (marks(self), marks(wanted));
        let before = changes.0.len();
        for (action, those, others) in [(Action::Remove, &old, &new), (Action::Add, &new, &old)] {
            let mut left: HashMap<&str, usize> = HashMap::new();
            others.iter().for_each(|rule| *left.entry(rule).or_default() += 1);
            for rule in those {
                match left.get_mut(rule.as_str()) {
                    Some(count) if *count > 0 => *count -= 1,
                    _ => changes.add(action, "mark rule", rule.clone()),
                }
            }
        }
        if changes.0.len() == before && old != new {
            changes.add(Action::Change, "mark rules", "another order");
        }
    }

    /// Becomes what `wanted` is. What is in both keeps its slot, its counters
    /// and its connections; nothing of it can fail.
    ///
    /// `wanted` is to be made by [`Rules::configured`] for the same workers and
    /// interfaces, and has had no table.
    pub fn become_like(&mut self, wanted: Rules) {
        let daemons = self.daemons_with(&wanted);
        let Rules {
            services,
            default_local_addresses,
            timeouts,
            state_timeouts,
            tunables,
            marks,
            configured_daemons,
            ..
        } = wanted;
        self.default_local_addresses = default_local_addresses;
        self.timeouts = timeouts;
        self.state_timeouts = state_timeouts;
        self.tunables = tunables;
        self.daemons = daemons;
        self.configured_daemons = configured_daemons;
        self.marks.become_like(marks);
        self.by_name.clear();
        let old = std::mem::take(&mut self.services).into_iter();
        let mut old: HashMap<ServiceName, ServiceEntry> = old.map(|entry| (entry.name, entry)).collect();
        for new in services {
            let name = new.name;
            let entry = match old.remove(&name) {
                Some(old) => self.edited(old, new),
                None => self.added(new),
            };
            self.by_name.insert(name, self.services.len());
            self.services.push(entry);
        }
        old.into_values().for_each(|gone| self.retire(gone));
    }

    fn added(&mut self, new: ServiceEntry) -> ServiceEntry {
        let slot = self.service_slots.take_service();
        let enlisted = |entry: ServerEntry| self.enlist(&new.name, slot, entry.server);
        let servers = new.servers.into_iter().map(enlisted).collect();
        ServiceEntry { slot, servers, ..new }
    }

    fn edited(&mut self, old: ServiceEntry, new: ServiceEntry) -> ServiceEntry {
        let owner = old.owner();
        let ServiceEntry { slot, counters, measured, suspended: out, .. } = old;
        let mut kept: HashMap<(IpAddr, u16), ServerEntry> =
            old.servers.into_iter().map(|entry| ((entry.server.address, entry.server.port), entry)).collect();
        let mut servers = Vec::with_capacity(new.servers.len());
        // What health checks took out stays out, and is as it is said to be now.
        let mut suspended = Vec::new();
        for ServerEntry { server, .. } in new.servers {
            servers.push(match kept.remove(&(server.address, server.port)) {
                Some(mut entry) => {
                    entry.sorry = false;
                    if entry.own() != server {
                        entry.edit(server);
                    }
                    entry
                }
                None if out.iter().any(|s| (s.address, s.port) == (server.address, server.port)) => {
                    suspended.push(server);
                    continue;
                }
                None => self.enlist(&new.name, slot, server),
            });
        }
        for gone in kept.into_values() {
            // Health checks put it in, and take it out.
            if gone.sorry { servers.push(gone) } else { self.put_aside(&owner, gone) }
        }
        let ServiceEntry { name, settings, timeouts, offload, local_addresses, .. } = new;
        ServiceEntry {
            slot,
            name,
            settings,
            timeouts,
            offload,
            local_addresses,
            servers,
            suspended,
            counters,
            measured,
        }
    }
}

fn compare_services(old: &ServiceEntry, new: &ServiceEntry, subject: &str, changes: &mut Changes) {
    if old.settings != new.settings {
        changes.compare(subject, &old.settings.to_string(), &new.settings.to_string());
    }
    if old.timeouts != new.timeouts {
        changes.add(Action::Change, subject, "timeouts");
    }
    if old.offload != new.offload {
        let text = |choice: OffloadChoice| format!("offload {}", choice.name());
        changes.compare(subject, &text(old.offload), &text(new.offload));
    }
    if old.local_addresses != new.local_addresses {
        let text = |addresses: &[IpAddr]| match addresses {
            [] => "local addresses of the director".to_owned(),
            own => format!("local addresses {}", list(own)),
        };
        changes.compare(subject, &text(&old.local_addresses), &text(&new.local_addresses));
    }
    let keys = |servers: &[Server]| -> Vec<(IpAddr, u16)> {
        servers.iter().map(|server| (server.address, server.port)).collect()
    };
    let (own, in_use) = (old.own_servers(), old.own_servers().len() - old.suspended.len());
    let (before, after) = (keys(&own), keys(&new.own_servers()));
    let in_order = before == after;
    let named = |(address, port): (IpAddr, u16)| {
        format!("{subject}, server {}", std::net::SocketAddr::new(address, port))
    };
    let places = |servers: &[(IpAddr, u16)]| -> HashMap<(IpAddr, u16), usize> {
        servers.iter().enumerate().map(|(place, server)| (*server, place)).collect()
    };
    let (old_places, new_places) =
        if in_order { (HashMap::new(), HashMap::new()) } else { (places(&before), places(&after)) };
    let stays = |server: &(IpAddr, u16)| in_order || new_places.contains_key(server);
    for server in before.iter().filter(|server| !stays(server)) {
        changes.add(Action::Remove, named(*server), "");
    }
    let mut places_before = Vec::new();
    for (place, (server, entry)) in after.iter().zip(&new.servers).enumerate() {
        match if in_order { Some(place) } else { old_places.get(server).copied() } {
            None => changes.add(Action::Add, named(*server), entry.server.to_string()),
            Some(place) => {
                // One that is out has no place.
                places_before.extend((place < in_use).then_some(place));
                let was = &own[place];
                if *was != entry.server {
                    changes.compare(named(*server), &was.to_string(), &entry.server.to_string());
                }
            }
        }
    }
    if !places_before.is_sorted() {
        changes.add(Action::Change, subject, "another order of servers");
    }
}

#[derive(Default)]
struct Changes(Vec<Change>);

impl Changes {
    fn add(&mut self, action: Action, subject: impl Into<String>, detail: impl Into<String>) {
        self.0.push(Change { action, subject: subject.into(), detail: detail.into() });
    }

    fn compare(&mut self, subject: impl Into<String>, old: &str, new: &str) {
        if old != new {
            self.add(Action::Change, subject, format!("{old} -> {new}"));
        }
    }
}

fn list(addresses: &[IpAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    if texts.is_empty() { "none".into() } else { texts.join(", ") }
}

/// What is not at its default, in short.
impl fmt::Display for ServiceSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ServiceSettings { scheduler, scheduler_flags, persistence, granularity, engine, one_packet } =
            self;
        write!(f, "{scheduler}")?;
        if *scheduler_flags != 0 {
            write!(f, " flags {scheduler_flags:#05b}")?;
        }
        if let Some(seconds) = persistence {
            write!(f, " persistent {seconds}")?;
            match granularity {
                _ if granularity.is_host() => {}
                super::Granularity::Mask(mask) => write!(f, " netmask {mask}")?,
                super::Granularity::Prefix(bits) => write!(f, " netmask {bits}")?,
            }
        }
        if let Some(engine) = engine {
            write!(f, " engine {engine}")?;
        }
        if *one_packet {
            f.write_str(" one_packet")?;
        }
        Ok(())
    }
}

/// Method and weight, and what is not at its default.
impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let method = match self.method {
            Method::Nat => "nat",
            Method::FullNat => "fullnat",
            Method::Dr => "dr",
            Method::Tun => "tun",
        };
        write!(f, "{method} weight {}", self.weight)?;
        match self.tunnel {
            Tunnel::Ipip => {}
            Tunnel::Gre { checksum } => write!(f, " gre{}", checksum_of(checksum))?,
            Tunnel::Gue { port, checksum } => write!(f, " gue port {port}{}", checksum_of(checksum))?,
        }
        if self.upper_threshold != 0 {
            write!(f, " upper_threshold {}", self.upper_threshold)?;
        }
        if self.lower_threshold != 0 {
            write!(f, " lower_threshold {}", self.lower_threshold)?;
        }
        Ok(())
    }
}

fn checksum_of(checksum: TunnelChecksum) -> &'static str {
    match checksum {
        TunnelChecksum::None => "",
        TunnelChecksum::Sent => " with checksum",
        TunnelChecksum::Remote => " with remote checksum",
    }
}

impl super::marks::Marks {
    /// Becomes what the other is; a rule that is in both keeps its counter.
    fn become_like(&mut self, wanted: super::marks::Marks) {
        if self.same_rules(&wanted) {
            return;
        }
        let mut old: Vec<Option<_>> = self.take_entries().into_iter().map(Some).collect();
        let mut entries = wanted.into_entries();
        // There are at most some thousand, and far fewer as a rule.
        for entry in &mut entries {
            let kept = old.iter_mut().find(|old| old.as_ref().is_some_and(|old| old.rule == entry.rule));
            if let Some(kept) = kept.and_then(Option::take) {
                entry.counters = Arc::clone(&kept.counters);
            }
        }
        // These very rules were put in force in `wanted`, for the same interfaces.
        if let Err(error) = self.replace(entries) {
            tracing::error!(%error, "mark rules that were checked are refused");
        }
    }
}
