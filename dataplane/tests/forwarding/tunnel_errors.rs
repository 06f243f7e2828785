//! Errors about the packets of tunnels: each type, each pair of families. The
//! client is told, in its own terms.

use std::net::{IpAddr, Ipv4Addr};

use etherparse::{Icmpv4Type, Icmpv6Type};
use sluice_dataplane::service::{Encapsulation, Method, Protocol, ServerId};
use sluice_dataplane::stats::DropReason;

use crate::director::packets::{ACK, IcmpError, SYN, tcp, udp};
use crate::director::packets_v6::{icmpv6_error, icmpv6_error_with, tcp6};
use crate::director::{
    CLIENT, CLIENT_ROUTER, CLIENT6, Director, INSIDE, INSIDE_ADDRESS, INSIDE_ADDRESS6, OUTSIDE, Outcome,
    SERVER, SERVER6, VIP, VIP6, server_mac, socket,
};
use crate::related_v6::{INNER_ROUTER6, ip, said};

const GUE: Encapsulation = Encapsulation::Gue { port: 6080, checksum: false };
const TYPES: [(Encapsulation, u16); 5] = [
    (Encapsulation::Ipip, 0),
    (GUE, 12),
    (Encapsulation::Gue { port: 6080, checksum: true }, 12),
    (Encapsulation::Gre { checksum: false }, 4),
    (Encapsulation::Gre { checksum: true }, 8),
];

/// A director with a tunnel, and the frame of the client's first packet in it.
fn tunnel(vip: &str, server: &str, encapsulation: Encapsulation) -> (Director, Vec<u8>) {
    let mut director = Director::new();
    let service = director.add_service(Protocol::Tcp, vip);
    let id = director.add_server(service, server, Method::Tunnel, 1);
    director.server(id).encapsulation = encapsulation;
    director.publish();
    let outcome = director.arrive(0, &request(vip));
    assert_eq!(outcome.sent.len(), 1, "{outcome:?}");
    (director, outcome.sent[0].1[14..].to_vec())
}

fn request(vip: &str) -> Vec<u8> {
    match vip {
        VIP => tcp(CLIENT, vip, SYN).length(600).bytes(),
        _ => tcp6(CLIENT6, vip, SYN).length(600).bytes(),
    }
}

fn v4(type_u8: u8, code_u8: u8, bytes5to8: [u8; 4]) -> Icmpv4Type {
    Icmpv4Type::Unknown { type_u8, code_u8, bytes5to8 }
}

/// An error of a router between the director and the server.
fn about(quoted: &[u8], of_v4: &Icmpv4Type, of_v6: &Icmpv6Type) -> Vec<u8> {
    let (from_mac, to_mac) = (server_mac(1), INSIDE);
    if quoted[0] >> 4 == 6 {
        return icmpv6_error((from_mac, to_mac), (INNER_ROUTER6, INSIDE_ADDRESS6), *of_v6, quoted);
    }
    let (source, destination) = ([10, 0, 2, 253], INSIDE_ADDRESS);
    IcmpError { from_mac, to_mac, source, destination, kind: of_v4.clone(), quoted, id: 77 }.bytes()
}

/// What the client is told, about its packet of which `quoted` bytes came back.
fn told(vip: &str, to_v4: &Icmpv4Type, to_v6: &Icmpv6Type, quoted: usize, id: u16) -> Vec<u8> {
    let link = (OUTSIDE, CLIENT_ROUTER);
    if vip == VIP6 {
        let packet = tcp6(CLIENT6, vip, SYN).length(600).hop().ip_packet();
        let quoted = &packet[..quoted.min(packet.len())];
        return icmpv6_error(link, (ip(VIP6), ip(CLIENT6)), *to_v6, quoted);
    }
    let packet = tcp(CLIENT, vip, SYN).length(600).hop().ip_packet();
    let address = |text| match socket(text).ip() {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED.octets(),
    };
    let quoted = &packet[..quoted.min(packet.len())];
    let (source, destination) = (address(VIP), address(CLIENT));
    IcmpError { from_mac: link.0, to_mac: link.1, source, destination, kind: to_v4.clone(), quoted, id }
        .bytes()
}

