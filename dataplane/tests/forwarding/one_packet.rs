//! One-packet scheduling (`ipvsadm -o`). Expected is what IPVS of Linux 6.1
//! did with rr and three NAT servers: datagrams of one flow went to rs3, rs2,
//! rs1 and rs3, which counted a connection each and had none; the replies went
//! on to the client as the servers had sent them.

use sluice_dataplane::service::Method;
use sluice_dataplane::stats::DropReason;

use super::fragments::pieces;
use crate::director::packets::udp;
use crate::director::{CLIENT, DNS_VIP, Director, INSIDE, Outcome, Routes, SECOND, SERVER, server_mac};

/// The DNS service with servers 1 to 3 and one-packet scheduling.
fn director(workers: usize, method: Method) -> Director {
    let mut director = Director::with(workers, 100);
    let (http, dns) = director.both_services();
    for service in [http, dns] {
        director.service(service).options.one_packet = true;
    }
    for last in 1..=3 {
        director.add_server(dns, &format!("10.0.2.{last}:53"), method, 1);
    }
    director.add_server(http, SERVER, method, 1);
    director.publish();
    director
}

#[test]
fn each_datagram_is_scheduled_and_nothing_stays() {
    for method in [Method::Nat, Method::DirectRoute, Method::Tunnel] {
        for workers in [1, 2] {
            let mut director = director(workers, method);
            let datagram = udp(CLIENT, DNS_VIP).bytes();
            let mut order = Vec::new();
            for _ in 0..4 {
                let outcome = director.arrive(0, &datagram);
                let [(1, frame)] = outcome.sent.as_slice() else { panic!("{method:?}: {outcome:?}") };
                order.push(frame[5]);
                assert_eq!(director.list(), [], "{method:?}");
            }
            assert_eq!(order, [3, 2, 1, 3], "{method:?}");
            let counted: Vec<_> = (0..3)
                .map(|id| {
                    let counters = director.server(sluice_dataplane::service::ServerId(id)).counters.clone();
                    let traffic = counters.traffic();
                    (traffic.connections, traffic.in_packets, counters.active(), counters.inactive())
                })
                .collect();
            assert_eq!(counted, [(1, 1, 0, 0), (1, 1, 0, 0), (2, 2, 0, 0)], "{method:?}");
        }
    }
}

#[test]
fn one_burst_is_as_good_as_many() {
    let mut director = director(1, Method::DirectRoute);
    let datagram = udp(CLIENT, DNS_VIP).bytes();
    let outcome = director.arrive_at(0, 0, &[&datagram, &datagram, &datagram, &datagram]);
    let order: Vec<_> = outcome.sent.iter().map(|(_, frame)| frame[5]).collect();
    assert_eq!(order, [3, 2, 1, 3]);
}

#[test]
fn a_reply_is_the_kernels_to_forward() {
    let mut director = director(1, Method::Nat);
    director.arrive(0, &udp(CLIENT, DNS_VIP).bytes());
    let reply = udp("10.0.2.3:53", CLIENT).link(server_mac(3), INSIDE).bytes();
    assert_eq!(director.arrive(1, &reply), Outcome::punted(1, reply));
}

/// IPVS sets the flag for UDP alone, whatever the service says.
#[test]
fn tcp_is_not_affected() {
    let mut director = director(1, Method::Nat);
    let syn = crate::director::packets::tcp(CLIENT, crate::director::VIP, crate::director::packets::SYN);
    assert_eq!(director.arrive(0, &syn.bytes()).sent.len(), 1);
    assert_eq!(director.only_connection(), ("SYN_RECV", 60));
}

/// A datagram that waits for its next hop is counted once, and its connection
/// is gone with it, whether it is sent in the end or not.
#[test]
fn a_datagram_that_waits_is_scheduled_once() {
    for known_in_time in [true, false] {
        let mut director = director(1, Method::DirectRoute);
        director.publish_hops(Routes::new(2));
        let datagram = udp(CLIENT, DNS_VIP);
        assert_eq!(director.arrive(0, &datagram.bytes()), Outcome::held());
        if known_in_time {
            director.publish_hops(Routes::new(3).all_known());
            let sent = datagram.hop().link(INSIDE, server_mac(3)).bytes();
            let expected = Outcome { held: -1, ..Outcome::sent(1, sent) };
            assert_eq!(director.settle(), expected);
        } else {
            let outcome = director.pass(SECOND);
            assert_eq!(outcome.dropped, [DropReason::Unresolved]);
            director.pass(2 * SECOND);
        }
        assert_eq!(director.list(), []);
        let counters = director.server(sluice_dataplane::service::ServerId(2)).counters.clone();
        assert_eq!((counters.traffic().connections, counters.inactive()), (1, 0));
    }
}

/// The server that each frame sent went to.
fn servers(outcome: &Outcome) -> Vec<u8> {
    assert_eq!((outcome.dropped.len(), outcome.punted.len()), (0, 0), "{outcome:?}");
    outcome.sent.iter().map(|(_, frame)| frame[5]).collect()
}

#[test]
fn the_fragments_of_a_datagram_go_to_its_server() {
    for method in [Method::Nat, Method::DirectRoute, Method::Tunnel] {
        let mut director = director(1, method);
        let mut datagram = udp(CLIENT, DNS_VIP).payload(vec![7; 1000]).may_be_fragmented();
        for (id, server) in [(1, 3), (2, 2), (3, 1)] {
            datagram.id = id;
            let frames = pieces(&datagram, 400);
            let outcome = director.arrive_at(0, 0, &frames.iter().map(Vec::as_slice).collect::<Vec<_>>());
            assert_eq!(servers(&outcome), [server; 3], "{method:?}");
        }
        // A whole one is scheduled anew as well, and nothing stays.
        assert_eq!(servers(&director.arrive(0, &udp(CLIENT, DNS_VIP).bytes())), [3], "{method:?}");
        assert_eq!(director.list(), [], "{method:?}");
        let frames = pieces(&datagram, 400);
        director.arrive(0, &frames[0]);
        assert_eq!(director.list().len(), 1);
        director.pass(3 * SECOND);
        assert_eq!(director.list(), [], "{method:?}");
    }
}

#[test]
fn a_reply_to_fragments_goes_on_as_any_other() {
    let mut director = director(1, Method::Nat);
    let datagram = udp(CLIENT, DNS_VIP).payload(vec![7; 1000]).may_be_fragmented();
    let frames = pieces(&datagram, 400);
    director.arrive_at(0, 0, &frames.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let reply = udp("10.0.2.3:53", CLIENT).link(server_mac(3), INSIDE).bytes();
    assert_eq!(director.arrive(1, &reply), Outcome::punted(1, reply));
}
