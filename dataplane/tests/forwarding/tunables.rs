//! What IPVS has as sysctls. What is expected was recorded from Linux 6.1, with
//! rr and servers 1 and 2 added in turn, unless a test says otherwise.

use std::sync::Arc;

use sluice_dataplane::conn::{State, TimeoutOverrides, Timeouts};
use sluice_dataplane::service::{ClientMask, Defense, Method, Persistence, Protocol, ServerId};
use sluice_dataplane::stats::DropReason;

use crate::director::packets::{ACK, FIN, RST, SYN, tcp, udp};
use crate::director::{CLIENT, DNS_VIP, Director, Outcome, SECOND, VIP};

fn director(method: Method) -> Director {
    let mut director = Director::new();
    let (http, dns) = director.both_services();
    for (service, port) in [(http, 80), (dns, 53)] {
        for last in 1..=2 {
            director.add_server(service, &format!("10.0.2.{last}:{port}"), method, 1);
        }
    }
    director.publish();
    director
}

/// The last byte of the address of the server that gets a packet; 0 for none.
fn send(director: &mut Director, flags: u8) -> u8 {
    server(&director.arrive(0, &tcp(CLIENT, VIP, flags).bytes()))
}

fn server(outcome: &Outcome) -> u8 {
    match outcome.sent.as_slice() {
        [(1, frame)] => frame[5],
        _ => 0,
    }
}

#[test]
fn conn_reuse_mode_says_when_a_syn_opens_anew() {
    for (mode, method, flags, state, then) in [
        (0, Method::Nat, &[SYN, ACK, RST][..], "CLOSE", 2),
        (1, Method::Nat, &[SYN, ACK, RST], "CLOSE", 1),
        (2, Method::Nat, &[SYN, ACK, RST], "CLOSE", 1),
        (3, Method::Nat, &[SYN, ACK, RST], "CLOSE", 1),
        (1, Method::DirectRoute, &[SYN, ACK, FIN | ACK], "FIN_WAIT", 2),
        (2, Method::DirectRoute, &[SYN, ACK, FIN | ACK], "FIN_WAIT", 1),
        (3, Method::DirectRoute, &[SYN, ACK, FIN | ACK], "FIN_WAIT", 1),
    ] {
        let mut director = director(method);
        director.tunables.conn_reuse_mode = mode;
        director.publish();
        assert!(flags.iter().all(|flags| send(&mut director, *flags) == 2), "mode {mode}");
        assert_eq!(director.only_connection().0, state, "mode {mode}");
        assert_eq!(send(&mut director, SYN), then, "mode {mode}, {state}");
        assert_eq!(director.list().len(), 1);
    }
}

#[test]
fn sloppy_tcp_begins_with_any_packet_but_a_reset() {
    for (flags, strict, sloppy) in [
        (ACK, false, true),
        (FIN, false, true),
        (FIN | ACK, false, true),
        (RST, false, false),
        (SYN | RST, false, false),
        (0, false, true),
        (SYN | ACK, true, true),
    ] {
        for (setting, begins) in [(false, strict), (true, sloppy)] {
            let mut director = director(Method::Nat);
            director.tunables.sloppy_tcp = setting;
            director.publish();
            assert_eq!(send(&mut director, flags) == 2, begins, "{flags:#x}, sloppy {setting}");
            assert_eq!(director.list().len(), usize::from(begins));
        }
    }
}

#[test]
fn connections_of_a_removed_server_stay_or_end() {
    for expire in [false, true] {
        let mut director = director(Method::Nat);
        director.tunables.expire_nodest_conn = expire;
        director.publish();
        assert_eq!((send(&mut director, SYN), send(&mut director, ACK)), (2, 2));
        let datagram = udp(CLIENT, DNS_VIP).bytes();
        assert_eq!(server(&director.arrive(0, &datagram)), 2);
        [ServerId(1), ServerId(3)].into_iter().for_each(|id| director.remove_server(id));
        director.publish();
        director.settle();
        let stray = tcp(CLIENT, VIP, ACK).bytes();
        if expire {
            director.settle();
            assert_eq!(director.list(), []);
            assert_eq!(director.arrive(0, &stray), Outcome::punted(0, stray.clone()), "the kernel resets it");
            assert_eq!(server(&director.arrive(0, &datagram)), 1);
        } else {
            assert_eq!(director.list().len(), 2);
            assert_eq!(director.arrive(0, &stray), Outcome::dropped(DropReason::ServerGone));
            assert_eq!(director.arrive(0, &datagram), Outcome::dropped(DropReason::ServerGone));
        }
    }
}

