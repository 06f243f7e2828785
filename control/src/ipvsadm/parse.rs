//! From the words of a command line to what was typed.
//!
//! Options are read one after the other and checked as they come, in
//! ipvsadm's order, so that of two mistakes the same one is reported. What an
//! option means can depend on those before it: `-M` after an IPv6 service is
//! a prefix length, `-r` before the service does not get its port.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use super::address::{endpoint, ipv4_or_name, leading_number, number};
use super::names::Resolver;
use super::options::{Id, KIND_NAMES, Kind, Kinds, Verb, specs};
use super::popt::{Found, Scanner};
use crate::rules::{
    DaemonRole, Family, Granularity, MAX_TIMEOUT, Method, Protocol, Timeouts, TunnelChecksum,
};

/// Persistence timeout of `-p` alone, in seconds.
const DEFAULT_PERSISTENCE: u32 = 360;

/// Why a command line is not carried out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Mistake {
    /// It does not begin with a command: a hint is printed, status 255
    TryHelp,
    /// popt's complaint, status 255; a restore goes on with its next line
    Scan(String),
    /// Status 2, also for the rest of a restore
    Usage(String),
}

fn usage<T>(message: impl Into<String>) -> Result<T, Mistake> {
    Err(Mistake::Usage(message.into()))
}

/// What was typed, each option by itself sound.
#[derive(Clone, Debug)]
pub(super) struct Typed {
    pub(super) verb: Verb,
    pub(super) given: Kinds,
    pub(super) service: ServiceWords,
    pub(super) scheduler: String,
    pub(super) scheduler_flags: String,
    pub(super) persistence: Option<u32>,
    pub(super) engine: String,
    pub(super) server: Option<(IpAddr, u16)>,
    pub(super) method: Option<Method>,
    pub(super) weight: u32,
    pub(super) upper: u32,
    pub(super) lower: u32,
    pub(super) tunnel_type: String,
    pub(super) tunnel_port: u16,
    pub(super) tunnel_checksum: TunnelChecksum,
    pub(super) local_address: Option<IpAddr>,
    pub(super) timeouts: Timeouts,
    pub(super) role: Option<DaemonRole>,
    pub(super) interface: String,
    pub(super) sync_id: Option<u8>,
    pub(super) max_length: Option<u16>,
    pub(super) group: Option<IpAddr>,
    pub(super) port: Option<u16>,
    pub(super) ttl: Option<u8>,
    pub(super) socket: Option<PathBuf>,
}

/// What was typed of the virtual service.
#[derive(Clone, Debug, Default)]
pub(super) struct ServiceWords {
    pub(super) protocol: Option<Protocol>,
    pub(super) address: Option<IpAddr>,
    pub(super) port: u16,
    pub(super) mark: Option<u32>,
    pub(super) family: Option<Family>,
    pub(super) granularity: Option<Granularity>,
}

/// Reads a command line without the program's name.
pub(super) fn parse(words: &[String], names: &dyn Resolver) -> Result<Typed, Mistake> {
    let mut scanner = Scanner::new(words);
    let first = match scanner.next(&specs(None)) {
        Some(Ok(first)) => first,
        _ => return Err(Mistake::TryHelp),
    };
    let Id::Verb(verb) = first.id else { return Err(Mistake::TryHelp) };
    let mut typed = Typed::new(verb);
    match verb {
        // Whatever follows is not looked at.
        Verb::Help | Verb::Version => return Ok(typed),
        Verb::StartDaemon | Verb::StopDaemon => {
            typed.role = Some(match (first.value.as_deref(), verb) {
                (Some("master"), _) => DaemonRole::Master,
                (Some("backup"), _) => DaemonRole::Backup,
                (_, Verb::StartDaemon) => return usage("illegal start-daemon parameter specified"),
                _ => return usage("illegal start_daemon specified"),
            });
        }
        _ => {}
    }
    let specs = specs(Some(verb));
    while let Some(found) = scanner.next(&specs) {
        let found = found.map_err(|error| Mistake::Scan(error.to_string()))?;
        typed.take(found, names)?;
    }
    let mut leftover = scanner.leftover().into_iter();
    if verb == Verb::Set {
        match (leftover.next(), leftover.next(), leftover.next()) {
            (Some(tcp), Some(tcp_fin), Some(udp)) => {
                typed.timeouts = Timeouts {
                    tcp: timeout(&tcp, 0)?,
                    tcp_fin: timeout(&tcp_fin, 0)?,
                    udp: timeout(&udp, 0)?,
                };
            }
            _ => return usage("--set option requires 3 timeout values"),
        }
    }
    match leftover.next() {
        Some(extra) => usage(format!("unexpected argument {extra}")),
        None => Ok(typed),
    }
}

