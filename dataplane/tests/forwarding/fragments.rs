//! Packets that come in fragments, and those that leave in them. What is
//! expected is made by cutting the packet that a whole one would have become.

use etherparse::{IpFragOffset, Ipv4Header};
use sluice_dataplane::neigh::Egress;
use sluice_dataplane::service::{Method, Protocol, ServerId};
use sluice_dataplane::stats::DropReason;

use crate::director::packets::{ACK, Datagram, SYN, tcp, udp};
use crate::director::{
    CLIENT, CLIENT_ROUTER, DNS_VIP, Director, FRAMES, INSIDE, OUTSIDE, Outcome, Routes, SECOND, VIP, inside,
    server_mac,
};
use crate::related::{in_tunnel, without_outer_id};

const ALL: [Method; 4] = [Method::Nat, Method::FullNat, Method::DirectRoute, Method::Tunnel];
const DNS_SERVER: &str = "10.0.2.1:53";

/// The frames of a packet in fragments with so many bytes of data each.
pub fn pieces(packet: &Datagram, data: usize) -> Vec<Vec<u8>> {
    let whole = packet.bytes();
    let network = 14 + 4 * packet.vlans.len();
    let (header, rest) = Ipv4Header::from_slice(&whole[network..]).expect("an IPv4 packet");
    let chunks: Vec<&[u8]> = rest.chunks(data).collect();
    let mut frames = Vec::new();
    for (n, chunk) in chunks.iter().enumerate() {
        let mut ip = header.clone();
        ip.more_fragments = n + 1 < chunks.len();
        ip.fragment_offset = IpFragOffset::try_new((n * data / 8) as u16).expect("thirteen bits");
        ip.set_payload_len(chunk.len()).expect("it fits");
        ip.header_checksum = ip.calc_header_checksum();
        let mut frame = whole[..network].to_vec();
        frame.extend(ip.to_bytes());
        frame.extend(*chunk);
        frames.push(frame);
    }
    frames
}

/// A datagram that comes in three fragments.
fn query() -> Datagram {
    let mut query = udp(CLIENT, DNS_VIP).may_be_fragmented();
    query.payload = (0..3000).map(|n| (n % 251) as u8).collect();
    query
}

const DATA: usize = 1400;

/// What the server gets of a client's datagram.
fn forwarded(director: &mut Director, method: Method, packet: &Datagram) -> Datagram {
    let on = packet.clone().hop().link(INSIDE, server_mac(1));
    match method {
        Method::Nat => on.between(CLIENT, DNS_SERVER),
        Method::FullNat => on.between(&director.local_end().to_string(), DNS_SERVER),
        Method::DirectRoute | Method::Tunnel => on,
    }
}

fn expected(
    director: &mut Director,
    method: Method,
    packet: &Datagram,
    data: usize,
) -> Vec<(usize, Vec<u8>)> {
    let frames = pieces(&forwarded(director, method, packet), data).into_iter();
    frames.map(|frame| (1, if method == Method::Tunnel { in_tunnel(&frame) } else { frame })).collect()
}

fn sent(outcome: Outcome) -> Vec<(usize, Vec<u8>)> {
    assert!(outcome.punted.is_empty() && outcome.dropped.is_empty(), "{outcome:?}");
    outcome.sent.into_iter().map(|(interface, frame)| (interface, without_outer_id(frame))).collect()
}

fn refs(frames: &[Vec<u8>]) -> Vec<&[u8]> {
    frames.iter().map(Vec::as_slice).collect()
}

#[test]
fn later_fragments_follow_the_first() {
    for method in ALL {
        let mut director = Director::serving(method);
        let frames = pieces(&query(), DATA);
        assert_eq!(frames.len(), 3);
        let first = sent(director.arrive(0, &frames[0]));
        let rest = sent(director.arrive_at(0, 0, &refs(&frames[1..])));
        let expected = expected(&mut director, method, &query(), DATA);
        assert_eq!([first, rest].concat(), expected, "{method:?}");
        // As the whole packet would count.
        let traffic = &director.server(ServerId(1)).counters.share(0).traffic;
        assert_eq!((traffic.in_packets.get(), traffic.in_bytes.get()), (1, 3028), "{method:?}");
    }
}

