//! `virtual_server` with its `real_server` blocks.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use sluice_dataplane::service::SchedulerKind;
use toml_edit::{Array, InlineTable, Table};

use super::super::note::Notes;
use super::super::service::Imported;
use super::check::{Around, MAX_CHECKS, checks};
use super::group::{self, At};
use super::tree::Statement;
use super::values::{Timing, Values, command};
use crate::config::MAX_WEIGHT;
use crate::config::write::{flags_of, method as name_of, put};
use crate::rules::{
    Family, Granularity, MAX_TIMEOUT, Method, Protocol, Server, ServiceName, ServiceRules, ServiceSettings,
    Tunnel, TunnelChecksum,
};

/// Persistence timeout of keepalived where none is said.
const PERSISTENCE: u32 = 360;

/// What a `virtual_server` says, whatever it is known by.
struct Virtual<'s> {
    scheduler: &'s str,
    flags: Vec<&'s Statement>,
    one_packet: Option<&'s Statement>,
    method: (Method, Tunnel),
    engine: Option<&'s Statement>,
    persistence: Option<u32>,
    granularity: Option<&'s Statement>,
    protocol: Protocol,
    family: Option<Family>,
    virtualhost: Option<&'s str>,
    timing: Timing,
    inhibit: bool,
    health: Table,
    sorry: Option<(&'s Statement, IpAddr, Option<u16>)>,
    sorry_method: Option<(Method, Tunnel)>,
    servers: Vec<&'s Statement>,
}

/// A `real_server`, before it is known of which service.
struct Real<'s> {
    statement: &'s Statement,
    address: IpAddr,
    port: Option<u16>,
    server: Server,
    inhibit: Option<bool>,
    virtualhost: Option<&'s str>,
    timing: Timing,
    checks: Vec<&'s Statement>,
}

/// The services that a `virtual_server` stands for.
pub(super) fn services(statement: &Statement, at: &[At], notes: &mut Notes) -> Vec<Imported> {
    let mut values = Values { notes };
    let service = read(statement, &mut values);
    let reals: Vec<Real<'_>> =
        service.servers.iter().filter_map(|server| real(server, &service, &mut values)).collect();
    if at.len() > 1 {
        let text =
            format!("{} becomes {} services with the same servers", statement.words.join(" "), at.len());
        values.notes.add(&statement.place, text);
    }
    let mut services = Vec::new();
    for (number, at) in at.iter().enumerate() {
        // What is said of servers is the same for each.
        let mut again = Notes::default();
        let mut values = Values { notes: if number == 0 { &mut *values.notes } else { &mut again } };
        services.extend(build(statement, *at, &service, &reals, &mut values));
    }
    services
}

