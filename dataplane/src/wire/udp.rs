//! UDP (RFC 768).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Be16, checksum};

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

/// Protocol number.
pub const PROTOCOL: u8 = 17;

/// Sets the checksum of a whole datagram between two IPv6 addresses.
pub fn fill_checksum_v6(datagram: &mut [u8], source: &[u8; 16], destination: &[u8; 16]) {
    fill_checksum(datagram, checksum::pseudo_v6(source, destination, PROTOCOL, datagram.len() as u32));
}

/// Sets the checksum of a whole datagram between two IPv4 addresses.
pub fn fill_checksum_v4(datagram: &mut [u8], source: [u8; 4], destination: [u8; 4]) {
    fill_checksum(datagram, checksum::pseudo_v4(source, destination, PROTOCOL, datagram.len() as u16));
}

fn fill_checksum(datagram: &mut [u8], pseudo: u16) {
    let Ok((header, _)) = Header::mut_from_prefix(datagram) else { return };
    header.checksum = 0.into();
    let sum = match !checksum::sum(pseudo, datagram) {
        0 => 0xffff,
        sum => sum,
    };
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
}
