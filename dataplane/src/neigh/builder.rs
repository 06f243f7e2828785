//! Collects links, routes and neighbours into a [`NextHops`].

use std::sync::Arc;

use hashbrown::HashMap;

use super::{Egress, EgressId, HopId, NextHop, NextHops, Prefix, Resolution, Routes, Spread, Target};
use crate::rss::Rss;
use crate::wire::Address;

/// Builds a [`NextHops`].
///
/// Slots are handed out in the order of the calls that name a neighbour first
/// ([`neighbour`](Self::neighbour) or [`via`](Self::via)), so that a builder
/// that is fed the same neighbours first, and new ones after them, keeps the
/// meaning of every [`HopId`] and may keep the generation.
///
/// ```
/// use sluice_dataplane::neigh::{Egress, NextHopsBuilder, Resolution};
/// use sluice_dataplane::wire::Address;
///
/// let mut hops = NextHopsBuilder::new(1);
/// let lan = hops.egress(Egress::new(0, [2, 0, 0, 0, 0, 1]));
/// hops.connected("10.0.2.0/24".parse()?, lan);
/// let gateway = hops.neighbour(lan, Address::from_v4([10, 0, 2, 254]), Some([2, 0, 0, 0, 0, 2]));
/// hops.via("0.0.0.0/0".parse()?, lan, Address::from_v4([10, 0, 2, 254]));
/// let hops = hops.build();
///
/// assert_eq!(hops.resolve(Address::from_v4([192, 0, 2, 7])), Resolution::Hop(gateway));
/// assert_eq!(hops.resolve(Address::from_v4([10, 0, 2, 7])), Resolution::Ask);
/// # Ok::<(), sluice_dataplane::neigh::ParsePrefixError>(())
/// ```
#[derive(Debug)]
pub struct NextHopsBuilder {
    egress_ids: HashMap<Egress, EgressId>,
    hops: NextHops,
}

impl NextHopsBuilder {
    /// A snapshot without routes, to be known by `generation`.
    pub fn new(generation: u64) -> Self {
        NextHopsBuilder { egress_ids: HashMap::new(), hops: NextHops { generation, ..NextHops::default() } }
    }

    /// A sending side for routes and neighbours; equal ones are one.
    pub fn egress(&mut self, egress: Egress) -> EgressId {
        *self.egress_ids.entry(egress).or_insert_with(|| {
            let egresses = &mut Arc::make_mut(&mut self.hops.routes).egresses;
            egresses.push(egress);
            EgressId(egresses.len() as u32 - 1)
        })
    }

    /// The sending side of a route that leads to the address on-link.
    pub fn on_link(&self, address: Address) -> Option<EgressId> {
        match self.hops.routes.lookup(address) {
            Some(Target::OnLink(egress)) => Some(egress),
            _ => None,
        }
    }

    /// Gives a neighbour its slot, or sets the MAC of the one that it has.
    pub fn neighbour(&mut self, egress: EgressId, address: Address, mac: Option<[u8; 6]>) -> HopId {
        let id = self.slot(egress, address);
        self.hops.hops[id.0 as usize].mac = mac;
        id
    }

    /// A prefix whose addresses are neighbours themselves. Of two routes for
    /// one prefix the first counts, here and below.
    pub fn connected(&mut self, prefix: Prefix, egress: EgressId) -> &mut Self {
        self.routes().main.insert(prefix, Target::OnLink(egress));
        self
    }

    /// A prefix behind a gateway, which gets a slot with no MAC unless it has
    /// one. The gateway may be of the other address family (RFC 5549).
    pub fn via(&mut self, prefix: Prefix, egress: EgressId, gateway: Address) -> &mut Self {
        let hop = self.slot(egress, gateway);
        self.routes().main.insert(prefix, Target::Gateway(hop));
        self
    }

    /// A prefix that leaves by an interface that is not the director's.
    pub fn foreign(&mut self, prefix: Prefix) -> &mut Self {
        self.routes().main.insert(prefix, Target::Foreign);
        self
    }

