//! Ethernet II (IEEE 802.3, with a type field).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Be16;

/// Bytes of the header.
pub const LEN: usize = size_of::<Header>();
/// Type of IPv4.
pub const IPV4: u16 = 0x0800;
/// Type of ARP.
pub const ARP: u16 = 0x0806;
/// Type of IPv6.
pub const IPV6: u16 = 0x86dd;

/// A link-layer address.
pub type Mac = [u8; 6];

/// The header.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// Receiver
    pub destination: Mac,
    /// Sender
    pub source: Mac,
    /// Type of what follows
    pub kind: Be16,
}
