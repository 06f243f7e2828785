//! The model and the slots, from hand-made messages. A real kernel is asked in
//! `tests/netlink.rs`; it need not have VLAN devices for these.

use std::net::IpAddr;
use std::time::Duration;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteNextHop, RouteType, RouteVia,
};
use sluice_dataplane::neigh::{NextHop, NextHops, Resolution};
use sluice_dataplane::wire::Address;
use tokio::time::Instant;

use super::message::{Link, LocalAddress, Neighbour, Route, Trust};
use super::model::{LinkChange, Model};
use super::slots::Slots;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn ip(text: &str) -> Address {
    text.parse::<IpAddr>().unwrap().into()
}

/// A link that is up, of Ethernet kind and MTU 1500.
fn link(index: u32, name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Address(MAC.to_vec()),
        LinkAttribute::Mtu(1500),
    ];
    message
}

fn vlan(index: u32, name: &str, parent: u32, id: u16) -> LinkMessage {
    let mut message = link(index, name);
    message.attributes.push(LinkAttribute::Link(parent));
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Vlan),
        LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(id)])),
    ]));
    message
}

fn address(link: u32, text: &str, length: u8, flags: AddressHeaderFlags) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = link;
    message.header.prefix_len = length;
    message.header.flags = flags;
    message.header.scope = AddressScope::Universe;
    message.attributes.push(AddressAttribute::Local(text.parse().unwrap()));
    message
}

/// A unicast route of the main table.
fn route(prefix: &str, attributes: Vec<RouteAttribute>) -> RouteMessage {
    let (to, length) = prefix.split_once('/').unwrap();
    let to: IpAddr = to.parse().unwrap();
    let mut message = RouteMessage::default();
    message.header.address_family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.destination_prefix_length = length.parse().unwrap();
    message.header.table = 254;
    message.header.kind = RouteType::Unicast;
    message.attributes = attributes;
    if !to.is_unspecified() {
        message.attributes.push(RouteAttribute::Destination(to.into()));
    }
    message
}

fn on_link(prefix: &str, index: u32) -> RouteMessage {
    route(prefix, vec![RouteAttribute::Oif(index)])
}

fn gateway(text: &str) -> RouteAttribute {
    RouteAttribute::Gateway(RouteAddress::from(text.parse::<IpAddr>().unwrap()))
}

fn neighbour(link: u32, text: &str, state: NeighbourState) -> Neighbour {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = link;
    message.header.state = state;
    message.attributes = vec![
        NeighbourAttribute::Destination(match text.parse().unwrap() {
            IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
            IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
        }),
        NeighbourAttribute::LinkLayerAddress(PEER.to_vec()),
    ];
    Neighbour::parse(&message).unwrap()
}

/// The director's interfaces are eth0 (index 2) and eth1 (3).
fn model(links: &[LinkMessage], addresses: &[AddressMessage], routes: &[RouteMessage]) -> Model {
    let mut model = Model::new(&["eth0".to_owned(), "eth1".to_owned()]);
    model.set_links(links.iter().filter_map(Link::parse).collect());
    model.set_addresses(addresses.iter().filter_map(LocalAddress::parse).collect());
    model.set_routes(routes.iter().filter_map(Route::parse).collect());
    model
}

fn publish(model: &Model) -> Slots {
    let mut slots = Slots::new(16);
    slots.set_plan(model.plan(), Instant::now());
    slots
}

/// The next hop of an address, asked for first.
fn hop(slots: &mut Slots, address: &str) -> Option<NextHop> {
    slots.ask(ip(address), Instant::now());
    find(&slots.update(), address)
}

fn find(hops: &NextHops, address: &str) -> Option<NextHop> {
    match hops.resolve(ip(address)) {
        Resolution::Hop(id) => hops.hop(id).cloned(),
        _ => None,
    }
}

fn resolution(slots: &mut Slots, address: &str) -> Resolution {
    slots.update().resolve(ip(address))
}

