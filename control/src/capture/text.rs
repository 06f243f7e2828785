//! A packet in a line.

use sluice_dataplane::packet::Packet;
use sluice_dataplane::service::Protocol;

use super::part::{CapturedPacket, Seen};
use crate::events::utc_ns;

/// Flags of TCP by the letters that tcpdump has for them (RFC 9293, section 3.1).
const FLAGS: [(u8, char); 6] = [(0x02, 'S'), (0x01, 'F'), (0x04, 'R'), (0x08, 'P'), (0x20, 'U'), (0x10, '.')];

/// When and where a packet was seen, its ends, and what is told of it.
pub(super) fn line(packet: &CapturedPacket) -> String {
    let arrow = match packet.seen {
        Seen::Dropped => "x",
        seen if seen.is_inbound() => "<",
        _ => ">",
    };
    let what = packet.bytes().map(|bytes| summary(&bytes)).unwrap_or_else(|error| error.to_string());
    let (time, interface, length) = (utc_ns(packet.time_ns), &packet.interface, packet.length);
    format!("{time} {interface} {arrow} {what}, {length} bytes [{}]", packet.comment())
}

fn summary(bytes: &[u8]) -> String {
    let Ok(Packet { tuple, flags, .. }) = Packet::parse(bytes) else {
        return other(bytes);
    };
    let end = |address: sluice_dataplane::wire::Address, port| {
        std::net::SocketAddr::new(std::net::IpAddr::from(address), port)
    };
    let from = end(tuple.source, tuple.source_port);
    let to = end(tuple.destination, tuple.destination_port);
    let what = match tuple.protocol {
        Protocol::Tcp => {
            let set = FLAGS.iter().filter(|(bit, _)| flags & bit != 0);
            format!("tcp [{}]", set.map(|(_, letter)| *letter).collect::<String>())
        }
        Protocol::Udp => "udp".to_owned(),
        Protocol::Sctp => "sctp".to_owned(),
    };
    format!("{from} -> {to} {what}")
}

/// What has no ports: its addresses, and what it carries.
fn other(bytes: &[u8]) -> String {
    match sluice_dataplane::capture::summary(bytes) {
        Some((from, to, protocol)) => format!("{from} -> {to} {}", name(protocol)),
        None => "no IP packet".to_owned(),
    }
}

/// The name of an IP protocol number that the director has to do with.
fn name(protocol: u8) -> String {
    match protocol {
        1 => "icmp".into(),
        4 => "ipip".into(),
        6 => "tcp".into(),
        17 => "udp".into(),
        41 => "ipv6 in ip".into(),
        44 => "fragment".into(),
        47 => "gre".into(),
        58 => "icmpv6".into(),
        132 => "sctp".into(),
        other => format!("protocol {other}"),
    }
}
