//! What a packet costs between the rings: `Worker::poll` on a port in memory, with more and more flows.

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use etherparse::PacketBuilder;
use sluice_dataplane::neigh::{Egress, NextHopsBuilder};
use sluice_dataplane::port::BURST;
use sluice_dataplane::port::memory::MemoryPort;
use sluice_dataplane::service::{
    Method, Protocol, RealServer, SchedulerKind, ServerId, ServiceId, ServiceKey, ServiceTableBuilder,
    VirtualService,
};
use sluice_dataplane::stats::{ServerCounters, TrafficCounters, WorkerCounters};
use sluice_dataplane::wire::Address;
use sluice_dataplane::worker::{Exchange, Published, Settings, Worker};

const VIP: [u8; 4] = [192, 0, 2, 10];
const SERVER: [u8; 4] = [10, 0, 2, 1];
const ROUTER: [u8; 4] = [203, 0, 113, 254];
const OUTSIDE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
const INSIDE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xb];
const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xc];
const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
const PORT: u16 = 53;
const CONNECTIONS: usize = 1_100_000;
/// Enough local addresses for a million connections to one server.
const LOCAL_ADDRESSES: u8 = 24;

/// A worker with one UDP service, one server and all next hops known.
fn worker(method: Method) -> Worker<MemoryPort> {
    let published = Arc::new(Published::default());
    let service_key = ServiceKey { protocol: Protocol::Udp, address: Address::from_v4(VIP), port: PORT };
    let counters = Arc::new(TrafficCounters::new(1));
    let mut table = ServiceTableBuilder::new(1);
    table.service(
        ServiceId(0),
        VirtualService {
            key: service_key,
            scheduler: SchedulerKind::Rr,
            servers: vec![ServerId(0)],
            local_addresses: (0..LOCAL_ADDRESSES).map(|i| Address::from_v4([10, 0, 2, 200 + i])).collect(),
            counters: Arc::clone(&counters),
        },
    );
    table.server(
        ServerId(0),
        RealServer {
            service: ServiceId(0),
            service_key,
            address: Address::from_v4(SERVER),
            port: PORT,
            method,
            weight: 1,
            available: true,
            counters: Arc::new(ServerCounters::new(1)),
            service_counters: counters,
        },
    );
    published.services.store(Arc::new(table.build()));

    let mut hops = NextHopsBuilder::new(1);
    let outside = hops.egress(Egress::new(0, OUTSIDE_MAC));
    let source = Some(Address::from_v4([10, 0, 2, 254]));
    let inside = hops.egress(Egress { source, ..Egress::new(1, INSIDE_MAC) });
    hops.neighbour(outside, Address::from_v4(ROUTER), Some(ROUTER_MAC));
    hops.neighbour(inside, Address::from_v4(SERVER), Some(SERVER_MAC));
    hops.connected("10.0.2.0/24".parse().expect("a prefix"), inside);
    hops.via("0.0.0.0/0".parse().expect("a prefix"), outside, Address::from_v4(ROUTER));
    hops.local("192.0.2.10/32".parse().expect("a prefix"));
    published.hops.store(Arc::new(hops.build()));

    let mut port = MemoryPort::new(2, 4 * BURST);
    port.discard_sent();
    let settings = Settings { worker: 0, workers: 1, connections: CONNECTIONS, seed: [7; 16] };
    Worker::new(
        settings,
        port,
        published,
        Arc::new([Exchange::default()]),
        Arc::new(WorkerCounters::default()),
        0,
    )
}

/// The datagram of a flow, 60 bytes as on the wire.
fn datagram(flow: u32) -> Vec<u8> {
    let client = Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 1).to_bits() + flow / 50_000);
    let mut frame = Vec::with_capacity(60);
    PacketBuilder::ethernet2(ROUTER_MAC, OUTSIDE_MAC)
        .ipv4(client.octets(), VIP, 64)
        .udp(10_000 + (flow % 50_000) as u16, PORT)
        .write(&mut frame, &[0x5a; 18])
        .expect("a vector takes everything");
    frame
}

/// Time that `packets` packets take, of all flows in turn. Making them does not count.
fn forward(worker: &mut Worker<MemoryPort>, frames: &[Vec<u8>], next: &mut usize, packets: u64) -> Duration {
    let mut spent = Duration::ZERO;
    let mut left = packets as usize;
    while left > 0 {
        let burst = left.min(BURST);
        for _ in 0..burst {
            assert!(worker.port_mut().inject(0, &frames[*next]), "frames come back after each burst");
            *next = (*next + 1) % frames.len();
        }
        let started = Instant::now();
        black_box(worker.poll(1));
        spent += started.elapsed();
        left -= burst;
    }
    spent
}

fn established(criterion: &mut Criterion) {
    for (name, method) in [
        ("nat", Method::Nat),
        ("fullnat", Method::FullNat),
        ("dr", Method::DirectRoute),
        ("tun", Method::Tunnel),
    ] {
        let mut group = criterion.benchmark_group(format!("established/{name}"));
        group.throughput(Throughput::Elements(1));
        for flows in [1, 1_000, 100_000, 1_000_000] {
            let frames: Vec<_> = (0..flows).map(datagram).collect();
            let mut worker = worker(method);
            let mut next = 0;
            forward(&mut worker, &frames, &mut next, u64::from(flows));
            assert_eq!((worker.connections(), worker.port().sent()), (flows as usize, u64::from(flows)));
            group.bench_with_input(BenchmarkId::from_parameter(flows), &flows, |bencher, _| {
                bencher.iter_custom(|packets| forward(&mut worker, &frames, &mut next, packets));
            });
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = established
}
criterion_main!(benches);
