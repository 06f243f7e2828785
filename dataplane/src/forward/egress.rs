//! The last step: the link-layer header of the next hop.

use zerocopy::FromBytes;

use super::Rewritten;
use crate::neigh::NextHop;
use crate::port::Frame;
use crate::stats::DropReason;
use crate::wire::ethernet::{self, Mac};
use crate::wire::vlan;

/// Bytes of the link-layer header towards a next hop.
#[inline]
pub fn link_header_len(hop: &NextHop) -> usize {
    ethernet::LEN + if hop.vlan.is_some() { vlan::LEN } else { 0 }
}

/// Puts the link-layer header before the IP packet and makes the frame end
/// with it. The packet moves only where the header's length changes.
#[inline]
pub fn put_link_header<F: Frame>(
    frame: &mut F,
    packet: Rewritten,
    hop: &NextHop,
    mac: Mac,
) -> Result<(), DropReason> {
    let start = link_header_len(hop);
    let (offset, length) = (packet.offset(), packet.length());
    let end = start + length;
    if start != offset {
        if end > frame.capacity() {
            return Err(DropReason::TooBig);
        }
        frame.set_len(end.max(offset + length));
        frame.bytes_mut().copy_within(offset..offset + length, start);
    }
    frame.set_len(end);
    let bytes = frame.bytes_mut();
    let kind = match bytes.get(start) {
        Some(first) if first >> 4 == 6 => ethernet::IPV6,
        _ => ethernet::IPV4,
    };
    let (header, rest) = ethernet::Header::mut_from_prefix(bytes).map_err(|_| DropReason::Truncated)?;
    header.destination = mac;
    header.source = hop.source_mac;
    match hop.vlan {
        None => header.kind = kind.into(),
        Some(id) => {
            header.kind = vlan::CUSTOMER.into();
            let (tag, _) = vlan::Tag::mut_from_prefix(rest).map_err(|_| DropReason::Truncated)?;
            *tag = vlan::Tag { control: id.into(), kind: kind.into() };
        }
    }
    Ok(())
}
