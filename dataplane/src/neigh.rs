//! Next hops: where a frame goes after it was rewritten.
//!
//! Control reads links, routes and neighbours from the kernel and publishes an
//! immutable [`NextHops`]; a worker resolves an address once for a connection
//! and keeps the [`HopId`]. A neighbour that changes its MAC changes the
//! [`NextHop`] in its slot and no connection has to be touched. When routes
//! change, [`NextHops::generation`] does, and connections resolve again at
//! their next packet.

use crate::wire::Address;

/// Slot of a [`NextHop`], valid within one [`NextHops::generation`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct HopId(pub u32);

/// A link-layer destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Index of the director's interface, in the order of the configuration
    pub interface: u8,
    /// VLAN identifier (1 to 4094) that frames carry on it, if any
    pub vlan: Option<u16>,
    /// MAC of our interface
    pub source_mac: [u8; 6],
    /// MAC of the neighbour; `None` while the kernel has not resolved it
    pub mac: Option<[u8; 6]>,
    /// Largest IP packet in bytes
    pub mtu: u16,
    /// The address that the kernel would send from (preferred source)
    pub source: Option<Address>,
}

/// What is known of the way to an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resolution {
    /// The next hop has a slot (and perhaps no MAC yet)
    Hop(HopId),
    /// There is a route, but its neighbour has no slot yet: ask control
    Ask,
    /// The route leads out of an interface that is not the director's, or the
    /// address is the director's own
    Foreign,
    /// The kernel has no route
    NoRoute,
}
