//! Next hops that are not known yet, change, or lead nowhere; and full rings.

use sluice_dataplane::neigh::Egress;
use sluice_dataplane::port::BURST;
use sluice_dataplane::service::{Method, ServerId};
use sluice_dataplane::stats::DropReason;
use sluice_dataplane::wire::Address;
use sluice_dataplane::worker::Event;

use crate::director::packets::{ACK, Datagram, SYN, tcp, udp};
use crate::director::{
    CLIENT, DNS_VIP, Director, FRAMES, INSIDE, OUTSIDE, Outcome, Routes, SECOND, VIP, server_mac,
};

const RIP: Address = Address::from_v4([10, 0, 2, 1]);

fn forwarded(packet: &Datagram) -> (usize, Vec<u8>) {
    (1, packet.clone().hop().link(INSIDE, server_mac(1)).bytes())
}

/// A director whose server has no known MAC: no slot, or one without MAC.
fn unresolved(slot: bool) -> Director {
    let mut director = Director::serving(Method::DirectRoute);
    let mut routes = Routes::new(1);
    if slot {
        routes.builder.neighbour(routes.inside, RIP, None);
    }
    director.publish_hops(routes);
    director
}

#[test]
fn a_packet_waits_for_its_next_hop() {
    for slot in [false, true] {
        let mut director = unresolved(slot);
        let packets = [tcp(CLIENT, VIP, SYN), udp(CLIENT, DNS_VIP), tcp("198.51.100.8:1", VIP, SYN)];
        for packet in &packets {
            assert_eq!(director.arrive(0, &packet.bytes()), Outcome::held(), "slot {slot}");
        }
        assert_eq!(director.events(), [Event::Ask(RIP)], "asked once");
        assert_eq!(director.counters[0].held.get(), 3);
        assert_eq!(director.server(ServerId(0)).counters.traffic().in_packets, 0, "not counted yet");

        // Some other neighbour changes: they wait on.
        director.publish_hops(Routes::new(2).known(2));
        assert_eq!(director.pass(SECOND / 2), Outcome::default());
        assert_eq!(director.events(), [Event::Ask(RIP)], "asked again");

        director.publish_hops(Routes::new(3).known(1));
        let expected =
            Outcome { sent: packets.iter().map(forwarded).collect(), held: -3, ..Outcome::default() };
        assert_eq!(director.settle(), expected, "slot {slot}, in their order");
        assert_eq!(director.server(ServerId(0)).counters.traffic().in_packets, 2);
        assert_eq!(director.server(ServerId(0)).counters.traffic().connections, 2);
    }
}

#[test]
fn a_packet_waits_for_one_second() {
    let mut director = unresolved(true);
    director.arrive(0, &tcp(CLIENT, VIP, SYN).bytes());
    director.now += SECOND / 2;
    director.arrive(0, &tcp(CLIENT, VIP, SYN).bytes());
    assert_eq!(director.pass(SECOND / 2 - 1), Outcome::default());
    let expired = Outcome { held: -1, ..Outcome::dropped(DropReason::Unresolved) };
    assert_eq!(director.pass(1), expired, "the first");
    // Trying again does not let the second wait longer.
    director.publish_hops(Routes::new(2).known(2));
    assert_eq!(director.settle(), Outcome::default());
    assert_eq!(director.pass(SECOND / 2), expired, "the second");
    assert_eq!(director.workers[0].port().frames_at_home(), FRAMES);
}

#[test]
fn not_more_than_some_packets_wait() {
    let mut director = unresolved(true);
    let frames: Vec<_> =
        (0..600).map(|n| udp(&format!("198.51.100.7:{}", 1000 + n), DNS_VIP).bytes()).collect();
    let mut waiting = 0;
    for frame in &frames {
        let outcome = director.arrive(0, frame);
        waiting += outcome.held;
        assert_eq!(outcome.dropped.len() as i64, 1 - outcome.held);
        assert!(outcome.dropped.iter().all(|reason| *reason == DropReason::Unresolved));
    }
    assert_eq!(waiting, 256);
    assert_eq!(director.workers[0].port().frames_at_home(), FRAMES - 256);
    director.publish_hops(Routes::new(1).known(1));
    assert_eq!(director.settle().sent.len(), 256);
    assert_eq!(director.workers[0].port().frames_at_home(), FRAMES);
}

