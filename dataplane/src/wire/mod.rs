//! Headers on the wire: one file a header.
//!
//! Each fixed header is a struct with its exact layout. `ref_from_prefix` and
//! `mut_from_prefix` (of `zerocopy`) check once that the bytes are there and
//! give a view of them without a copy; after that no accessor can fail and
//! none is checked again. What a length field *says* is never trusted by these
//! views: [`crate::packet`] compares it with the frame.
//!
//! Fields of more than one byte are big endian and say so in their type.

mod address;
pub mod arp;
pub mod checksum;
pub mod ethernet;
pub mod gre;
pub mod gue;
pub mod icmp;
pub mod icmpv6;
pub mod ipv4;
pub mod ipv6;
pub mod sctp;
pub mod tcp;
pub mod udp;
pub mod vlan;

pub use address::Address;

/// A 16-bit field in network order.
pub type Be16 = zerocopy::byteorder::network_endian::U16;
/// A 32-bit field in network order.
pub type Be32 = zerocopy::byteorder::network_endian::U32;
