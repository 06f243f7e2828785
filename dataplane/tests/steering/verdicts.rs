//! What the program says to each kind of frame.

use etherparse::Icmpv4Type;
use etherparse::icmpv4::DestUnreachableHeader;
use sluice_dataplane::link::Link;
use sluice_dataplane::packet::Packet;
use sluice_dataplane::port::afxdp::AfXdpPort;
use sluice_dataplane::service::Protocol;
use sluice_dataplane::steer::{Loaded, ModeChoice, Steering, SteeringRules, Target, WithoutSocket};
use sluice_dataplane::wire::Address;

use crate::director::packets::{ACK, Datagram, IcmpError, SYN, address, ethernet, sctp, tcp, udp};
use crate::kernel;

const DROP: u32 = 1;
const PASS: u32 = 2;
const REDIRECT: u32 = 4;

const V6_VIP: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10];
const V6_LIP: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0];
const V6_RIP: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
const V6_TUNNEL: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3];
const V6_FTP: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x13];
const V6_CLIENT: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x99];

fn target(protocol: Protocol, at: &str) -> Target {
    let at = address(at);
    Target { address: (*at.ip()).into(), port: at.port(), protocol }
}

fn rules() -> SteeringRules {
    let mut rules = SteeringRules::default();
    rules.services.extend([
        target(Protocol::Tcp, "192.0.2.10:80"),
        target(Protocol::Udp, "192.0.2.10:53"),
        target(Protocol::Tcp, "192.0.2.11:0"),
        target(Protocol::Sctp, "192.0.2.10:2905"),
        Target { address: Address::from_v6(V6_VIP), port: 80, protocol: Protocol::Tcp },
    ]);
    rules.nat_servers.extend([target(Protocol::Tcp, "10.0.2.1:8080"), target(Protocol::Udp, "10.0.2.2:0")]);
    rules.nat_servers.insert(target(Protocol::Sctp, "10.0.2.1:2906"));
    rules.nat_servers.insert(Target { address: Address::from_v6(V6_RIP), port: 0, protocol: Protocol::Udp });
    rules.local_addresses.extend([Address::from_v4([10, 0, 2, 200]), Address::from_v6(V6_LIP)]);
    for port in [20, 21] {
        rules.services.insert(target(Protocol::Tcp, &format!("192.0.2.13:{port}")));
        rules.services.insert(Target { address: Address::from_v6(V6_FTP), port, protocol: Protocol::Tcp });
        rules.nat_servers.insert(target(Protocol::Tcp, &format!("10.0.2.4:{port}")));
    }
    rules.ftp.extend([[192, 0, 2, 13], [10, 0, 2, 4]].map(Address::from_v4));
    rules.ftp.insert(Address::from_v6(V6_FTP));
    rules.passive_ports = (50000, 50999);
    rules.tunnel_servers.extend([Address::from_v4([10, 0, 2, 3]), Address::from_v6(V6_TUNNEL)]);
    rules
}

/// An ICMP error of a router about a packet.
fn error(kind: Icmpv4Type, quoted: &[u8]) -> Vec<u8> {
    let (source, destination) = ([198, 51, 100, 254], [192, 0, 2, 10]);
    IcmpError { from_mac: [2, 0, 0, 0, 0, 9], to_mac: [0; 6], source, destination, kind, quoted, id: 1 }
        .bytes()
}

