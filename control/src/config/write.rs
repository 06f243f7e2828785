//! Services, servers and mark rules as tables of the configuration file.
//!
//! A table that is there already keeps its comments and its other keys: only
//! what differs is written.

use std::net::{IpAddr, SocketAddr};

use sluice_dataplane::conn::TimeoutOverrides;
use sluice_dataplane::service::{OffloadChoice, SchedulerKind};
use toml_edit::{Array, ArrayOfTables, Item, Table, TableLike, Value};

use super::timeouts::named;
use crate::marks::MarkRule;
use crate::rules::{
    Family, Granularity, Method, Protocol, Server, ServiceName, ServiceRules, ServiceSettings, Tunnel,
    TunnelChecksum,
};

/// Writes a value, or removes its key. A comment behind the value stays.
pub(crate) fn put(table: &mut dyn TableLike, key: &str, value: Option<Value>) {
    match (value, table.get_mut(key)) {
        (None, _) => {
            table.remove(key);
        }
        (Some(mut value), Some(Item::Value(there))) => {
            *value.decor_mut() = there.decor().clone();
            *there = value;
        }
        (Some(value), _) => {
            table.insert(key, Item::Value(value));
        }
    }
}

/// A `[[service]]` with its servers.
pub(crate) fn service(rules: &ServiceRules) -> Table {
    let mut table = Table::new();
    match rules.name {
        ServiceName::Address { protocol, address, port } => {
            put(&mut table, "address", Some(SocketAddr::new(address, port).to_string().into()));
            put(&mut table, "protocol", Some(protocol.name().into()));
        }
        ServiceName::Mark { mark, family } => {
            put(&mut table, "mark", Some(i64::from(mark).into()));
            let v6 = (family == Family::Ipv6).then(|| "ipv6".into());
            put(&mut table, "family", v6);
        }
    }
    put(&mut table, "scheduler", Some(rules.settings.scheduler.as_str().into()));
    let plain = ServiceSettings::plain(&rules.settings.scheduler, rules.name.family());
    put_settings(&mut table, &plain, &rules.settings);
    put_local_addresses(&mut table, &rules.local_addresses);
    put_timeouts(&mut table, &rules.timeouts);
    put_offload(&mut table, rules.offload);
    let mut servers = ArrayOfTables::new();
    for one in &rules.servers {
        servers.push(server(one, rules.name.port()));
    }
    if !servers.is_empty() {
        table.insert("server", Item::ArrayOfTables(servers));
    }
    table
}

/// Writes what differs of a service's settings.
pub(crate) fn put_settings(table: &mut dyn TableLike, was: &ServiceSettings, now: &ServiceSettings) {
    if was.scheduler != now.scheduler {
        put(table, "scheduler", Some(now.scheduler.as_str().into()));
    }
    if (was.scheduler_flags, &was.scheduler) != (now.scheduler_flags, &now.scheduler) {
        let flags: Array = flag_names(now).into_iter().collect();
        put(table, "flags", (!flags.is_empty()).then(|| flags.into()));
    }
    if was.one_packet != now.one_packet {
        put(table, "one_packet", now.one_packet.then(|| true.into()));
    }
    if was.persistence != now.persistence {
        put(table, "persistent", now.persistence.map(|seconds| i64::from(seconds).into()));
    }
    let netmask = |settings: &ServiceSettings| {
        settings.persistence.filter(|_| !settings.granularity.is_host()).map(|_| settings.granularity)
    };
    if netmask(was) != netmask(now) {
        let text = netmask(now).map(|granularity| match granularity {
            Granularity::Mask(mask) => mask.to_string(),
            Granularity::Prefix(bits) => bits.to_string(),
        });
        put(table, "netmask", text.map(Into::into));
    }
    if was.engine != now.engine {
        put(table, "engine", now.engine.as_deref().map(Into::into));
    }
}

/// The names of a scheduler's flags. They are of the scheduler where it has
/// names for them, else IPVS's.
fn flag_names(settings: &ServiceSettings) -> Vec<&'static str> {
    let names = flags_of(SchedulerKind::from_name(&settings.scheduler));
    let bits = [1, 2, 4].into_iter().filter(|bit| settings.scheduler_flags & bit != 0);
    let name = |bit| names.iter().rev().find(|(_, of)| *of == bit);
    bits.filter_map(name).map(|(name, _)| *name).collect()
}

/// What `flags` may have for a scheduler, and which bits these are. The name
/// that a bit goes by stands last.
pub(crate) fn flags_of(scheduler: Option<SchedulerKind>) -> &'static [(&'static str, u8)] {
    match scheduler {
        Some(SchedulerKind::Sh) => {
            &[("flag-1", 1), ("flag-2", 2), ("flag-3", 4), ("sh-fallback", 1), ("sh-port", 2)]
        }
        Some(SchedulerKind::Mh) => {
            &[("flag-1", 1), ("flag-2", 2), ("flag-3", 4), ("mh-fallback", 1), ("mh-port", 2)]
        }
        _ => &[("flag-1", 1), ("flag-2", 2), ("flag-3", 4)],
    }
}

