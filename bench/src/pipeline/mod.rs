//! A worker on a port in memory with any number of connections, for benchmarks: what one burst costs, without the
//! kernel.
//!
//! Packets are made from the number of their flow when they arrive, so that ten million flows take no memory but the
//! worker's, and four bytes each where servers answer.

pub mod crowd;
mod frames;
pub mod rules;

use std::sync::Arc;

use sluice_dataplane::neigh::{Egress, NextHopsBuilder, Prefix};
use sluice_dataplane::port::BURST;
use sluice_dataplane::port::memory::MemoryPort;
use sluice_dataplane::service::{Method, SchedulerKind, ServiceTable};
use sluice_dataplane::stats::WorkerCounters;
use sluice_dataplane::wire::Address;
use sluice_dataplane::worker::{Exchange, Published, Settings, Worker};

use frames::Path;
use rules::Rules;

pub(crate) const CLIENT_SIDE: usize = 0;
pub(crate) const SERVER_SIDE: usize = 1;
const ROUTER: [u8; 4] = [10, 0, 1, 253];
/// Real servers of the service. With as many local addresses there is room for 256 times 60 000 FULLNAT connections.
pub const SERVERS: u32 = 16;

/// Nanoseconds between two bursts: that of 6.4 million packets a second.
const BURST_TIME: u64 = 10_000;
const SECOND: u64 = 1_000_000_000;
/// How long a UDP connection lives after its last packet, in seconds: IPVS's default.
const UDP_TIMEOUT: u64 = 300;
/// A connection of [`Churn`] lives for so many of its steps.
const STEPS: u64 = 60;

/// A worker with connections of one forwarding method.
pub struct Pipeline {
    worker: Worker<MemoryPort>,
    published: Arc<Published>,
    exchanges: Arc<[Exchange]>,
    counters: Arc<WorkerCounters>,
    rules: Rules,
    /// Where the server answers to, by flow; empty where it does not
    paths: Vec<Path>,
    flows: u32,
    now: u64,
    random: u64,
}

impl Pipeline {
    /// Opens `flows` UDP connections through a service with [`SERVERS`] servers.
    ///
    /// # Panics
    /// When the worker does not forward all of them.
    #[must_use]
    pub fn new(method: Method, flows: u32) -> Self {
        Pipeline::with_room(method, flows, flows as usize + BURST)
    }

    /// The same with room for so many connections altogether.
    ///
    /// # Panics
    /// When the worker does not forward all of them.
    #[must_use]
    pub fn with_room(method: Method, flows: u32, connections: usize) -> Self {
        let mut pipeline = Pipeline::empty(method, connections);
        if method.has_replies() {
            pipeline.paths.reserve_exact(flows as usize);
        } else {
            pipeline.worker.port_mut().discard_sent();
        }
        while pipeline.flows < flows {
            let count = (BURST as u32).min(flows - pipeline.flows);
            pipeline.arrive_new(count);
            pipeline.forward();
            if method.has_replies() {
                for _ in 0..count {
                    let sent = pipeline.worker.port_mut().take_sent(SERVER_SIDE);
                    pipeline.paths.push(Path::of(&sent.expect("the packet was forwarded")));
                }
            }
        }
        assert_eq!(pipeline.connections(), flows as usize, "a connection for each flow");
        pipeline.worker.port_mut().discard_sent();
        pipeline
    }

    /// A worker without connections, with room for so many.
    #[must_use]
    pub fn empty(method: Method, connections: usize) -> Self {
        Pipeline::of_servers(method, SERVERS, connections)
    }

    /// The same for a service with so many servers.
    fn of_servers(method: Method, servers: u32, connections: usize) -> Self {
        let rules = Rules::new(method, servers);
        let published = Arc::new(Published::default());
        published.services.store(Arc::new(rules.table(1, SchedulerKind::Rr).build()));
        published.hops.store(Arc::new(next_hops(servers)));
        let exchanges = Exchange::of_all(1, connections, [7; 16]);
        let counters = Arc::new(WorkerCounters::default());
        let worker = Worker::new(
            Settings { worker: 0, workers: 1, connections, seed: [7; 16] },
            MemoryPort::new(2, 16 * BURST),
            Arc::clone(&published),
            Arc::clone(&exchanges),
            Arc::clone(&counters),
            0,
        );
        Pipeline {
            worker,
            published,
            exchanges,
            counters,
            rules,
            paths: Vec::new(),
            flows: 0,
            now: 0,
            random: 0x9e37_79b9_7f4a_7c15,
        }
    }