fn error_cases() -> Vec<(&'static str, Vec<u8>, u32)> {
    const CLIENT: &str = "198.51.100.7:40000";
    let unreachable = || Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Host);
    let about = |packet: Datagram| error(unreachable(), &packet.ip_packet());
    let reply = tcp("192.0.2.10:80", CLIENT, ACK);
    let quoted = reply.ip_packet();
    let kind = |kind| error(Icmpv4Type::Unknown { type_u8: kind, code_u8: 0, bytes5to8: [0; 4] }, &quoted);
    let tunnel = |to| {
        let frame = tcp(CLIENT, "192.0.2.10:80", ACK).in_tunnel([10, 0, 2, 254], to, 0, 1);
        error(unreachable(), &frame[14..])
    };
    let outer = |protocol: u8| {
        let frame = tcp(CLIENT, "192.0.2.10:80", ACK).in_tunnel([10, 0, 2, 254], [10, 0, 2, 3], 0, 1);
        let mut packet = frame[14..].to_vec();
        packet[9] = protocol;
        error(unreachable(), &packet)
    };
    let mut options = reply.clone();
    options.ip_options = vec![1; 40];
    let mut outer_options = reply.clone();
    outer_options.ip_options = vec![1; 40];
    // An ICMP header with its quote in the place of the TCP segment.
    let behind_options = {
        let message = about(reply.clone())[34..].to_vec();
        let mut frame = outer_options.payload([]).bytes();
        frame.truncate(14 + 60);
        frame[23] = 1;
        frame.extend(message);
        frame
    };
    let with = |changes: &[(usize, u8)]| {
        let mut frame = about(reply.clone());
        changes.iter().for_each(|(at, byte)| frame[*at] = *byte);
        frame
    };
    vec![
        ("unreachable, about a service's packet", about(reply.clone()), REDIRECT),
        ("source quench", kind(4), REDIRECT),
        ("time exceeded", kind(11), REDIRECT),
        ("parameter problem", kind(12), REDIRECT),
        ("an echo request", kind(8), PASS),
        ("an echo reply", kind(0), PASS),
        ("a redirect", kind(5), PASS),
        ("about a packet of another port", about(tcp("192.0.2.10:81", CLIENT, ACK)), PASS),
        ("about a packet of the other protocol", about(udp("192.0.2.10:80", CLIENT)), PASS),
        ("about a packet to a service", about(tcp(CLIENT, "192.0.2.10:80", ACK)), PASS),
        ("about a LIP's packet", about(tcp("10.0.2.200:1024", "10.0.2.9:80", ACK)), REDIRECT),
        ("about a LIP's ssh", about(tcp("10.0.2.200:1023", "10.0.2.9:22", ACK)), PASS),
        ("about a packet to a NAT server", about(tcp(CLIENT, "10.0.2.1:8080", ACK)), REDIRECT),
        ("about a packet to its ssh", about(tcp(CLIENT, "10.0.2.1:22", ACK)), PASS),
        ("about an association", about(sctp("192.0.2.10:2905", CLIENT, &[0])), REDIRECT),
        ("about a tunnel's packet", tunnel([10, 0, 2, 3]), REDIRECT),
        ("about somebody else's tunnel", tunnel([10, 0, 2, 1]), PASS),
        ("about a tunnel's packet of IPv6", outer(41), REDIRECT),
        ("about a tunnel's packet by GRE", outer(47), REDIRECT),
        ("about a tunnel's packet by GUE", outer(17), REDIRECT),
        ("about TCP to a tunnel's server", outer(6), PASS),
        ("the quoted packet has options", about(options), REDIRECT),
        ("the error has options", behind_options, REDIRECT),
        ("the error is a fragment", with(&[(20, 0x20)]), PASS),
        ("a later fragment is quoted", with(&[(48, 0), (49, 1)]), PASS),
        ("a short quoted header", with(&[(42, 0x44)]), PASS),
        ("a quoted IPv6 packet", with(&[(42, 0x65)]), PASS),
        ("a quoted header beyond the frame", with(&[(42, 0x4f)])[..100].to_vec(), PASS),
        ("no ICMP header", about(reply.clone())[..34].to_vec(), PASS),
        ("half an ICMP header", about(reply.clone())[..41].to_vec(), PASS),
        ("nothing quoted", about(reply.clone())[..42].to_vec(), PASS),
        ("half a quoted header", about(reply.clone())[..61].to_vec(), PASS),
        ("half the quoted ports", about(reply.clone())[..65].to_vec(), PASS),
        ("the quoted ports alone", about(reply)[..66].to_vec(), REDIRECT),
    ]
}

