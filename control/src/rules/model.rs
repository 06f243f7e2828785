//! What a configuration says of services and real servers, in IPVS's terms.
//!
//! These types hold everything that `ipvsadm` can express, whether this
//! version forwards by it or not; [`super::unsupported`] says what it does
//! not. They travel over the API as JSON.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_dataplane::conn::TimeoutOverrides;
use sluice_dataplane::service::{
    self, ClientMask, Engine, OffloadChoice, Persistence, SchedulerKind, ServiceKey, ServiceOptions,
};

/// Address family of a firewall-mark service.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4
    Ipv4,
    /// IPv6
    Ipv6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 }
    }
}

impl From<Family> for service::Family {
    fn from(family: Family) -> Self {
        match family {
            Family::Ipv4 => service::Family::V4,
            Family::Ipv6 => service::Family::V6,
        }
    }
}

impl From<service::Family> for Family {
    fn from(family: service::Family) -> Self {
        match family {
            service::Family::V4 => Family::Ipv4,
            service::Family::V6 => Family::Ipv6,
        }
    }
}

/// Transport protocol of a service.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP (`-t`)
    Tcp,
    /// UDP (`-u`)
    Udp,
    /// SCTP (`--sctp-service`)
    Sctp,
}

impl Protocol {
    /// The IP protocol number.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }

    /// Its name in `/etc/services`.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

impl From<Protocol> for service::Protocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => service::Protocol::Tcp,
            Protocol::Udp => service::Protocol::Udp,
            Protocol::Sctp => service::Protocol::Sctp,
        }
    }
}

impl From<service::Protocol> for Protocol {
    fn from(protocol: service::Protocol) -> Self {
        match protocol {
            service::Protocol::Tcp => Protocol::Tcp,
            service::Protocol::Udp => Protocol::Udp,
            service::Protocol::Sctp => Protocol::Sctp,
        }
    }
}

/// What a virtual service is known by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ServiceName {
    /// `VIP:port` of a protocol
    Address {
        /// Transport protocol
        protocol: Protocol,
        /// The VIP
        address: IpAddr,
        /// Port in host order; 0 stands for every port
        port: u16,
    },
    /// A firewall mark (`-f`)
    Mark {
        /// The mark, not 0
        mark: u32,
        /// Family of the packets that it takes
        family: Family,
    },
}

impl ServiceName {
    /// Family of the service's packets.
    pub fn family(&self) -> Family {
        match *self {
            ServiceName::Address { address, .. } => Family::of(address),
            ServiceName::Mark { family, .. } => family,
        }
    }

    /// The port, or 0 for a mark.
    pub fn port(&self) -> u16 {
        match *self {
            ServiceName::Address { port, .. } => port,
            ServiceName::Mark { .. } => 0,
        }
    }

    /// Whether this is a firewall mark.
    pub fn is_mark(&self) -> bool {
        matches!(self, ServiceName::Mark { .. })
    }

    /// The key by which workers find it, where they can.
    pub fn key(&self) -> Option<ServiceKey> {
        match *self {
            // To workers it would be the same as the IPv4 address.
            ServiceName::Address { address: IpAddr::V6(v6), .. } if v6.to_ipv4_mapped().is_some() => None,
            ServiceName::Address { protocol, address, port } => {
                Some(ServiceKey::Address { protocol: protocol.into(), address: address.into(), port })
            }
            ServiceName::Mark { mark, family } => Some(ServiceKey::Mark { mark, family: family.into() }),
        }
    }
}

impl From<ServiceKey> for ServiceName {
    fn from(key: ServiceKey) -> Self {
        match key {
            ServiceKey::Address { protocol, address, port } => {
                ServiceName::Address { protocol: protocol.into(), address: address.into(), port }
            }
            ServiceKey::Mark { mark, family } => ServiceName::Mark { mark, family: family.into() },
        }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            ServiceName::Address { protocol, address: IpAddr::V4(v4), port } => {
                write!(f, "{} {v4}:{port}", protocol.name())
            }
            ServiceName::Address { protocol, address: IpAddr::V6(v6), port } => {
                write!(f, "{} [{v6}]:{port}", protocol.name())
            }
            ServiceName::Mark { mark, family: Family::Ipv4 } => write!(f, "mark {mark}"),
            ServiceName::Mark { mark, family: Family::Ipv6 } => write!(f, "mark {mark} (IPv6)"),
        }
    }
}

/// Which clients share a persistence template (`-M`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Granularity {
    /// IPv4: the bits of the client's address that count. IPVS takes any mask,
    /// contiguous or not.
    Mask(Ipv4Addr),
    /// IPv6: how many leading bits count, 1 to 128
    Prefix(u8),
}

