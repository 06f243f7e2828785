//! Captures: what is shown of packets, and that nothing else becomes of them.

use std::sync::Arc;

use sluice_dataplane::capture::{CaptureFilter, CaptureReader, Drops, Fate, MOST_CAPTURES, Sight, Sighting};
use sluice_dataplane::conn::{ConnectionFilter, Endpoint};
use sluice_dataplane::service::{Method, Protocol};
use sluice_dataplane::stats::DropReason;

use crate::director::packets::{ACK, SYN, tcp, udp};
use crate::director::{
    CLIENT, DNS_VIP, Director, INSIDE, LIP, Routes, SECOND, SERVER, VIP, server_mac, socket,
};

const METHODS: [Method; 4] = [Method::Nat, Method::FullNat, Method::DirectRoute, Method::Tunnel];

fn end(text: &str) -> Option<Endpoint> {
    Some(Endpoint { prefix: text.parse().expect("a prefix"), port: None })
}

/// What belongs to the connections of a client.
fn of_client(prefix: &str) -> CaptureFilter {
    let connection = ConnectionFilter { client: end(prefix), ..ConnectionFilter::default() };
    CaptureFilter { connection, ..CaptureFilter::default() }
}

fn capture(director: &mut Director, filter: CaptureFilter) -> Vec<CaptureReader> {
    let filter = Arc::new(filter);
    let readers = (0..director.workers.len())
        .map(|worker| director.exchange(worker).capture(Arc::clone(&filter), 2048, 2).expect("room for it"))
        .collect();
    director.settle();
    readers
}

fn seen(readers: &mut [CaptureReader]) -> Vec<(Sighting, Vec<u8>)> {
    let all = readers
        .iter_mut()
        .flat_map(|reader| std::iter::from_fn(|| reader.read(|sighting, bytes| (*sighting, bytes.to_vec()))));
    all.collect()
}

fn sights(seen: &[(Sighting, Vec<u8>)]) -> Vec<(Sight, u8)> {
    seen.iter().map(|(sighting, _)| (sighting.sight, sighting.interface)).collect()
}

#[test]
fn packets_are_shown_before_and_after_whatever_the_method() {
    for method in METHODS {
        let mut director = Director::serving(method);
        let mut readers = capture(&mut director, of_client("198.51.100.7/32"));
        let mut others = capture(&mut director, of_client("198.51.100.8/32"));
        let request = tcp(CLIENT, VIP, SYN).bytes();
        let outcome = director.arrive(0, &request);
        let [(1, sent)] = outcome.sent.as_slice() else { panic!("{method:?}: {outcome:?}") };
        let shown = seen(&mut readers);
        assert_eq!(sights(&shown), [(Sight::Before(Fate::Sent), 0), (Sight::After, 1)], "{method:?}");
        assert_eq!((&shown[0].1, &shown[1].1), (&request, sent), "{method:?}");
        assert_eq!(shown[0].0.packet, shown[1].0.packet, "it is the same packet");
        let parties = shown[1].0.parties.expect("a connection");
        let (client, server) = (socket(CLIENT), socket(SERVER));
        assert_eq!(parties.client, (client.ip().into(), client.port()));
        assert_eq!((parties.server, parties.method), ((server.ip().into(), server.port()), method));
        assert_eq!(parties.local.is_some(), method == Method::FullNat);

        // The short way, and the way back.
        director.arrive(0, &tcp(CLIENT, VIP, ACK).bytes());
        director.arrive(0, &tcp(CLIENT, VIP, ACK).bytes());
        assert_eq!(seen(&mut readers).len(), 4, "{method:?}");
        if matches!(method, Method::Nat | Method::FullNat) {
            let to = if method == Method::Nat { CLIENT.into() } else { director.local_end().to_string() };
            let reply = tcp(SERVER, &to, SYN | ACK).link(server_mac(1), INSIDE).bytes();
            let outcome = director.arrive(1, &reply);
            let shown = seen(&mut readers);
            assert_eq!(sights(&shown), [(Sight::Before(Fate::Sent), 1), (Sight::After, 0)], "{method:?}");
            assert_eq!((&shown[0].1, &shown[1].1), (&reply, &outcome.sent[0].1), "{method:?}");
        }
        assert_eq!(seen(&mut others), [], "{method:?}");
    }
}

