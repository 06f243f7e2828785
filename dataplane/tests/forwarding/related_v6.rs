//! ICMPv6 errors about connections' packets.

use std::net::Ipv6Addr;

use etherparse::Icmpv6Type;
use sluice_dataplane::service::{Method, Protocol, ServerId};
use sluice_dataplane::stats::DropReason;

use crate::director::packets::{ACK, SYN};
use crate::director::packets_v6::{Datagram6, ethernet, icmpv6_error_with, in_v6_tunnel, tcp6, udp6};
use crate::director::{
    CLIENT_ROUTER, CLIENT6, DNS_VIP6, Director, INSIDE, INSIDE_ADDRESS6, LIP6, Mac, OUTSIDE, Outcome, Routes,
    VIP6, server_mac,
};

const ALL: [Method; 4] = [Method::Nat, Method::FullNat, Method::DirectRoute, Method::Tunnel];
/// A router between the clients and the director.
pub const ROUTER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 1);
pub const INNER_ROUTER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0xfd);
pub const RIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1);
/// Options of eight bytes behind which other ones or a protocol come.
const PADDING: [u8; 8] = [6, 0, 1, 4, 0, 0, 0, 0];

pub fn ip(socket: &str) -> Ipv6Addr {
    match crate::director::socket(socket).ip() {
        std::net::IpAddr::V6(v6) => v6,
        std::net::IpAddr::V4(v4) => panic!("{v4} is not IPv6"),
    }
}

pub fn said(type_u8: u8, code_u8: u8, info: u32) -> Icmpv6Type {
    Icmpv6Type::Unknown { type_u8, code_u8, bytes5to8: info.to_be_bytes() }
}

fn too_big(mtu: u32) -> Icmpv6Type {
    said(2, 0, mtu)
}

fn kinds() -> [Icmpv6Type; 6] {
    [too_big(1400), said(1, 0, 0), said(1, 4, 0), said(3, 0, 0), said(4, 0, 40), said(4, 1, 6)]
}

type Link = (Mac, Mac);
const FROM_CLIENTS: Link = (CLIENT_ROUTER, OUTSIDE);

fn only_sent(outcome: Outcome, what: &str) -> (usize, Vec<u8>) {
    assert!(outcome.punted.is_empty() && outcome.dropped.is_empty(), "{what}: {outcome:?}");
    let [(interface, frame)] = &outcome.sent[..] else { panic!("{what}: {outcome:?}") };
    (*interface, frame.clone())
}

/// What a server gets of an error about `reply`, of which so many bytes are
/// quoted.
fn forwarded(
    director: &mut Director,
    method: Method,
    reply: &Datagram6,
    kind: &Icmpv6Type,
    length: usize,
) -> Vec<u8> {
    let server = format!("[{RIP6}]:{}", reply.source.port());
    let (quoted, source, to) = match method {
        Method::Nat => (reply.clone().between(&server, CLIENT6), ROUTER6, RIP6),
        Method::FullNat => {
            let local = director.any_local_end().to_string();
            (reply.clone().between(&server, &local), LIP6, RIP6)
        }
        Method::DirectRoute | Method::Tunnel => (reply.clone(), ROUTER6, ip(VIP6)),
    };
    let quoted = quoted.ip_packet();
    let quoted = &quoted[..length.min(quoted.len())];
    let frame = icmpv6_error_with((INSIDE, server_mac(1)), (source, to), *kind, quoted, 63);
    match method {
        Method::Tunnel => {
            let packet = in_v6_tunnel(&frame[14..], 41, (INSIDE_ADDRESS6, RIP6), 63, 0);
            ethernet(INSIDE, server_mac(1), &packet)
        }
        _ => frame,
    }
}

fn arriving(reply: &Datagram6, kind: &Icmpv6Type, length: usize) -> Vec<u8> {
    let quoted = reply.ip_packet();
    let quoted = &quoted[..length.min(quoted.len())];
    icmpv6_error_with(FROM_CLIENTS, (ROUTER6, ip(VIP6)), *kind, quoted, 64)
}

#[test]
fn errors_from_clients_reach_the_server() {
    for method in ALL {
        let mut director = Director::serving_v6(method);
        director.arrive(0, &tcp6(CLIENT6, VIP6, SYN).bytes());
        let reply = tcp6(VIP6, CLIENT6, ACK).length(1500).hop_limit(50).traffic_class(0xb9);
        for kind in kinds() {
            let what = format!("{method:?}, {kind:?}");
            let sent = only_sent(director.arrive(0, &arriving(&reply, &kind, 1500)), &what);
            assert_eq!(sent, (1, forwarded(&mut director, method, &reply, &kind, 1500)), "{what}");
        }
    }
}