/// A frame with some bytes changed.
fn with(packet: &Datagram, changes: &[(usize, u8)]) -> Vec<u8> {
    let mut frame = packet.bytes();
    changes.iter().for_each(|(at, byte)| frame[*at] = *byte);
    frame
}

/// The packet to the service behind extension headers: the number, length
/// field and fourth byte of each.
fn v6_behind(extensions: &[(u8, u8, u8)], last: u8) -> Vec<u8> {
    let mut packet = v6(V6_VIP, extensions[0].0, 80);
    let segment = packet.split_off(14 + 40);
    for (place, (_, length, fourth)) in extensions.iter().enumerate() {
        let next = extensions.get(place + 1).map_or(last, |(number, ..)| *number);
        packet.extend([next, *length, 1, *fourth]);
        packet.extend(vec![0; usize::from(*length) * 8 + 4]);
    }
    [packet, segment].concat()
}

/// A fragment between two addresses: the fragment header and a TCP header.
fn v6_fragment(source: [u8; 16], destination: [u8; 16], next: u8, offset_more: u16) -> Vec<u8> {
    let mut packet = v6(destination, 44, 80);
    packet[22..38].copy_from_slice(&source);
    let [high, low] = offset_more.to_be_bytes();
    packet.splice(54..54, [next, 0, high, low, 0, 0, 0, 1]);
    packet
}

/// An ICMPv6 error about an IPv6 packet.
fn error_v6(kind: u8, quoted: &[u8]) -> Vec<u8> {
    let mut frame = v6(V6_VIP, 58, 80);
    frame.truncate(54);
    frame.extend([kind, 0, 0, 0, 0, 0, 5, 0]);
    frame.extend(quoted);
    frame
}

/// A packet of the service to a client, behind a fragment header if an offset is
/// given.
fn v6_reply(port: u16, offset_more: Option<u16>) -> Vec<u8> {
    let mut packet = v6(V6_CLIENT, 6, 80).split_off(14);
    packet[8..24].copy_from_slice(&V6_VIP);
    packet[40..42].copy_from_slice(&port.to_be_bytes());
    if let Some(offset_more) = offset_more {
        packet[6] = 44;
        let [high, low] = offset_more.to_be_bytes();
        packet.splice(40..40, [6, 0, high, low, 0, 0, 0, 1]);
    }
    packet
}

/// The same in an outer header to another address.
fn v6_outer(destination: [u8; 16], next: u8) -> Vec<u8> {
    let mut packet = v6(destination, next, 80).split_off(14);
    packet.truncate(40);
    packet.extend([0; 40]);
    packet
}