impl Typed {
    fn new(verb: Verb) -> Self {
        Typed {
            verb,
            given: Kinds::default(),
            service: ServiceWords::default(),
            scheduler: String::new(),
            scheduler_flags: String::new(),
            persistence: None,
            engine: String::new(),
            server: None,
            method: None,
            weight: 1,
            upper: 0,
            lower: 0,
            tunnel_type: "ipip".into(),
            tunnel_port: 0,
            tunnel_checksum: TunnelChecksum::None,
            local_address: None,
            timeouts: Timeouts::default(),
            role: None,
            interface: String::new(),
            sync_id: None,
            max_length: None,
            group: None,
            port: None,
            ttl: None,
            socket: None,
        }
    }

    fn once(&mut self, kind: Kind) -> Result<(), Mistake> {
        if self.given.insert(kind) {
            return Ok(());
        }
        usage(format!("multiple '{}' options specified", KIND_NAMES[kind as usize]))
    }

    fn take(&mut self, found: Found<Id>, names: &dyn Resolver) -> Result<(), Mistake> {
        let text = found.value.as_deref().unwrap_or_default();
        match found.id {
            Id::Verb(_) => return usage(format!("invalid option `{}'", found.word)),
            Id::Tcp => self.take_service(Protocol::Tcp, text, names)?,
            Id::Udp => self.take_service(Protocol::Udp, text, names)?,
            Id::Sctp => self.take_service(Protocol::Sctp, text, names)?,
            Id::Mark => {
                self.once(Kind::Service)?;
                let mark = number(text, 1, u32::MAX.into());
                let Some(mark) = mark else {
                    return usage(format!("invalid fwmark value `{text}' specified"));
                };
                self.service.mark = Some(mark as u32);
                self.service.family = Some(Family::Ipv4);
                self.service.protocol = Some(Protocol::Tcp);
            }
            Id::Ipv6 => {
                if self.service.mark.is_none() {
                    return usage("-6 used before -f\n");
                }
                self.service.family = Some(Family::Ipv6);
                self.service.granularity = Some(Granularity::host(Family::Ipv6));
            }
            Id::Nat => self.take_method(Method::Nat)?,
            Id::FullNat => self.take_method(Method::FullNat)?,
            Id::Dr => self.take_method(Method::Dr)?,
            Id::Tun => self.take_method(Method::Tun)?,
            Id::Sort => {}
            Id::Socket => self.socket = Some(text.into()),
            Id::Kind(kind) => {
                self.once(kind)?;
                self.take_value(kind, found.value, names)?;
            }
        }
        Ok(())
    }

    fn take_service(&mut self, protocol: Protocol, text: &str, names: &dyn Resolver) -> Result<(), Mistake> {
        self.once(Kind::Service)?;
        let Some((address, port)) = endpoint(text, Some(protocol), names) else {
            return usage("illegal virtual server address[:port] specified");
        };
        self.service.protocol = Some(protocol);
        self.service.address = Some(address);
        self.service.port = port.unwrap_or(0);
        self.service.family = Some(Family::of(address));
        if address.is_ipv6() {
            self.service.granularity = Some(Granularity::host(Family::Ipv6));
        }
        Ok(())
    }

    fn take_method(&mut self, method: Method) -> Result<(), Mistake> {
        self.once(Kind::Forward)?;
        self.method = Some(method);
        Ok(())
    }

