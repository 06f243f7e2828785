//! Services of marks (`ipvsadm -f`). What is expected was recorded from IPVS
//! of Linux 6.1 with such rules of iptables.

use sluice_dataplane::conn::ConnectionRecord;
use sluice_dataplane::service::{
    ClientMask, Family, MarkRule, Method, Persistence, Protocol, ServerId, ServiceId,
};
use sluice_dataplane::stats::DropReason;

use crate::director::packets::{ACK, RST, SYN, sctp, tcp, udp};
use crate::director::packets_v6::tcp6;
use crate::director::{
    CLIENT, CLIENT_ROUTER, Director, INSIDE, LIP, OUTSIDE, Outcome, VIP, mark_rule, server_mac,
};

const WEB: [(u16, u16); 2] = [(80, 80), (443, 443)];

fn persistent() -> Option<Persistence> {
    Some(Persistence { timeout: 300, mask: ClientMask::HOST })
}

/// Mark 10 for ports 80 and 443 of 192.0.2.10, and a persistent service of it
/// with servers at 10.0.2.1 and on, which have this port.
fn director(workers: usize, servers: u8, server_port: u16, method: Method) -> (Director, ServiceId) {
    let mut director = Director::with(workers, 1000);
    director.mark_by(&[mark_rule("192.0.2.10/32", &WEB, 10)]);
    let service = director.add_mark(10, Family::V4);
    director.service(service).options.persistence = persistent();
    for last in 1..=servers {
        director.add_server(service, &format!("10.0.2.{last}:{server_port}"), method, 1);
    }
    director.publish();
    (director, service)
}

/// The last byte of the address of the server that gets a SYN; 0 for none.
fn open(director: &mut Director, queue: usize, client: &str, destination: &str) -> u8 {
    match director.arrive_at(queue, 0, &[&tcp(client, destination, SYN).bytes()]).sent.as_slice() {
        [(1, frame)] => frame[5],
        _ => 0,
    }
}

/// Protocol, client, service and server of all connections, templates first.
fn lines(director: &mut Director) -> Vec<String> {
    let line = |record: &ConnectionRecord| {
        let ConnectionRecord { client, service, server, .. } = record;
        let protocol = if record.any_protocol { "IP".into() } else { format!("{:?}", record.protocol) };
        let [client, service, server] = [client, service, server].map(|(a, port)| format!("{a}:{port}"));
        assert_eq!(record.mark, Some(10));
        format!("{protocol} {client} {service} {server}")
    };
    let mut lines: Vec<_> = director.list().iter().map(line).collect();
    lines.sort();
    lines
}

#[test]
fn ports_that_are_bound_by_a_mark_go_to_one_server() {
    let (mut director, service) = director(1, 3, 0, Method::Nat);
    director.mark_by(&[MarkRule { protocol: None, ..mark_rule("192.0.2.10/32", &[(53, 443)], 10) }]);
    director.publish();
    let served =
        [("10.0.1.1:20001", 80), ("10.0.1.1:20002", 443), ("10.0.1.2:20003", 80), ("10.0.1.3:20004", 443)]
            .map(|(client, port)| open(&mut director, 0, client, &format!("192.0.2.10:{port}")));
    assert_eq!(served, [3, 3, 2, 1]);
    let query = udp("10.0.1.1:20005", "192.0.2.10:53");
    let expected = query.clone().between("10.0.1.1:20005", "10.0.2.3:53").hop().link(INSIDE, server_mac(3));
    assert_eq!(director.arrive(0, &query.bytes()), Outcome::sent(1, expected.bytes()));
    assert_eq!(
        lines(&mut director),
        [
            "IP 10.0.1.1:0 0.0.0.10:0 10.0.2.3:0",
            "IP 10.0.1.2:0 0.0.0.10:0 10.0.2.2:0",
            "IP 10.0.1.3:0 0.0.0.10:0 10.0.2.1:0",
            "Tcp 10.0.1.1:20001 192.0.2.10:80 10.0.2.3:80",
            "Tcp 10.0.1.1:20002 192.0.2.10:443 10.0.2.3:443",
            "Tcp 10.0.1.2:20003 192.0.2.10:80 10.0.2.2:80",
            "Tcp 10.0.1.3:20004 192.0.2.10:443 10.0.2.1:443",
            "Udp 10.0.1.1:20005 192.0.2.10:53 10.0.2.3:53",
        ]
    );
    let persistent = (0..3).map(|id| director.server(ServerId(id)).counters.persistent());
    assert_eq!(persistent.collect::<Vec<_>>(), [1, 1, 1]);
    assert_eq!(director.service(service).counters.sum().connections, 5);
    let reply = tcp("10.0.2.3:443", "10.0.1.1:20002", SYN | ACK).link(server_mac(3), INSIDE);
    let expected = reply.clone().between("192.0.2.10:443", "10.0.1.1:20002").hop();
    let expected = expected.link(OUTSIDE, CLIENT_ROUTER).bytes();
    assert_eq!(director.arrive(1, &reply.bytes()), Outcome::sent(0, expected));
}