fn v6_cases() -> Vec<(&'static str, Vec<u8>, u32)> {
    let client = V6_CLIENT;
    let reply = v6_reply(80, None);
    let behind = |n: usize| {
        let mut packet = v6_reply(80, None);
        packet[6] = 60;
        for _ in 1..n {
            packet.splice(40..40, [60, 0, 1, 4, 0, 0, 0, 0]);
        }
        let last = 40 + 8 * (n - 1);
        packet.splice(last..last, [6, 0, 1, 4, 0, 0, 0, 0]);
        packet
    };
    vec![
        ("IPv6, a first fragment", v6_fragment(client, V6_VIP, 6, 1), REDIRECT),
        ("IPv6, a later fragment", v6_fragment(client, V6_VIP, 6, 8), REDIRECT),
        ("IPv6, a fragment that is a packet", v6_fragment(client, V6_VIP, 6, 0), REDIRECT),
        ("IPv6, a fragment of no service's protocol", v6_fragment(client, V6_VIP, 17, 8), PASS),
        ("IPv6, a fragment of extension headers", v6_fragment(client, V6_VIP, 60, 8), REDIRECT),
        ("IPv6, a fragment of ICMPv6", v6_fragment(client, V6_VIP, 58, 8), PASS),
        ("IPv6, a fragment for a LIP", v6_fragment(client, V6_LIP, 17, 8), REDIRECT),
        ("IPv6, a fragment from a NAT server", v6_fragment(V6_RIP, client, 17, 8), REDIRECT),
        ("IPv6, one of another protocol", v6_fragment(V6_RIP, client, 6, 8), PASS),
        ("IPv6, a fragment to a NAT server", v6_fragment(client, V6_RIP, 17, 8), PASS),
        ("IPv6, half a fragment header", v6_fragment(client, V6_VIP, 6, 8)[..61].to_vec(), PASS),
        ("IPv6, a fragment without data", v6_fragment(client, V6_VIP, 6, 8)[..62].to_vec(), REDIRECT),
        ("ICMPv6, unreachable", error_v6(1, &reply), REDIRECT),
        ("ICMPv6, too big", error_v6(2, &reply), REDIRECT),
        ("ICMPv6, time exceeded", error_v6(3, &reply), REDIRECT),
        ("ICMPv6, parameter problem", error_v6(4, &reply), REDIRECT),
        ("ICMPv6, type 0", error_v6(0, &reply), PASS),
        ("ICMPv6, type 5", error_v6(5, &reply), PASS),
        ("ICMPv6, an echo request", error_v6(128, &reply), PASS),
        ("ICMPv6, a neighbour advertisement", error_v6(136, &reply), PASS),
        ("ICMPv6, about another port's packet", error_v6(2, &v6_reply(81, None)), PASS),
        ("ICMPv6, about a packet to a service", error_v6(2, &v6(V6_VIP, 6, 80)[14..]), PASS),
        ("ICMPv6, about a first fragment", error_v6(2, &v6_reply(80, Some(1))), REDIRECT),
        ("ICMPv6, about a later fragment", error_v6(2, &v6_reply(80, Some(8))), PASS),
        ("ICMPv6, about one behind six headers", error_v6(2, &behind(6)), REDIRECT),
        ("ICMPv6, about one behind seven", error_v6(2, &behind(7)), PASS),
        ("ICMPv6, about a tunnel's packet", error_v6(2, &v6_outer(V6_TUNNEL, 41)), REDIRECT),
        ("ICMPv6, about IPv4 in IPv6", error_v6(2, &v6_outer(V6_TUNNEL, 4)), REDIRECT),
        ("ICMPv6, about GRE", error_v6(2, &v6_outer(V6_TUNNEL, 47)), REDIRECT),
        ("ICMPv6, about GUE", error_v6(2, &v6_outer(V6_TUNNEL, 17)), REDIRECT),
        ("ICMPv6, about TCP to a tunnel's server", error_v6(2, &v6_outer(V6_TUNNEL, 6)), PASS),
        ("ICMPv6, about somebody else's tunnel", error_v6(2, &v6_outer(V6_CLIENT, 41)), PASS),
        ("ICMPv6, quoting IPv4", error_v6(2, &[&[0x45][..], &reply[1..]].concat()), PASS),
        ("ICMPv6, half a header", error_v6(2, &[])[..61].to_vec(), PASS),
        ("ICMPv6, nothing quoted", error_v6(2, &[]), PASS),
        ("ICMPv6, half a quoted header", error_v6(2, &reply[..39]), PASS),
        ("ICMPv6, half the quoted ports", error_v6(2, &reply[..43]), PASS),
        ("ICMPv6, the quoted ports alone", error_v6(2, &reply[..44]), REDIRECT),
    ]
}

fn v6(destination: [u8; 16], next_header: u8, port: u16) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 20, next_header, 64];
    packet.extend(V6_CLIENT);
    packet.extend(destination);
    packet.extend([0x9c, 0x40]);
    packet.extend(port.to_be_bytes());
    packet.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0]);
    let mut frame = ethernet([2, 0, 0, 0, 0, 9], [0; 6], &[], &packet);
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    frame
}

