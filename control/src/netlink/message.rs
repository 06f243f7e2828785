//! The kernel's messages, reduced to what next hops depend on.

use std::net::IpAddr;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHopFlags, RouteType,
    RouteVia,
};
use sluice_dataplane::neigh::Prefix;
use sluice_dataplane::wire::Address;

/// `RT_TABLE_MAIN` and `RT_TABLE_LOCAL` of `include/uapi/linux/rtnetlink.h`.
const TABLE_MAIN: u32 = 254;
const TABLE_LOCAL: u32 = 255;

/// A network interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    /// `None` where it is not an Ethernet address
    pub(super) mac: Option<[u8; 6]>,
    pub(super) mtu: u32,
    /// Administratively up and with carrier
    pub(super) up: bool,
    /// VLAN identifier and the index of the link that the frames go out of
    pub(super) vlan: Option<(u16, u32)>,
}

impl Link {
    pub(super) fn parse(message: &LinkMessage) -> Option<Self> {
        let flags = message.header.flags;
        let mut link = Link {
            index: message.header.index,
            name: String::new(),
            mac: None,
            mtu: 1500,
            up: flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
            vlan: None,
        };
        let mut parent = None;
        let mut vlan_id = None;
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().ok(),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Link(index) => parent = Some(*index),
                LinkAttribute::LinkInfo(infos) => vlan_id = infos.iter().find_map(vlan_identifier),
                _ => {}
            }
        }
        link.vlan = vlan_id.zip(parent);
        (!link.name.is_empty()).then_some(link)
    }
}

fn vlan_identifier(info: &LinkInfo) -> Option<u16> {
    let LinkInfo::Data(InfoData::Vlan(attributes)) = info else {
        return None;
    };
    attributes.iter().find_map(|a| if let InfoVlan::Id(id) = a { Some(*id) } else { None })
}

/// An address of an interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct LocalAddress {
    pub(super) link: u32,
    pub(super) address: Address,
    /// The subnet that the address was given with
    pub(super) subnet: Prefix,
}

impl LocalAddress {
    /// `None` for addresses that the kernel would not choose as a source by
    /// itself: secondary and link-local ones, and those that duplicate address
    /// detection has not cleared.
    pub(super) fn parse(message: &AddressMessage) -> Option<Self> {
        let header = &message.header;
        let unfit = AddressHeaderFlags::Secondary
            | AddressHeaderFlags::Tentative
            | AddressHeaderFlags::Dadfailed
            | AddressHeaderFlags::Deprecated;
        if !matches!(header.scope, AddressScope::Universe | AddressScope::Site)
            || header.flags.intersects(unfit)
        {
            return None;
        }
        let mut local = None;
        let mut peer = None;
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(ip) => local = Some(Address::from(*ip)),
                AddressAttribute::Address(ip) => peer = Some(Address::from(*ip)),
                _ => {}
            }
        }
        // IFA_ADDRESS is the peer on a point-to-point link, else the same as
        // IFA_LOCAL, which IPv6 leaves out.
        let address = local.or(peer)?;
        let subnet = Prefix::new(peer.unwrap_or(address), header.prefix_len)?;
        Some(LocalAddress { link: header.index, address, subnet })
    }
}

/// What a route does with packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RouteKind {
    /// Sends them on
    Unicast,
    /// Takes them in
    Local,
    /// Broadcast or multicast
    Many,
    /// Refuses them
    Reject,
    /// Sends them on in a way that we cannot (an encapsulation)
    Beyond,
}

/// A route of the main or the local table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Route {
    pub(super) prefix: Prefix,
    /// Whether it is of the `local` table
    pub(super) local_table: bool,
    pub(super) kind: RouteKind,
    /// Lower ones are preferred
    pub(super) metric: u32,
    pub(super) hops: Vec<RouteHop>,
    /// Preferred source
    pub(super) source: Option<Address>,
    pub(super) mtu: Option<u32>,
}

/// One of the ways of a route.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct RouteHop {
    pub(super) link: u32,
    /// `None` when the destination itself is the neighbour
    pub(super) gateway: Option<Address>,
    /// The kernel does not use it
    pub(super) dead: bool,
}

