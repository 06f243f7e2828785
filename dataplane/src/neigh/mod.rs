//! Next hops: where a frame goes after it was rewritten.
//!
//! Control reads links, routes and neighbours from the kernel and publishes an
//! immutable [`NextHops`]; a worker resolves an address once for a connection
//! and keeps the [`HopId`]. A neighbour that changes its MAC changes the
//! [`NextHop`] in its slot and no connection has to be touched. When routes
//! change, [`NextHops::generation`] does, and connections resolve again at
//! their next packet.

mod builder;
mod prefix;

use std::sync::Arc;

use hashbrown::HashMap;

pub use builder::NextHopsBuilder;
pub(crate) use prefix::PrefixMap;
pub use prefix::{ParsePrefixError, Prefix};

use crate::rss::Rss;
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

/// The sending side of a route: everything of a [`NextHop`] but the neighbour.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Egress {
    /// Index of the director's interface, in the order of the configuration
    pub interface: u8,
    /// VLAN identifier (1 to 4094) that frames carry on it, if any
    pub vlan: Option<u16>,
    /// MAC of our interface
    pub source_mac: [u8; 6],
    /// Largest IP packet in bytes
    pub mtu: u16,
    /// The address that the kernel would send from (preferred source)
    pub source: Option<Address>,
}

impl Egress {
    /// An untagged interface with an MTU of 1500 and no preferred source.
    pub fn new(interface: u8, source_mac: [u8; 6]) -> Self {
        Egress { interface, vlan: None, source_mac, mtu: 1500, source: None }
    }
}

/// Number of an [`Egress`] within one [`NextHopsBuilder`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct EgressId(u32);

/// What a prefix leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Target {
    /// Every address behind it goes to one gateway
    Gateway(HopId),
    /// Every address behind it is a neighbour of its own
    OnLink(EgressId),
    Foreign,
    NoRoute,
}

/// The part of a snapshot that stays the same while only neighbours change.
#[derive(Clone, Debug, Default)]
struct Routes {
    /// The kernel's `local` table, which its first rule looks up before all
    /// others: a prefix here wins over a longer one in `main`
    local: PrefixMap<Target>,
    main: PrefixMap<Target>,
    egresses: Vec<Egress>,
}

impl Routes {
    #[inline]
    fn lookup(&self, address: Address) -> Option<Target> {
        self.local.lookup(address).or_else(|| self.main.lookup(address))
    }
}

/// Routes and neighbours at one instant.
#[derive(Clone, Debug, Default)]
pub struct NextHops {
    generation: u64,
    hops: Vec<NextHop>,
    neighbours: HashMap<(Address, EgressId), HopId>,
    /// Shared by successive snapshots, as a router may have many
    routes: Arc<Routes>,
    spread: Spread,
}

/// How the director's interfaces spread what they receive.
#[derive(Clone, Debug, Default)]
struct Spread {
    /// By interface; `None` where nothing is known. Beyond the end likewise.
    interfaces: Arc<[Option<Arc<Rss>>]>,
    /// Whether it is the same for all
    uniform: bool,
    plan: u64,
}

impl NextHops {
    /// Changes whenever a local port may have become another worker's, because
    /// an interface spreads its packets in another way, or because answers
    /// of a server come by another interface that does. 0 stands for interfaces
    /// of which nothing is known.
    #[inline]
    pub fn port_plan(&self) -> u64 {
        self.spread.plan
    }

    /// How an interface spreads what it receives over its queues, if that is
    /// known.
    #[inline]
    pub fn rss(&self, interface: usize) -> Option<&Rss> {
        self.spread.interfaces.get(interface)?.as_deref()
    }

    /// The interface that answers of a server come by, taken to be the one that
    /// the route to it leaves by: or any, where all spread packets alike.
    pub fn answers_by(&self, server: Address) -> Option<usize> {
        if self.spread.uniform { Some(0) } else { self.leaves_by(server) }
    }

    /// The interface of the director that the route to an address leaves by.
    pub fn leaves_by(&self, address: Address) -> Option<usize> {
        match self.routes.lookup(address)? {
            Target::Gateway(hop) => self.hop(hop).map(|hop| hop.interface.into()),
            Target::OnLink(egress) => {
                self.routes.egresses.get(egress.0 as usize).map(|egress| egress.interface.into())
            }
            Target::Foreign | Target::NoRoute => None,
        }
    }

    /// Changes whenever a [`HopId`] handed out earlier may mean another way,
    /// or an address may have got another next hop. Slots that are only added,
    /// and neighbours that change their MAC, leave it as it is.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The next hop in a slot; `None` for a slot of another generation that
    /// does not exist in this one.
    #[inline]
    pub fn hop(&self, id: HopId) -> Option<&NextHop> {
        self.hops.get(id.0 as usize)
    }

    /// Every next hop with its slot.
    pub fn hops(&self) -> impl ExactSizeIterator<Item = (HopId, &NextHop)> {
        self.hops.iter().enumerate().map(|(i, hop)| (HopId(i as u32), hop))
    }

    /// The prefix that decides on the way to an address.
    pub fn route(&self, address: Address) -> Option<Prefix> {
        let Routes { local, main, .. } = &*self.routes;
        local.longest(address).or_else(|| main.longest(address))
    }

    /// The neighbour in a slot: a gateway, or an address on the link itself. Goes
    /// through all of them, and so is not for packets.
    pub fn neighbour(&self, id: HopId) -> Option<Address> {
        self.neighbours.iter().find(|(_, slot)| **slot == id).map(|((address, _), _)| *address)
    }

    /// The way to an address, by its longest matching prefix.
    ///
    /// Costs one hash lookup for every prefix length that the address family
    /// has in use, and one more where the match is on-link. To be called once
    /// for a connection and generation, not once a packet.
    pub fn resolve(&self, address: Address) -> Resolution {
        match self.routes.lookup(address) {
            Some(Target::Gateway(hop)) => Resolution::Hop(hop),
            Some(Target::OnLink(egress)) => match self.neighbours.get(&(address, egress)) {
                Some(hop) => Resolution::Hop(*hop),
                None => Resolution::Ask,
            },
            Some(Target::Foreign) => Resolution::Foreign,
            Some(Target::NoRoute) | None => Resolution::NoRoute,
        }
    }
}
