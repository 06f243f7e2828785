//! A worker goes on with what another process had carried by the program, before any
//! packet came to it.

use sluice_dataplane::port::Port;
use sluice_dataplane::service::Method;
use sluice_dataplane::sync::Subscription;

use crate::director::packets::{ACK, FIN, RST, SYN, tcp, udp};
use crate::director::{CLIENT, DNS_VIP, SERVER, VIP, server_mac};
use crate::offload::{AFTER, Carried};
use crate::sync::Link;

/// A director, and the one that takes its place.
struct Succession {
    old: Carried,
    new: Carried,
    link: Link,
}

impl Succession {
    fn of(old: Carried, mut new: Carried) -> Self {
        let subscription = Subscription::of_successor(&old.director.exchanges(), 64);
        let link = Link::by(subscription.expect("room for a command"), &mut new.director, 1);
        Succession { old, new, link }
    }

    fn serving(method: Method) -> Self {
        let mut new = Carried::serving(method);
        // The other one has the interfaces.
        new.director.workers[0].port_mut().close();
        Succession::of(Carried::serving(method), new)
    }

    fn tell(&mut self) {
        self.link.carry_all(&mut self.old.director, &mut self.new.director);
    }

    /// The other one is gone.
    fn end(mut self) -> Carried {
        self.tell();
        self.link.cut(&mut self.new.director);
        self.new.director.workers[0].port_mut().reopen().expect("it opens");
        self.new
    }
}

#[test]
fn what_is_carried_is_carried_on_from_the_first_packet() {
    for (method, flows) in
        [(Method::Nat, 2), (Method::FullNat, 2), (Method::DirectRoute, 1), (Method::Tunnel, 1)]
    {
        let mut both = Succession::serving(method);
        both.old.established();
        let datagram = udp(CLIENT, DNS_VIP).bytes();
        while !both.old.client(&datagram) {
            both.old.settle();
        }
        // Of a connection that is not, neither is this.
        let other = "198.51.100.99:40000";
        both.old.client(&tcp(other, VIP, SYN).bytes());
        both.old.client(&tcp(other, VIP, ACK).bytes());
        both.tell();
        assert_eq!(both.new.flows(), 2 * flows, "{method:?}");

        let mut new = both.end();
        assert!(new.client(&tcp(CLIENT, VIP, ACK).bytes()), "{method:?}");
        assert!(new.client(&datagram), "{method:?}");
        if method == Method::Nat {
            let reply = tcp(SERVER, CLIENT, ACK).link(server_mac(1), crate::director::INSIDE);
            assert!(new.arrive(1, &reply.bytes()).0);
        }
        assert!(!new.client(&tcp(other, VIP, ACK).bytes()), "{method:?}");
        new.pass(2);
        let counters = &new.director.counters[0];
        assert_eq!(counters.received.get(), 1, "{method:?}");
        assert_eq!(counters.carried.get(), if method == Method::Nat { 3 } else { 2 }, "{method:?}");
        // It ends as any other.
        assert!(!new.client(&tcp(CLIENT, VIP, FIN | ACK).bytes()));
        new.settle();
        assert_eq!(new.flows(), flows, "{method:?}");
    }
}

#[test]
fn what_comes_to_be_carried_meanwhile_is_told() {
    let mut both = Succession::serving(Method::FullNat);
    both.tell();
    both.old.established();
    both.tell();
    assert_eq!(both.new.flows(), 2);
}

#[test]
fn what_ends_meanwhile_is_carried_no_more() {
    for end in [FIN | ACK, RST] {
        let mut both = Succession::serving(Method::FullNat);
        both.old.established();
        both.tell();
        assert_eq!(both.new.flows(), 2);
        assert!(!both.old.client(&tcp(CLIENT, VIP, end).bytes()));
        both.tell();
        assert_eq!(both.new.flows(), 0);
        let mut new = both.end();
        assert!(!new.client(&tcp(CLIENT, VIP, ACK).bytes()));
    }
}

#[test]
fn a_backup_carries_nothing_of_it() {
    let mut both = Succession::serving(Method::Nat);
    both.new.director.set_standby(true);
    both.old.established();
    both.tell();
    assert_eq!(both.new.flows(), 0);
    let mut new = both.end();
    for _ in 0..4 * AFTER {
        assert!(!new.client(&tcp(CLIENT, VIP, ACK).bytes()));
        new.settle();
    }
}

/// Nor is another listener told.
#[test]
fn a_peer_carries_nothing_of_it() {
    let (mut old, mut new) = (Carried::serving(Method::Nat), Carried::serving(Method::Nat));
    let mut link = Link::new(&mut old.director, &mut new.director, 1, 64);
    old.established();
    link.carry_all(&mut old.director, &mut new.director);
    assert_eq!((new.director.list().len(), new.flows()), (1, 0));
}

/// The other one's program carries all packets for as long as that takes.
#[test]
fn what_waits_for_its_turn_is_not_idle() {
    let mut both = Succession::serving(Method::Nat);
    both.old.established();
    both.tell();
    both.new.pass(30);
    assert_eq!(both.new.flows(), 2);
    let mut new = both.end();
    assert!(new.client(&tcp(CLIENT, VIP, ACK).bytes()));
    new.pass(15);
    assert_eq!(new.flows(), 0);
}

/// What cannot be entered yet is with its first packet.
#[test]
fn what_was_refused_needs_one_packet() {
    let mut both = Succession::serving(Method::Nat);
    both.new.board.set_resting(true);
    both.old.established();
    both.tell();
    assert_eq!(both.new.flows(), 0);
    both.new.board.set_resting(false);
    let mut new = both.end();
    assert!(!new.client(&tcp(CLIENT, VIP, ACK).bytes()));
    new.settle();
    assert!(new.client(&tcp(CLIENT, VIP, ACK).bytes()));
}
