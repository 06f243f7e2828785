//! What a worker has carried by the program, which is here played by a test.

use std::sync::Arc;

use sluice_dataplane::offload::{Board, Key, Room, Share};
use sluice_dataplane::packet::Packet;
use sluice_dataplane::service::{ClientMask, Method, OffloadChoice, Persistence, Protocol};
use sluice_dataplane::stats::Traffic;

use crate::director::packets::{ACK, FIN, RST, SYN, tcp, udp};
use crate::director::{
    CLIENT, CLIENT6, DNS_VIP, Director, INSIDE, Outcome, Routes, SECOND, SERVER, VIP, VIP6, server_mac,
};

/// Packets after which a connection is carried.
pub const AFTER: usize = 4;

/// A director with the kernel's part of it.
pub struct Carried {
    pub director: Director,
    pub board: Arc<Board>,
}

impl Carried {
    /// Whose workers have so many connections carried at most, and tables with room
    /// for so many.
    pub fn new(mut director: Director, connections: usize, room: u32) -> Self {
        let board = Arc::new(Board::in_memory(Room { v4: room, v6: room }, [7; 16]));
        board.set_hops(&director.published().hops.load());
        (0..2).for_each(|interface| assert!(board.set_capable(interface, true)));
        let connections = connections / director.workers.len();
        for worker in &mut director.workers {
            let board = Arc::clone(&board);
            worker.carry(Share { board, connections, after: AFTER as u8, clock: 7 * SECOND });
        }
        director.settle();
        Carried { director, board }
    }

    pub fn serving(method: Method) -> Self {
        Carried::new(Director::serving(method), 100, 100)
    }

    /// Slots that are taken.
    pub fn slots(&self) -> usize {
        self.board.taken().0
    }

    /// Flows that no worker has taken out.
    pub fn flows(&self) -> usize {
        self.board.taken().1
    }

    /// Lets the workers do what they have to.
    pub fn settle(&mut self) {
        self.director.settle();
    }

    /// A frame arrives: the program carries it, or a worker has it. Returns whether
    /// the program did.
    pub fn arrive(&mut self, interface: usize, frame: &[u8]) -> (bool, Outcome) {
        let packet = Packet::parse(frame).expect("a packet");
        let plain = packet.tuple.protocol != Protocol::Tcp || packet.flags & (FIN | SYN | RST | ACK) == ACK;
        if self.board.meet(&Key::of(&packet.tuple), plain, packet.length.into()) {
            return (true, Outcome::default());
        }
        (false, self.director.arrive(interface, frame))
    }

    /// A client's packet, of which it is told whether the program carried it.
    pub fn client(&mut self, frame: &[u8]) -> bool {
        let (carried, outcome) = self.arrive(0, frame);
        assert!(carried || !outcome.sent.is_empty(), "{outcome:?}");
        carried
    }

    fn traffic(&self) -> Traffic {
        let table = self.director.table();
        let mut sum = Traffic::default();
        for (_, server) in table.servers() {
            let traffic = server.counters.traffic();
            sum.in_packets += traffic.in_packets;
            sum.in_bytes += traffic.in_bytes;
            sum.out_packets += traffic.out_packets;
            sum.out_bytes += traffic.out_bytes;
        }
        sum
    }

    /// Time passes, and the worker goes round now and then.
    pub fn pass(&mut self, seconds: u64) {
        for _ in 0..4 * seconds {
            self.director.pass(SECOND / 4);
            self.settle();
        }
    }

    /// A connection of a client that is carried; how many packets came to the worker.
    pub fn established(&mut self) -> usize {
        assert!(!self.client(&tcp(CLIENT, VIP, SYN).bytes()));
        for packet in 1.. {
            if self.client(&tcp(CLIENT, VIP, ACK).bytes()) {
                return packet;
            }
            assert!(packet < 100, "it is never carried");
            self.settle();
        }
        unreachable!("it was carried or not")
    }
}