#[test]
fn a_persistent_mark_keeps_the_port_whatever_the_servers_is() {
    for method in [Method::Nat, Method::FullNat] {
        let (mut director, _) = director(1, 1, 8080, method);
        assert_eq!(open(&mut director, 0, CLIENT, VIP), 1);
        let ports: Vec<_> = director.list().iter().map(|record| record.server.1).collect();
        assert_eq!(ports, [0, 80], "{method:?}");
    }
}

#[test]
fn a_mark_without_persistence_goes_to_the_servers_port() {
    let (mut director, service) = director(1, 1, 8080, Method::Nat);
    director.service(service).options.persistence = None;
    director.add_server(service, "10.0.2.2:0", Method::Nat, 1);
    director.publish();
    for (client, port) in [("10.0.1.1:20021", 80), ("10.0.1.2:20022", 80), ("10.0.1.3:20023", 443)] {
        assert_ne!(open(&mut director, 0, client, &format!("192.0.2.10:{port}")), 0);
    }
    assert_eq!(
        lines(&mut director),
        [
            "Tcp 10.0.1.1:20021 192.0.2.10:80 10.0.2.2:80",
            "Tcp 10.0.1.2:20022 192.0.2.10:80 10.0.2.1:8080",
            "Tcp 10.0.1.3:20023 192.0.2.10:443 10.0.2.2:443",
        ]
    );
}

#[test]
fn direct_routing_and_tunnels_leave_the_port() {
    for (method, source) in [(Method::DirectRoute, 26), (Method::Tunnel, 46)] {
        let (mut director, service) = director(1, 1, 8080, method);
        for persistence in [persistent(), None] {
            director.service(service).options.persistence = persistence;
            director.publish();
            let client = if persistence.is_some() { "10.0.1.1:1000" } else { "10.0.1.2:1000" };
            let outcome = director.arrive(0, &tcp(client, "192.0.2.10:443", SYN).bytes());
            let (interface, frame) = &outcome.sent[0];
            assert_eq!((*interface, frame[5]), (1, 1), "{method:?}");
            // Addresses and ports of the client's packet.
            assert_eq!(frame[source..source + 2], [10, 0], "{method:?}");
            assert_eq!(frame[source + 10..source + 12], 443u16.to_be_bytes(), "{method:?}");
        }
    }
}

#[test]
fn fullnat_comes_from_the_services_local_address() {
    let (mut director, _) = director(1, 1, 0, Method::FullNat);
    let syn = tcp(CLIENT, "192.0.2.10:443", SYN);
    let outcome = director.arrive(0, &syn.bytes());
    let locals: Vec<_> = director.list().into_iter().filter_map(|record| record.local).collect();
    let [(lip, port)] = locals[..] else { panic!("{locals:?}") };
    assert_eq!(lip.v4(), Some(LIP));
    let local = format!("{lip}:{port}");
    let expected = syn.between(&local, "10.0.2.1:443").hop().link(INSIDE, server_mac(1)).bytes();
    assert_eq!(outcome, Outcome::sent(1, expected));
}

#[test]
fn a_mark_takes_sctp_where_its_servers_do() {
    for (method, forwarded) in [(Method::Nat, true), (Method::DirectRoute, true), (Method::FullNat, false)] {
        let (mut director, _) = director(1, 1, 0, method);
        director.mark_by(&[MarkRule { protocol: None, ..mark_rule("192.0.2.10/32", &[], 10) }]);
        director.publish();
        let init = sctp(CLIENT, "192.0.2.10:2905", &[1]).bytes();
        let outcome = director.arrive(0, &init);
        if forwarded {
            assert_eq!(outcome.sent.len(), 1, "{method:?}");
        } else {
            assert_eq!(outcome, Outcome::punted(0, init));
        }
    }
}

#[test]
fn a_mark_goes_before_an_address() {
    let (mut director, service) = director(1, 0, 0, Method::Nat);
    let http = director.add_service(Protocol::Tcp, VIP);
    director.add_server(http, "10.0.2.2:80", Method::Nat, 1);
    director.publish();
    // It has no server, and the client is told.
    let outcome = director.arrive(0, &tcp(CLIENT, VIP, SYN).bytes());
    assert_eq!((outcome.dropped, outcome.sent.len()), (vec![DropReason::NoServer], 1));
    assert_eq!(outcome.sent[0].1[34..36], [3, 3], "port unreachable");
    // A mark that no service has changes nothing.
    director.mark_by(&[mark_rule("192.0.2.10/32", &WEB, 11)]);
    director.publish();
    assert_eq!(open(&mut director, 0, CLIENT, VIP), 2);
    let _ = service;
}

#[test]
fn what_no_rule_marks_is_left_to_the_kernel() {
    let (mut director, _) = director(1, 1, 0, Method::Nat);
    for stray in [
        tcp(CLIENT, "192.0.2.10:22", SYN),
        tcp(CLIENT, "192.0.2.11:80", SYN),
        udp(CLIENT, "192.0.2.10:80"),
        tcp(CLIENT, VIP, ACK),
    ] {
        let stray = stray.bytes();
        assert_eq!(director.arrive(0, &stray), Outcome::punted(0, stray));
    }
}

