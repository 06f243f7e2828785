//! IPv6 packets that come in fragments. What is expected is made by cutting the
//! packet that a whole one would have become.

use etherparse::Icmpv6Type;
use sluice_dataplane::neigh::Egress;
use sluice_dataplane::service::{Method, Protocol, ServerId};
use sluice_dataplane::stats::DropReason;

use crate::director::packets::{ACK, SYN};
use crate::director::packets_v6::{Datagram6, ethernet, icmpv6_error, in_v6_tunnel, tcp6, udp6};
use crate::director::{
    CLIENT_ROUTER, CLIENT6, DNS_SERVER6, DNS_VIP6, Director, FRAMES, INSIDE, INSIDE_ADDRESS6, OUTSIDE,
    Outcome, Routes, SECOND, SERVER6, VIP6, inside, server_mac,
};
use crate::related_v6::{RIP6, ip};

const ALL: [Method; 4] = [Method::Nat, Method::FullNat, Method::DirectRoute, Method::Tunnel];
const DATA: usize = 1400;
const ID: u32 = 0xdead_beef;

/// A datagram that comes in three fragments.
fn query() -> Datagram6 {
    let payload: Vec<u8> = (0..3000).map(|n| (n % 251) as u8).collect();
    udp6(CLIENT6, DNS_VIP6).payload(payload)
}

/// What the server gets of a client's packet.
fn forwarded(director: &mut Director, method: Method, packet: &Datagram6) -> Datagram6 {
    let on = packet.clone().hop().link(INSIDE, server_mac(1));
    match method {
        Method::Nat => on.between(CLIENT6, DNS_SERVER6),
        Method::FullNat => on.between(&director.any_local_end().to_string(), DNS_SERVER6),
        Method::DirectRoute | Method::Tunnel => on,
    }
}

fn in_tunnel(frame: &[u8]) -> Vec<u8> {
    ethernet(INSIDE, server_mac(1), &in_v6_tunnel(&frame[14..], 41, (INSIDE_ADDRESS6, RIP6), 63, 0))
}

fn expected(director: &mut Director, method: Method, packet: &Datagram6, id: u32) -> Vec<(usize, Vec<u8>)> {
    let frames = forwarded(director, method, packet).pieces(DATA, id).into_iter();
    frames.map(|frame| (1, if method == Method::Tunnel { in_tunnel(&frame) } else { frame })).collect()
}

fn sent(outcome: Outcome) -> Vec<(usize, Vec<u8>)> {
    assert!(outcome.punted.is_empty() && outcome.dropped.is_empty(), "{outcome:?}");
    outcome.sent
}

fn refs(frames: &[Vec<u8>]) -> Vec<&[u8]> {
    frames.iter().map(Vec::as_slice).collect()
}

#[test]
fn later_fragments_follow_the_first() {
    for method in ALL {
        let mut director = Director::serving_v6(method);
        let frames = query().pieces(DATA, ID);
        assert_eq!(frames.len(), 3);
        let first = sent(director.arrive(0, &frames[0]));
        let rest = sent(director.arrive_at(0, 0, &refs(&frames[1..])));
        let expected = expected(&mut director, method, &query(), ID);
        assert_eq!([first, rest].concat(), expected, "{method:?}");
        // One packet, of which the headers of the first fragment count.
        let traffic = &director.server(ServerId(1)).counters.share(0).traffic;
        assert_eq!((traffic.in_packets.get(), traffic.in_bytes.get()), (1, 3056), "{method:?}");
    }
}

#[test]
fn replies_in_fragments() {
    for method in [Method::Nat, Method::FullNat] {
        let mut director = Director::serving_v6(method);
        director.arrive(0, &udp6(CLIENT6, DNS_VIP6).bytes());
        let local = if method == Method::Nat { CLIENT6.into() } else { director.any_local_end().to_string() };
        let reply = query().between(DNS_SERVER6, &local).link(server_mac(1), INSIDE);
        let on = query().between(DNS_VIP6, CLIENT6).hop().link(OUTSIDE, CLIENT_ROUTER);
        let expected: Vec<_> = on.pieces(640, ID).into_iter().map(|frame| (0, frame)).collect();
        assert_eq!(sent(director.arrive_at(0, 1, &refs(&reply.pieces(640, ID)))), expected, "{method:?}");
        assert_eq!(director.list().len(), 1);
    }
}

/// Behind options that all of them have, and before options that only the first
/// one has, whose number the later ones have in the place of the protocol's.
#[test]
fn fragments_with_other_extension_headers() {
    for method in ALL {
        for (before, options) in [(8, [17, 0, 1, 4, 0, 0, 0, 0]), (0, [17, 0, 1, 4, 0, 0, 0, 0])] {
            let mut director = Director::serving_v6(method);
            let query = query().behind(60, &options);
            let on = |director: &mut Director| forwarded(director, method, &query);
            let cut = |packet: &Datagram6| packet.pieces_behind(before, DATA, ID);
            let outcome = director.arrive_at(0, 0, &refs(&cut(&query)));
            let frames = cut(&on(&mut director)).into_iter();
            let expected: Vec<_> = frames
                .map(|frame| (1, if method == Method::Tunnel { in_tunnel(&frame) } else { frame }))
                .collect();
            assert_eq!(sent(outcome), expected, "{method:?}, {before} bytes before");
        }
    }
}

