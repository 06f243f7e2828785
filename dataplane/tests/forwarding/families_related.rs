//! Errors about connections between address families: translated with what they
//! quote (RFC 7915, sections 4.2, 4.3, 5.2 and 5.3).

use std::net::Ipv6Addr;

use etherparse::{Icmpv4Type, Icmpv6Type};
use sluice_dataplane::neigh::Egress;
use sluice_dataplane::stats::DropReason;

use crate::director::packets::{ACK, IcmpError, SYN, set_tos, tcp, udp};
use crate::director::packets_v6::{Datagram6, icmpv6_error_with, tcp6, udp6};
use crate::director::{
    CLIENT, CLIENT_ROUTER, CLIENT6, DNS_VIP6, INSIDE, LIP, LIP6, Mac, OUTSIDE, Outcome, Routes, SERVER,
    SERVER6, VIP, VIP6, inside, server_mac,
};
use crate::families::{DNS_SERVER, four_to_six, local_of, six_to_four};
use crate::related_v6::{INNER_ROUTER6, RIP6, ROUTER6, ip, said};

const INNER_ROUTER: [u8; 4] = [10, 0, 2, 253];
const ROUTER: [u8; 4] = [198, 18, 0, 1];
const VIP_ADDRESS: [u8; 4] = [192, 0, 2, 10];
const CLIENT_ADDRESS: [u8; 4] = [198, 51, 100, 7];
const RIP: [u8; 4] = [10, 0, 2, 1];
const LIP_ADDRESS: [u8; 4] = LIP;
type Link = (Mac, Mac);
const FROM_CLIENTS: Link = (CLIENT_ROUTER, OUTSIDE);
const TO_CLIENTS: Link = (OUTSIDE, CLIENT_ROUTER);

fn v4(type_u8: u8, code_u8: u8, bytes5to8: [u8; 4]) -> Icmpv4Type {
    Icmpv4Type::Unknown { type_u8, code_u8, bytes5to8 }
}

fn too_big_v4(mtu: u16) -> Icmpv4Type {
    let [high, low] = mtu.to_be_bytes();
    v4(3, 4, [0, 0, high, low])
}

/// An ICMP error with precedence "internetwork control".
fn error_v4(link: Link, ends: ([u8; 4], [u8; 4]), kind: Icmpv4Type, quoted: &[u8]) -> Vec<u8> {
    let ((from_mac, to_mac), (source, destination)) = (link, ends);
    IcmpError { from_mac, to_mac, source, destination, kind, quoted, id: 77 }.bytes()
}

/// What becomes of an ICMPv6 error: TOS and hops are those of the old header.
fn translated_v4(link: Link, ends: ([u8; 4], [u8; 4]), kind: Icmpv4Type, quoted: &[u8], id: u16) -> Vec<u8> {
    let ((from_mac, to_mac), (source, destination)) = (link, ends);
    let mut frame = IcmpError { from_mac, to_mac, source, destination, kind, quoted, id }.bytes_with(63);
    let (mut ip, _) = etherparse::Ipv4Header::from_slice(&frame[14..]).expect("it was just made");
    set_tos(&mut ip, 0);
    ip.header_checksum = ip.calc_header_checksum();
    frame[14..34].copy_from_slice(&ip.to_bytes());
    frame
}

/// What becomes of an ICMP error.
fn translated_v6(link: Link, ends: (Ipv6Addr, Ipv6Addr), kind: Icmpv6Type, quoted: &[u8]) -> Vec<u8> {
    let mut frame = icmpv6_error_with(link, ends, kind, quoted, 63);
    // The traffic class.
    (frame[14], frame[15]) = (0x6c, 0x00);
    frame
}

fn only_sent(outcome: Outcome, what: &str) -> (usize, Vec<u8>) {
    assert!(outcome.punted.is_empty() && outcome.dropped.is_empty(), "{what}: {outcome:?}");
    let [(interface, frame)] = &outcome.sent[..] else { panic!("{what}: {outcome:?}") };
    (*interface, frame.clone())
}

/// The packet that the client sent as it was when it left the director, in the
/// client's family.
fn hop6(packet: &Datagram6) -> Vec<u8> {
    let mut packet = packet.clone().hop();
    packet.flow_label = 0;
    packet.ip_packet()
}

