//! IPv6 (RFC 8200), the fixed header.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Be16, Be32};

/// Bytes of the header.
pub const LEN: usize = size_of::<Header>();
/// Next header: ICMPv6.
pub const ICMPV6: u8 = 58;

/// The fixed header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// Version (6), traffic class and flow label
    pub version_class_flow: Be32,
    /// Bytes behind this header
    pub payload_length: Be16,
    /// What follows
    pub next_header: u8,
    /// Hops left
    pub hop_limit: u8,
    /// Source address
    pub source: [u8; 16],
    /// Destination address
    pub destination: [u8; 16],
}

impl Header {
    /// Version of IP.
    #[inline]
    pub fn version(&self) -> u8 {
        (self.version_class_flow.get() >> 28) as u8
    }
}
