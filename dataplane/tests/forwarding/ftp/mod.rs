//! FTP: what is announced on a control connection, and the data connections
//! that follow.

mod control;
mod streams;
mod talk;

use sluice_dataplane::ftp::MOST_EXPECTED;
use sluice_dataplane::service::{ClientMask, Family, Method, Persistence, Protocol};
use sluice_dataplane::stats::DropReason;
use sluice_dataplane::wire::Address;

use crate::director::packets::{ACK, FIN, RST, SYN};
use crate::director::{Director, Outcome, SECOND, mark_rule};
use talk::{CLIENT, CLIENT6, SERVER, SERVER6, Segment, Talk, VIP, VIP6};

const PASSIVE: &str = "227 Entering Passive Mode (10,0,2,1,195,80).\r\n";

fn owned(
    state: &'static str,
    client: &str,
    vip: &str,
    server: &str,
) -> (&'static str, String, String, String) {
    (state, client.to_owned(), vip.to_owned(), server.to_owned())
}

/// The client opens a connection, which the server answers. Returns what the
/// server saw it come from.
fn opened_by_client(talk: &mut Talk, client: &str, at: &str, server: &str) -> String {
    let syn = Segment::bare(client, at, SYN);
    let outcome = talk.client_sends(&syn);
    let seen = Segment::only(&outcome, 1);
    assert_eq!(seen.destination.to_string(), server);
    let source = seen.source.to_string();
    let answer = Segment::bare(server, &source, SYN | ACK);
    let outcome = talk.server_sends(&answer);
    let seen = Segment::only(&outcome, 0);
    assert_eq!((seen.source.to_string(), seen.destination.to_string()), (at.to_owned(), client.to_owned()));
    let ack = Segment::only(&talk.client_sends(&Segment::bare(client, at, ACK)), 1);
    assert_eq!((ack.source.to_string(), ack.destination.to_string()), (source.clone(), server.to_owned()));
    source
}

/// The server opens a connection, which the client answers. Returns what the
/// client saw it come from.
fn opened_by_server(talk: &mut Talk, server: &str, at: &str, client: &str) -> String {
    let outcome = talk.server_sends(&Segment::bare(server, at, SYN));
    let seen = Segment::only(&outcome, 0);
    assert_eq!(seen.destination.to_string(), client);
    let source = seen.source.to_string();
    let outcome = talk.client_sends(&Segment::bare(client, &source, SYN | ACK));
    let answer = Segment::only(&outcome, 1);
    assert_eq!(
        (answer.source.to_string(), answer.destination.to_string()),
        (at.to_owned(), server.to_owned())
    );
    Segment::only(&talk.server_sends(&Segment::bare(server, at, ACK)), 0);
    source
}

#[test]
fn passive_by_nat() {
    let mut talk = Talk::open(Method::Nat);
    assert_eq!(talk.client_says("PASV\r\n"), "PASV\r\n");
    assert_eq!(talk.server_says(PASSIVE), "227 Entering Passive Mode (192,0,2,10,195,80).\r\n");
    let expected = owned("LISTEN", "198.51.100.7:0", "192.0.2.10:50000", "10.0.2.1:50000");
    assert_eq!(talk.data(), [expected]);
    let source = opened_by_client(&mut talk, "198.51.100.7:40001", "192.0.2.10:50000", "10.0.2.1:50000");
    assert_eq!(source, "198.51.100.7:40001");
    let come = owned("ESTABLISHED", "198.51.100.7:40001", "192.0.2.10:50000", "10.0.2.1:50000");
    assert_eq!(talk.data(), [come]);
    // What follows has other numbers than the server gave it.
    talk.server_says("150 Here comes the directory listing.\r\n");
    talk.server_says("226 Directory send OK.\r\n");
    talk.client_says("PASV\r\n");
    talk.server_says(PASSIVE);
    talk.server_says("226 Directory send OK.\r\n");
    talk.client_says("QUIT\r\n");
}