#[test]
fn early_fragments_wait_for_the_first() {
    for method in ALL {
        let mut director = Director::serving_v6(method);
        let frames = query().pieces(DATA, ID);
        assert_eq!(director.arrive(0, &frames[2]), Outcome::held(), "{method:?}");
        // All 32 bits of the identification count.
        let other = query().pieces(DATA, ID ^ 0x8000_0000);
        assert_eq!(director.arrive(0, &other[1]), Outcome::held(), "{method:?}");
        let outcome = director.arrive(0, &frames[0]);
        assert_eq!(outcome.held, -1, "{method:?}");
        let [first, second, third] = &expected(&mut director, method, &query(), ID)[..] else { panic!() };
        assert_eq!(sent(outcome), [first.clone(), third.clone()], "{method:?}");
        assert_eq!(sent(director.arrive(0, &frames[1])), std::slice::from_ref(second), "{method:?}");
        let outcome = director.pass(SECOND);
        assert_eq!(outcome, Outcome { held: -1, ..Outcome::punted(0, other[1].clone()) });
    }
}

/// RFC 6946: in isolation from fragments of the same identification.
#[test]
fn a_fragment_that_is_all_of_its_packet() {
    for method in ALL {
        let mut director = Director::serving_v6(method);
        let frames = query().pieces(DATA, ID);
        assert_eq!(director.arrive(0, &frames[1]), Outcome::held());
        let small = udp6(CLIENT6, DNS_VIP6);
        let atomic = small.pieces(DATA, ID);
        let outcome = director.arrive_at(0, 0, &refs(&atomic));
        assert_eq!((outcome.held, atomic.len()), (0, 1));
        assert_eq!(sent(outcome), expected(&mut director, method, &small, ID), "{method:?}");
        assert_eq!(sent(director.arrive(0, &frames[0])).len(), 2, "{method:?}");
    }
}

#[test]
fn fragments_of_what_is_nobodys_are_left_to_the_kernel() {
    let mut director = Director::serving_v6(Method::Nat);
    let stray = query().between(CLIENT6, "[2001:db8:f::10]:5353");
    for frame in stray.pieces(DATA, ID) {
        assert_eq!(director.arrive(0, &frame), Outcome::punted(0, frame));
    }
    for number in [58, 132, 51, 44] {
        for n in 0..2 {
            let mut frame = query().pieces(DATA, 7).swap_remove(n);
            frame[14 + 40] = number;
            assert_eq!(director.arrive(0, &frame), Outcome::punted(0, frame), "{number}, fragment {n}");
        }
    }
    let mut mapped = query().pieces(DATA, 8).swap_remove(1);
    mapped[22..38].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1]);
    assert_eq!(director.arrive(0, &mapped), Outcome::punted(0, mapped));
}

/// Of IPv6, who sent a later fragment that is too large is told as well.
#[test]
fn fragments_that_do_not_fit() {
    for method in ALL {
        let overhead = if method == Method::Tunnel { 40 } else { 0 };
        let mtu = 1400 + overhead;
        let mut director = Director::serving_v6(method);
        director
            .publish_hops(Routes::over(2, Egress::new(0, OUTSIDE), Egress { mtu, ..inside() }).all_known());
        let frames = query().pieces(1360, ID);
        let told = |frame: &[u8]| {
            let (kind, ends) = (Icmpv6Type::PacketTooBig { mtu: 1400 }, (ip(DNS_VIP6), ip(CLIENT6)));
            let answer = icmpv6_error((OUTSIDE, CLIENT_ROUTER), ends, kind, &frame[14..]);
            Outcome::answered(DropReason::TooBig, 0, answer)
        };
        assert_eq!(director.arrive(0, &frames[0]), told(&frames[0]), "{method:?}");
        assert_eq!(director.arrive(0, &frames[1]), Outcome::dropped(DropReason::TooBig), "{method:?}");
        // The first one fits.
        let mut director = Director::serving_v6(method);
        director
            .publish_hops(Routes::over(2, Egress::new(0, OUTSIDE), Egress { mtu, ..inside() }).all_known());
        let mut first = frames[0].clone();
        first.truncate(14 + 48 + 800);
        first[18..20].copy_from_slice(&808u16.to_be_bytes());
        assert_eq!(sent(director.arrive(0, &first)).len(), 1);
        assert_eq!(director.arrive(0, &frames[1]), told(&frames[1]), "{method:?}");
    }
}

