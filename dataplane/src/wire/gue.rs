//! Generic UDP encapsulation, variant 0 without options
//! (draft-ietf-intarea-gue-09; `include/net/gue.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Be16;

/// Bytes of the header.
pub const LEN: usize = size_of::<Header>();

/// The header, which stands between UDP and the packet.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// Variant, control bit and words of options: all 0 here
    pub variant_length: u8,
    /// Protocol number of what follows
    pub protocol: u8,
    /// Which options there are: none
    pub flags: Be16,
}