#[test]
fn as_much_as_is_quoted_is_translated() {
    for method in ALL {
        for length in [44, 47, 48, 56, 58, 60, 61, 100, 1500] {
            let mut director = Director::serving_v6(method);
            director.arrive(0, &tcp6(CLIENT6, VIP6, SYN).bytes());
            let reply = tcp6(VIP6, CLIENT6, ACK).length(1300);
            let what = format!("{method:?}, {length} bytes");
            let sent = only_sent(director.arrive(0, &arriving(&reply, &too_big(1280), length)), &what);
            assert_eq!(sent, (1, forwarded(&mut director, method, &reply, &too_big(1280), length)), "{what}");
        }
    }
}

/// The quoted packet may have extension headers, and be a first fragment.
#[test]
fn extension_headers_in_the_quoted_packet() {
    let options = |next: u8| [&[next][..], &PADDING[1..]].concat();
    let fragment = |next: u8, offset_more: u16| {
        let [high, low] = offset_more.to_be_bytes();
        vec![next, 0, high, low, 0, 0, 0, 9]
    };
    for method in ALL {
        for (what, first, extensions, is_ours) in [
            ("options", 60, options(17), true),
            ("options and a first fragment", 0, [options(44), fragment(17, 1)].concat(), true),
            ("a first fragment with options", 44, [fragment(60, 1), options(17)].concat(), true),
            ("a later fragment", 44, fragment(17, 8), false),
            ("six", 0, [options(60).repeat(5), options(17)].concat(), true),
            ("seven", 0, [options(60).repeat(6), options(17)].concat(), false),
            ("authentication", 51, options(17), false),
        ] {
            let mut director = Director::serving_v6(method);
            director.arrive(0, &udp6(CLIENT6, DNS_VIP6).bytes());
            let reply = udp6(DNS_VIP6, CLIENT6).behind(first, &extensions);
            let frame = arriving(&reply, &too_big(1300), 1500);
            let what = format!("{method:?}, {what}");
            if is_ours {
                let sent = only_sent(director.arrive(0, &frame), &what);
                let expected = forwarded(&mut director, method, &reply, &too_big(1300), 1500);
                assert_eq!(sent, (1, expected), "{what}");
            } else {
                assert_eq!(director.arrive(0, &frame), Outcome::punted(0, frame), "{what}");
            }
        }
    }
}

/// The error itself may be behind extension headers.
#[test]
fn an_error_behind_options() {
    let mut director = Director::serving_v6(Method::Nat);
    director.arrive(0, &tcp6(CLIENT6, VIP6, SYN).bytes());
    let reply = tcp6(VIP6, CLIENT6, ACK);
    let behind = |mut frame: Vec<u8>| {
        let first = std::mem::replace(&mut frame[20], 60);
        let length = u16::from_be_bytes([frame[18], frame[19]]) + 8;
        frame[18..20].copy_from_slice(&length.to_be_bytes());
        frame.splice(54..54, [&[first][..], &PADDING[1..]].concat());
        frame
    };
    let arriving = behind(arriving(&reply, &too_big(1400), 1500));
    let expected = behind(forwarded(&mut director, Method::Nat, &reply, &too_big(1400), 1500));
    assert_eq!(director.arrive(0, &arriving), Outcome::sent(1, expected));
}

/// The client sees the packet that it sent, and an error from the VIP.
#[test]
fn errors_from_servers_reach_the_client() {
    for method in [Method::Nat, Method::FullNat] {
        for source in [RIP6, INNER_ROUTER6] {
            for kind in kinds() {
                let mut director = Director::serving_v6(method);
                let request = tcp6(CLIENT6, VIP6, SYN).length(1000);
                let what = format!("{method:?}, from {source:?}, {kind:?}");
                let (_, forwarded) = only_sent(director.arrive(0, &request.bytes()), &what);
                let to = if method == Method::Nat { ip(CLIENT6) } else { LIP6 };
                let link = (server_mac(1), INSIDE);
                let arriving = icmpv6_error_with(link, (source, to), kind, &forwarded[14..], 64);
                let quoted = request.clone().hop().ip_packet();
                let ends = (ip(VIP6), ip(CLIENT6));
                let expected = icmpv6_error_with((OUTSIDE, CLIENT_ROUTER), ends, kind, &quoted, 63);
                assert_eq!(only_sent(director.arrive(1, &arriving), &what), (0, expected), "{what}");
            }
        }
    }
}

