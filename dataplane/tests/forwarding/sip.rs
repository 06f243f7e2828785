//! The persistence engine `sip` (`ipvsadm --pe sip`). What is expected was
//! recorded from IPVS of Linux 6.1: rr, NAT servers rs1 to rs3 added in turn.

use sluice_dataplane::conn::ConnectionRecord;
use sluice_dataplane::service::{ClientMask, Engine, Method, Persistence, Protocol, ServerId, ServiceId};
use sluice_dataplane::stats::DropReason;

use crate::director::packets::{Datagram, SYN, tcp, udp};
use crate::director::packets_v6;
use crate::director::{CLIENT_ROUTER, Director, INSIDE, OUTSIDE, Outcome, SECOND, server_mac};
use crate::fragments::pieces;

const VIP: &str = "192.0.2.10:5060";
const SERVICE: ServiceId = ServiceId(0);

fn director(workers: usize, one_packet: bool) -> Director {
    let mut director = Director::with(workers, 1000);
    let id = director.add_service(Protocol::Udp, VIP);
    call_by_call(&mut director, id, [255; 4]);
    director.service(id).options.one_packet = one_packet;
    for last in 1..=3 {
        director.add_server(id, &format!("10.0.2.{last}:5060"), Method::Nat, 1);
    }
    director.publish();
    director
}

fn call_by_call(director: &mut Director, id: ServiceId, mask: [u8; 4]) {
    let options = &mut director.service(id).options;
    options.persistence = Some(Persistence { timeout: 60, mask: ClientMask::v4(mask) });
    options.engine = Some(Engine::Sip);
}

fn message(call: &str) -> Vec<u8> {
    format!("OPTIONS sip:x@192.0.2.10 SIP/2.0\r\nCall-ID: {call}\r\n\r\n").into_bytes()
}

fn from_client(client: u8, port: u16, payload: &[u8]) -> Datagram {
    udp(&format!("198.51.100.{client}:{port}"), VIP).payload(payload.to_vec())
}

fn from_server(server: u8, client: &str, payload: &[u8]) -> Datagram {
    let datagram = udp(&format!("10.0.2.{server}:5060"), client).payload(payload.to_vec());
    datagram.link(server_mac(server), INSIDE)
}

/// The last byte of the address of the server that gets a message, which
/// arrives at worker `queue`; 0 for none.
fn send_at(director: &mut Director, queue: usize, client: u8, port: u16, payload: &[u8]) -> u8 {
    match director.arrive_at(queue, 0, &[&from_client(client, port, payload).bytes()]).sent.as_slice() {
        [(1, frame)] => frame[5],
        _ => 0,
    }
}

fn send(director: &mut Director, client: u8, port: u16, call: &str) -> u8 {
    send_at(director, 0, client, port, &message(call))
}

/// Templates in the columns of `ipvsadm -Lnc --persistent-conn`, without times.
fn templates(director: &mut Director) -> Vec<String> {
    let line = |record: &ConnectionRecord| {
        let engine = record.engine.as_ref();
        let engine = engine.map(|(name, data)| format!("{name} {}", String::from_utf8_lossy(data)));
        let (service, server) = (record.service, record.server);
        let ends = format!("{} {}:{} {}:{}", record.client.0, service.0, service.1, server.0, server.1);
        format!("{} {ends} {}", record.state, engine.unwrap_or_default())
    };
    let mut lines: Vec<_> = director.list().iter().filter(|r| r.client.1 == 0).map(line).collect();
    lines.sort();
    lines
}

fn no_call_id() -> Outcome {
    Outcome::dropped(DropReason::NoCallId)
}

#[test]
fn a_client_has_a_server_for_each_call() {
    let mut director = director(1, false);
    let calls = ["one", "two", "three", "one", "two"];
    let order: Vec<_> = (1..).zip(calls).map(|(n, call)| send(&mut director, 1, 1000 + n, call)).collect();
    assert_eq!(order, [3, 2, 1, 3, 2]);
    assert_eq!([send(&mut director, 2, 1006, "one"), send(&mut director, 2, 1007, "one")], [3, 3]);
    let on_one_port = [message("four"), message("five"), b"x".to_vec()];
    assert_eq!(on_one_port.map(|payload| send_at(&mut director, 0, 1, 4000, &payload)), [2, 2, 2]);
    assert_eq!(
        templates(&mut director),
        [
            "NONE 198.51.100.1 192.0.2.10:5060 10.0.2.1:5060 sip three",
            "NONE 198.51.100.1 192.0.2.10:5060 10.0.2.2:5060 sip four",
            "NONE 198.51.100.1 192.0.2.10:5060 10.0.2.2:5060 sip two",
            "NONE 198.51.100.1 192.0.2.10:5060 10.0.2.3:5060 sip one",
            "NONE 198.51.100.2 192.0.2.10:5060 10.0.2.3:5060 sip one",
        ]
    );
    let counted: Vec<_> = (0..3)
        .map(|id| {
            let counters = director.server(ServerId(id)).counters.clone();
            (counters.persistent(), counters.active(), counters.inactive())
        })
        .collect();
    assert_eq!(counted, [(1, 0, 1), (2, 0, 3), (2, 0, 4)]);
}