/// From the IPv4 servers' side to the IPv6 client.
#[test]
fn errors_of_ipv4_reach_the_ipv6_client() {
    for source in [RIP, INNER_ROUTER] {
        for (of_v4, to_v6) in [
            (too_big_v4(1400), said(2, 0, 1420)),
            (too_big_v4(1500), said(2, 0, 1500)),
            (too_big_v4(600), said(2, 0, 1280)),
            (v4(3, 1, [0; 4]), said(1, 0, 0)),
            (v4(3, 3, [0; 4]), said(1, 4, 0)),
            (v4(11, 0, [0; 4]), said(3, 0, 0)),
            (v4(12, 0, [9, 0, 0, 0]), said(4, 0, 6)),
        ] {
            let what = format!("from {source:?}, {of_v4:?}");
            let mut director = six_to_four();
            let request = tcp6(CLIENT6, VIP6, SYN).length(500).traffic_class(0xb8);
            let (_, sent) = only_sent(director.arrive(0, &request.bytes()), &what);
            let arriving = error_v4((server_mac(1), INSIDE), (source, LIP_ADDRESS), of_v4, &sent[14..]);
            let expected = translated_v6(TO_CLIENTS, (ip(VIP6), ip(CLIENT6)), to_v6, &hop6(&request));
            assert_eq!(only_sent(director.arrive(1, &arriving), &what), (0, expected), "{what}");
        }
    }
}

/// From the IPv6 client's side to the IPv4 server.
#[test]
fn errors_of_ipv6_reach_the_ipv4_server() {
    for (of_v6, to_v4) in [
        (said(2, 0, 1400), too_big_v4(1380)),
        (said(2, 0, 1280), too_big_v4(1260)),
        (said(2, 0, 0x1_0000), too_big_v4(1500)),
        (said(2, 0, 0), too_big_v4(68)),
        (said(1, 0, 0), v4(3, 1, [0; 4])),
        (said(1, 1, 0), v4(3, 10, [0; 4])),
        (said(1, 4, 0), v4(3, 3, [0; 4])),
        (said(3, 0, 0), v4(11, 0, [0; 4])),
        (said(4, 0, 7), v4(12, 0, [8, 0, 0, 0])),
        (said(4, 1, 40), v4(3, 2, [0; 4])),
    ] {
        let what = format!("{of_v6:?}");
        let mut director = six_to_four();
        director.arrive(0, &tcp6(CLIENT6, VIP6, SYN).bytes());
        let local = local_of(&mut director, LIP);
        let reply = tcp(SERVER, &local, ACK).length(1480).link(server_mac(1), INSIDE);
        let (_, sent) = only_sent(director.arrive(1, &reply.bytes()), &what);
        let arriving = icmpv6_error_with(FROM_CLIENTS, (ROUTER6, ip(VIP6)), of_v6, &sent[14..], 64);
        // What was not carried on: the identification.
        let mut quoted = reply.hop();
        (quoted.id, quoted.dont_fragment) = (0, true);
        let ends = (LIP_ADDRESS, RIP);
        let link = (INSIDE, server_mac(1));
        let expected = translated_v4(link, ends, to_v4, &quoted.ip_packet(), 3);
        assert_eq!(only_sent(director.arrive(0, &arriving), &what), (1, expected), "{what}");
    }
}

