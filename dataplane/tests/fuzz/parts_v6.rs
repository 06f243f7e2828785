//! IPv6 frames: packets with extension headers, ICMPv6 errors with anything in
//! them, fragments.

use std::net::Ipv6Addr;

use etherparse::Icmpv6Type;
use sluice_dataplane::service::Protocol;
use sluice_dataplane::wire::checksum;

use super::Random;
use super::director::packets::{ACK, SYN};
use super::director::packets_v6::{Datagram6, icmpv6_error, in_v6_tunnel, sctp6, tcp6, udp6};
use super::director::{CLIENT_ROUTER, INSIDE, INSIDE_ADDRESS6, OUTSIDE, server_mac};

const NETWORK: usize = 14;
const MESSAGE: usize = NETWORK + 40;
const QUOTED: usize = MESSAGE + 8;
const RIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 2);
/// Services of IPv6: those of each method, one with a server of IPv4, and one
/// with a tunnel to it.
pub const SERVICES: usize = 6;

pub fn vip(service: usize, protocol: Protocol) -> String {
    format!("[2001:db8:f::{}]:{}", 10 + service, super::port(protocol))
}

/// A frame to be fuzzed with, and the interface that it comes by.
pub fn frame(random: &mut Random) -> (usize, Vec<u8>) {
    let (interface, packet) = valid(random);
    let mut frame = match random.below(4) {
        0 => error(random, packet),
        1 => fragment(random, packet),
        _ => packet.bytes(),
    };
    for _ in 0..random.of(&[0, 0, 1, 1, 2]) {
        let at = random.of(&[NETWORK, NETWORK, QUOTED]);
        mutate(random, &mut frame, at);
    }
    (interface, frame)
}

/// Of connections that exist, are made by it, or cannot be.
fn valid(random: &mut Random) -> (usize, Datagram6) {
    let protocol = random.of(&super::PROTOCOLS);
    let client = format!("[2001:db8:c::{}]:{}", random.below(10), 1000 + random.below(16));
    let server = format!("[{RIP6}]:{}", super::port(protocol));
    let (interface, from, to) = match random.below(8) {
        0..5 => (0, client, vip(random.below(SERVICES), protocol)),
        5 => (1, server, client),
        6 => (1, server, format!("[2001:db8:2::200]:{}", 1024 + random.below(300))),
        _ => (random.below(2), client, format!("[2001:db8:f::{}]:{}", random.below(20), random.below(100))),
    };
    let mut packet = match protocol {
        Protocol::Tcp => {
            let flags = random.byte();
            tcp6(&from, &to, random.of(&[SYN, SYN, SYN, ACK, ACK, ACK, flags]))
        }
        Protocol::Udp => udp6(&from, &to),
        Protocol::Sctp => sctp6(&from, &to, &[random.below(16) as u8]),
    };
    if interface == 1 {
        packet = packet.link(server_mac(2), INSIDE);
    }
    if random.chance(10) {
        packet.hop_limit = random.of(&[0, 1, 2, 255]);
    }
    packet.without_checksum = random.chance(10);
    packet.traffic_class = if random.chance(20) { random.byte() } else { 0 };
    let length = match random.below(10) {
        0 => 1400 + random.below(200),
        1 => random.below(8),
        _ => random.below(100),
    };
    packet = packet.payload(vec![0x5a; length]);
    if random.chance(25) {
        let (first, extensions) = extensions(random, protocol.number());
        packet = packet.behind(first, &extensions);
    }
    (interface, packet)
}

/// Some extension headers before a protocol, and the number of the first.
fn extensions(random: &mut Random, protocol: u8) -> (u8, Vec<u8>) {
    let numbers: Vec<u8> = (0..1 + random.below(8)).map(|_| random.of(&[0, 60, 60, 43, 44])).collect();
    let mut bytes = Vec::new();
    for (place, number) in numbers.iter().enumerate() {
        let next = numbers.get(place + 1).copied().unwrap_or(protocol);
        let words = if *number == 44 { 0 } else { random.of(&[0, 0, 1]) };
        bytes.extend([next, words, 0, 0, 0, 0, 0, 0]);
        bytes.extend(vec![0; usize::from(words) * 8]);
    }
    (numbers[0], bytes)
}