#[test]
fn a_vlan_device_becomes_its_interface_and_a_tag() {
    let links = [
        link(2, "eth0"),
        link(3, "eth1"),
        link(4, "eth9"),
        vlan(5, "eth1.100", 3, 100),
        vlan(6, "eth9.7", 4, 7),
        // Two tags are more than frames of ours carry.
        vlan(7, "eth1.100.9", 5, 9),
    ];
    let routes = [on_link("10.1.0.0/16", 5), on_link("10.2.0.0/16", 6), on_link("10.3.0.0/16", 7)];
    let mut slots =
        publish(&model(&links, &[address(5, "10.1.0.1", 16, AddressHeaderFlags::empty())], &routes));
    assert_eq!(
        hop(&mut slots, "10.1.0.9"),
        Some(NextHop {
            interface: 1,
            vlan: Some(100),
            source_mac: MAC,
            mac: None,
            mtu: 1500,
            source: Some(ip("10.1.0.1")),
        })
    );
    assert_eq!(resolution(&mut slots, "10.2.0.9"), Resolution::Foreign);
    assert_eq!(resolution(&mut slots, "10.3.0.9"), Resolution::Foreign);
}

#[test]
fn the_mtu_is_the_smaller_one_of_route_and_link() {
    let small = RouteAttribute::Metrics(vec![RouteMetric::Mtu(1400)]);
    let large = RouteAttribute::Metrics(vec![RouteMetric::Mtu(9000)]);
    let routes = [
        route("10.1.0.0/16", vec![RouteAttribute::Oif(2), small]),
        route("10.2.0.0/16", vec![RouteAttribute::Oif(2), large]),
    ];
    let mut slots = publish(&model(&[link(2, "eth0")], &[], &routes));
    assert_eq!(hop(&mut slots, "10.1.0.1").unwrap().mtu, 1400);
    assert_eq!(hop(&mut slots, "10.2.0.1").unwrap().mtu, 1500);
}

#[test]
fn the_source_is_what_the_kernel_would_choose() {
    let none = AddressHeaderFlags::empty();
    let addresses = [
        address(3, "10.3.0.1", 24, none),
        address(2, "10.0.9.1", 24, none),
        address(2, "10.0.2.2", 24, AddressHeaderFlags::Secondary),
        address(2, "10.0.2.1", 24, none),
    ];
    let preferred = RouteAttribute::PrefSource("10.0.2.200".parse::<IpAddr>().unwrap().into());
    let routes = [
        on_link("10.0.2.0/24", 2),
        route("10.5.0.0/16", vec![RouteAttribute::Oif(2), gateway("10.0.2.254")]),
        route("10.6.0.0/16", vec![RouteAttribute::Oif(2), gateway("10.0.2.254"), preferred]),
        on_link("10.7.0.0/16", 2),
        on_link("10.8.0.0/16", 4),
    ];
    let mut slots =
        publish(&model(&[link(2, "eth0"), link(3, "eth1"), vlan(4, "eth1.8", 3, 8)], &addresses, &routes));
    let mut source = |to| hop(&mut slots, to).unwrap().source.unwrap().to_string();
    assert_eq!(source("10.0.2.9"), "10.0.2.1", "of the subnet, and not a secondary one");
    assert_eq!(source("10.5.0.1"), "10.0.2.1", "of the gateway's subnet");
    assert_eq!(source("10.6.0.1"), "10.0.2.200", "of the route");
    assert_eq!(source("10.7.0.1"), "10.0.9.1", "the first of the interface");
    assert_eq!(source("10.8.0.1"), "10.3.0.1", "the first of all");
}

#[test]
fn the_lowest_metric_wins_while_its_link_is_up() {
    let metric = |value, index| vec![RouteAttribute::Priority(value), RouteAttribute::Oif(index)];
    let routes = [
        route("10.1.0.0/16", metric(200, 3)),
        route("10.1.0.0/16", metric(100, 2)),
        on_link("0.0.0.0/0", 3),
        on_link("10.2.0.0/16", 2),
    ];
    let mut down = link(2, "eth0");
    let mut both = publish(&model(&[down.clone(), link(3, "eth1")], &[], &routes));
    assert_eq!(hop(&mut both, "10.1.0.1").unwrap().interface, 0);
    down.header.flags = LinkFlags::Up;
    let mut one = publish(&model(&[down, link(3, "eth1")], &[], &routes));
    assert_eq!(hop(&mut one, "10.1.0.1").unwrap().interface, 1);
    assert_eq!(resolution(&mut one, "10.2.0.1"), Resolution::NoRoute, "not by the default route");
}

