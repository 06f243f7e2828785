//! The life of a connection: what makes it, ends it, and refuses it.

use std::sync::Arc;

use sluice_dataplane::conn::ConnectionRecord;
use sluice_dataplane::service::{Method, Protocol, ServerId};
use sluice_dataplane::stats::DropReason;
use sluice_dataplane::worker::{Command, Slice};

use crate::director::packets::{ACK, FIN, RST, SYN, address, tcp, udp};
use crate::director::{
    CLIENT, CLIENT_ROUTER, DNS_VIP, Director, INSIDE, OUTSIDE, Outcome, SECOND, SERVER, SERVER_2, VIP,
    server_mac,
};

#[derive(Clone, Copy)]
enum Sender {
    Client,
    Server,
}

fn step(director: &mut Director, from: Sender, flags: u8) -> Outcome {
    match from {
        Sender::Client => director.arrive(0, &tcp(CLIENT, VIP, flags).bytes()),
        Sender::Server => director.arrive(1, &tcp(SERVER, CLIENT, flags).link(server_mac(1), INSIDE).bytes()),
    }
}

#[test]
fn each_state_has_its_timeout() {
    use Sender::{Client, Server};
    for (what, packets, state) in [
        ("opening", &[(Client, SYN)][..], ("SYN_RECV", 60)),
        ("answered", &[(Client, SYN), (Server, SYN | ACK)], ("SYN_RECV", 60)),
        ("established", &[(Client, SYN), (Client, ACK)], ("ESTABLISHED", 900)),
        ("the client closes", &[(Client, SYN), (Client, ACK), (Client, FIN)], ("CLOSE_WAIT", 60)),
        ("the server closes", &[(Client, SYN), (Client, ACK), (Server, FIN)], ("FIN_WAIT", 120)),
        ("both close", &[(Client, SYN), (Client, ACK), (Client, FIN), (Server, FIN)], ("TIME_WAIT", 120)),
        ("refused", &[(Client, SYN), (Server, RST)], ("CLOSE", 10)),
    ] {
        let mut director = Director::serving(Method::Nat);
        for (from, flags) in packets {
            assert_eq!(step(&mut director, *from, *flags).sent.len(), 1, "{what}");
        }
        assert_eq!(director.only_connection(), state, "{what}");
        // It lives for its timeout to the second, and not much longer.
        director.pass(u64::from(state.1) * SECOND - 1);
        assert_eq!(director.only_connection(), (state.0, 0), "{what}");
        director.pass(SECOND / 2);
        assert_eq!(director.list(), [], "{what}");
        assert_eq!(director.counters[0].expired.get(), 1, "{what}");
        assert_eq!(director.counters[0].connections.get(), 0, "{what}");
    }
}

#[test]
fn packets_of_either_side_prolong_a_connection() {
    let mut director = Director::serving(Method::Nat);
    step(&mut director, Sender::Client, SYN);
    step(&mut director, Sender::Client, ACK);
    for _ in 0..5 {
        director.pass(800 * SECOND);
        assert_eq!(step(&mut director, Sender::Client, ACK).sent.len(), 1);
        director.pass(800 * SECOND);
        assert_eq!(step(&mut director, Sender::Server, ACK).sent.len(), 1);
    }
    assert_eq!(director.only_connection(), ("ESTABLISHED", 900));
}

/// `ipvsadm --set` applies to a connection at its next packet.
#[test]
fn changed_timeouts_apply_at_the_next_packet() {
    let mut director = Director::serving(Method::Nat);
    step(&mut director, Sender::Client, SYN);
    step(&mut director, Sender::Client, ACK);
    director.timeouts.set(100, 0, 0);
    director.publish();
    director.settle();
    assert_eq!(director.only_connection(), ("ESTABLISHED", 900));
    step(&mut director, Sender::Client, ACK);
    assert_eq!(director.only_connection(), ("ESTABLISHED", 100));
}