/// A packet may come before the search for such connections has: as the
/// kernel's `ip_vs_in_hook` has it, not recorded.
#[test]
fn a_packet_of_a_removed_server_begins_anew_before_its_connection_was_found() {
    let mut director = director(Method::Nat);
    director.tunables.expire_nodest_conn = true;
    director.publish();
    let datagram = udp(CLIENT, DNS_VIP).bytes();
    assert_eq!(server(&director.arrive(0, &datagram)), 2);
    director.remove_server(ServerId(3));
    director.publish();
    assert_eq!(server(&director.arrive(0, &datagram)), 1);
    assert_eq!(director.list().len(), 1);
    assert_eq!(director.server(ServerId(3)).counters.inactive(), 0);
}

#[test]
fn many_connections_of_a_removed_server_end_with_their_templates() {
    let mut director = Director::with(1, 1000);
    let id = director.add_service(Protocol::Tcp, VIP);
    director.service(id).options.persistence = Some(Persistence { timeout: 100, mask: ClientMask::HOST });
    (1..=2).for_each(|last| _ = director.add_server(id, &format!("10.0.2.{last}:80"), Method::Nat, 1));
    director.tunables.expire_nodest_conn = true;
    director.publish();
    for client in 0..900u16 {
        let from = format!("198.51.{}.{}:1000", 100 + client / 250, client % 250);
        director.arrive(0, &tcp(&from, VIP, SYN).bytes());
    }
    director.remove_server(ServerId(1));
    director.publish();
    // Not all at once, so that packets are not held up.
    director.settle();
    assert!(director.workers[0].connections() > 450);
    (0..40).for_each(|_| _ = director.settle());
    assert_eq!(director.workers[0].connections(), 450);
    let counters = director.server(ServerId(1)).counters.clone();
    assert_eq!((counters.active(), counters.inactive(), counters.persistent()), (0, 0, 0));
    assert_eq!(director.server(ServerId(0)).counters.persistent(), 450);
}

/// With a weight of 0 a SYN opens anew whatever state the connection is in: as
/// the kernel's `ip_vs_in_hook` has it, not recorded.
#[test]
fn a_quiesced_servers_connection_gives_way_to_a_syn() {
    for (expire, then) in [(false, 2), (true, 1)] {
        let mut director = director(Method::Nat);
        director.tunables.expire_nodest_conn = expire;
        director.publish();
        assert_eq!((send(&mut director, SYN), send(&mut director, ACK)), (2, 2));
        director.server(ServerId(1)).weight = 0;
        director.publish();
        assert_eq!(send(&mut director, ACK), 2);
        assert_eq!(send(&mut director, SYN), then);
        assert_eq!(director.list().len(), 1);
    }
}

#[test]
fn drop_entry_ends_what_is_not_open_or_not_used() {
    // State, packets, idle seconds, and whether it goes in the end.
    for (flags, idle, goes) in [
        (&[SYN][..], 0, true),
        (&[SYN, ACK], 0, false),
        (&[SYN, ACK], 70, true),
        (&[SYN, ACK, ACK, ACK, ACK, ACK, ACK, ACK, ACK], 70, false),
        (&[SYN, ACK, FIN | ACK], 20, false),
    ] {
        for setting in [Defense::Off, Defense::WhenShort, Defense::Always] {
            let mut director = director(Method::Nat);
            director.tunables.drop_entry = setting;
            director.tunables.amemthresh = 0;
            director.publish();
            flags.iter().for_each(|flags| _ = send(&mut director, *flags));
            director.pass(idle * SECOND);
            // One connection in 32 is looked at in a second: at least one, and
            // here there is but one.
            (0..20).for_each(|_| _ = director.pass(SECOND));
            let gone = director.list().is_empty();
            assert_eq!(gone, goes && setting == Defense::Always, "{flags:?}, idle {idle}, {setting:?}");
        }
    }
}

#[test]
fn drop_entry_waits_until_room_is_short() {
    let mut director = Director::with(1, 1000);
    let id = director.add_service(Protocol::Tcp, VIP);
    director.add_server(id, "10.0.2.1:80", Method::Nat, 1);
    director.tunables.drop_entry = Defense::WhenShort;
    // 1000 connections are 24 pages; 20 are left of them when 180 are in use.
    director.tunables.amemthresh = 20;
    director.publish();
    for client in 0..400u16 {
        let from = format!("198.51.{}.{}:1000", 100 + client / 250, client % 250);
        director.arrive(0, &tcp(&from, VIP, SYN).bytes());
    }
    (0..58).for_each(|_| _ = director.pass(SECOND));
    let left = director.workers[0].connections();
    // 13 are looked at in a second; some slots are empty by and by.
    assert!((170..=190).contains(&left), "{left} left");
}