impl Granularity {
    /// Every client by itself.
    pub fn host(family: Family) -> Self {
        match family {
            Family::Ipv4 => Granularity::Mask(Ipv4Addr::BROADCAST),
            Family::Ipv6 => Granularity::Prefix(128),
        }
    }

    /// Whether every client is by itself, which listings leave out.
    pub fn is_host(self) -> bool {
        self == Granularity::host(Family::Ipv4) || self == Granularity::host(Family::Ipv6)
    }
}

/// Everything about a virtual service but its name and servers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceSettings {
    /// IPVS name of the scheduler (`-s`)
    pub scheduler: String,
    /// Scheduler flags (`-b`), bit 0 for `flag-1` to bit 2 for `flag-3`
    #[serde(default)]
    pub scheduler_flags: u8,
    /// Persistence timeout in seconds (`-p`), if persistent
    pub persistence: Option<u32>,
    /// Persistence granularity (`-M`); every client by itself without it
    #[serde(default = "every_host")]
    pub granularity: Granularity,
    /// Persistence engine (`--pe`)
    pub engine: Option<String>,
    /// One-packet scheduling (`-o`)
    #[serde(default)]
    pub one_packet: bool,
}

/// For both families: the API makes it that of the service.
fn every_host() -> Granularity {
    Granularity::host(Family::Ipv4)
}

impl ServiceSettings {
    /// A service with a scheduler and nothing else out of the ordinary.
    pub fn plain(scheduler: &str, family: Family) -> Self {
        ServiceSettings {
            scheduler: scheduler.into(),
            scheduler_flags: 0,
            persistence: None,
            granularity: Granularity::host(family),
            engine: None,
            one_packet: false,
        }
    }

    /// The same with one-packet scheduling, persistence and its engine as given.
    pub fn with(self, options: ServiceOptions) -> Self {
        let ServiceOptions { one_packet, persistence, engine, offload: _ } = options;
        let granularity = persistence.map_or(self.granularity, |persistence| {
            match (self.granularity, persistence.mask.v4_mask()) {
                (Granularity::Mask(_), mask) => Granularity::Mask(mask.into()),
                (Granularity::Prefix(_), _) => Granularity::Prefix(persistence.mask.v6_bits()),
            }
        });
        let engine = engine.map(|engine| engine.name().into());
        ServiceSettings {
            one_packet,
            persistence: persistence.map(|p| p.timeout),
            granularity,
            engine,
            ..self
        }
    }

    /// What the data plane has to know beside the scheduler.
    pub fn options(&self) -> ServiceOptions {
        let mask = match self.granularity {
            Granularity::Mask(mask) => ClientMask::v4(mask.octets()),
            Granularity::Prefix(bits) => ClientMask::v6(bits),
        };
        let persistence = self.persistence.map(|timeout| Persistence { timeout, mask });
        let engine = self.engine.as_deref().and_then(Engine::from_name);
        ServiceOptions { one_packet: self.one_packet, persistence, engine, ..ServiceOptions::default() }
    }

    /// The scheduler, where the data plane has it.
    pub fn scheduler_kind(&self) -> Option<SchedulerKind> {
        SchedulerKind::from_name(&self.scheduler)
    }
}

/// How packets reach a real server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// `-m`, "Masq"
    Nat,
    /// `-b` on a real server, "FullNat"
    FullNat,
    /// `-g`, "Route"
    Dr,
    /// `-i`, "Tunnel"
    Tun,
}

impl Method {
    /// Its name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Method::Nat => "nat",
            Method::FullNat => "fullnat",
            Method::Dr => "dr",
            Method::Tun => "tun",
        }
    }

    /// Whether the server takes packets at the service's own port, so that
    /// another port of the server has no meaning.
    pub fn keeps_port(self) -> bool {
        matches!(self, Method::Dr | Method::Tun)
    }
}

impl From<Method> for service::Method {
    fn from(method: Method) -> Self {
        match method {
            Method::Nat => service::Method::Nat,
            Method::FullNat => service::Method::FullNat,
            Method::Dr => service::Method::DirectRoute,
            Method::Tun => service::Method::Tunnel,
        }
    }
}

impl From<service::Method> for Method {
    fn from(method: service::Method) -> Self {
        match method {
            service::Method::Nat => Method::Nat,
            service::Method::FullNat => Method::FullNat,
            service::Method::DirectRoute => Method::Dr,
            service::Method::Tunnel => Method::Tun,
        }
    }
}

/// Checksum of a GUE or GRE tunnel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TunnelChecksum {
    /// `--tun-nocsum`
    None,
    /// `--tun-csum`
    Sent,
    /// `--tun-remcsum`
    Remote,
}

