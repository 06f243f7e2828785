//! Virtual services, their real servers, and the immutable table that workers
//! forward by.
//!
//! Control builds a [`ServiceTable`] for every change and publishes it whole;
//! a worker takes up the newest one between two bursts and never sees half a
//! change. Identifiers are slots: a [`ServerId`] stays valid, and names the
//! same real server, as long as any worker holds a connection to it. That is
//! why a removed server remains in the table with
//! [`RealServer::available`]` == false` until its last connection is gone,
//! as IPVS keeps one in its trash (`net/netfilter/ipvs/ip_vs_ctl.c`).

mod ftp;
mod marks;
mod options;
mod scheduler;
mod table;
mod tunables;

use std::sync::Arc;

pub use ftp::{FTP, FtpPorts, MOST_FTP_PORTS};
pub use marks::{MarkCounters, MarkRule, MarkRules, PortRange, TooManyRules};
pub use options::{ClientMask, Engine, OffloadChoice, Persistence, ServiceOptions};
pub use scheduler::{SchedulerFlags, SchedulerKind};
pub use table::{ServiceTable, ServiceTableBuilder};
pub use tunables::{Defense, Tunables};

use crate::conn::{Side, Timeouts};
use crate::stats::{ServerCounters, TrafficCounters};
use crate::wire::Address;

/// Transport protocol of a service, with its IP protocol number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Protocol {
    /// TCP (RFC 9293)
    Tcp = 6,
    /// UDP (RFC 768)
    Udp = 17,
    /// SCTP (RFC 9260)
    Sctp = 132,
}

impl Protocol {
    /// Every protocol that services have.
    pub const ALL: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

    /// The protocol of an IP protocol number, if it is one that services have.
    #[inline]
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Protocol::Tcp),
            17 => Some(Protocol::Udp),
            132 => Some(Protocol::Sctp),
            _ => None,
        }
    }

    /// The IP protocol number.
    #[inline]
    pub fn number(self) -> u8 {
        self as u8
    }
}

/// Address family.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

impl Family {
    /// The family of an address.
    #[inline]
    pub fn of(address: Address) -> Self {
        if address.is_v4() { Family::V4 } else { Family::V6 }
    }
}

/// What a virtual service is known by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum ServiceKey {
    /// `VIP:port` of a protocol
    Address {
        /// Transport protocol
        protocol: Protocol,
        /// The VIP
        address: Address,
        /// Port in host order; 0 stands for every port of the VIP
        port: u16,
    },
    /// A mark, which [`MarkRules`] give to packets (`ipvsadm -f`). The two
    /// families have marks of their own.
    Mark {
        /// The mark, not 0
        mark: u32,
        /// Family of the packets
        family: Family,
    },
}

impl ServiceKey {
    /// Family of the service's packets.
    #[inline]
    pub fn family(&self) -> Family {
        match *self {
            ServiceKey::Address { address, .. } => Family::of(address),
            ServiceKey::Mark { family, .. } => family,
        }
    }

    /// The transport protocols of the service's packets.
    pub fn protocols(&self) -> &'static [Protocol] {
        match self {
            ServiceKey::Address { protocol: Protocol::Tcp, .. } => &[Protocol::Tcp],
            ServiceKey::Address { protocol: Protocol::Udp, .. } => &[Protocol::Udp],
            ServiceKey::Address { protocol: Protocol::Sctp, .. } => &[Protocol::Sctp],
            ServiceKey::Mark { .. } => &Protocol::ALL,
        }
    }

    /// The port, or 0 for a mark (`svc->port`).
    #[inline]
    pub fn port(&self) -> u16 {
        match *self {
            ServiceKey::Address { port, .. } => port,
            ServiceKey::Mark { .. } => 0,
        }
    }
}

/// How packets reach a real server.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Method {
    /// Destination rewritten to the server; replies come back through the
    /// director (`ipvsadm -m`, "Masq")
    Nat,
    /// Source rewritten to a LIP as well, so that servers need no route to the
    /// director (DPVS and the FULLNAT patch, "FullNat")
    FullNat,
    /// Only the destination MAC is rewritten; the server holds the VIP and
    /// answers the client itself (`-g`, "Route")
    DirectRoute,
    /// The packet is wrapped in another ([`Encapsulation`]) to the server,
    /// which answers the client itself (`-i`, "Tunnel")
    Tunnel,
}

