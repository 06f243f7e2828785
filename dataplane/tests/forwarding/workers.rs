//! Several workers: a packet on another's queue finds its way to its owner.

use sluice_dataplane::service::Method;
use sluice_dataplane::stats::DropReason;

use crate::director::packets::{ACK, SYN, tcp, udp};
use crate::director::{
    CLIENT, CLIENT_ROUTER, DNS_VIP, Director, FRAMES, INSIDE, OUTSIDE, Outcome, SERVER, VIP, server_mac,
};

fn director(workers: usize, method: Method) -> Director {
    let mut director = Director::with(workers, 100);
    let (http, _) = director.both_services();
    director.add_server(http, SERVER, method, 1);
    director.publish();
    director
}

#[test]
fn packets_on_another_queue_reach_their_connection() {
    for workers in [2, 3, 5] {
        for owner in 0..workers {
            let mut director = director(workers, Method::Nat);
            director.arrive_at(owner, 0, &[&tcp(CLIENT, VIP, SYN).bytes()]);
            for queue in 0..workers {
                let ack = tcp(CLIENT, VIP, ACK);
                let expected = ack.clone().between(CLIENT, SERVER).hop().link(INSIDE, server_mac(1));
                let outcome = director.arrive_at(queue, 0, &[&ack.bytes()]);
                assert_eq!(
                    outcome,
                    Outcome::sent(1, expected.bytes()),
                    "{owner} of {workers}, queue {queue}"
                );

                let reply = tcp(SERVER, CLIENT, ACK).link(server_mac(1), INSIDE);
                let expected = reply.clone().between(VIP, CLIENT).hop().link(OUTSIDE, CLIENT_ROUTER);
                let outcome = director.arrive_at(queue, 1, &[&reply.bytes()]);
                assert_eq!(
                    outcome,
                    Outcome::sent(0, expected.bytes()),
                    "{owner} of {workers}, queue {queue}"
                );
            }
            assert_eq!(director.workers[owner].connections(), 1);
            assert_eq!(director.list().len(), 1);
        }
    }
}

/// Of a client that sends its SYN again on another queue, or a flow of datagrams
/// that the card sends elsewhere from now on.
#[test]
fn what_could_begin_a_connection_goes_to_the_one_that_there_is() {
    for method in [Method::Nat, Method::FullNat, Method::DirectRoute, Method::Tunnel] {
        for workers in [2, 3, 5] {
            for owner in 0..workers {
                let mut director = Director::with(workers, 100);
                let (http, dns) = director.both_services();
                for service in [http, dns] {
                    director.add_server(service, SERVER, method, 1);
                }
                director.publish();
                for first in [tcp(CLIENT, VIP, SYN).bytes(), udp(CLIENT, DNS_VIP).bytes()] {
                    let sent = director.arrive_at(owner, 0, &[&first]);
                    assert_eq!(sent.sent.len(), 1);
                    for queue in 0..workers {
                        let again = director.arrive_at(queue, 0, &[&first]);
                        if method != Method::Tunnel {
                            assert_eq!(again, sent, "{owner} of {workers}, queue {queue}");
                        }
                    }
                }
                assert_eq!(director.workers[owner].connections(), 2);
                assert_eq!(director.list().len(), 2);
                // What is over begins anew where its packets arrive now.
                director.pass(400 * 1_000_000_000);
                assert_eq!(director.list().len(), 0);
                let other = (owner + 1) % workers;
                director.arrive_at(other, 0, &[&udp(CLIENT, DNS_VIP).bytes()]);
                assert_eq!(director.workers[other].connections(), 1);
            }
        }
    }
}

#[test]
fn what_nobody_claims_is_punted_once() {
    for workers in [1, 2, 4] {
        for queue in 0..workers {
            let mut director = director(workers, Method::Nat);
            let stray = tcp(CLIENT, VIP, ACK).vlans(&[9]).bytes();
            assert_eq!(director.arrive_at(queue, 0, &[&stray]), Outcome::punted(0, stray), "queue {queue}");
            assert_eq!(director.sum(|c| c.punted.get()), 1);
            assert_eq!(director.sum(|c| c.received.get()), 1);
            assert_eq!(director.sum(|c| c.handed.get()), workers as u64 - 1);
        }
    }
}

#[test]
fn local_ports_of_workers_differ() {
    let mut director = director(4, Method::FullNat);
    let mut ports = Vec::new();
    for queue in 0..4 {
        for n in 0..10 {
            let client = format!("198.51.100.7:{}", 1000 + 10 * queue + n);
            let outcome = director.arrive_at(queue, 0, &[&tcp(&client, VIP, SYN).bytes()]);
            ports.push([outcome.sent[0].1[34], outcome.sent[0].1[35]]);
        }
    }
    ports.sort();
    ports.dedup();
    assert_eq!(ports.len(), 40);
}

#[test]
fn a_full_queue_between_workers_loses_and_counts() {
    let mut director = director(2, Method::Nat);
    let stray = tcp(CLIENT, VIP, ACK).bytes();
    let mut injected = 0;
    // The second worker does not go round meanwhile.
    while director.counters[0].dropped(DropReason::HandoffFull) == 0 {
        assert!(director.workers[0].port_mut().inject(0, &stray));
        director.workers[0].poll(director.now);
        injected += 1;
        assert!(injected <= 100_000, "the queue has no end");
    }
    assert_eq!(director.workers[0].port().frames_at_home(), FRAMES);
    while director.settle() != Outcome::default() {}
    // The second worker has not frames enough to punt them all at once.
    let kept = director.sum(|c| c.punted.get() + c.dropped(DropReason::NoFrame));
    assert_eq!(kept, injected - 1);
}

/// A worker without a free frame for what was passed on to it.
#[test]
fn no_free_frame_for_a_handed_packet() {
    let mut director = director(2, Method::Nat);
    let stray = tcp(CLIENT, VIP, ACK).bytes();
    let mut arp = stray.clone();
    arp[13] = 0x06;
    while director.workers[1].port_mut().inject(1, &arp) {}
    director.workers[0].port_mut().inject(0, &stray);
    director.workers[0].poll(director.now);
    director.workers[1].poll(director.now);
    assert_eq!(director.counters[1].dropped(DropReason::NoFrame), 1);
    assert_eq!(director.counters[1].received.get(), 64);
}
