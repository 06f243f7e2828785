//! What is to be redirected, and its form in the BPF maps.

use std::collections::{BTreeMap, BTreeSet};

use crate::service::{FTP, FtpPorts, Method, Protocol, ServiceKey, ServiceTable};
use crate::wire::Address;

/// A protocol and port at an address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Target {
    /// VIP or RIP
    pub address: Address,
    /// Port in host order; 0 stands for all
    pub port: u16,
    /// Transport protocol
    pub protocol: Protocol,
}

impl Target {
    fn of(ServiceKey { protocol, address, port }: ServiceKey) -> Self {
        Target { address, port, protocol }
    }
}

/// The set of packets that the director wants.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SteeringRules {
    /// Destinations: VIP and port of each service
    pub services: BTreeSet<Target>,
    /// Sources: RIP and port of each NAT server, whose replies must come back
    pub nat_servers: BTreeSet<Target>,
    /// LIPs of FULLNAT
    pub local_addresses: BTreeSet<Address>,
    /// RIPs of tunnels, about whose packets routers may send errors
    pub tunnel_servers: BTreeSet<Address>,
    /// VIPs and NAT servers of FTP
    pub ftp: BTreeSet<Address>,
    /// The ports of passive mode at those
    pub passive_ports: (u16, u16),
}

impl SteeringRules {
    /// What `table` needs. Removed servers that still have connections are
    /// included, and so are their services, so that the connections go on
    /// being the director's.
    pub fn of(table: &ServiceTable) -> Self {
        let ftp = table.tunables().ftp;
        let mut rules = SteeringRules { passive_ports: ftp.passive, ..SteeringRules::default() };
        for (_, service) in table.services() {
            rules.services.insert(Target::of(service.key));
            rules.local_addresses.extend(service.local_addresses.iter().copied());
            // By its template alone (`ServiceTable::find_ftp`).
            if service.key.port == FTP && service.options.persistence.is_some() {
                rules.add_ftp(&ftp, service.key);
            }
        }
        for (_, server) in table.servers() {
            rules.services.insert(Target::of(server.service_key));
            if server.method == Method::Tunnel {
                rules.tunnel_servers.insert(server.address);
            }
            if server.method.has_replies() {
                rules.add_ftp(&ftp, server.service_key);
            }
            if server.method == Method::Nat {
                let ServiceKey { protocol, port, .. } = server.service_key;
                let control = protocol == Protocol::Tcp && ftp.is_control(port);
                // A service of all ports keeps them (`ip_vs_sched_persist`).
                let port = if port == 0 || server.port == 0 { port } else { server.port };
                rules.nat_servers.insert(Target { address: server.address, port, protocol });
                if control {
                    rules.ftp.insert(server.address);
                    let port = FtpPorts::active(port);
                    rules.nat_servers.insert(Target { address: server.address, port, protocol });
                }
            }
        }
        rules
    }

    /// Adds what the clients of an FTP service send for data connections.
    fn add_ftp(&mut self, ports: &FtpPorts, key: ServiceKey) {
        if key.protocol == Protocol::Tcp && ports.is_control(key.port) {
            self.ftp.insert(key.address);
            self.services.insert(Target::of(ServiceKey { port: FtpPorts::active(key.port), ..key }));
        }
    }

    pub(super) fn roles(&self) -> BTreeMap<RoleKey, u8> {
        let mut roles = BTreeMap::new();
        let mut add = |address: Address, role| *roles.entry(RoleKey(address.bytes())).or_insert(0) |= role;
        self.services.iter().for_each(|t| add(t.address, ROLE_VIP | of_protocol(t.protocol)));
        self.nat_servers.iter().for_each(|t| add(t.address, ROLE_RIP | of_protocol(t.protocol)));
        self.local_addresses.iter().for_each(|a| add(*a, ROLE_LIP));
        self.tunnel_servers.iter().for_each(|a| add(*a, ROLE_TUNNEL));
        self.ftp.iter().for_each(|a| add(*a, ROLE_FTP));
        roles
    }

    pub(super) fn endpoints(&self) -> BTreeSet<EndpointKey> {
        let key = |target: &Target, role| EndpointKey {
            address: target.address.bytes(),
            port: target.port.to_be_bytes(),
            protocol: target.protocol.number(),
            role,
        };
        let services = self.services.iter().map(|t| key(t, ROLE_VIP));
        services.chain(self.nat_servers.iter().map(|t| key(t, ROLE_RIP))).collect()
    }
}

/// Must agree with `steer.bpf.c`.
const ROLE_VIP: u8 = 1;
const ROLE_LIP: u8 = 2;
const ROLE_RIP: u8 = 4;
const ROLE_TUNNEL: u8 = 8;
const ROLE_TCP: u8 = 16;
const ROLE_UDP: u8 = 32;
const ROLE_SCTP: u8 = 64;
const ROLE_FTP: u8 = 128;

fn of_protocol(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => ROLE_TCP,
        Protocol::Udp => ROLE_UDP,
        Protocol::Sctp => ROLE_SCTP,
    }
}

/// `struct address`
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(transparent)]
pub(super) struct RoleKey([u8; 16]);

/// `struct endpoint`
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(C)]
pub(super) struct EndpointKey {
    address: [u8; 16],
    port: [u8; 2],
    protocol: u8,
    role: u8,
}

/// `struct interface`
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct InterfaceValue {
    pub(super) mac: [u8; 6],
    /// Big endian
    pub(super) first_local_port: [u8; 2],
    /// Big endian
    pub(super) passive_ports: [[u8; 2]; 2],
}

// SAFETY: plain bytes with no padding: any bit pattern is a value, and every
// byte that the kernel reads is initialised.
#[allow(unsafe_code)]
mod pod {
    unsafe impl aya::Pod for super::RoleKey {}
    unsafe impl aya::Pod for super::EndpointKey {}
    unsafe impl aya::Pod for super::InterfaceValue {}
}
