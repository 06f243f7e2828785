//! FULLNAT between IPv6 and IPv4: one header for the other (RFC 7915).

use std::net::IpAddr;

use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{Icmpv4Type, Icmpv6Type};
use sluice_dataplane::neigh::Egress;
use sluice_dataplane::service::Method;
use sluice_dataplane::stats::DropReason;

use crate::director::packets::{ACK, Datagram, FIN, IcmpError, SYN, UdpChecksum, tcp, udp};
use crate::director::packets_v6::{Datagram6, icmpv6_error, tcp6, udp6};
use crate::director::{
    CLIENT, CLIENT_ROUTER, CLIENT6, DNS_SERVER6, DNS_VIP, DNS_VIP6, Director, INSIDE, LIP, LIP6, OUTSIDE,
    Outcome, Routes, SERVER, SERVER6, VIP, VIP6, inside, server_mac,
};

pub const DNS_SERVER: &str = "10.0.2.1:53";

/// An IPv6 VIP with IPv4 servers.
pub fn six_to_four() -> Director {
    Director::serving_between(VIP6, DNS_VIP6, SERVER, DNS_SERVER, Method::FullNat)
}

/// An IPv4 VIP with IPv6 servers.
pub fn four_to_six() -> Director {
    Director::serving_between(VIP, DNS_VIP, SERVER6, DNS_SERVER6, Method::FullNat)
}

pub fn local_of(director: &mut Director, lip: impl Into<IpAddr>) -> String {
    let local = director.any_local_end();
    assert_eq!(local.ip(), lip.into());
    local.to_string()
}

/// The IPv6 packet as IPv4, with an identification.
fn as_v4(packet: &Datagram6, (source, destination): (&str, &str), id: u16) -> Datagram {
    let mut v4 = match packet.flags {
        0 => udp(source, destination),
        flags => tcp(source, destination, flags),
    };
    v4 = v4.payload(packet.payload.clone()).ttl(packet.hop_limit - 1).tos(packet.traffic_class);
    v4.id = id;
    v4.dont_fragment = v4.ip_packet().len() > 1260;
    v4
}

/// The IPv4 packet as IPv6.
fn as_v6(packet: &Datagram, (source, destination): (&str, &str)) -> Datagram6 {
    let mut v6 = match packet.flags {
        0 => udp6(source, destination),
        flags => tcp6(source, destination, flags),
    };
    v6.flow_label = 0;
    v6.payload(packet.payload.clone()).hop_limit(packet.ttl - 1).traffic_class(packet.tos)
}