    /// A prefix that leads nowhere: an unreachable, blackhole or prohibit
    /// route, or one whose link is down.
    pub fn unreachable(&mut self, prefix: Prefix) -> &mut Self {
        self.routes().main.insert(prefix, Target::NoRoute);
        self
    }

    /// Addresses of the machine itself. They win over any route, however
    /// specific, as the kernel looks into its `local` table first.
    pub fn local(&mut self, prefix: Prefix) -> &mut Self {
        self.routes().local.insert(prefix, Target::Foreign);
        self
    }

    /// Addresses that are never sent to, such as multicast. They win over any
    /// route too.
    pub fn never(&mut self, prefix: Prefix) -> &mut Self {
        self.routes().local.insert(prefix, Target::NoRoute);
        self
    }

    /// How each interface spreads what it receives, as far as that is known.
    /// `plan` must be another than before if local ports may have got another
    /// owner by it ([`NextHops::port_plan`]): where an interface's way changed,
    /// or where a route did and interfaces have different ways.
    pub fn spread(&mut self, interfaces: Arc<[Option<Arc<Rss>>]>, plan: u64) -> &mut Self {
        let uniform = interfaces.windows(2).all(|two| two[0] == two[1]);
        self.hops.spread = Spread { interfaces, uniform, plan };
        self
    }

    /// The finished snapshot.
    pub fn build(self) -> NextHops {
        self.hops
    }

    /// The snapshot as it is so far. The builder can go on to change MACs and
    /// to add neighbours for a later one of the same generation; routes are
    /// shared by the two, not copied.
    pub fn snapshot(&self) -> NextHops {
        self.hops.clone()
    }

    /// What the snapshot would say.
    pub fn resolve(&self, address: Address) -> Resolution {
        self.hops.resolve(address)
    }

    /// What the snapshot is to be known by.
    pub fn generation(&self) -> u64 {
        self.hops.generation
    }

    fn routes(&mut self) -> &mut Routes {
        Arc::make_mut(&mut self.hops.routes)
    }