#[test]
fn replies_in_fragments() {
    for method in [Method::Nat, Method::FullNat] {
        let mut director = Director::serving(method);
        director.arrive(0, &udp(CLIENT, DNS_VIP).bytes());
        let to = if method == Method::Nat { CLIENT.to_owned() } else { director.local_end().to_string() };
        let reply = query().between(DNS_SERVER, &to).link(server_mac(1), INSIDE);
        let on = query().between(DNS_VIP, CLIENT).hop().link(OUTSIDE, CLIENT_ROUTER);
        let expected: Vec<_> = pieces(&on, 640).into_iter().map(|frame| (0, frame)).collect();
        let outcome = director.arrive_at(0, 1, &refs(&pieces(&reply, 640)));
        assert_eq!(sent(outcome), expected, "{method:?}");
        assert_eq!(director.list().len(), 1);
    }
}

#[test]
fn a_segment_in_fragments_moves_the_connection_once() {
    let mut director = Director::serving(Method::Nat);
    director.arrive(0, &tcp(CLIENT, VIP, SYN).bytes());
    director.arrive(1, &tcp("10.0.2.1:80", CLIENT, SYN | ACK).link(server_mac(1), INSIDE).bytes());
    let segment = tcp(CLIENT, VIP, ACK).length(1500).may_be_fragmented();
    assert_eq!(sent(director.arrive_at(0, 0, &refs(&pieces(&segment, 504)))).len(), 3);
    assert_eq!(director.only_connection().0, "ESTABLISHED");
}

#[test]
fn early_fragments_wait_for_the_first() {
    for method in ALL {
        let mut director = Director::serving(method);
        let mut tagged = query();
        tagged.vlans = vec![7];
        let (frames, other) = (pieces(&query(), DATA), pieces(&tagged, DATA));
        assert_eq!(director.arrive(0, &frames[2]), Outcome::held(), "{method:?}");
        // The tag that it comes with does not matter.
        assert_eq!(director.arrive(0, &other[1]), Outcome::held(), "{method:?}");
        let outcome = director.arrive(0, &frames[0]);
        assert_eq!(outcome.held, -2, "{method:?}");
        let expected = expected(&mut director, method, &query(), DATA);
        let [first, second, third] = &expected[..] else { panic!() };
        assert_eq!(sent(outcome), [first.clone(), third.clone(), second.clone()], "{method:?}");
    }
}

/// The kernel may have the first one: what was punted was nobody's here.
#[test]
fn fragments_without_a_first_are_left_to_the_kernel() {
    let mut director = Director::serving(Method::Nat);
    let frames = pieces(&query(), DATA);
    assert_eq!(director.arrive(0, &frames[1]), Outcome::held());
    assert_eq!(director.pass(SECOND - 1), Outcome::default());
    let outcome = director.pass(1);
    assert_eq!(outcome, Outcome { held: -1, ..Outcome::punted(0, frames[1].clone()) });
}

#[test]
fn fragments_of_what_is_nobodys_are_left_to_the_kernel() {
    let mut director = Director::serving(Method::Nat);
    let stray = query().between(CLIENT, "192.0.2.10:5353");
    for frame in pieces(&stray, DATA) {
        assert_eq!(director.arrive(0, &frame), Outcome::punted(0, frame));
    }
    // For as long as the kernel waits for them.
    let last = pieces(&stray, DATA)[2].clone();
    director.pass(29 * SECOND);
    assert_eq!(director.arrive(0, &last), Outcome::punted(0, last.clone()));
    director.pass(SECOND);
    assert_eq!(director.arrive(0, &last), Outcome::held());
    director.pass(SECOND);
    let mut other = udp(CLIENT, DNS_VIP).bytes();
    (other[20], other[23]) = (0x20, 47);
    let checksum =
        !sluice_dataplane::wire::checksum::sum(0, &[&other[14..24], &[0, 0], &other[26..34]].concat());
    other[24..26].copy_from_slice(&checksum.to_be_bytes());
    assert_eq!(director.arrive(0, &other), Outcome::punted(0, other), "a fragment of GRE");
}

#[test]
fn later_fragments_of_what_was_dropped_are_dropped() {
    let mut director = Director::new();
    director.both_services();
    director.publish();
    let frames = pieces(&query(), DATA);
    let outcome = director.arrive(0, &frames[0]);
    assert_eq!((outcome.dropped, outcome.sent.len()), (vec![DropReason::NoServer], 1));
    assert_eq!(director.arrive(0, &frames[1]), Outcome::dropped(DropReason::NoServer));

    // Errors are about first fragments.
    let mut director = Director::serving(Method::Nat);
    let frames = pieces(&query().ttl(2), DATA);
    assert_eq!(director.arrive(0, &frames[0]).sent.len(), 1);
    let last = pieces(&query().ttl(1), DATA)[1].clone();
    assert_eq!(director.arrive(0, &last), Outcome::dropped(DropReason::TtlExceeded));
}

