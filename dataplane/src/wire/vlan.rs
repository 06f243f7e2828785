//! VLAN tags (IEEE 802.1Q and 802.1ad), which stand between the Ethernet
//! addresses and the type.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Be16;

/// Bytes of a tag.
pub const LEN: usize = size_of::<Tag>();
/// Type of a customer tag (802.1Q).
pub const CUSTOMER: u16 = 0x8100;
/// Type of a service tag (802.1ad).
pub const SERVICE: u16 = 0x88a8;

/// What follows the type [`CUSTOMER`] or [`SERVICE`].
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Tag {
    /// Priority, drop eligibility and identifier
    pub control: Be16,
    /// Type of what follows the tag
    pub kind: Be16,
}

impl Tag {
    /// The VLAN identifier.
    #[inline]
    pub fn id(&self) -> u16 {
        self.control.get() & 0x0fff
    }
}

/// Whether an Ethernet type announces a tag.
#[inline]
pub fn is_tag(kind: u16) -> bool {
    kind == CUSTOMER || kind == SERVICE
}
