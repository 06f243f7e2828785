//! TCP (RFC 9293), without options.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Be16, Be32};

/// Bytes of the header without options.
pub const LEN: usize = size_of::<Header>();
/// Flag: no more data from the sender.
pub const FIN: u8 = 0x01;
/// Flag: synchronise sequence numbers.
pub const SYN: u8 = 0x02;
/// Flag: reset the connection.
pub const RST: u8 = 0x04;
/// Flag: data is to be handed on at once.
pub const PSH: u8 = 0x08;
/// Flag: the acknowledgment field is significant.
pub const ACK: u8 = 0x10;
/// Flag: the urgent pointer is significant.
pub const URG: u8 = 0x20;

/// The fixed part of the header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// Source port
    pub source: Be16,
    /// Destination port
    pub destination: Be16,
    /// Number of the first byte
    pub sequence: Be32,
    /// Number of the next byte expected
    pub acknowledgment: Be32,
    /// Header length in words of four bytes, in the upper half
    pub offset: u8,
    /// Flags
    pub flags: u8,
    /// Receive window
    pub window: Be16,
    /// Over pseudo header, header and data
    pub checksum: Be16,
    /// Urgent pointer
    pub urgent: Be16,
}

impl Header {
    /// Bytes of header and options, as the header says.
    #[inline]
    pub fn header_len(&self) -> usize {
        (self.offset >> 4) as usize * 4
    }
}
