//! IPv4 (RFC 791), without options.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Be16;
use super::checksum;

/// Bytes of the header without options.
pub const LEN: usize = size_of::<Header>();
/// Protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Protocol number of IPv4 in IP (RFC 2003).
pub const IPIP: u8 = 4;
/// Flag: do not fragment.
pub const DONT_FRAGMENT: u16 = 0x4000;
/// Flag: more fragments follow.
pub const MORE_FRAGMENTS: u16 = 0x2000;
/// The bits of the fragment offset, in units of eight bytes.
pub const OFFSET: u16 = 0x1fff;

/// The fixed part of the header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// Version (4) and header length in words of four bytes
    pub version_ihl: u8,
    /// DSCP and ECN
    pub tos: u8,
    /// Bytes of header and payload
    pub total_length: Be16,
    /// Identification of a fragmented packet
    pub id: Be16,
    /// Flags and fragment offset
    pub flags_offset: Be16,
    /// Hops left
    pub ttl: u8,
    /// What follows
    pub protocol: u8,
    /// Over the header and its options
    pub checksum: Be16,
    /// Source address
    pub source: [u8; 4],
    /// Destination address
    pub destination: [u8; 4],
}

/// Sets the checksum of a header with its options.
pub fn fill_checksum(header: &mut [u8]) {
    if let Ok((fixed, _)) = Header::mut_from_prefix(header) {
        fixed.checksum = 0.into();
        let sum = !checksum::sum(0, header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

impl Header {
    /// Version of IP.
    #[inline]
    pub fn version(&self) -> u8 {
        self.version_ihl >> 4
    }

    /// Bytes of header and options, as the header says.
    #[inline]
    pub fn header_len(&self) -> usize {
        (self.version_ihl & 0x0f) as usize * 4
    }

    /// Whether this is a fragment, first or later.
    #[inline]
    pub fn is_fragment(&self) -> bool {
        self.flags_offset.get() & (MORE_FRAGMENTS | OFFSET) != 0
    }

    /// Whether routers may not fragment it.
    #[inline]
    pub fn dont_fragment(&self) -> bool {
        self.flags_offset.get() & DONT_FRAGMENT != 0
    }

    /// Takes one hop off and keeps the checksum right (RFC 1141).
    #[inline]
    pub fn decrement_ttl(&mut self) {
        let before = u16::from_be_bytes([self.ttl, self.protocol]);
        self.ttl -= 1;
        let after = u16::from_be_bytes([self.ttl, self.protocol]);
        self.checksum = checksum::Delta::new(before, after).apply(self.checksum.get()).into();
    }

    /// Sets the checksum of a header without options.
    pub fn fill_checksum(&mut self) {
        self.checksum = 0.into();
        self.checksum = (!checksum::sum(0, self.as_bytes())).into();
    }
}
