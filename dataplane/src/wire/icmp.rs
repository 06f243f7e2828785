//! ICMP (RFC 792).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Be16, checksum};

/// Bytes of the header.
pub const LEN: usize = size_of::<Header>();
/// Type: destination unreachable.
pub const UNREACHABLE: u8 = 3;
/// Type: source quench (obsolete, RFC 6633).
pub const SOURCE_QUENCH: u8 = 4;
/// Type: time exceeded.
pub const TIME_EXCEEDED: u8 = 11;
/// Type: parameter problem.
pub const PARAMETER_PROBLEM: u8 = 12;
/// Code of [`UNREACHABLE`]: host.
pub const CODE_HOST: u8 = 1;
/// Code of [`UNREACHABLE`]: port.
pub const CODE_PORT: u8 = 3;
/// Code of [`UNREACHABLE`]: fragmentation needed (RFC 1191).
pub const CODE_FRAGMENTATION_NEEDED: u8 = 4;
/// Code of [`TIME_EXCEEDED`]: TTL in transit.
pub const CODE_TTL: u8 = 0;

/// The header; what follows depends on the type.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// Type
    pub kind: u8,
    /// Code
    pub code: u8,
    /// Over header and data
    pub checksum: Be16,
    /// Unused by most errors
    pub unused: Be16,
    /// MTU of the next hop, in "fragmentation needed" (RFC 1191)
    pub mtu: Be16,
}

/// Whether a type is that of an error, which quotes the packet it is about.
#[inline]
pub fn is_error(kind: u8) -> bool {
    matches!(kind, UNREACHABLE | SOURCE_QUENCH | TIME_EXCEEDED | PARAMETER_PROBLEM)
}

/// Sets the checksum of a whole ICMP message.
pub fn fill_checksum(message: &mut [u8]) {
    let Ok((header, _)) = Header::mut_from_prefix(message) else { return };
    header.checksum = 0.into();
    let sum = !checksum::sum(0, message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
}
