//! Fragmenting what does not fit and may be fragmented (RFC 791, section 3.2).
//!
//! A packet is cut before it is rewritten. For a tunnel that means that each
//! piece gets an outer header of its own, and the real server's stack puts the
//! packets together after unwrapping them. The kernel cuts the outer packet
//! instead, which asks every decapsulator to reassemble; one that works on
//! packets (XDP, a NIC's offload) cannot.

use zerocopy::FromBytes;

use crate::packet::Packet;
use crate::port::Frame;
use crate::stats::DropReason;
use crate::wire::ipv4;

/// Where a packet is cut.
#[derive(Clone, Copy, Debug)]
pub struct Split {
    packet: Packet,
    /// Bytes of the header with its options
    header: usize,
    /// Bytes of data in each piece but the last
    data: usize,
    /// Bytes of data sent so far
    done: usize,
}

impl Split {
    /// Cuts an IPv4 `packet` into pieces of at most `room` bytes.
    ///
    /// # Errors
    /// A link too narrow for any piece.
    pub fn new(packet: &Packet, room: u16) -> Result<Self, DropReason> {
        let header = usize::from(packet.transport - packet.network);
        let data = usize::from(room).saturating_sub(header) & !7;
        if !packet.is_v4 || data == 0 {
            return Err(DropReason::TooBig);
        }
        Ok(Split { packet: *packet, header, data, done: 0 })
    }

    /// Copies the next piece of `frame` into `piece`, with room for the same
    /// link-layer header before it; `None` after the last.
    ///
    /// # Errors
    /// A frame shorter than its packet, or that `piece` cannot hold.
    pub fn next<F: Frame>(&mut self, frame: &F, piece: &mut F) -> Result<Option<Packet>, DropReason> {
        let Packet { network, transport, length, .. } = self.packet;
        let (network, transport) = (usize::from(network), usize::from(transport));
        let total = usize::from(length) - self.header;
        let left = total - self.done;
        if left == 0 {
            return Ok(None);
        }
        let data = left.min(self.data);
        let end = transport + data;
        if end > piece.capacity() {
            return Err(DropReason::TooBig);
        }
        let from = frame.bytes();
        let head = from.get(..transport).ok_or(DropReason::Truncated)?;
        let source = from.get(transport + self.done..transport + self.done + data);
        let source = source.ok_or(DropReason::Truncated)?;
        piece.set_len(end);
        let bytes = piece.bytes_mut();
        bytes[..transport].copy_from_slice(head);
        bytes[transport..].copy_from_slice(source);

        let first = self.done == 0;
        if !first {
            blank_options(&mut bytes[network + ipv4::LEN..transport]);
        }
        let ip = &mut bytes[network..transport];
        let (header, _) = ipv4::Header::mut_from_prefix(ip).map_err(|_| DropReason::Truncated)?;
        let before = header.flags_offset.get();
        let offset = (before & ipv4::OFFSET) + (self.done / 8) as u16;
        let more = if data < left { ipv4::MORE_FRAGMENTS } else { before & ipv4::MORE_FRAGMENTS };
        header.flags_offset = (more | offset & ipv4::OFFSET).into();
        header.total_length = ((self.header + data) as u16).into();
        ipv4::fill_checksum(ip);
        self.done += data;
        let later = !first || self.packet.later;
        Ok(Some(Packet { length: (self.header + data) as u16, later, partial: true, ..self.packet }))
    }
}

/// Overwrites the options that only the first fragment has, those without the
/// "copied" flag, by "no operation".
fn blank_options(options: &mut [u8]) {
    const COPIED: u8 = 0x80;
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    let mut at = 0;
    while let Some(kind) = options.get(at).copied() {
        let length = match kind {
            END => return,
            NO_OPERATION => 1,
            _ => match options.get(at + 1) {
                Some(length) if *length >= 2 => usize::from(*length),
                _ => return,
            },
        };
        let Some(option) = options.get_mut(at..at + length) else { return };
        if kind & COPIED == 0 {
            option.fill(NO_OPERATION);
        }
        at += length;
    }
}
