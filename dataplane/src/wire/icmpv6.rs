//! ICMPv6 (RFC 4443).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Be16, Be32, checksum, ipv6};

/// Bytes of the header.
pub const LEN: usize = size_of::<Header>();
/// Type: destination unreachable.
pub const UNREACHABLE: u8 = 1;
/// Type: packet too big.
pub const PACKET_TOO_BIG: u8 = 2;
/// Type: time exceeded.
pub const TIME_EXCEEDED: u8 = 3;
/// Type: parameter problem.
pub const PARAMETER_PROBLEM: u8 = 4;
/// Code of [`UNREACHABLE`]: address.
pub const CODE_ADDRESS: u8 = 3;
/// Code of [`UNREACHABLE`]: port.
pub const CODE_PORT: u8 = 4;
/// Code of [`TIME_EXCEEDED`]: hop limit in transit.
pub const CODE_HOP_LIMIT: u8 = 0;

/// The header; what follows depends on the type.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// Type; below 128 it is an error
    pub kind: u8,
    /// Code
    pub code: u8,
    /// Over pseudo header, header and data
    pub checksum: Be16,
    /// MTU in [`PACKET_TOO_BIG`], else unused
    pub mtu: Be32,
}

/// Whether a type is that of an error (RFC 4443, section 3), which quotes the
/// packet it is about. The others below 128 are not assigned.
#[inline]
pub fn is_error(kind: u8) -> bool {
    matches!(kind, UNREACHABLE | PACKET_TOO_BIG | TIME_EXCEEDED | PARAMETER_PROBLEM)
}

/// Sets the checksum of a whole ICMPv6 message between two addresses.
pub fn fill_checksum(message: &mut [u8], source: &[u8; 16], destination: &[u8; 16]) {
    let length = message.len() as u32;
    let Ok((header, _)) = Header::mut_from_prefix(message) else { return };
    header.checksum = 0.into();
    let pseudo = checksum::pseudo_v6(source, destination, ipv6::ICMPV6, length);
    let sum = !checksum::sum(pseudo, message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
}
