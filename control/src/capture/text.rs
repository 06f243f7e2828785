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

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;
    use etherparse::PacketBuilder;

    use super::*;
    use crate::capture::Ends;
    use crate::rules::{self, Method};

    fn packet(bytes: &[u8], seen: Seen) -> CapturedPacket {
        CapturedPacket {
            time_ns: 1_795_264_285_012_345_678,
            packet: 1,
            worker: 2,
            interface: "eth0".into(),
            seen,
            reason: (seen == Seen::Refused).then(|| "no_server".into()),
            length: bytes.len() as u32,
            connection: None,
            data: BASE64_STANDARD.encode(bytes),
        }
    }

    fn ethernet() -> etherparse::PacketBuilderStep<etherparse::Ethernet2Header> {
        PacketBuilder::ethernet2([2; 6], [4; 6])
    }

    #[test]
    fn a_line_has_time_place_ends_and_what_became_of_it() {
        let mut syn = Vec::new();
        let ip = ethernet().ipv4([198, 51, 100, 7], [192, 0, 2, 10], 64);
        ip.tcp(40_000, 80, 1, 100).syn().write(&mut syn, &[]).unwrap();
        assert_eq!(
            line(&packet(&syn, Seen::Refused)),
            "2026-11-21T12:31:25.012345678Z eth0 < 198.51.100.7:40000 -> 192.0.2.10:80 tcp [S], 54 bytes [worker 2: \
             received, dropped (no_server)]"
        );
        let end = |text: &str| text.parse().unwrap();
        let connection = Some(Ends {
            protocol: rules::Protocol::Tcp,
            client: end("198.51.100.7:40000"),
            service: end("192.0.2.10:80"),
            local: Some(end("10.0.2.200:5000")),
            server: end("10.0.2.1:8080"),
            method: Method::FullNat,
        });
        let sent = CapturedPacket { connection, ..packet(&syn, Seen::Sent) };
        assert!(
            line(&sent).ends_with(
                "eth0 > 198.51.100.7:40000 -> 192.0.2.10:80 tcp [S], 54 bytes [worker 2: sent; tcp \
                 198.51.100.7:40000 -> 192.0.2.10:80 -> 10.0.2.200:5000 -> 10.0.2.1:8080, fullnat]"
            ),
            "{}",
            line(&sent)
        );
    }

    #[test]
    fn what_has_no_ports_is_named_too() {
        let mut echo = Vec::new();
        let ip = ethernet().ipv4([198, 51, 100, 7], [192, 0, 2, 10], 64);
        ip.icmpv4_echo_request(1, 1).write(&mut echo, &[]).unwrap();
        assert!(line(&packet(&echo, Seen::Kernel)).contains("198.51.100.7 -> 192.0.2.10 icmp, "));
        assert!(line(&packet(&[0; 60], Seen::Kernel)).contains("no IP packet"));
        assert!(line(&packet(&echo[..20], Seen::Kernel)).contains("no IP packet"), "cut off");
    }
}
