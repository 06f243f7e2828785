//! The short way against the long one: the same packets, one after the other,
//! through two workers' connections.

use std::sync::Arc;

use proptest::prelude::*;

use super::super::plain::TRANSPORT;
use super::*;
use crate::conn::{Seed, Tuple};
use crate::forward::put_link_header;
use crate::local::Claims;
use crate::neigh::{Egress, NextHops, NextHopsBuilder, Prefix};
use crate::port::Port;
use crate::port::memory::{MemoryFrame, MemoryPort};
use crate::service::{
    Encapsulation, Method, Protocol, RealServer, SchedulerFlags, SchedulerKind, ServerId, ServiceId,
    ServiceKey, ServiceOptions, ServiceTable, ServiceTableBuilder, Thresholds, VirtualService,
};
use crate::stats::{ServerCounters, Traffic, TrafficCounters};
use crate::wire::{Address, checksum, ethernet, ipv4};
use crate::worker::flow::Verdict;
use crate::worker::owners::Owners;

const CLIENT: ([u8; 4], u16) = ([198, 51, 100, 7], 40000);
const VIP: ([u8; 4], u16) = ([192, 0, 2, 10], 53);
const RIP: ([u8; 4], u16) = ([10, 0, 2, 1], 5353);
const LIP: [u8; 4] = [10, 0, 2, 200];
const RIP_V6: Address = Address::from_v6([0x20, 1, 0xd, 0xb8, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
const LIP_V6: Address = Address::from_v6([0x20, 1, 0xd, 0xb8, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 200]);
const MTU: u16 = 100;

/// What the way to the server is.
#[derive(Clone, Copy, Debug)]
struct Shape {
    method: Method,
    protocol: Protocol,
    vlan: Option<u16>,
    encapsulation: Encapsulation,
    /// The address that the way to the server prefers
    source: Option<Address>,
    /// Whether the server is one of IPv6
    v6: bool,
}

impl Shape {
    fn new(method: Method, protocol: Protocol) -> Self {
        Shape { method, protocol, vlan: None, encapsulation: Encapsulation::Ipip, source: None, v6: false }
    }

    fn server(&self) -> Address {
        if self.v6 { RIP_V6 } else { Address::from_v4(RIP.0) }
    }
}

fn shape() -> impl Strategy<Value = Shape> {
    let methods =
        prop::sample::select(vec![Method::Nat, Method::FullNat, Method::DirectRoute, Method::Tunnel]);
    let protocol = prop::sample::select(vec![Protocol::Tcp, Protocol::Udp]);
    let vlan = prop::sample::select(vec![None, None, Some(7)]);
    let gue = |checksum| Encapsulation::Gue { port: 6080, checksum };
    let gre = |checksum| Encapsulation::Gre { checksum };
    let encapsulation =
        prop::sample::select(vec![Encapsulation::Ipip, gue(false), gue(true), gre(false), gre(true)]);
    (methods, protocol, vlan, encapsulation, any::<[bool; 2]>()).prop_map(
        |(method, protocol, vlan, encapsulation, [source, v6])| {
            let v6 = v6 && matches!(method, Method::FullNat | Method::Tunnel);
            let preferred = if v6 { LIP_V6 } else { Address::from_v4([10, 0, 2, 254]) };
            let source = source.then_some(preferred);
            Shape { method, protocol, vlan, encapsulation, source, v6 }
        },
    )
}

/// A director of one service with one server.
struct Director {
    flows: Flows,
    view: View,
    port: MemoryPort,
    counters: Arc<ServerCounters>,
    short: bool,
    /// Packets that went the short way of established connections
    quick: usize,
    /// Packets that began a connection by the short way
    opened: usize,
}

fn services(shape: Shape, counters: &Arc<ServerCounters>) -> ServiceTable {
    let Shape { method, protocol, encapsulation, .. } = shape;
    let key = ServiceKey::Address { protocol, address: Address::from_v4(VIP.0), port: VIP.1 };
    let service_counters = Arc::new(TrafficCounters::new(1));
    let mut builder = ServiceTableBuilder::new(1);
    builder.server(
        ServerId(0),
        RealServer {
            service: ServiceId(0),
            service_key: key,
            address: shape.server(),
            port: RIP.1,
            method,
            encapsulation,
            weight: 1,
            last_weight: 1,
            timeouts: None,
            thresholds: Thresholds::default(),
            edits: 0,
            available: true,
            counters: Arc::clone(counters),
            service_counters: Arc::clone(&service_counters),
        },
    );
    builder.service(
        ServiceId(0),
        VirtualService {
            key,
            scheduler: SchedulerKind::Rr,
            scheduler_flags: SchedulerFlags::default(),
            servers: vec![ServerId(0)],
            local_addresses: vec![Address::from_v4(LIP), LIP_V6],
            options: ServiceOptions::default(),
            counters: service_counters,
        },
    );
    builder.build()
}

fn hops(shape: Shape) -> NextHops {
    let Shape { vlan, source, .. } = shape;
    let mut hops = NextHopsBuilder::new(1);
    let clients = hops.egress(Egress { mtu: MTU, ..Egress::new(0, [2, 0, 0, 0, 1, 254]) });
    let servers = hops.egress(Egress { mtu: MTU, vlan, source, ..Egress::new(1, [2, 0, 0, 0, 2, 254]) });
    hops.neighbour(servers, shape.server(), Some([2, 0, 0, 0, 2, 1]));
    hops.neighbour(clients, Address::from_v4(CLIENT.0), Some([2, 0, 0, 0, 1, 7]));
    let prefix = |text: &str| text.parse::<Prefix>().unwrap();
    hops.connected(prefix("198.51.100.0/24"), clients);
    hops.connected(prefix("10.0.2.0/24"), servers);
    hops.connected(prefix("2001:db8:2::/64"), servers);
    hops.build()
}

impl Director {
    fn new(shape: Shape, short: bool) -> Self {
        let counters = Arc::new(ServerCounters::new(1));
        let services = Arc::new(services(shape, &counters));
        let claims = vec![Arc::<Claims>::default()];
        let seed = Seed::new([3; 16]);
        let mut flows = Flows::new(
            0,
            claims,
            Arc::new(Owners::new(1, 8, seed)),
            Arc::new(crate::sched::Movements::new(1)),
            8,
            seed,
            0,
        );
        flows.begin_adoption(Arc::default());
        assert!(flows.adopt(&services, 0), "one portion will do");
        let view = View { services, hops: Arc::new(hops(shape)) };
        Director { flows, view, port: MemoryPort::new(1, 2), counters, short, quick: 0, opened: 0 }
    }

    fn frame(&mut self, bytes: &[u8]) -> MemoryFrame {
        assert!(self.port.inject(0, bytes));
        let mut burst = Vec::new();
        self.port.receive(0, &mut burst);
        burst.pop().unwrap()
    }

    /// What leaves by which interface, or what else became of the packet.
    fn forward(&mut self, bytes: &[u8], now: u32) -> Result<(usize, Vec<u8>), String> {
        let mut frame = self.frame(bytes);
        let result = self.carry(&mut frame, now);
        let bytes = frame.bytes().to_vec();
        self.port.release(frame);
        result.map(|out| (out, bytes))
    }

    fn carry(&mut self, frame: &mut MemoryFrame, now: u32) -> Result<usize, String> {
        let packet = Packet::parse(frame.bytes()).map_err(|error| format!("{error:?}"))?;
        let hash = self.flows.table.hash(&packet.tuple);
        let found = self.flows.table.find(&packet.tuple, hash);
        if self.short {
            let before = frame.bytes().to_vec();
            if let Some(found) = found {
                if let Some(out) = self.flows.express(&self.view, frame, &packet, found, now) {
                    self.quick += 1;
                    return Ok(out);
                }
            } else if let Some(opened) = self.flows.open(&self.view, frame, &packet, hash, now) {
                self.opened += usize::from(opened.is_ok());
                return opened.or_else(|verdict| self.carry_out(frame, verdict));
            }
            assert_eq!(before, frame.bytes(), "what is refused is as it was");
        }
        let verdict = self.flows.process(&self.view, frame, &packet, 0, found, now);
        self.carry_out(frame, verdict)
    }

    fn carry_out(&self, frame: &mut MemoryFrame, verdict: Verdict) -> Result<usize, String> {
        match verdict {
            Verdict::Send(rewritten, hop) => {
                let hop = self.view.hops.hop(hop).unwrap();
                put_link_header(frame, rewritten, hop, hop.mac.unwrap()).unwrap();
                Ok(hop.interface.into())
            }
            verdict => Err(format!("{verdict:?}")),
        }
    }

    /// All that is kept, in words.
    fn state(&self) -> (String, Option<u32>, Traffic, [u64; 2]) {
        let line = self.flows.table.line(0);
        let counts = [self.counters.active(), self.counters.inactive()];
        let kept = line.map(|line| format!("{line:?}")).unwrap_or_default();
        (kept, self.flows.table.deadline(0), self.counters.traffic(), counts)
    }
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    from_server: bool,
    flags: u8,
    ttl: u8,
    data: u8,
    padding: u8,
    dont_fragment: bool,
    without_checksum: bool,
    after: u32,
}

fn sent() -> impl Strategy<Value = Sent> {
    let flags = prop::sample::select(vec![
        tcp::ACK,
        tcp::ACK,
        tcp::ACK,
        tcp::ACK | 0x08,
        tcp::SYN,
        tcp::SYN | tcp::ACK,
        tcp::FIN | tcp::ACK,
        tcp::RST,
        0,
    ]);
    let ttl = prop::sample::select(vec![64, 64, 64, 255, 2, 1]);
    (any::<bool>(), flags, ttl, 0u8..70, 0u8..10, any::<bool>(), any::<bool>(), 0u32..100).prop_map(
        |(from_server, flags, ttl, data, padding, dont_fragment, without_checksum, after)| Sent {
            from_server,
            flags,
            ttl,
            data,
            padding,
            dont_fragment,
            without_checksum,
            after,
        },
    )
}

fn bytes(sent: Sent, tuple: &Tuple) -> Vec<u8> {
    let is_tcp = tuple.protocol == Protocol::Tcp;
    let header = if is_tcp { 20 } else { 8 };
    let segment = header + usize::from(sent.data);
    let mut frame = vec![0xaa; TRANSPORT + segment + usize::from(sent.padding)];
    frame[12..14].copy_from_slice(&ethernet::IPV4.to_be_bytes());
    let ip = &mut frame[ethernet::LEN..];
    (ip[0], ip[8], ip[9]) = (0x45, sent.ttl, tuple.protocol.number());
    ip[2..4].copy_from_slice(&((ipv4::LEN + segment) as u16).to_be_bytes());
    let fragment = if sent.dont_fragment { ipv4::DONT_FRAGMENT } else { 0 };
    ip[6..8].copy_from_slice(&fragment.to_be_bytes());
    ip[12..16].copy_from_slice(&tuple.source.v4_bytes());
    ip[16..20].copy_from_slice(&tuple.destination.v4_bytes());
    ipv4::fill_checksum(&mut ip[..ipv4::LEN]);
    let (number, length) = (tuple.protocol.number(), segment as u16);
    let pseudo = checksum::pseudo_v4(tuple.source.v4_bytes(), tuple.destination.v4_bytes(), number, length);
    let transport = &mut ip[ipv4::LEN..][..segment];
    transport[..2].copy_from_slice(&tuple.source_port.to_be_bytes());
    transport[2..4].copy_from_slice(&tuple.destination_port.to_be_bytes());
    let field = if is_tcp {
        (transport[12], transport[13]) = (0x50, sent.flags);
        16
    } else {
        transport[4..6].copy_from_slice(&length.to_be_bytes());
        6
    };
    transport[field..field + 2].fill(0);
    let sum = !checksum::sum(pseudo, transport);
    if is_tcp || !sent.without_checksum {
        transport[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    }
    frame
}

/// What the client sends.
fn client(protocol: Protocol) -> Tuple {
    Tuple {
        source: Address::from_v4(CLIENT.0),
        destination: Address::from_v4(VIP.0),
        source_port: CLIENT.1,
        destination_port: VIP.1,
        protocol,
    }
}

proptest! {
    #[test]
    fn both_ways_do_the_same(
        shape in shape(),
        packets in prop::collection::vec(sent(), 1..30),
    ) {
        let mut long = Director::new(shape, false);
        let mut short = Director::new(shape, true);
        let client = client(shape.protocol);
        let mut now = 0;
        for sent in packets {
            now += sent.after;
            let server = long.flows.table.get(0).map(|entry| entry.server);
            let tuple = server.filter(|_| sent.from_server).unwrap_or(client);
            let bytes = bytes(sent, &tuple);
            prop_assert_eq!(long.forward(&bytes, now), short.forward(&bytes, now), "{:?}", sent);
            prop_assert_eq!(long.state(), short.state(), "{:?}", sent);
        }
    }
}

#[test]
fn established_connections_go_the_short_way() {
    let gue = Encapsulation::Gue { port: 6080, checksum: true };
    let tunnel = Shape::new(Method::Tunnel, Protocol::Tcp);
    let v6 = Some(LIP_V6);
    for (shape, opened, quick) in [
        (Shape::new(Method::Nat, Protocol::Tcp), 1, 2),
        (Shape::new(Method::FullNat, Protocol::Tcp), 1, 2),
        (Shape::new(Method::FullNat, Protocol::Udp), 1, 2),
        (Shape { v6: true, ..Shape::new(Method::FullNat, Protocol::Udp) }, 0, 0),
        (Shape::new(Method::DirectRoute, Protocol::Tcp), 1, 2),
        (Shape { vlan: Some(7), ..Shape::new(Method::DirectRoute, Protocol::Tcp) }, 0, 0),
        (tunnel, 1, 2),
        (Shape { encapsulation: gue, ..tunnel }, 1, 2),
        (Shape { vlan: Some(7), ..tunnel }, 0, 0),
        // Its address is in a place of its own when the connection begins.
        (Shape { v6: true, source: v6, ..tunnel }, 0, 2),
    ] {
        let mut director = Director::new(shape, true);
        let client = client(shape.protocol);
        // UDP is there with its first packet, TCP with that which answers the answer.
        let packets: &[u8] = match shape.protocol {
            Protocol::Udp => &[0, 0, 0],
            _ => &[tcp::SYN, tcp::ACK, tcp::ACK, tcp::ACK],
        };
        for flags in packets {
            let sent = Sent {
                from_server: false,
                flags: *flags,
                ttl: 64,
                data: 0,
                padding: 0,
                dont_fragment: true,
                without_checksum: false,
                after: 0,
            };
            let forwarded = director.forward(&bytes(sent, &client), 1);
            assert!(forwarded.is_ok(), "{shape:?}: {forwarded:?}");
        }
        assert_eq!((director.opened, director.quick), (opened, quick), "{shape:?}");
    }
}
