//! A worker on a port in memory with any number of established connections,
//! for benchmarks: what one burst costs, without the kernel.

use std::net::IpAddr;
use std::sync::Arc;

use sluice_dataplane::neigh::{Egress, NextHopsBuilder, Prefix};
use sluice_dataplane::port::memory::MemoryPort;
use sluice_dataplane::port::{BURST, Port};
use sluice_dataplane::service::{
    Encapsulation, Method, Protocol, RealServer, SchedulerFlags, SchedulerKind, ServerId, ServiceId,
    ServiceKey, ServiceOptions, ServiceTableBuilder, Thresholds, VirtualService,
};
use sluice_dataplane::stats::{ServerCounters, TrafficCounters, WorkerCounters};
use sluice_dataplane::wire::{Address, checksum, ethernet, ipv4, udp};
use sluice_dataplane::worker::{Exchange, Published, Settings, Worker};
use zerocopy::IntoBytes;

const CLIENT_SIDE: u8 = 0;
const SERVER_SIDE: u8 = 1;
const ROUTER: [u8; 4] = [10, 0, 1, 253];
const VIP: [u8; 4] = [192, 0, 2, 10];
const SERVER: [u8; 4] = [10, 0, 2, 1];
const SERVICE_PORT: u16 = 53;
/// Client ports for each client address.
const PORTS: u32 = 50_000;

/// A worker with connections of one forwarding method.
pub struct Pipeline {
    worker: Worker<MemoryPort>,
    /// Frames of clients, and of servers where the method has replies
    frames: Vec<(usize, Vec<u8>)>,
    now: u64,
    random: u64,
}

impl Pipeline {
    /// Opens `flows` UDP connections through a service with one server.
    ///
    /// # Panics
    /// When the worker does not forward all of them.
    pub fn new(method: Method, flows: u32) -> Self {
        let mut pipeline = Pipeline::empty(method, flows as usize + BURST);
        for flow in 0..flows {
            let frame = client_frame(flow);
            let reply = pipeline.open(&frame, method);
            pipeline.frames.push((CLIENT_SIDE.into(), frame));
            pipeline.frames.extend(reply.map(|reply| (SERVER_SIDE.into(), reply)));
        }
        assert_eq!(pipeline.worker.connections(), flows as usize);
        pipeline.worker.port_mut().discard_sent();
        pipeline
    }

    /// A worker without connections, with room for so many.
    pub fn empty(method: Method, connections: usize) -> Self {
        let published = Arc::new(Published::default());
        published.services.store(Arc::new(services(method)));
        let mut hops = NextHopsBuilder::new(1);
        let clients = hops.egress(Egress::new(CLIENT_SIDE, [2, 0, 0, 0, 1, 254]));
        let servers = hops.egress(Egress::new(SERVER_SIDE, [2, 0, 0, 0, 2, 254]));
        hops.neighbour(clients, Address::from_v4(ROUTER), Some([2, 0, 0, 0, 1, 253]));
        hops.neighbour(servers, Address::from_v4(SERVER), Some([2, 0, 0, 0, 2, 1]));
        hops.connected(prefix([10, 0, 1, 0], 24), clients);
        hops.connected(prefix([10, 0, 2, 0], 24), servers);
        hops.via(Prefix::V4_DEFAULT, clients, Address::from_v4(ROUTER));
        published.hops.store(Arc::new(hops.build()));
        let settings = Settings { worker: 0, workers: 1, connections, seed: [7; 16] };
        let worker = Worker::new(
            settings,
            MemoryPort::new(2, 16 * BURST),
            published,
            Arc::new([Exchange::default()]),
            Arc::new(WorkerCounters::default()),
            0,
        );
        Pipeline { worker, frames: Vec::new(), now: 0, random: 0x9e37_79b9_7f4a_7c15 }
    }

    /// Sends a connection's first packet through; returns a server's answer to
    /// it where the method has replies.
    fn open(&mut self, frame: &[u8], method: Method) -> Option<Vec<u8>> {
        assert!(self.worker.port_mut().inject(CLIENT_SIDE.into(), frame));
        self.worker.poll(self.now);
        let sent = self.worker.port_mut().take_sent(SERVER_SIDE.into()).expect("the packet was forwarded");
        method.has_replies().then(|| answer_to(&sent))
    }

