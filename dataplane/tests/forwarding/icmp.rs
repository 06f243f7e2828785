//! Errors that the director sends itself.

use etherparse::Icmpv4Type;
use etherparse::icmpv4::{DestUnreachableHeader, TimeExceededCode};
use sluice_dataplane::neigh::Egress;
use sluice_dataplane::service::Method;
use sluice_dataplane::stats::DropReason;
use sluice_dataplane::wire::Address;

use crate::director::packets::{ACK, Datagram, IcmpError, SYN, tcp, udp};
use crate::director::{
    CLIENT, CLIENT_ROUTER, DNS_VIP, Director, INSIDE, INSIDE_ADDRESS, LIP, OUTSIDE, Outcome, Routes, SECOND,
    SERVER, VIP, inside, server_mac,
};

const PORT: Icmpv4Type = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port);
const TTL: Icmpv4Type = Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit);

fn too_big(mtu: u16) -> Icmpv4Type {
    Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu })
}

/// The error about a client's packet: it comes from the VIP.
fn to_client(packet: &Datagram, kind: Icmpv4Type, id: u16) -> Vec<u8> {
    IcmpError {
        from_mac: OUTSIDE,
        to_mac: CLIENT_ROUTER,
        source: packet.destination.ip().octets(),
        destination: packet.source.ip().octets(),
        kind,
        quoted: &packet.ip_packet(),
        id,
    }
    .bytes()
}

#[test]
fn a_ttl_that_is_used_up_is_answered_from_the_vip() {
    for method in [Method::Nat, Method::FullNat, Method::DirectRoute] {
        for ttl in [0, 1] {
            let mut director = Director::serving(method);
            let packet = tcp(CLIENT, VIP, SYN).ttl(ttl);
            let expected = Outcome::answered(DropReason::TtlExceeded, 0, to_client(&packet, TTL, 1));
            assert_eq!(director.arrive(0, &packet.bytes()), expected, "{method:?}, TTL {ttl}");
        }
    }
}

/// The quoted packet is the one that its sender sent, also where it belongs
/// to a connection that is translated. Padding is not quoted, nor more than
/// makes 576 bytes.
#[test]
fn the_packet_is_quoted_as_it_was_sent() {
    let mut director = Director::serving(Method::FullNat);
    director.arrive(0, &tcp(CLIENT, VIP, SYN).bytes());
    let mut options = udp(CLIENT, DNS_VIP).ttl(1);
    options.ip_options = vec![1; 8];
    for (id, (what, packet)) in (1..).zip([
        ("of a connection", tcp(CLIENT, VIP, ACK).ttl(1)),
        ("padded", tcp(CLIENT, VIP, ACK).payload([]).padding(&[9; 6]).ttl(1)),
        ("long", tcp(CLIENT, VIP, ACK).length(1500).ttl(1)),
        ("of exactly the quoted length", tcp(CLIENT, VIP, ACK).length(548).ttl(1)),
        ("tagged", tcp(CLIENT, VIP, ACK).vlans(&[5, 6]).ttl(1)),
        ("with options", options),
    ]) {
        let expected = Outcome::answered(DropReason::TtlExceeded, 0, to_client(&packet, TTL, id));
        assert_eq!(director.arrive(0, &packet.bytes()), expected, "{what}");
    }
}

#[test]
fn a_service_without_servers_says_so() {
    let mut director = Director::new();
    let (_, dns) = director.both_services();
    director.add_server(dns, "10.0.2.1:53", Method::Nat, 0);
    director.publish();
    for (id, (what, packet)) in
        (1..).zip([("TCP", tcp(CLIENT, VIP, SYN)), ("UDP, all weights 0", udp(CLIENT, DNS_VIP))])
    {
        let expected = Outcome::answered(DropReason::NoServer, 0, to_client(&packet, PORT, id));
        assert_eq!(director.arrive(0, &packet.bytes()), expected, "{what}");
    }
    assert_eq!(director.list(), []);
    // What does not open a connection gets the kernel's RST.
    let ack = tcp(CLIENT, VIP, ACK).bytes();
    assert_eq!(director.arrive(0, &ack), Outcome::punted(0, ack));
}

