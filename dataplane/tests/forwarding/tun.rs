//! Tunnelling: the fields of the outer header as IPVS fills them.

use etherparse::Icmpv4Type;
use etherparse::icmpv4::DestUnreachableHeader;
use sluice_dataplane::neigh::Egress;
use sluice_dataplane::service::Method;
use sluice_dataplane::stats::DropReason;

use crate::director::packets::{ACK, IcmpError, SYN, tcp, udp};
use crate::director::{
    CLIENT, CLIENT_ROUTER, DNS_VIP, Director, INSIDE, INSIDE_ADDRESS, OUTSIDE, Outcome, Routes, VIP, inside,
    server_mac,
};

const RIP: [u8; 4] = [10, 0, 2, 1];

#[test]
fn packets_go_in_an_outer_header() {
    let mut director = Director::serving(Method::Tunnel);
    let mut options = tcp(CLIENT, VIP, ACK);
    options.ip_options = vec![1, 1, 1, 0];
    for (what, packet, tos) in [
        ("SYN", tcp(CLIENT, VIP, SYN), 0),
        ("UDP", udp(CLIENT, DNS_VIP), 0),
        ("may be fragmented", tcp(CLIENT, VIP, ACK).may_be_fragmented(), 0),
        ("TTL 2", tcp(CLIENT, VIP, ACK).ttl(2), 0),
        ("DSCP is copied", tcp(CLIENT, VIP, ACK).tos(0xb8), 0xb8),
        ("ECT(0) is copied", tcp(CLIENT, VIP, ACK).tos(0x02), 0x02),
        ("ECT(1) is copied", tcp(CLIENT, VIP, ACK).tos(0x01), 0x01),
        ("congestion becomes ECT(0)", tcp(CLIENT, VIP, ACK).tos(0xbb), 0xba),
        ("the largest that fits", tcp(CLIENT, VIP, ACK).length(1480), 0),
        ("IP options stay inside", options, 0),
        ("padding is left behind", tcp(CLIENT, VIP, ACK).payload([]).padding(&[0x55; 6]), 0),
    ] {
        let mut inner = packet.clone().hop().link(INSIDE, server_mac(1));
        inner.padding.clear();
        let outcome = director.arrive(0, &packet.bytes());
        // Workers and the kernel's part number their packets each for itself.
        let id = u16::from_be_bytes([outcome.sent[0].1[18], outcome.sent[0].1[19]]);
        let expected = inner.in_tunnel(INSIDE_ADDRESS, RIP, tos, id);
        assert_eq!(outcome, Outcome::sent(1, expected), "{what}");
    }
}

#[test]
fn a_packet_that_does_not_fit_is_refused_with_the_mtu() {
    for (link, largest) in [(1500, 1480), (1400, 1380)] {
        let mut director = Director::serving(Method::Tunnel);
        director.publish_hops(
            Routes::over(2, Egress::new(0, OUTSIDE), Egress { mtu: link, ..inside() }).all_known(),
        );
        let packet = tcp(CLIENT, VIP, SYN).length(usize::from(largest) + 1);
        let outcome = director.arrive(0, &packet.bytes());
        let answer = IcmpError {
            from_mac: OUTSIDE,
            to_mac: CLIENT_ROUTER,
            source: packet.destination.ip().octets(),
            destination: packet.source.ip().octets(),
            kind: Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded {
                next_hop_mtu: largest,
            }),
            quoted: &packet.ip_packet(),
            // The first identification went to the packet that was refused.
            id: 2,
        };
        assert_eq!(outcome, Outcome::answered(DropReason::TooBig, 0, answer.bytes()), "link of {link}");
    }
}

/// Where the route names no source address, the tunnel begins at the VIP.
#[test]
fn a_tunnel_begins_at_the_vip_if_need_be() {
    let mut director = Director::serving(Method::Tunnel);
    director.publish_hops(Routes::over(2, Egress::new(0, OUTSIDE), Egress::new(1, INSIDE)).all_known());
    let packet = tcp(CLIENT, VIP, SYN);
    let inner = packet.clone().hop().link(INSIDE, server_mac(1));
    let expected = inner.in_tunnel([192, 0, 2, 10], RIP, 0, 1);
    assert_eq!(director.arrive(0, &packet.bytes()), Outcome::sent(1, expected));
}