fn read<'s>(statement: &'s Statement, values: &mut Values<'_>) -> Virtual<'s> {
    let mut service = Virtual {
        scheduler: "wlc",
        flags: Vec::new(),
        one_packet: None,
        method: (Method::Nat, Tunnel::Ipip),
        engine: None,
        persistence: None,
        granularity: None,
        protocol: Protocol::Tcp,
        family: None,
        virtualhost: None,
        timing: Timing::default(),
        inhibit: false,
        health: Table::new(),
        sorry: None,
        sorry_method: None,
        servers: Vec::new(),
    };
    for one in statement.inside() {
        if service.timing.take(one, values) {
            continue;
        }
        match one.keyword() {
            "real_server" => service.servers.push(one),
            "lvs_sched" | "lb_algo" => {
                let name = values.text(one).unwrap_or("wlc");
                match SchedulerKind::from_name(name) {
                    Some(_) => service.scheduler = name,
                    None => values.lacks(one, &format!(" for {name}; it becomes {}", service.scheduler)),
                }
            }
            "flag-1" | "flag-2" | "flag-3" | "sh-port" | "sh-fallback" | "mh-port" | "mh-fallback" => {
                service.flags.push(one);
            }
            "ops" => service.one_packet = Some(one),
            "lvs_method" | "lb_kind" => {
                service.method = method(one, values).unwrap_or(service.method);
            }
            "persistence_engine" => service.engine = Some(one),
            "persistence_timeout" => {
                service.persistence = match one.word(1) {
                    None => Some(PERSISTENCE),
                    Some(_) => values.number(one, MAX_TIMEOUT).filter(|seconds| *seconds != 0),
                };
            }
            "persistence_granularity" => service.granularity = Some(one),
            "protocol" => match one.word(1).map(str::to_ascii_uppercase).as_deref() {
                Some("TCP") => service.protocol = Protocol::Tcp,
                Some("UDP") => service.protocol = Protocol::Udp,
                Some("SCTP") => service.protocol = Protocol::Sctp,
                _ => values.note(one, "is TCP, UDP or SCTP; it becomes TCP"),
            },
            "ip_family" => match one.word(1) {
                Some("inet") => service.family = Some(Family::Ipv4),
                Some("inet6") => service.family = Some(Family::Ipv6),
                _ => values.note(one, "is inet or inet6, and is left out"),
            },
            "virtualhost" => service.virtualhost = values.text(one),
            "alpha" => {
                let on = values.switch(one);
                put(&mut service.health, "alpha", on.then(|| true.into()));
            }
            "inhibit_on_failure" => service.inhibit = values.switch(one),
            "quorum" => {
                let quorum = values.number(one, u32::MAX).filter(|quorum| *quorum > 1);
                put(&mut service.health, "quorum", quorum.map(|quorum| i64::from(quorum).into()));
            }
            "hysteresis" => {
                let hysteresis = values.number(one, u32::MAX).filter(|number| *number > 0);
                put(&mut service.health, "hysteresis", hysteresis.map(|number| i64::from(number).into()));
            }
            "quorum_up" | "quorum_down" => {
                let Some(text) = values.text(one) else { continue };
                let words: Array = command(text).into_iter().collect();
                put(&mut service.health, one.keyword(), (!words.is_empty()).then(|| words.into()));
                if one.words.len() > 2 {
                    values.note(one, "runs as the director does: a user and group have no counterpart");
                }
            }
            "sorry_server" => match (one.word(1).map(group::ip), one.word(2).map(group::port)) {
                (Some(Ok(ip)), None) => service.sorry = Some((one, ip, None)),
                (Some(Ok(ip)), Some(Ok(port))) => {
                    service.sorry = Some((one, ip, Some(port).filter(|port| *port != 0)));
                }
                _ => values.note(one, "is no address and port, and is left out"),
            },
            "sorry_server_lvs_method" => service.sorry_method = method(one, values),
            "sorry_server_inhibit" => values.lacks(one, "; the sorry server is added and removed"),
            "omega" => {
                values.lacks(one, "; nothing runs when the director stops, and servers stay as they are");
            }
            "ha_suspend" => {
                values.lacks(one, "; servers are checked whether this director has the VIP or not")
            }
            "smtp_alert" => values.lacks(one, "; `sluice events --follow` and the metrics tell what happens"),
            "snmp_name" => values.lacks(one, "; metrics name a service by its address"),
            _ => values.note(one, "is not known, and is left out"),
        }
    }
    let quorum = service.health.get("quorum").and_then(|quorum| quorum.as_integer()).unwrap_or(1);
    if let Some(hysteresis) = service.health.get("hysteresis").and_then(|number| number.as_integer())
        && hysteresis >= quorum
    {
        let text = format!("hysteresis {hysteresis} leaves nothing of a quorum of {quorum}, and is left out");
        values.notes.add(&statement.place, text);
        service.health.remove("hysteresis");
    }
    service
}

