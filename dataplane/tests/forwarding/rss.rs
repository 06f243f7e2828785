//! FULLNAT behind NICs that spread packets over queues: answers land on the
//! queue of the worker that has the connection.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use proptest::prelude::*;
use sluice_dataplane::port::memory::Nic;
use sluice_dataplane::rss::{HashFields, Hashed, Rss, Settings};
use sluice_dataplane::service::Method;

use crate::director::packets::{ACK, SYN, tcp, udp};
use crate::director::packets_v6::{tcp6, udp6};
use crate::director::{
    DNS_SERVER6, DNS_VIP, DNS_VIP6, Director, INSIDE, Outcome, Routes, SERVER, SERVER6, VIP, VIP6, server_mac,
};

/// A kind of connection: VIP, server, and whether it is TCP.
const KINDS: [(&str, &str, bool); 4] = [
    (VIP, SERVER, true),
    (DNS_VIP, "10.0.2.1:53", false),
    (VIP6, SERVER6, true),
    (DNS_VIP6, DNS_SERVER6, false),
];

/// What a client sends.
fn request(client: &str, vip: &str, is_tcp: bool, flags: u8) -> Vec<u8> {
    match (vip.starts_with('['), is_tcp) {
        (false, true) => tcp(client, vip, flags).bytes(),
        (false, false) => udp(client, vip).bytes(),
        (true, true) => tcp6(client, vip, flags).bytes(),
        (true, false) => udp6(client, vip).bytes(),
    }
}

/// What a server sends.
fn answer(server: &str, local: &str, is_tcp: bool) -> Vec<u8> {
    let (from, to) = (server_mac(1), INSIDE);
    match (server.starts_with('['), is_tcp) {
        (false, true) => tcp(server, local, SYN | ACK).link(from, to).bytes(),
        (false, false) => udp(server, local).link(from, to).bytes(),
        (true, true) => tcp6(server, local, SYN | ACK).link(from, to).bytes(),
        (true, false) => udp6(server, local).link(from, to).bytes(),
    }
}

/// The source of a frame.
fn source(frame: &[u8]) -> String {
    let v4 = frame[12..14] == [8, 0];
    let ports = if v4 { 34 } else { 54 };
    let port = u16::from_be_bytes([frame[ports], frame[ports + 1]]);
    let address = match v4 {
        true => <[u8; 4]>::try_from(&frame[26..30]).unwrap().into(),
        false => <[u8; 16]>::try_from(&frame[22..38]).unwrap().into(),
    };
    SocketAddr::new(address, port).to_string()
}

/// A connection, with the worker that has it.
struct Connection {
    kind: usize,
    client: String,
    local: String,
    owner: usize,
}

/// A director behind two NICs, towards clients and servers.
struct Site {
    director: Director,
    nics: [Nic; 2],
    plan: u64,
    clients: u32,
}

impl Site {
    /// With a NIC whose queues are the workers', and as large a table of any
    /// other towards the clients.
    fn new(workers: usize, settings: Settings) -> Self {
        let mut director = Director::with(workers, 2000);
        for (vip, server, is_tcp) in KINDS {
            let protocol = if is_tcp { "tcp" } else { "udp" };
            let service = director.add_service(protocol_of(protocol), vip);
            director.add_server(service, server, Method::FullNat, 1);
        }
        director.publish();
        let outside = Settings {
            key: settings.key.iter().rev().copied().collect(),
            table: (0..128).map(|n| n % workers as u32).collect(),
            fields: HashFields::all(Hashed::Ports),
            symmetric: false,
        };
        let nics = [Nic(outside), Nic(settings.clone())];
        let mut site = Site { director, nics, plan: 1, clients: 0 };
        site.change(settings);
        site
    }

    fn workers(&self) -> usize {
        self.director.workers.len()
    }

