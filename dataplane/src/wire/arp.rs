//! ARP for IPv4 over Ethernet (RFC 826).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Be16;
use super::ethernet::Mac;

/// Bytes of the packet.
pub const LEN: usize = size_of::<Packet>();
/// Operation: who has the target address?
pub const REQUEST: u16 = 1;
/// Operation: the sender has it.
pub const REPLY: u16 = 2;

/// An ARP packet for IPv4 over Ethernet.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Packet {
    /// 1 for Ethernet
    pub hardware: Be16,
    /// 0x0800 for IPv4
    pub protocol: Be16,
    /// 6
    pub hardware_len: u8,
    /// 4
    pub protocol_len: u8,
    /// [`REQUEST`] or [`REPLY`]
    pub operation: Be16,
    /// MAC of the sender
    pub sender_mac: Mac,
    /// IPv4 address of the sender
    pub sender: [u8; 4],
    /// MAC of the target; zero in a request
    pub target_mac: Mac,
    /// IPv4 address of the target
    pub target: [u8; 4],
}

impl Packet {
    /// Whether it is about IPv4 over Ethernet.
    pub fn is_ipv4_over_ethernet(&self) -> bool {
        self.hardware.get() == 1
            && self.protocol.get() == super::ethernet::IPV4
            && (self.hardware_len, self.protocol_len) == (6, 4)
    }
}
