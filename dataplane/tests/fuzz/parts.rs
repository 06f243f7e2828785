//! Frames that hold parts of packets: ICMP errors and fragments.

use etherparse::Icmpv4Type;

use super::director::packets::{Datagram, IcmpError};
use super::director::{CLIENT_ROUTER, OUTSIDE};
use super::{Random, fill_checksum, mutate};

/// Of the error and of what it quotes.
const NETWORK: usize = 14;
const MESSAGE: usize = NETWORK + 20;
const QUOTED: usize = MESSAGE + 8;

/// An error about a packet that went the other way than `packet`, or about a
/// tunnel's, or about another error, with anything wrong with it.
pub fn error(random: &mut Random, packet: Datagram) -> Vec<u8> {
    let (from, to) = (packet.source.to_string(), packet.destination.to_string());
    let mut quoted = packet.clone().between(&to, &from).ip_packet();
    let mut sender = packet.destination.ip().octets();
    if random.chance(20) {
        sender = [10, 0, 2, 254];
        let mut tunnelled = packet;
        tunnelled.vlans.clear();
        quoted = tunnelled.in_tunnel(sender, [10, 0, 2, 2], 0, 1).split_off(NETWORK);
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
        let at = random.of(&[NETWORK, QUOTED, QUOTED, QUOTED + 20]);
        mutate(random, &mut frame, at);
    }
    if random.chance(85) && frame.len() > QUOTED {
        let length = usize::from(u16::from_be_bytes([frame[NETWORK + 2], frame[NETWORK + 3]]));
        let end = (NETWORK + length).clamp(QUOTED, frame.len());
        frame[MESSAGE + 2..MESSAGE + 4].fill(0);
        let checksum = !sluice_dataplane::wire::checksum::sum(0, &frame[MESSAGE..end]);
        frame[MESSAGE + 2..MESSAGE + 4].copy_from_slice(&checksum.to_be_bytes());
        fill_checksum(&mut frame, NETWORK);
    }
    frame
}

fn about(random: &mut Random, destination: [u8; 4], quoted: &[u8]) -> Vec<u8> {
    let (type_u8, code_u8) = (random.of(&[3, 3, 3, 11, 12, 4, 5, 8]), random.of(&[4, 4, 1, 3, 255]));
    let bytes5to8 = [random.byte(), 0, random.of(&[0, 0, 5, 255]), random.byte()];
    let kind = Icmpv4Type::Unknown { type_u8, code_u8, bytes5to8 };
    let (from_mac, to_mac, source) = (CLIENT_ROUTER, OUTSIDE, [198, 18, 0, 1]);
    IcmpError { from_mac, to_mac, source, destination, kind, quoted, id: 1 }.bytes()
}

/// A piece of a packet, of few identifications so that pieces meet.
pub fn fragment(random: &mut Random, mut packet: Datagram) -> Vec<u8> {
    let length = random.of(&[100, 600, 1400]) + random.below(100);
    packet = packet.payload(vec![0x5a; length]);
    packet.id = random.below(8) as u16;
    packet.dont_fragment = random.chance(10);
    let network = NETWORK + 4 * packet.vlans.len();
    let header = 20 + packet.ip_options.len();
    let frame = packet.bytes();
    let (head, data) = frame.split_at(network + header);
    let size = 8 * (1 + random.below(data.len() / 8));
    let pieces = data.len().div_ceil(size);
    let n = random.below(pieces);
    let chunk = &data[n * size..data.len().min((n + 1) * size)];
    let more = if n + 1 < pieces { 0x2000 } else { 0 };
    let flags = if packet.dont_fragment { 0x4000 } else { 0 } | more | (n * size / 8) as u16;
    let mut frame = [head, chunk].concat();
    frame[network + 2..network + 4].copy_from_slice(&((header + chunk.len()) as u16).to_be_bytes());
    frame[network + 6..network + 8].copy_from_slice(&flags.to_be_bytes());
    fill_checksum(&mut frame, network);
    if random.chance(30) {
        mutate(random, &mut frame, network);
    }
    frame
}