    /// Gives the NIC towards the servers other settings, and lets control
    /// notice.
    fn change(&mut self, settings: Settings) {
        self.nics[1].0 = settings;
        self.plan += 1;
        let mut routes = Routes::new(self.plan).all_known();
        let known = |nic: &Nic| Some(Arc::new(Rss::new(nic.0.clone(), self.workers()).unwrap()));
        routes.builder.spread(self.nics.iter().map(known).collect(), self.plan);
        self.director.publish_hops(routes);
        // A round to hear of it, one to see that all others did.
        assert_eq!(self.director.settle(), Outcome::default());
        assert_eq!(self.director.settle(), Outcome::default());
    }

    /// Lets a frame arrive on the queue that its NIC chooses; returns the
    /// queue and the only frame that is sent.
    fn arrive(&mut self, interface: usize, frame: &[u8]) -> (usize, Vec<u8>) {
        let queue = self.nics[interface].queue(frame);
        let mut outcome = self.director.arrive_at(queue, interface, &[frame]);
        assert_eq!(outcome.sent.len(), 1, "{outcome:?}");
        let (out, sent) = outcome.sent.remove(0);
        assert_eq!(out, 1 - interface);
        (queue, sent)
    }

    /// Opens a connection.
    fn open(&mut self, kind: usize) -> Connection {
        let (vip, _, is_tcp) = KINDS[kind];
        self.clients += 1;
        let (host, port) = (self.clients % 250, 1024 + self.clients);
        let client = match vip.starts_with('[') {
            true => format!("[2001:db8:c::{host:x}]:{port}"),
            false => format!("198.51.100.{host}:{port}"),
        };
        let (owner, sent) = self.arrive(0, &request(&client, vip, is_tcp, SYN));
        Connection { kind, client, local: source(&sent), owner }
    }

    /// Lets the server answer; returns the queue where that landed.
    fn answered(&mut self, connection: &Connection) -> usize {
        let (_, server, is_tcp) = KINDS[connection.kind];
        let (queue, sent) = self.arrive(1, &answer(server, &connection.local, is_tcp));
        assert_eq!(source(&sent), KINDS[connection.kind].0, "to {}", connection.client);
        queue
    }

    fn handed(&self) -> u64 {
        self.director.sum(|c| c.handed.get())
    }
}

fn protocol_of(name: &str) -> sluice_dataplane::service::Protocol {
    match name {
        "tcp" => sluice_dataplane::service::Protocol::Tcp,
        _ => sluice_dataplane::service::Protocol::Udp,
    }
}

/// A table in which each of `workers` queues is, in any order and share.
fn a_table(workers: usize) -> impl Strategy<Value = Vec<u32>> {
    let every = Just((0..workers as u32).collect::<Vec<_>>());
    let others = prop_oneof![Just(128 - workers), 0..200usize];
    let more = others.prop_flat_map(move |n| prop::collection::vec(0..workers as u32, n));
    (every, more).prop_map(|(every, more)| [every, more].concat()).prop_shuffle()
}

fn some_settings(workers: usize) -> impl Strategy<Value = Settings> {
    (prop::collection::vec(any::<u8>(), 40), a_table(workers), any::<bool>()).prop_map(
        |(key, table, symmetric)| Settings { key, table, fields: HashFields::all(Hashed::Ports), symmetric },
    )
}

