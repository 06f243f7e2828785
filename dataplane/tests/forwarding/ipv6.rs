//! IPv6 by every method, with extension headers, and errors of our own.

use std::net::Ipv6Addr;

use etherparse::Icmpv6Type;
use etherparse::icmpv6::{DestUnreachableCode, TimeExceededCode};
use sluice_dataplane::neigh::Egress;
use sluice_dataplane::service::{Method, Protocol};
use sluice_dataplane::stats::DropReason;

use crate::director::packets::{ACK, FIN, SYN, tcp};
use crate::director::packets_v6::{Datagram6, ethernet, icmpv6_error, in_v6_tunnel, tcp6, udp6};
use crate::director::{
    CLIENT, CLIENT_ROUTER, CLIENT6, DNS_SERVER6, DNS_VIP6, Director, INSIDE, INSIDE_ADDRESS, INSIDE_ADDRESS6,
    LIP6, OUTSIDE, Outcome, Routes, SERVER, SERVER6, VIP, VIP6, inside, server_mac,
};

const HOP_LIMIT: Icmpv6Type = Icmpv6Type::TimeExceeded(TimeExceededCode::HopLimitExceeded);
const PORT: Icmpv6Type = Icmpv6Type::DestinationUnreachable(DestUnreachableCode::Port);

fn too_big(mtu: u32) -> Icmpv6Type {
    Icmpv6Type::PacketTooBig { mtu }
}

fn rip() -> Ipv6Addr {
    "2001:db8:2::1".parse().expect("an address")
}

/// The packet as it leaves for the server.
fn inwards(packet: Datagram6) -> Datagram6 {
    packet.hop().link(INSIDE, server_mac(1))
}

fn outwards(packet: Datagram6) -> Outcome {
    Outcome::sent(0, packet.hop().link(OUTSIDE, CLIENT_ROUTER).bytes())
}

/// The error about a client's packet: it comes from the VIP.
fn to_client(packet: &Datagram6, kind: Icmpv6Type) -> Vec<u8> {
    let addresses = (*packet.destination.ip(), *packet.source.ip());
    icmpv6_error((OUTSIDE, CLIENT_ROUTER), addresses, kind, &packet.ip_packet())
}

/// Options that mean nothing (PadN), as hop-by-hop or destination options.
fn padding(next: u8) -> [u8; 8] {
    [next, 0, 1, 4, 0, 0, 0, 0]
}

/// A routing header that has nothing left to visit, with one address in it.
fn routing(next: u8, segments_left: u8) -> Vec<u8> {
    [&[next, 2, 4, segments_left, 0, 0, 0, 0][..], &rip().octets()].concat()
}

#[test]
fn nat_translates_both_ways() {
    let mut director = Director::serving_v6(Method::Nat);
    for (what, flags, payload) in
        [("SYN", SYN, 0), ("data", ACK, 1440), ("odd data", ACK, 3), ("FIN", FIN | ACK, 0)]
    {
        let request = tcp6(CLIENT6, VIP6, flags).payload(vec![7; payload]);
        let expected = inwards(request.clone().between(CLIENT6, SERVER6)).bytes();
        assert_eq!(director.arrive(0, &request.bytes()), Outcome::sent(1, expected), "client: {what}");
        let reply = tcp6(SERVER6, CLIENT6, flags | ACK).payload(vec![9; payload]).link(server_mac(1), INSIDE);
        let expected = outwards(reply.clone().between(VIP6, CLIENT6));
        assert_eq!(director.arrive(1, &reply.bytes()), expected, "server: {what}");
    }
    let query = udp6(CLIENT6, DNS_VIP6);
    let expected = inwards(query.clone().between(CLIENT6, DNS_SERVER6)).bytes();
    assert_eq!(director.arrive(0, &query.bytes()), Outcome::sent(1, expected));
    let answer = udp6(DNS_SERVER6, CLIENT6).link(server_mac(1), INSIDE);
    assert_eq!(director.arrive(1, &answer.bytes()), outwards(answer.between(DNS_VIP6, CLIENT6)));
}

#[test]
fn fullnat_translates_both_ways() {
    let mut director = Director::serving_v6(Method::FullNat);
    let syn = tcp6(CLIENT6, VIP6, SYN);
    let outcome = director.arrive(0, &syn.bytes());
    let local = director.any_local_end();
    assert_eq!((local.ip(), local.port() >= 1024), (LIP6.into(), true));
    let local = local.to_string();
    assert_eq!(outcome, Outcome::sent(1, inwards(syn.between(&local, SERVER6)).bytes()));
    let reply = tcp6(SERVER6, &local, SYN | ACK).link(server_mac(1), INSIDE);
    assert_eq!(director.arrive(1, &reply.bytes()), outwards(reply.between(VIP6, CLIENT6)));
}