#[test]
fn a_connection_is_carried_once_it_had_some_packets() {
    for (method, flows) in
        [(Method::Nat, 2), (Method::FullNat, 2), (Method::DirectRoute, 1), (Method::Tunnel, 1)]
    {
        let mut carried = Carried::serving(method);
        // The SYN is none of an established connection.
        assert_eq!(carried.established(), AFTER + 1, "{method:?}");
        assert_eq!(carried.flows(), flows, "{method:?}");
        // UDP as well, from the packet after the first.
        let frame = udp(CLIENT, DNS_VIP).bytes();
        let packets = (0..20).filter(|_| {
            let came = !carried.client(&frame);
            carried.settle();
            came
        });
        assert_eq!(packets.count(), AFTER + 1, "{method:?}");
        assert_eq!(carried.flows(), 2 * flows, "{method:?}");
    }
}

#[test]
fn ipv6_is_carried_too() {
    let mut carried = Carried::new(Director::serving_v6(Method::FullNat), 10, 10);
    use crate::director::packets_v6::tcp6;
    carried.client(&tcp6(CLIENT6, VIP6, SYN).bytes());
    for _ in 0..AFTER {
        assert!(!carried.client(&tcp6(CLIENT6, VIP6, ACK).bytes()));
    }
    carried.settle();
    assert!(carried.client(&tcp6(CLIENT6, VIP6, ACK).bytes()));
}

/// As if the worker had had every packet.
#[test]
fn what_is_carried_is_counted_and_keeps_connections() {
    let mut carried = Carried::serving(Method::Nat);
    let came = carried.established() as u64 + 1;
    let reply = tcp(SERVER, CLIENT, ACK).link(server_mac(1), INSIDE).payload(vec![1; 1000]);
    for _ in 0..10 {
        assert!(carried.client(&tcp(CLIENT, VIP, ACK).bytes()));
        assert!(carried.arrive(1, &reply.bytes()).0);
    }
    carried.pass(2);
    let traffic = carried.traffic();
    assert_eq!((traffic.in_packets, traffic.out_packets), (came + 10, 10));
    assert_eq!((traffic.in_bytes, traffic.out_bytes), ((came + 10) * 58, 10 * 1040));
    let expires = carried.director.only_connection().1;
    assert!((897..=900).contains(&expires), "{expires}");
    // For longer than it would last without a packet.
    for _ in 0..200 {
        carried.pass(7);
        assert!(carried.client(&tcp(CLIENT, VIP, ACK).bytes()), "an active connection is carried");
    }
    assert!(carried.director.only_connection().1 > 880);
    carried.pass(2);
    assert_eq!(carried.traffic().in_packets, came + 210);
    assert_eq!(carried.director.counters[0].carried.get(), 1 + 10 + 10 + 200);
}

/// The last packets of a connection are counted although it is gone.
#[test]
fn its_end_takes_a_connection_out() {
    for end in [FIN | ACK, RST, RST | ACK] {
        let mut carried = Carried::serving(Method::FullNat);
        let came = carried.established() as u64 + 1;
        assert!(carried.client(&tcp(CLIENT, VIP, ACK).bytes()));
        assert!(!carried.client(&tcp(CLIENT, VIP, end).bytes()));
        assert!(!carried.client(&tcp(CLIENT, VIP, ACK).bytes()), "what comes after is the worker's");
        carried.settle();
        assert_eq!(carried.flows(), 0);
        carried.pass(1);
        assert_eq!(carried.traffic().in_packets, came + 3);
        assert_eq!(carried.director.counters[0].offloaded.get(), 0);
    }
}

#[test]
fn what_is_idle_leaves_and_comes_back() {
    let mut carried = Carried::serving(Method::Nat);
    carried.established();
    carried.pass(15);
    assert_eq!(carried.flows(), 0);
    assert_eq!(carried.director.only_connection().0, "ESTABLISHED");
    for _ in 0..AFTER {
        assert!(!carried.client(&tcp(CLIENT, VIP, ACK).bytes()));
    }
    carried.settle();
    assert!(carried.client(&tcp(CLIENT, VIP, ACK).bytes()));
}

/// A timeout that is shorter than the time between two looks.
#[test]
fn a_short_timeout_does_not_end_what_is_active() {
    let mut director = Director::serving(Method::Nat);
    director.timeouts.set(0, 0, 1);
    director.publish();
    let mut carried = Carried::new(director, 10, 10);
    let frame = udp(CLIENT, DNS_VIP).bytes();
    for _ in 0..40 {
        carried.arrive(0, &frame);
        carried.director.pass(SECOND / 4);
        carried.settle();
    }
    assert_eq!(carried.director.list().len(), 1);
    assert!(carried.client(&frame));
    carried.pass(5);
    assert_eq!((carried.director.list().len(), carried.flows()), (0, 0));
}

