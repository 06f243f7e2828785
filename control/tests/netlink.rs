//! Next hops from a real kernel, in namespaces.

mod netns;

use std::net::IpAddr;
use std::sync::mpsc;

use netns::{Netns, eventually};
use sluice_control::netlink::{self, Handle};
use sluice_dataplane::neigh::{NextHop, Resolution};
use sluice_dataplane::wire::Address;

const DIRECTOR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

fn ip(text: &str) -> Address {
    text.parse::<IpAddr>().unwrap().into()
}

/// A director (10.0.2.254) and a server (10.0.2.1) on one wire.
struct Lab {
    director: Netns,
    server: Netns,
    hops: Handle,
    runtime: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Lab {
    fn new() -> Self {
        let director = Netns::new();
        let server = Netns::new();
        director.ip(&format!(
            "link add lan0 mtu 1400 address 02:00:00:00:00:01 type veth peer name eth0 address 02:00:00:00:00:02 \
             netns {}",
            server.id()
        ));
        // The kernel's own link-local address appears when it likes, and
        // changes the routes.
        director.ip("link set lan0 addrgenmode none");
        director.ip("-6 addr add fe80::254/64 dev lan0 nodad");
        director.ip("addr add 10.0.2.254/24 dev lan0");
        director.ip("-6 addr add 2001:db8::254/64 dev lan0 nodad");
        director.ip("link set lan0 up");
        server.ip("addr add 10.0.2.1/24 dev eth0");
        server.ip("addr add 10.0.2.2/24 dev eth0");
        server.ip("-6 addr add 2001:db8::1/64 dev eth0 nodad");
        server.ip("link set eth0 up");
        director.wait_up("lan0");
        server.wait_up("eth0");
        let (handle, started) = mpsc::channel();
        let (runtime, end) = tokio::sync::oneshot::channel();
        // A thread that is made in the namespace is in it.
        let thread = director.run(move || {
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let hops = netlink::start(&["lan0".to_owned()], 2, |_| {}).await;
                    handle.send(hops).unwrap();
                    _ = end.await;
                });
            })
        });
        let hops = started.recv().unwrap().expect("start");
        Lab { director, server, hops, runtime: Some(runtime), thread: Some(thread) }
    }

    fn hop(&self, address: &str) -> Option<NextHop> {
        let hops = self.hops.current();
        match hops.resolve(ip(address)) {
            Resolution::Hop(id) => hops.hop(id).cloned(),
            _ => None,
        }
    }

    fn resolution(&self, address: &str) -> Resolution {
        self.hops.current().resolve(ip(address))
    }

    fn mac(&self, address: &str) -> Option<[u8; 6]> {
        self.hop(address)?.mac
    }

    fn resolve(&self, address: &str) {
        self.hops.ask(ip(address));
        eventually(&format!("{address} is resolved"), || self.mac(address).is_some());
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.runtime.take();
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
    }
}

#[test]
fn the_kernel_resolves_what_workers_ask_for() {
    if !netns::possible("the_kernel_resolves_what_workers_ask_for") {
        return;
    }
    let lab = Lab::new();
    assert_eq!(lab.resolution("10.0.2.1"), Resolution::Ask);
    assert_eq!(lab.resolution("10.0.2.254"), Resolution::Foreign);
    assert_eq!(lab.resolution("127.0.0.1"), Resolution::Foreign);
    assert_eq!(lab.resolution("10.0.2.255"), Resolution::NoRoute);
    assert_eq!(lab.resolution("192.0.2.1"), Resolution::NoRoute);
    lab.resolve("10.0.2.1");
    assert_eq!(
        lab.hop("10.0.2.1"),
        Some(NextHop {
            interface: 0,
            vlan: None,
            source_mac: DIRECTOR_MAC,
            mac: Some(SERVER_MAC),
            mtu: 1400,
            source: Some(ip("10.0.2.254")),
        })
    );
    let generation = lab.hops.current().generation();
    lab.resolve("10.0.2.2");
    lab.resolve("2001:db8::1");
    assert_eq!(lab.hop("2001:db8::1").unwrap().source, Some(ip("2001:db8::254")));
    assert_eq!(lab.hops.current().generation(), generation, "new slots leave the old ones as they are");
}