#[test]
fn the_client_is_told() {
    for (encapsulation, between) in TYPES {
        for (vip, server) in [(VIP, SERVER), (VIP, SERVER6), (VIP6, SERVER), (VIP6, SERVER6)] {
            let header = if server == SERVER { 20 } else { 40 };
            let overhead = header + between;
            let told_mtu = 1400 - overhead;
            let [high, low] = told_mtu.to_be_bytes();
            // What a router says in either family, and what the client gets.
            for (what, of_v4, of_v6, to_v4, to_v6) in [
                (
                    "too big",
                    v4(3, 4, [0, 0, 5, 0x78]),
                    said(2, 0, 1400),
                    v4(3, 4, [0, 0, high, low]),
                    said(2, 0, told_mtu.into()),
                ),
                ("no route", v4(3, 1, [0; 4]), said(1, 0, 0), v4(3, 1, [0; 4]), said(1, 0, 0)),
                ("no port", v4(3, 3, [0; 4]), said(1, 4, 0), v4(3, 3, [0; 4]), said(1, 4, 0)),
                ("a loop", v4(11, 0, [0; 4]), said(3, 0, 0), v4(11, 0, [0; 4]), said(3, 0, 0)),
            ] {
                let (mut director, sent) = tunnel(vip, server, encapsulation);
                let arriving = about(&sent, &of_v4, &of_v6);
                let quoted = arriving.len() - 14 - if server == SERVER { 28 } else { 48 };
                let expected = told(vip, &to_v4, &to_v6, quoted - usize::from(overhead), 2);
                let what = format!("{what}: {vip} to {server} by {encapsulation:?}");
                let outcome = director.arrive(1, &arriving);
                assert_eq!(outcome, Outcome::answered(DropReason::TunnelError, 0, expected), "{what}");
            }
        }
    }
}

/// Which worker has the connection, the datagram of GUE does not tell.
#[test]
fn errors_on_another_queue_reach_their_connection() {
    for queue in 0..3 {
        let mut director = Director::with(3, 100);
        let service = director.add_service(Protocol::Tcp, VIP);
        let id = director.add_server(service, SERVER, Method::Tunnel, 1);
        director.server(id).encapsulation = GUE;
        director.publish();
        let sent = director.arrive_at(1, 0, &[&request(VIP)]).sent.swap_remove(0).1.split_off(14);
        let arriving = about(&sent, &v4(3, 1, [0; 4]), &said(1, 0, 0));
        let outcome = director.arrive_at(queue, 1, &[&arriving]);
        assert_eq!(
            (outcome.dropped, outcome.sent.len()),
            (vec![DropReason::TunnelError], 1),
            "queue {queue}"
        );
    }
}

/// A client of IPv6 makes its packets no smaller than 1280 bytes, and cannot
/// mend an outer header.
#[test]
fn what_a_client_can_do_nothing_about() {
    for (vip, server, of_v4, of_v6, to_v4, to_v6) in [
        (VIP6, SERVER6, v4(3, 4, [0; 4]), said(2, 0, 1280), v4(3, 4, [0; 4]), said(2, 0, 1280)),
        (VIP6, SERVER, v4(3, 4, [0; 4]), said(2, 0, 0), v4(3, 4, [0; 4]), said(2, 0, 1280)),
        (VIP6, SERVER, v4(12, 0, [9, 0, 0, 0]), said(4, 1, 6), v4(3, 1, [0; 4]), said(1, 3, 0)),
        (VIP6, SERVER6, v4(12, 0, [9, 0, 0, 0]), said(4, 1, 6), v4(3, 1, [0; 4]), said(1, 3, 0)),
        (VIP, SERVER6, v4(12, 0, [9, 0, 0, 0]), said(4, 1, 6), v4(3, 1, [0; 4]), said(1, 3, 0)),
        (VIP6, SERVER, v4(3, 2, [0; 4]), said(4, 1, 6), v4(3, 1, [0; 4]), said(1, 3, 0)),
    ] {
        let (mut director, sent) = tunnel(vip, server, Encapsulation::Ipip);
        let arriving = about(&sent, &of_v4, &of_v6);
        let quoted = arriving.len() - 14 - if server == SERVER { 28 + 20 } else { 48 + 40 };
        let expected = Outcome::answered(DropReason::TunnelError, 0, told(vip, &to_v4, &to_v6, quoted, 2));
        assert_eq!(director.arrive(1, &arriving), expected, "{vip} to {server}: {of_v4:?}, {of_v6:?}");
    }
}

/// Routers do not fragment IPv6, whatever the packet in it allows.
#[test]
fn who_lets_fragment_is_told_of_a_tunnel_of_ipv6() {
    let (mut director, _) = tunnel(VIP, SERVER6, Encapsulation::Ipip);
    let request = tcp(CLIENT, VIP, ACK).length(500).may_be_fragmented();
    let sent = director.arrive(0, &request.bytes()).sent.swap_remove(0).1.split_off(14);
    let arriving = about(&sent, &v4(3, 4, [0; 4]), &said(2, 0, 1400));
    let outcome = director.arrive(1, &arriving);
    assert_eq!((outcome.dropped, outcome.sent.len()), (vec![DropReason::TunnelError], 1));
    assert_eq!(outcome.sent[0].1[40..42], 1360u16.to_be_bytes());
}