/// Writes the LIPs of a service, or of the director.
pub(crate) fn put_local_addresses(table: &mut dyn TableLike, addresses: &[IpAddr]) {
    let list: Array = addresses.iter().map(ToString::to_string).collect();
    put(table, "local_addresses", (!list.is_empty()).then(|| list.into()));
}

/// Writes the timeouts of a service anew, where it has any.
pub(crate) fn put_timeouts(table: &mut dyn TableLike, timeouts: &TimeoutOverrides) {
    table.remove("timeouts");
    if timeouts.is_empty() {
        return;
    }
    let mut inline = toml_edit::InlineTable::new();
    for (name, seconds) in named(timeouts) {
        inline.insert(&name, i64::from(seconds).into());
    }
    put(table, "timeouts", Some(inline.into()));
}

/// Writes whether a service's connections are carried in the kernel, where that is
/// not as the director has it.
pub(crate) fn put_offload(table: &mut dyn TableLike, offload: OffloadChoice) {
    put(table, "offload", (offload != OffloadChoice::default()).then(|| offload.name().into()));
}

/// A `[[service.server]]`.
pub(crate) fn server(server: &Server, service_port: u16) -> Table {
    let mut table = Table::new();
    put(&mut table, "address", Some(server_address(server, service_port).into()));
    put(&mut table, "method", Some(method(server.method).into()));
    put(&mut table, "weight", Some(i64::from(server.weight).into()));
    let plain = Server::plain(server.address, server.port, server.method, server.weight);
    put_server(&mut table, &plain, server);
    table
}

/// Writes what differs of a server.
pub(crate) fn put_server(table: &mut dyn TableLike, was: &Server, now: &Server) {
    if was.method != now.method {
        put(table, "method", Some(method(now.method).into()));
    }
    if (was.method, was.tunnel) != (now.method, now.tunnel) {
        put_tunnel(table, now);
    }
    if was.weight != now.weight {
        put(table, "weight", Some(i64::from(now.weight).into()));
    }
    let number = |number: u32| (number != 0).then(|| i64::from(number).into());
    if was.upper_threshold != now.upper_threshold {
        put(table, "upper_threshold", number(now.upper_threshold));
    }
    if was.lower_threshold != now.lower_threshold {
        put(table, "lower_threshold", number(now.lower_threshold));
    }
}

fn put_tunnel(table: &mut dyn TableLike, server: &Server) {
    let (kind, port, checksum) = match server.tunnel {
        _ if server.method != Method::Tun => (None, None, TunnelChecksum::None),
        Tunnel::Ipip => (None, None, TunnelChecksum::None),
        Tunnel::Gre { checksum } => (Some("gre"), None, checksum),
        Tunnel::Gue { port, checksum } => (Some("gue"), Some(port), checksum),
    };
    put(table, "tunnel", kind.map(Into::into));
    put(table, "tunnel_port", port.map(|port| i64::from(port).into()));
    let checksum = match checksum {
        TunnelChecksum::None => None,
        TunnelChecksum::Sent => Some(true.into()),
        TunnelChecksum::Remote => Some("remote".into()),
    };
    put(table, "tunnel_checksum", checksum);
}

/// Address and, unless it is the service's, port.
pub(crate) fn server_address(server: &Server, service_port: u16) -> String {
    if server.port == service_port {
        server.address.to_string()
    } else {
        SocketAddr::new(server.address, server.port).to_string()
    }
}

/// What `method` of a server is called.
pub(crate) fn method(method: Method) -> &'static str {
    match method {
        Method::Nat => "nat",
        Method::FullNat => "fullnat",
        Method::Dr => "dr",
        Method::Tun => "tun",
    }
}

/// A `[[mark]]`.
pub(crate) fn mark(rule: &MarkRule) -> Table {
    let MarkRule { vip, protocol, ports, from, interface, set } = rule;
    let mut table = Table::new();
    put(&mut table, "vip", Some(vip.to_string().into()));
    put(&mut table, "protocol", protocol.map(Protocol::name).map(Into::into));
    let list: Array = ports
        .ranges()
        .iter()
        .map(|range| match range.first == range.last {
            true => Value::from(i64::from(range.first)),
            false => Value::from(format!("{}-{}", range.first, range.last)),
        })
        .collect();
    put(&mut table, "ports", (!list.is_empty()).then(|| list.into()));
    put(&mut table, "from", from.map(|from| from.to_string().into()));
    put(&mut table, "in", interface.as_deref().map(Into::into));
    let value = match set.mask {
        u32::MAX => Value::from(i64::from(set.value)),
        _ => Value::from(set.to_string()),
    };
    put(&mut table, "set", Some(value));
    table
}
