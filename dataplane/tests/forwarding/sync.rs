//! Synchronisation: what one director tells, another goes on with.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use sluice_dataplane::conn::ConnectionRecord;
use sluice_dataplane::service::{ClientMask, Method, Persistence};
use sluice_dataplane::sync::{Importer, Record, Report, Source, Subscription, What};

use crate::director::packets::{ACK, FIN, RST, SYN, tcp, udp};
use crate::director::{CLIENT, DNS_VIP, Director, INSIDE, SECOND, SERVER, VIP, server_mac};

/// One way from a director to another, without a wire.
pub struct Link {
    pub subscription: Subscription,
    pub importer: Importer,
    begun: u64,
}

impl Link {
    /// Connects both; `instance` is the number of the sender's process.
    pub fn new(from: &mut Director, to: &mut Director, instance: u64, capacity: usize) -> Self {
        let subscription = Subscription::new(&from.exchanges(), capacity).expect("room for a command");
        Link::by(subscription, to, instance)
    }

    /// By what is told to a listener.
    pub fn by(mut subscription: Subscription, to: &mut Director, instance: u64) -> Self {
        let hops = Arc::clone(&to.published().hops.load());
        let mut importer = Importer::new(to.exchanges(), Source::Peer, hops);
        importer.begin(instance);
        subscription.transfer();
        Link { subscription, importer, begun: instance }
    }

    /// Carries over at most so many changes; returns how many there were.
    pub fn carry(&mut self, from: &mut Director, to: &mut Director, most: usize) -> usize {
        from.settle();
        if self.subscription.is_behind() && !self.subscription.is_transferring() {
            self.importer.begin(self.begun);
            self.subscription.transfer();
        }
        let services = Arc::clone(&to.published().services.load());
        let mut carried = 0;
        while carried < most {
            let Some(change) = self.subscription.next_change() else { break };
            carried += 1;
            match change.what {
                What::Record(record) => self.importer.add(record, &services),
                What::End(_) => {
                    self.importer.flush();
                    self.importer.end();
                }
            }
        }
        self.importer.flush();
        while !self.importer.pump() {
            to.settle();
        }
        to.settle();
        assert!(self.importer.has_done(&self.importer.mark()), "workers are through with all of it");
        carried
    }

    /// Carries over all that there is.
    pub fn carry_all(&mut self, from: &mut Director, to: &mut Director) {
        while self.carry(from, to, usize::MAX) > 0 || self.subscription.is_transferring() {}
    }

    pub fn cut(mut self, to: &mut Director) {
        self.importer.lost();
        while !self.importer.pump() {
            to.settle();
        }
        to.settle();
    }

    fn count(&self, counter: impl Fn(&Report) -> u64) -> u64 {
        self.importer.reports().iter().map(|report| counter(report)).sum()
    }
}

fn open(director: &mut Director) {
    for flags in [SYN, ACK] {
        assert_eq!(director.arrive(0, &tcp(CLIENT, VIP, flags).bytes()).sent.len(), 1);
    }
}

/// What is told apart from the counter of seconds, which rounding moves by one.
fn told(list: &[ConnectionRecord]) -> Vec<ConnectionRecord> {
    list.iter().map(|record| ConnectionRecord { expires: 0, ..record.clone() }).collect()
}