    fn take_value(&mut self, kind: Kind, value: Option<String>, names: &dyn Resolver) -> Result<(), Mistake> {
        let text = value.as_deref().unwrap_or_default();
        // `what` is how ipvsadm calls a number that it does not take.
        let within = |min: i64, max: i64, what: &str| match number(text, min, max) {
            Some(number) => Ok(number as u32),
            None => usage(format!("illegal {what} specified")),
        };
        let int = i32::MAX.into();
        match kind {
            Kind::Scheduler => self.scheduler = text.into(),
            Kind::SchedulerFlags => self.scheduler_flags = text.into(),
            Kind::Engine => self.engine = text.into(),
            Kind::Persistent => {
                self.persistence = Some(match &value {
                    Some(text) => timeout(text, 1)?,
                    None => DEFAULT_PERSISTENCE,
                });
            }
            Kind::Netmask => self.service.granularity = Some(self.granularity(text, names)?),
            Kind::Server => {
                let Some((address, port)) = endpoint(text, self.service.protocol, names) else {
                    return usage("illegal real server address[:port] specified");
                };
                self.server = Some((address, port.unwrap_or(self.service.port)));
            }
            Kind::Weight => self.weight = within(0, int, "weight")?,
            Kind::Upper => self.upper = within(0, int, "u_threshold")?,
            Kind::Lower => self.lower = within(0, int, "l_threshold")?,
            Kind::TunType => {
                if !["ipip", "gue", "gre"].contains(&text) {
                    return usage("illegal tunnel type specified");
                }
                self.tunnel_type = text.into();
            }
            Kind::TunPort => self.tunnel_port = within(1, 65535, "tunnel port")? as u16,
            Kind::TunNoCsum => self.tunnel_checksum = TunnelChecksum::None,
            Kind::TunCsum => self.tunnel_checksum = TunnelChecksum::Sent,
            Kind::TunRemCsum => self.tunnel_checksum = TunnelChecksum::Remote,
            Kind::LocalAddress => {
                let v6 = || text.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
                let Some(address) = v6().or_else(|| ipv4_or_name(text, names).map(IpAddr::V4)) else {
                    return usage("illegal local address specified");
                };
                self.local_address = Some(address);
            }
            Kind::McastInterface => self.interface = text.into(),
            Kind::SyncId => self.sync_id = Some(within(0, 255, "syncid")? as u8),
            Kind::SyncMaxLength => self.max_length = Some(within(1, 65507, "sync-maxlen")? as u16),
            Kind::McastGroup => self.group = Some(multicast(text)?),
            Kind::McastPort => self.port = Some(within(1, 65535, "mcast-port")? as u16),
            Kind::McastTtl => self.ttl = Some(within(1, 255, "mcast-ttl")? as u8),
            // The rest says all by being there.
            _ => {}
        }
        Ok(())
    }

    fn granularity(&self, text: &str, names: &dyn Resolver) -> Result<Granularity, Mistake> {
        if self.service.family == Some(Family::Ipv6) {
            return match leading_number(text) {
                bits @ 1..=128 => Ok(Granularity::Prefix(bits as u8)),
                _ => usage("illegal ipv6 netmask specified"),
            };
        }
        match ipv4_or_name(text, names) {
            Some(mask) => Ok(Granularity::Mask(mask)),
            None => usage("illegal virtual server persistent mask specified"),
        }
    }
}

fn timeout(text: &str, min: i64) -> Result<u32, Mistake> {
    match number(text, min, MAX_TIMEOUT.into()) {
        Some(seconds) => Ok(seconds as u32),
        None => usage(format!("invalid timeout value `{text}' specified")),
    }
}

fn multicast(text: &str) -> Result<IpAddr, Mistake> {
    let (family, address) = if text.contains(':') {
        ("IPv6", text.parse::<Ipv6Addr>().ok().map(IpAddr::V6))
    } else {
        ("IPv4", text.parse::<Ipv4Addr>().ok().map(IpAddr::V4))
    };
    match address {
        Some(address) if address.is_multicast() => Ok(address),
        _ => usage(format!("invalid {family} mcast-group `{text}'")),
    }
}