#[test]
fn networks_of_clients_are_one() {
    for (mask, network) in [([255, 255, 255, 0], "198.51.100.0"), ([0; 4], "0.0.0.0")] {
        let mut director = director(1, false);
        call_by_call(&mut director, SERVICE, mask);
        director.publish();
        let one = [1, 2, 3].map(|client| send(&mut director, client, 1000, "one"));
        let two = [1, 2, 3].map(|client| send(&mut director, client, 2000, "two"));
        assert_eq!((one, two), ([3; 3], [2; 3]));
        let line = |server, call| format!("NONE {network} 192.0.2.10:5060 10.0.2.{server}:5060 sip {call}");
        assert_eq!(templates(&mut director), [line(2, "two"), line(3, "one")]);
    }
}

#[test]
fn each_datagram_goes_by_its_call_with_one_packet_scheduling() {
    for workers in [1, 4] {
        let mut director = director(workers, true);
        let calls = ["one", "two", "three", "one", "two", "three"];
        let order = calls.map(|call| send(&mut director, 1, 4001, call));
        if workers == 1 {
            assert_eq!(order, [3, 2, 1, 3, 2, 1]);
        }
        assert_eq!(order[..3], order[3..], "{workers} workers");
        let nothing = from_client(1, 4001, b"x").bytes();
        assert_eq!(director.arrive(0, &nothing), no_call_id());
        let list = director.list();
        assert!(list.len() == 3 && list.iter().all(|record| record.client.1 == 0), "{list:?}");
        assert_eq!((0..3).map(|id| director.server(ServerId(id)).counters.inactive()).sum::<u64>(), 0);
    }
}

/// However the datagrams of a flow come by the workers, its connection is one,
/// and a call keeps to its server.
#[test]
fn several_workers_agree() {
    let mut director = director(4, false);
    let first = send_at(&mut director, 0, 1, 4000, &message("one"));
    for queue in 0..4 {
        assert_eq!(send_at(&mut director, queue, 1, 4000, &message("other")), first);
        assert_eq!(send_at(&mut director, queue, 1, 4000, b"\r\n\r\n"), first, "no Call-ID on queue {queue}");
        assert_eq!(send_at(&mut director, queue, 1, 4001 + queue as u16, &message("one")), first);
    }
    assert_eq!(templates(&mut director).len(), 1);
    assert_eq!(director.list().len(), 6);
    let nothing = from_client(2, 4000, b"x").bytes();
    assert_eq!(director.arrive(0, &nothing), no_call_id());

    // With one-packet scheduling the calls of one proxy are spread over workers.
    let mut director = self::director(4, true);
    for call in 0..100 {
        let call = message(&format!("{call}@proxy"));
        let server = send_at(&mut director, 0, 1, 5060, &call);
        for queue in 1..4 {
            assert_eq!(send_at(&mut director, queue, 1, 5060, &call), server);
            let answer = from_server(server, "198.51.100.1:5060", &call);
            assert_eq!(director.arrive_at(queue, 1, &[&answer.bytes()]).sent.len(), 1);
        }
    }
    assert_eq!(templates(&mut director).len(), 100);
    for worker in 0..4 {
        assert!(director.counters[worker].dropped(DropReason::NoCallId) == 0);
        let handed = director.counters[worker].handed.get();
        assert!(handed > 50, "worker {worker} handed {handed}");
    }
}