#[test]
fn a_connection_goes_on_elsewhere_with_each_method() {
    for method in [Method::Nat, Method::FullNat, Method::DirectRoute, Method::Tunnel] {
        let (mut active, mut backup) = (Director::serving(method), Director::serving(method));
        let mut link = Link::new(&mut active, &mut backup, 1, 64);
        open(&mut active);
        link.carry_all(&mut active, &mut backup);
        assert_eq!(backup.list(), active.list(), "{method:?}");
        assert_eq!(backup.only_connection(), ("ESTABLISHED", 900), "{method:?}");

        // The same packet has the same way from either, in both directions.
        let from_client = tcp(CLIENT, VIP, ACK).bytes();
        let (mut here, mut there) = (active.arrive(0, &from_client), backup.arrive(0, &from_client));
        if method == Method::Tunnel {
            // The outer header is numbered by who puts it on.
            for outcome in [&mut here, &mut there] {
                outcome.sent[0].1.drain(14..34);
            }
        }
        assert_eq!(there, here, "{method:?}");
        if method.has_replies() {
            let to =
                if method == Method::FullNat { active.local_end().to_string() } else { CLIENT.to_owned() };
            let answer = tcp(SERVER, &to, ACK).link(server_mac(1), INSIDE).bytes();
            let sent = active.arrive(1, &answer);
            assert_eq!(sent.sent.len(), 1, "{method:?}");
            assert_eq!(backup.arrive(1, &answer), sent, "{method:?}");
        }
    }
}

#[test]
fn only_what_is_established_is_told() {
    let (mut active, mut backup) = (Director::serving(Method::Nat), Director::serving(Method::Nat));
    let mut link = Link::new(&mut active, &mut backup, 1, 64);
    link.carry_all(&mut active, &mut backup);
    active.arrive(0, &tcp(CLIENT, VIP, SYN).bytes());
    link.carry_all(&mut active, &mut backup);
    assert_eq!(backup.list(), []);
    active.arrive(0, &tcp(CLIENT, VIP, ACK).bytes());
    active.arrive(0, &udp(CLIENT, DNS_VIP).bytes());
    link.carry_all(&mut active, &mut backup);
    assert_eq!((backup.list().len(), told(&backup.list())), (2, told(&active.list())));
    // States follow, and so does the end.
    for flags in [FIN, RST] {
        active.arrive(0, &tcp(CLIENT, VIP, flags).bytes());
        link.carry_all(&mut active, &mut backup);
        assert_eq!(backup.list(), active.list());
    }
    active.pass(11 * SECOND);
    link.carry_all(&mut active, &mut backup);
    assert_eq!(told(&backup.list()), told(&active.list()));
    assert_eq!(backup.list().len(), 1, "only that of UDP");
}

#[test]
fn a_transfer_brings_what_was_there_and_ends_what_is_not() {
    let (mut active, mut backup) = (Director::serving(Method::FullNat), Director::serving(Method::FullNat));
    open(&mut active);
    let mut link = Link::new(&mut active, &mut backup, 1, 64);
    link.carry_all(&mut active, &mut backup);
    assert_eq!(backup.list(), active.list());
    link.cut(&mut backup);

    // Meanwhile it is reset, and gone; nobody told.
    active.arrive(0, &tcp(CLIENT, VIP, RST).bytes());
    active.pass(11 * SECOND);
    assert_eq!(active.list(), []);
    let mut link = Link::new(&mut active, &mut backup, 1, 64);
    link.carry_all(&mut active, &mut backup);
    assert_eq!(backup.list(), [], "what the same process does not name any more is over");
    // Its local port is free again: as many connections fit as without.
    open(&mut active);
    link.carry_all(&mut active, &mut backup);
    assert_eq!(backup.list(), active.list());
}

#[test]
fn what_a_process_had_that_is_gone_stays_and_is_told_back() {
    let (mut active, mut backup) = (Director::serving(Method::FullNat), Director::serving(Method::FullNat));
    open(&mut active);
    let mut link = Link::new(&mut active, &mut backup, 1, 64);
    link.carry_all(&mut active, &mut backup);
    let before = active.list();
    link.cut(&mut backup);

    // Killed, and started again with nothing.
    let mut active = Director::serving(Method::FullNat);
    let mut forth = Link::new(&mut active, &mut backup, 2, 64);
    let mut back = Link::new(&mut backup, &mut active, 7, 64);
    forth.carry_all(&mut active, &mut backup);
    back.carry_all(&mut backup, &mut active);
    assert_eq!((active.list(), backup.list()), (before.clone(), before));

    // The first packet makes it the new one's, which tells of it from then on.
    active.now += 5 * SECOND;
    backup.now += 5 * SECOND;
    active.arrive(0, &tcp(CLIENT, VIP, FIN).bytes());
    forth.carry_all(&mut active, &mut backup);
    back.carry_all(&mut backup, &mut active);
    assert_eq!((backup.list(), active.only_connection()), (active.list(), ("CLOSE_WAIT", 60)));
    active.arrive(0, &tcp(CLIENT, VIP, RST).bytes());
    active.pass(11 * SECOND);
    forth.carry_all(&mut active, &mut backup);
    assert_eq!((active.list(), backup.list()), (vec![], vec![]));
}

