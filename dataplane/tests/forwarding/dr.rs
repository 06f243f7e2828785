//! Direct routing: nothing changes but the stations and the TTL.

use sluice_dataplane::service::Method;

use crate::director::packets::{ACK, FIN, RST, SYN, tcp, udp};
use crate::director::{CLIENT, DNS_VIP, Director, INSIDE, Outcome, SERVER, VIP, server_mac};

#[test]
fn packets_go_to_the_server_as_they_are() {
    let mut director = Director::serving(Method::DirectRoute);
    for (what, packet) in [
        ("SYN", tcp(CLIENT, VIP, SYN).payload([])),
        ("ACK", tcp(CLIENT, VIP, ACK)),
        ("FIN", tcp(CLIENT, VIP, FIN | ACK)),
        ("UDP", udp(CLIENT, DNS_VIP)),
        ("TTL 255", tcp(CLIENT, VIP, ACK).ttl(255)),
        ("TTL 2", tcp(CLIENT, VIP, ACK).ttl(2)),
        ("full size", tcp(CLIENT, VIP, ACK).length(1500)),
    ] {
        let expected = packet.clone().hop().link(INSIDE, server_mac(1)).bytes();
        assert_eq!(director.arrive(0, &packet.bytes()), Outcome::sent(1, expected), "{what}");
    }
}

/// The director sees the client only (`IP_VS_CONN_F_NOOUTPUT`).
#[test]
fn states_follow_the_client_alone() {
    let mut director = Director::serving(Method::DirectRoute);
    for (flags, state) in [
        (SYN, ("SYN_RECV", 60)),
        (ACK, ("ESTABLISHED", 900)),
        (FIN | ACK, ("FIN_WAIT", 120)),
        (ACK, ("FIN_WAIT", 120)),
        (RST, ("CLOSE", 10)),
    ] {
        director.arrive(0, &tcp(CLIENT, VIP, flags).bytes());
        assert_eq!(director.only_connection(), state, "after {flags:#04x}");
    }
}

#[test]
fn a_reply_that_comes_by_nevertheless_is_left_to_the_kernel() {
    let mut director = Director::serving(Method::DirectRoute);
    director.arrive(0, &tcp(CLIENT, VIP, SYN).bytes());
    for source in [SERVER, VIP] {
        let reply = tcp(source, CLIENT, SYN | ACK).link(server_mac(1), INSIDE).bytes();
        assert_eq!(director.arrive(1, &reply), Outcome::punted(1, reply), "from {source}");
    }
}
