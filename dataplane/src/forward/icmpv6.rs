//! ICMPv6 errors of our own to the sender of a packet (RFC 4443).

use zerocopy::{FromBytes, IntoBytes};

use super::Rewritten;
use super::icmp::Error;
use crate::packet::Packet;
use crate::port::Frame;
use crate::wire::{icmpv6, ipv6};

/// Hop limit of an error, the kernel's default.
const HOP_LIMIT: u8 = 64;

/// Writes the error about an IPv6 `packet` into `answer`, with the IP packet at
/// `offset`. `source` is an address of the director.
///
/// Returns `None` for what must not be answered (RFC 4443, section 2.4):
/// packets from an address that is not one node's, and to a multicast address.
pub(super) fn write<F: Frame>(
    error: Error,
    source: [u8; 16],
    packet: &Packet,
    frame: &[u8],
    answer: &mut F,
    offset: usize,
) -> Option<Rewritten> {
    let network = packet.network as usize;
    let original = frame.get(network..network + packet.length as usize)?;
    let (ip, _) = ipv6::Header::ref_from_prefix(original).ok()?;
    if !is_one_node(ip.source) || is_multicast(ip.destination) {
        return None;
    }
    let (kind, code, mtu) = match error {
        Error::TimeExceeded => (icmpv6::TIME_EXCEEDED, icmpv6::CODE_HOP_LIMIT, 0),
        Error::FragmentationNeeded(mtu) => (icmpv6::PACKET_TOO_BIG, 0, u32::from(mtu)),
        Error::PortUnreachable => (icmpv6::UNREACHABLE, icmpv6::CODE_PORT, 0),
        Error::InTunnel { kind, code, info } => (kind, code, u32::from_be_bytes(info)),
    };
    let quoted = original.len().min(usize::from(ipv6::MIN_MTU) - ipv6::LEN - icmpv6::LEN);
    let length = ipv6::LEN + icmpv6::LEN + quoted;
    if offset + length > answer.capacity() {
        return None;
    }
    let payload = (icmpv6::LEN + quoted) as u16;
    let header = ipv6::Header::new(0, payload, ipv6::ICMPV6, HOP_LIMIT, source, ip.source);
    let message = icmpv6::Header { kind, code, checksum: 0.into(), mtu: mtu.into() };

    answer.set_len(offset + length);
    let (head, body) = answer.bytes_mut()[offset..].split_at_mut(ipv6::LEN);
    head.copy_from_slice(header.as_bytes());
    body[..icmpv6::LEN].copy_from_slice(message.as_bytes());
    body[icmpv6::LEN..].copy_from_slice(&original[..quoted]);
    icmpv6::fill_checksum(body, &source, &ip.source);
    Some(Rewritten::new(offset, length))
}

fn is_multicast(address: [u8; 16]) -> bool {
    address[0] == 0xff
}

fn is_one_node(address: [u8; 16]) -> bool {
    // Unspecified and loopback are ::0 and ::1.
    !is_multicast(address) && address[..15].iter().any(|byte| *byte != 0)
}