#[test]
fn with_two_active_directors_each_keeps_its_own() {
    let (mut one, mut other) = (Director::serving(Method::Nat), Director::serving(Method::Nat));
    let mut forth = Link::new(&mut one, &mut other, 1, 64);
    let mut back = Link::new(&mut other, &mut one, 2, 64);
    open(&mut one);
    open(&mut other);
    one.arrive(0, &tcp(CLIENT, VIP, FIN).bytes());
    forth.carry_all(&mut one, &mut other);
    back.carry_all(&mut other, &mut one);
    assert_eq!((one.only_connection().0, other.only_connection().0), ("CLOSE_WAIT", "ESTABLISHED"));
    assert_eq!(forth.count(|report| report.own.load(Relaxed)), 2);
    // Who alone has packets for a while has it.
    one.now += 40 * SECOND;
    other.now += 40 * SECOND;
    other.arrive(0, &tcp(CLIENT, VIP, ACK).bytes());
    other.pass(31 * SECOND);
    one.now += 31 * SECOND;
    // Told in one's round, and it was by a packet longer ago than half a minute.
    other.arrive(0, &tcp(CLIENT, VIP, RST).bytes());
    back.carry_all(&mut other, &mut one);
    assert_eq!(one.list(), other.list());
}

#[test]
fn a_connection_with_packets_lives_as_long_elsewhere() {
    let (mut active, mut backup) = (Director::serving(Method::Nat), Director::serving(Method::Nat));
    let mut link = Link::new(&mut active, &mut backup, 1, 64);
    open(&mut active);
    // A packet every ten minutes: twice the timeout in all.
    for _ in 0..180 {
        active.now += 10 * SECOND;
        backup.now += 10 * SECOND;
        if active.now % (600 * SECOND) == 0 {
            active.arrive(0, &tcp(CLIENT, VIP, ACK).bytes());
        }
        link.carry_all(&mut active, &mut backup);
        let (here, there) = (active.only_connection(), backup.only_connection());
        assert_eq!(here.0, there.0);
        // All are told once in half a minute.
        let told = active.now % (600 * SECOND) >= 30 * SECOND;
        assert!(!told || here.1.abs_diff(there.1) <= 31, "{here:?} {there:?}");
    }
    // The peer fails: what it told lives for the rest of its time, and no longer.
    link.cut(&mut backup);
    backup.pass(920 * SECOND);
    assert_eq!(backup.list(), []);
}

#[test]
fn what_is_unknown_is_left_out() {
    let (mut active, mut backup) = (Director::serving(Method::Nat), Director::new());
    let mut link = Link::new(&mut active, &mut backup, 1, 64);
    open(&mut active);
    link.carry_all(&mut active, &mut backup);
    assert_eq!(backup.list(), []);
    assert_eq!(link.count(|report| report.unknown.load(Relaxed)), 1);
    // Its configuration comes, and a transfer makes up for it.
    let (http, _) = backup.both_services();
    backup.add_server(http, SERVER, Method::Nat, 1);
    backup.publish();
    backup.settle();
    link.importer.begin(1);
    link.subscription.transfer();
    link.carry_all(&mut active, &mut backup);
    assert_eq!(backup.list(), active.list());
}