#[test]
fn routes_are_followed() {
    if !netns::possible("routes_are_followed") {
        return;
    }
    let lab = Lab::new();
    lab.director.ip("route add default via 10.0.2.1");
    // Nobody asked for the gateway: having a slot, it is looked for.
    eventually("the gateway is resolved", || lab.mac("192.0.2.1") == Some(SERVER_MAC));
    let generation = lab.hops.current().generation();
    lab.director.ip("route add 192.0.2.0/24 via 10.0.2.2 mtu 1300 src 10.0.2.254");
    eventually("the longer prefix counts", || lab.hop("192.0.2.1").is_some_and(|hop| hop.mtu == 1300));
    assert_ne!(lab.hops.current().generation(), generation);
    lab.director.ip("route add unreachable 192.0.2.128/25");
    eventually("unreachable", || lab.resolution("192.0.2.129") == Resolution::NoRoute);
    lab.director.ip("link add other0 type veth peer name other1");
    lab.director.ip("addr add 10.9.0.1/24 dev other0");
    lab.director.ip("link set other0 up");
    lab.director.ip("link set other1 up");
    eventually("foreign", || lab.resolution("10.9.0.7") == Resolution::Foreign);
    lab.director.ip("route del unreachable 192.0.2.128/25");
    eventually("reachable again", || lab.hop("192.0.2.129").is_some());
    lab.director.ip("route del 192.0.2.0/24");
    lab.director.ip("route del default");
    eventually("no route", || lab.resolution("192.0.2.1") == Resolution::NoRoute);
    // A thousand changes at once end in the right state.
    lab.director.run(|| {
        let batch: String = (0..1000)
            .map(|i| format!("route add 172.16.{}.{}/32 via 10.0.2.1\n", i / 250, i % 250))
            .collect();
        let mut child = std::process::Command::new("ip")
            .args(["-batch", "-"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), batch.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    });
    eventually("all routes", || {
        (0..1000).all(|i| lab.hop(&format!("172.16.{}.{}", i / 250, i % 250)).is_some())
    });
}

#[test]
fn a_changed_mac_changes_the_slot_and_not_the_generation() {
    if !netns::possible("a_changed_mac_changes_the_slot_and_not_the_generation") {
        return;
    }
    let lab = Lab::new();
    lab.resolve("10.0.2.1");
    let generation = lab.hops.current().generation();
    let slot = lab.resolution("10.0.2.1");
    lab.director.ip("neigh replace 10.0.2.1 lladdr 02:00:00:00:00:09 nud reachable dev lan0");
    eventually("the new MAC", || lab.mac("10.0.2.1") == Some(OTHER_MAC));
    assert_eq!(lab.resolution("10.0.2.1"), slot);
    assert_eq!(lab.hops.current().generation(), generation);
    lab.director.ip("neigh del 10.0.2.1 dev lan0");
    eventually("the MAC is learned again", || lab.mac("10.0.2.1") == Some(SERVER_MAC));
}

#[test]
fn a_stale_neighbour_with_another_mac_is_noticed() {
    if !netns::possible("a_stale_neighbour_with_another_mac_is_noticed") {
        return;
    }
    let lab = Lab::new();
    // The kernel waits this long before it checks a neighbour (in ms).
    lab.director.run(|| {
        std::fs::write("/proc/sys/net/ipv4/neigh/lan0/delay_first_probe_time", "1").unwrap();
        std::fs::write("/proc/sys/net/ipv4/neigh/lan0/retrans_time_ms", "50").unwrap();
    });
    lab.resolve("10.0.2.1");
    lab.director.ip("neigh replace 10.0.2.1 lladdr 02:00:00:00:00:09 nud stale dev lan0");
    eventually("the wrong MAC", || lab.mac("10.0.2.1") == Some(OTHER_MAC));
    eventually("the right MAC", || lab.mac("10.0.2.1") == Some(SERVER_MAC));
}

#[test]
fn a_neighbour_that_fails_loses_its_mac_and_may_come_back() {
    if !netns::possible("a_neighbour_that_fails_loses_its_mac_and_may_come_back") {
        return;
    }
    let lab = Lab::new();
    lab.director.run(|| {
        std::fs::write("/proc/sys/net/ipv4/neigh/lan0/retrans_time_ms", "50").unwrap();
    });
    lab.resolve("10.0.2.2");
    lab.server.ip("addr del 10.0.2.2/24 dev eth0");
    lab.director.ip("neigh replace 10.0.2.2 lladdr 02:00:00:00:00:02 nud probe dev lan0");
    eventually("it has failed", || lab.mac("10.0.2.2").is_none());
    lab.server.ip("addr add 10.0.2.2/24 dev eth0");
    eventually("it is back", || lab.mac("10.0.2.2") == Some(SERVER_MAC));
}

#[test]
fn links_go_and_come_back() {
    if !netns::possible("links_go_and_come_back") {
        return;
    }
    let lab = Lab::new();
    lab.resolve("10.0.2.1");
    // No carrier: the kernel keeps the routes.
    lab.server.ip("link set eth0 down");
    eventually("no way without carrier", || lab.resolution("10.0.2.1") == Resolution::NoRoute);
    lab.server.ip("link set eth0 up");
    eventually("carrier is back", || lab.mac("10.0.2.1") == Some(SERVER_MAC));
    // Down: the kernel drops the routes.
    lab.director.ip("link set lan0 down");
    eventually("no way while down", || lab.resolution("10.0.2.1") == Resolution::NoRoute);
    lab.director.ip("link set lan0 up");
    eventually("up again", || lab.resolution("10.0.2.1") != Resolution::NoRoute);
    lab.resolve("10.0.2.1");
    // Gone, and another one of that name instead.
    lab.director.ip("link del lan0");
    eventually("no way without link", || lab.resolution("10.0.2.1") == Resolution::NoRoute);
    lab.director.ip(&format!("link add lan0 type veth peer name eth0 netns {}", lab.server.id()));
    lab.director.ip("addr add 10.0.2.254/24 dev lan0");
    lab.director.ip("link set lan0 up");
    lab.server.ip("addr add 10.0.2.1/24 dev eth0");
    lab.server.ip("link set eth0 up");
    eventually("the new link is used", || {
        lab.hops.ask(ip("10.0.2.1"));
        lab.mac("10.0.2.1").is_some()
    });
}

/// A veth has no table: a packet lands on the queue that its sender chose. Where
/// nothing is known, nothing is said.
#[test]
fn a_veth_has_no_rss() {
    if !netns::possible("a_veth_has_no_rss") {
        return;
    }
    let lab = Lab::new();
    let hops = lab.hops.current();
    assert!(hops.rss(0).is_none());
    assert_eq!(hops.port_plan(), 0);
    let reason = lab.director.run(|| {
        let link = sluice_dataplane::link::Link::new("lan0").expect("a name");
        (link.rss().expect_err("no RSS").to_string(), link.renew_rss().expect("nothing to do"))
    });
    assert_eq!(reason, ("its driver has no RSS table that could be read".to_owned(), false));
}

#[test]
fn start_up_can_wait_for_servers_and_names_missing_interfaces() {
    if !netns::possible("start_up_can_wait_for_servers_and_names_missing_interfaces") {
        return;
    }
    let lab = Lab::new();
    let hops = lab.hops.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert!(runtime.block_on(hops.resolved(ip("10.0.2.1"))));
    assert!(!runtime.block_on(hops.resolved(ip("10.0.2.77"))));
    assert!(!runtime.block_on(hops.resolved(ip("10.0.2.254"))));
    let error = lab.director.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(netlink::start(&["lan9".to_owned()], 2, |_| {})).unwrap_err()
    });
    assert_eq!(error.to_string(), "there is no network interface \"lan9\"; `ip link` lists those that exist");
}
