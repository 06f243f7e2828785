//! What is around the IP packet: VLAN tags, padding, and IP options within.

use sluice_dataplane::neigh::Egress;
use sluice_dataplane::service::Method;
use sluice_dataplane::stats::DropReason;

use crate::director::packets::{ACK, Datagram, SYN, ethernet, tcp, udp};
use crate::director::{
    CLIENT, CLIENT_ROUTER, Director, INSIDE, INSIDE_ADDRESS, OUTSIDE, Outcome, Routes, SERVER, VIP, inside,
    server_mac,
};

/// A director whose links to the servers and to the clients carry tags.
fn tagged(method: Method, servers: Option<u16>, clients: Option<u16>) -> Director {
    let mut director = Director::serving(method);
    let outside = Egress { vlan: clients, ..Egress::new(0, OUTSIDE) };
    director.publish_hops(Routes::over(2, outside, Egress { vlan: servers, ..inside() }).all_known());
    director
}

#[test]
fn tags_in_and_out() {
    for (what, tags_in, tag_out) in [
        ("untagged in, untagged out", &[][..], None),
        ("tagged in, untagged out", &[7], None),
        ("untagged in, tagged out", &[], Some(4094)),
        ("tagged in, tagged out", &[7], Some(8)),
        ("two tags in, untagged out", &[100, 7], None),
        ("two tags in, one out", &[100, 7], Some(8)),
    ] {
        for length in [40, 700, 1480] {
            let packet = tcp(CLIENT, VIP, SYN).length(length).vlans(tags_in);
            let tags: Vec<u16> = tag_out.into_iter().collect();
            let expected = packet.clone().hop().link(INSIDE, server_mac(1)).vlans(&tags);

            let mut director = tagged(Method::Nat, tag_out, None);
            let translated = expected.clone().between(CLIENT, SERVER).bytes();
            assert_eq!(director.arrive(0, &packet.bytes()), Outcome::sent(1, translated), "nat, {what}");

            let mut director = tagged(Method::DirectRoute, tag_out, None);
            assert_eq!(director.arrive(0, &packet.bytes()), Outcome::sent(1, expected.bytes()), "dr, {what}");

            let mut director = tagged(Method::Tunnel, tag_out, None);
            let tunnelled = expected.in_tunnel(INSIDE_ADDRESS, [10, 0, 2, 1], 0, 1);
            assert_eq!(director.arrive(0, &packet.bytes()), Outcome::sent(1, tunnelled), "tun, {what}");
        }
    }
}

#[test]
fn replies_get_the_tag_of_the_clients_link() {
    let mut director = tagged(Method::Nat, None, Some(7));
    director.arrive(0, &tcp(CLIENT, VIP, SYN).vlans(&[7]).bytes());
    let reply = tcp(SERVER, CLIENT, SYN | ACK).link(server_mac(1), INSIDE);
    let expected = reply.clone().between(VIP, CLIENT).hop().link(OUTSIDE, CLIENT_ROUTER).vlans(&[7]);
    assert_eq!(director.arrive(1, &reply.bytes()), Outcome::sent(0, expected.bytes()));
}

#[test]
fn padding_is_not_sent_on() {
    for method in [Method::Nat, Method::DirectRoute] {
        let mut director = Director::serving(method);
        let packet = tcp(CLIENT, VIP, SYN).payload([]).padding(&[0xaa; 6]);
        assert_eq!(packet.bytes().len(), 60);
        let server = if method == Method::Nat { SERVER } else { VIP };
        let mut expected = packet.clone().between(CLIENT, server).hop().link(INSIDE, server_mac(1));
        expected.padding.clear();
        assert_eq!(director.arrive(0, &packet.bytes()), Outcome::sent(1, expected.bytes()), "{method:?}");
    }
}

#[test]
fn options_are_carried_along() {
    for options in [4, 20, 40] {
        let mut director = Director::serving(Method::Nat);
        let mut packet = tcp(CLIENT, VIP, SYN);
        packet.ip_options = [vec![1; options - 1], vec![0]].concat();
        packet.tcp_options = vec![2, 4, 5, 0xb4, 1, 3, 3, 7];
        let expected = packet.clone().between(CLIENT, SERVER).hop().link(INSIDE, server_mac(1));
        assert_eq!(
            director.arrive(0, &packet.bytes()),
            Outcome::sent(1, expected.bytes()),
            "{options} bytes"
        );
    }
}