#[test]
fn templates_are_told_with_their_time() {
    let serve = || {
        let mut director = Director::new();
        let (http, _) = director.both_services();
        let mask = ClientMask::v4([255; 4]);
        director.service(http).options.persistence = Some(Persistence { timeout: 300, mask });
        director.add_server(http, SERVER, Method::Nat, 1);
        director.add_server(http, "10.0.2.2:80", Method::Nat, 1);
        director.publish();
        director
    };
    let (mut active, mut backup) = (serve(), serve());
    let mut link = Link::new(&mut active, &mut backup, 1, 64);
    open(&mut active);
    link.carry_all(&mut active, &mut backup);
    assert_eq!((backup.list(), backup.list().len()), (active.list(), 2));
    // The client's next connection has the same server, not the next of rr.
    let next = tcp("198.51.100.7:41000", VIP, SYN).bytes();
    let other = tcp("198.51.100.8:41000", VIP, SYN).bytes();
    assert_eq!(active.arrive(0, &next), backup.arrive(0, &next));
    assert_eq!(backup.arrive(0, &other).sent.len(), 1);
    // All end together: connection first, then the template.
    active.arrive(0, &tcp(CLIENT, VIP, RST).bytes());
    active.pass(1000 * SECOND);
    link.carry_all(&mut active, &mut backup);
    assert_eq!(active.list(), []);
}

/// A local port that is told of is not given to another connection.
#[test]
fn a_local_port_that_is_told_is_taken() {
    let (mut active, mut backup) = (Director::serving(Method::FullNat), Director::serving(Method::FullNat));
    open(&mut active);
    let port = active.local_end().port();
    let mut link = Link::new(&mut active, &mut backup, 1, 64);
    link.carry_all(&mut active, &mut backup);
    // The backup would have begun with that very port, being seeded alike.
    backup.arrive(0, &tcp("198.51.100.9:4000", VIP, SYN).bytes());
    let ports: Vec<u16> = backup.list().iter().map(|record| record.local.unwrap().1).collect();
    assert_eq!(ports.len(), 2);
    assert!(ports[0] != ports[1] && ports.contains(&port), "{ports:?}");
    // And one that is in use here is not taken over.
    let mut third = Director::serving(Method::FullNat);
    third.arrive(0, &tcp("198.51.100.9:4000", VIP, SYN).bytes());
    assert_eq!(third.local_end().port(), port);
    let mut link = Link::new(&mut active, &mut third, 1, 64);
    link.carry_all(&mut active, &mut third);
    assert_eq!((third.list().len(), link.count(|report| report.port.load(Relaxed))), (1, 1));
}

/// A queue that overflows loses changes, and a transfer makes up for them.
#[test]
fn an_overflow_is_counted_and_healed() {
    let (mut active, mut backup) = (Director::with(1, 5000), Director::with(1, 5000));
    for director in [&mut active, &mut backup] {
        let (_, dns) = director.both_services();
        director.add_server(dns, "10.0.2.1:53", Method::Nat, 1);
        director.publish();
    }
    let mut link = Link::new(&mut active, &mut backup, 1, 16);
    link.carry_all(&mut active, &mut backup);
    for port in 0..1000 {
        active.arrive(0, &udp(&format!("198.51.100.7:{}", 1024 + port), DNS_VIP).bytes());
    }
    assert_eq!(link.subscription.lost(), 1000 - 16);
    assert!(link.subscription.is_behind());
    link.carry_all(&mut active, &mut backup);
    assert!(!link.subscription.is_behind());
    assert_eq!((backup.list(), backup.list().len()), (active.list(), 1000));
}

