//! Tunnelling: the packet is put into another one to the real server, which
//! unwraps it, holds the VIP and answers the client itself (IP in IP,
//! RFC 2003; IPv6 in either, RFC 2473 and RFC 4213).

use zerocopy::{FromBytes, IntoBytes};

use super::{Plan, Refused, Rewrite, Rewritten, dr};
use crate::conn::{Entry, Tuple};
use crate::packet::Packet;
use crate::port::Frame;
use crate::stats::DropReason;
use crate::wire::{Address, ipv4, ipv6};

/// Congestion experienced, in the two ECN bits (RFC 3168).
const CE: u8 = 0b11;
/// ECN-capable, in the two ECN bits.
const ECT_0: u8 = 0b10;

/// Bytes of the outer header towards a server.
#[inline]
pub(super) fn overhead(server: Address) -> u16 {
    if server.is_v4() { ipv4::LEN as u16 } else { ipv6::LEN as u16 }
}

pub(super) fn plan(client: Tuple, server: (Address, u16)) -> Plan {
    dr::plan(client, server)
}

#[inline]
pub(super) fn rewrite(entry: &Entry, outer_source: Address) -> Rewrite {
    Rewrite::Encapsulate { source: outer_source, destination: entry.server.source }
}

/// What an outer header takes over from the packet in it.
struct Inner {
    tos: u8,
    ttl: u8,
    dont_fragment: u16,
    protocol: u8,
}

impl Inner {
    fn of(packet: &[u8], is_v4: bool) -> Option<Self> {
        if is_v4 {
            let (ip, _) = ipv4::Header::ref_from_prefix(packet).ok()?;
            let dont_fragment = ip.flags_offset.get() & ipv4::DONT_FRAGMENT;
            Some(Inner { tos: ip.tos, ttl: ip.ttl, dont_fragment, protocol: ipv4::IPIP })
        } else {
            let (ip, _) = ipv6::Header::ref_from_prefix(packet).ok()?;
            let (tos, ttl) = (ip.traffic_class(), ip.hop_limit);
            Some(Inner { tos, ttl, dont_fragment: 0, protocol: ipv6::IPV6 })
        }
    }
}

/// Moves the packet back and puts the outer header before it.
///
/// As in the kernel's `ip_vs_tunnel_xmit` and `ip_vs_tunnel_xmit_v6`: the outer
/// TTL is the inner one after it was decremented, the outer TOS is the inner
/// one but that "congestion experienced" becomes "ECN-capable" (RFC 6040,
/// section 4.1), "do not fragment" is copied from IPv4 and not set for IPv6,
/// and the flow label is 0.
#[inline]
pub(super) fn apply<F: Frame>(
    packet: &Packet,
    frame: &mut F,
    source: Address,
    destination: Address,
    id: u16,
) -> Result<Rewritten, Refused> {
    let (offset, length) = (packet.network as usize, packet.length as usize);
    let header = usize::from(overhead(destination));
    let total = length + header;
    if offset + total > frame.capacity() {
        return Err(Refused::Drop(DropReason::TooBig));
    }
    dr::apply(packet, frame)?;
    frame.set_len(offset + total);
    let bytes = &mut frame.bytes_mut()[offset..];
    bytes.copy_within(..length, header);
    let (outer, inner) = bytes.split_at_mut(header);
    let inner = Inner::of(inner, packet.is_v4).ok_or(Refused::Drop(DropReason::Truncated))?;
    let tos = if inner.tos & CE == CE { inner.tos & !CE | ECT_0 } else { inner.tos };
    if destination.is_v4() {
        let mut ip = ipv4::Header {
            version_ihl: 0x45,
            tos,
            total_length: (total as u16).into(),
            id: id.into(),
            flags_offset: inner.dont_fragment.into(),
            ttl: inner.ttl,
            protocol: inner.protocol,
            checksum: 0.into(),
            source: source.v4_bytes(),
            destination: destination.v4_bytes(),
        };
        ip.fill_checksum();
        outer.copy_from_slice(ip.as_bytes());
    } else {
        let (source, destination) = (source.bytes(), destination.bytes());
        let ip =
            ipv6::Header::new(tos, (total - header) as u16, inner.protocol, inner.ttl, source, destination);
        outer.copy_from_slice(ip.as_bytes());
    }
    Ok(Rewritten { offset, length: total })
}
