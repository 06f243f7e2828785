//! A director in memory: workers on memory ports, with the rules, routes and
//! clock that a test sets.
//!
//! Interface 0 leads to the clients by a router, interface 1 to the real
//! servers:
//!
//! ```text
//! clients -- router 203.0.113.254 -- [0] director 192.0.2.10 (VIP) [1] -- 10.0.2.0/24: servers .1, .2, .3
//!            fe80::c                     2001:db8:f::10                   2001:db8:2::/64: servers ::1, ::2, ::3
//!                                                10.0.2.200 (LIP)
//! ```

pub mod carried;
#[path = "../offload/kernel.rs"]
#[allow(dead_code, reason = "the tests of the program use all of it")]
pub mod kernel;
pub mod packets;
pub mod packets_v6;
#[allow(dead_code, reason = "no test uses all of it")]
pub mod random;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use sluice_dataplane::conn::{ConnectionFilter, ConnectionRecord, Timeouts};
use sluice_dataplane::neigh::{Egress, EgressId, NextHopsBuilder};
use sluice_dataplane::port::memory::MemoryPort;
use sluice_dataplane::service::{
    Encapsulation, Family, MarkCounters, MarkRule, MarkRules, Method, PortRange, Protocol, RealServer,
    SchedulerFlags, SchedulerKind, ServerId, ServiceId, ServiceKey, ServiceOptions, ServiceTable,
    ServiceTableBuilder, Thresholds, Tunables, VirtualService,
};
use sluice_dataplane::stats::{DropReason, ServerCounters, TrafficCounters, WorkerCounters};
use sluice_dataplane::steer::SteeringRules;
use sluice_dataplane::wire::Address;
use sluice_dataplane::worker::{Event, Exchange, Published, Settings, Slice, Worker};

use carried::Kernel;

pub type Mac = [u8; 6];

/// Our address on interface 0.
pub const OUTSIDE: Mac = [2, 0, 0, 0, 0, 0xa];
/// Our address on interface 1.
pub const INSIDE: Mac = [2, 0, 0, 0, 0, 0xb];
/// The router to the clients.
pub const CLIENT_ROUTER: Mac = [2, 0, 0, 0, 0, 0xc];

pub const VIP: &str = "192.0.2.10:80";
pub const DNS_VIP: &str = "192.0.2.10:53";
pub const CLIENT: &str = "198.51.100.7:40000";
pub const SERVER: &str = "10.0.2.1:80";
pub const SERVER_2: &str = "10.0.2.2:80";
/// Where FULLNAT connections come from, and tunnels start.
pub const LIP: [u8; 4] = [10, 0, 2, 200];
pub const INSIDE_ADDRESS: [u8; 4] = [10, 0, 2, 254];

/// The same in IPv6.
pub const VIP6: &str = "[2001:db8:f::10]:80";
pub const DNS_VIP6: &str = "[2001:db8:f::10]:53";
pub const CLIENT6: &str = "[2001:db8:c::7]:40000";
pub const SERVER6: &str = "[2001:db8:2::1]:80";
pub const DNS_SERVER6: &str = "[2001:db8:2::1]:53";
pub const LIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0x200);
pub const INSIDE_ADDRESS6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0xff);

pub const SECOND: u64 = 1_000_000_000;

/// Frames that each worker's port has.
pub const FRAMES: usize = 2048;

/// The address of a real server's interface.
pub fn server_mac(last: u8) -> Mac {
    [2, 0, 0, 0, 1, last]
}

/// Everything that became of the frames of one step.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// By interface
    pub sent: Vec<(usize, Vec<u8>)>,
    pub punted: Vec<(usize, Vec<u8>)>,
    pub dropped: Vec<DropReason>,
    /// Change of the number of frames that wait for a next hop
    pub held: i64,
}

impl Outcome {
    pub fn sent(interface: usize, frame: Vec<u8>) -> Self {
        Outcome { sent: vec![(interface, frame)], ..Outcome::default() }
    }

    pub fn punted(interface: usize, frame: Vec<u8>) -> Self {
        Outcome { punted: vec![(interface, frame)], ..Outcome::default() }
    }

    pub fn dropped(reason: DropReason) -> Self {
        Outcome { dropped: vec![reason], ..Outcome::default() }
    }

    /// Dropped, and its sender told by a frame.
    pub fn answered(reason: DropReason, interface: usize, frame: Vec<u8>) -> Self {
        Outcome { dropped: vec![reason], ..Outcome::sent(interface, frame) }
    }

