//! Persistence (`ipvsadm -p`). What is expected was recorded from IPVS of
//! Linux 6.1: rr, NAT servers rs1 to rs3 added in turn.

use sluice_dataplane::conn::ConnectionRecord;
use sluice_dataplane::service::{ClientMask, Method, Persistence, Protocol, ServerId, ServiceId};
use sluice_dataplane::stats::DropReason;

use crate::director::packets::{ACK, RST, SYN, tcp, udp};
use crate::director::{Director, INSIDE, Outcome, SECOND, server_mac};

const HOST: [u8; 4] = [255; 4];

fn persistent(timeout: u32, mask: [u8; 4]) -> Option<Persistence> {
    Some(Persistence { timeout, mask: ClientMask::v4(mask) })
}

/// A persistent service at 192.0.2.10:`port` with servers at 10.0.2.1 and on.
fn director(
    workers: usize,
    port: u16,
    server_port: u16,
    servers: u8,
    timeout: u32,
    mask: [u8; 4],
) -> Director {
    let mut director = Director::with(workers, 100);
    serve(&mut director, port, server_port, servers, timeout, mask);
    director
}

fn serve(director: &mut Director, port: u16, server_port: u16, servers: u8, timeout: u32, mask: [u8; 4]) {
    let id = director.add_service(Protocol::Tcp, &format!("192.0.2.10:{port}"));
    if timeout > 0 {
        director.service(id).options.persistence = persistent(timeout, mask);
    }
    for last in 1..=servers {
        director.add_server(id, &format!("10.0.2.{last}:{server_port}"), Method::Nat, 1);
    }
    director.publish();
}

/// The last byte of the address of the server that gets a SYN, which arrives
/// at worker `queue`; 0 for none.
fn open_at(director: &mut Director, queue: usize, client: u8, source_port: u16, port: u16) -> u8 {
    let syn = tcp(&format!("198.51.100.{client}:{source_port}"), &format!("192.0.2.10:{port}"), SYN);
    match director.arrive_at(queue, 0, &[&syn.bytes()]).sent.as_slice() {
        [(1, frame)] => frame[5],
        _ => 0,
    }
}

/// Opens connections from client ports that were not used before, at the first
/// worker.
fn order(director: &mut Director, opened: &mut u16, clients: &[(u8, u16)]) -> Vec<u8> {
    let open = |(client, port): &(u8, u16)| {
        *opened += 1;
        open_at(director, 0, *client, 1000 + *opened, *port)
    };
    clients.iter().map(open).collect()
}

