//! From what was typed to what is to be done.

use std::net::IpAddr;
use std::path::PathBuf;

use super::options::{Kind, TUNNEL_OPTIONS, Verb, check_command, check_tunnel};
use super::parse::{Mistake, Typed};
use crate::api::Request;
use crate::rules::{
    Daemon, DaemonRole, Family, Granularity, Method, Protocol, Server, ServiceName, ServiceSettings, Tunnel,
    TunnelChecksum,
};

/// Scheduler where none is named.
const DEFAULT_SCHEDULER: &str = "wlc";

/// What is to be done, complete and consistent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Command {
    Help,
    Version,
    /// A request that is answered by done or an error
    Change(Request),
    List(Listing),
    LocalAddresses {
        service: Option<ServiceName>,
        format: Format,
    },
    Save {
        numeric: bool,
    },
    Restore,
}

/// What to list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Listing {
    pub(super) what: What,
    pub(super) format: Format,
}

/// Which listing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum What {
    Services { only: Option<ServiceName>, view: View },
    Connections { engine_columns: bool },
    Timeouts,
    Daemons,
}

/// Which columns a listing of services has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum View {
    Plain,
    Stats,
    Rate,
    Thresholds,
    Persistent,
    Tunnel,
}

/// How to print.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Format {
    /// No names of hosts and ports
    pub(super) numeric: bool,
    /// No K, M, G, T
    pub(super) exact: bool,
    /// In the director's own order
    pub(super) unsorted: bool,
    /// For programs
    pub(super) json: bool,
}

/// The command, and the socket where one was named.
pub(super) fn resolve(mut typed: Typed) -> Result<(Command, Option<PathBuf>), Mistake> {
    let socket = typed.socket.take();
    Ok((command(typed)?, socket))
}

fn usage<T>(message: impl Into<String>) -> Result<T, Mistake> {
    Err(Mistake::Usage(message.into()))
}

fn command(typed: Typed) -> Result<Command, Mistake> {
    match typed.verb {
        Verb::Help => return Ok(Command::Help),
        Verb::Version => return Ok(Command::Version),
        _ => {}
    }
    let flags = scheduler_flags(&typed.scheduler_flags, &typed.scheduler)?;
    check_command(typed.verb, typed.given).map_err(Mistake::Usage)?;
    let service = name(&typed);
    let format = Format {
        numeric: typed.given.has(Kind::Numeric),
        exact: typed.given.has(Kind::Exact),
        unsorted: typed.given.has(Kind::NoSort),
        json: typed.given.has(Kind::Json),
    };
    // The table of options has seen to what is needed by a command; should it
    // be wrong, the user is told and nothing is done.
    let needed = |what: &str| Mistake::Usage(format!("You need to supply the '{what}' option"));
    let of_service = || service.ok_or_else(|| needed("service-address"));
    let lip = || typed.local_address.ok_or_else(|| needed("local-address"));
    let rip = || typed.server.ok_or_else(|| needed("real-server"));
    let role = || typed.role.ok_or_else(|| needed("daemon"));
    Ok(match typed.verb {
        Verb::AddService => {
            let (service, settings) = (of_service()?, settings(&typed, flags)?);
            Command::Change(Request::AddService { service, settings })
        }
        Verb::EditService => {
            let (service, settings) = (of_service()?, settings(&typed, flags)?);
            Command::Change(Request::EditService { service, settings })
        }
        Verb::DeleteService => Command::Change(Request::DeleteService { service: of_service()? }),
        Verb::Flush => Command::Change(Request::Flush),
        Verb::AddServer => {
            let service = of_service()?;
            Command::Change(Request::AddServer { service, server: server(&typed, &service, rip()?)? })
        }
        Verb::EditServer => {
            let service = of_service()?;
            Command::Change(Request::EditServer { service, server: server(&typed, &service, rip()?)? })
        }
        Verb::DeleteServer => {
            let (address, port) = rip()?;
            Command::Change(Request::DeleteServer { service: of_service()?, address, port })
        }
        Verb::AddLocal => {
            Command::Change(Request::AddLocalAddress { service: of_service()?, address: lip()? })
        }
        Verb::DeleteLocal => {
            Command::Change(Request::DeleteLocalAddress { service: of_service()?, address: lip()? })
        }
        Verb::GetLocal => Command::LocalAddresses { service, format },
        Verb::Zero => Command::Change(Request::Zero { service }),
        Verb::Set => Command::Change(Request::SetTimeouts { timeouts: typed.timeouts }),
        Verb::StartDaemon => {
            let role = role()?;
            Command::Change(Request::StartDaemon { daemon: daemon(typed, role) })
        }
        Verb::StopDaemon => Command::Change(Request::StopDaemon { role: role()? }),
        Verb::List => Command::List(Listing { what: what(&typed, service)?, format }),
        Verb::Save => Command::Save { numeric: format.numeric },
        Verb::Restore => Command::Restore,
        Verb::Help => Command::Help,
        Verb::Version => Command::Version,
    })
}

fn name(typed: &Typed) -> Option<ServiceName> {
    let words = &typed.service;
    if let Some(mark) = words.mark {
        return Some(ServiceName::Mark { mark, family: words.family.unwrap_or(Family::Ipv4) });
    }
    Some(ServiceName::Address { protocol: words.protocol?, address: words.address?, port: words.port })
}