/// From the IPv6 servers' side to the IPv4 client, and from its side to them.
#[test]
fn errors_with_ipv6_servers() {
    let mut director = four_to_six();
    let request = tcp(CLIENT, VIP, SYN).length(1000);
    let (_, sent) = only_sent(director.arrive(0, &request.bytes()), "the request");
    let local = local_of(&mut director, LIP6);
    for (source, of_v6, to_v4) in
        [(INNER_ROUTER6, said(2, 0, 1400), too_big_v4(1380)), (RIP6, said(1, 4, 0), v4(3, 3, [0; 4]))]
    {
        let arriving = icmpv6_error_with((server_mac(1), INSIDE), (source, LIP6), of_v6, &sent[14..], 64);
        let mut quoted = request.clone().hop();
        // As what it quotes would have been translated back: it is small.
        (quoted.id, quoted.dont_fragment) = (0, false);
        let (_, frame) = only_sent(director.arrive(1, &arriving), "an error");
        let ends = (VIP_ADDRESS, CLIENT_ADDRESS);
        let id = u16::from_be_bytes([frame[18], frame[19]]);
        assert_eq!(frame, translated_v4(TO_CLIENTS, ends, to_v4, &quoted.ip_packet(), id));
    }

    let reply = tcp6(SERVER6, &local, ACK).length(1300).link(server_mac(1), INSIDE);
    let (_, sent) = only_sent(director.arrive(1, &reply.bytes()), "the reply");
    let arriving = error_v4(FROM_CLIENTS, (ROUTER, VIP_ADDRESS), too_big_v4(1270), &sent[14..]);
    let sender = ip(&local);
    let expected = translated_v6((INSIDE, server_mac(1)), (sender, RIP6), said(2, 0, 1290), &{
        let quoted = hop6(&reply);
        // An ICMP error has 576 bytes at most, two headers and its own among them.
        quoted[..40 + 576 - 48].to_vec()
    });
    assert_eq!(only_sent(director.arrive(0, &arriving), "an error"), (1, expected));
}

/// As much is translated as was quoted.
#[test]
fn short_quotations() {
    for length in [24, 27, 28, 36, 38, 40, 100] {
        let mut director = six_to_four();
        let request = tcp6(CLIENT6, VIP6, SYN).length(500);
        let (_, sent) = only_sent(director.arrive(0, &request.bytes()), "the request");
        let ends = (INNER_ROUTER, LIP_ADDRESS);
        let arriving = error_v4((server_mac(1), INSIDE), ends, v4(3, 1, [0; 4]), &sent[14..14 + length]);
        let ends = (ip(VIP6), ip(CLIENT6));
        let expected = translated_v6(TO_CLIENTS, ends, said(1, 0, 0), &hop6(&request)[..length + 20]);
        let sent = only_sent(director.arrive(1, &arriving), "an error");
        assert_eq!(sent, (0, expected), "{length} bytes");
    }
}

/// A router that names no MTU has one of the usual (RFC 1191, section 7).
#[test]
fn an_mtu_that_is_not_told() {
    let mut director = six_to_four();
    let request = tcp6(CLIENT6, VIP6, SYN).length(1520);
    let (_, sent) = only_sent(director.arrive(0, &request.bytes()), "the request");
    let ends = (INNER_ROUTER, LIP_ADDRESS);
    let arriving = error_v4((server_mac(1), INSIDE), ends, v4(3, 4, [0; 4]), &sent[14..]);
    let (_, frame) = only_sent(director.arrive(1, &arriving), "an error");
    // 1492, and as large as the link to the client takes.
    assert_eq!(frame[14 + 44..14 + 48], 1500u32.to_be_bytes());
}

/// Fragments differ by eight bytes more (RFC 7915, sections 4.2 and 5.2).
#[test]
fn errors_about_fragments() {
    let query = udp6(CLIENT6, DNS_VIP6).length(2000);
    let mut director = six_to_four();
    let first = &query.pieces(1200, 0x1_0007)[0];
    let (_, sent) = only_sent(director.arrive(0, first), "a fragment");
    let local = local_of(&mut director, LIP);
    let ends = (INNER_ROUTER, LIP_ADDRESS);
    let arriving = error_v4((server_mac(1), INSIDE), ends, too_big_v4(1400), &sent[14..14 + 300]);
    let mut quoted = query.clone();
    quoted.flow_label = 0;
    let quoted = &quoted.hop().pieces(1200, 7)[0][14..14 + 328];
    let expected = translated_v6(TO_CLIENTS, (ip(DNS_VIP6), ip(CLIENT6)), said(2, 0, 1428), quoted);
    assert_eq!(only_sent(director.arrive(1, &arriving), "an error"), (0, expected));

    let mut answer = udp(DNS_SERVER, &local).length(2000).may_be_fragmented().link(server_mac(1), INSIDE);
    answer.id = 0xbeef;
    let pieces = crate::fragments::pieces(&answer, 1200);
    let (_, sent) = only_sent(director.arrive(1, &pieces[0]), "a fragment");
    let arriving =
        icmpv6_error_with(FROM_CLIENTS, (ROUTER6, ip(DNS_VIP6)), said(2, 0, 1280), &sent[14..], 64);
    let quoted = crate::fragments::pieces(&answer.hop(), 1200);
    let (_, frame) = only_sent(director.arrive(0, &arriving), "an error");
    let id = u16::from_be_bytes([frame[18], frame[19]]);
    let expected =
        translated_v4((INSIDE, server_mac(1)), (LIP_ADDRESS, RIP), too_big_v4(1252), &quoted[0][14..], id);
    assert_eq!(frame, expected);
}

