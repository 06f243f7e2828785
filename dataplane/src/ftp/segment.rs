//! TCP segments whose numbers and bytes are changed.

use zerocopy::FromBytes;

use super::stream::Stream;
use crate::packet::Packet;
use crate::port::Frame;
use crate::wire::checksum::{Delta, sum};
use crate::wire::{ipv4, ipv6, tcp};

/// What a segment says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Number of its first byte
    pub sequence: u32,
    /// Number of the next byte expected, if [`tcp::ACK`] is set
    pub acknowledgment: u32,
    /// Flags
    pub flags: u8,
    /// Offset of its data in the frame
    pub data: usize,
    /// Bytes of data
    pub length: usize,
}

impl Segment {
    /// Reads the segment of a TCP packet; `None` for a fragment.
    pub fn read(packet: &Packet, frame: &[u8]) -> Option<Segment> {
        if packet.later || is_fragment(packet, frame) {
            return None;
        }
        let start = usize::from(packet.transport);
        let segment = frame.get(start..start + packet.transport_length())?;
        let (header, _) = tcp::Header::ref_from_prefix(segment).ok()?;
        Some(Segment {
            sequence: header.sequence.get(),
            acknowledgment: header.acknowledgment.get(),
            flags: header.flags,
            data: start + header.header_len(),
            length: segment.len().checked_sub(header.header_len())?,
        })
    }

    /// Number of the byte behind its data.
    pub fn end(&self) -> u32 {
        self.sequence.wrapping_add(self.length as u32)
    }
}

fn is_fragment(packet: &Packet, frame: &[u8]) -> bool {
    let Some(bytes) = frame.get(usize::from(packet.network)..) else { return true };
    if packet.is_v4 {
        return ipv4::Header::ref_from_prefix(bytes).is_ok_and(|(ip, _)| ip.is_fragment());
    }
    let Ok((ip, payload)) = ipv6::Header::ref_from_prefix(bytes) else { return true };
    let upper = ipv6::upper_layer(ip.next_header, payload).ok();
    let header = upper.and_then(|upper| upper.fragment).and_then(|at| payload.get(at..));
    let header = header.and_then(|rest| ipv6::Fragment::ref_from_prefix(rest).ok());
    header.is_some_and(|(header, _)| !header.is_atomic())
}

/// Takes a segment of `sent` to the numbers and bytes of its receiver, and what
/// it acknowledges to those of `other`'s sender. `room` is the most bytes that
/// the IP packet may have: what does not fit is cut off, as is data beyond the
/// segment's length, and its sender will send it again by itself. `scratch` is
/// lent.
///
/// Returns the packet as it is now, or `None` where it has no room at all; it is
/// as it was then.
pub fn rewrite<F: Frame>(
    packet: &Packet,
    segment: &Segment,
    frame: &mut F,
    (sent, other): (&Stream, &Stream),
    room: usize,
    scratch: &mut Vec<u8>,
) -> Option<Packet> {
    let (network, transport) = (usize::from(packet.network), usize::from(packet.transport));
    scratch.clear();
    let payload = frame.bytes().get(segment.data..segment.data + segment.length)?;
    sent.write(segment.sequence, payload, scratch);
    let most = room.min(frame.capacity().saturating_sub(network)).checked_sub(segment.data - network)?;
    let cut = scratch.len() > most || segment.length < packet.transport_length() - (segment.data - transport);
    scratch.truncate(most);

    let old_length = packet.transport_length();
    let new_length = segment.data - transport + scratch.len();
    let total = transport - network + new_length;
    let old_sum = sum(0, frame.bytes().get(transport..transport + old_length)?);
    frame.set_len(frame.bytes().len().max(network + total));
    let bytes = frame.bytes_mut();
    bytes[segment.data..segment.data + scratch.len()].copy_from_slice(scratch);
    let (tcp, options) = tcp::Header::mut_from_prefix(&mut bytes[transport..segment.data]).ok()?;
    let sequence = sent.map(segment.sequence);
    tcp.sequence = sequence.into();
    if segment.flags & tcp::ACK != 0 {
        tcp.acknowledgment = other.unmap(segment.acknowledgment).into();
    }
    if segment.flags & tcp::URG != 0 {
        let urgent = sent.map(segment.sequence.wrapping_add(tcp.urgent.get().into())).wrapping_sub(sequence);
        tcp.urgent = (urgent as u16).into();
    }
    if cut {
        tcp.flags &= !(tcp::FIN | tcp::PSH);
    }
    acknowledge_selectively(options, other);
    let new_sum = sum(0, &bytes[transport..transport + new_length]);
    // The pseudo header has the length as well.
    let delta = Delta::new(old_sum, new_sum).and(Delta::new(old_length as u16, new_length as u16));
    let (tcp, _) = tcp::Header::mut_from_prefix(&mut bytes[transport..]).ok()?;
    tcp.checksum = delta.apply(tcp.checksum.get()).into();

    let length = total as u16;
    if packet.is_v4 {
        let (ip, _) = ipv4::Header::mut_from_prefix(&mut bytes[network..]).ok()?;
        let delta = Delta::new(packet.length, length);
        ip.total_length = length.into();
        ip.checksum = delta.apply(ip.checksum.get()).into();
    } else {
        let (ip, _) = ipv6::Header::mut_from_prefix(&mut bytes[network..]).ok()?;
        ip.payload_length = (length - ipv6::LEN as u16).into();
    }
    Some(Packet { length, ..*packet })
}

/// Option: end of options (RFC 9293, section 3.1)
const END: u8 = 0;
/// Option: nothing
const NOTHING: u8 = 1;
/// Option: blocks that were received (RFC 2018)
const SACK: u8 = 5;

/// Takes the blocks of a SACK option to the numbers of `other`'s sender. An
/// option with a block that covers nothing of the sender's is blanked.
fn acknowledge_selectively(options: &mut [u8], other: &Stream) {
    let mut at = 0;
    while let Some(kind) = options.get(at).copied() {
        if kind == END {
            return;
        }
        if kind == NOTHING {
            at += 1;
            continue;
        }
        let length = options.get(at + 1).copied().map_or(0, usize::from);
        let Some(option) = options.get_mut(at..at + length).filter(|_| length >= 2) else { return };
        if kind == SACK && !take_blocks(&mut option[2..], other) {
            option.fill(NOTHING);
        }
        at += length;
    }
}

fn take_blocks(blocks: &mut [u8], other: &Stream) -> bool {
    let (blocks, _) = blocks.as_chunks_mut::<8>();
    blocks.iter_mut().all(|block| {
        let [a, b, c, d, e, f, g, h] = *block;
        let edges = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
        let Some((left, right)) = other.unmap_block(edges.0, edges.1) else { return false };
        block[..4].copy_from_slice(&left.to_be_bytes());
        block[4..].copy_from_slice(&right.to_be_bytes());
        true
    })
}