#[test]
fn rules_are_about_sources_and_interfaces_too() {
    let (mut director, _) = director(1, 1, 0, Method::Nat);
    let rule = mark_rule("192.0.2.0/24", &[(8000, 8100)], 10);
    director.mark_by(&[
        MarkRule { source: Some("10.0.1.0/24".parse().unwrap()), interfaces: 0b01, ..rule.clone() },
        MarkRule { source: Some("10.0.1.9/32".parse().unwrap()), value: 0, ..rule },
    ]);
    director.publish();
    for (client, at, served) in [
        ("10.0.1.1:1000", "192.0.2.77:8000", true),
        ("10.0.1.1:1000", "192.0.2.78:8100", true),
        ("10.0.1.1:1000", "192.0.2.77:8101", false),
        ("10.0.2.1:1000", "192.0.2.77:8000", false),
        ("10.0.1.9:1000", "192.0.2.77:8000", false),
    ] {
        assert_eq!(open(&mut director, 0, client, at) != 0, served, "{client} {at}");
    }
    let inside = tcp("10.0.1.2:1000", "192.0.2.77:8000", SYN).link(server_mac(1), INSIDE).bytes();
    assert_eq!(director.arrive(1, &inside), Outcome::punted(1, inside));
}

/// Linux knows a connection's packets whatever they are marked.
#[test]
fn a_connection_outlives_the_rule_that_it_was_begun_by() {
    let (mut director, _) = director(1, 1, 0, Method::Nat);
    assert_eq!(open(&mut director, 0, CLIENT, VIP), 1);
    director.mark_by(&[]);
    director.publish();
    let data = tcp(CLIENT, VIP, ACK);
    let expected = data.clone().between(CLIENT, "10.0.2.1:80").hop().link(INSIDE, server_mac(1));
    assert_eq!(director.arrive(0, &data.bytes()), Outcome::sent(1, expected.bytes()));
    director.arrive(0, &tcp(CLIENT, VIP, RST).bytes());
    director.pass(11_000_000_000);
    let syn = tcp(CLIENT, VIP, SYN).bytes();
    assert_eq!(director.arrive(0, &syn), Outcome::punted(0, syn));
}

#[test]
fn families_have_marks_of_their_own() {
    let (mut director, _) = director(1, 1, 0, Method::Nat);
    director.mark_by(&[mark_rule("192.0.2.10/32", &WEB, 10), mark_rule("2001:db8:f::10/128", &WEB, 10)]);
    director.publish();
    let syn = tcp6("[2001:db8:1::1]:20041", "[2001:db8:f::10]:80", SYN);
    assert_eq!(director.arrive(0, &syn.bytes()), Outcome::punted(0, syn.bytes()));

    let service = director.add_mark(10, Family::V6);
    director.service(service).options.persistence = persistent();
    for last in 1..=3 {
        director.add_server(service, &format!("[2001:db8:2::{last}]:0"), Method::Nat, 1);
    }
    director.publish();
    for (client, port, server) in [("1]:20041", 80, 3), ("1]:20042", 443, 3), ("2]:20043", 443, 2)] {
        let (client, to) = (format!("[2001:db8:1::{client}"), format!("[2001:db8:2::{server}]:{port}"));
        let syn = tcp6(&client, &format!("[2001:db8:f::10]:{port}"), SYN);
        let expected = syn.clone().between(&client, &to).hop().link(INSIDE, server_mac(server)).bytes();
        assert_eq!(director.arrive(0, &syn.bytes()), Outcome::sent(1, expected));
    }
    assert_eq!(
        lines(&mut director)[..2],
        ["IP 2001:db8:1::1:0 0:a:::0 2001:db8:2::3:0", "IP 2001:db8:1::2:0 0:a:::0 2001:db8:2::2:0"]
    );
}

/// Whichever queues the packets of a client arrive on, and to whichever port.
#[test]
fn workers_agree_on_the_server_of_a_client() {
    for workers in [2, 3, 5] {
        let (mut director, service) = director(workers, 3, 0, Method::Nat);
        for client in 1..=20 {
            let served: Vec<_> = (0..2 * workers)
                .map(|n| {
                    let (client, port) = (format!("10.0.1.{client}:{}", 1000 + n), WEB[n % 2].0);
                    open(&mut director, n % workers, &client, &format!("192.0.2.10:{port}"))
                })
                .collect();
            assert!(served[0] != 0 && served.iter().all(|s| *s == served[0]), "{client}: {served:?}");
        }
        let templates = director.list().iter().filter(|record| record.any_protocol).count();
        assert_eq!(templates, 20);
        let connections = 20 * 2 * workers as u64;
        assert_eq!(director.service(service).counters.sum().connections, connections);
        assert_eq!(director.marks.connections(), [connections]);
    }
}
