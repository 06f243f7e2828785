//! UDP (RFC 768).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Be16;

/// Bytes of the header.
pub const LEN: usize = size_of::<Header>();

/// The header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// Source port
    pub source: Be16,
    /// Destination port
    pub destination: Be16,
    /// Bytes of header and data
    pub length: Be16,
    /// Over pseudo header, header and data; 0 means none was made (IPv4)
    pub checksum: Be16,
}