#[test]
fn errors_about_what_the_director_did_not_send() {
    let kinds = (v4(3, 1, [0; 4]), said(1, 0, 0));
    for server in [SERVER, SERVER6] {
        for (encapsulation, between) in TYPES {
            let header = if server == SERVER { 20 } else { 40 };
            let other = match encapsulation {
                Encapsulation::Ipip => GUE,
                _ => Encapsulation::Ipip,
            };
            // By another encapsulation than the server's.
            let (_, sent) = tunnel(VIP, server, other);
            let (mut director, _) = tunnel(VIP, server, encapsulation);
            let frame = about(&sent, &kinds.0, &kinds.1);
            assert_eq!(director.arrive(1, &frame), Outcome::punted(1, frame), "{encapsulation:?}");

            let (mut director, sent) = tunnel(VIP, server, encapsulation);
            let flipped = |at: usize, bits: u8| {
                let mut packet = sent.clone();
                packet[at] ^= bits;
                about(&packet, &kinds.0, &kinds.1)
            };
            let inner = usize::from(header + between);
            let mut cases = vec![
                ("another server", flipped(usize::from(header) - 1, 2)),
                ("another client", flipped(inner + 15, 1)),
                ("another family within", flipped(inner, 0x20)),
                ("cut before the inner ports", about(&sent[..inner + 20], &kinds.0, &kinds.1)),
                ("cut before the inner header", about(&sent[..inner], &kinds.0, &kinds.1)),
            ];
            let header = usize::from(header);
            match encapsulation {
                Encapsulation::Gue { .. } => cases.extend([
                    ("another port", flipped(header + 3, 1)),
                    ("a control message", flipped(header + 8, 0x20)),
                    ("options", flipped(header + 8, 1)),
                    ("flags", flipped(header + 11, 1)),
                    ("another protocol", flipped(header + 9, 1)),
                ]),
                Encapsulation::Gre { .. } => cases.extend([
                    ("a key", flipped(header, 0x20)),
                    ("another version", flipped(header + 1, 1)),
                    ("another protocol", flipped(header + 3, 1)),
                ]),
                Encapsulation::Ipip => {}
            }
            for (what, frame) in cases {
                let outcome = director.arrive(1, &frame);
                assert_eq!(outcome, Outcome::punted(1, frame), "{encapsulation:?} to {server}: {what}");
            }
            let mut broken = about(&sent, &kinds.0, &kinds.1);
            let last = broken.len() - 1;
            broken[last] ^= 1;
            assert_eq!(director.arrive(1, &broken), Outcome::dropped(DropReason::BadChecksum));
        }
    }
}

/// A datagram of a connection to the very port of GUE is no tunnel's.
#[test]
fn a_service_at_the_port_of_gue() {
    let mut director =
        Director::serving_between(VIP, "192.0.2.10:6080", SERVER, "10.0.2.1:6080", Method::Nat);
    let query = udp(CLIENT, "192.0.2.10:6080").payload([0, 4, 0, 0, 0x45, 0, 0, 28]);
    let sent = director.arrive(0, &query.bytes()).sent[0].1[14..].to_vec();
    let (from_mac, to_mac) = (server_mac(1), INSIDE);
    let (source, destination) = ([10, 0, 2, 253], [198, 51, 100, 7]);
    let kind = v4(3, 3, [0; 4]);
    let frame = IcmpError { from_mac, to_mac, source, destination, kind, quoted: &sent, id: 1 }.bytes();
    assert_eq!(director.arrive(1, &frame).sent.len(), 1);
}

/// The way of an error to a tunnel's server, for whose reply it is, is the
/// tunnel, whatever its type.
#[test]
fn errors_from_clients_go_through_the_tunnel() {
    for (encapsulation, between) in TYPES {
        for server in [SERVER, SERVER6] {
            let (mut director, _) = tunnel(VIP6, server, encapsulation);
            let reply = tcp6(VIP6, CLIENT6, ACK).ip_packet();
            let ends = (INNER_ROUTER6, ip(VIP6));
            let frame = icmpv6_error_with((CLIENT_ROUTER, OUTSIDE), ends, said(2, 0, 1300), &reply, 64);
            let outcome = director.arrive(0, &frame);
            assert_eq!(outcome.sent.len(), 1, "{outcome:?}");
            let header = if server == SERVER { 20 } else { 40 };
            let (_, sent) = &outcome.sent[0];
            let mut inner = sent[14 + header + usize::from(between)..].to_vec();
            inner[7] += 1;
            assert_eq!(inner, frame[14..], "{encapsulation:?} to {server}");
            let traffic = &director.server(ServerId(0)).counters.share(0).traffic;
            assert_eq!(traffic.in_packets.get(), 2);
        }
    }
}
