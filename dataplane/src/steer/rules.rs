//! What is to be redirected, and its form in the BPF maps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::marks::MOST_FORMER;
use crate::neigh::Prefix;
use crate::service::{
    FTP, Family, FtpPorts, MarkRules, Method, Protocol, RealServer, ServiceKey, ServiceTable,
};
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
    /// Marks that services have: packets that a list of
    /// [`SteeringRules::mark_rules`] marks so are wanted
    pub marks: BTreeSet<(u32, Family)>,
    /// The rules that mark packets; after those in force former ones, by which
    /// there are connections
    pub mark_rules: Vec<Arc<MarkRules>>,
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
            rules.want(service.key);
            rules.local_addresses.extend(service.local_addresses.iter().copied());
            // By its template alone (`ServiceTable::find_ftp`).
            if service.key.port() == FTP && service.options.persistence.is_some() {
                rules.add_ftp(&ftp, service.key);
            }
        }
        for (_, server) in table.servers() {
            rules.want(server.service_key);
            if server.method == Method::Tunnel {
                rules.tunnel_servers.insert(server.address);
            }
            if server.method.has_replies() {
                rules.add_ftp(&ftp, server.service_key);
            }
            if server.method == Method::Nat {
                rules.want_replies(server, table);
            }
        }
        if !rules.marks.is_empty() && !table.marks().is_empty() {
            rules.mark_rules.push(Arc::clone(table.marks()));
            rules.add_marked_ftp(&ftp, table);
        }
        rules
    }

    /// Keeps mark rules of before, for the connections that were begun by
    /// them: IPVS knows their packets whatever they are marked. To be called
    /// with `table` as in [`SteeringRules::of`].
    pub fn keep_former(&mut self, before: &SteeringRules, table: &ServiceTable) {
        let marked = |server: &RealServer| matches!(server.service_key, ServiceKey::Mark { .. });
        let connections = |server: &RealServer| server.counters.active() + server.counters.inactive() > 0;
        if !table.servers().any(|(_, server)| marked(server) && connections(server)) {
            return;
        }
        for former in &before.mark_rules {
            if self.mark_rules.len() <= MOST_FORMER && !self.mark_rules.contains(former) {
                self.mark_rules.push(Arc::clone(former));
            }
        }
    }

    fn want(&mut self, service: ServiceKey) {
        match service {
            ServiceKey::Address { protocol, address, port } => {
                self.services.insert(Target { address, port, protocol });
            }
            ServiceKey::Mark { mark, family } => {
                self.marks.insert((mark, family));
            }
        }
    }

    fn want_replies(&mut self, server: &RealServer, table: &ServiceTable) {
        let ftp = table.tunables().ftp;
        let address = server.address;
        match server.service_key {
            ServiceKey::Address { protocol, port, .. } => {
                let control = protocol == Protocol::Tcp && ftp.is_control(port);
                // A service of all ports keeps them (`ip_vs_sched_persist`).
                let port = if port == 0 || server.port == 0 { port } else { server.port };
                self.nat_servers.insert(Target { address, port, protocol });
                if control {
                    self.ftp.insert(address);
                    let port = FtpPorts::active(port);
                    self.nat_servers.insert(Target { address, port, protocol });
                }
            }
            ServiceKey::Mark { .. } => {
                // A persistent one keeps them too.
                let service = table.service(server.service).filter(|_| server.available);
                let keeps = service.is_none_or(|service| service.options.persistence.is_some());
                let port = if keeps { 0 } else { server.port };
                let target = |protocol| Target { address, port, protocol };
                self.nat_servers.extend(Protocol::ALL.map(target));
                // The VIP's port says what a connection is to FTP.
                if port != 0 && marked_controls(&ftp, table).next().is_some() {
                    self.ftp.insert(address);
                    let port = FtpPorts::active(port);
                    self.nat_servers.insert(Target { address, port, protocol: Protocol::Tcp });
                }
            }
        }
    }

    /// Adds what the clients of an FTP service send for data connections.
    fn add_ftp(&mut self, ports: &FtpPorts, key: ServiceKey) {
        if let ServiceKey::Address { protocol: Protocol::Tcp, address, port } = key
            && ports.is_control(port)
        {
            self.ftp.insert(address);
            let port = FtpPorts::active(port);
            self.services.insert(Target { address, port, protocol: Protocol::Tcp });
        }
    }

    /// The same for services of marks, at the single VIPs whose control port is
    /// marked.
    fn add_marked_ftp(&mut self, ports: &FtpPorts, table: &ServiceTable) {
        let marked = |server: &RealServer| matches!(server.service_key, ServiceKey::Mark { .. });
        if !table.servers().any(|(_, server)| marked(server) && server.method.has_replies()) {
            return;
        }
        for (address, port) in marked_controls(ports, table) {
            self.add_ftp(ports, ServiceKey::Address { protocol: Protocol::Tcp, address, port });
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

/// Single VIPs with a control port that is marked.
fn marked_controls(ports: &FtpPorts, table: &ServiceTable) -> impl Iterator<Item = (Address, u16)> {
    let control = ports.control;
    table.marks().rules().iter().flat_map(move |rule| {
        let address = rule.destination.address();
        let tcp = rule.protocol.is_none_or(|protocol| protocol == Protocol::Tcp);
        let single = tcp && rule.destination == Prefix::host(address);
        let marked =
            move |port: &u16| rule.ports.is_empty() || rule.ports.iter().any(|range| range.contains(*port));
        let controls = control.into_iter().filter(move |port| single && *port != 0 && marked(port));
        controls.map(move |port| (address, port))
    })
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
    /// Whether there are mark rules
    pub(super) marks: u32,
    /// `enum xdp_action`
    pub(super) without_socket: u32,
}

// SAFETY: plain bytes with no padding: any bit pattern is a value, and every
// byte that the kernel reads is initialised.
#[allow(unsafe_code)]
mod pod {
    unsafe impl aya::Pod for super::RoleKey {}
    unsafe impl aya::Pod for super::EndpointKey {}
    unsafe impl aya::Pod for super::InterfaceValue {}
}