#[test]
fn what_has_no_call_id_begins_nothing() {
    let mut director = director(1, false);
    for payload in [&b""[..], b"x", b"Call-ID: first\r\n", b"A\r\nCall-ID: a b\r\n"] {
        assert_eq!(director.arrive(0, &from_client(1, 1000, payload).bytes()), no_call_id());
    }
    assert_eq!(send_at(&mut director, 0, 1, 1000, &message(&"a".repeat(256))), 0);
    assert_eq!(director.list(), []);
    assert_eq!(send_at(&mut director, 0, 1, 1000, &message(&"a".repeat(255))), 3);
}

/// IPVS takes a TCP service with the engine, and then drops every SYN.
#[test]
fn tcp_has_no_call_id() {
    let mut director = Director::new();
    let id = director.add_service(Protocol::Tcp, VIP);
    call_by_call(&mut director, id, [255; 4]);
    director.add_server(id, "10.0.2.1:5060", Method::Nat, 1);
    director.publish();
    let syn = tcp("198.51.100.1:1000", VIP, SYN).payload(message("one"));
    assert_eq!(director.arrive(0, &syn.bytes()), no_call_id());
}

#[test]
fn a_call_leaves_a_server_that_takes_no_more() {
    let mut director = director(1, false);
    assert_eq!([send(&mut director, 1, 1000, "one"), send(&mut director, 1, 1001, "two")], [3, 2]);
    director.server(ServerId(2)).weight = 0;
    director.publish();
    assert_eq!(send(&mut director, 1, 1002, "one"), 3);
    director.tunables.expire_quiescent_template = true;
    director.publish();
    assert_eq!(send(&mut director, 1, 1003, "one"), 1);
    assert_eq!(
        templates(&mut director),
        [
            "NONE 198.51.100.1 192.0.2.10:5060 10.0.2.1:5060 sip one",
            "NONE 198.51.100.1 192.0.2.10:5060 10.0.2.2:5060 sip two",
            "NONE 198.51.100.1 192.0.2.10:65535 10.0.2.3:65535 sip one",
        ]
    );
    for id in 0..3 {
        director.remove_server(ServerId(id));
    }
    director.publish();
    let outcome = director.arrive(0, &from_client(1, 1004, &message("one")).bytes());
    assert_eq!(outcome.dropped, [DropReason::NoServer]);
    assert_eq!(outcome.sent.len(), 1, "port unreachable");
    assert_eq!(director.arrive(0, &from_client(1, 1005, b"x").bytes()), no_call_id());
}

#[test]
fn templates_end_and_make_room() {
    let mut director = director(1, true);
    for call in 0..1000 {
        assert_ne!(send(&mut director, 1, 5060, &format!("call {call}").replace(' ', "-")), 0);
    }
    let more = from_client(1, 5060, &message("more")).bytes();
    assert_eq!(director.arrive(0, &more), Outcome::dropped(DropReason::TableFull));
    director.pass(62 * SECOND);
    while !director.list().is_empty() {
        director.settle();
    }
    assert_ne!(send(&mut director, 1, 5060, "more"), 0);
    assert_eq!(templates(&mut director).len(), 1);
    assert_eq!((0..3).map(|id| director.server(ServerId(id)).counters.persistent()).sum::<u64>(), 1);
}

/// The answer to a client goes out from the VIP even with one-packet scheduling,
/// and so does what a server says first; the client's answers find that server.
#[test]
fn a_server_begins_a_call() {
    for one_packet in [false, true] {
        let mut director = director(1, one_packet);
        let invite = from_server(2, "198.51.100.5:5060", &message("out"));
        let expected = invite.clone().between(VIP, "198.51.100.5:5060").hop().link(OUTSIDE, CLIENT_ROUTER);
        assert_eq!(director.arrive(1, &invite.bytes()), Outcome::sent(0, expected.bytes()));
        assert_eq!(
            templates(&mut director),
            ["ASSURED 198.51.100.5 192.0.2.10:5060 10.0.2.2:5060 sip out"],
            "one_packet {one_packet}"
        );
        assert_eq!(send(&mut director, 5, 5060, "out"), 2);
        assert_eq!(send(&mut director, 5, 1000, "out"), 2);
        assert_eq!(send(&mut director, 6, 1001, "out"), 3);
        assert_eq!(director.arrive(1, &invite.bytes()), Outcome::sent(0, expected.bytes()));

        // The call moves to the server that speaks.
        let other = from_server(1, "198.51.100.5:5070", &message("out"));
        assert_eq!(director.arrive(1, &other.bytes()).sent.len(), 1);
        assert_eq!(send(&mut director, 5, 1002, "out"), 1);

        // Not theirs: what has no Call-ID, another port.
        let nothing = from_server(1, "198.51.100.7:5060", b"nothing").bytes();
        assert_eq!(director.arrive(1, &nothing), Outcome::punted(1, nothing));
        let other_port = udp("10.0.2.1:5999", "198.51.100.7:5060").payload(message("p"));
        let other_port = other_port.link(server_mac(1), INSIDE).bytes();
        assert_eq!(director.arrive(1, &other_port), Outcome::punted(1, other_port));

        assert_eq!(send(&mut director, 9, 1003, "in"), 2);
        assert_eq!(
            director.arrive(1, &from_server(3, "198.51.100.9:6001", &message("in")).bytes()).sent.len(),
            1
        );
        let of_nine = |line: &String| line.contains("198.51.100.9 192.0.2.10:5060 10.0.2.3:5060 sip in");
        assert_eq!(templates(&mut director).iter().filter(|line| of_nine(line)).count(), 1);
        let inactive: Vec<_> = (0..3).map(|id| director.server(ServerId(id)).counters.inactive()).collect();
        let listed = director.list().iter().filter(|record| record.client.1 != 0).count();
        assert_eq!(inactive.iter().sum::<u64>(), listed as u64);
        assert_eq!(listed == 0, one_packet);
    }
}