/// Encapsulation of a tunnel server (`--tun-type` and what belongs to it).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Tunnel {
    /// IP in IP (RFC 2003)
    Ipip,
    /// Generic UDP encapsulation
    Gue {
        /// UDP destination port
        port: u16,
        /// Its checksum
        checksum: TunnelChecksum,
    },
    /// GRE (RFC 2784)
    Gre {
        /// Its checksum; IPVS has no remote checksum here
        checksum: TunnelChecksum,
    },
}

impl From<Tunnel> for service::Encapsulation {
    fn from(tunnel: Tunnel) -> Self {
        match tunnel {
            Tunnel::Ipip => service::Encapsulation::Ipip,
            Tunnel::Gue { port, checksum } => {
                service::Encapsulation::Gue { port, checksum: checksum != TunnelChecksum::None }
            }
            Tunnel::Gre { checksum } => {
                service::Encapsulation::Gre { checksum: checksum != TunnelChecksum::None }
            }
        }
    }
}

impl From<service::Encapsulation> for Tunnel {
    fn from(encapsulation: service::Encapsulation) -> Self {
        let sent = |checksum| if checksum { TunnelChecksum::Sent } else { TunnelChecksum::None };
        match encapsulation {
            service::Encapsulation::Ipip => Tunnel::Ipip,
            service::Encapsulation::Gue { port, checksum } => Tunnel::Gue { port, checksum: sent(checksum) },
            service::Encapsulation::Gre { checksum } => Tunnel::Gre { checksum: sent(checksum) },
        }
    }
}

/// A real server as configured.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// The RIP
    pub address: IpAddr,
    /// Port in host order; 0 keeps the port of the packet
    pub port: u16,
    /// How packets reach it
    pub method: Method,
    /// Encapsulation, which counts for [`Method::Tun`] alone
    #[serde(default = "ipip")]
    pub tunnel: Tunnel,
    /// Weight; 0 takes no new connections. At most 2147483647, as in IPVS.
    #[serde(default = "one")]
    pub weight: u32,
    /// No new connections above this many (`-x`); 0 for no limit
    #[serde(default)]
    pub upper_threshold: u32,
    /// New connections again below this many (`-y`); 0 for three quarters of
    /// the upper one
    #[serde(default)]
    pub lower_threshold: u32,
}

fn ipip() -> Tunnel {
    Tunnel::Ipip
}

/// The weight of a server that is given none, as with ipvsadm.
fn one() -> u32 {
    1
}

impl Server {
    /// A server with nothing out of the ordinary.
    pub fn plain(address: IpAddr, port: u16, method: Method, weight: u32) -> Self {
        Server { address, port, method, tunnel: Tunnel::Ipip, weight, upper_threshold: 0, lower_threshold: 0 }
    }
}

/// Timeouts in seconds that `ipvsadm --set` changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// TCP, established
    pub tcp: u32,
    /// TCP after a FIN
    pub tcp_fin: u32,
    /// UDP
    pub udp: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts { tcp: 900, tcp_fin: 120, udp: 300 }
    }
}

/// The two roles of connection synchronization.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DaemonRole {
    /// Sends connections
    Master,
    /// Receives them
    Backup,
}

/// What `--start-daemon` is told. Where it says nothing, IPVS's default
/// stands: all but the interface may be left out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Daemon {
    /// Master or backup
    pub role: DaemonRole,
    /// Multicast interface
    pub interface: String,
    /// Sync identifier
    pub sync_id: Option<u8>,
    /// Largest message in bytes
    pub max_length: Option<u16>,
    /// Multicast group
    pub group: Option<IpAddr>,
    /// UDP port
    pub port: Option<u16>,
    /// TTL or hop limit
    pub ttl: Option<u8>,
}

impl fmt::Display for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = match self.role {
            DaemonRole::Master => "master",
            DaemonRole::Backup => "backup",
        };
        write!(f, "{role} on {}, sync id {}", self.interface, self.sync_id.unwrap_or(255))
    }
}

/// A service with its servers, as a configuration file names them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceRules {
    /// What it is known by
    pub name: ServiceName,
    /// Its settings
    pub settings: ServiceSettings,
    /// How long its connections live, where that is not as everywhere
    pub timeouts: TimeoutOverrides,
    /// Whether its established connections are carried in the kernel
    pub offload: OffloadChoice,
    /// Its servers in the order in which they are to be added
    pub servers: Vec<Server>,
    /// Its LIPs; none for the director's default
    pub local_addresses: Vec<IpAddr>,
}