/// Bits of `-b`; 0 and 1 have another name with each scheduler that uses
/// them.
fn scheduler_flags(text: &str, scheduler: &str) -> Result<u8, Mistake> {
    let mut bits = 0;
    for flag in text.split(',').filter(|flag| !flag.is_empty()) {
        let (bit, owner) = match flag {
            "flag-1" => (0, None),
            "flag-2" => (1, None),
            "flag-3" => (2, None),
            "sh-fallback" => (0, Some("sh")),
            "sh-port" => (1, Some("sh")),
            "mh-fallback" => (0, Some("mh")),
            "mh-port" => (1, Some("mh")),
            _ => return usage(format!("invalid scheduler flag `{flag}'")),
        };
        if owner.is_some_and(|owner| owner != scheduler) {
            return usage(format!("incompatible scheduler flag `{flag}'"));
        }
        bits |= 1 << bit;
    }
    Ok(bits)
}

fn settings(typed: &Typed, scheduler_flags: u8) -> Result<ServiceSettings, Mistake> {
    let words = &typed.service;
    if words.mark.is_none() && words.port == 0 && typed.persistence.is_none() {
        return usage("Zero port specified for non-persistent service");
    }
    let one_packet = typed.given.has(Kind::Ops);
    if one_packet && words.mark.is_none() && words.protocol != Some(Protocol::Udp) {
        return usage("One-Packet Scheduling is only for UDP virtual services");
    }
    let scheduler = match typed.scheduler.as_str() {
        "" => DEFAULT_SCHEDULER,
        scheduler => scheduler,
    };
    let family = words.family.unwrap_or(Family::Ipv4);
    Ok(ServiceSettings {
        scheduler: scheduler.into(),
        scheduler_flags,
        persistence: typed.persistence,
        granularity: words.granularity.unwrap_or_else(|| Granularity::host(family)),
        engine: (!typed.engine.is_empty()).then(|| typed.engine.clone()),
        one_packet,
    })
}

fn server(typed: &Typed, service: &ServiceName, (address, port): (IpAddr, u16)) -> Result<Server, Mistake> {
    let method = typed.method.unwrap_or(Method::Dr);
    let same_family = Family::of(address) == service.family();
    if !same_family && method != Method::Tun {
        return usage("Different address family is allowed only for tunneling servers");
    }
    let tunnel_options = [Kind::TunType, Kind::TunPort, Kind::TunNoCsum, Kind::TunCsum, Kind::TunRemCsum];
    if typed.given.has_any(&tunnel_options) {
        if method != Method::Tun {
            return usage("Tunnel options conflict with forward method");
        }
        for (name, columns) in TUNNEL_OPTIONS {
            if name == typed.tunnel_type {
                check_tunnel(name, columns, typed.given).map_err(Mistake::Usage)?;
            }
        }
    }
    let checksum = typed.tunnel_checksum;
    let tunnel = match typed.tunnel_type.as_str() {
        "gue" => Tunnel::Gue { port: typed.tunnel_port, checksum },
        "gre" => Tunnel::Gre { checksum },
        _ => Tunnel::Ipip,
    };
    debug_assert!(tunnel != Tunnel::Gre { checksum: TunnelChecksum::Remote });
    // A DR or TUN server gets the service's port whatever was typed.
    let port = if method.keeps_port() && !service.is_mark() { service.port() } else { port };
    Ok(Server {
        address,
        port,
        method,
        tunnel,
        weight: typed.weight,
        upper_threshold: typed.upper,
        lower_threshold: typed.lower,
    })
}

fn daemon(typed: Typed, role: DaemonRole) -> Daemon {
    Daemon {
        role,
        interface: if typed.interface.is_empty() { "eth0".into() } else { typed.interface },
        sync_id: typed.sync_id,
        max_length: typed.max_length,
        group: typed.group,
        port: typed.port,
        ttl: typed.ttl,
    }
}

fn what(typed: &Typed, only: Option<ServiceName>) -> Result<What, Mistake> {
    let given = typed.given;
    let (connections, timeouts, daemons) =
        (given.has(Kind::Connection), given.has(Kind::Timeout), given.has(Kind::Daemon));
    let counters = given.has_any(&[Kind::Stats, Kind::Rate, Kind::Thresholds]);
    let persistent = given.has(Kind::PersistentConn);
    if (connections && counters) || ((timeouts || daemons) && (counters || persistent)) {
        return usage("options conflicts in the list command");
    }
    // One of them at most is given.
    Ok(if connections {
        What::Connections { engine_columns: persistent }
    } else if timeouts {
        What::Timeouts
    } else if daemons {
        What::Daemons
    } else {
        let views = [
            (Kind::Stats, View::Stats),
            (Kind::Rate, View::Rate),
            (Kind::Thresholds, View::Thresholds),
            (Kind::PersistentConn, View::Persistent),
            (Kind::TunInfo, View::Tunnel),
        ];
        let view = views.into_iter().find(|(kind, _)| given.has(*kind));
        What::Services { only, view: view.map_or(View::Plain, |(_, view)| view) }
    })
}