#[test]
fn a_packet_larger_than_the_next_link() {
    for method in [Method::Nat, Method::FullNat, Method::DirectRoute] {
        let mut director = Director::serving(method);
        director.publish_hops(
            Routes::over(2, Egress::new(0, OUTSIDE), Egress { mtu: 1280, ..inside() }).all_known(),
        );
        assert_eq!(director.arrive(0, &tcp(CLIENT, VIP, SYN).length(1280).bytes()).sent.len(), 1);
        let packet = tcp(CLIENT, VIP, ACK).length(1281);
        let expected = Outcome::answered(DropReason::TooBig, 0, to_client(&packet, too_big(1280), 1));
        assert_eq!(director.arrive(0, &packet.bytes()), expected, "{method:?}");
    }
}

/// An error about a server's packet comes from the director, not from the
/// client that the packet was for.
#[test]
fn errors_to_servers_come_from_the_director() {
    for (method, source) in [(Method::Nat, INSIDE_ADDRESS), (Method::FullNat, LIP)] {
        let mut director = Director::serving(method);
        director.publish_hops(
            Routes::over(2, Egress { mtu: 1280, ..Egress::new(0, OUTSIDE) }, inside()).all_known(),
        );
        director.arrive(0, &tcp(CLIENT, VIP, SYN).bytes());
        let to = match method {
            Method::FullNat => director.local_end().to_string(),
            _ => CLIENT.to_owned(),
        };
        let reply = tcp(SERVER, &to, ACK).link(server_mac(1), INSIDE);
        for (id, (reason, kind, packet)) in (1..).zip([
            (DropReason::TtlExceeded, TTL, reply.clone().ttl(1)),
            (DropReason::TooBig, too_big(1280), reply.clone().length(1300)),
        ]) {
            let answer = IcmpError {
                from_mac: INSIDE,
                to_mac: server_mac(1),
                source,
                destination: [10, 0, 2, 1],
                kind,
                quoted: &packet.ip_packet(),
                id,
            };
            let expected = Outcome::answered(reason, 1, answer.bytes());
            assert_eq!(director.arrive(1, &packet.bytes()), expected, "{method:?}, {reason:?}");
        }
    }
}

/// RFC 1122, section 3.2.2.
#[test]
fn what_must_not_be_answered() {
    for source in ["224.0.0.5:1", "255.255.255.255:1", "0.0.0.0:1", "127.0.0.1:1"] {
        let mut director = Director::serving(Method::DirectRoute);
        let packet = tcp(source, VIP, SYN).ttl(1);
        assert_eq!(
            director.arrive(0, &packet.bytes()),
            Outcome::dropped(DropReason::TtlExceeded),
            "from {source}"
        );
    }
}

#[test]
fn a_sender_without_a_known_next_hop_is_not_answered() {
    let mut director = Director::serving(Method::DirectRoute);
    for (what, source) in [("unresolved", "10.0.2.77:1"), ("ourselves", VIP)] {
        let packet = tcp(source, VIP, SYN).ttl(1);
        assert_eq!(director.arrive(0, &packet.bytes()), Outcome::dropped(DropReason::TtlExceeded), "{what}");
    }
    let mut routes = Routes::new(2).all_known();
    routes.builder.neighbour(routes.inside, Address::from_v4([10, 0, 2, 77]), None);
    director.publish_hops(routes);
    let packet = tcp("10.0.2.77:1", VIP, SYN).ttl(1);
    assert_eq!(director.arrive(0, &packet.bytes()), Outcome::dropped(DropReason::TtlExceeded), "MAC unknown");
}

#[test]
fn errors_are_rationed() {
    let mut director = Director::serving(Method::DirectRoute);
    let answers = |director: &mut Director, packets: u64| {
        let frame = tcp(CLIENT, VIP, SYN).ttl(1).bytes();
        let outcomes = (0..packets).map(|_| director.arrive(0, &frame));
        let (mut sent, mut dropped) = (0, 0);
        for outcome in outcomes {
            sent += outcome.sent.len();
            dropped += outcome.dropped.len() as u64;
        }
        assert_eq!(dropped, packets, "every packet is counted");
        sent
    };
    assert_eq!(answers(&mut director, 500), 50);
    director.pass(SECOND / 1000);
    assert_eq!(answers(&mut director, 500), 1);
    director.pass(3600 * SECOND);
    assert_eq!(answers(&mut director, 500), 50);
}
