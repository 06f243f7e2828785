//! Generic routing encapsulation (RFC 2784).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Be16, checksum};

/// Protocol number.
pub const PROTOCOL: u8 = 47;
/// Bytes of the header without a checksum.
pub const LEN: usize = size_of::<Header>();
/// Bytes of the checksum and what is reserved beside it.
pub const CHECKSUM_LEN: usize = 4;
/// Flag: there is a checksum.
pub const CHECKSUM: u16 = 0x8000;

/// The header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// Flags and version (0)
    pub flags: Be16,
    /// Ethernet type of what follows
    pub kind: Be16,
}

/// Sets the checksum of a whole GRE packet that has one: it covers the header
/// and what follows, with no pseudo header.
pub fn fill_checksum(packet: &mut [u8]) {
    let Some(rest) = packet.get_mut(LEN..LEN + CHECKSUM_LEN) else { return };
    rest.fill(0);
    let sum = !checksum::sum(0, packet);
    packet[LEN..LEN + 2].copy_from_slice(&sum.to_be_bytes());
}