/// The worker that is told of a connection is not always that which its packets
/// arrive at; those that could begin a connection find it nonetheless.
#[test]
fn a_datagram_finds_its_connection_at_another_worker() {
    let serve = |workers| {
        let mut director = Director::with(workers, 100);
        let (_, dns) = director.both_services();
        director.add_server(dns, "10.0.2.1:53", Method::Nat, 1);
        director.add_server(dns, "10.0.2.2:53", Method::Nat, 1);
        director.publish();
        director
    };
    let (mut active, mut backup) = (serve(1), serve(3));
    let mut link = Link::new(&mut active, &mut backup, 1, 64);
    let packet = udp(CLIENT, DNS_VIP).bytes();
    let sent = active.arrive(0, &packet);
    link.carry_all(&mut active, &mut backup);
    // rr would give the next worker's first connection to another server.
    for worker in 0..3 {
        assert_eq!(backup.arrive_at(worker, 0, &[&packet]), sent, "at worker {worker}");
        assert_eq!(backup.list().len(), 1, "at worker {worker}");
    }
    // What is of none begins one where it arrived.
    let other = udp("198.51.100.9:53", DNS_VIP).bytes();
    for worker in 0..3 {
        assert_eq!(backup.arrive_at(worker, 0, &[&other]).sent.len(), 1);
    }
    assert_eq!(backup.list().len(), 2);
    let counts: Vec<u64> = backup.counters.iter().map(|c| c.connections.get()).collect();
    assert!(counts[0] >= 1, "where it came first: {counts:?}");
}

/// Each has it at the worker where its packets came, whichever that is, and tells of it.
#[test]
fn what_comes_back_is_not_there_twice() {
    for method in [Method::Nat, Method::FullNat, Method::DirectRoute, Method::Tunnel] {
        let serve = || {
            let mut director = Director::with(3, 100);
            let (http, _) = director.both_services();
            director.add_server(http, SERVER, method, 1);
            director.publish();
            director
        };
        let (mut one, mut other) = (serve(), serve());
        let mut forth = Link::new(&mut one, &mut other, 1, 64);
        for queue in 0..3 {
            let client = format!("198.51.100.7:{}", 1000 + queue);
            for flags in [SYN, ACK] {
                one.arrive_at(queue, 0, &[&tcp(&client, VIP, flags).bytes()]);
            }
        }
        forth.carry_all(&mut one, &mut other);
        for queue in 0..3 {
            // Those of another director come by other queues.
            let client = format!("198.51.100.7:{}", 1000 + (queue + 1) % 3);
            other.arrive_at(queue, 0, &[&tcp(&client, VIP, ACK).bytes()]);
        }
        let mut back = Link::new(&mut other, &mut one, 2, 64);
        back.carry_all(&mut other, &mut one);
        forth.carry_all(&mut one, &mut other);
        assert_eq!((one.list().len(), other.list().len()), (3, 3), "{method:?}");
        assert_eq!(told(&one.list()), told(&other.list()), "{method:?}");
    }
}

/// Nothing is told of what the peer told, or both would tell each other for ever.
#[test]
fn what_was_told_is_not_told_back() {
    let (mut active, mut backup) = (Director::serving(Method::Nat), Director::serving(Method::Nat));
    let mut forth = Link::new(&mut active, &mut backup, 1, 64);
    let mut back = Subscription::new(&backup.exchanges(), 64).unwrap();
    back.transfer();
    open(&mut active);
    forth.carry_all(&mut active, &mut backup);
    active.arrive(0, &tcp(CLIENT, VIP, FIN).bytes());
    forth.carry_all(&mut active, &mut backup);
    backup.pass(31 * SECOND);
    back.transfer();
    backup.settle();
    let changes: Vec<_> = std::iter::from_fn(|| back.next_change()).map(|change| change.what).collect();
    assert!(changes.iter().all(|what| matches!(what, What::End(_))), "{changes:?}");
    // Until a packet comes by here.
    backup.arrive(0, &tcp(CLIENT, VIP, FIN).bytes());
    let Some(What::Record(Record::Session(session))) = back.next_change().map(|change| change.what) else {
        panic!("it is told");
    };
    assert_eq!(session.client.source_port, 40_000);
}