#[test]
fn ipv6_clients_reach_ipv4_servers() {
    let mut director = six_to_four();
    let options = [17, 0, 1, 4, 0, 0, 0, 0];
    let requests = [
        ("SYN", tcp6(CLIENT6, VIP6, SYN).payload([])),
        ("data", tcp6(CLIENT6, VIP6, ACK).length(1500).traffic_class(0xb9)),
        ("odd data", tcp6(CLIENT6, VIP6, ACK).payload(*b"odd")),
        ("not to be fragmented", tcp6(CLIENT6, VIP6, ACK).length(1281)),
        ("may be fragmented", tcp6(CLIENT6, VIP6, ACK).length(1280)),
        ("FIN", tcp6(CLIENT6, VIP6, FIN | ACK).hop_limit(2)),
    ];
    let mut local = String::new();
    for (id, (what, request)) in (1..).zip(requests) {
        let outcome = director.arrive(0, &request.bytes());
        if local.is_empty() {
            local = local_of(&mut director, LIP);
        }
        let expected = as_v4(&request, (&local, SERVER), id).link(INSIDE, server_mac(1)).bytes();
        assert_eq!(outcome, Outcome::sent(1, expected), "{what}");
    }
    for (what, reply) in [
        ("SYN", tcp(SERVER, &local, SYN | ACK)),
        ("data", tcp(SERVER, &local, ACK).length(1480).tos(0xb9)),
        ("odd data", tcp(SERVER, &local, ACK).payload(*b"odd").may_be_fragmented()),
    ] {
        let mut reply = reply.link(server_mac(1), INSIDE);
        reply.ip_options = vec![1; 4];
        if what == "data" {
            reply.ip_options.clear();
        }
        let expected = as_v6(&reply, (VIP6, CLIENT6)).link(OUTSIDE, CLIENT_ROUTER).bytes();
        assert_eq!(director.arrive(1, &reply.bytes()), Outcome::sent(0, expected), "{what}");
    }

    let mut director = six_to_four();
    let query = udp6(CLIENT6, DNS_VIP6);
    let outcome = director.arrive(0, &query.clone().behind(60, &options).bytes());
    let local = local_of(&mut director, LIP);
    let expected = as_v4(&query, (&local, DNS_SERVER), 1).link(INSIDE, server_mac(1)).bytes();
    assert_eq!(outcome, Outcome::sent(1, expected), "extension headers are left out");
    for udp_checksum in [UdpChecksum::Right, UdpChecksum::None] {
        let mut answer = udp(DNS_SERVER, &local).link(server_mac(1), INSIDE);
        answer.udp_checksum = udp_checksum;
        let expected = as_v6(&answer, (DNS_VIP6, CLIENT6)).link(OUTSIDE, CLIENT_ROUTER).bytes();
        assert_eq!(director.arrive(1, &answer.bytes()), Outcome::sent(0, expected), "{udp_checksum:?}");
    }
}

#[test]
fn ipv4_clients_reach_ipv6_servers() {
    let mut director = four_to_six();
    let syn = tcp(CLIENT, VIP, SYN).tos(0xb9);
    let outcome = director.arrive(0, &syn.bytes());
    let local = local_of(&mut director, LIP6);
    let expected = as_v6(&syn, (&local, SERVER6)).link(INSIDE, server_mac(1)).bytes();
    assert_eq!(outcome, Outcome::sent(1, expected));
    for vlans in [&[][..], &[5], &[5, 6]] {
        let request = tcp(CLIENT, VIP, ACK).vlans(vlans).padding(&[0x55; 6]);
        let expected = as_v6(&request, (&local, SERVER6)).link(INSIDE, server_mac(1)).bytes();
        assert_eq!(director.arrive(0, &request.bytes()), Outcome::sent(1, expected), "tags {vlans:?}");
    }
    let reply = tcp6(SERVER6, &local, SYN | ACK).link(server_mac(1), INSIDE);
    let expected = as_v4(&reply, (VIP, CLIENT), 5).link(OUTSIDE, CLIENT_ROUTER).bytes();
    assert_eq!(director.arrive(1, &reply.bytes()), Outcome::sent(0, expected));
}

/// The headers differ by 20 bytes, and so do the MTUs that senders are told.
#[test]
fn senders_learn_their_own_mtu() {
    let routes = |mtu| {
        Routes::over(2, Egress { mtu, ..Egress::new(0, OUTSIDE) }, Egress { mtu, ..inside() }).all_known()
    };
    let mut director = six_to_four();
    director.publish_hops(routes(1400));
    assert_eq!(director.arrive(0, &tcp6(CLIENT6, VIP6, SYN).length(1420).bytes()).sent.len(), 1);
    let local = local_of(&mut director, LIP);
    let large = tcp6(CLIENT6, VIP6, ACK).length(1421);
    let addresses = (*large.destination.ip(), *large.source.ip());
    let kind = Icmpv6Type::PacketTooBig { mtu: 1420 };
    let error = icmpv6_error((OUTSIDE, CLIENT_ROUTER), addresses, kind, &large.ip_packet());
    assert_eq!(director.arrive(0, &large.bytes()), Outcome::answered(DropReason::TooBig, 0, error));

    let reply = tcp(SERVER, &local, ACK).link(server_mac(1), INSIDE);
    assert_eq!(director.arrive(1, &reply.clone().length(1380).bytes()).sent.len(), 1);
    let reply = reply.length(1381);
    let error = IcmpError {
        from_mac: INSIDE,
        to_mac: server_mac(1),
        source: LIP,
        destination: [10, 0, 2, 1],
        kind: Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded {
            next_hop_mtu: 1380,
        }),
        quoted: &reply.ip_packet(),
        // Each packet between families was given one, and so was the first error.
        id: 6,
    };
    let outcome = director.arrive(1, &reply.bytes());
    assert_eq!(outcome, Outcome::answered(DropReason::TooBig, 1, error.bytes()));
}