/// The parts of an error that RFC 4884 puts behind the quoted packet.
#[test]
fn extensions_are_left_out() {
    let mut director = six_to_four();
    let request = tcp6(CLIENT6, VIP6, SYN).length(500);
    let (_, sent) = only_sent(director.arrive(0, &request.bytes()), "the request");
    let mut quoted = sent[14..14 + 128].to_vec();
    quoted.extend([0x20, 0, 0, 0, 0, 8, 1, 1, 1, 2, 3, 4]);
    let kind = v4(11, 0, [0, 32, 0, 0]);
    let arriving = error_v4((server_mac(1), INSIDE), (INNER_ROUTER, LIP_ADDRESS), kind, &quoted);
    let ends = (ip(VIP6), ip(CLIENT6));
    let expected = translated_v6(TO_CLIENTS, ends, said(3, 0, 0), &hop6(&request)[..148]);
    assert_eq!(only_sent(director.arrive(1, &arriving), "an error"), (0, expected));
}

#[test]
fn errors_that_are_not_translated() {
    let mut director = six_to_four();
    let (_, sent) = only_sent(director.arrive(0, &tcp6(CLIENT6, VIP6, SYN).bytes()), "the SYN");
    let about = |kind| error_v4((server_mac(1), INSIDE), (INNER_ROUTER, LIP_ADDRESS), kind, &sent[14..]);
    for kind in [v4(4, 0, [0; 4]), v4(3, 14, [0; 4]), v4(12, 1, [0; 4]), v4(12, 0, [4, 0, 0, 0])] {
        let outcome = director.arrive(1, &about(kind.clone()));
        assert_eq!(outcome, Outcome::dropped(DropReason::Untranslatable), "{kind:?}");
    }
    let mut broken = about(v4(3, 1, [0; 4]));
    broken[14 + 20 + 5] ^= 1;
    assert_eq!(director.arrive(1, &broken), Outcome::dropped(DropReason::BadChecksum));
    let stranger = error_v4(
        (server_mac(1), INSIDE),
        (INNER_ROUTER, LIP_ADDRESS),
        v4(3, 1, [0; 4]),
        &tcp("10.0.2.200:1024", "10.0.2.3:80", ACK).ip_packet(),
    );
    assert_eq!(director.arrive(1, &stranger), Outcome::punted(1, stranger));
}

/// What fits the narrowest of links that IPv6 may have.
#[test]
fn errors_fit_the_next_link() {
    let mut director = six_to_four();
    let narrow = Egress { mtu: 1280, ..Egress::new(0, OUTSIDE) };
    director.publish_hops(Routes::over(2, narrow, inside()).all_known());
    let (_, sent) = only_sent(director.arrive(0, &tcp6(CLIENT6, VIP6, SYN).length(1400).bytes()), "the SYN");
    // More than routers quote, but who knows.
    let mut frame = error_v4((server_mac(1), INSIDE), (INNER_ROUTER, LIP_ADDRESS), v4(3, 1, [0; 4]), &[0; 8]);
    frame.truncate(14 + 28);
    frame.extend(&sent[14..]);
    let length = (frame.len() - 14) as u16;
    frame[16..18].copy_from_slice(&length.to_be_bytes());
    frame[24..26].fill(0);
    let sum = !sluice_dataplane::wire::checksum::sum(0, &frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame[36..38].fill(0);
    let sum = !sluice_dataplane::wire::checksum::sum(0, &frame[34..]);
    frame[36..38].copy_from_slice(&sum.to_be_bytes());
    let (_, error) = only_sent(director.arrive(1, &frame), "an error");
    assert_eq!(error.len(), 14 + 1280);
}