/// `NAT`, `DR` or `TUN [type {ipip|gue port NUM|gre} [nocsum|csum|remcsum]]`.
fn method(statement: &Statement, values: &mut Values<'_>) -> Option<(Method, Tunnel)> {
    match values.text(statement)?.to_ascii_uppercase().as_str() {
        "NAT" => return Some((Method::Nat, Tunnel::Ipip)),
        "DR" => return Some((Method::Dr, Tunnel::Ipip)),
        "TUN" => {}
        other => {
            values.lacks(statement, &format!(" for {other}"));
            return None;
        }
    }
    let (mut kind, mut port, mut checksum) = ("ipip", None, TunnelChecksum::None);
    let mut words = statement.words[2..].iter().map(String::as_str);
    while let Some(word) = words.next() {
        match word {
            "type" => {}
            "ipip" | "gue" | "gre" => kind = word,
            "port" => port = words.next().and_then(|port| port.parse().ok()).filter(|port| *port != 0),
            "nocsum" => checksum = TunnelChecksum::None,
            "csum" => checksum = TunnelChecksum::Sent,
            "remcsum" => checksum = TunnelChecksum::Remote,
            other => values.note(statement, &format!("has {other:?}, which is not known")),
        }
    }
    let tunnel = match (kind, port) {
        ("gue", Some(port)) => Tunnel::Gue { port, checksum },
        ("gue", None) => {
            values.note(statement, "has a GUE tunnel without port; it becomes ipip");
            Tunnel::Ipip
        }
        ("gre", _) if checksum == TunnelChecksum::Remote => {
            values.note(statement, "has a GRE tunnel with remcsum, which there is not; it becomes csum");
            Tunnel::Gre { checksum: TunnelChecksum::Sent }
        }
        ("gre", _) => Tunnel::Gre { checksum },
        _ => Tunnel::Ipip,
    };
    Some((Method::Tun, tunnel))
}

fn real<'s>(statement: &'s Statement, service: &Virtual<'s>, values: &mut Values<'_>) -> Option<Real<'s>> {
    let address = statement.word(1).map_or_else(|| Err("it has none".into()), group::ip);
    let port = statement.word(2).map(group::port).transpose();
    let (address, port) = match (address, port) {
        (Ok(address), Ok(port)) => (address, port.filter(|port| *port != 0)),
        (Err(problem), _) | (_, Err(problem)) => {
            values.note(statement, &format!("has no address: {problem}; it is left out"));
            return None;
        }
    };
    let (kind, tunnel) = service.method;
    let mut real = Real {
        statement,
        address,
        port,
        server: Server { tunnel, ..Server::plain(address, 0, kind, 1) },
        inhibit: None,
        virtualhost: service.virtualhost,
        timing: Timing::default(),
        checks: Vec::new(),
    };
    for one in statement.inside() {
        if real.timing.take(one, values) {
            continue;
        }
        match one.keyword() {
            "weight" => real.server.weight = values.number(one, MAX_WEIGHT).unwrap_or(1),
            "lvs_method" | "lb_kind" => {
                if let Some((kind, tunnel)) = method(one, values) {
                    (real.server.method, real.server.tunnel) = (kind, tunnel);
                }
            }
            "uthreshold" => real.server.upper_threshold = values.number(one, MAX_WEIGHT).unwrap_or(0),
            "lthreshold" => real.server.lower_threshold = values.number(one, MAX_WEIGHT).unwrap_or(0),
            "inhibit_on_failure" => real.inhibit = Some(values.switch(one)),
            "virtualhost" => real.virtualhost = values.text(one),
            "alpha" => values.lacks(one, " for a single server; the service has a key alpha"),
            "notify_up" | "notify_down" => {
                values.lacks(one, "; `sluice events --follow` and the metrics tell what happens");
            }
            "smtp_alert" => values.lacks(one, "; `sluice events --follow` and the metrics tell what happens"),
            "snmp_name" => values.lacks(one, "; metrics name a server by its address"),
            keyword if keyword.ends_with("_CHECK") || keyword.ends_with("_GET") => real.checks.push(one),
            _ => values.note(one, "is not known, and is left out"),
        }
    }
    if real.server.lower_threshold > real.server.upper_threshold {
        values.note(statement, "has an lthreshold above its uthreshold; both are left out");
        (real.server.lower_threshold, real.server.upper_threshold) = (0, 0);
    }
    real.timing = real.timing.or(service.timing);
    Some(real)
}