#[test]
fn passive_by_fullnat() {
    let mut talk = Talk::open(Method::FullNat);
    talk.client_says("PASV\r\n");
    assert_eq!(talk.server_says(PASSIVE), "227 Entering Passive Mode (192,0,2,10,195,80).\r\n");
    let source = opened_by_client(&mut talk, "198.51.100.7:40001", "192.0.2.10:50000", "10.0.2.1:50000");
    assert!(source.starts_with("10.0.2.200:"), "{source}");
    assert_ne!(source, talk.server.peer.to_string());
}

/// Servers in the know say the VIP, or nothing at all.
#[test]
fn passive_replies_that_stay() {
    for reply in [
        "227 Entering Passive Mode (192,0,2,10,195,80).\r\n",
        "229 Entering Extended Passive Mode (|||50000|)\r\n",
    ] {
        let mut talk = Talk::open(Method::Nat);
        talk.client_says(if reply.starts_with("227") { "PASV\r\n" } else { "EPSV\r\n" });
        assert_eq!(talk.server_says(reply), reply);
        opened_by_client(&mut talk, "198.51.100.7:40001", "192.0.2.10:50000", "10.0.2.1:50000");
    }
    let mut talk = Talk::open(Method::Nat);
    talk.client_says("epsv 1\r\n");
    let said = talk.server_says("229 ok (|1|10.0.2.1|50000|)\r\n");
    assert_eq!(said, "229 ok (|||50000|)\r\n");
}

#[test]
fn active_by_nat() {
    for port in [20, 20020] {
        let mut talk = Talk::open(Method::Nat);
        let command = "PORT 198,51,100,7,156,65\r\n";
        assert_eq!(talk.client_says(command), command);
        let expected = owned("LISTEN", "198.51.100.7:40001", "192.0.2.10:20", "10.0.2.1:20");
        assert_eq!(talk.data(), [expected]);
        // The client cannot open it.
        let stray = Segment::bare("198.51.100.7:40001", "192.0.2.10:20", SYN).frame(true);
        assert_eq!(talk.director.arrive(0, &stray), Outcome::punted(0, stray));
        let server = format!("10.0.2.1:{port}");
        let source = opened_by_server(&mut talk, &server, "198.51.100.7:40001", "198.51.100.7:40001");
        assert_eq!(source, "192.0.2.10:20");
        let come = owned("ESTABLISHED", "198.51.100.7:40001", "192.0.2.10:20", &server);
        assert_eq!(talk.data(), [come]);
    }
}

#[test]
fn active_by_fullnat() {
    for command in ["PORT 198,51,100,7,156,65\r\n", "EPRT |1|198.51.100.7|40001|\r\n"] {
        let mut talk = Talk::open(Method::FullNat);
        let said = talk.client_says(command);
        let local = announced(&said);
        assert!(local.starts_with("10.0.2.200:"), "{local}");
        assert_eq!(said[..4], command[..4]);
        let source = opened_by_server(&mut talk, "10.0.2.1:20", &local, "198.51.100.7:40001");
        assert_eq!(source, "192.0.2.10:20");
        talk.server_says("200 PORT command successful. Consider using PASV.\r\n");
        talk.client_says("LIST\r\n");
        // Another one has another port.
        let again = announced(&talk.client_says(command));
        assert_ne!(again, local);
        opened_by_server(&mut talk, "10.0.2.1:20", &again, "198.51.100.7:40001");
        assert_eq!(talk.data().len(), 1, "the client's port tells it from no other");
    }
}