/// `conn_reuse_mode=1`: a connection that is over gives way to a new one, which
/// is scheduled afresh; one that is not over goes on.
#[test]
fn a_syn_on_a_connection_that_is_over_opens_anew() {
    use Sender::{Client, Server};
    for (what, packets, anew) in [
        ("TIME_WAIT", &[(Client, SYN), (Client, ACK), (Client, FIN), (Server, FIN)][..], true),
        ("CLOSE", &[(Client, SYN), (Server, RST)], true),
        ("ESTABLISHED", &[(Client, SYN), (Client, ACK)], false),
        ("SYN_RECV", &[(Client, SYN)], false),
        ("CLOSE_WAIT", &[(Client, SYN), (Client, ACK), (Client, FIN)], false),
        ("FIN_WAIT", &[(Client, SYN), (Client, ACK), (Server, FIN)], false),
    ] {
        let mut director = Director::new();
        let (http, _) = director.both_services();
        // The server that was added last comes first in rr.
        let second = director.add_server(http, SERVER_2, Method::Nat, 1);
        let first = director.add_server(http, SERVER, Method::Nat, 1);
        director.publish();
        packets.iter().for_each(|(from, flags)| _ = step(&mut director, *from, *flags));
        assert_eq!(director.only_connection().0, what);

        let syn = tcp(CLIENT, VIP, SYN);
        let (server, station) = if anew { (SERVER_2, 2) } else { (SERVER, 1) };
        let expected = syn.clone().between(CLIENT, server).hop().link(INSIDE, server_mac(station));
        assert_eq!(director.arrive(0, &syn.bytes()), Outcome::sent(1, expected.bytes()), "{what}");
        assert_eq!(director.list().len(), 1, "{what}");
        let counts = [first, second].map(|id| {
            let counters = director.server(id).counters.clone();
            (counters.traffic().connections, counters.active(), counters.inactive())
        });
        match anew {
            true => assert_eq!(counts, [(1, 0, 0), (1, 1, 0)], "{what}"),
            false => assert_eq!((counts[0].0, counts[1].0), (1, 0), "{what}"),
        }
    }
}

/// The same when the old connection ends and the new one begins in one burst.
#[test]
fn a_whole_conversation_in_one_burst() {
    let mut director = Director::serving(Method::DirectRoute);
    let packet = |flags| tcp(CLIENT, VIP, flags).bytes();
    let other = tcp("198.51.100.8:1", VIP, SYN).bytes();
    let burst = [packet(SYN), packet(ACK), packet(RST), packet(SYN), other, packet(ACK), packet(ACK)];
    let frames: Vec<&[u8]> = burst.iter().map(Vec::as_slice).collect();
    let outcome = director.arrive_at(0, 0, &frames);
    assert_eq!(outcome.sent.len(), frames.len(), "{outcome:?}");
    let states: Vec<_> = director.list().iter().map(|record| record.state).collect();
    assert_eq!(states, ["ESTABLISHED", "SYN_RECV"]);
}

/// A connection goes and another gets its number, while a packet of the first
/// one in the same burst was looked up already.
#[test]
fn a_number_that_is_given_away_within_a_burst() {
    let mut director = Director::serving(Method::Nat);
    step(&mut director, Sender::Client, SYN);
    step(&mut director, Sender::Server, RST);
    assert_eq!(director.only_connection().0, "CLOSE");
    let ends = tcp(CLIENT, VIP, SYN | RST).bytes();
    let other = tcp("198.51.100.8:1", VIP, SYN);
    let late = tcp(CLIENT, VIP, ACK).bytes();
    let outcome = director.arrive_at(0, 0, &[&ends, &other.bytes(), &late]);
    let expected = other.between("198.51.100.8:1", SERVER).hop().link(INSIDE, server_mac(1));
    let punted = vec![(0, ends), (0, late)];
    assert_eq!(outcome, Outcome { punted, ..Outcome::sent(1, expected.bytes()) });
    assert_eq!(director.only_connection(), ("SYN_RECV", 60));
}

