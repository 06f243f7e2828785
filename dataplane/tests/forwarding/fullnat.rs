//! FULLNAT: both addresses are replaced, and local ports come and go.

use std::collections::BTreeSet;

use sluice_dataplane::service::{Method, Protocol};
use sluice_dataplane::stats::DropReason;
use sluice_dataplane::wire::Address;

use crate::director::packets::{ACK, FIN, RST, SYN, tcp, udp};
use crate::director::{
    CLIENT, CLIENT_ROUTER, DNS_VIP, Director, INSIDE, LIP, OUTSIDE, Outcome, SECOND, SERVER, VIP, server_mac,
};

#[test]
fn a_tcp_conversation_is_translated_both_ways() {
    let mut director = Director::serving(Method::FullNat);
    let syn = tcp(CLIENT, VIP, SYN);
    let outcome = director.arrive(0, &syn.bytes());
    let local = director.local_end();
    assert_eq!((local.ip().octets(), local.port() >= 1024), (LIP, true));
    let local = local.to_string();

    let to_server = |packet: crate::director::packets::Datagram| {
        Outcome::sent(1, packet.between(&local, SERVER).hop().link(INSIDE, server_mac(1)).bytes())
    };
    assert_eq!(outcome, to_server(syn));
    for (what, flags, payload) in
        [("ACK", ACK, 0), ("data", ACK, 1400), ("odd data", ACK, 3), ("FIN", FIN | ACK, 0), ("RST", RST, 0)]
    {
        let request = tcp(CLIENT, VIP, flags).payload(vec![7; payload]);
        assert_eq!(director.arrive(0, &request.bytes()), to_server(request), "client: {what}");
        let reply = tcp(SERVER, &local, flags).payload(vec![9; payload]).link(server_mac(1), INSIDE);
        let expected = reply.clone().between(VIP, CLIENT).hop().link(OUTSIDE, CLIENT_ROUTER).bytes();
        assert_eq!(director.arrive(1, &reply.bytes()), Outcome::sent(0, expected), "server: {what}");
    }
}

#[test]
fn udp_is_translated_both_ways() {
    let mut director = Director::serving(Method::FullNat);
    let query = udp(CLIENT, DNS_VIP);
    let outcome = director.arrive(0, &query.bytes());
    let local = director.local_end().to_string();
    let translated = query.between(&local, "10.0.2.1:53").hop().link(INSIDE, server_mac(1));
    assert_eq!(outcome, Outcome::sent(1, translated.bytes()));
    let answer = udp("10.0.2.1:53", &local).link(server_mac(1), INSIDE);
    let expected = answer.clone().between(DNS_VIP, CLIENT).hop().link(OUTSIDE, CLIENT_ROUTER).bytes();
    assert_eq!(director.arrive(1, &answer.bytes()), Outcome::sent(0, expected));
}

#[test]
fn what_comes_to_a_lip_without_a_connection_is_left_to_the_kernel() {
    let mut director = Director::serving(Method::FullNat);
    let stray = tcp(SERVER, "10.0.2.200:2000", ACK).link(server_mac(1), INSIDE).bytes();
    assert_eq!(director.arrive(1, &stray), Outcome::punted(1, stray));
}

#[test]
fn lips_take_turns() {
    let mut director = Director::new();
    let (http, _) = director.both_services();
    let lips: Vec<_> = [201, 202, 203].map(|last| Address::from_v4([10, 0, 2, last])).into();
    director.service(http).local_addresses = lips.clone();
    director.add_server(http, SERVER, Method::FullNat, 1);
    director.publish();
    for port in 40_000..40_006 {
        director.arrive(0, &tcp(&format!("198.51.100.7:{port}"), VIP, SYN).bytes());
    }
    let used: Vec<_> = director.list().iter().map(|record| record.local.expect("a local end").0).collect();
    assert_eq!(used, [lips.clone(), lips].concat());
}

#[test]
fn without_a_lip_connections_are_refused() {
    let mut director = Director::new();
    let (http, _) = director.both_services();
    director.service(http).local_addresses.clear();
    director.add_server(http, SERVER, Method::FullNat, 1);
    director.publish();
    let syn = tcp(CLIENT, VIP, SYN).bytes();
    assert_eq!(director.arrive(0, &syn), Outcome::dropped(DropReason::NoLocalPort));
    assert_eq!(director.list(), []);
}

/// Every port of the LIP is taken, the next is refused, and an expired
/// connection makes room for another.
#[test]
fn local_ports_run_out_and_come_back() {
    const PORTS: usize = 65_536 - 1024;
    let mut director = Director::with(1, PORTS + 10);
    let dns = director.add_service(Protocol::Udp, DNS_VIP);
    director.add_server(dns, "10.0.2.1:53", Method::FullNat, 1);
    director.publish();
    let client = |n: usize| format!("198.51.{}.{}:{}", n >> 8 & 0xff, n & 0xff, 1000 + (n >> 16));

    let mut ports = BTreeSet::new();
    for n in 0..PORTS {
        let Outcome { sent, .. } = director.arrive(0, &udp(&client(n), DNS_VIP).bytes());
        ports.insert([sent[0].1[34], sent[0].1[35]]);
    }
    assert_eq!(ports.len(), PORTS, "every port once");
    let another = udp("198.51.100.7:7", DNS_VIP).bytes();
    assert_eq!(director.arrive(0, &another), Outcome::dropped(DropReason::NoLocalPort));

    // Those that exist go on, and another server is another matter.
    let before = director.workers[0].connections();
    assert_eq!(director.arrive(0, &udp(&client(1), DNS_VIP).bytes()).sent.len(), 1);
    director.add_server(dns, "10.0.2.2:53", Method::FullNat, 1);
    director.publish();
    assert_eq!(director.arrive(0, &another).sent.len(), 1);
    assert_eq!(director.workers[0].connections(), before + 1);

    director.pass(301 * SECOND);
    while director.workers[0].connections() > 0 {
        director.settle();
    }
    let again: Vec<_> = (0..10).map(|n| director.arrive(0, &udp(&client(n), DNS_VIP).bytes())).collect();
    assert!(again.iter().all(|outcome| outcome.sent.len() == 1), "{again:?}");
}

/// A client that opens anew gets another port: the server may hold the old one
/// in TIME_WAIT.
#[test]
fn opening_anew_takes_another_port() {
    let mut director = Director::serving(Method::FullNat);
    director.arrive(0, &tcp(CLIENT, VIP, SYN).bytes());
    director.arrive(0, &tcp(CLIENT, VIP, ACK).bytes());
    let first = director.local_end();
    director.arrive(0, &tcp(CLIENT, VIP, RST).bytes());
    assert_eq!(director.only_connection().0, "CLOSE");
    director.arrive(0, &tcp(CLIENT, VIP, SYN).bytes());
    assert_eq!(director.only_connection().0, "SYN_RECV");
    let second = director.local_end();
    assert_ne!(first, second);
    // The old port is free again, and what still comes to it is nobody's.
    let late = tcp(SERVER, &first.to_string(), ACK).link(server_mac(1), INSIDE).bytes();
    assert_eq!(director.arrive(1, &late), Outcome::punted(1, late));
}