/// An address with FTP on port 21, and a NAT server of it.
fn ftp_cases() -> Vec<(&'static str, Vec<u8>, u32)> {
    const CLIENT: &str = "198.51.100.7:40000";
    let to = |at: &str| tcp(CLIENT, at, SYN).bytes();
    let from = |at: &str| tcp(at, CLIENT, ACK).bytes();
    let unreachable = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Host);
    vec![
        ("FTP's control port", to("192.0.2.13:21"), REDIRECT),
        ("its data port", to("192.0.2.13:20"), REDIRECT),
        ("the first passive port", to("192.0.2.13:50000"), REDIRECT),
        ("the last passive port", to("192.0.2.13:50999"), REDIRECT),
        ("the port below", to("192.0.2.13:49999"), PASS),
        ("the port above", to("192.0.2.13:51000"), PASS),
        ("ssh to an address with FTP", to("192.0.2.13:22"), PASS),
        ("a passive port by UDP", udp(CLIENT, "192.0.2.13:50500").bytes(), PASS),
        ("a passive port of an address without FTP", to("192.0.2.10:50500"), PASS),
        ("from a passive port of a VIP", from("192.0.2.13:50500"), PASS),
        ("an FTP server by NAT", from("10.0.2.4:21"), REDIRECT),
        ("its data port", from("10.0.2.4:20"), REDIRECT),
        ("its first passive port", from("10.0.2.4:50000"), REDIRECT),
        ("its last passive port", from("10.0.2.4:50999"), REDIRECT),
        ("its port below", from("10.0.2.4:49999"), PASS),
        ("its port above", from("10.0.2.4:51000"), PASS),
        ("its ssh", from("10.0.2.4:22"), PASS),
        ("its passive port by UDP", udp("10.0.2.4:50500", CLIENT).bytes(), PASS),
        ("to its passive port", to("10.0.2.4:50500"), PASS),
        ("a passive port of a server without FTP", from("10.0.2.1:50500"), PASS),
        (
            "an error about a data connection's packet",
            error(unreachable, &tcp("192.0.2.13:50500", CLIENT, ACK).ip_packet()),
            REDIRECT,
        ),
        ("IPv6, a passive port", v6(V6_FTP, 6, 50500), REDIRECT),
        ("IPv6, FTP's data port", v6(V6_FTP, 6, 20), REDIRECT),
        ("IPv6, the port above", v6(V6_FTP, 6, 51000), PASS),
    ]
}