/// The address and port of a `PORT` or `EPRT` command.
fn announced(line: &str) -> String {
    use sluice_dataplane::ftp::command::Command;
    match Command::parse(line.trim_end().as_bytes()) {
        Some(Command::Port { address, port }) => std::net::SocketAddr::new(address.into(), port).to_string(),
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn over_ipv6() {
    for method in [Method::Nat, Method::FullNat] {
        let mut talk = Talk::open_in(Director::new(), (CLIENT6, VIP6, SERVER6), method);
        talk.client_says("EPSV\r\n");
        let reply = "229 Entering Extended Passive Mode (|||50000|)\r\n";
        assert_eq!(talk.server_says(reply), reply);
        let (client, server) = ("[2001:db8:c::7]:40001", "[2001:db8:2::1]:50000");
        opened_by_client(&mut talk, client, "[2001:db8:f::10]:50000", server);

        let said = talk.client_says("EPRT |2|2001:db8:c::7|40002|\r\n");
        let at = announced(&said);
        let expected = if method == Method::Nat { "[2001:db8:c::7]:40002" } else { "[2001:db8:2::200]:" };
        assert!(at.starts_with(expected), "{at}");
        let source = opened_by_server(&mut talk, "[2001:db8:2::1]:20", &at, "[2001:db8:c::7]:40002");
        assert_eq!(source, "[2001:db8:f::10]:20");
        talk.server_says("200 EPRT command successful.\r\n");
    }
}

#[test]
fn from_ipv6_to_ipv4() {
    let mut talk = Talk::open_in(Director::new(), (CLIENT6, VIP6, SERVER), Method::FullNat);
    assert_eq!(talk.client_says("EPSV 2\r\n"), "EPSV 1\r\n");
    let reply = "229 Entering Extended Passive Mode (|||50000|)\r\n";
    assert_eq!(talk.server_says(reply), reply);
    opened_by_client(&mut talk, "[2001:db8:c::7]:40001", "[2001:db8:f::10]:50000", "10.0.2.1:50000");
    let said = talk.client_says("EPRT |2|2001:db8:c::7|40002|\r\n");
    assert!(said.starts_with("EPRT |1|10.0.2.200|"), "{said}");
    opened_by_server(&mut talk, "10.0.2.1:20", &announced(&said), "[2001:db8:c::7]:40002");
    talk.server_says("200 ok\r\n");
}

#[test]
fn from_ipv4_to_ipv6() {
    let mut talk = Talk::open_in(Director::new(), (CLIENT, VIP, SERVER6), Method::FullNat);
    assert_eq!(talk.client_says("PASV\r\n"), "EPSV\r\n");
    let said = talk.server_says("229 Entering Extended Passive Mode (|||50000|)\r\n");
    assert_eq!(said, "227 Entering Passive Mode (192,0,2,10,195,80).\r\n");
    opened_by_client(&mut talk, "198.51.100.7:40001", "192.0.2.10:50000", "[2001:db8:2::1]:50000");
    assert_eq!(talk.client_says("EPSV 1\r\n"), "EPSV 2\r\n");
    talk.server_says("229 Entering Extended Passive Mode (|||50001|)\r\n");
    opened_by_client(&mut talk, "198.51.100.7:40002", "192.0.2.10:50001", "[2001:db8:2::1]:50001");
    let said = talk.client_says("PORT 198,51,100,7,156,67\r\n");
    assert!(said.starts_with("EPRT |2|2001:db8:2::200|"), "{said}");
    opened_by_server(&mut talk, "[2001:db8:2::1]:20", &announced(&said), "198.51.100.7:40003");
    talk.server_says("200 ok\r\n");
}

/// Nobody is made to connect to a third host, and none is let in to one.
#[test]
fn other_addresses_open_nothing() {
    for method in [Method::Nat, Method::FullNat] {
        let mut talk = Talk::open(method);
        for command in
            ["PORT 198,51,100,8,156,65\r\n", "EPRT |1|10.0.2.2|22|\r\n", "EPRT |2|2001:db8::7|22|\r\n"]
        {
            assert_eq!(talk.client_says(command), command);
        }
        talk.client_says("PASV\r\n");
        let reply = "227 Entering Passive Mode (10,0,2,2,195,80).\r\n";
        assert_eq!(talk.server_says(reply), reply);
        // Nor does what nobody asked for.
        talk.client_says("NOOP\r\n");
        let mut other = Talk::open(method);
        assert_eq!(other.server_says(PASSIVE), PASSIVE);
        assert_eq!((talk.data(), other.data()), (Vec::new(), Vec::new()));
    }
}

#[test]
fn only_the_client_comes_in() {
    let mut talk = Talk::open(Method::Nat);
    talk.client_says("PASV\r\n");
    talk.server_says(PASSIVE);
    for (client, vip, flags) in [
        ("198.51.100.8:40001", "192.0.2.10:50000", SYN),
        ("198.51.100.7:40001", "192.0.2.10:50001", SYN),
        ("198.51.100.7:40001", "192.0.2.10:50000", ACK),
        ("198.51.100.7:40001", "192.0.2.10:50000", SYN | ACK),
        ("198.51.100.7:40001", "192.0.2.10:50000", RST),
        ("198.51.100.7:0", "192.0.2.10:50000", SYN),
    ] {
        let stray = Segment::bare(client, vip, flags).frame(true);
        assert_eq!(talk.director.arrive(0, &stray), Outcome::punted(0, stray), "{client} {vip} {flags}");
    }
    opened_by_client(&mut talk, "198.51.100.7:40001", "192.0.2.10:50000", "10.0.2.1:50000");
    let second = Segment::bare("198.51.100.7:40002", "192.0.2.10:50000", SYN).frame(true);
    assert_eq!(talk.director.arrive(0, &second), Outcome::punted(0, second), "one was announced");
}

#[test]
fn a_data_connection_reaches_its_worker_from_any_queue() {
    for workers in [2, 3] {
        for queue in 0..workers {
            for (method, at) in [(Method::Nat, queue), (Method::FullNat, (queue + 1) % workers)] {
                let mut director = Director::with(workers, 100);
                let service = director.add_service(Protocol::Tcp, VIP);
                let server = director.add_server(service, SERVER, method, 1);
                director.publish();
                let mut talk = Talk::open_at(director, (CLIENT, VIP, server), 0);
                talk.queues = (queue, at);
                talk.client_says("PASV\r\n");
                talk.server_says(PASSIVE);
                opened_by_client(&mut talk, "198.51.100.7:40001", "192.0.2.10:50000", "10.0.2.1:50000");
                let local = announced(&talk.client_says("PORT 198,51,100,7,156,66\r\n"));
                opened_by_server(&mut talk, "10.0.2.1:20", &local, "198.51.100.7:40002");
                assert_eq!(talk.director.workers[0].connections(), 3);
                let stray = Segment::bare("198.51.100.9:1", "192.0.2.10:50000", SYN).frame(true);
                let outcome = talk.director.arrive_at(queue, 0, &[&stray]);
                assert_eq!(outcome, Outcome::punted(0, stray), "nobody's goes to the kernel once");
            }
        }
    }
}

#[test]
fn an_expected_connection_has_two_minutes() {
    let mut talk = Talk::open(Method::FullNat);
    talk.client_says("PASV\r\n");
    talk.server_says(PASSIVE);
    talk.director.pass(119 * SECOND);
    assert_eq!(talk.data().len(), 1);
    talk.director.pass(2 * SECOND);
    assert_eq!(talk.data(), []);
    let late = Segment::bare("198.51.100.7:40001", "192.0.2.10:50000", SYN).frame(true);
    assert_eq!(talk.director.arrive(0, &late), Outcome::punted(0, late));
}

/// `n_control` of IPVS: a minute, and another one.
#[test]
fn a_control_connection_outlives_its_data() {
    let mut talk = Talk::open(Method::Nat);
    talk.client_says("PASV\r\n");
    talk.server_says(PASSIVE);
    opened_by_client(&mut talk, "198.51.100.7:40001", "192.0.2.10:50000", "10.0.2.1:50000");
    for _ in 0..20 {
        talk.director.pass(100 * SECOND);
        Segment::only(&talk.client_sends(&Segment::bare("198.51.100.7:40001", "192.0.2.10:50000", ACK)), 1);
    }
    assert_eq!(talk.director.list().len(), 2);
    talk.server_says("226 Transfer complete.\r\n");
    talk.director.pass(899 * SECOND);
    assert_eq!(talk.director.list().len(), 2);
    talk.director.pass(2 * SECOND);
    talk.director.pass(61 * SECOND);
    assert_eq!(talk.director.list(), []);
    assert_eq!(talk.director.sum(|c| c.expired.get()), 2);
}

#[test]
fn what_is_expected_is_bounded() {
    for method in [Method::Nat, Method::FullNat] {
        let mut talk = Talk::open(method);
        let mut told = Vec::new();
        for port in 0..30 {
            told.push(announced(&talk.client_says(&format!("PORT 198,51,100,7,100,{port}\r\n"))));
            assert!(talk.data().len() <= MOST_EXPECTED);
        }
        assert_eq!(talk.data().len(), MOST_EXPECTED);
        // The last ones.
        let Some(last) = told.pop() else { panic!() };
        opened_by_server(&mut talk, "10.0.2.1:20", &last, "198.51.100.7:25629");
        let first = Segment::bare("10.0.2.1:20", &told[0], SYN).frame(false);
        assert_eq!(talk.director.arrive(1, &first), Outcome::punted(1, first));
        // All of them, and the ports, come back.
        talk.director.pass(2000 * SECOND);
        talk.director.pass(100 * SECOND);
        assert_eq!(talk.director.list(), []);
    }
}

/// Of a small table, a quarter may be for connections that never come.
#[test]
fn a_table_full_of_expectations_drops_what_announces_more() {
    let mut talk = Talk::open_in(Director::with(1, 16), (CLIENT, VIP, SERVER), Method::Nat);
    for port in 1..=4 {
        talk.client_says(&format!("PORT 198,51,100,7,100,{port}\r\n"));
    }
    let more = talk.client.segment(b"PORT 198,51,100,7,100,5\r\n");
    assert_eq!(talk.client_sends(&more), Outcome::dropped(DropReason::TableFull));
    // Sent again when there is room, it passes.
    talk.director.pass(121 * SECOND);
    Segment::only(&talk.client_sends(&more), 1);
}

/// Of a small table, a quarter may be control connections on which something
/// was said; those on which nothing was are not followed yet.
#[test]
fn control_connections_are_bounded() {
    let mut director = Director::with(1, 16);
    let service = director.add_service(Protocol::Tcp, VIP);
    director.add_server(service, SERVER, Method::Nat, 1);
    director.publish();
    let clients: Vec<String> = (1..=10).map(|host| format!("198.51.100.{host}:40000")).collect();
    for client in &clients {
        Segment::only(&director.arrive(0, &Segment::bare(client, VIP, SYN).frame(true)), 1);
        Segment::only(&director.arrive(1, &Segment::bare(SERVER, client, SYN | ACK).frame(false)), 0);
        Segment::only(&director.arrive(0, &Segment::bare(client, VIP, ACK).frame(true)), 1);
    }
    let greeting = |client: &str| {
        let payload = b"220 ready\r\n".to_vec();
        Segment { payload, ..Segment::bare(SERVER, client, ACK) }.frame(false)
    };
    for client in &clients[..4] {
        Segment::only(&director.arrive(1, &greeting(client)), 0);
    }
    let outcome = director.arrive(1, &greeting(&clients[4]));
    assert_eq!(outcome, Outcome::dropped(DropReason::TableFull));
    // Sent again when there is room, it passes.
    Segment::only(&director.arrive(0, &Segment::bare(&clients[0], VIP, RST).frame(true)), 1);
    director.pass(11 * SECOND);
    Segment::only(&director.arrive(1, &greeting(&clients[4])), 0);
}

#[test]
fn counters_are_those_of_ipvs() {
    let mut talk = Talk::open(Method::Nat);
    let server = talk.server_id;
    let counts = |talk: &mut Talk| {
        let counters = &talk.director.server(server).counters;
        (counters.traffic().connections, counters.active(), counters.inactive())
    };
    assert_eq!(counts(&mut talk), (1, 1, 0));
    talk.client_says("PASV\r\n");
    talk.server_says(PASSIVE);
    assert_eq!(counts(&mut talk), (1, 1, 1));
    opened_by_client(&mut talk, "198.51.100.7:40001", "192.0.2.10:50000", "10.0.2.1:50000");
    assert_eq!(counts(&mut talk), (1, 2, 0));
    for from_client in [true, false] {
        match from_client {
            true => talk.client_sends(&Segment::bare("198.51.100.7:40001", "192.0.2.10:50000", FIN | ACK)),
            false => talk.server_sends(&Segment::bare("10.0.2.1:50000", "198.51.100.7:40001", FIN | ACK)),
        };
    }
    assert_eq!(counts(&mut talk), (1, 1, 1));
    talk.director.pass(121 * SECOND);
    assert_eq!(counts(&mut talk), (1, 1, 0));
}

/// A weight of 0 takes no new connections; these are old ones' own.
#[test]
fn a_quiesced_server_keeps_its_data_connections() {
    let mut talk = Talk::open(Method::FullNat);
    let id = talk.server_id;
    talk.director.server(id).weight = 0;
    talk.director.publish();
    talk.client_says("PASV\r\n");
    talk.server_says(PASSIVE);
    opened_by_client(&mut talk, "198.51.100.7:40001", "192.0.2.10:50000", "10.0.2.1:50000");
}

#[test]
fn a_removed_server_takes_its_data_connections_along() {
    for expire in [false, true] {
        let mut talk = Talk::open(Method::FullNat);
        talk.client_says("PASV\r\n");
        talk.server_says(PASSIVE);
        opened_by_client(&mut talk, "198.51.100.7:40001", "192.0.2.10:50000", "10.0.2.1:50000");
        talk.client_says("PORT 198,51,100,7,156,66\r\n");
        talk.director.tunables.expire_nodest_conn = expire;
        let id = talk.server_id;
        talk.director.remove_server(id);
        talk.director.publish();
        talk.director.settle();
        talk.director.settle();
        assert_eq!(talk.director.list().len(), if expire { 0 } else { 3 });
        let data = Segment::bare("198.51.100.7:40001", "192.0.2.10:50000", ACK).frame(true);
        let outcome = talk.director.arrive(0, &data);
        let expected =
            if expire { Outcome::punted(0, data) } else { Outcome::dropped(DropReason::ServerGone) };
        assert_eq!(outcome, expected);
    }
}

/// The client's port is used again: the old connection is over, and data of it
/// goes on without.
#[test]
fn a_new_control_connection_has_no_old_data() {
    let mut talk = Talk::open(Method::Nat);
    talk.client_says("PASV\r\n");
    talk.server_says(PASSIVE);
    opened_by_client(&mut talk, "198.51.100.7:40001", "192.0.2.10:50000", "10.0.2.1:50000");
    talk.client_sends(&Segment { flags: RST, ..talk.client.segment(b"") });
    let id = talk.server_id;
    let director = std::mem::replace(&mut talk.director, Director::new());
    let mut again = Talk::open_at(director, (CLIENT, VIP, id), 0);
    again.client_says("PASV\r\n");
    again.server_says("227 Entering Passive Mode (10,0,2,1,195,81).\r\n");
    opened_by_client(&mut again, "198.51.100.7:40002", "192.0.2.10:50001", "10.0.2.1:50001");
    assert_eq!(again.data().len(), 2);
    again.director.pass(901 * SECOND);
    again.director.pass(61 * SECOND);
    assert_eq!(again.director.list(), []);
}

/// The same where the entry stays: by a template, or without `conn_reuse_mode`.
#[test]
fn a_control_connection_that_is_opened_again_has_new_numbers() {
    for persistent in [false, true] {
        for method in [Method::Nat, Method::FullNat] {
            let mut director = Director::new();
            let service = director.add_service(Protocol::Tcp, VIP);
            let server = director.add_server(service, SERVER, method, 1);
            let host = Persistence { timeout: 60, mask: ClientMask::HOST };
            director.service(service).options.persistence = persistent.then_some(host);
            director.tunables.conn_reuse_mode = u8::from(persistent).into();
            director.publish();
            let mut talk = Talk::open_at(director, (CLIENT, VIP, server), 0);
            talk.client_says("PASV\r\n");
            talk.server_says(PASSIVE);
            // One that is established is what it was.
            let syn = Segment::bare(CLIENT, VIP, SYN);
            talk.client_sends(&syn);
            talk.client_says("NOOP\r\n");
            talk.server_says("200 ok\r\n");
            talk.client_sends(&Segment { flags: RST, ..talk.client.segment(b"") });
            let mut again = Talk::open_at(talk.director, (CLIENT, VIP, server), 0);
            again.client_says("PASV\r\n");
            let reply = again.server_says("227 Entering Passive Mode (10,0,2,1,195,81).\r\n");
            assert_eq!(reply, "227 Entering Passive Mode (192,0,2,10,195,81).\r\n");
            opened_by_client(&mut again, "198.51.100.7:40002", "192.0.2.10:50001", "10.0.2.1:50001");
            again.client_says("QUIT\r\n");
        }
    }
}

/// A port of the server that comes up again is looked at anew.
#[test]
fn a_data_connection_that_is_over_makes_room_for_the_next() {
    let mut talk = Talk::open(Method::FullNat);
    let (client, vip, server) = ("198.51.100.7:40001", "192.0.2.10:50000", "10.0.2.1:50000");
    talk.client_says("PASV\r\n");
    talk.server_says(PASSIVE);
    let first = opened_by_client(&mut talk, client, vip, server);
    talk.client_sends(&Segment::bare(client, vip, RST));
    // Without another announcement it is the same again.
    let same = Segment::only(&talk.client_sends(&Segment::bare(client, vip, SYN)), 1);
    assert_eq!(same.source.to_string(), first);
    talk.client_sends(&Segment::bare(client, vip, ACK));
    talk.client_sends(&Segment::bare(client, vip, RST));
    talk.client_says("PASV\r\n");
    talk.server_says(PASSIVE);
    let second = opened_by_client(&mut talk, client, vip, server);
    assert_ne!(first, second);
    assert_eq!(talk.data().len(), 1);
}

/// With DR nobody sees what the server says: the client's template decides.
#[test]
fn persistence_takes_data_connections_along() {
    for (method, data) in [(Method::DirectRoute, "192.0.2.10:50000"), (Method::Nat, "10.0.2.1:50000")] {
        for workers in [1, 3] {
            let mut director = Director::with(workers, 100);
            let service = director.add_service(Protocol::Tcp, VIP);
            for server in [SERVER, "10.0.2.2:21", "10.0.2.3:21"] {
                director.add_server(service, server, method, 1);
            }
            let host = Persistence { timeout: 60, mask: ClientMask::HOST };
            director.service(service).options.persistence = Some(host);
            director.publish();
            for queue in 0..workers {
                let mac = |vip: &str, flags, director: &mut Director| {
                    let segment = Segment::bare(CLIENT, vip, flags).frame(true);
                    let outcome = director.arrive_at(queue, 0, &[&segment]);
                    let [(1, frame)] = &outcome.sent[..] else { panic!("{vip}: {outcome:?}") };
                    (frame[..6].to_vec(), Segment::of(frame).destination.port())
                };
                let (control, _) = mac(VIP, SYN, &mut director);
                let (passive, port) = mac("192.0.2.10:50000", SYN, &mut director);
                let (active, _) = mac("192.0.2.10:20", SYN | ACK, &mut director);
                assert!(control == passive && control == active, "{method:?}");
                assert_eq!(port.to_string(), data.rsplit(':').next().unwrap());
            }
            // Ports below are not FTP's, nor is UDP.
            let other = Segment::bare(CLIENT, "192.0.2.10:1023", SYN).frame(true);
            assert_eq!(director.arrive(0, &other), Outcome::punted(0, other));
        }
    }
}

#[test]
fn without_ports_nothing_is_followed() {
    let mut director = Director::new();
    director.tunables.ftp.control = [0; 8];
    let mut talk = Talk::open_in(director, (CLIENT, VIP, SERVER), Method::Nat);
    talk.client_says("PASV\r\n");
    assert_eq!(talk.server_says(PASSIVE), PASSIVE);
    assert_eq!(talk.data(), []);
    let mut director = Director::new();
    director.tunables.ftp.control[1] = 2121;
    let mut talk = Talk::open_in(director, (CLIENT, "192.0.2.10:2121", "10.0.2.1:2021"), Method::Nat);
    talk.client_says("PORT 198,51,100,7,156,65\r\n");
    let expected = owned("LISTEN", "198.51.100.7:40001", "192.0.2.10:2120", "10.0.2.1:2020");
    assert_eq!(talk.data(), [expected]);
}

/// DR and TUN see half of it, and change nothing.
#[test]
fn a_table_of_addresses_that_are_the_servers() {
    let rules = |method, persistent: bool| {
        let mut director = Director::new();
        let service = director.add_service(Protocol::Tcp, VIP);
        director.add_server(service, SERVER, method, 1);
        if persistent {
            director.service(service).options.persistence =
                Some(Persistence { timeout: 60, mask: ClientMask::HOST });
        }
        director.steering()
    };
    let vip = Address::from_v4([192, 0, 2, 10]);
    let server = Address::from_v4([10, 0, 2, 1]);
    for (method, persistent, expected) in [
        (Method::Nat, false, vec![server, vip]),
        (Method::FullNat, false, vec![vip]),
        (Method::DirectRoute, false, vec![]),
        (Method::DirectRoute, true, vec![vip]),
        (Method::Tunnel, true, vec![vip]),
    ] {
        let rules = rules(method, persistent);
        assert_eq!(rules.ftp.iter().copied().collect::<Vec<_>>(), expected, "{method:?}");
        let ports: Vec<u16> = rules.services.iter().map(|target| target.port).collect();
        assert_eq!(ports, if expected.is_empty() { vec![21] } else { vec![20, 21] });
        let ports: Vec<u16> = rules.nat_servers.iter().map(|target| target.port).collect();
        assert_eq!(ports, if method == Method::Nat { vec![20, 21] } else { vec![] });
        assert_eq!(rules.passive_ports, (1024, 65535));
    }
}

/// Of a mark, the VIP's port tells, not the servers'.
#[test]
fn marked_control_ports_are_the_vips() {
    for (marked, port, expected) in [
        ((21, 21), 2021, Some(2020)),
        ((20, 30), 21, Some(20)),
        ((80, 80), 21, None),
        ((2021, 2021), 2021, None),
    ] {
        let mut director = Director::new();
        let service = director.add_mark(10, Family::V4);
        director.mark_by(&[mark_rule("192.0.2.10/32", &[marked], 10)]);
        director.add_server(service, &format!("10.0.2.1:{port}"), Method::Nat, 1);
        let rules = director.steering();
        let server = Address::from_v4([10, 0, 2, 1]);
        assert_eq!(rules.ftp.contains(&server), expected.is_some(), "{marked:?} {port}");
        let sources: Vec<u16> =
            rules.nat_servers.iter().filter(|t| t.protocol == Protocol::Tcp).map(|t| t.port).collect();
        assert_eq!(sources, expected.into_iter().chain([port]).collect::<Vec<_>>());
    }
}