#[test]
fn fragments_that_contradict_themselves() {
    let segment = tcp(CLIENT, VIP, SYN).length(1500).may_be_fragmented();
    let ragged = {
        let mut frame = pieces(&segment, 504)[0].clone();
        frame.truncate(14 + 20 + 501);
        recut(&mut frame, 0x2000)
    };
    let cut = |length: usize, offset: u16| {
        let mut frame = pieces(&segment, 504)[0].clone();
        frame.truncate(14 + 20 + length);
        recut(&mut frame, offset)
    };
    for (what, frame, reason) in [
        ("not whole words of eight bytes", ragged, DropReason::Malformed),
        ("beyond 65535 bytes", cut(16, 0x1fff), DropReason::Malformed),
        ("nothing in it", cut(0, 0x2000), DropReason::Malformed),
        ("TCP flags to be overwritten", cut(16, 0x0001), DropReason::Malformed),
        ("half a TCP header", cut(16, 0x2000), DropReason::Truncated),
        ("TCP options in the next one", cut(24, 0x2000), DropReason::Malformed),
    ] {
        let mut director = Director::serving(Method::Nat);
        let mut frame = frame;
        if what.starts_with("TCP options") {
            frame[14 + 20 + 12] = 0xf0;
        }
        assert_eq!(director.arrive(0, &frame), Outcome::dropped(reason), "{what}");
        assert_eq!(director.list(), []);
    }
}

/// Sets length, flags and offset, and the checksum.
fn recut(frame: &mut [u8], flags_offset: u16) -> Vec<u8> {
    let length = (frame.len() - 14) as u16;
    frame[16..18].copy_from_slice(&length.to_be_bytes());
    frame[20..22].copy_from_slice(&flags_offset.to_be_bytes());
    frame[24..26].fill(0);
    let checksum = !sluice_dataplane::wire::checksum::sum(0, &frame[14..34]);
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame.to_vec()
}

#[test]
fn a_flood_of_later_fragments_is_bounded() {
    let mut director = Director::serving(Method::Nat);
    let mut full = 0;
    for id in 0..300 {
        let mut query = query();
        query.id = id;
        let outcome = director.arrive(0, &pieces(&query, DATA)[1]);
        assert_eq!(outcome.held + outcome.dropped.len() as i64, 1);
        full += u64::from(outcome.dropped == [DropReason::FragmentQueueFull]);
    }
    assert_eq!(full, 300 - 256);
    // A packet whose fragments come in order gets through nevertheless.
    assert_eq!(sent(director.arrive_at(0, 0, &refs(&pieces(&query(), DATA)))).len(), 3);
    let outcome = director.pass(SECOND);
    assert_eq!((outcome.held, outcome.punted.len()), (-256, 256));
    assert_eq!(director.workers[0].port().frames_at_home(), FRAMES);
}

#[test]
fn fragments_wait_for_the_next_hop() {
    for method in ALL {
        let mut director = Director::serving(method);
        director.publish_hops(Routes::new(2));
        let outcome = director.arrive_at(0, 0, &refs(&pieces(&query(), DATA)));
        assert_eq!(outcome, Outcome { held: 3, ..Outcome::default() }, "{method:?}");
        director.pass(SECOND / 2);
        // One more try does not let them wait longer.
        director.publish_hops(Routes::new(3));
        assert_eq!(director.settle(), Outcome::default(), "{method:?}");
        director.publish_hops(Routes::new(4).all_known());
        let outcome = director.settle();
        assert_eq!(outcome.held, -3, "{method:?}");
        let expected = expected(&mut director, method, &query(), DATA);
        assert_eq!(sent(outcome), expected, "{method:?}");

        director.publish_hops(Routes::new(5));
        assert_eq!(director.arrive_at(0, 0, &refs(&pieces(&query(), DATA))).held, 3);
        director.pass(SECOND / 2);
        director.publish_hops(Routes::new(6));
        director.settle();
        assert_eq!(director.pass(SECOND / 2).dropped, [DropReason::Unresolved; 3], "{method:?}");
    }
}

/// Whatever queues they come by, the fragments follow the first to where its
/// connection is.
#[test]
fn fragments_meet_their_connection_at_any_worker() {
    const WORKERS: usize = 3;
    for method in ALL {
        for owner in 0..WORKERS {
            for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
                for queues in [[0, 0, 0], [0, 1, 2], [2, 2, 1], [1, 0, 0]] {
                    let mut director = Director::with(WORKERS, 100);
                    let dns = director.add_service(Protocol::Udp, DNS_VIP);
                    director.add_server(dns, DNS_SERVER, method, 1);
                    director.publish();
                    director.arrive_at(owner, 0, &[&udp(CLIENT, DNS_VIP).bytes()]);
                    let frames = pieces(&query(), DATA);
                    let mut all = Vec::new();
                    for (place, queue) in order.into_iter().zip(queues) {
                        all.extend(sent(director.arrive_at(queue, 0, &[&frames[place]])));
                    }
                    let mut expected = expected(&mut director, method, &query(), DATA);
                    all.sort();
                    expected.sort();
                    assert_eq!(all, expected, "{method:?}, owner {owner}, {order:?} by {queues:?}");
                    assert_eq!(director.list().len(), 1, "no other connection was made");
                }
            }
        }
    }
}