/// Traffic class and flow label pass, and so do extension headers, which TCP
/// and UDP are found behind.
#[test]
fn extension_headers_are_looked_past() {
    let fragment = [17, 0, 0, 0, 0, 0, 0, 1];
    for method in [Method::Nat, Method::DirectRoute] {
        let mut director = Director::serving_v6(method);
        for (what, first, extensions, is_ours) in [
            ("hop-by-hop options", 0, padding(17).to_vec(), true),
            ("destination options", 60, padding(17).to_vec(), true),
            ("routing that is over", 43, routing(17, 0), true),
            ("all of them", 0, [&padding(60)[..], &padding(43), &routing(17, 0)].concat(), true),
            ("six", 0, [padding(60).repeat(5), padding(17).to_vec()].concat(), true),
            ("seven", 0, [padding(60).repeat(6), padding(17).to_vec()].concat(), false),
            ("routing that is not over", 43, routing(17, 1), false),
            ("a fragment that is all of its packet", 44, fragment.to_vec(), true),
            ("two of them", 44, [&[44][..], &fragment[1..], &fragment].concat(), false),
            ("authentication", 51, padding(17).to_vec(), false),
        ] {
            let packet = udp6(CLIENT6, DNS_VIP6).traffic_class(0xb9).behind(first, &extensions);
            let expected = match (is_ours, method) {
                (false, _) => Outcome::punted(0, packet.bytes()),
                (true, Method::Nat) => {
                    Outcome::sent(1, inwards(packet.clone().between(CLIENT6, DNS_SERVER6)).bytes())
                }
                (true, _) => Outcome::sent(1, inwards(packet.clone()).bytes()),
            };
            assert_eq!(director.arrive(0, &packet.bytes()), expected, "{method:?}: {what}");
        }
        let mut cut = udp6(CLIENT6, DNS_VIP6).behind(60, &padding(17)).bytes();
        cut[55] = 200;
        assert_eq!(director.arrive(0, &cut), Outcome::dropped(DropReason::Truncated), "{method:?}");
    }
}

/// IPVS makes the checksum that IPv6 asks for where a datagram has none.
#[test]
fn a_udp_packet_without_checksum_gets_one() {
    let mut director = Director::serving_v6(Method::Nat);
    let mut query = udp6(CLIENT6, DNS_VIP6);
    let expected = inwards(query.clone().between(CLIENT6, DNS_SERVER6)).bytes();
    query.without_checksum = true;
    assert_eq!(director.arrive(0, &query.bytes()), Outcome::sent(1, expected));
}

/// On the wire an IPv4-mapped address is no IPv4 address.
#[test]
fn mapped_addresses_are_left_to_the_kernel() {
    let mut director = Director::serving(Method::Nat);
    director.arrive(0, &tcp(CLIENT, VIP, SYN).bytes());
    let mapped = |text: &str| {
        let (host, port) = text.split_once(':').expect("ADDRESS:PORT");
        format!("[::ffff:{host}]:{port}")
    };
    let packet = tcp6(&mapped(CLIENT), &mapped(VIP), ACK).bytes();
    assert_eq!(director.arrive(0, &packet), Outcome::punted(0, packet));
}

#[test]
fn direct_routing_takes_a_hop_off() {
    let mut director = Director::serving_v6(Method::DirectRoute);
    for packet in [tcp6(CLIENT6, VIP6, SYN), udp6(CLIENT6, DNS_VIP6), tcp6(CLIENT6, VIP6, ACK).length(1500)] {
        let expected = inwards(packet.clone()).bytes();
        assert_eq!(director.arrive(0, &packet.bytes()), Outcome::sent(1, expected));
    }
}

const CLASSES: [(u8, u8); 5] = [(0, 0), (0xb8, 0xb8), (0x02, 0x02), (0x01, 0x01), (0xbb, 0xba)];

#[test]
fn tunnels_of_ipv6_in_ipv6() {
    let mut director = Director::serving_v6(Method::Tunnel);
    for (class, outer) in CLASSES {
        let packet = tcp6(CLIENT6, VIP6, SYN).traffic_class(class).hop_limit(33);
        let inner = inwards(packet.clone()).ip_packet();
        let tunnelled = in_v6_tunnel(&inner, 41, (INSIDE_ADDRESS6, rip()), 32, outer);
        let expected = Outcome::sent(1, ethernet(INSIDE, server_mac(1), &tunnelled));
        assert_eq!(director.arrive(0, &packet.bytes()), expected, "class {class:#04x}");
    }
}

#[test]
fn tunnels_of_ipv4_in_ipv6() {
    let mut director = Director::serving_between(VIP, "192.0.2.10:53", SERVER6, DNS_SERVER6, Method::Tunnel);
    for (class, outer) in CLASSES {
        let packet = tcp(CLIENT, VIP, SYN).tos(class);
        let inner = packet.clone().hop().ip_packet();
        let tunnelled = in_v6_tunnel(&inner, 4, (INSIDE_ADDRESS6, rip()), 63, outer);
        let expected = Outcome::sent(1, ethernet(INSIDE, server_mac(1), &tunnelled));
        assert_eq!(director.arrive(0, &packet.bytes()), expected, "class {class:#04x}");
    }
    let fits = tcp(CLIENT, VIP, ACK).length(1460);
    assert_eq!(director.arrive(0, &fits.bytes()).sent.len(), 1);
    assert_eq!(director.arrive(0, &fits.length(1461).bytes()).dropped, [DropReason::TooBig]);
}