    pub fn held() -> Self {
        Outcome { held: 1, ..Outcome::default() }
    }
}

impl std::fmt::Debug for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (what, frames) in [("sent", &self.sent), ("punted", &self.punted)] {
            for (interface, frame) in frames {
                write!(f, "\n  {what} on {interface}, {} bytes:", frame.len())?;
                for line in frame.chunks(32) {
                    write!(f, "\n    ")?;
                    line.iter().try_for_each(|byte| write!(f, "{byte:02x} "))?;
                }
            }
        }
        write!(f, "\n  dropped {:?}, held {:+}", self.dropped, self.held)
    }
}

/// A director of some workers.
pub struct Director {
    pub workers: Vec<Worker<MemoryPort>>,
    pub counters: Vec<Arc<WorkerCounters>>,
    published: Arc<Published>,
    exchanges: Arc<[Exchange]>,
    pub now: u64,
    /// Called before each round of a worker with true, and with false after it
    pub around: fn(bool),
    generation: u64,
    pub timeouts: Timeouts,
    pub tunables: Tunables,
    pub marks: Arc<MarkRules>,
    services: BTreeMap<ServiceId, VirtualService>,
    servers: BTreeMap<ServerId, RealServer>,
    /// What carries connections, if they are to be carried
    kernel: Option<Kernel>,
}

impl Director {
    /// A director without services, whose neighbours are all known.
    pub fn new() -> Self {
        Director::with(1, 1000)
    }

    pub fn with(workers: usize, connections: usize) -> Self {
        let published = Arc::new(Published::default());
        let exchanges = Exchange::of_all(workers, connections, [0; 16]);
        let counters: Vec<_> = (0..workers).map(|_| Arc::new(WorkerCounters::default())).collect();
        let now = 1000 * SECOND;
        let workers = (0..workers).map(|worker| {
            Worker::new(
                Settings { worker, workers, connections, seed: [0; 16] },
                MemoryPort::new(2, FRAMES),
                published.clone(),
                exchanges.clone(),
                counters[worker].clone(),
                now,
            )
        });
        let mut workers: Vec<_> = workers.collect();
        let kernel = Kernel::new(&mut workers);
        let mut director = Director {
            workers,
            published: published.clone(),
            exchanges: exchanges.clone(),
            counters: counters.clone(),
            now,
            around: |_| {},
            generation: 0,
            timeouts: Timeouts::default(),
            tunables: Tunables::default(),
            marks: Arc::default(),
            services: BTreeMap::new(),
            servers: BTreeMap::new(),
            kernel,
        };
        director.publish_hops(Routes::new(1).all_known());
        director
    }

    /// A director with a TCP service on [`VIP`] and one for UDP on [`DNS_VIP`],
    /// each with the server 10.0.2.1.
    pub fn serving(method: Method) -> Self {
        let mut director = Director::new();
        let (http, dns) = director.both_services();
        director.add_server(http, SERVER, method, 1);
        director.add_server(dns, "10.0.2.1:53", method, 1);
        director.publish();
        director
    }

    /// The same over IPv6, with the server 2001:db8:2::1.
    pub fn serving_v6(method: Method) -> Self {
        Director::serving_between(VIP6, DNS_VIP6, SERVER6, DNS_SERVER6, method)
    }

    /// A director with a TCP and a UDP service, each with one server.
    pub fn serving_between(http: &str, dns: &str, server: &str, dns_server: &str, method: Method) -> Self {
        let mut director = Director::new();
        for (protocol, vip, server) in [(Protocol::Tcp, http, server), (Protocol::Udp, dns, dns_server)] {
            let service = director.add_service(protocol, vip);
            director.add_server(service, server, method, 1);
        }
        director.publish();
        director
    }

    /// The TCP and the UDP service of [`Director::serving`], without servers.
    pub fn both_services(&mut self) -> (ServiceId, ServiceId) {
        (self.add_service(Protocol::Tcp, VIP), self.add_service(Protocol::Udp, DNS_VIP))
    }

    pub fn add_service(&mut self, protocol: Protocol, at: &str) -> ServiceId {
        let at = socket(at);
        self.add_service_of(ServiceKey::Address { protocol, address: at.ip().into(), port: at.port() })
    }

    /// A service of a mark.
    pub fn add_mark(&mut self, mark: u32, family: Family) -> ServiceId {
        self.add_service_of(ServiceKey::Mark { mark, family })
    }