type Line = (String, String, String, &'static str, u32);

/// Templates in the columns of `ipvsadm -Lnc`: client, service, server, state
/// and seconds.
fn templates(director: &mut Director) -> Vec<Line> {
    let text = |(address, port): (sluice_dataplane::wire::Address, u16)| format!("{address}:{port}");
    let is_template = |record: &ConnectionRecord| record.client.1 == 0;
    let all = director.list();
    let all = all.iter().filter(|record| is_template(record));
    all.map(|r| (text(r.client), text(r.service), text(r.server), r.state, r.expires)).collect()
}

/// The same without the seconds, as one line each.
fn template_lines(director: &mut Director) -> Vec<String> {
    let line = |(client, service, server, ..): Line| format!("{client} {service} {server}");
    let mut lines: Vec<_> = templates(director).into_iter().map(line).collect();
    lines.sort();
    lines
}

fn persist_conn(director: &mut Director, servers: u32) -> Vec<u64> {
    (0..servers).map(|id| director.server(ServerId(id)).counters.persistent()).collect()
}

#[test]
fn a_client_keeps_to_its_server() {
    let mut director = director(1, 80, 80, 3, 100, HOST);
    let clients = [1, 1, 1, 2, 3, 3, 4].map(|client| (client, 80));
    assert_eq!(order(&mut director, &mut 0, &clients), [3, 3, 3, 2, 1, 1, 3]);
    assert_eq!(persist_conn(&mut director, 3), [1, 1, 2]);
    let counted = |director: &mut Director| {
        let counters = director.server(ServerId(2)).counters.clone();
        (counters.traffic().connections, counters.active(), counters.inactive())
    };
    assert_eq!(counted(&mut director), (4, 4, 0), "templates count as no connections");
}

#[test]
fn a_template_is_assured_by_an_established_connection() {
    let mut director = director(1, 80, 80, 2, 100, HOST);
    assert_eq!(open_at(&mut director, 0, 1, 1000, 80), 2);
    let line = |state, expires| {
        ("198.51.100.1:0".into(), "192.0.2.10:80".into(), "10.0.2.2:80".into(), state, expires)
    };
    assert_eq!(templates(&mut director), [line("NONE", 100)]);
    director.arrive(0, &tcp("198.51.100.1:1000", "192.0.2.10:80", ACK).bytes());
    director.pass(SECOND);
    assert_eq!(templates(&mut director), [line("ASSURED", 99)]);
}

/// UDP is assured by a reply.
#[test]
fn a_template_of_udp_is_assured_by_a_reply() {
    let mut director = Director::new();
    let id = director.add_service(Protocol::Udp, "192.0.2.10:53");
    director.service(id).options.persistence = persistent(100, HOST);
    director.add_server(id, "10.0.2.1:53", Method::Nat, 1);
    director.publish();
    director.arrive(0, &udp("198.51.100.1:1000", "192.0.2.10:53").bytes());
    assert_eq!(templates(&mut director)[0].3, "NONE");
    let reply = udp("10.0.2.1:53", "198.51.100.1:1000").link(server_mac(1), INSIDE);
    assert_eq!(director.arrive(1, &reply.bytes()).sent.len(), 1);
    assert_eq!(templates(&mut director)[0].3, "ASSURED");
}

#[test]
fn a_network_is_one_client_until_the_server_quiesces() {
    let mut director = director(1, 80, 8080, 3, 100, [255, 255, 255, 192]);
    let (mut opened, clients) = (0, [1, 2, 64, 3].map(|client| (client, 80)));
    assert_eq!(order(&mut director, &mut opened, &clients), [3, 3, 2, 3]);
    assert_eq!(
        template_lines(&mut director),
        ["198.51.100.0:0 192.0.2.10:80 10.0.2.3:8080", "198.51.100.64:0 192.0.2.10:80 10.0.2.2:8080"]
    );

    director.server(ServerId(2)).weight = 0;
    director.publish();
    assert_eq!(order(&mut director, &mut opened, &clients), [3, 3, 2, 3], "weight 0 keeps the template");

    director.tunables.expire_quiescent_template = true;
    director.publish();
    assert_eq!(order(&mut director, &mut opened, &clients), [1, 1, 2, 1]);
    assert_eq!(
        template_lines(&mut director),
        [
            "198.51.100.0:0 192.0.2.10:65535 10.0.2.3:65535",
            "198.51.100.0:0 192.0.2.10:80 10.0.2.1:8080",
            "198.51.100.64:0 192.0.2.10:80 10.0.2.2:8080",
        ]
    );
    assert_eq!(persist_conn(&mut director, 3), [1, 1, 1]);
}

#[test]
fn a_removed_servers_template_gives_way_to_another() {
    let mut director = director(1, 80, 80, 3, 100, HOST);
    let mut opened = 0;
    assert_eq!(order(&mut director, &mut opened, &[(1, 80), (2, 80)]), [3, 2]);
    director.remove_server(ServerId(2));
    director.publish();
    assert_eq!(order(&mut director, &mut opened, &[(1, 80), (2, 80)]), [1, 2]);
    assert_eq!(
        template_lines(&mut director),
        [
            "198.51.100.1:0 192.0.2.10:65535 10.0.2.3:65535",
            "198.51.100.1:0 192.0.2.10:80 10.0.2.1:80",
            "198.51.100.2:0 192.0.2.10:80 10.0.2.2:80",
        ]
    );
    // Added again, it does not get its client back.
    director.server(ServerId(2)).available = true;
    director.service(ServiceId(0)).servers.insert(0, ServerId(2));
    director.publish();
    assert_eq!(persist_conn(&mut director, 3), [1, 1, 1]);
    assert_eq!(order(&mut director, &mut opened, &[(1, 80), (2, 80), (5, 80)]), [1, 2, 3]);
    assert_eq!(persist_conn(&mut director, 3), [1, 1, 2]);
}

#[test]
fn all_ports_of_a_vip_go_to_one_server() {
    for server_port in [0, 8080] {
        let mut director = director(1, 0, server_port, 3, 100, HOST);
        let clients = [(1, 80), (1, 443), (2, 443), (2, 80), (3, 8080)];
        assert_eq!(order(&mut director, &mut 0, &clients), [3, 3, 2, 2, 1]);
        assert_eq!(
            template_lines(&mut director),
            [
                "198.51.100.1:0 192.0.2.10:0 10.0.2.3:0",
                "198.51.100.2:0 192.0.2.10:0 10.0.2.2:0",
                "198.51.100.3:0 192.0.2.10:0 10.0.2.1:0",
            ]
        );
        // The ports are kept, whatever port the server has.
        assert!(director.list().iter().all(|r| r.server.1 == r.service.1), "{server_port}");
        let reply = tcp("10.0.2.3:443", "198.51.100.1:1002", SYN | ACK).link(server_mac(3), INSIDE);
        assert_eq!(director.arrive(1, &reply.bytes()).sent.len(), 1);
    }
}

#[test]
fn a_port_of_its_own_goes_before_all_ports() {
    let mut director = director(1, 0, 0, 3, 100, HOST);
    serve(&mut director, 80, 80, 3, 0, HOST);
    let clients = [80, 80, 443, 8080, 443].map(|port| (1, port));
    assert_eq!(order(&mut director, &mut 0, &clients), [3, 2, 3, 3, 3]);
}

/// An FTP client's data connections have other ports than its control
/// connection.
#[test]
fn a_template_of_ftp_has_no_port() {
    let mut director = director(1, 21, 21, 2, 100, HOST);
    open_at(&mut director, 0, 1, 1000, 21);
    assert_eq!(template_lines(&mut director), ["198.51.100.1:0 192.0.2.10:0 10.0.2.2:0"]);
}

#[test]
fn a_template_lives_on_with_its_connections() {
    let mut director = director(1, 80, 80, 2, 30, HOST);
    let establish = |director: &mut Director, port: u16| {
        assert_eq!(open_at(director, 0, 1, port, 80), 2);
        director.arrive(0, &tcp(&format!("198.51.100.1:{port}"), "192.0.2.10:80", ACK).bytes());
    };
    let reset = |director: &mut Director, port: u16| {
        director.arrive(0, &tcp(&format!("198.51.100.1:{port}"), "192.0.2.10:80", RST).bytes());
    };
    let left = |director: &mut Director| -> Vec<u32> {
        templates(director).into_iter().map(|(.., expires)| expires).collect()
    };
    establish(&mut director, 25000);
    assert_eq!(left(&mut director), [30]);
    director.pass(20 * SECOND);
    establish(&mut director, 25001);
    assert_eq!(left(&mut director), [30], "a new connection renews it");
    reset(&mut director, 25001);
    director.pass(15 * SECOND);
    assert_eq!(left(&mut director), [15], "packets do not");
    director.pass(16 * SECOND);
    assert_eq!(left(&mut director), [60], "it has a connection and goes on for a minute");
    director.pass(9 * SECOND);
    establish(&mut director, 25002);
    assert_eq!(left(&mut director), [60], "its time is a minute from then on");
    reset(&mut director, 25002);
    reset(&mut director, 25000);
    director.pass(55 * SECOND);
    assert_eq!(left(&mut director), [5]);
    director.pass(6 * SECOND);
    assert_eq!(left(&mut director), []);
    assert_eq!(persist_conn(&mut director, 2), [0, 0]);
}

#[test]
fn datagrams_of_one_packet_scheduling_keep_to_their_server() {
    let mut director = Director::new();
    let id = director.add_service(Protocol::Udp, "192.0.2.10:53");
    director.service(id).options.persistence = persistent(100, HOST);
    director.service(id).options.one_packet = true;
    (1..=3).for_each(|last| _ = director.add_server(id, &format!("10.0.2.{last}:53"), Method::Nat, 1));
    director.publish();
    let mut order = Vec::new();
    for client in [1, 1, 2, 2] {
        let datagram = udp(&format!("198.51.100.{client}:31000"), "192.0.2.10:53").bytes();
        order.push(director.arrive(0, &datagram).sent[0].1[5]);
    }
    assert_eq!(order, [3, 3, 2, 2]);
    assert_eq!(director.list().len(), 2, "nothing but the templates");
    assert_eq!(persist_conn(&mut director, 3), [0, 1, 1]);
}

/// A connection that is over and was made by a template is used again.
#[test]
fn a_syn_on_a_connection_that_is_over_goes_on_with_it() {
    let mut director = director(1, 80, 80, 2, 100, HOST);
    assert_eq!(open_at(&mut director, 0, 1, 25000, 80), 2);
    director.arrive(0, &tcp("198.51.100.1:25000", "192.0.2.10:80", RST).bytes());
    assert_eq!(open_at(&mut director, 0, 1, 25000, 80), 2);
    assert_eq!(director.server(ServerId(1)).counters.traffic().connections, 1);
}

#[test]
fn without_a_server_there_is_no_template() {
    let mut director = director(1, 80, 80, 1, 100, HOST);
    director.server(ServerId(0)).weight = 0;
    director.publish();
    let syn = tcp("198.51.100.1:1000", "192.0.2.10:80", SYN).bytes();
    assert_eq!(director.arrive(0, &syn).dropped, [DropReason::NoServer]);
    assert_eq!(director.list(), []);
}

#[test]
fn an_edited_service_finds_its_templates_again() {
    let mut director = director(1, 80, 80, 2, 100, HOST);
    let mut opened = 0;
    let mut set = |director: &mut Director, persistence| {
        director.service(ServiceId(0)).options.persistence = persistence;
        director.publish();
        order(director, &mut opened, &[(1, 80), (1, 80)])
    };
    assert_eq!(set(&mut director, persistent(100, HOST)), [2, 2]);
    assert_eq!(set(&mut director, None), [1, 2]);
    assert_eq!(set(&mut director, persistent(50, HOST)), [2, 2]);
    assert_eq!(templates(&mut director)[0].4, 100, "it keeps the time that it was made with");
    assert_eq!(set(&mut director, persistent(50, [255, 255, 255, 0])), [1, 1]);
    let left: Vec<_> = templates(&mut director).into_iter().map(|t| (t.0, t.4)).collect();
    assert_eq!(left, [("198.51.100.0:0".into(), 50), ("198.51.100.1:0".into(), 100)]);
}

/// Whichever queue a client's packets arrive on, there is one template for it
/// and one worker that has all its connections.
#[test]
fn workers_agree_on_a_clients_server() {
    for workers in [2, 3, 5] {
        let mut director = director(workers, 0, 0, 3, 100, HOST);
        for client in 1..=20 {
            let servers: Vec<_> = (0..workers)
                .map(|queue| open_at(&mut director, queue, client, 1000 + queue as u16, 80 + queue as u16))
                .collect();
            assert!(servers[0] != 0 && servers.iter().all(|s| *s == servers[0]), "{client}: {servers:?}");
            for queue in 0..workers {
                let ack = tcp(&format!("198.51.100.{client}:1000"), "192.0.2.10:80", ACK);
                let sent = director.arrive_at(queue, 0, &[&ack.bytes()]).sent;
                assert_eq!(sent.iter().map(|(_, frame)| frame[5]).collect::<Vec<_>>(), [servers[0]]);
            }
        }
        assert_eq!(templates(&mut director).len(), 20);
        assert_eq!(persist_conn(&mut director, 3).iter().sum::<u64>(), 20);
        let busy = director.workers.iter().filter(|worker| worker.connections() > 0).count();
        assert!(busy > 1, "the work is shared");
    }
}

/// A packet that begins nothing has been at every worker before it is left to
/// the kernel, wherever the keeper of its client's template is.
#[test]
fn strays_are_punted_once() {
    for workers in [1, 2, 3, 5] {
        for client in 1..=8 {
            for queue in 0..workers {
                let mut director = director(workers, 80, 80, 3, 100, HOST);
                let stray = tcp(&format!("198.51.100.{client}:1000"), "192.0.2.10:80", ACK).bytes();
                let outcome = director.arrive_at(queue, 0, &[&stray]);
                assert_eq!(outcome, Outcome::punted(0, stray), "client {client} at {queue} of {workers}");
            }
        }
    }
}

/// Connections from before the service was persistent are found where they
/// are.
#[test]
fn a_service_may_become_persistent() {
    for workers in [2, 3, 5] {
        for owner in 0..workers {
            for queue in 0..workers {
                let mut director = director(workers, 80, 80, 2, 0, HOST);
                let server = open_at(&mut director, owner, 1, 1000, 80);
                director.service(ServiceId(0)).options.persistence = persistent(100, HOST);
                director.publish();
                let ack = tcp("198.51.100.1:1000", "192.0.2.10:80", ACK).bytes();
                let sent = director.arrive_at(queue, 0, &[&ack]).sent;
                assert_eq!(sent.iter().map(|(_, f)| f[5]).collect::<Vec<_>>(), [server], "{owner} {queue}");
            }
        }
    }
}

#[test]
fn templates_are_limited() {
    let mut director = Director::with(1, 10);
    let id = director.add_service(Protocol::Udp, "192.0.2.10:53");
    director.service(id).options.persistence = persistent(100, HOST);
    director.service(id).options.one_packet = true;
    director.add_server(id, "10.0.2.1:53", Method::Nat, 1);
    director.publish();
    let mut arrive =
        |client: u8| director.arrive(0, &udp(&format!("198.51.100.{client}:31000"), "192.0.2.10:53").bytes());
    (1..=10).for_each(|client| assert_eq!(arrive(client).sent.len(), 1));
    assert_eq!(arrive(11), Outcome::dropped(DropReason::TableFull));
    assert_eq!(arrive(10).sent.len(), 1);
    director.pass(101 * SECOND);
    assert_eq!(director.list(), []);
}