#[test]
fn tunnels_of_ipv6_in_ipv4() {
    let mut director = Director::serving_between(VIP6, DNS_VIP6, SERVER, "10.0.2.1:53", Method::Tunnel);
    for (id, (class, outer)) in (1..).zip(CLASSES) {
        let packet = tcp6(CLIENT6, VIP6, SYN).traffic_class(class);
        let expected = inwards(packet.clone()).in_v4_tunnel(INSIDE_ADDRESS, [10, 0, 2, 1], outer, id);
        assert_eq!(director.arrive(0, &packet.bytes()), Outcome::sent(1, expected), "class {class:#04x}");
    }
    // There is no address for the outer header to come from.
    director.publish_hops(Routes::over(2, Egress::new(0, OUTSIDE), Egress::new(1, INSIDE)).all_known());
    let packet = tcp6(CLIENT6, VIP6, ACK).bytes();
    assert_eq!(director.arrive(0, &packet), Outcome::dropped(DropReason::NoRoute));
}

#[test]
fn a_hop_limit_that_is_used_up_is_answered_from_the_vip() {
    for method in [Method::Nat, Method::FullNat, Method::DirectRoute, Method::Tunnel] {
        for hop_limit in [0, 1] {
            let mut director = Director::serving_v6(method);
            let packet = tcp6(CLIENT6, VIP6, SYN).hop_limit(hop_limit);
            let expected = Outcome::answered(DropReason::TtlExceeded, 0, to_client(&packet, HOP_LIMIT));
            assert_eq!(director.arrive(0, &packet.bytes()), expected, "{method:?}, {hop_limit}");
        }
    }
}

#[test]
fn a_packet_that_does_not_fit_is_refused_with_the_mtu() {
    for (method, server, link, largest) in [
        (Method::Nat, SERVER6, 1400, 1400),
        (Method::FullNat, SERVER6, 1400, 1400),
        (Method::DirectRoute, SERVER6, 1280, 1280),
        (Method::Tunnel, SERVER6, 1500, 1460),
        (Method::Tunnel, SERVER6, 1320, 1280),
        (Method::Tunnel, SERVER, 1500, 1480),
    ] {
        let mut director = Director::serving_between(VIP6, DNS_VIP6, server, server, method);
        director.publish_hops(
            Routes::over(2, Egress::new(0, OUTSIDE), Egress { mtu: link, ..inside() }).all_known(),
        );
        let fits = tcp6(CLIENT6, VIP6, SYN).length(largest);
        assert_eq!(director.arrive(0, &fits.bytes()).sent.len(), 1, "{method:?} over {link}");
        let packet = fits.length(largest + 1);
        let expected = Outcome::answered(DropReason::TooBig, 0, to_client(&packet, too_big(largest as u32)));
        assert_eq!(director.arrive(0, &packet.bytes()), expected, "{method:?} over {link}");
    }
    // Nobody sends less than 1280 for being told to.
    let mut director = Director::serving_v6(Method::Tunnel);
    director
        .publish_hops(Routes::over(2, Egress::new(0, OUTSIDE), Egress { mtu: 1319, ..inside() }).all_known());
    let packet = tcp6(CLIENT6, VIP6, SYN).length(1280);
    assert_eq!(director.arrive(0, &packet.bytes()), Outcome::dropped(DropReason::TooBig));
}

#[test]
fn a_service_without_servers_says_so() {
    let mut director = Director::new();
    director.add_service(Protocol::Tcp, VIP6);
    director.add_service(Protocol::Udp, DNS_VIP6);
    director.publish();
    for packet in [tcp6(CLIENT6, VIP6, SYN), udp6(CLIENT6, DNS_VIP6), udp6(CLIENT6, DNS_VIP6).length(1500)] {
        let expected = Outcome::answered(DropReason::NoServer, 0, to_client(&packet, PORT));
        assert_eq!(director.arrive(0, &packet.bytes()), expected);
    }
}

/// An error about a server's packet comes from the director, not from the
/// client that the packet was for.
#[test]
fn errors_to_servers_come_from_the_director() {
    let mut director = Director::serving_v6(Method::Nat);
    director.arrive(0, &tcp6(CLIENT6, VIP6, SYN).bytes());
    let reply = tcp6(SERVER6, CLIENT6, ACK).hop_limit(1).link(server_mac(1), INSIDE);
    let answer =
        icmpv6_error((INSIDE, server_mac(1)), (INSIDE_ADDRESS6, rip()), HOP_LIMIT, &reply.ip_packet());
    assert_eq!(director.arrive(1, &reply.bytes()), Outcome::answered(DropReason::TtlExceeded, 1, answer));
}

/// RFC 4443, section 2.4.
#[test]
fn what_must_not_be_answered() {
    for source in ["[::]:1", "[::1]:1", "[ff02::1]:1"] {
        let mut director = Director::serving_v6(Method::DirectRoute);
        let packet = tcp6(source, VIP6, SYN).hop_limit(1);
        let expected = Outcome::dropped(DropReason::TtlExceeded);
        assert_eq!(director.arrive(0, &packet.bytes()), expected, "from {source}");
    }
}