#[test]
fn only_a_syn_opens_a_tcp_connection() {
    for flags in [0, ACK, FIN, FIN | ACK, RST, RST | ACK, SYN | RST] {
        let mut director = Director::serving(Method::Nat);
        let frame = tcp(CLIENT, VIP, flags).bytes();
        assert_eq!(director.arrive(0, &frame), Outcome::punted(0, frame), "flags {flags:#04x}");
        assert_eq!(director.list(), [], "flags {flags:#04x}");
    }
    // As in IPVS, for active FTP.
    let mut director = Director::serving(Method::Nat);
    assert_eq!(director.arrive(0, &tcp(CLIENT, VIP, SYN | ACK).bytes()).sent.len(), 1);
}

#[test]
fn what_is_for_no_service_is_left_to_the_kernel() {
    let mut director = Director::serving(Method::Nat);
    for (what, packet) in [
        ("another port", tcp(CLIENT, "192.0.2.10:22", SYN)),
        ("another protocol", udp(CLIENT, VIP)),
        ("another address", tcp(CLIENT, "192.0.2.11:80", SYN)),
    ] {
        let frame = packet.bytes();
        assert_eq!(director.arrive(0, &frame), Outcome::punted(0, frame), "{what}");
    }
}

/// `expire_nodest_conn=0`: the entry stays, and its client's packets do not pass;
/// what the server still sends does.
#[test]
fn a_removed_server_gets_nothing_more() {
    let mut director = Director::new();
    let (http, _) = director.both_services();
    let removed = director.add_server(http, SERVER, Method::Nat, 1);
    director.publish();
    step(&mut director, Sender::Client, SYN);
    step(&mut director, Sender::Client, ACK);
    director.remove_server(removed);
    director.add_server(http, SERVER_2, Method::Nat, 1);
    director.publish();

    let before = director.server(removed).counters.traffic();
    director.pass(100 * SECOND);
    for flags in [ACK, SYN, FIN, RST] {
        assert_eq!(step(&mut director, Sender::Client, flags), Outcome::dropped(DropReason::ServerGone));
        assert_eq!(director.only_connection(), ("ESTABLISHED", 800), "it is not prolonged");
    }
    let reply = tcp(SERVER, CLIENT, ACK).link(server_mac(1), INSIDE);
    let expected = reply.clone().between(VIP, CLIENT).hop().link(OUTSIDE, CLIENT_ROUTER);
    assert_eq!(director.arrive(1, &reply.bytes()), Outcome::sent(0, expected.bytes()));
    assert_eq!(director.server(removed).counters.traffic(), before, "IPVS counts available servers only");

    // It comes back, and the connection with it.
    director.server(removed).available = true;
    director.service(http).servers.insert(0, removed);
    director.publish();
    assert_eq!(step(&mut director, Sender::Client, ACK).sent.len(), 1);
}

/// Weight 0 takes no new connections and keeps those that it has.
#[test]
fn a_server_of_weight_0_keeps_its_connections() {
    let mut director = Director::new();
    let (http, _) = director.both_services();
    let server = director.add_server(http, SERVER, Method::Nat, 1);
    director.publish();
    step(&mut director, Sender::Client, SYN);
    director.server(server).weight = 0;
    director.publish();
    assert_eq!(step(&mut director, Sender::Client, ACK).sent.len(), 1);
    assert_eq!(step(&mut director, Sender::Server, ACK).sent.len(), 1);
    let other = tcp("198.51.100.8:1", VIP, SYN).bytes();
    assert_eq!(director.arrive(0, &other).dropped, [DropReason::NoServer]);
}