#[test]
fn a_server_is_found_behind_what_it_is_reached_by() {
    for method in METHODS {
        let mut director = Director::new();
        let (http, _) = director.both_services();
        for last in 1..=2 {
            director.add_server(http, &format!("10.0.2.{last}:80"), method, 1);
        }
        director.publish();
        let connection = ConnectionFilter { server: end("10.0.2.2/32"), ..ConnectionFilter::default() };
        let mut readers = capture(&mut director, CaptureFilter { connection, ..CaptureFilter::default() });
        let mut any =
            capture(&mut director, CaptureFilter { address: end("10.0.2.1/32"), ..CaptureFilter::default() });
        for port in 1..=6 {
            director.arrive(0, &tcp(&format!("198.51.100.7:{port}"), VIP, SYN).bytes());
        }
        for (readers, server) in [(&mut readers, [10, 0, 2, 2]), (&mut any, [10, 0, 2, 1])] {
            let shown = seen(readers);
            assert_eq!(shown.len(), 6, "{method:?}: three of six, before and after");
            for (sighting, _) in shown {
                assert_eq!(sighting.parties.map(|parties| parties.server.0.v4_bytes()), Some(server));
            }
        }
    }
}

#[test]
fn dropped_ones_are_shown_with_their_reason_and_the_answer() {
    let mut director = Director::new();
    director.both_services();
    director.publish();
    let mut all = capture(&mut director, CaptureFilter::default());
    let mut dropped = capture(
        &mut director,
        CaptureFilter { drops: Drops::For(DropReason::NoServer), ..CaptureFilter::default() },
    );
    let mut others = capture(
        &mut director,
        CaptureFilter { drops: Drops::For(DropReason::Truncated), ..CaptureFilter::default() },
    );
    director.arrive(0, &tcp(CLIENT, VIP, SYN).bytes());
    let before = Sight::Before(Fate::Dropped(DropReason::NoServer));
    assert_eq!(sights(&seen(&mut all)), [(before, 0), (Sight::Answer, 0)]);
    assert_eq!(sights(&seen(&mut dropped)), [(before, 0)]);
    assert_eq!(seen(&mut others), []);
    director.arrive(0, &tcp(CLIENT, VIP, SYN).bytes()[..40]);
    assert_eq!(sights(&seen(&mut others)), [(Sight::Before(Fate::Dropped(DropReason::Truncated)), 0)]);
    // Nobody's, which is not dropped.
    seen(&mut all);
    director.arrive(0, &tcp(CLIENT, "192.0.2.10:9", ACK).bytes());
    assert_eq!(sights(&seen(&mut all)), [(Sight::Before(Fate::Kernel), 0)]);
}

#[test]
fn one_that_waits_is_shown_when_it_goes_on_or_is_dropped() {
    let mut director = Director::serving(Method::Tunnel);
    director.publish_hops(Routes::new(2));
    let mut readers = capture(&mut director, of_client("198.51.100.7/32"));
    director.arrive(0, &tcp(CLIENT, VIP, SYN).bytes());
    assert_eq!(sights(&seen(&mut readers)), [(Sight::Before(Fate::Waits), 0)]);
    director.publish_hops(Routes::new(3).all_known());
    assert_eq!(director.settle().sent.len(), 1);
    assert_eq!(sights(&seen(&mut readers)), [(Sight::After, 1)]);

    director.publish_hops(Routes::new(4));
    director.arrive(0, &tcp("198.51.100.7:40001", VIP, SYN).bytes());
    seen(&mut readers);
    director.pass(2 * SECOND);
    assert_eq!(sights(&seen(&mut readers)), [(Sight::Dropped(DropReason::Unresolved), 0)]);
}