/// Of the other methods nothing comes back this way, and without the engine a
/// server begins nothing.
#[test]
fn only_a_nat_server_with_the_engine_begins_a_call() {
    let invite = from_server(2, "198.51.100.5:5060", &message("out")).bytes();
    let mut direct = Director::new();
    let id = direct.add_service(Protocol::Udp, VIP);
    call_by_call(&mut direct, id, [255; 4]);
    direct.add_server(id, "10.0.2.2:5060", Method::DirectRoute, 1);
    direct.publish();
    let mut plain = director(1, false);
    plain.service(SERVICE).options.engine = None;
    plain.publish();
    for mut director in [direct, plain] {
        assert_eq!(director.arrive(1, &invite), Outcome::punted(1, invite.clone()));
        assert_eq!(director.list(), []);
    }
}

/// A connection of the same client with another server gives way.
#[test]
fn two_servers_speak_to_one_client_port() {
    let mut director = director(1, false);
    for (server, call) in [(1, "a"), (2, "b"), (1, "c")] {
        let invite = from_server(server, "198.51.100.5:5060", &message(call));
        assert_eq!(director.arrive(1, &invite.bytes()).sent.len(), 1);
        assert_eq!(send(&mut director, 5, 5060, "any"), server);
        assert_eq!(director.list().iter().filter(|record| record.client.1 != 0).count(), 1);
    }
    let inactive: Vec<_> = (0..3).map(|id| director.server(ServerId(id)).counters.inactive()).collect();
    assert_eq!(inactive, [1, 0, 0]);
}

/// The first fragment has the Call-ID.
#[test]
fn a_message_in_fragments_goes_by_its_first() {
    for workers in [1, 3] {
        let mut director = director(workers, false);
        let mut body = message("one");
        body.resize(3000, b'x');
        let first = send(&mut director, 1, 1000, "one");
        let pieces = pieces(&from_client(1, 1001, &body).may_be_fragmented(), 1480);
        let frames: Vec<_> = pieces.iter().map(Vec::as_slice).collect();
        let outcome = director.arrive_at(workers - 1, 0, &frames);
        assert_eq!(outcome.sent.len(), 3, "{workers} workers: {outcome:?}");
        assert!(outcome.sent.iter().all(|(_, frame)| frame[5] == first));
    }
}

#[test]
fn ipv6_calls_have_servers_too() {
    let mut director = Director::new();
    let vip = "[2001:db8:f::10]:5060";
    let id = director.add_service(Protocol::Udp, vip);
    call_by_call(&mut director, id, [255; 4]);
    director.service(id).options.persistence = Some(Persistence { timeout: 60, mask: ClientMask::v6(128) });
    for last in 1..=2 {
        director.add_server(id, &format!("[2001:db8:2::{last}]:5060"), Method::Nat, 1);
    }
    director.publish();
    let order: Vec<_> = (1000..)
        .zip(["one", "two", "three", "one"])
        .map(|(port, call)| {
            let datagram = packets_v6::udp6(&format!("[2001:db8:c::1]:{port}"), vip).payload(message(call));
            director.arrive(0, &datagram.bytes()).sent[0].1[5]
        })
        .collect();
    assert_eq!(order, [2, 1, 2, 2]);
}