    /// Replaces the rules that mark packets.
    pub fn mark_by(&mut self, rules: &[MarkRule]) {
        let workers = self.workers.len();
        let counted = |rule: &MarkRule| (rule.clone(), Arc::new(MarkCounters::new(workers)));
        self.marks = Arc::new(MarkRules::new(rules.iter().map(counted).collect()).expect("not too many"));
    }

    fn add_service_of(&mut self, key: ServiceKey) -> ServiceId {
        let id = ServiceId(self.services.len() as u32);
        let service = VirtualService {
            key,
            scheduler: SchedulerKind::Rr,
            scheduler_flags: SchedulerFlags::default(),
            servers: Vec::new(),
            local_addresses: vec![Address::from_v4(LIP), LIP6.into()],
            options: ServiceOptions::default(),
            counters: Arc::new(TrafficCounters::new(self.workers.len())),
        };
        self.services.insert(id, service);
        id
    }

    pub fn service(&mut self, id: ServiceId) -> &mut VirtualService {
        self.services.get_mut(&id).expect("a service that was added")
    }

    pub fn add_server(&mut self, service: ServiceId, at: &str, method: Method, weight: u32) -> ServerId {
        let at = socket(at);
        let id = ServerId(self.servers.len() as u32);
        let workers = self.workers.len();
        let owner = self.services.get_mut(&service).expect("a service that was added");
        let server = RealServer {
            service,
            service_key: owner.key,
            address: at.ip().into(),
            port: at.port(),
            method,
            encapsulation: Encapsulation::Ipip,
            weight,
            last_weight: weight,
            thresholds: Thresholds::default(),
            edits: 0,
            timeouts: None,
            available: true,
            counters: Arc::new(ServerCounters::new(workers)),
            service_counters: owner.counters.clone(),
        };
        owner.servers.insert(0, id);
        self.servers.insert(id, server);
        id
    }

    pub fn server(&mut self, id: ServerId) -> &mut RealServer {
        self.servers.get_mut(&id).expect("a server that was added")
    }

    /// Removes a server as control does while it has connections.
    pub fn remove_server(&mut self, id: ServerId) {
        self.server(id).available = false;
        let service = self.servers[&id].service;
        self.service(service).servers.retain(|server| *server != id);
    }

    /// Makes all changes of services and servers known.
    pub fn publish(&mut self) {
        self.generation += 1;
        let mut table = ServiceTableBuilder::new(self.generation);
        table.timeouts(self.timeouts).tunables(self.tunables).marks(self.marks.clone());
        self.services.iter().for_each(|(id, service)| _ = table.service(*id, service.clone()));
        self.servers.iter().for_each(|(id, server)| _ = table.server(*id, server.clone()));
        self.published.services.store(Arc::new(table.build()));
        if let Some(kernel) = &mut self.kernel {
            kernel.invalidate();
        }
    }

    /// The services that it goes by.
    pub fn table(&self) -> Arc<ServiceTable> {
        Arc::clone(&self.published.services.load())
    }

    /// What is to be steered to it.
    pub fn steering(&mut self) -> SteeringRules {
        self.publish();
        SteeringRules::of(&self.published.services.load())
    }

    /// Makes it another director's backup, or the active one.
    pub fn set_standby(&mut self, standby: bool) {
        self.published.standby.store(standby, Ordering::Relaxed);
        if let Some(kernel) = &mut self.kernel {
            kernel.invalidate();
        }
    }

    pub fn publish_hops(&mut self, routes: Routes) {
        let hops = Arc::new(routes.builder.build());
        if let Some(kernel) = &mut self.kernel {
            kernel.set_hops(&hops);
        }
        self.published.hops.store(hops);
    }

    /// Lets a frame arrive at the first worker; what becomes of it.
    pub fn arrive(&mut self, interface: usize, frame: &[u8]) -> Outcome {
        self.arrive_at(0, interface, &[frame])
    }

    /// Lets frames arrive at a worker in one burst, and all workers go round
    /// until nothing is left to do.
    pub fn arrive_at(&mut self, worker: usize, interface: usize, frames: &[&[u8]]) -> Outcome {
        let mut carried = Vec::new();
        for frame in frames {
            match self.kernel.as_mut().and_then(|kernel| kernel.carry(interface, frame)) {
                Some(sent) => carried.push(sent),
                None => {
                    assert!(self.workers[worker].port_mut().inject(interface, frame), "no frame is free");
                }
            }
        }
        let mut outcome = self.settle();
        outcome.sent.splice(..0, carried);
        outcome.sent.sort_by_key(|(interface, _)| *interface);
        outcome
    }

