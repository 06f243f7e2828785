//! SCTP, and its checksum where ports change.

use etherparse::Icmpv4Type;
use etherparse::icmpv4::DestUnreachableHeader;
use sluice_dataplane::service::{Method, Protocol, ServerId};
use sluice_dataplane::stats::DropReason;

use crate::director::packets::{IcmpError, sctp};
use crate::director::packets_v6::sctp6;
use crate::director::{
    CLIENT, CLIENT_ROUTER, CLIENT6, Director, INSIDE, INSIDE_ADDRESS, OUTSIDE, Outcome, VIP, VIP6, server_mac,
};

const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;

const RIP: [u8; 4] = [10, 0, 2, 1];

/// A director with a service of SCTP whose servers have other ports with NAT.
fn director(method: Method, vip: &str, servers: &[&str]) -> Director {
    let mut director = Director::new();
    let service = director.add_service(Protocol::Sctp, vip);
    servers.iter().for_each(|server| _ = director.add_server(service, server, method, 1));
    director.publish();
    director
}

#[test]
fn an_association_is_translated_both_ways() {
    for server in ["10.0.2.1:8080", "10.0.2.1:80"] {
        let mut director = director(Method::Nat, VIP, &[server]);
        for (interface, chunk, state) in [
            (0, INIT, "INIT1"),
            (1, INIT_ACK, "C-SENT"),
            (0, COOKIE_ECHO, "C-REPLIED"),
            (1, COOKIE_ACK, "ESTABLISHED"),
            (0, DATA, "ESTABLISHED"),
            (1, DATA, "ESTABLISHED"),
        ] {
            let (packet, expected) = if interface == 0 {
                let request = sctp(CLIENT, VIP, &[chunk, DATA]);
                let there = request.clone().between(CLIENT, server).hop().link(INSIDE, server_mac(1));
                (request, Outcome::sent(1, there.bytes()))
            } else {
                let reply = sctp(server, CLIENT, &[chunk, DATA]).link(server_mac(1), INSIDE);
                let back = reply.clone().between(VIP, CLIENT).hop().link(OUTSIDE, CLIENT_ROUTER);
                (reply, Outcome::sent(0, back.bytes()))
            };
            assert_eq!(director.arrive(interface, &packet.bytes()), expected, "chunk {chunk}, {server}");
            assert_eq!(director.only_connection().0, state, "after chunk {chunk}");
        }
        assert_eq!(director.server(ServerId(0)).counters.active(), 1);
    }
}

#[test]
fn an_association_is_translated_over_ipv6() {
    let server = "[2001:db8:2::1]:8080";
    let mut director = director(Method::Nat, VIP6, &[server]);
    let request = sctp6(CLIENT6, VIP6, &[INIT]);
    let there = request.clone().between(CLIENT6, server).hop().link(INSIDE, server_mac(1));
    assert_eq!(director.arrive(0, &request.bytes()), Outcome::sent(1, there.bytes()));
    let reply = sctp6(server, CLIENT6, &[INIT_ACK]).link(server_mac(1), INSIDE);
    let back = reply.clone().between(VIP6, CLIENT6).hop().link(OUTSIDE, CLIENT_ROUTER);
    assert_eq!(director.arrive(1, &reply.bytes()), Outcome::sent(0, back.bytes()));
}

#[test]
fn direct_routing_and_tunnels_leave_it_as_it_is() {
    for method in [Method::DirectRoute, Method::Tunnel] {
        let mut director = director(method, VIP, &["10.0.2.1:80"]);
        for (id, chunk, state) in
            [(1, INIT, "INIT1"), (2, COOKIE_ECHO, "ESTABLISHED"), (3, DATA, "ESTABLISHED")]
        {
            let packet = sctp(CLIENT, VIP, &[chunk]);
            let inner = packet.clone().hop().link(INSIDE, server_mac(1));
            let expected = match method {
                Method::Tunnel => inner.in_tunnel(INSIDE_ADDRESS, RIP, 0, id),
                _ => inner.bytes(),
            };
            assert_eq!(
                director.arrive(0, &packet.bytes()),
                Outcome::sent(1, expected),
                "{method:?}, {chunk}"
            );
            assert_eq!(director.only_connection().0, state);
        }
    }
}

