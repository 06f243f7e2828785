//! NAT, both ways.

use sluice_dataplane::service::Method;

use crate::director::packets::{ACK, Datagram, FIN, SYN, UdpChecksum, tcp, udp};
use crate::director::{
    CLIENT, CLIENT_ROUTER, DNS_VIP, Director, INSIDE, OUTSIDE, Outcome, SERVER, VIP, server_mac,
};

/// What the server gets of a client's packet.
fn to_server(packet: Datagram, server: &str) -> Outcome {
    let client = packet.source.to_string();
    Outcome::sent(1, packet.between(&client, server).hop().link(INSIDE, server_mac(1)).bytes())
}

/// What the client gets of a server's packet.
fn to_client(packet: Datagram, vip: &str) -> Outcome {
    let client = packet.destination.to_string();
    Outcome::sent(0, packet.between(vip, &client).hop().link(OUTSIDE, CLIENT_ROUTER).bytes())
}

#[test]
fn a_tcp_conversation_is_translated_both_ways() {
    let mut director = Director::serving(Method::Nat);
    let request = |flags| tcp(CLIENT, VIP, flags);
    let reply = |flags| tcp(SERVER, CLIENT, flags).link(server_mac(1), INSIDE).ttl(63);
    for (what, interface, packet) in [
        ("SYN", 0, request(SYN).payload([])),
        ("SYN and ACK of the server", 1, reply(SYN | ACK).payload([])),
        ("ACK", 0, request(ACK).payload([])),
        ("request", 0, request(ACK)),
        ("request of odd length", 0, request(ACK).payload(*b"odd")),
        ("reply", 1, reply(ACK).payload(vec![0xab; 1460])),
        ("FIN of the server", 1, reply(FIN | ACK)),
        ("FIN of the client", 0, request(FIN | ACK)),
        ("last ACK", 1, reply(ACK).payload([])),
    ] {
        let expected = match interface {
            0 => to_server(packet.clone(), SERVER),
            _ => to_client(packet.clone(), VIP),
        };
        assert_eq!(director.arrive(interface, &packet.bytes()), expected, "{what}");
    }
    assert_eq!(director.only_connection(), ("TIME_WAIT", 120));
}

#[test]
fn udp_is_translated_both_ways() {
    let mut director = Director::serving(Method::Nat);
    let query = udp(CLIENT, DNS_VIP);
    assert_eq!(director.arrive(0, &query.bytes()), to_server(query, "10.0.2.1:53"));
    let answer = udp("10.0.2.1:53", CLIENT).link(server_mac(1), INSIDE);
    assert_eq!(director.arrive(1, &answer.bytes()), to_client(answer, DNS_VIP));
    assert_eq!(director.only_connection(), ("UDP", 300));
}

#[test]
fn a_udp_packet_without_checksum_is_sent_without() {
    let mut director = Director::serving(Method::Nat);
    let mut query = udp(CLIENT, DNS_VIP);
    query.udp_checksum = UdpChecksum::None;
    assert_eq!(director.arrive(0, &query.bytes()), to_server(query, "10.0.2.1:53"));
}

/// A sum that comes out as 0 would say "no checksum" (RFC 768).
#[test]
fn a_udp_checksum_that_comes_out_as_zero_is_sent_as_ones() {
    let checksum = |frame: &[u8]| u16::from_be_bytes([frame[40], frame[41]]);
    let mut seen = false;
    for filler in 0..=u16::MAX {
        let query = udp(CLIENT, DNS_VIP).payload(filler.to_be_bytes());
        let translated =
            query.clone().between(CLIENT, "10.0.2.1:53").hop().link(INSIDE, server_mac(1)).bytes();
        if checksum(&translated) != 0xffff {
            continue;
        }
        seen = true;
        let mut director = Director::serving(Method::Nat);
        assert_eq!(director.arrive(0, &query.bytes()), Outcome::sent(1, translated), "{filler:#06x}");
    }
    assert!(seen, "one of 65 536 payloads makes every sum");
}

#[test]
fn a_server_of_a_service_of_all_ports_gets_the_port_of_the_packet() {
    let mut director = Director::new();
    let service = director.add_service(sluice_dataplane::service::Protocol::Tcp, "192.0.2.10:0");
    director.add_server(service, "10.0.2.1:0", Method::Nat, 1);
    director.publish();
    for port in [1, 80, 65535] {
        let syn = tcp(CLIENT, &format!("192.0.2.10:{port}"), SYN);
        assert_eq!(director.arrive(0, &syn.bytes()), to_server(syn, &format!("10.0.2.1:{port}")));
    }
}

#[test]
fn a_service_of_one_port_goes_before_one_of_all() {
    let mut director = Director::new();
    let tcp_protocol = sluice_dataplane::service::Protocol::Tcp;
    let all = director.add_service(tcp_protocol, "192.0.2.10:0");
    director.add_server(all, "10.0.2.2:0", Method::Nat, 1);
    let one = director.add_service(tcp_protocol, VIP);
    director.add_server(one, SERVER, Method::Nat, 1);
    director.publish();
    let syn = tcp(CLIENT, VIP, SYN);
    assert_eq!(director.arrive(0, &syn.bytes()), to_server(syn, SERVER));
}

#[test]
fn a_server_port_may_differ_from_the_service_port() {
    let mut director = Director::new();
    let service = director.add_service(sluice_dataplane::service::Protocol::Tcp, VIP);
    director.add_server(service, "10.0.2.1:8080", Method::Nat, 1);
    director.publish();
    let syn = tcp(CLIENT, VIP, SYN);
    assert_eq!(director.arrive(0, &syn.bytes()), to_server(syn, "10.0.2.1:8080"));
    let reply = tcp("10.0.2.1:8080", CLIENT, SYN | ACK).link(server_mac(1), INSIDE);
    assert_eq!(director.arrive(1, &reply.bytes()), to_client(reply, VIP));
    // From another port it is no reply, and the kernel's.
    let other = tcp(SERVER, CLIENT, ACK).link(server_mac(1), INSIDE).bytes();
    assert_eq!(director.arrive(1, &other), Outcome::punted(1, other));
}