/// What may be fragmented becomes IPv6 fragments, and so does a fragment.
#[test]
fn fragments_get_a_fragment_header() {
    let mut director = six_to_four();
    director.arrive(0, &tcp6(CLIENT6, VIP6, SYN).bytes());
    let local = local_of(&mut director, LIP);
    let narrow = |mtu| Routes::over(2, Egress { mtu, ..Egress::new(0, OUTSIDE) }, inside()).all_known();
    let reply = tcp(SERVER, &local, ACK).link(server_mac(1), INSIDE).may_be_fragmented();
    for (length, link, pieces) in [(1480, 1500, 1), (1500, 1500, 2), (1500, 1400, 2), (1500, 1280, 2)] {
        director.publish_hops(narrow(link));
        let reply = reply.clone().length(length);
        let whole = as_v6(&reply, (VIP6, CLIENT6)).ip_packet();
        let sent = director.arrive(1, &reply.bytes()).sent;
        assert_eq!(sent.len(), pieces, "{length} bytes over {link}");
        if pieces == 1 {
            assert_eq!(sent[0].1[14..], whole);
            continue;
        }
        let mut data: Vec<u8> = Vec::new();
        for (place, (interface, frame)) in sent.iter().enumerate() {
            let (packet, last) = (&frame[14..], place + 1 == pieces);
            assert!(*interface == 0 && packet.len() <= usize::from(link), "{} bytes", packet.len());
            assert_eq!(packet[4..6], ((packet.len() - 40) as u16).to_be_bytes());
            // Next header: a fragment; then that of TCP, offset and flag, and
            // the identification of the IPv4 packet.
            let offset = (data.len() as u16 | u16::from(!last)).to_be_bytes();
            assert_eq!((packet[6], packet[7]), (44, 63));
            assert_eq!(packet[8..40], whole[8..40]);
            assert_eq!(packet[40..48], [6, 0, offset[0], offset[1], 0, 0, 0x12, 0x34]);
            data.extend(&packet[48..]);
        }
        assert_eq!(data, whole[40..], "{length} bytes over {link}");
    }
}

fn cut(packet: &Datagram, data: usize) -> Vec<Vec<u8>> {
    crate::fragments::pieces(packet, data)
}

fn frames(outcome: Outcome) -> Vec<(usize, Vec<u8>)> {
    assert!(outcome.punted.is_empty() && outcome.dropped.is_empty(), "{outcome:?}");
    outcome.sent
}