impl Route {
    /// `None` for routes that say nothing about where a packet of ours goes:
    /// other tables, type-of-service or source routes, cached entries.
    pub(super) fn parse(message: &RouteMessage) -> Option<Self> {
        let header = &message.header;
        let any = match header.address_family {
            AddressFamily::Inet => Prefix::V4_DEFAULT,
            AddressFamily::Inet6 => Prefix::V6_DEFAULT,
            _ => return None,
        };
        if header.tos != 0 || header.source_prefix_length != 0 || header.flags.contains(RouteFlags::Cloned) {
            return None;
        }
        let mut kind = match header.kind {
            RouteType::Unicast => RouteKind::Unicast,
            RouteType::Local | RouteType::Anycast => RouteKind::Local,
            RouteType::Broadcast | RouteType::Multicast => RouteKind::Many,
            RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit => RouteKind::Reject,
            _ => return None,
        };
        let mut table = u32::from(header.table);
        let mut prefix = (header.destination_prefix_length == 0).then_some(any);
        let (mut metric, mut link, mut gateway) = (0, None, None);
        let (mut source, mut mtu, mut hops) = (None, None, Vec::new());
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Table(id) => table = *id,
                RouteAttribute::Destination(to) => {
                    prefix = Prefix::new(ip(to)?, header.destination_prefix_length);
                }
                RouteAttribute::Priority(value) => metric = *value,
                RouteAttribute::Oif(index) => link = Some(*index),
                RouteAttribute::PrefSource(from) => source = ip(from),
                RouteAttribute::Metrics(metrics) => {
                    mtu = metrics.iter().find_map(|m| match m {
                        RouteMetric::Mtu(mtu) if *mtu != 0 => Some(*mtu),
                        _ => None,
                    });
                }
                RouteAttribute::Encap(_) => kind = RouteKind::Beyond,
                RouteAttribute::MultiPath(ways) => {
                    for way in ways {
                        if way.attributes.iter().any(|a| matches!(a, RouteAttribute::Encap(_))) {
                            continue;
                        }
                        hops.push(RouteHop {
                            link: way.interface_index,
                            gateway: way.attributes.iter().find_map(gateway_of),
                            dead: way.flags.contains(RouteNextHopFlags::Dead),
                        });
                    }
                }
                other => gateway = gateway_of(other).or(gateway),
            }
        }
        if let (Some(link), true) = (link, hops.is_empty()) {
            hops.push(RouteHop { link, gateway, dead: header.flags.contains(RouteFlags::Dead) });
        }
        let local_table = match table {
            TABLE_MAIN => false,
            TABLE_LOCAL => true,
            _ => return None,
        };
        Some(Route { prefix: prefix?, local_table, kind, metric, hops, source, mtu })
    }
}

fn gateway_of(attribute: &RouteAttribute) -> Option<Address> {
    match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        RouteAttribute::Via(RouteVia::Inet(v4)) => Some((*v4).into()),
        RouteAttribute::Via(RouteVia::Inet6(v6)) => Some((*v6).into()),
        _ => None,
    }
}

fn ip(address: &RouteAddress) -> Option<Address> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

/// How much the kernel trusts a neighbour's MAC (`NUD_*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Trust {
    /// It is being resolved, checked, or known to be right
    Settled,
    /// It was right once; the kernel checks it when it is next used
    Stale,
    /// Nobody answered
    Failed,
}

/// An entry of the neighbour table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Neighbour {
    pub(super) link: u32,
    pub(super) address: Address,
    pub(super) mac: Option<[u8; 6]>,
    pub(super) trust: Trust,
}

impl Neighbour {
    pub(super) fn parse(message: &NeighbourMessage) -> Option<Self> {
        let mut address = None;
        let mut mac = None;
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                    address = Some(IpAddr::V4(*v4));
                }
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                    address = Some(IpAddr::V6(*v6));
                }
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
                _ => {}
            }
        }
        let trust = match message.header.state {
            NeighbourState::Stale => Trust::Stale,
            NeighbourState::Failed | NeighbourState::None => Trust::Failed,
            _ => Trust::Settled,
        };
        // An entry that failed may still show its last MAC; NUD_VALID of
        // include/net/neighbour.h names the states in which it may be used.
        let valid = !matches!(
            message.header.state,
            NeighbourState::Failed | NeighbourState::None | NeighbourState::Incomplete
        );
        Some(Neighbour {
            link: message.header.ifindex,
            address: address?.into(),
            mac: mac.filter(|_| valid),
            trust,
        })
    }
}