/// Whoever asks is told within two seconds what IPVS would tell, while it is carried
/// and after, and that is when it ends.
#[test]
fn a_timer_is_that_of_the_last_packet_that_was_carried() {
    const TIMEOUT: u64 = 40;
    let mut director = Director::serving(Method::Nat);
    director.timeouts.set(0, 0, TIMEOUT as u32);
    director.publish();
    let mut carried = Carried::new(director, 10, 10);
    let (frame, answer) = (udp(CLIENT, DNS_VIP).bytes(), udp("10.0.2.1:53", CLIENT));
    let answer = answer.link(server_mac(1), INSIDE).bytes();
    for _ in 0..=AFTER {
        assert!(!carried.client(&frame));
        carried.settle();
    }
    for silence in [1, 2, 3, 5, 8, 13, 21, 34, 13, 34, TIMEOUT - 3] {
        // More often than not it is carried, by either way.
        for packet in 0..2 * AFTER {
            match packet % 2 {
                0 => carried.arrive(0, &frame),
                _ => carried.arrive(1, &answer),
            };
            carried.settle();
        }
        for passed in 0..silence {
            let expires = u64::from(carried.director.only_connection().1);
            assert!(expires.abs_diff(TIMEOUT - passed) <= 2, "{expires} s left after {passed}");
            carried.pass(1);
        }
    }
    carried.pass(5);
    assert_eq!((carried.director.list().len(), carried.flows()), (0, 0));
}

#[test]
fn a_new_generation_ends_all_and_they_are_entered_anew() {
    let mut carried = Carried::serving(Method::Nat);
    carried.established();
    carried.board.invalidate();
    assert!(!carried.client(&tcp(CLIENT, VIP, ACK).bytes()));
    carried.pass(2);
    assert_eq!(carried.flows(), 0);
    for _ in 0..AFTER {
        assert!(!carried.client(&tcp(CLIENT, VIP, ACK).bytes()));
    }
    carried.settle();
    assert!(carried.client(&tcp(CLIENT, VIP, ACK).bytes()));
    // Nothing is entered meanwhile.
    carried.board.set_resting(true);
    carried.pass(2);
    for _ in 0..4 * AFTER {
        assert!(!carried.client(&tcp(CLIENT, VIP, ACK).bytes()));
        carried.settle();
    }
    assert_eq!(carried.flows(), 0);
}

/// Slots of next hops mean something else by other routes.
#[test]
fn flows_go_by_the_next_hops_of_their_worker() {
    let mut carried = Carried::serving(Method::Nat);
    carried.established();
    let other = Arc::new(Routes::new(2).all_known().builder.build());
    carried.board.set_hops(&other);
    assert!(!carried.client(&tcp(CLIENT, VIP, ACK).bytes()));
    carried.pass(2);
    for _ in 0..4 * AFTER {
        assert!(!carried.client(&tcp(CLIENT, VIP, ACK).bytes()), "the worker does not know them yet");
        carried.settle();
    }
    carried.director.published().hops.store(other);
    for _ in 0..2 * AFTER {
        carried.client(&tcp(CLIENT, VIP, ACK).bytes());
        carried.settle();
    }
    assert!(carried.client(&tcp(CLIENT, VIP, ACK).bytes()));
}

#[test]
fn without_room_connections_stay_with_the_worker() {
    for (connections, room, fit) in [(3, 100, 3..=3), (100, 1, 4..=68)] {
        let mut carried = Carried::new(Director::serving(Method::Nat), connections, room);
        for client in 0..80 {
            let client = format!("198.51.100.{}:40000", client + 1);
            carried.client(&tcp(&client, VIP, SYN).bytes());
            for _ in 0..3 * AFTER {
                carried.client(&tcp(&client, VIP, ACK).bytes());
                carried.settle();
            }
        }
        let flows = carried.flows();
        assert!(flows.is_multiple_of(2) && fit.contains(&(flows / 2)), "{flows} flows");
        carried.pass(15);
        assert_eq!((carried.flows(), carried.slots()), (0, 0));
        assert_eq!(carried.director.list().len(), 80);
    }
}