#[test]
fn a_full_table_refuses_new_connections_and_leaves_the_others() {
    const CAPACITY: usize = 10;
    let mut director = Director::with(1, CAPACITY);
    let (http, _) = director.both_services();
    let server = director.add_server(http, SERVER, Method::Nat, 1);
    director.publish();
    let client = |n: usize| format!("198.51.100.7:{}", 1000 + n);
    for n in 0..CAPACITY {
        assert_eq!(director.arrive(0, &tcp(&client(n), VIP, SYN).bytes()).sent.len(), 1);
    }
    let before = director.list();
    for n in CAPACITY..3 * CAPACITY {
        let refused = director.arrive(0, &tcp(&client(n), VIP, SYN).bytes());
        assert_eq!(refused, Outcome::dropped(DropReason::TableFull));
    }
    assert_eq!(director.list(), before);
    assert_eq!(director.server(server).counters.traffic().connections, CAPACITY as u64);
    for n in 0..CAPACITY {
        assert_eq!(director.arrive(0, &tcp(&client(n), VIP, ACK).bytes()).sent.len(), 1, "client {n}");
    }
    // One that is over gives its place to the same client, not to another.
    director.arrive(0, &tcp(&client(3), VIP, RST).bytes());
    let other = director.arrive(0, &tcp("198.51.100.8:1", VIP, SYN).bytes());
    assert_eq!(other, Outcome::dropped(DropReason::TableFull));
    assert_eq!(director.arrive(0, &tcp(&client(3), VIP, SYN).bytes()).sent.len(), 1);
    // Expiry makes room.
    director.pass(901 * SECOND);
    assert_eq!(director.arrive(0, &tcp("198.51.100.8:1", VIP, SYN).bytes()).sent.len(), 1);
}

/// Two services of one server and one client port have the same replies. The
/// server cannot tell the connections apart either; when one ends, the other
/// must work.
#[test]
fn two_services_may_share_a_server() {
    let mut director = Director::new();
    let vips = ["192.0.2.10:80", "192.0.2.11:80"];
    for vip in vips {
        let service = director.add_service(Protocol::Tcp, vip);
        director.add_server(service, SERVER, Method::Nat, 1);
    }
    director.publish();
    for vip in vips {
        assert_eq!(director.arrive(0, &tcp(CLIENT, vip, SYN).bytes()).sent.len(), 1);
    }
    director.arrive(0, &tcp(CLIENT, vips[1], ACK).bytes());
    director.pass(61 * SECOND);
    assert_eq!(director.list().len(), 1);
    let reply = tcp(SERVER, CLIENT, ACK).link(server_mac(1), INSIDE);
    let expected = reply.clone().between(vips[1], CLIENT).hop().link(OUTSIDE, CLIENT_ROUTER);
    assert_eq!(director.arrive(1, &reply.bytes()), Outcome::sent(0, expected.bytes()));
}

#[test]
fn counters_are_those_of_ipvs() {
    let mut director = Director::serving(Method::Nat);
    let counters = director.server(ServerId(0)).counters.clone();
    let service = director.server(ServerId(0)).service_counters.clone();
    // (from, flags, active, inactive)
    let steps = [
        (Sender::Client, SYN, 1, 0),
        (Sender::Server, SYN | ACK, 1, 0),
        (Sender::Client, ACK, 1, 0),
        (Sender::Server, FIN | ACK, 0, 1),
        (Sender::Client, FIN | ACK, 0, 1),
    ];
    for (from, flags, active, inactive) in steps {
        step(&mut director, from, flags);
        assert_eq!((counters.active(), counters.inactive()), (active, inactive), "after {flags:#04x}");
    }
    // 58 bytes of IP each: link-layer header and padding do not count.
    let traffic = counters.traffic();
    assert_eq!((traffic.connections, traffic.in_packets, traffic.in_bytes), (1, 3, 3 * 58));
    assert_eq!((traffic.out_packets, traffic.out_bytes), (2, 2 * 58));
    let padded = tcp(CLIENT, VIP, ACK).payload([]).padding(&[0; 6]).vlans(&[3]);
    director.arrive(0, &padded.bytes());
    assert_eq!(counters.traffic().in_bytes, traffic.in_bytes + 40);
    // What is refused after it was scheduled counts, as in IPVS.
    director.arrive(0, &tcp(CLIENT, VIP, ACK).ttl(1).bytes());
    assert_eq!(counters.traffic().in_packets, 5);
    assert_eq!(service.sum(), counters.traffic());

    director.pass(121 * SECOND);
    assert_eq!((counters.active(), counters.inactive()), (0, 0));

    // UDP never counts as active.
    let udp_counters = director.server(ServerId(1)).counters.clone();
    director.arrive(0, &udp(CLIENT, DNS_VIP).bytes());
    assert_eq!((udp_counters.active(), udp_counters.inactive()), (0, 1));

    let worker = director.counters[0].clone();
    assert_eq!(worker.received.get(), 8);
    assert_eq!(worker.answered.get(), 1);
    assert_eq!(worker.transmitted.get(), 8, "seven forwarded and an answer");
    assert_eq!(worker.dropped(DropReason::TtlExceeded), 1);
}