fn cases() -> Vec<(&'static str, Vec<u8>, u32)> {
    const CLIENT: &str = "198.51.100.7:40000";
    let syn = tcp(CLIENT, "192.0.2.10:80", SYN);
    let query = udp(CLIENT, "192.0.2.10:53");
    let whole = |packet: Datagram| packet.bytes();
    let fragment = |packet: Datagram| with(&packet, &[(20, 0), (21, 100)]);
    let mut options = syn.clone();
    options.ip_options = vec![1; 40];
    let mut three_tags = syn.clone().vlans(&[1, 2]).bytes();
    three_tags.splice(12..12, [0x88, 0xa8, 0, 3]);
    vec![
        ("a service's port", whole(syn.clone()), REDIRECT),
        ("a service's port by UDP", whole(query.clone()), REDIRECT),
        ("no SYN", whole(tcp(CLIENT, "192.0.2.10:80", ACK)), REDIRECT),
        ("the service's port of the other protocol", whole(udp(CLIENT, "192.0.2.10:80")), PASS),
        ("the other service's port", whole(tcp(CLIENT, "192.0.2.10:53", SYN)), PASS),
        ("ssh to the VIP", whole(tcp(CLIENT, "192.0.2.10:22", SYN)), PASS),
        ("the service's port of another address", whole(tcp(CLIENT, "192.0.2.12:80", SYN)), PASS),
        ("port 1 of a service of all ports", whole(tcp(CLIENT, "192.0.2.11:1", SYN)), REDIRECT),
        ("port 65535 of it", whole(tcp(CLIENT, "192.0.2.11:65535", SYN)), REDIRECT),
        ("its address by UDP", whole(udp(CLIENT, "192.0.2.11:80")), PASS),
        ("a LIP, port 1024", whole(tcp("10.0.2.9:80", "10.0.2.200:1024", ACK)), REDIRECT),
        ("a LIP, port 65535, UDP", whole(udp("10.0.2.9:80", "10.0.2.200:65535")), REDIRECT),
        ("a LIP, port 1023", whole(tcp("10.0.2.9:80", "10.0.2.200:1023", ACK)), PASS),
        ("a LIP, ssh", whole(tcp("10.0.2.9:4000", "10.0.2.200:22", ACK)), PASS),
        ("a NAT server's reply", whole(tcp("10.0.2.1:8080", CLIENT, ACK)), REDIRECT),
        ("a NAT server, another port", whole(tcp("10.0.2.1:80", CLIENT, ACK)), PASS),
        ("a NAT server, another protocol", whole(udp("10.0.2.1:8080", CLIENT)), PASS),
        ("a NAT server of all ports", whole(udp("10.0.2.2:4711", CLIENT)), REDIRECT),
        ("to a NAT server", whole(tcp(CLIENT, "10.0.2.1:8080", SYN)), PASS),
        ("from a VIP", whole(tcp("192.0.2.10:80", CLIENT, ACK)), PASS),
        ("a tag", whole(syn.clone().vlans(&[7])), REDIRECT),
        ("two tags", whole(syn.clone().vlans(&[7, 8])), REDIRECT),
        ("three tags", three_tags, PASS),
        ("a tag and ssh", whole(tcp(CLIENT, "192.0.2.10:22", SYN).vlans(&[7])), PASS),
        ("IP options", whole(options), REDIRECT),
        ("a TTL of 1, which the worker answers", whole(syn.clone().ttl(1)), REDIRECT),
        ("may be fragmented", whole(syn.clone().may_be_fragmented()), REDIRECT),
        ("a first fragment", with(&syn, &[(20, 0x20)]), REDIRECT),
        ("a later fragment", with(&syn, &[(20, 0), (21, 1)]), REDIRECT),
        ("a last fragment", with(&syn, &[(20, 0x1f), (21, 0xff)]), REDIRECT),
        (
            "a fragment of a port that is in no later one",
            fragment(tcp(CLIENT, "192.0.2.10:81", ACK)),
            REDIRECT,
        ),
        ("a fragment for a VIP without UDP", fragment(udp(CLIENT, "192.0.2.11:53")), PASS),
        ("a fragment for an address without services", fragment(udp(CLIENT, "192.0.2.12:53")), PASS),
        ("an association", whole(sctp(CLIENT, "192.0.2.10:2905", &[1])), REDIRECT),
        ("an association at another port", whole(sctp(CLIENT, "192.0.2.10:80", &[1])), PASS),
        ("an association's server", whole(sctp("10.0.2.1:2906", CLIENT, &[2])), REDIRECT),
        ("an association at an address without", whole(sctp(CLIENT, "192.0.2.11:80", &[1])), PASS),
        ("an association with a LIP", whole(sctp("10.0.2.9:80", "10.0.2.200:65535", &[1])), PASS),
        ("a fragment of an association", fragment(sctp(CLIENT, "192.0.2.10:1", &[0])), REDIRECT),
        ("one at an address without", fragment(sctp(CLIENT, "192.0.2.11:1", &[0])), PASS),
        ("a fragment for a LIP", fragment(udp("10.0.2.9:53", "10.0.2.200:80")), REDIRECT),
        ("a fragment from a NAT server", fragment(tcp("10.0.2.1:8080", CLIENT, ACK)), REDIRECT),
        ("a fragment from a NAT server, another protocol", fragment(udp("10.0.2.1:8080", CLIENT)), PASS),
        ("a fragment to a NAT server", fragment(tcp(CLIENT, "10.0.2.1:8080", ACK)), PASS),
        ("a fragment of ICMP", with(&syn, &[(20, 0x20), (23, 1)]), PASS),
        ("a fragment of DCCP", with(&syn, &[(20, 0x20), (23, 33)]), PASS),
        ("a fragment without its data", fragment(syn.clone())[..34].to_vec(), REDIRECT),
        ("ICMP to the VIP", with(&syn, &[(23, 1)]), PASS),
        ("VRRP", with(&syn, &[(23, 112)]), PASS),
        ("SCTP", with(&syn, &[(23, 132)]), PASS),
        ("ARP", with(&syn, &[(12, 0x08), (13, 0x06)]), PASS),
        ("an 802.3 length", with(&syn, &[(12, 0), (13, 46)]), PASS),
        ("for another station", with(&syn, &[(5, !0)]), PASS),
        (
            "a broadcast",
            with(&syn, &[(0, 0xff), (1, 0xff), (2, 0xff), (3, 0xff), (4, 0xff), (5, 0xff)]),
            PASS,
        ),
        ("a header of four words", with(&syn, &[(14, 0x44)]), PASS),
        ("a header beyond the frame", with(&syn.clone().payload([]), &[(14, 0x4f)]), PASS),
        ("no IP header", whole(syn.clone())[..14].to_vec(), PASS),
        ("half an IP header", whole(syn.clone())[..33].to_vec(), PASS),
        ("no ports", whole(syn.clone())[..34].to_vec(), PASS),
        ("half the ports", whole(syn.clone())[..37].to_vec(), PASS),
        ("half a tag", whole(syn.clone().vlans(&[7]))[..17].to_vec(), PASS),
        ("a tag alone", whole(syn.clone().vlans(&[7]))[..18].to_vec(), PASS),
        ("half a second tag", whole(syn.vlans(&[7, 8]))[..20].to_vec(), PASS),
        ("IPv6, a service's port", v6(V6_VIP, 6, 80), REDIRECT),
        ("IPv6, another port", v6(V6_VIP, 6, 443), PASS),
        ("IPv6, another address", v6(V6_CLIENT, 6, 80), PASS),
        ("IPv6, ICMPv6", v6(V6_VIP, 58, 80), PASS),
        ("IPv6, a fragment", v6(V6_VIP, 44, 80), PASS),
        ("IPv6, one extension header", v6_behind(&[(60, 1, 0)], 6), REDIRECT),
        (
            "IPv6, six of all lengths",
            v6_behind(&[(0, 0, 0), (60, 2, 9), (43, 2, 0), (60, 0, 1), (60, 5, 0), (0, 0, 0)], 6),
            REDIRECT,
        ),
        ("IPv6, seven", v6_behind(&[(60, 0, 0); 7], 6), PASS),
        ("IPv6, routing that is not over", v6_behind(&[(43, 2, 1)], 6), PASS),
        ("IPv6, another protocol behind them", v6_behind(&[(60, 0, 0)], 58), PASS),
        ("IPv6, extension headers cut off", v6_behind(&[(60, 0, 0)], 6)[..60].to_vec(), PASS),
        ("IPv6, half a header", v6(V6_VIP, 6, 80)[..53].to_vec(), PASS),
        ("IPv6, no ports", v6(V6_VIP, 6, 80)[..54].to_vec(), PASS),
    ]
    .into_iter()
    .chain(error_cases())
    .chain(ftp_cases())
    .chain(v6_cases())
    .collect()
}