    /// Whether its connections are carried in this run of the tests.
    pub fn carries(&self) -> bool {
        self.kernel.is_some()
    }

    /// Packets that were carried.
    pub fn carried(&self) -> u64 {
        self.kernel.as_ref().map_or(0, |kernel| kernel.carried)
    }

    /// Whether any connection is carried.
    fn is_carrying(&self) -> bool {
        self.sum(|counters| counters.offloaded.get()) > 0
    }

    /// Lets all workers go round until there is nothing to do.
    fn poll(&mut self) {
        let (around, now) = (self.around, self.now);
        let poll = |worker: &mut Worker<MemoryPort>| {
            around(true);
            let handled = worker.poll(now);
            around(false);
            handled
        };
        while self.workers.iter_mut().map(poll).sum::<usize>() > 0 {}
    }

    /// Lets all workers go round, once at least; what becomes of their frames.
    pub fn settle(&mut self) -> Outcome {
        let drops = |counters: &WorkerCounters, reason| counters.dropped(reason);
        let before: Vec<u64> = DropReason::ALL.iter().map(|reason| self.sum(|c| drops(c, *reason))).collect();
        let held = self.sum(|c| c.held.get()) as i64;
        self.poll();
        let mut outcome = Outcome { held: self.sum(|c| c.held.get()) as i64 - held, ..Outcome::default() };
        for (reason, before) in DropReason::ALL.iter().zip(before) {
            let after = self.sum(|c| drops(c, *reason));
            outcome.dropped.extend((before..after).map(|_| *reason));
        }
        for interface in 0..2 {
            outcome.sent.extend(self.take_sent(interface).into_iter().map(|frame| (interface, frame)));
            for worker in &mut self.workers {
                let punted = std::iter::from_fn(|| worker.port_mut().take_punted(interface));
                outcome.punted.extend(punted.map(|frame| (interface, frame)));
            }
        }
        outcome
    }

    pub fn take_sent(&mut self, interface: usize) -> Vec<Vec<u8>> {
        let ports = self.workers.iter_mut().map(Worker::port_mut);
        ports.flat_map(|port| std::iter::from_fn(|| port.take_sent(interface))).collect()
    }

    /// The sum of a counter over all workers.
    pub fn sum(&self, counter: impl Fn(&WorkerCounters) -> u64) -> u64 {
        self.counters.iter().map(|counters| counter(counters)).sum()
    }

    /// Lets time pass without packets.
    pub fn pass(&mut self, nanoseconds: u64) -> Outcome {
        let then = self.now + nanoseconds;
        // Workers look at what is carried from time to time.
        while self.is_carrying() && then - self.now > SECOND / 4 {
            self.now += SECOND / 4;
            self.poll();
        }
        self.now = then;
        self.settle()
    }

    /// What the first worker told control.
    pub fn events(&self) -> Vec<Event> {
        std::iter::from_fn(|| self.exchanges[0].events.pop()).collect()
    }

    /// The queues of all workers.
    pub fn exchanges(&self) -> Arc<[Exchange]> {
        Arc::clone(&self.exchanges)
    }

    /// The snapshots that workers go by.
    pub fn published(&self) -> &Published {
        &self.published
    }

    pub fn exchange(&self, worker: usize) -> &Exchange {
        &self.exchanges[worker]
    }

    /// All connections of all workers, in the order of their clients.
    pub fn list(&mut self) -> Vec<ConnectionRecord> {
        let mut all = Vec::new();
        for worker in 0..self.workers.len() {
            let mut slices = self.exchanges[worker].list(Arc::default(), 1).expect("no other command");
            loop {
                self.workers[worker].poll(self.now);
                match slices.next_slice() {
                    Slice::Of(slice) => all.extend(slice),
                    Slice::NotYet => {}
                    Slice::End => break,
                }
            }
        }
        all.sort_by_key(|record| (record.client, record.service));
        all
    }