#[test]
fn fragments_that_contradict_themselves() {
    let segment = tcp6(CLIENT6, VIP6, SYN).length(1500);
    let cut = |length: usize, offset_more: u16| {
        let mut frame = segment.pieces(504, ID)[0].clone();
        frame.truncate(14 + 48 + length);
        let payload = (8 + length) as u16;
        frame[18..20].copy_from_slice(&payload.to_be_bytes());
        frame[14 + 42..14 + 44].copy_from_slice(&offset_more.to_be_bytes());
        frame
    };
    let with = |mut frame: Vec<u8>, at: usize, byte: u8| {
        frame[at] = byte;
        frame
    };
    for (what, frame, reason) in [
        ("not whole words of eight bytes", cut(501, 1), DropReason::Malformed),
        ("beyond 65535 bytes", cut(16, 0xfff8), DropReason::Malformed),
        ("nothing in it", cut(0, 1), DropReason::Malformed),
        ("nothing in a later one", cut(0, 64), DropReason::Malformed),
        ("TCP flags to be overwritten", cut(16, 8), DropReason::Malformed),
        // RFC 7112: all headers are in the first fragment.
        ("half a TCP header", cut(16, 1), DropReason::Truncated),
        ("half the options", with(with(cut(16, 1), 54, 60), 63, 9), DropReason::Truncated),
        ("TCP options in the next one", with(cut(24, 1), 14 + 48 + 12, 0xf0), DropReason::Malformed),
        ("half a fragment header", with(cut(0, 1), 19, 7)[..14 + 47].to_vec(), DropReason::Truncated),
    ] {
        let mut director = Director::serving_v6(Method::Nat);
        assert_eq!(director.arrive(0, &frame), Outcome::dropped(reason), "{what}");
        assert_eq!(director.list(), []);
    }
    // A first fragment of UDP with more data than its datagram.
    let mut director = Director::serving_v6(Method::Nat);
    let frame = with(query().pieces(DATA, ID)[0].clone(), 14 + 48 + 4, 0);
    assert_eq!(director.arrive(0, &frame), Outcome::dropped(DropReason::Malformed));
}

#[test]
fn a_flood_of_later_fragments_is_bounded() {
    let mut director = Director::serving_v6(Method::Nat);
    let mut full = 0;
    for id in 0..300 {
        let outcome = director.arrive(0, &query().pieces(DATA, id)[1]);
        assert_eq!(outcome.held + outcome.dropped.len() as i64, 1);
        full += u64::from(outcome.dropped == [DropReason::FragmentQueueFull]);
    }
    assert_eq!(full, 300 - 256);
    assert_eq!(sent(director.arrive_at(0, 0, &refs(&query().pieces(DATA, ID)))).len(), 3);
    let outcome = director.pass(SECOND);
    assert_eq!((outcome.held, outcome.punted.len()), (-256, 256));
    assert_eq!(director.workers[0].port().frames_at_home(), FRAMES);
}

#[test]
fn fragments_wait_for_the_next_hop() {
    for method in ALL {
        let mut director = Director::serving_v6(method);
        director.publish_hops(Routes::new(2));
        let outcome = director.arrive_at(0, 0, &refs(&query().pieces(DATA, ID)));
        assert_eq!(outcome, Outcome { held: 3, ..Outcome::default() }, "{method:?}");
        director.publish_hops(Routes::new(3).all_known());
        let outcome = director.settle();
        assert_eq!(outcome.held, -3, "{method:?}");
        assert_eq!(sent(outcome), expected(&mut director, method, &query(), ID), "{method:?}");
    }
}

/// Whatever queues they come by, the fragments follow the first to where its
/// connection is.
#[test]
fn fragments_meet_their_connection_at_any_worker() {
    for method in ALL {
        for owner in 0..3 {
            for (order, queues) in [([0, 1, 2], [0, 1, 2]), ([2, 1, 0], [2, 2, 1]), ([1, 0, 2], [1, 0, 0])] {
                let mut director = Director::with(3, 100);
                let dns = director.add_service(Protocol::Udp, DNS_VIP6);
                director.add_server(dns, DNS_SERVER6, method, 1);
                director.publish();
                director.arrive_at(owner, 0, &[&udp6(CLIENT6, DNS_VIP6).bytes()]);
                let frames = query().pieces(DATA, ID);
                let mut all = Vec::new();
                for (place, queue) in order.into_iter().zip(queues) {
                    all.extend(sent(director.arrive_at(queue, 0, &[&frames[place]])));
                }
                let mut expected = expected(&mut director, method, &query(), ID);
                all.sort();
                expected.sort();
                assert_eq!(all, expected, "{method:?}, owner {owner}, {order:?} by {queues:?}");
                assert_eq!(director.list().len(), 1, "no other connection was made");
            }
        }
    }
}

#[test]
fn a_segment_in_fragments_moves_the_connection_once() {
    let mut director = Director::serving_v6(Method::Nat);
    director.arrive(0, &tcp6(CLIENT6, VIP6, SYN).bytes());
    director.arrive(1, &tcp6(SERVER6, CLIENT6, SYN | ACK).link(server_mac(1), INSIDE).bytes());
    let segment = tcp6(CLIENT6, VIP6, ACK).length(1500);
    assert_eq!(sent(director.arrive_at(0, 0, &refs(&segment.pieces(504, ID)))).len(), 3);
    assert_eq!(director.only_connection().0, "ESTABLISHED");
}