/// The fragment header becomes fields of the IPv4 header, which has sixteen bits
/// for the identification (RFC 7915, section 5.1.1).
#[test]
fn ipv6_fragments_become_ipv4_fragments() {
    let payload: Vec<u8> = (0..3000).map(|n| (n % 251) as u8).collect();
    let query = udp6(CLIENT6, DNS_VIP6).payload(payload);
    for (before, order) in [(0, [0, 1, 2]), (8, [0, 1, 2]), (0, [2, 0, 1])] {
        let mut director = six_to_four();
        let behind = match before {
            0 => query.clone(),
            _ => query.clone().behind(60, &[17, 0, 1, 4, 0, 0, 0, 0]),
        };
        let pieces = behind.pieces_behind(before, 1400, 0xdead_beef);
        let mut all = Vec::new();
        for place in order {
            let outcome = director.arrive(0, &pieces[place]);
            assert!(outcome.dropped.is_empty() && outcome.punted.is_empty(), "{outcome:?}");
            all.extend(outcome.sent);
        }
        let local = local_of(&mut director, LIP);
        let mut whole = as_v4(&query, (&local, DNS_SERVER), 0xbeef).link(INSIDE, server_mac(1));
        whole.dont_fragment = false;
        let mut expected: Vec<_> = cut(&whole, 1400).into_iter().map(|frame| (1, frame)).collect();
        all.sort();
        expected.sort();
        assert_eq!(all, expected, "{before} bytes before, {order:?}");
    }
    // All of a packet.
    let mut director = six_to_four();
    let small = udp6(CLIENT6, DNS_VIP6).length(1300);
    let outcome = director.arrive(0, &small.pieces(1400, 0xdead_beef)[0]);
    let local = local_of(&mut director, LIP);
    let mut whole = as_v4(&small, (&local, DNS_SERVER), 0xbeef).link(INSIDE, server_mac(1));
    whole.dont_fragment = false;
    assert_eq!(outcome, Outcome::sent(1, whole.bytes()));
}

/// They cannot be left out, being part of what the offsets count.
#[test]
fn options_that_are_cut_are_not_translated() {
    let mut director = six_to_four();
    let query = udp6(CLIENT6, DNS_VIP6).length(2000).behind(60, &[17, 0, 1, 4, 0, 0, 0, 0]);
    for frame in query.pieces(1400, 1) {
        assert_eq!(director.arrive(0, &frame), Outcome::dropped(DropReason::Untranslatable));
    }
}

#[test]
fn ipv4_fragments_become_ipv6_fragments() {
    let payload: Vec<u8> = (0..3000).map(|n| (n % 251) as u8).collect();
    let mut query = udp(CLIENT, DNS_VIP).payload(payload).may_be_fragmented();
    query.id = 0xbeef;
    let mut director = four_to_six();
    let pieces = cut(&query, 1400);
    let mut all = Vec::new();
    for place in [1, 0, 2] {
        all.extend(director.arrive(0, &pieces[place]).sent);
    }
    let local = local_of(&mut director, LIP6);
    let whole = as_v6(&query, (&local, DNS_SERVER6)).link(INSIDE, server_mac(1));
    let mut expected: Vec<_> = whole.pieces(1400, 0xbeef).into_iter().map(|frame| (1, frame)).collect();
    all.sort();
    expected.sort();
    assert_eq!(all, expected);

    // And back, where those that do not fit are refused with what fits an IPv6
    // packet with a fragment header.
    let reply = udp6(DNS_SERVER6, &local).payload(query.payload).link(server_mac(1), INSIDE);
    let narrow = Egress { mtu: 1400, ..Egress::new(0, OUTSIDE) };
    director.publish_hops(Routes::over(2, narrow, inside()).all_known());
    assert_eq!(frames(director.arrive_at(0, 1, &[&reply.pieces(1376, 1)[0]])).len(), 1);
    let too_large = &reply.pieces(1384, 2)[0];
    let kind = Icmpv6Type::PacketTooBig { mtu: 1428 };
    let ends = (LIP6, crate::related_v6::RIP6);
    let answer = icmpv6_error((INSIDE, server_mac(1)), ends, kind, &too_large[14..]);
    let outcome = director.arrive(1, too_large);
    assert_eq!(outcome, Outcome::answered(DropReason::TooBig, 1, answer));
}

#[test]
fn fragments_without_a_checksum_are_not_translated() {
    let mut director = four_to_six();
    let mut query = udp(CLIENT, DNS_VIP).length(2000).may_be_fragmented();
    query.udp_checksum = UdpChecksum::None;
    for frame in cut(&query, 1400) {
        assert_eq!(director.arrive(0, &frame), Outcome::dropped(DropReason::Untranslatable));
    }
}