    /// Lets a burst of packets of random connections arrive.
    pub fn arrive(&mut self) {
        for _ in 0..BURST {
            // xorshift64: any order will do that no prefetcher foresees.
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            let (interface, frame) = &self.frames[(self.random % self.frames.len() as u64) as usize];
            assert!(self.worker.port_mut().inject(*interface, frame));
        }
    }

    /// Forwards what arrived, in as many bursts as it takes.
    pub fn forward(&mut self) -> u64 {
        self.now += 10_000;
        self.worker.poll(self.now);
        self.worker.port().sent()
    }

    /// Interfaces of the port, for callers that count them.
    pub fn interfaces(&self) -> usize {
        self.worker.port().interfaces()
    }
}

fn services(method: Method) -> sluice_dataplane::service::ServiceTable {
    let key =
        ServiceKey::Address { protocol: Protocol::Udp, address: Address::from_v4(VIP), port: SERVICE_PORT };
    let counters = Arc::new(TrafficCounters::new(1));
    let mut services = ServiceTableBuilder::new(1);
    services.service(
        ServiceId(0),
        VirtualService {
            key,
            scheduler: SchedulerKind::Rr,
            scheduler_flags: SchedulerFlags::default(),
            servers: vec![ServerId(0)],
            // 60 000 connections for each LIP and server.
            local_addresses: (0..200).map(|i| Address::from_v4([10, 0, 2, 50 + i])).collect(),
            options: ServiceOptions::default(),
            counters: Arc::clone(&counters),
        },
    );
    services.server(
        ServerId(0),
        RealServer {
            service: ServiceId(0),
            service_key: key,
            address: Address::from_v4(SERVER),
            port: SERVICE_PORT,
            method,
            encapsulation: Encapsulation::Ipip,
            weight: 1,
            last_weight: 1,
            thresholds: Thresholds::default(),
            edits: 0,
            timeouts: None,
            available: true,
            counters: Arc::new(ServerCounters::new(1)),
            service_counters: counters,
        },
    );
    services.build()
}

fn prefix(address: [u8; 4], length: u8) -> Prefix {
    Prefix::new(IpAddr::from(address).into(), length).expect("a valid prefix")
}

fn client_frame(flow: u32) -> Vec<u8> {
    let [_, a, b, c] = (flow / PORTS).to_be_bytes();
    let source = ([172, 16 + a, b, c], (flow % PORTS + 10_000) as u16);
    frame([2, 0, 0, 0, 1, 254], source, (VIP, SERVICE_PORT))
}

/// What the server would answer to a forwarded frame.
fn answer_to(sent: &[u8]) -> Vec<u8> {
    let ip = &sent[ethernet::LEN..];
    let address = |at: usize| [ip[at], ip[at + 1], ip[at + 2], ip[at + 3]];
    let port = |at: usize| u16::from_be_bytes([ip[ipv4::LEN + at], ip[ipv4::LEN + at + 1]]);
    frame([2, 0, 0, 0, 2, 254], (address(16), port(2)), (address(12), port(0)))
}

/// A UDP packet of 60 bytes with right checksums.
fn frame(mac: [u8; 6], source: ([u8; 4], u16), destination: ([u8; 4], u16)) -> Vec<u8> {
    const DATA: [u8; 18] = [0; 18];
    let length = (udp::LEN + DATA.len()) as u16;
    let link = ethernet::Header { destination: mac, source: [2, 0, 0, 0, 9, 9], kind: ethernet::IPV4.into() };
    let mut ip = ipv4::Header {
        version_ihl: 0x45,
        tos: 0,
        total_length: (ipv4::LEN as u16 + length).into(),
        id: 0.into(),
        flags_offset: ipv4::DONT_FRAGMENT.into(),
        ttl: 64,
        protocol: Protocol::Udp.number(),
        checksum: 0.into(),
        source: source.0,
        destination: destination.0,
    };
    ip.fill_checksum();
    let mut header = udp::Header {
        source: source.1.into(),
        destination: destination.1.into(),
        length: length.into(),
        checksum: 0.into(),
    };
    let pseudo = checksum::pseudo_v4(source.0, destination.0, Protocol::Udp.number(), length);
    header.checksum = (!checksum::sum(pseudo, header.as_bytes())).into();
    [link.as_bytes(), ip.as_bytes(), header.as_bytes(), &DATA].concat()
}