#[test]
fn of_a_multipath_route_the_first_usable_hop_counts() {
    let way = |index, to| {
        let mut hop = RouteNextHop::default();
        hop.interface_index = index;
        hop.attributes = vec![gateway(to)];
        hop
    };
    let routes = [
        route("10.1.0.0/16", vec![RouteAttribute::MultiPath(vec![way(9, "10.9.0.1"), way(3, "10.3.0.1")])]),
        route(
            "0.0.0.0/0",
            vec![RouteAttribute::Oif(2), RouteAttribute::Via(RouteVia::Inet6("fe80::1".parse().unwrap()))],
        ),
    ];
    let mut slots = publish(&model(&[link(2, "eth0"), link(3, "eth1")], &[], &routes));
    assert_eq!(hop(&mut slots, "10.1.0.1").unwrap().interface, 1);
    // An IPv4 route by an IPv6 gateway.
    let now = Instant::now();
    assert!(slots.set_neighbour(neighbour(2, "fe80::1", NeighbourState::Reachable), now));
    assert_eq!(hop(&mut slots, "192.0.2.1").unwrap().mac, Some(PEER));
}

#[test]
fn other_tables_and_kinds_are_told_apart() {
    let mut vrf = on_link("10.1.0.0/16", 2);
    vrf.attributes.push(RouteAttribute::Table(1000));
    let mut tos = on_link("10.2.0.0/16", 2);
    tos.header.tos = 0x10;
    let mut local = on_link("10.3.0.0/16", 2);
    local.header.table = 255;
    local.header.kind = RouteType::Local;
    let mut black_hole = route("10.4.0.0/16", vec![]);
    black_hole.header.kind = RouteType::BlackHole;
    let routes = [vrf, tos, local, black_hole, on_link("10.3.1.0/24", 2), on_link("::/0", 2)];
    let mut slots = publish(&model(&[link(2, "eth0")], &[], &routes));
    assert_eq!(resolution(&mut slots, "10.1.0.1"), Resolution::NoRoute);
    assert_eq!(resolution(&mut slots, "10.2.0.1"), Resolution::NoRoute);
    assert_eq!(resolution(&mut slots, "10.3.1.1"), Resolution::Foreign, "the local table comes first");
    assert_eq!(resolution(&mut slots, "10.4.0.1"), Resolution::NoRoute);
    assert_eq!(resolution(&mut slots, "2001:db8::1"), Resolution::Ask);
    assert_eq!(resolution(&mut slots, "ff02::1"), Resolution::NoRoute);
}

#[test]
fn changes_of_links_are_told_by_name() {
    let mut model = model(&[link(2, "eth0"), link(3, "eth1")], &[], &[]);
    let mut down = link(2, "eth0");
    down.header.flags = LinkFlags::Up;
    let parse = |messages: &[LinkMessage]| messages.iter().filter_map(Link::parse).collect();
    let change = |name: &str, up, exists| LinkChange { interface: name.to_owned(), up, exists };
    assert_eq!(model.set_links(parse(&[down.clone(), link(3, "eth1")])), [change("eth0", false, true)]);
    assert_eq!(model.set_links(parse(&[down])), [change("eth1", false, false)]);
    assert_eq!(model.missing_interface(), Some("eth1"));
    assert_eq!(
        model.set_links(parse(&[link(7, "eth0"), link(8, "eth1")])),
        [change("eth0", true, true), change("eth1", true, true)]
    );
    assert_eq!(model.set_links(parse(&[link(7, "eth0"), link(8, "eth1"), link(9, "eth2")])), []);
}

#[test]
fn the_same_routes_again_keep_the_generation() {
    let model = model(&[link(2, "eth0")], &[], &[on_link("10.0.0.0/8", 2)]);
    let mut slots = publish(&model);
    hop(&mut slots, "10.0.0.1");
    let generation = slots.update().generation();
    slots.set_plan(model.plan(), Instant::now());
    assert_eq!(slots.update().generation(), generation);
    slots.set_plan(Vec::new(), Instant::now());
    assert_ne!(slots.update().generation(), generation);
    assert_eq!(resolution(&mut slots, "10.0.0.1"), Resolution::NoRoute);
    slots.set_plan(model.plan(), Instant::now());
    assert!(find(&slots.update(), "10.0.0.1").is_some(), "what was asked for has its slot again");
}