#[test]
fn drop_packet_drops_one_in_some_that_begin_a_connection() {
    let mut director = director(Method::Nat);
    director.tunables.drop_packet = Defense::Always;
    director.tunables.am_droprate = 4;
    director.publish();
    director.pass(SECOND);
    let mut dropped = 0;
    for port in 1000..1100 {
        let from = format!("198.51.100.7:{port}");
        let outcome = director.arrive(0, &tcp(&from, VIP, SYN).bytes());
        dropped += outcome.dropped.len();
        assert!(outcome.dropped.iter().all(|reason| *reason == DropReason::Overload));
        let more = director.arrive(0, &tcp(&from, VIP, ACK).bytes());
        assert_eq!(more.dropped, [], "an established connection is not affected");
    }
    assert_eq!((dropped, director.list().len()), (25, 75));
}

#[test]
fn secure_tcp_waits_for_the_server() {
    for (setting, states) in
        [(Defense::Off, ["SYN_RECV", "ESTABLISHED"]), (Defense::Always, ["SYN_RECV", "SYN_RECV"])]
    {
        let mut director = director(Method::Nat);
        director.tunables.secure_tcp = setting;
        director.publish();
        director.pass(SECOND);
        for (flags, state) in [SYN, ACK].into_iter().zip(states) {
            send(&mut director, flags);
            assert_eq!(director.only_connection().0, state, "{setting:?}");
        }
    }
}

#[test]
fn nat_icmp_send_tells_servers_of_what_is_gone() {
    for (from, flags, told) in [
        ("10.0.2.1:80", ACK, true),
        ("10.0.2.1:80", RST, false),
        ("10.0.2.1:81", ACK, false),
        ("10.0.2.3:80", ACK, false),
    ] {
        for setting in [false, true] {
            let mut director = director(Method::Nat);
            director.tunables.nat_icmp_send = setting;
            director.publish();
            let stray = tcp(from, CLIENT, flags).bytes();
            let outcome = director.arrive(1, &stray);
            if setting && told {
                assert_eq!(outcome.dropped, [DropReason::NoConnection]);
                let [(1, answer)] = outcome.sent.as_slice() else { panic!("{outcome:?}") };
                let ip = etherparse::SlicedPacket::from_ethernet(answer).unwrap();
                let Some(etherparse::TransportSlice::Icmpv4(icmp)) = ip.transport else { panic!("{ip:?}") };
                assert_eq!((icmp.type_u8(), icmp.code_u8()), (3, 3));
            } else {
                assert_eq!(outcome, Outcome::punted(1, stray), "{from}, {flags:#x}, {setting}");
            }
        }
    }
}

/// What else such a server sends is the kernel's business.
#[test]
fn a_server_of_every_port_is_told_nothing() {
    let mut director = Director::new();
    let all = director.add_service(Protocol::Tcp, "192.0.2.10:0");
    director.service(all).options.persistence = Some(Persistence { timeout: 100, mask: ClientMask::HOST });
    director.add_server(all, "10.0.2.1:0", Method::Nat, 1);
    director.tunables.nat_icmp_send = true;
    director.publish();
    let login = tcp("10.0.2.1:22", CLIENT, ACK).bytes();
    assert_eq!(director.arrive(1, &login), Outcome::punted(1, login));
}

#[test]
fn without_pmtu_disc_a_tunnel_fragments_in_any_case() {
    let large = udp(CLIENT, DNS_VIP).payload(vec![7; 1472]).bytes();
    for (setting, pieces) in [(true, 0), (false, 2)] {
        let mut director = director(Method::Tunnel);
        director.tunables.pmtu_disc = setting;
        director.publish();
        let outcome = director.arrive(0, &large);
        let sent: Vec<_> = outcome.sent.iter().filter(|(interface, _)| *interface == 1).collect();
        assert_eq!(sent.len(), pieces, "{outcome:?}");
        // The outer headers do not say "do not fragment".
        assert!(sent.iter().all(|(_, frame)| frame[20] & 0x40 == 0), "{outcome:?}");
    }
}

#[test]
fn a_service_has_timeouts_of_its_own() {
    let mut director = director(Method::Nat);
    let mut own = TimeoutOverrides::default();
    own.set(State::Established, 40);
    let own = Arc::new(Timeouts::default().overridden(&own));
    [ServerId(0), ServerId(1)].into_iter().for_each(|id| director.server(id).timeouts = Some(own.clone()));
    director.publish();
    send(&mut director, SYN);
    assert_eq!(director.only_connection().1, 60);
    send(&mut director, ACK);
    assert_eq!(director.only_connection().1, 40);
    director.pass(41 * SECOND);
    assert_eq!(director.list(), []);
}