#[test]
fn what_is_about_no_connection_is_the_kernels() {
    for method in ALL {
        let mut director = Director::serving_v6(method);
        director.arrive(0, &tcp6(CLIENT6, VIP6, SYN).bytes());
        let about =
            |quoted: &[u8]| icmpv6_error_with(FROM_CLIENTS, (ROUTER6, ip(VIP6)), too_big(1300), quoted, 64);
        let known = tcp6(VIP6, CLIENT6, ACK).ip_packet();
        let with = |kind: u8| {
            let ends = (ROUTER6, ip(VIP6));
            icmpv6_error_with(FROM_CLIENTS, ends, said(kind, 0, 0), &known, 64)
        };
        let mut four = known.clone();
        four[0] = 0x45;
        let mut protocol = known.clone();
        protocol[6] = 47;
        let mut mapped = known.clone();
        mapped[24..40].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1]);
        for (what, frame) in [
            ("another client", about(&tcp6(VIP6, "[2001:db8:c::8]:40000", ACK).ip_packet())),
            ("another port", about(&tcp6(VIP6, "[2001:db8:c::7]:40001", ACK).ip_packet())),
            ("another protocol", about(&udp6(VIP6, CLIENT6).ip_packet())),
            ("the packet to the VIP itself", about(&tcp6(CLIENT6, VIP6, ACK).ip_packet())),
            ("IPv4 in it", about(&four)),
            ("GRE in it", about(&protocol)),
            ("an IPv4-mapped address in it", about(&mapped)),
            ("nothing in it", about(&[])),
            ("half a header in it", about(&known[..39])),
            ("no ports in it", about(&known[..40])),
            ("half the ports in it", about(&known[..43])),
            ("an echo request", with(128)),
            ("a neighbour solicitation", with(135)),
            ("an error that there is not", with(5)),
            ("type 0", with(0)),
            (
                "to another than the sender",
                icmpv6_error_with(FROM_CLIENTS, (ROUTER6, RIP6), too_big(1300), &known, 64),
            ),
        ] {
            assert_eq!(director.arrive(0, &frame), Outcome::punted(0, frame), "{method:?}, {what}");
        }
        let mut cut = about(&known);
        cut[18..20].copy_from_slice(&7u16.to_be_bytes());
        assert_eq!(director.arrive(0, &cut), Outcome::dropped(DropReason::Truncated), "{method:?}");
    }
}

#[test]
fn errors_that_cannot_go_on() {
    for method in ALL {
        let mut director = Director::serving_v6(method);
        director.arrive(0, &tcp6(CLIENT6, VIP6, SYN).bytes());
        let reply = tcp6(VIP6, CLIENT6, ACK).length(1500);
        let frame = arriving(&reply, &too_big(1300), 1500);
        let mut broken = frame.clone();
        broken[14 + 40 + 7] ^= 1;
        if method.has_replies() {
            assert_eq!(director.arrive(0, &broken), Outcome::dropped(DropReason::BadChecksum), "{method:?}");
        } else {
            assert_eq!(director.arrive(0, &broken).sent.len(), 1, "{method:?}");
        }
        let mut last = frame.clone();
        last[14 + 7] = 1;
        assert_eq!(director.arrive(0, &last), Outcome::dropped(DropReason::TtlExceeded), "{method:?}");

        director.publish_hops(Routes::new(2));
        assert_eq!(director.arrive(0, &frame), Outcome::dropped(DropReason::Unresolved), "{method:?}");
        assert_eq!(director.events().len(), 1, "the next hop is asked for");
    }
}

/// Errors are counted as traffic and leave the connection as it was.
#[test]
fn errors_do_not_touch_the_connection() {
    for method in ALL {
        let mut director = Director::serving_v6(method);
        director.arrive(0, &tcp6(CLIENT6, VIP6, SYN).bytes());
        director.pass(20 * crate::director::SECOND);
        let before = director.only_connection();
        director.arrive(0, &arriving(&tcp6(VIP6, CLIENT6, ACK), &too_big(1300), 1500));
        assert_eq!(director.only_connection(), before, "{method:?}");
        let traffic = &director.server(ServerId(0)).counters.share(0).traffic;
        assert_eq!(traffic.in_packets.get(), 2, "{method:?}");
    }
}

/// Not even a NAT server is told that its packet, which an error is about, is
/// nobody's.
#[test]
fn an_error_about_nothing_is_not_answered() {
    let mut director = Director::serving_v6(Method::Nat);
    director.tunables.nat_icmp_send = true;
    director.publish();
    let stray = tcp6(CLIENT6, &format!("[{RIP6}]:80"), ACK);
    assert_eq!(director.arrive(1, &tcp6(&format!("[{RIP6}]:80"), CLIENT6, ACK).bytes()).sent.len(), 1);
    let link = (server_mac(1), INSIDE);
    let frame = icmpv6_error_with(link, (RIP6, ip(CLIENT6)), said(1, 4, 0), &stray.ip_packet(), 64);
    assert_eq!(director.arrive(1, &frame), Outcome::punted(1, frame));
}

#[test]
fn errors_on_another_queue_reach_their_connection() {
    for queue in 0..3 {
        let mut director = Director::with(3, 100);
        let service = director.add_service(Protocol::Tcp, VIP6);
        director.add_server(service, &format!("[{RIP6}]:80"), Method::FullNat, 1);
        director.publish();
        director.arrive_at(1, 0, &[&tcp6(CLIENT6, VIP6, SYN).bytes()]);
        let reply = tcp6(VIP6, CLIENT6, ACK);
        let outcome = director.arrive_at(queue, 0, &[&arriving(&reply, &too_big(1300), 1500)]);
        let expected = forwarded(&mut director, Method::FullNat, &reply, &too_big(1300), 1500);
        assert_eq!(only_sent(outcome, "an error"), (1, expected), "queue {queue}");
    }
}
