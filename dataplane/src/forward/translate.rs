//! FULLNAT between address families: one IP header is replaced by the other
//! (RFC 7915), so that IPv6 clients reach IPv4 servers and the reverse.
//!
//! What only one family has is left out: IPv4 options, IPv6 extension headers
//! and flow labels. The transport checksum is corrected by the same delta as
//! any other, since the pseudo headers of the two families differ in nothing
//! but the addresses. A fragment of IPv4 gets a fragment header; one of a UDP
//! packet without a checksum is dropped, since IPv6 asks for one.

use zerocopy::{FromBytes, IntoBytes};

use super::{Refused, Rewritten, nat};
use crate::packet::Packet;
use crate::port::Frame;
use crate::stats::DropReason;
use crate::wire::checksum::Delta;
use crate::wire::{Address, ipv4, ipv6};

/// What an IPv6 header has more than an IPv4 one, in bytes.
const DIFFERENCE: u16 = (ipv6::LEN - ipv4::LEN) as u16;

/// Largest IPv4 packet that routers may fragment (RFC 7915, section 5.1): as
/// IPv6 it had 1280 bytes, and its sender would not make it smaller.
const MAY_BE_FRAGMENTED: usize = 1260;

/// The largest packet that may come where what goes out has `mtu` bytes. A
/// fragment, or what is to be fragmented, needs a fragment header in IPv6.
pub(super) fn room(mtu: u16, packet: &Packet, frame: &[u8]) -> u16 {
    if !packet.is_v4 {
        return mtu.saturating_add(DIFFERENCE);
    }
    let whole = mtu.saturating_sub(DIFFERENCE);
    let fragmented = packet.length > whole && !packet.dont_fragment || is_fragment(packet, frame);
    if fragmented { whole.saturating_sub(ipv6::FRAGMENT_LEN as u16) } else { whole }
}

fn is_fragment(packet: &Packet, frame: &[u8]) -> bool {
    let ip = frame.get(packet.network as usize..).and_then(|rest| ipv4::Header::ref_from_prefix(rest).ok());
    ip.is_some_and(|(ip, _)| ip.is_fragment())
}

/// Gives a packet a header of the family of `source` and `destination`.
pub(super) fn apply<F: Frame>(
    packet: &Packet,
    frame: &mut F,
    source: (Address, u16),
    destination: (Address, u16),
    transport_delta: Delta,
    id: u16,
) -> Result<Rewritten, Refused> {
    let (network, start) = (packet.network as usize, packet.transport as usize);
    let (protocol, length) = (packet.tuple.protocol.number(), packet.transport_length());
    let ttl = packet.ttl - 1;
    let truncated = Refused::Drop(DropReason::Truncated);
    if packet.is_v4 {
        let fragment = if is_fragment(packet, frame.bytes()) { ipv6::FRAGMENT_LEN } else { 0 };
        let transport = network + ipv6::LEN + fragment;
        if transport + length > frame.capacity() {
            return Err(Refused::Drop(DropReason::TooBig));
        }
        frame.set_len((transport + length).max(start + length));
        let bytes = frame.bytes_mut();
        let (ip, _) = ipv4::Header::ref_from_prefix(&bytes[network..]).map_err(|_| truncated)?;
        let (from, to) = (source.0.bytes(), destination.0.bytes());
        let next = if fragment > 0 { ipv6::FRAGMENT } else { protocol };
        let header = ipv6::Header::new(ip.tos, (fragment + length) as u16, next, ttl, from, to);
        let offset = ip.flags_offset.get() & ipv4::OFFSET;
        let more = u16::from(ip.flags_offset.get() & ipv4::MORE_FRAGMENTS != 0);
        let fragment_header = ipv6::Fragment {
            next_header: protocol,
            reserved: 0,
            offset_more: (offset << 3 | more).into(),
            id: u32::from(ip.id.get()).into(),
        };
        bytes.copy_within(start..start + length, transport);
        bytes[network..network + ipv6::LEN].copy_from_slice(header.as_bytes());
        bytes[network + ipv6::LEN..transport].copy_from_slice(&fragment_header.as_bytes()[..fragment]);
        let rewritten = Rewritten { offset: network, length: ipv6::LEN + fragment + length };
        if packet.later {
            return Ok(rewritten);
        }
        let segment = &mut bytes[transport..transport + length];
        nat::rewrite_transport(segment, packet.tuple.protocol, source, destination, transport_delta)?;
        return Ok(rewritten);
    }

    let bytes = frame.bytes_mut();
    let (ip, _) = ipv6::Header::ref_from_prefix(&bytes[network..]).map_err(|_| truncated)?;
    let total = ipv4::LEN + length;
    let dont_fragment = if total > MAY_BE_FRAGMENTED { ipv4::DONT_FRAGMENT } else { 0 };
    let mut header = ipv4::Header {
        version_ihl: 0x45,
        tos: ip.traffic_class(),
        total_length: (total as u16).into(),
        id: id.into(),
        flags_offset: dont_fragment.into(),
        ttl,
        protocol,
        checksum: 0.into(),
        source: source.0.v4_bytes(),
        destination: destination.0.v4_bytes(),
    };
    header.fill_checksum();
    // The longer header makes room for the shorter one right before the
    // segment, which need not move here.
    let offset = start - ipv4::LEN;
    bytes[offset..start].copy_from_slice(header.as_bytes());
    let segment = bytes.get_mut(start..start + length).ok_or(truncated)?;
    nat::rewrite_transport(segment, packet.tuple.protocol, source, destination, transport_delta)?;
    Ok(Rewritten { offset, length: total })
}