/// The frame as if it came for `mac`, unless its first byte says that it is for
/// another station.
fn addressed(mut frame: Vec<u8>, mac: [u8; 6], what: &str) -> Vec<u8> {
    if !["for another station", "a broadcast"].contains(&what) {
        frame[..6].copy_from_slice(&mac);
    }
    frame
}

#[test]
fn each_frame_goes_its_way() {
    if !kernel::enter_namespace() {
        return;
    }
    kernel::make_veth();
    let mut steering = Steering::attach("west", ModeChoice::Auto).unwrap();
    let program = kernel::program(kernel::attached("west"));
    let mac = Link::new("west").unwrap().mac().unwrap();
    let verdict = |what: &str, frame: &[u8]| kernel::run(&program, &addressed(frame.to_vec(), mac, what));

    for (what, frame, _) in cases() {
        assert_eq!(verdict(what, &frame), PASS, "without rules: {what}");
    }
    steering.update(&rules()).unwrap();
    for (what, frame, _) in cases() {
        assert_eq!(verdict(what, &frame), PASS, "without a socket: {what}");
    }
    let port = AfXdpPort::open(&[("west".to_owned(), steering.mode())], 0, 1500).unwrap();
    for (what, frame, expected) in cases() {
        assert_eq!(verdict(what, &frame), expected, "{what}");
        // A trace tells the same of whole packets that are for our MAC.
        let frame = addressed(frame, mac, what);
        if let (Ok(packet), true) = (Packet::parse(&frame), frame.starts_with(&mac)) {
            let wants = rules().wants(&packet.tuple, 0).is_some();
            assert_eq!(wants, expected == REDIRECT, "told of {what}");
        }
    }

    // Rules that are taken away no longer match, and the others go on to.
    let mut fewer = rules();
    fewer.services.remove(&target(Protocol::Udp, "192.0.2.10:53"));
    fewer.services.remove(&target(Protocol::Tcp, "192.0.2.11:0"));
    fewer.local_addresses.clear();
    steering.update(&fewer).unwrap();
    for (what, frame, expected) in cases() {
        let gone = ["a service's port by UDP", "port 1 of a service of all ports", "port 65535 of it"];
        let expected = if gone.contains(&what) || what.contains("a LIP") { PASS } else { expected };
        assert_eq!(verdict(what, &frame), expected, "with fewer rules: {what}");
    }
    steering.update(&SteeringRules::default()).unwrap();
    assert!(cases().iter().all(|(what, frame, _)| verdict(what, frame) == PASS), "without rules again");

    // Another MAC is followed.
    steering.update(&rules()).unwrap();
    assert!(!steering.refresh_mac().unwrap(), "it is the same");
    kernel::ip("link set west address 02:00:00:00:77:01");
    assert!(steering.refresh_mac().unwrap());
    let syn = tcp("198.51.100.7:40000", "192.0.2.10:80", SYN).bytes();
    assert_eq!(verdict("the old MAC", &syn), PASS);
    assert_eq!(kernel::run(&program, &addressed(syn, [2, 0, 0, 0, 0x77, 1], "")), REDIRECT);

    // Without its socket the packets are the kernel's again.
    drop(port);
    let syn = tcp("198.51.100.7:40000", "192.0.2.10:80", SYN).bytes();
    assert_eq!(kernel::run(&program, &addressed(syn, [2, 0, 0, 0, 0x77, 1], "")), PASS);
}

/// Without a socket packets of services are the kernel's or nobody's; all else is
/// the kernel's.
#[test]
fn a_queue_without_a_socket() {
    if !kernel::enter_namespace() {
        return;
    }
    kernel::make_veth();
    let mac = Link::new("west").and_then(|link| link.mac()).unwrap();
    let frame = |to| tcp("198.51.100.7:40000", to, ACK).link([2, 0, 0, 0, 0, 9], mac).bytes();
    for (what, verdict) in [(WithoutSocket::Kernel, PASS), (WithoutSocket::Drop, DROP)] {
        let mut loaded = Loaded::load("west").unwrap();
        loaded.update(&rules()).unwrap();
        loaded.set_without_socket(what).unwrap();
        let _steering = loaded.attach(ModeChoice::Auto).unwrap();
        let program = kernel::program(kernel::attached("west"));
        assert_eq!(kernel::run(&program, &frame("192.0.2.10:80")), verdict, "{what:?}");
        assert_eq!(kernel::run(&program, &frame("192.0.2.10:22")), PASS, "{what:?}");
    }
}