#[test]
fn what_has_to_see_every_packet_stays_with_the_worker() {
    let never = |change: &dyn Fn(&mut Director), why: &str| {
        let mut director = Director::new();
        let (http, dns) = director.both_services();
        director.add_server(http, SERVER, Method::Nat, 1);
        director.add_server(dns, "10.0.2.1:53", Method::Nat, 1);
        change(&mut director);
        director.publish();
        let mut carried = Carried::new(director, 10, 10);
        carried.client(&tcp(CLIENT, VIP, SYN).bytes());
        for _ in 0..5 * AFTER {
            assert!(!carried.client(&tcp(CLIENT, VIP, ACK).bytes()), "{why}");
            assert!(!carried.client(&udp(CLIENT, DNS_VIP).bytes()), "{why}");
            carried.settle();
        }
        assert_eq!(carried.flows(), 0, "{why}");
    };
    let both = |director: &mut Director, change: &dyn Fn(&mut sluice_dataplane::service::ServiceOptions)| {
        for id in [0, 1] {
            change(&mut director.service(sluice_dataplane::service::ServiceId(id)).options);
        }
    };
    never(&|director| both(director, &|options| options.offload = OffloadChoice::Off), "off");
}

/// Its packets do nothing to a template, but for what assures it: the first answer by
/// UDP, and that it was established by TCP.
#[test]
fn a_persistent_connection_is_carried_once_its_template_is_assured() {
    let mut director = Director::new();
    let (http, dns) = director.both_services();
    director.add_server(http, SERVER, Method::Nat, 1);
    director.add_server(dns, "10.0.2.1:53", Method::Nat, 1);
    for id in [http, dns] {
        let persistence = Persistence { timeout: 60, mask: ClientMask::v4([255; 4]) };
        director.service(id).options.persistence = Some(persistence);
    }
    director.publish();
    let mut carried = Carried::new(director, 10, 10);
    carried.established();
    let (question, answer) = (udp(CLIENT, DNS_VIP).bytes(), udp("10.0.2.1:53", CLIENT));
    for _ in 0..5 * AFTER {
        assert!(!carried.client(&question), "no answer was seen");
        carried.settle();
    }
    assert!(!carried.arrive(1, &answer.link(server_mac(1), INSIDE).bytes()).0);
    for _ in 0..2 * AFTER {
        carried.client(&question);
        carried.settle();
    }
    assert!(carried.client(&question));
    assert_eq!(carried.flows(), 4);
    // Their templates last as long as they do.
    for _ in 0..10 {
        carried.pass(20);
        carried.client(&question);
        carried.client(&tcp(CLIENT, VIP, ACK).bytes());
    }
    assert_eq!(carried.director.list().len(), 4, "two connections and their templates");
}

/// Packets that should have been carried come to the worker all the same.
#[test]
fn flows_that_carry_nothing_leave() {
    let mut carried = Carried::serving(Method::DirectRoute);
    carried.established();
    carried.pass(2);
    for _ in 0..3 {
        for _ in 0..20 {
            // By an interface where there is no program.
            carried.director.arrive(0, &tcp(CLIENT, VIP, ACK).bytes());
        }
        carried.pass(2);
    }
    // They are tried again, as something was carried once.
    assert!(carried.flows() <= 1);
    assert_eq!(carried.director.list().len(), 1);
}

/// Somebody wants to see every packet for a while.
#[test]
fn a_worker_that_keeps_all_packets_has_nothing_carried() {
    let mut carried = Carried::serving(Method::Nat);
    carried.established();
    assert_ne!(carried.board.alive(0), 0);
    carried.director.workers[0].keep_all_packets(true);
    assert_eq!(carried.board.alive(0), 0, "the program carries nothing for the dead");
    carried.pass(2);
    assert_eq!((carried.flows(), carried.board.alive(0)), (0, 0));
    for _ in 0..4 * AFTER {
        assert!(!carried.client(&tcp(CLIENT, VIP, ACK).bytes()));
        carried.settle();
    }
    carried.director.workers[0].keep_all_packets(false);
    for _ in 0..2 * AFTER {
        carried.client(&tcp(CLIENT, VIP, ACK).bytes());
        carried.settle();
    }
    assert!(carried.client(&tcp(CLIENT, VIP, ACK).bytes()));
    assert_ne!(carried.board.alive(0), 0);
}