/// The server is removed, or its connection expires, while a packet waits.
#[test]
fn what_changed_while_a_packet_waited_counts() {
    let mut director = unresolved(true);
    director.arrive(0, &tcp(CLIENT, VIP, SYN).bytes());
    director.remove_server(ServerId(0));
    director.publish();
    director.publish_hops(Routes::new(1).known(1));
    assert_eq!(director.settle(), Outcome { held: -1, ..Outcome::dropped(DropReason::ServerGone) });
}

#[test]
fn a_neighbour_that_changes_its_mac_is_followed() {
    let mut director = Director::serving(Method::DirectRoute);
    let packet = tcp(CLIENT, VIP, SYN);
    assert_eq!(director.arrive(0, &packet.bytes()).sent, [forwarded(&packet)]);
    let mut routes = Routes::new(1).all_known();
    routes.builder.neighbour(routes.inside, RIP, Some(server_mac(99)));
    director.publish_hops(routes);
    let expected = packet.clone().hop().link(INSIDE, server_mac(99));
    assert_eq!(director.arrive(0, &packet.bytes()), Outcome::sent(1, expected.bytes()));
}

/// With a new generation the slots mean something else, and all connections
/// resolve anew.
#[test]
fn connections_follow_changed_routes() {
    const GATEWAY: [u8; 6] = [2, 0, 0, 0, 2, 1];
    let mut director = Director::serving(Method::DirectRoute);
    let packet = tcp(CLIENT, VIP, SYN);
    director.arrive(0, &packet.bytes());

    let mut routes = Routes::new(2).known(3).known(2);
    let gateway = Address::from_v4([203, 0, 113, 1]);
    routes.builder.neighbour(routes.outside, gateway, Some(GATEWAY));
    routes.builder.via("10.0.2.1/32".parse().unwrap(), routes.outside, gateway);
    director.publish_hops(routes);
    let expected = packet.clone().hop().link(OUTSIDE, GATEWAY);
    assert_eq!(director.arrive(0, &packet.bytes()), Outcome::sent(0, expected.bytes()));

    for (generation, what, reason) in
        [(3, "10.0.2.1/32", DropReason::NoRoute), (4, "10.0.2.0/25", DropReason::ForeignInterface)]
    {
        let mut routes = Routes::new(generation).all_known();
        match reason {
            DropReason::NoRoute => routes.builder.unreachable(what.parse().unwrap()),
            _ => routes.builder.foreign(what.parse().unwrap()),
        };
        director.publish_hops(routes);
        assert_eq!(director.arrive(0, &packet.bytes()), Outcome::dropped(reason), "{what}");
    }
    director.publish_hops(Routes::new(5).all_known());
    assert_eq!(director.arrive(0, &packet.bytes()).sent, [forwarded(&packet)]);
}

/// A next hop on an interface that the port does not have.
#[test]
fn an_interface_that_is_not_there() {
    let mut director = Director::serving(Method::DirectRoute);
    director.publish_hops(Routes::over(2, Egress::new(0, OUTSIDE), Egress::new(7, INSIDE)).all_known());
    let frame = tcp(CLIENT, VIP, SYN).bytes();
    assert_eq!(director.arrive(0, &frame), Outcome::dropped(DropReason::ForeignInterface));
}

/// What a full transmit ring does not take waits for a few bursts' worth of
/// frames; beyond that the newest are lost and counted.
#[test]
fn a_full_transmit_ring_loses_and_counts() {
    let mut director = Director::serving(Method::DirectRoute);
    director.workers[0].port_mut().limit_transmit_ring(10);
    director.arrive(0, &tcp(CLIENT, VIP, SYN).bytes());
    let frame = tcp(CLIENT, VIP, ACK).bytes();
    let frames: Vec<&[u8]> = vec![&frame; 500];
    let first = director.arrive_at(0, 0, &frames);
    let waiting = 4 * BURST;
    assert_eq!(first.sent.len(), 10);
    assert_eq!(first.dropped, vec![DropReason::TransmitFull; 500 - 10 - waiting]);
    let mut later = 0;
    while later < waiting {
        let outcome = director.settle();
        assert_eq!((outcome.sent.len(), outcome.dropped.len()), (10.min(waiting - later), 0));
        later += outcome.sent.len();
    }
    assert_eq!(director.workers[0].port().frames_at_home(), FRAMES);
    assert_eq!(director.counters[0].transmitted.get(), 1 + 10 + waiting as u64);
}