#[test]
fn those_asked_for_longest_ago_make_room() {
    let mut slots = Slots::new(16);
    let start = Instant::now();
    slots.set_plan(model(&[link(2, "eth0")], &[], &[on_link("10.0.0.0/8", 2)]).plan(), start);
    for i in 0..16 {
        let (key, new) = slots.ask(ip(&format!("10.0.0.{i}")), start + Duration::from_millis(i));
        assert!(new && key.is_some());
    }
    let generation = slots.update().generation();
    // Asked again, 10.0.0.0 is not the oldest any more.
    assert_eq!(slots.ask(ip("10.0.0.0"), start + Duration::from_millis(50)), (None, false));
    assert!(slots.ask(ip("10.0.1.1"), start + Duration::from_millis(60)).1);
    assert_ne!(slots.update().generation(), generation);
    assert_eq!(resolution(&mut slots, "10.0.0.1"), Resolution::Ask);
    assert_eq!(resolution(&mut slots, "10.0.0.2"), Resolution::Ask);
    for kept in ["10.0.0.0", "10.0.0.3", "10.0.1.1"] {
        assert!(find(&slots.update(), kept).is_some(), "{kept}");
    }
}

#[test]
fn the_kernel_is_asked_again_but_not_too_often() {
    let start = Instant::now();
    let at = |milliseconds| start + Duration::from_millis(milliseconds);
    let mut slots = Slots::new(16);
    slots.set_plan(model(&[link(2, "eth0")], &[], &[on_link("10.0.0.0/8", 2)]).plan(), start);
    let key = (2, ip("10.0.0.1"));
    assert_eq!(slots.ask(key.1, at(0)), (Some(key), true));
    assert_eq!(slots.ask(key.1, at(10)), (None, false), "it is being asked for");
    // No answer: after 1 s, 2 s more, 4 s more, ...
    assert_eq!(slots.due(at(999)), []);
    assert_eq!(slots.due(at(1000)), [key]);
    assert_eq!(slots.due(at(2999)), []);
    assert_eq!(slots.due(at(3000)), [key]);
    assert!(slots.set_neighbour(neighbour(2, "10.0.0.1", NeighbourState::Reachable), at(3100)));
    assert_eq!(slots.due(at(20_000)), []);
    // Stale: every 5 s.
    assert!(!slots.set_neighbour(neighbour(2, "10.0.0.1", NeighbourState::Stale), at(30_000)));
    assert_eq!(slots.due(at(30_000)), [key]);
    assert_eq!(slots.due(at(34_999)), []);
    assert_eq!(slots.due(at(35_000)), [key]);
    // Failed: its MAC is gone, and it is asked at once and after a second.
    assert!(slots.set_neighbour(neighbour(2, "10.0.0.1", NeighbourState::Failed), at(41_000)));
    assert_eq!(find(&slots.update(), "10.0.0.1").unwrap().mac, None);
    assert_eq!(slots.due(at(41_000)), [key]);
    assert!(!slots.set_neighbour(neighbour(2, "10.0.0.1", NeighbourState::Failed), at(41_000)));
    assert_eq!(slots.due(at(41_999)), []);
    assert_eq!(slots.due(at(42_000)), [key]);
    // Nobody asks for it any more: given up.
    assert_eq!(slots.due(at(400_000)), []);
}

#[test]
fn states_of_neighbours_say_what_their_mac_is_worth() {
    for (state, mac, trust) in [
        (NeighbourState::Incomplete, None, Trust::Settled),
        (NeighbourState::Reachable, Some(PEER), Trust::Settled),
        (NeighbourState::Permanent, Some(PEER), Trust::Settled),
        (NeighbourState::Delay, Some(PEER), Trust::Settled),
        (NeighbourState::Probe, Some(PEER), Trust::Settled),
        (NeighbourState::Stale, Some(PEER), Trust::Stale),
        (NeighbourState::Failed, None, Trust::Failed),
        (NeighbourState::None, None, Trust::Failed),
    ] {
        let parsed = neighbour(2, "10.0.0.1", state);
        assert_eq!((parsed.mac, parsed.trust), (mac, trust), "{state:?}");
    }
}
