//! Tunnelling: the packet is put into another one to the real server, which
//! unwraps it, holds the VIP and answers the client itself (IP in IP,
//! RFC 2003).

use zerocopy::{FromBytes, IntoBytes};

use super::{Plan, Refused, Rewrite, Rewritten, dr};
use crate::conn::{Entry, Tuple};
use crate::packet::Packet;
use crate::port::Frame;
use crate::stats::DropReason;
use crate::wire::{Address, ipv4};

/// Bytes that a tunnel's outer header adds to a packet.
pub const OVERHEAD: u16 = ipv4::LEN as u16;

/// Congestion experienced, in the two ECN bits (RFC 3168).
const CE: u8 = 0b11;
/// ECN-capable, in the two ECN bits.
const ECT_0: u8 = 0b10;

pub(super) fn plan(client: Tuple, server: (Address, u16)) -> Plan {
    dr::plan(client, server)
}

#[inline]
pub(super) fn rewrite(entry: &Entry, outer_source: Address) -> Rewrite {
    Rewrite::Encapsulate { source: outer_source.v4_bytes(), destination: entry.server.source.v4_bytes() }
}

/// Moves the packet back by twenty bytes and puts the outer header before it.
///
/// As in the kernel's `ip_vs_tunnel_xmit`: the outer TTL is the inner one
/// after it was decremented, the outer TOS is the inner one but that
/// "congestion experienced" becomes "ECN-capable" (RFC 6040, section 4.1), and
/// "do not fragment" is copied.
#[inline]
pub(super) fn apply<F: Frame>(
    packet: &Packet,
    frame: &mut F,
    source: [u8; 4],
    destination: [u8; 4],
    id: u16,
) -> Result<Rewritten, Refused> {
    let (offset, length) = (packet.network as usize, packet.length as usize);
    let total = length + ipv4::LEN;
    if offset + total > frame.capacity() {
        return Err(Refused::Drop(DropReason::TooBig));
    }
    dr::apply(packet, frame)?;
    frame.set_len(offset + total);
    let bytes = frame.bytes_mut();
    bytes.copy_within(offset..offset + length, offset + ipv4::LEN);
    let (inner, _) = ipv4::Header::ref_from_prefix(&bytes[offset + ipv4::LEN..])
        .map_err(|_| Refused::Drop(DropReason::Truncated))?;
    let mut outer = ipv4::Header {
        version_ihl: 0x45,
        tos: if inner.tos & CE == CE { inner.tos & !CE | ECT_0 } else { inner.tos },
        total_length: (total as u16).into(),
        id: id.into(),
        flags_offset: (inner.flags_offset.get() & ipv4::DONT_FRAGMENT).into(),
        ttl: inner.ttl,
        protocol: ipv4::IPIP,
        checksum: 0.into(),
        source,
        destination,
    };
    outer.fill_checksum();
    bytes[offset..offset + ipv4::LEN].copy_from_slice(outer.as_bytes());
    Ok(Rewritten { offset, length: total })
}