#[test]
fn init_begins_an_association_and_sloppy_sctp_any_chunk_but_abort() {
    for (chunks, strict, sloppy) in [
        (&[INIT][..], true, true),
        (&[DATA], false, true),
        (&[COOKIE_ECHO, DATA], false, true),
        (&[COOKIE_ECHO, ABORT], false, true),
        (&[ABORT], false, false),
        (&[], false, true),
    ] {
        for (setting, begins) in [(false, strict), (true, sloppy)] {
            let mut director = director(Method::Nat, VIP, &["10.0.2.1:80"]);
            director.tunables.sloppy_sctp = setting;
            director.publish();
            let packet = sctp(CLIENT, VIP, chunks).bytes();
            let outcome = director.arrive(0, &packet);
            assert_eq!(outcome.sent.len(), usize::from(begins), "{chunks:?}, sloppy {setting}");
            assert_eq!(outcome == Outcome::punted(0, packet), !begins);
        }
    }
}

#[test]
fn init_begins_anew_where_the_association_is_over() {
    let mut director = director(Method::Nat, VIP, &["10.0.2.1:80", "10.0.2.2:80"]);
    let mut server = |chunk| {
        let outcome = director.arrive(0, &sctp(CLIENT, VIP, &[chunk]).bytes());
        outcome.sent[0].1[5]
    };
    assert_eq!([INIT, INIT, ABORT, DATA].map(&mut server), [2, 2, 2, 2]);
    assert_eq!(server(INIT), 1);
    assert_eq!(director.only_connection(), ("INIT1", 4));
}

#[test]
fn without_a_server_the_port_is_unreachable() {
    let mut director = director(Method::Nat, VIP, &[]);
    let packet = sctp(CLIENT, VIP, &[INIT]);
    let outcome = director.arrive(0, &packet.bytes());
    assert_eq!(outcome.dropped, [DropReason::NoServer]);
    let answer = IcmpError {
        from_mac: OUTSIDE,
        to_mac: CLIENT_ROUTER,
        source: packet.destination.ip().octets(),
        destination: packet.source.ip().octets(),
        kind: Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port),
        quoted: &packet.ip_packet(),
        id: 1,
    };
    assert_eq!(outcome.sent, [(0, answer.bytes())]);
}

#[test]
fn a_damaged_packet_stays_damaged() {
    let mut director = director(Method::Nat, VIP, &["10.0.2.1:8080"]);
    let mut damaged = sctp(CLIENT, VIP, &[INIT, DATA]).bytes();
    let last = damaged.len() - 1;
    damaged[last] ^= 0x20;
    let whole = sctp(CLIENT, "10.0.2.1:8080", &[INIT, DATA]).hop().link(INSIDE, server_mac(1)).bytes();
    let [(1, sent)] = &director.arrive(0, &damaged).sent[..] else { panic!("not sent") };
    // Only the damage differs from what would have been sent without.
    let differing: Vec<usize> = (0..sent.len()).filter(|at| sent[*at] != whole[*at]).collect();
    assert_eq!(differing, [last]);
}

/// The checksum covers what is in the other fragments.
#[test]
fn fragments_pass_where_ports_stay() {
    for (server, passes) in [("10.0.2.1:80", true), ("10.0.2.1:8080", false)] {
        let mut director = director(Method::Nat, VIP, &[server]);
        director.arrive(0, &sctp(CLIENT, VIP, &[INIT]).bytes());
        let packet = sctp(CLIENT, VIP, &[DATA]).payload(vec![0; 400]).may_be_fragmented();
        let frames = crate::fragments::pieces(&packet, 200);
        let outcome = director.arrive_at(0, 0, &frames.iter().map(Vec::as_slice).collect::<Vec<_>>());
        if passes {
            assert_eq!((outcome.sent.len(), outcome.dropped.len()), (3, 0), "{outcome:?}");
        } else {
            assert_eq!(outcome.sent, []);
            assert_eq!(outcome.dropped, [DropReason::SctpFragment; 3]);
        }
    }
}

#[test]
fn an_error_about_an_association_reaches_the_server() {
    let server = "10.0.2.1:8080";
    let mut director = director(Method::Nat, VIP, &[server]);
    director.arrive(0, &sctp(CLIENT, VIP, &[INIT]).bytes());
    let kind =
        Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1400 });
    // Ports and tag are quoted, the checksum is not.
    let reply = sctp(VIP, CLIENT, &[DATA]).ip_packet()[..28].to_vec();
    let translated = sctp(server, CLIENT, &[DATA]).ip_packet()[..28].to_vec();
    let router = [198, 18, 0, 1];
    let error = IcmpError {
        from_mac: CLIENT_ROUTER,
        to_mac: OUTSIDE,
        source: router,
        destination: [192, 0, 2, 10],
        kind: kind.clone(),
        quoted: &reply,
        id: 7,
    };
    let forwarded = IcmpError {
        from_mac: INSIDE,
        to_mac: server_mac(1),
        destination: RIP,
        quoted: &translated,
        ..error.clone()
    };
    assert_eq!(director.arrive(0, &error.bytes()), Outcome::sent(1, forwarded.bytes_with(63)));
}