fn build(
    statement: &Statement,
    at: At,
    service: &Virtual<'_>,
    reals: &[Real<'_>],
    values: &mut Values<'_>,
) -> Option<Imported> {
    let place = &statement.place;
    let name = match at {
        At::Address(address, port) => ServiceName::Address { protocol: service.protocol, address, port },
        At::Mark(mark, v6) => {
            let said = v6.map(|v6| if v6 { Family::Ipv6 } else { Family::Ipv4 }).or(service.family);
            let of_server = reals
                .iter()
                .find(|real| real.server.method != Method::Tun)
                .or(reals.first())
                .map(|real| Family::of(real.address));
            ServiceName::Mark { mark, family: said.or(of_server).unwrap_or(Family::Ipv4) }
        }
    };
    if let ServiceName::Mark { mark, .. } = name {
        let text = format!(
            "fwmark {mark}: write [[mark]] rules for what marks its packets now (iptables -t mangle): \
             packets do not pass the kernel's; configs/marks.toml shows how"
        );
        values.notes.add(place, text);
    }
    let settings = settings(service, &name, values);
    if !name.is_mark() && name.port() == 0 && settings.persistence.is_none() {
        values.notes.add(place, "a service of all ports needs persistence_timeout; it is left out");
        return None;
    }
    let mut imported = Imported::new(
        place.clone(),
        ServiceRules {
            name,
            settings,
            timeouts: Default::default(),
            offload: Default::default(),
            servers: Vec::new(),
            local_addresses: Vec::new(),
        },
    );
    imported.comments.clone_from(&statement.comments);
    imported.keys = service.health.clone();
    for real in reals {
        let server = with_port(real, &name);
        if !fits(&server, &name) {
            let text = "is of another address family than its service, which takes a tunnel; it is left out";
            values.note(real.statement, text);
            continue;
        }
        let same = |other: &Server| (other.address, other.port) == (server.address, server.port);
        if imported.rules.servers.iter().any(same) {
            values.note(real.statement, "is a server of this service already; it is left out");
            continue;
        }
        let around = Around {
            timing: real.timing,
            virtualhost: real.virtualhost,
            server: SocketAddr::new(server.address, server.port),
        };
        let mut all = Vec::new();
        for check in &real.checks {
            match checks(check, &around, values.notes) {
                Some(some) => all.extend(some),
                None => values.note(check, "is not known, and is left out"),
            }
        }
        if all.len() > MAX_CHECKS {
            values.note(
                real.statement,
                &format!("has more than {MAX_CHECKS} checks; the last ones are left out"),
            );
            all.truncate(MAX_CHECKS);
        }
        imported.rules.servers.push(server);
        imported.server_comments.push(real.statement.comments.clone());
        imported.checks.push(all);
    }
    inhibit(statement, service, reals, &mut imported, values);
    sorry(service, &mut imported, values);
    Some(imported)
}

fn settings(service: &Virtual<'_>, name: &ServiceName, values: &mut Values<'_>) -> ServiceSettings {
    let family = name.family();
    let mut settings = ServiceSettings::plain(service.scheduler, family);
    for flag in &service.flags {
        let known = flags_of(SchedulerKind::from_name(service.scheduler));
        match known.iter().find(|(name, _)| *name == flag.keyword()) {
            Some((_, bit)) => settings.scheduler_flags |= bit,
            None => values.note(flag, &format!("is no flag of {}, and is left out", service.scheduler)),
        }
    }
    if let Some(ops) = service.one_packet {
        let udp = name.is_mark() || service.protocol == Protocol::Udp;
        settings.one_packet = udp;
        if !udp {
            values.note(ops, "is for UDP alone, and is left out");
        }
    }
    settings.persistence = service.persistence;
    if let Some(one) = service.granularity {
        let text = one.word(1).unwrap_or_default();
        let granularity = match family {
            Family::Ipv4 => text.parse::<Ipv4Addr>().ok().map(Granularity::Mask),
            Family::Ipv6 => {
                text.parse().ok().filter(|bits| (1..=128).contains(bits)).map(Granularity::Prefix)
            }
        };
        match granularity {
            Some(granularity) => {
                settings.granularity = granularity;
                // keepalived makes such a service persistent.
                settings.persistence = Some(settings.persistence.unwrap_or(PERSISTENCE));
            }
            None => values.note(one, &format!("cannot be {text:?} here, and is left out")),
        }
    }
    if let Some(one) = service.engine {
        let udp = name.is_mark() || service.protocol == Protocol::Udp;
        match one.word(1) {
            Some("sip") if udp && settings.persistence.is_some() => settings.engine = Some("sip".into()),
            Some("sip") => values.note(one, "sip is for persistent services of UDP, and is left out"),
            _ => values.lacks(one, ""),
        }
    }
    if settings.persistence.is_none() {
        settings.granularity = Granularity::host(family);
    }
    settings
}

/// The server with the port that it has in this service.
fn with_port(real: &Real<'_>, name: &ServiceName) -> Server {
    let keeps = real.server.method.keeps_port();
    let port = match name {
        ServiceName::Mark { .. } if keeps => 0,
        ServiceName::Mark { .. } => real.port.unwrap_or(0),
        ServiceName::Address { .. } if keeps => name.port(),
        ServiceName::Address { .. } => real.port.unwrap_or(name.port()),
    };
    Server { port, ..real.server.clone() }
}

fn fits(server: &Server, name: &ServiceName) -> bool {
    Family::of(server.address) == name.family() || server.method == Method::Tun
}

/// The key is the service's here, while each server may have its own there.
fn inhibit(
    statement: &Statement,
    service: &Virtual<'_>,
    reals: &[Real<'_>],
    imported: &mut Imported,
    values: &mut Values<'_>,
) {
    let of = |real: &Real<'_>| real.inhibit.unwrap_or(service.inhibit);
    let some = if reals.is_empty() { service.inhibit } else { reals.iter().any(of) };
    put(&mut imported.keys, "inhibit_on_failure", some.then(|| true.into()));
    if some && !reals.iter().all(of) {
        let text =
            "inhibit_on_failure is not the same for all servers of this service; it becomes that of all";
        values.notes.add(&statement.place, text);
    }
}

fn sorry(service: &Virtual<'_>, imported: &mut Imported, values: &mut Values<'_>) {
    let Some((statement, address, port)) = service.sorry else { return };
    let (kind, tunnel) = service.sorry_method.unwrap_or(service.method);
    let name = imported.rules.name;
    let port = if kind.keeps_port() { name.port() } else { port.unwrap_or(name.port()) };
    let server = Server::plain(address, port, kind, 1);
    let same = |other: &Server| (other.address, other.port) == (address, port);
    if imported.rules.servers.iter().any(same) {
        values.note(statement, "is a real server of this service as well; it is left out");
        return;
    }
    if !fits(&server, &name) {
        values.note(statement, "is of another address family than its service; it is left out");
        return;
    }
    if kind == Method::Tun && tunnel != Tunnel::Ipip {
        values.note(statement, "has a tunnel that is not ipip, which has no counterpart; it becomes ipip");
    }
    let mut table = InlineTable::new();
    let text = crate::config::write::server_address(&server, name.port());
    table.insert("address", text.into());
    table.insert("method", name_of(kind).into());
    put(&mut imported.keys, "sorry_server", Some(table.into()));
}