    /// Lets a burst of packets of random connections arrive, as many from servers as from clients where servers
    /// answer: there, of the connections that it was made with.
    pub fn arrive(&mut self) {
        let directions = if self.paths.is_empty() { 1 } else { 2 };
        let flows = if self.paths.is_empty() { self.flows.into() } else { self.paths.len() as u64 };
        for _ in 0..BURST {
            let random = self.random(flows * directions);
            let flow = (random / directions) as u32;
            if random.is_multiple_of(directions) {
                self.inject(CLIENT_SIDE, &frames::request(flow));
            } else {
                let path = self.paths[flow as usize];
                self.inject(SERVER_SIDE, &frames::answer(flow, path));
            }
        }
    }

    /// Lets the first packets of new connections arrive.
    pub fn arrive_new(&mut self, count: u32) {
        for _ in 0..count {
            self.inject(CLIENT_SIDE, &frames::request(self.flows));
            self.flows += 1;
        }
    }

    fn inject(&mut self, interface: usize, frame: &[u8]) {
        assert!(self.worker.port_mut().inject(interface, frame), "the port has frames for a burst");
    }

    /// Forwards what arrived. Returns how many packets were handled.
    pub fn forward(&mut self) -> usize {
        self.forward_at(self.now + BURST_TIME)
    }

    /// The same at a time in nanoseconds, which is not to go back.
    pub fn forward_at(&mut self, now: u64) -> usize {
        self.now = now.max(self.now);
        self.worker.poll(self.now)
    }

    /// Connections in the table.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.worker.connections()
    }

    /// Packets that went out.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.worker.port().sent()
    }

    /// Sent packets are only counted from now on.
    pub fn discard_sent(&mut self) {
        self.worker.port_mut().discard_sent();
    }

    /// Generation of the service table in use.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.counters.generation.get()
    }

    /// What others share with the worker: the snapshots that it takes up, and the queues of commands.
    #[must_use]
    pub fn control(&self) -> (Arc<Published>, Arc<[Exchange]>) {
        (Arc::clone(&self.published), Arc::clone(&self.exchanges))
    }

    /// The service of the connections, `others` more with two servers each, and 100 of mh, which differ by `generation`;
    /// and one that has the servers of `crowd`, with other weights in each generation.
    #[must_use]
    pub fn table(&self, generation: u64, others: u32, crowd: &Rules) -> ServiceTable {
        let mut builder = self.rules.table(generation, SchedulerKind::Rr);
        rules::add_others(&mut builder, generation, others);
        rules::add_large(&mut builder, generation, others, crowd);
        builder.build()
    }

    fn random(&mut self, below: u64) -> u64 {
        // xorshift64: any order will do that no prefetcher foresees.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }
}

/// New connections at a steady number of connections: the oldest expire while new ones come.
///
/// Time goes in steps, [`STEPS`] of them in the lifetime of a connection. Within a step connections are only made; what
/// has expired by its end is removed before the next one.
pub struct Churn {
    pipeline: Pipeline,
    /// Bursts of a step, and those that are left of the present one
    bursts: u32,
    left: u32,
}

impl Churn {
    /// A worker with at least so many connections.
    ///
    /// # Panics
    /// When they cannot all be made.
    #[must_use]
    pub fn new(method: Method, connections: u32) -> Self {
        let bursts = connections.div_ceil(STEPS as u32 * BURST as u32);
        // One step more: the oldest end after the new ones have begun.
        let capacity = (STEPS as usize + 2) * bursts as usize * BURST;
        let mut pipeline = Pipeline::empty(method, capacity);
        pipeline.discard_sent();
        let mut churn = Churn { pipeline, bursts, left: bursts };
        for _ in 0..=STEPS {
            for _ in 0..bursts {
                churn.arrive();
                churn.pipeline.forward();
            }
        }
        assert!(churn.pipeline.connections() >= connections as usize, "enough connections");
        churn
    }