/// A frame that is not a whole TCP or UDP packet, and what becomes of it.
#[test]
fn what_is_no_packet_of_ours() {
    use DropReason::{BadChecksum, Malformed, Truncated};
    let syn = tcp(CLIENT, VIP, SYN).payload([]).bytes();
    let query = udp(CLIENT, "192.0.2.10:53").bytes();
    let with = |frame: &[u8], changes: &[(usize, u8)], checksum: bool| {
        let mut frame = frame.to_vec();
        changes.iter().for_each(|(at, byte)| frame[*at] = *byte);
        if checksum {
            fill_checksum(&mut frame);
        }
        frame
    };
    let other = |kind: [u8; 2]| with(&syn, &[(12, kind[0]), (13, kind[1])], false);
    let three_tags = Datagram::bytes(&tcp(CLIENT, VIP, SYN).vlans(&[1, 2]));
    let three_tags = [&three_tags[..12], &[0x88, 0xa8, 0, 9], &three_tags[12..]].concat();

    let punted = |frame: Vec<u8>| (Outcome::punted(0, frame.clone()), frame);
    let dropped = |reason, frame: Vec<u8>| (Outcome::dropped(reason), frame);
    for (what, (expected, frame)) in [
        ("ARP", punted(other([0x08, 0x06]))),
        ("an unknown type", punted(other([0x12, 0x34]))),
        ("an 802.3 length", punted(other([0, 46]))),
        ("three tags", punted(three_tags)),
        ("ICMP", punted(with(&syn, &[(23, 1)], true))),
        ("OSPF", punted(with(&syn, &[(23, 89)], true))),
        ("a first fragment of OSPF", punted(with(&syn, &[(20, 0x20), (23, 89)], true))),
        ("a later fragment of OSPF", punted(with(&syn, &[(20, 0), (21, 1), (23, 89)], true))),
        ("no frame at all", dropped(Truncated, vec![])),
        ("13 bytes", dropped(Truncated, syn[..13].to_vec())),
        ("no IP header", dropped(Truncated, syn[..14].to_vec())),
        ("half an IP header", dropped(Truncated, syn[..33].to_vec())),
        ("half a TCP header", dropped(Truncated, syn[..53].to_vec())),
        ("half a tag", dropped(Truncated, other([0x81, 0x00])[..17].to_vec())),
        (
            "half the second tag",
            dropped(Truncated, tcp(CLIENT, VIP, SYN).vlans(&[1, 2]).bytes()[..20].to_vec()),
        ),
        (
            "a tag and nothing behind it",
            dropped(Truncated, tcp(CLIENT, VIP, SYN).vlans(&[1]).bytes()[..18].to_vec()),
        ),
        ("an IP length beyond the frame", dropped(Truncated, with(&syn, &[(17, 41)], true))),
        ("an IP length without room for TCP", dropped(Truncated, with(&syn, &[(17, 39)], true))),
        ("an IP length below the header's", dropped(Malformed, with(&syn, &[(17, 19)], true))),
        ("version 5", dropped(Malformed, with(&syn, &[(14, 0x55)], true))),
        ("a header length of four words", dropped(Malformed, with(&syn, &[(14, 0x44)], true))),
        ("a header length beyond the packet", dropped(Malformed, with(&syn, &[(14, 0x4f)], false))),
        ("a TCP header of four words", dropped(Malformed, with(&syn, &[(46, 0x40)], false))),
        ("a TCP header beyond the segment", dropped(Malformed, with(&syn, &[(46, 0x60)], false))),
        ("a UDP length of 7", dropped(Malformed, with(&query, &[(38, 0), (39, 7)], false))),
        ("a UDP length beyond the packet", dropped(Malformed, with(&query, &[(38, 1)], false))),
        ("a wrong IP checksum", dropped(BadChecksum, with(&syn, &[(24, syn[24] ^ 1)], false))),
        ("IPv6 that says version 4", dropped(Malformed, with(&syn, &[(12, 0x86), (13, 0xdd)], false))),
    ] {
        let mut director = Director::serving(Method::Nat);
        assert_eq!(director.arrive(0, &frame), expected, "{what}");
    }
}

#[test]
fn ipv6_without_a_service_is_left_to_the_kernel() {
    let mut packet = vec![0x60, 0, 0, 0, 0, 20, 6, 64];
    packet.extend([[0x20; 16], [0x21; 16]].concat());
    packet.extend([0, 1, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0]);
    let mut frame = ethernet(CLIENT_ROUTER, OUTSIDE, &[], &packet);
    (frame[12], frame[13]) = (0x86, 0xdd);
    let mut director = Director::serving(Method::Nat);
    assert_eq!(director.arrive(0, &frame), Outcome::punted(0, frame));
}

/// Makes the IPv4 checksum of an untagged frame right, whatever its fields say.
fn fill_checksum(frame: &mut [u8]) {
    let end = 14 + usize::from(frame[14] & 0x0f) * 4;
    (frame[24], frame[25]) = (0, 0);
    let words = frame[14..end].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}