    /// The connections of worker 0 that a filter takes, in the order of their
    /// clients, and how many slices they came in.
    pub fn list_some(&mut self, filter: ConnectionFilter) -> (Vec<ConnectionRecord>, usize) {
        let mut slices = self.exchanges[0].list(Arc::new(filter), 256).expect("no other command");
        self.settle();
        let slices: Vec<_> = std::iter::from_fn(|| match slices.next_slice() {
            Slice::Of(slice) => Some(slice),
            Slice::NotYet => panic!("the worker has not settled"),
            Slice::End => None,
        })
        .collect();
        let number = slices.len();
        let mut some: Vec<_> = slices.into_iter().flatten().collect();
        some.sort_by_key(|record| (record.client, record.service));
        (some, number)
    }

    /// The only connection: its state and the seconds it has left.
    pub fn only_connection(&mut self) -> (&'static str, u32) {
        let list = self.list();
        assert_eq!(list.len(), 1, "{list:?}");
        (list[0].state, list[0].expires)
    }

    /// The (LIP, port) of the only connection.
    pub fn local_end(&mut self) -> SocketAddrV4 {
        match self.any_local_end() {
            SocketAddr::V4(v4) => v4,
            SocketAddr::V6(v6) => panic!("{v6} is not IPv4"),
        }
    }

    /// The (LIP, port) of the only connection, of either family.
    pub fn any_local_end(&mut self) -> SocketAddr {
        let list = self.list();
        assert_eq!(list.len(), 1, "{list:?}");
        let (address, port) = list[0].local.expect("a FULLNAT connection");
        SocketAddr::new(address.into(), port)
    }
}

/// The director's routes, to be changed by a test.
pub struct Routes {
    pub builder: NextHopsBuilder,
    pub outside: EgressId,
    pub inside: EgressId,
    /// For IPv6
    pub inside6: EgressId,
}

impl Routes {
    /// The routes of the picture above; no neighbour is known but the router.
    pub fn new(generation: u64) -> Self {
        Routes::over(generation, Egress::new(0, OUTSIDE), inside())
    }

    /// The same over other links.
    pub fn over(generation: u64, outside: Egress, inside: Egress) -> Self {
        let mut builder = NextHopsBuilder::new(generation);
        let of_v6 =
            |egress: Egress| Egress { source: egress.source.map(|_| INSIDE_ADDRESS6.into()), ..egress };
        let (outside6, inside6) = (builder.egress(of_v6(outside)), builder.egress(of_v6(inside)));
        let outside = builder.egress(outside);
        let inside = builder.egress(inside);
        let router = Address::from_v4([203, 0, 113, 254]);
        builder.neighbour(outside, router, Some(CLIENT_ROUTER));
        builder.connected("10.0.2.0/24".parse().expect("a prefix"), inside);
        builder.via("0.0.0.0/0".parse().expect("a prefix"), outside, router);
        builder.local("192.0.2.10/32".parse().expect("a prefix"));
        let router: IpAddr = "fe80::c".parse().expect("an address");
        builder.neighbour(outside6, router.into(), Some(CLIENT_ROUTER));
        builder.connected("2001:db8:2::/64".parse().expect("a prefix"), inside6);
        builder.via("::/0".parse().expect("a prefix"), outside6, router.into());
        builder.local("2001:db8:f::10/128".parse().expect("a prefix"));
        Routes { builder, outside, inside, inside6 }
    }

    /// All servers are known.
    pub fn all_known(self) -> Self {
        (1..=3).fold(self, Routes::known)
    }

    /// The server 10.0.2.`last`, also 2001:db8:2::`last`, is known.
    pub fn known(mut self, last: u8) -> Self {
        let v6 = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, last.into());
        self.builder.neighbour(self.inside6, v6.into(), Some(server_mac(last)));
        self.builder.neighbour(self.inside, Address::from_v4([10, 0, 2, last]), Some(server_mac(last)));
        self
    }
}

/// An address of either family with a port.
pub fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|_| panic!("{text} is not ADDRESS:PORT"))
}

/// The link to the servers.
pub fn inside() -> Egress {
    Egress { source: Some(Address::from_v4(INSIDE_ADDRESS)), ..Egress::new(1, INSIDE) }
}

/// A rule that marks TCP to some ports, or all, of a prefix, whoever it comes
/// from.
pub fn mark_rule(destination: &str, ports: &[(u16, u16)], mark: u32) -> MarkRule {
    MarkRule {
        destination: destination.parse().expect("a prefix"),
        source: None,
        protocol: Some(Protocol::Tcp),
        ports: ports.iter().map(|(first, last)| PortRange { first: *first, last: *last }).collect(),
        interfaces: u64::MAX,
        value: mark,
        mask: u32::MAX,
    }
}