#[test]
fn a_listing_says_all_of_a_connection() {
    let mut director = Director::serving(Method::FullNat);
    director.arrive(0, &tcp(CLIENT, VIP, SYN).bytes());
    let local = director.local_end();
    director.pass(SECOND);
    let of = |text: &str| (std::net::IpAddr::from(*address(text).ip()).into(), address(text).port());
    assert_eq!(
        director.list(),
        [ConnectionRecord {
            protocol: Protocol::Tcp,
            expires: 59,
            state: "SYN_RECV",
            client: of(CLIENT),
            service: of(VIP),
            local: Some(of(&local.to_string())),
            server: of(SERVER),
            method: Method::FullNat,
            any_protocol: false,
            mark: None,
            engine: None,
        }]
    );
}

/// A listing goes on between bursts and waits while nobody reads it; the
/// worker does not.
#[test]
fn a_listing_comes_in_slices_and_stalls_nothing() {
    const CONNECTIONS: usize = 1000;
    let mut director = Director::with(1, CONNECTIONS);
    let (_, dns) = director.both_services();
    director.add_server(dns, "10.0.2.1:53", Method::DirectRoute, 1);
    director.publish();
    for n in 0..CONNECTIONS {
        director.arrive(0, &udp(&format!("198.51.100.7:{}", 1000 + n), DNS_VIP).bytes());
    }
    let list =
        |director: &Director| director.exchange(0).list(Arc::default(), 1).expect("room for a command");
    let (mut slices, mut never) = (list(&director), list(&director));
    drop(list(&director));
    let mut seen = Vec::new();
    for _ in 0..20 {
        assert_eq!(director.arrive(0, &udp(CLIENT, VIP).bytes()).punted.len(), 1, "packets flow meanwhile");
        if let Slice::Of(slice) = slices.next_slice() {
            assert!(slice.len() <= 256, "a slice of {}", slice.len());
            seen.extend(slice.into_iter().map(|record| record.client));
        }
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), CONNECTIONS);
    assert_eq!(slices.next_slice(), Slice::End);
    assert!(matches!(never.next_slice(), Slice::Of(_)), "one slice waits to be read");
    assert_eq!(never.next_slice(), Slice::NotYet);
}

/// Listings that nobody reads do not pile up in the worker, nor do they keep
/// it from what else it is asked.
#[test]
fn listings_that_nobody_reads_are_given_up() {
    let mut director = Director::serving(Method::DirectRoute);
    for n in 0..600 {
        director.arrive(0, &udp(&format!("198.51.100.7:{}", 1000 + n), DNS_VIP).bytes());
    }
    let mut unread: Vec<_> = (0..200)
        .map(|_| {
            let slices = director.exchange(0).list(Arc::default(), 1).expect("room for a command");
            director.settle();
            slices
        })
        .collect();
    let (answer, reopened) = crossbeam::channel::bounded(1);
    assert!(director.exchange(0).commands.push(Command::Reopen(answer)).is_ok());
    director.settle();
    assert_eq!(reopened.try_recv(), Ok(Ok(())));

    let waiting: Vec<bool> = unread
        .iter_mut()
        .map(|slices| {
            loop {
                match slices.next_slice() {
                    Slice::Of(_) => {}
                    rest => break rest == Slice::NotYet,
                }
            }
        })
        .collect();
    assert_eq!(waiting, [[false; 200 - 64].as_slice(), &[true; 64]].concat(), "the oldest went");
}