/// Without a connection the same worker makes it, whichever queues are used.
#[test]
fn fragments_make_one_connection() {
    let mut director = Director::with(3, 100);
    let dns = director.add_service(Protocol::Udp, DNS_VIP);
    director.add_server(dns, DNS_SERVER, Method::Nat, 1);
    director.publish();
    for id in 0..9 {
        let mut query = query();
        query.id = id;
        for (n, frame) in pieces(&query, DATA).iter().enumerate() {
            let outcome = director.arrive_at((n + usize::from(id)) % 3, 0, &[frame]);
            assert_eq!(sent(outcome).len(), 1);
        }
    }
    assert_eq!(director.list().len(), 1);
    let stray = query().between(CLIENT, "192.0.2.10:5353");
    for (queue, frame) in pieces(&stray, DATA).into_iter().enumerate() {
        assert_eq!(director.arrive_at(queue, 0, &[&frame]), Outcome::punted(0, frame));
    }
}

fn narrow(method: Method, mtu: u16) -> Director {
    let mut director = Director::serving(method);
    let inside = Egress { mtu, ..inside() };
    director.publish_hops(Routes::over(2, Egress::new(0, OUTSIDE), inside).all_known());
    director
}

#[test]
fn what_does_not_fit_is_fragmented() {
    for method in ALL {
        let overhead = if method == Method::Tunnel { 20 } else { 0 };
        for (mtu, length) in [(1280, 1281), (1280, 1500), (600, 1500), (1301, 1500), (68, 300), (1499, 1500)]
        {
            let mut director = narrow(method, mtu);
            let packet = udp(CLIENT, DNS_VIP).length(length).may_be_fragmented();
            let data = usize::from(mtu - overhead - 20) & !7;
            let outcome = director.arrive(0, &packet.bytes());
            let expected = expected(&mut director, method, &packet, data);
            assert!(expected.iter().all(|(_, frame)| frame.len() - 14 <= usize::from(mtu)));
            assert_eq!(sent(outcome), expected, "{method:?}, {length} over {mtu}");
            assert_eq!(director.workers[0].port().frames_at_home(), FRAMES);
        }
    }
}

#[test]
fn a_fragment_that_does_not_fit_is_fragmented_again() {
    for method in ALL {
        let overhead = if method == Method::Tunnel { 20 } else { 0 };
        let mut director = narrow(method, 724 + overhead);
        // 704 bytes of data fit, and the client sends twice as much.
        let outcome = director.arrive_at(0, 0, &refs(&pieces(&query(), 1408)));
        let expected = expected(&mut director, method, &query(), 704);
        assert_eq!(sent(outcome), expected, "{method:?}");
    }
}

/// RFC 791: only some options are those of every fragment.
#[test]
fn options_are_copied_as_they_say() {
    let mut director = narrow(Method::Nat, 1280);
    let mut packet = udp(CLIENT, DNS_VIP).may_be_fragmented();
    packet.ip_options = vec![0x94, 4, 0, 0, 7, 4, 4, 0];
    let packet = packet.length(1500);
    let outcome = sent(director.arrive(0, &packet.bytes()));
    let [(1, first), (1, second)] = &outcome[..] else { panic!("{outcome:?}") };
    assert_eq!(first[34..42], [0x94, 4, 0, 0, 7, 4, 4, 0]);
    assert_eq!(second[34..42], [0x94, 4, 0, 0, 1, 1, 1, 1]);
    for frame in [first, second] {
        assert_eq!(sluice_dataplane::wire::checksum::sum(0, &frame[14..42]), 0xffff);
    }
}

#[test]
fn a_link_too_narrow_for_any_piece() {
    let mut director = narrow(Method::Tunnel, 47);
    let packet = udp(CLIENT, DNS_VIP).length(100).may_be_fragmented();
    assert_eq!(director.arrive(0, &packet.bytes()), Outcome::dropped(DropReason::TooBig));
    assert_eq!(director.workers[0].port().frames_at_home(), FRAMES);
}