    /// Lets the first packets of a burst of new connections arrive, after time has passed if it is time.
    ///
    /// # Panics
    /// When what expired is still there.
    pub fn arrive(&mut self) {
        if self.left == 0 {
            self.left = self.bursts;
            self.step();
        }
        self.left -= 1;
        self.pipeline.arrive_new(BURST as u32);
    }

    fn step(&mut self) {
        let most = STEPS as usize * self.bursts as usize * BURST;
        self.pipeline.now += UDP_TIMEOUT * SECOND / STEPS;
        // A timer is handled at most three times before it goes off, each time one of at least a burst's worth.
        for _ in 0..=3 * (most + self.bursts as usize * BURST) / BURST {
            self.pipeline.worker.poll(self.pipeline.now);
        }
        assert!(self.pipeline.connections() <= most, "the oldest connections expired");
    }

    /// Makes the connections. Returns how many packets were handled.
    pub fn forward(&mut self) -> usize {
        self.pipeline.forward()
    }

    /// The pipeline.
    #[must_use]
    pub fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }
}

fn next_hops(count: u32) -> sluice_dataplane::neigh::NextHops {
    let mut hops = NextHopsBuilder::new(1);
    let clients = hops.egress(Egress::new(CLIENT_SIDE as u8, [2, 0, 0, 0, 1, 254]));
    let side = hops.egress(Egress::new(SERVER_SIDE as u8, [2, 0, 0, 0, 2, 254]));
    hops.neighbour(clients, Address::from_v4(ROUTER), Some([2, 0, 0, 0, 1, 253]));
    for server in 0..count {
        let address = rules::server_address(server);
        let [_, _, net, host] = address;
        hops.neighbour(side, Address::from_v4(address), Some([2, 0, 0, 0, net, host]));
    }
    let prefix = |text: &str| text.parse::<Prefix>().expect("a valid prefix");
    hops.connected(prefix("10.0.1.0/24"), clients);
    hops.connected(prefix("10.0.0.0/16"), side);
    hops.via(Prefix::V4_DEFAULT, clients, Address::from_v4(ROUTER));
    hops.build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_packet_of_every_method_is_forwarded() {
        for method in [Method::Nat, Method::FullNat, Method::DirectRoute, Method::Tunnel] {
            let mut pipeline = Pipeline::new(method, 500);
            let before = pipeline.sent();
            for _ in 0..50 {
                pipeline.arrive();
                assert_eq!(pipeline.forward(), BURST, "{method:?}");
            }
            assert_eq!(pipeline.sent() - before, 50 * BURST as u64, "{method:?}");
            assert_eq!(pipeline.connections(), 500, "no packet began a connection: {method:?}");
        }
    }

    #[test]
    fn connections_stay_about_as_many() {
        let mut churn = Churn::new(Method::FullNat, 20_000);
        for _ in 0..1000 {
            let before = (churn.pipeline().connections(), churn.pipeline().sent());
            churn.arrive();
            let present = churn.pipeline().connections();
            assert!((20_000..=before.0).contains(&present), "{before:?} then {present}");
            churn.forward();
            assert_eq!(churn.pipeline().connections(), present + BURST);
            assert_eq!(churn.pipeline().sent(), before.1 + BURST as u64);
        }
    }

    #[test]
    fn services_are_swapped() {
        let mut pipeline = Pipeline::new(Method::FullNat, 10);
        let (published, _) = pipeline.control();
        let crowd = Rules::new(Method::FullNat, 1000);
        for generation in [2, 3] {
            published.services.store(Arc::new(pipeline.table(generation, 100, &crowd)));
            // The new table is taken up in portions, between bursts.
            let is_taken_up = (0..200).any(|_| {
                pipeline.arrive();
                assert_eq!((pipeline.forward(), pipeline.connections()), (BURST, 10));
                pipeline.generation() == generation
            });
            assert!(is_taken_up, "{generation}");
        }
    }
}