/// What is between the two IP headers of a tunnelled packet (`--tun-type`).
///
/// `--tun-remcsum` is as [`Encapsulation::Gue`] with a checksum: IPVS adds the
/// option for a remote checksum only to packets whose own checksum hardware is
/// still to finish, which received packets never are (`ipvs_gue_encap` in
/// `net/netfilter/ipvs/ip_vs_xmit.c`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Encapsulation {
    /// Nothing (RFC 2003, RFC 2473, RFC 4213)
    #[default]
    Ipip,
    /// UDP and a GUE header
    Gue {
        /// UDP destination port, in host order
        port: u16,
        /// Whether UDP has a checksum
        checksum: bool,
    },
    /// A GRE header (RFC 2784)
    Gre {
        /// Whether it has a checksum
        checksum: bool,
    },
}

impl Method {
    /// Whether replies of the server come back through the director.
    #[inline]
    pub fn has_replies(self) -> bool {
        matches!(self, Method::Nat | Method::FullNat)
    }
}

/// Slot of a virtual service in a [`ServiceTable`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ServiceId(pub u32);

/// Slot of a real server in a [`ServiceTable`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct ServerId(pub u32);

/// A virtual service as workers see it.
#[derive(Clone, Debug)]
pub struct VirtualService {
    /// What it is known by
    pub key: ServiceKey,
    /// Which scheduler chooses among [`VirtualService::servers`]
    pub scheduler: SchedulerKind,
    /// Its flags (`-b`)
    pub scheduler_flags: SchedulerFlags,
    /// The available servers in IPVS order: the last added comes first
    pub servers: Vec<ServerId>,
    /// The LIPs that FULLNAT servers of this service are reached from
    pub local_addresses: Vec<Address>,
    /// One-packet scheduling and persistence
    pub options: ServiceOptions,
    /// Counters of the service
    pub counters: Arc<TrafficCounters>,
}

/// A real server as workers see it.
#[derive(Clone, Debug)]
pub struct RealServer {
    /// The service that it belongs to, or belonged to when it was removed
    pub service: ServiceId,
    /// What that service is, or was, known by
    pub service_key: ServiceKey,
    /// The RIP
    pub address: Address,
    /// Port in host order; 0 where the service takes every port, and the port
    /// of the packet is kept
    pub port: u16,
    /// How packets reach it
    pub method: Method,
    /// What they are wrapped in where that is by a tunnel
    pub encapsulation: Encapsulation,
    /// Its weight; 0 takes no new connections
    pub weight: u32,
    /// The last weight that was not 0 since the server was added; mh goes by
    /// it, so that a server that is quiesced for a while has the same clients
    /// afterwards (`dest->last_weight`)
    pub last_weight: u32,
    /// How long its connections live, where that is not as everywhere
    pub timeouts: Option<Arc<Timeouts>>,
    /// How many connections it may have
    pub thresholds: Thresholds,
    /// How often it was edited, wrapping around: wrr begins its round anew even
    /// at an edit that changes nothing
    pub edits: u32,
    /// False once removed: packets of its remaining connections are dropped
    /// (IPVS with `expire_nodest_conn=0`)
    pub available: bool,
    /// Counters of the server
    pub counters: Arc<ServerCounters>,
    /// Counters of the service, kept here because they outlive it while the
    /// server still has connections
    pub service_counters: Arc<TrafficCounters>,
}

/// How many connections a real server may have, over all workers.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Thresholds {
    /// It takes no new ones once it has so many (`-x`); 0 for no limit
    pub upper: u32,
    /// It takes new ones again below so many (`-y`); 0 for three quarters of
    /// the upper one
    pub lower: u32,
}

impl Thresholds {
    /// Brings a server's overload in line with its connections. To be called
    /// after every change of either; costs nothing without thresholds.
    #[inline]
    pub(crate) fn apply(&self, counters: &ServerCounters) {
        let Thresholds { upper, lower } = *self;
        if upper != 0 || counters.overload().is_on() {
            counters.overload().update(counters.connections(), upper, lower);
        }
    }
}

impl RealServer {
    /// To be called after every connection that was added to the server's
    /// counters, or taken off them, whichever way that came about
    /// (`ip_vs_bind_dest`, `ip_vs_unbind_dest`).
    #[inline]
    pub fn connections_changed(&self) {
        self.thresholds.apply(&self.counters);
    }

    /// Counts what came from a side of one of its connections, for the server and
    /// for its service. Only `worker` itself may call this. What a removed
    /// server sends is counted no more (`ip_vs_out_stats`).
    #[inline]
    pub fn count(&self, worker: usize, side: Side, packets: u64, bytes: u64) {
        let shares = [&self.counters.share(worker).traffic, self.service_counters.share(worker)];
        for share in shares {
            let (count, total) = match side {
                Side::Client => (&share.in_packets, &share.in_bytes),
                Side::Server if !self.available => return,
                Side::Server => (&share.out_packets, &share.out_bytes),
            };
            count.add(packets);
            total.add(bytes);
        }
    }
}