/// An error about a packet that went the other way than `packet`, or about a
/// tunnel's, or about another error, or about nothing that makes sense.
fn error(random: &mut Random, packet: Datagram6) -> Vec<u8> {
    let (from, to) = (packet.source.to_string(), packet.destination.to_string());
    let mut sender = *packet.destination.ip();
    let mut quoted = packet.clone().between(&to, &from).ip_packet();
    if random.chance(25) {
        sender = INSIDE_ADDRESS6;
        let inner = packet.ip_packet();
        let udp_length = ((inner.len() + 12) as u16).to_be_bytes();
        let gue = [0x80, 0, 0x17, 0xc0, udp_length[0], udp_length[1], 0, 0, 0, 41, 0, 0];
        let (number, between) = random.of(&[
            (41, &[][..]),
            (4, &[]),
            (17, &gue),
            (47, &[0, 0, 0x86, 0xdd]),
            (47, &[0x80, 0, 0x86, 0xdd, 0, 0, 0, 0]),
        ]);
        quoted = in_v6_tunnel(&[between, &inner].concat(), number, (sender, RIP6), 63, 0);
    }
    if random.chance(5) {
        quoted = (0..random.below(200)).map(|_| random.byte()).collect();
    }
    for _ in 0..random.of(&[0, 0, 0, 0, 0, 0, 0, 1, 2, 9]) {
        quoted = about(random, sender, &quoted).split_off(NETWORK);
    }
    if random.chance(30) {
        let length = random.below(quoted.len() + 1);
        quoted.truncate(length);
    }
    let mut frame = about(random, sender, &quoted);
    for _ in 0..random.of(&[0, 0, 1, 1, 2]) {
        let at = random.of(&[NETWORK, QUOTED, QUOTED, QUOTED + 40]);
        mutate(random, &mut frame, at);
    }
    if random.chance(85) {
        fill_checksum(&mut frame);
    }
    frame
}

fn about(random: &mut Random, destination: Ipv6Addr, quoted: &[u8]) -> Vec<u8> {
    let (type_u8, code_u8) = (random.of(&[1, 2, 2, 2, 3, 4, 5, 128]), random.of(&[0, 0, 1, 4, 255]));
    let bytes5to8 = [random.of(&[0, 0, 0, 9]), 0, random.of(&[0, 0, 5, 255]), random.byte()];
    let source = Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 1);
    let kind = Icmpv6Type::Unknown { type_u8, code_u8, bytes5to8 };
    icmpv6_error((CLIENT_ROUTER, OUTSIDE), (source, destination), kind, quoted)
}

/// Makes the checksum right of an error that is as long as its header says.
fn fill_checksum(frame: &mut [u8]) {
    if frame.len() < QUOTED || frame[NETWORK + 6] != 58 {
        return;
    }
    let length = usize::from(u16::from_be_bytes([frame[NETWORK + 4], frame[NETWORK + 5]]));
    let end = (MESSAGE + length).clamp(QUOTED, frame.len());
    frame[MESSAGE + 2..MESSAGE + 4].fill(0);
    let pseudo = checksum::sum(58 + (end - MESSAGE) as u16, &frame[NETWORK + 8..MESSAGE]);
    let checksum = !checksum::sum(pseudo, &frame[MESSAGE..end]);
    frame[MESSAGE + 2..MESSAGE + 4].copy_from_slice(&checksum.to_be_bytes());
}

/// A piece of a packet, of few identifications so that pieces meet.
fn fragment(random: &mut Random, packet: Datagram6) -> Vec<u8> {
    let length = random.of(&[100, 600, 1400]) + random.below(100);
    let packet = packet.payload(vec![0x5a; length]);
    let pieces = packet.pieces(8 * (1 + random.below(180)), random.below(8) as u32);
    pieces[random.below(pieces.len())].clone()
}

/// Changes a byte that matters, or any, of the IPv6 packet at `network`.
fn mutate(random: &mut Random, frame: &mut Vec<u8>, network: usize) {
    if frame.is_empty() {
        return;
    }
    let mut set = |at: usize, byte: u8| {
        if let Some(old) = frame.get_mut(network + at) {
            *old = byte;
        }
    };
    match random.below(13) {
        // Version, payload length, next header, hop limit.
        0 => set(0, random.of(&[0x40, 0x45, 0x60, 0x6f, 0x70])),
        1 => set(4, random.of(&[0, 0, 1, 5, 0xff])),
        2 => set(5, random.byte()),
        3 => set(6, random.of(&[0, 4, 6, 17, 41, 43, 44, 47, 51, 58, 59, 60])),
        4 => set(7, random.byte()),
        // Of an extension header: what follows, its length, segments left or
        // the fragment's offset.
        5 => set(40, random.of(&[0, 4, 6, 17, 41, 43, 44, 47, 51, 58, 59, 60])),
        6 => set(41, random.of(&[0, 1, 2, 5, 0xff])),
        7 => {
            set(42, random.of(&[0, 0, 1, 0xff]));
            set(43, random.byte());
        }
        // UDP length, TCP data offset.
        8 => {
            set(44, random.of(&[0, 0, 1, 0xff]));
            set(45, random.byte());
        }
        9 => set(52, random.byte()),
        10 => {
            let at = random.below(frame.len());
            frame[at] ^= 1 << random.below(8);
        }
        11 => {
            let length = random.below(frame.len() + 1);
            frame.truncate(length);
        }
        _ => {
            let (from, to) = (random.below(frame.len()), random.below(frame.len()));
            let length = random.below(frame.len() - from.max(to) + 1);
            frame.copy_within(from..from + length, to);
        }
    }
}