fn a_site() -> impl Strategy<Value = (usize, Settings, Settings)> {
    (2..=16usize).prop_flat_map(|workers| (Just(workers), some_settings(workers), some_settings(workers)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Every answer lands on its owner's queue. After the NIC changed, new
    /// connections do so again, while those from before go on by hand-off,
    /// and nobody takes their ports.
    #[test]
    fn answers_land_on_their_workers_queue((workers, before, after) in a_site()) {
        let mut site = Site::new(workers, before);
        let old: Vec<_> = (0..48).map(|n| site.open(n % 4)).collect();
        for connection in &old {
            prop_assert_eq!(site.answered(connection), connection.owner);
        }
        prop_assert_eq!(site.handed(), 0);

        site.change(after);
        let new: Vec<_> = (0..48).map(|n| site.open(n % 4)).collect();
        for connection in &new {
            prop_assert_eq!(site.answered(connection), connection.owner);
        }
        prop_assert_eq!(site.handed(), 0);
        let mut strays = 0;
        for connection in &old {
            strays += u64::from(site.answered(connection) != connection.owner);
        }
        prop_assert!(site.handed() >= strays);
        let off: u64 = site.director.sum(|c| c.handed_off(1));
        prop_assert_eq!((off, site.director.sum(|c| c.handed_off(0))), (strays, 0));
        prop_assert_eq!(site.director.sum(|c| c.handed_in.get()), site.handed());
        let ends: BTreeSet<_> = old.iter().chain(&new).map(|c| (c.kind, &c.local)).collect();
        prop_assert_eq!(ends.len(), 96);
    }
}

fn settings(key: u8, table: Vec<u32>, hashed: Hashed) -> Settings {
    let key = (0..40).map(|n: u8| n.wrapping_mul(key) ^ key.rotate_left(n.into())).collect();
    Settings { key, table, fields: HashFields::all(hashed), symmetric: false }
}

/// Where the NIC hashes addresses only, each worker prefers LIPs that lead to
/// it; where there are none, answers are handed over, straight to the owner.
#[test]
fn without_ports_in_the_hash_the_lip_decides() {
    let table: Vec<u32> = (0..128).map(|n| n % 4).collect();
    let mut site = Site::new(4, settings(0x6d, table.clone(), Hashed::Addresses));
    let rss = Rss::new(settings(0x6d, table, Hashed::Addresses), 4).unwrap();
    let all: Vec<_> = (0..40).map(|_| site.open(0)).collect();
    for connection in &all {
        site.answered(connection);
    }
    let strays =
        all.iter().filter(|c| site.nics[1].queue(&answer(SERVER, &c.local, true)) != c.owner).count();
    assert!(strays > 0 && rss.settings().fields.tcp_v4 == Hashed::Addresses);
    // One hop each, and no round.
    assert_eq!(site.handed(), strays as u64);
}

/// A queue that is not in the table gets no answers; its worker's connections
/// are forwarded by hand-off.
#[test]
fn a_worker_without_an_entry_still_serves() {
    let mut site = Site::new(3, settings(0x35, vec![0, 1, 1, 0], Hashed::Ports));
    let all: Vec<_> = (0..60).map(|n| site.open(n % 4)).collect();
    let mut strays = 0;
    for connection in &all {
        let queue = site.answered(connection);
        assert!(queue == connection.owner || connection.owner == 2, "{} {queue}", connection.owner);
        strays += u64::from(queue != connection.owner);
    }
    assert!(strays > 0);
    assert_eq!(site.handed(), strays);
}

/// Where nothing is known of a NIC, an answer on another queue needs one hop.
#[test]
fn without_rss_answers_go_straight_to_their_owner() {
    for workers in [2, 3, 5] {
        let mut director = Director::with(workers, 100);
        let (http, _) = director.both_services();
        director.add_server(http, SERVER, Method::FullNat, 1);
        director.publish();
        for owner in 0..workers {
            let client = format!("198.51.100.7:{}", 2000 + owner);
            let sent = director.arrive_at(owner, 0, &[&request(&client, VIP, true, SYN)]).sent;
            let local = source(&sent[0].1);
            for queue in 0..workers {
                let before = director.sum(|c| c.handed.get());
                let outcome = director.arrive_at(queue, 1, &[&answer(SERVER, &local, true)]);
                assert_eq!(outcome.sent.len(), 1, "{outcome:?}");
                let hops = director.sum(|c| c.handed.get()) - before;
                assert_eq!(hops, u64::from(queue != owner), "{owner} of {workers}, queue {queue}");
            }
        }
    }
}