#[test]
fn a_full_ring_drops_what_is_shown_so() {
    let mut director = Director::serving(Method::DirectRoute);
    director.workers[0].port_mut().limit_transmit_ring(0);
    let drops = CaptureFilter { drops: Drops::Only, ..CaptureFilter::default() };
    let mut readers = capture(&mut director, drops);
    let frames: Vec<_> =
        (0..400).map(|n| udp(&format!("198.51.100.7:{}", 1000 + n), DNS_VIP).bytes()).collect();
    let outcome = director.arrive_at(0, 0, &frames.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let shown = seen(&mut readers);
    assert!(!shown.is_empty() && shown.len() == outcome.dropped.len(), "{} shown", shown.len());
    let full = DropReason::TransmitFull;
    let is_so = |sight| matches!(sight, Sight::Dropped(r) | Sight::Before(Fate::Dropped(r)) if r == full);
    assert!(shown.iter().all(|(sighting, _)| is_so(sighting.sight)));
}

#[test]
fn with_several_workers_each_packet_is_shown_once() {
    let mut director = Director::with(3, 1000);
    let http = director.add_service(Protocol::Tcp, VIP);
    director.add_server(http, SERVER, Method::FullNat, 1);
    director.publish();
    let mut readers = capture(&mut director, of_client("198.51.100.7/32"));
    director.arrive_at(1, 0, &[&tcp(CLIENT, VIP, SYN).bytes()]);
    for (queue, flags) in [(0, ACK), (1, ACK), (2, SYN)] {
        director.arrive_at(queue, 0, &[&tcp(CLIENT, VIP, flags).bytes()]);
    }
    let reply = tcp(SERVER, &director.local_end().to_string(), SYN | ACK).link(server_mac(1), INSIDE).bytes();
    (0..3).for_each(|queue| _ = director.arrive_at(queue, 1, &[&reply]));
    let shown = seen(&mut readers);
    assert_eq!(shown.len(), 14, "{:?}", sights(&shown));
    assert!(shown.iter().all(|(sighting, _)| sighting.worker == 1), "by the worker that has its connection");
    assert_eq!(director.local_end().ip().octets(), LIP);
}

#[test]
fn a_few_at_a_time_and_none_for_who_is_gone() {
    let mut director = Director::serving(Method::Nat);
    let mut all: Vec<_> =
        (0..MOST_CAPTURES).map(|_| capture(&mut director, CaptureFilter::default())).collect();
    let one_more = |director: &Director| director.exchange(0).capture(Arc::default(), 64, 2);
    assert!(one_more(&director).is_none());
    all.pop();
    director.settle();
    let last = one_more(&director).expect("one is gone");
    director.settle();
    director.arrive(0, &tcp(CLIENT, VIP, SYN).bytes());
    let mut last = [last];
    let shown = seen(&mut last);
    assert_eq!(shown.iter().map(|(s, bytes)| (s.length, bytes.len())).collect::<Vec<_>>(), [(72, 64); 2]);
    all.iter_mut().for_each(|readers| assert_eq!(seen(readers).len(), 2));
}

/// Bursts go another way while somebody looks on, and must come to the same.
#[test]
fn nothing_else_becomes_of_packets() {
    let traffic = |looks_on: bool| {
        let mut director = Director::serving(Method::FullNat);
        let readers = looks_on.then(|| capture(&mut director, CaptureFilter::default()));
        let mut outcomes = Vec::new();
        for round in 0..40u16 {
            let mut frames = Vec::new();
            for n in 0..90u16 {
                let client = format!("198.51.100.{}:{}", 1 + n % 30, 2000 + round % 4);
                let flags = if n % 7 == 0 { SYN } else { ACK };
                frames.push(match n % 3 {
                    0 => udp(&client, DNS_VIP).bytes(),
                    1 => tcp(&client, VIP, flags).ttl((n % 5) as u8).bytes(),
                    _ => tcp(&client, VIP, flags).bytes(),
                });
            }
            let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
            let mut outcome = director.arrive_at(0, 0, &frames);
            // What the kernel carries overtakes what has to be shown.
            outcome.sent.sort();
            outcomes.push(outcome);
            outcomes.push(director.pass(SECOND));
        }
        drop(readers);
        let mut list = director.list();
        let expires: Vec<u32> = list.iter_mut().map(|record| std::mem::take(&mut record.expires)).collect();
        (outcomes, list, expires)
    };
    let ((outcomes, list, expires), others) = (traffic(true), traffic(false));
    assert_eq!((outcomes, list), (others.0, others.1));
    // When the kernel carried the last packet of each is known within two seconds.
    assert!(expires.iter().zip(&others.2).all(|(one, other)| one.abs_diff(*other) <= 2));
}
