//! Which way every prefix goes, worked out from links, addresses and routes.

use std::collections::HashMap;

use sluice_dataplane::neigh::{Egress, Prefix};
use sluice_dataplane::wire::Address;

use super::message::{Link, LocalAddress, Route, RouteHop, RouteKind};

/// Largest IP packet there is, and so largest MTU that matters (the loopback
/// interface has 65536).
const MAX_MTU: u32 = u16::MAX as u32;

/// What the kernel says, as of the last dump.
#[derive(Default, Debug)]
pub(super) struct Model {
    /// Names of the director's interfaces, in the order of the configuration
    interfaces: Vec<String>,
    links: HashMap<u32, Link>,
    addresses: Vec<LocalAddress>,
    routes: Vec<Route>,
}

/// The sending side of a route, with the link that its neighbours are on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Leaving {
    pub(super) egress: Egress,
    pub(super) link: u32,
}

/// Where a prefix leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    OnLink(Leaving),
    Via(Leaving, Address),
    Foreign,
    NoRoute,
    /// Of the `local` table: an address of this machine
    Local,
    /// Of the `local` table: broadcast or multicast
    Never,
}

/// A director's interface that appeared, went away, came up or went down.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct LinkChange {
    pub(super) interface: String,
    pub(super) up: bool,
    /// Whether the interface exists at all
    pub(super) exists: bool,
}

impl Model {
    pub(super) fn new(interfaces: &[String]) -> Self {
        Model { interfaces: interfaces.to_vec(), ..Model::default() }
    }

    /// Takes a dump of all links in; answers which of the director's
    /// interfaces changed.
    pub(super) fn set_links(&mut self, links: Vec<Link>) -> Vec<LinkChange> {
        let links: HashMap<u32, Link> = links.into_iter().map(|link| (link.index, link)).collect();
        let state = |links: &HashMap<u32, Link>, name: &str| {
            links.values().find(|link| link.name == name).map(|link| link.up)
        };
        let changes = self
            .interfaces
            .iter()
            .filter(|name| state(&self.links, name) != state(&links, name))
            .map(|name| {
                let now = state(&links, name);
                LinkChange { interface: name.clone(), up: now == Some(true), exists: now.is_some() }
            })
            .collect();
        self.links = links;
        changes
    }

    pub(super) fn set_addresses(&mut self, addresses: Vec<LocalAddress>) {
        self.addresses = addresses;
    }

    pub(super) fn set_routes(&mut self, routes: Vec<Route>) {
        self.routes = routes;
    }

    /// The first of the director's interfaces that the machine does not have.
    pub(super) fn missing_interface(&self) -> Option<&str> {
        self.interfaces
            .iter()
            .find(|name| !self.links.values().any(|link| link.name == **name))
            .map(String::as_str)
    }

    /// Whether neighbours of a link are of interest.
    pub(super) fn is_ours(&self, link: u32) -> bool {
        self.links.get(&link).is_some_and(|link| self.place(link).is_some())
    }

    /// The way of every prefix: for each the route with the lowest metric, or
    /// the next one while its link is down. A prefix whose links are all down
    /// leads nowhere rather than to a less specific route, as it would in the
    /// kernel.
    pub(super) fn plan(&self) -> Vec<(Prefix, Way)> {
        let mut routes: Vec<&Route> = self.routes.iter().collect();
        routes.sort_by_key(|route| (route.local_table, route.prefix, route.metric));
        let mut plan: Vec<(Prefix, Way)> = Vec::with_capacity(routes.len());
        for group in routes.chunk_by(|a, b| (a.local_table, a.prefix) == (b.local_table, b.prefix)) {
            let way = group.iter().find_map(|route| self.way(route)).unwrap_or(Way::NoRoute);
            plan.push((group[0].prefix, way));
        }
        plan
    }

    /// `None` when no hop of the route can be used.
    fn way(&self, route: &Route) -> Option<Way> {
        match route.kind {
            RouteKind::Local => Some(Way::Local),
            RouteKind::Many => Some(Way::Never),
            RouteKind::Reject => Some(Way::NoRoute),
            RouteKind::Beyond => Some(Way::Foreign),
            RouteKind::Unicast => route.hops.iter().find_map(|hop| self.hop(route, hop)),
        }
    }

    fn hop(&self, route: &Route, hop: &RouteHop) -> Option<Way> {
        let link = self.links.get(&hop.link).filter(|link| link.up && !hop.dead)?;
        let Some(((interface, vlan), source_mac)) = self.place(link).zip(link.mac) else {
            return Some(Way::Foreign);
        };
        let mtu = route.mtu.unwrap_or(MAX_MTU).min(link.mtu).min(MAX_MTU) as u16;
        let near = hop.gateway.unwrap_or(route.prefix.address());
        let source = route.source.or_else(|| self.source(hop.link, route.prefix, near));
        let leaving = Leaving { egress: Egress { interface, vlan, source_mac, mtu, source }, link: hop.link };
        Some(match hop.gateway {
            Some(gateway) => Way::Via(leaving, gateway),
            None => Way::OnLink(leaving),
        })
    }

    /// Interface index and VLAN of a link that packets of ours can leave by.
    fn place(&self, link: &Link) -> Option<(u8, Option<u16>)> {
        let index = |name: &str| self.interfaces.iter().position(|i| i == name).map(|i| i as u8);
        if let Some(interface) = index(&link.name) {
            return Some((interface, None));
        }
        let (vlan, parent) = link.vlan?;
        let interface = index(&self.links.get(&parent)?.name)?;
        Some((interface, Some(vlan)))
    }

    /// The source that the kernel would choose for a route without one
    /// (`inet_select_addr`): the interface's address in the subnet of the
    /// neighbour, else its first, else the first of any.
    fn source(&self, link: u32, prefix: Prefix, near: Address) -> Option<Address> {
        let family = prefix.address().is_v4();
        let fits = || self.addresses.iter().filter(|local| local.address.is_v4() == family);
        let on_link = || fits().filter(|local| local.link == link);
        on_link()
            .find(|local| local.subnet.contains(near))
            .or_else(|| on_link().next())
            .or_else(|| fits().next())
            .map(|local| local.address)
    }
}