    fn slot(&mut self, egress: EgressId, address: Address) -> HopId {
        let NextHops { hops, neighbours, routes, .. } = &mut self.hops;
        *neighbours.entry((address, egress)).or_insert_with(|| {
            let Egress { interface, vlan, source_mac, mtu, source } = routes.egresses[egress.0 as usize];
            hops.push(NextHop { interface, vlan, source_mac, mac: None, mtu, source });
            HopId(hops.len() as u32 - 1)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn ip(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn net(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const PEER: [u8; 6] = [2, 0, 0, 0, 0, 2];

    #[test]
    fn each_kind_of_route_resolves_to_its_kind() {
        let mut b = NextHopsBuilder::new(7);
        let lan = b.egress(Egress { source: Some(ip("10.0.2.1")), ..Egress::new(1, OURS) });
        let known = b.neighbour(lan, ip("10.0.2.9"), Some(PEER));
        b.connected(net("10.0.2.0/24"), lan)
            .via(net("0.0.0.0/0"), lan, ip("10.0.2.254"))
            .via(net("::/0"), lan, ip("fe80::1"))
            .via(net("198.51.100.0/24"), lan, ip("fe80::1"))
            .foreign(net("10.9.0.0/16"))
            .unreachable(net("10.9.9.0/24"))
            .local(net("10.0.2.1/32"))
            .local(net("127.0.0.0/8"))
            .never(net("224.0.0.0/4"));
        let hops = b.build();
        assert_eq!(hops.generation(), 7);
        assert_eq!(hops.resolve(ip("10.0.2.9")), Resolution::Hop(known));
        assert_eq!(hops.hop(known).unwrap().mac, Some(PEER));
        assert_eq!(hops.hop(known).unwrap().source, Some(ip("10.0.2.1")));
        assert_eq!(hops.resolve(ip("10.0.2.8")), Resolution::Ask);
        let Resolution::Hop(gateway) = hops.resolve(ip("192.0.2.1")) else { panic!("no gateway") };
        assert_eq!(hops.hop(gateway).unwrap().mac, None);
        let Resolution::Hop(v6) = hops.resolve(ip("2001:db8::1")) else { panic!("no IPv6 gateway") };
        assert_eq!(hops.resolve(ip("198.51.100.1")), Resolution::Hop(v6));
        assert_eq!(hops.resolve(ip("10.9.1.1")), Resolution::Foreign);
        assert_eq!(hops.resolve(ip("10.9.9.1")), Resolution::NoRoute);
        assert_eq!(hops.resolve(ip("10.0.2.1")), Resolution::Foreign);
        assert_eq!(hops.resolve(ip("224.0.0.5")), Resolution::NoRoute);
        assert_eq!(hops.hop(HopId(99)), None);
    }

    #[test]
    fn a_local_address_wins_over_a_longer_route() {
        let mut b = NextHopsBuilder::new(1);
        let lan = b.egress(Egress::new(0, OURS));
        b.connected(net("192.0.2.5/32"), lan).local(net("192.0.2.0/24"));
        assert_eq!(b.build().resolve(ip("192.0.2.5")), Resolution::Foreign);
    }

    #[test]
    fn an_empty_snapshot_has_no_route() {
        assert_eq!(NextHops::default().resolve(ip("192.0.2.5")), Resolution::NoRoute);
        assert_eq!(NextHops::default().resolve(ip("::1")), Resolution::NoRoute);
    }

    #[test]
    fn slots_follow_the_order_of_first_mention() {
        let mut b = NextHopsBuilder::new(1);
        let lan = b.egress(Egress::new(0, OURS));
        let tagged = b.egress(Egress { vlan: Some(7), ..Egress::new(0, OURS) });
        assert_eq!(b.egress(Egress::new(0, OURS)), lan);
        assert_eq!(b.neighbour(lan, ip("10.0.0.1"), None), HopId(0));
        assert_eq!(b.neighbour(tagged, ip("10.0.0.1"), None), HopId(1));
        assert_eq!(b.neighbour(lan, ip("10.0.0.1"), Some(PEER)), HopId(0));
        let hops = b.build();
        assert_eq!(hops.hop(HopId(0)).unwrap().mac, Some(PEER));
        assert_eq!(hops.hop(HopId(1)).unwrap().vlan, Some(7));
        assert_eq!(hops.hops().len(), 2);
    }

    #[test]
    fn a_later_snapshot_keeps_slots_and_routes() {
        let mut b = NextHopsBuilder::new(5);
        let lan = b.egress(Egress::new(0, OURS));
        b.connected(net("10.0.0.0/24"), lan).via(net("0.0.0.0/0"), lan, ip("10.0.0.254"));
        let first = b.snapshot();
        let Resolution::Hop(gateway) = first.resolve(ip("192.0.2.1")) else { panic!("no gateway") };

        assert_eq!(b.on_link(ip("10.0.0.7")), Some(lan));
        assert_eq!(b.on_link(ip("192.0.2.1")), None);
        let neighbour = b.neighbour(lan, ip("10.0.0.7"), Some(PEER));
        b.neighbour(lan, ip("10.0.0.254"), Some(PEER));
        assert_eq!(b.resolve(ip("10.0.0.7")), Resolution::Hop(neighbour));
        let second = b.build();

        assert_eq!(second.generation(), 5);
        assert!(Arc::ptr_eq(&first.routes, &second.routes));
        assert_eq!(second.resolve(ip("192.0.2.1")), Resolution::Hop(gateway));
        assert_eq!(second.resolve(ip("10.0.0.7")), Resolution::Hop(neighbour));
        assert_eq!(second.hop(gateway).unwrap().mac, Some(PEER));
        assert_eq!(first.hop(gateway).unwrap().mac, None);
        assert_eq!(first.resolve(ip("10.0.0.7")), Resolution::Ask);
    }
}
