//! FULLNAT between address families: one IP header is replaced by the other
//! (RFC 7915), so that IPv6 clients reach IPv4 servers and the reverse.
//!
//! What only one family has is left out: IPv4 options, IPv6 extension headers
//! and flow labels. The transport checksum is corrected by the same delta as
//! any other, since the pseudo headers of the two families differ in nothing
//! but the addresses. A fragment of IPv4 gets a fragment header, and loses it
//! on the way back; one of a UDP packet without a checksum is dropped, since
//! IPv6 asks for one.

use zerocopy::{FromBytes, IntoBytes};

use super::{Refused, Rewritten, nat};
use crate::packet::Packet;
use crate::port::Frame;
use crate::service::Protocol;
use crate::stats::DropReason;
use crate::wire::checksum::Delta;
use crate::wire::{Address, ipv4, ipv6, udp};

/// What an IPv6 header has more than an IPv4 one, in bytes.
const DIFFERENCE: u16 = (ipv6::LEN - ipv4::LEN) as u16;

/// Largest IPv4 packet that routers may fragment (RFC 7915, section 5.1): as
/// IPv6 it had 1280 bytes, and its sender would not make it smaller.
const MAY_BE_FRAGMENTED: usize = 1260;

/// The largest packet that may come where what goes out has `mtu` bytes. A
/// fragment, or what is to be fragmented, needs a fragment header in IPv6.
pub(super) fn room(mtu: u16, packet: &Packet, frame: &[u8]) -> u16 {
    if !packet.is_v4 {
        // All before the segment, or the data of a fragment, is replaced.
        let headers = packet.transport - packet.network;
        return mtu.saturating_sub(ipv4::LEN as u16).saturating_add(headers);
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
        let fragment_header = ipv6::Fragment::of_v4(ip);
        bytes.copy_within(start..start + length, transport);
        bytes[network..network + ipv6::LEN].copy_from_slice(header.as_bytes());
        bytes[network + ipv6::LEN..transport].copy_from_slice(&fragment_header.as_bytes()[..fragment]);
        let rewritten = Rewritten::new(network, ipv6::LEN + fragment + length);
        if packet.later {
            return Ok(rewritten);
        }
        let segment = &mut bytes[transport..transport + length];
        // IPv6 asks for one, over data of which this is a part (RFC 7915, section
        // 4.5).
        let without_checksum =
            udp::Header::ref_from_prefix(segment).is_ok_and(|(udp, _)| udp.checksum.get() == 0);
        if fragment > 0 && packet.tuple.protocol == Protocol::Udp && without_checksum {
            return Err(Refused::Drop(DropReason::Untranslatable));
        }
        nat::rewrite_transport(segment, packet.tuple.protocol, source, destination, transport_delta)?;
        return Ok(rewritten);
    }

    let bytes = frame.bytes_mut();
    let (ip, payload) = ipv6::Header::ref_from_prefix(&bytes[network..]).map_err(|_| truncated)?;
    let upper = ipv6::upper_layer(ip.next_header, payload).map_err(|_| truncated)?;
    let fragment =
        upper.fragment.and_then(|at| Some(ipv6::Fragment::ref_from_prefix(payload.get(at..)?).ok()?.0));
    // Extension headers that are cut into pieces cannot be left out, since the
    // pieces behind would have to move (RFC 7915, section 5.1.1).
    if fragment.is_some_and(|header| !header.is_atomic() && header.next_header != protocol) {
        return Err(Refused::Drop(DropReason::Untranslatable));
    }
    let total = ipv4::LEN + length;
    let (id, flags_offset) = fragment_of_v6(fragment, total, id);
    let mut header = ipv4::Header {
        version_ihl: 0x45,
        tos: ip.traffic_class(),
        total_length: (total as u16).into(),
        id: id.into(),
        flags_offset: flags_offset.into(),
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
    let rewritten = Rewritten::new(offset, total);
    if packet.later {
        return Ok(rewritten);
    }
    let segment = bytes.get_mut(start..start + length).ok_or(truncated)?;
    nat::rewrite_transport(segment, packet.tuple.protocol, source, destination, transport_delta)?;
    Ok(rewritten)
}

/// Identification, flags and offset of an IPv4 packet of `total` bytes that was
/// an IPv6 one with or without a fragment header (RFC 7915, section 5.1). `id`
/// is for one that had no identification.
pub(super) fn fragment_of_v6(fragment: Option<&ipv6::Fragment>, total: usize, id: u16) -> (u16, u16) {
    match fragment {
        Some(header) => {
            let more = if header.more() { ipv4::MORE_FRAGMENTS } else { 0 };
            (header.id.get() as u16, more | (header.offset() / 8))
        }
        None if total > MAY_BE_FRAGMENTED => (id, ipv4::DONT_FRAGMENT),
        None => (id, 0),
    }
}
