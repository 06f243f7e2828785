//! The parts of the packet path by themselves: schedulers, checksums, Toeplitz, the timing wheel, the connection table.
#![allow(missing_docs, reason = "criterion's macros make an undocumented main")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sluice_bench::pipeline::rules::{Rules, SERVICE_PORT, VIP, server_address};
use sluice_dataplane::conn::timer::Wheel;
use sluice_dataplane::conn::{Entry, Lookup, Seed, Table, Tuple};
use sluice_dataplane::forward::Plan;
use sluice_dataplane::port::BURST;
use sluice_dataplane::rss::{MIN_KEY, Toeplitz};
use sluice_dataplane::sched::{Arrival, Scheduler};
use sluice_dataplane::service::{Method, Protocol, SchedulerKind, ServerId, ServiceId};
use sluice_dataplane::wire::{Address, checksum};

/// A sequence that no predictor foresees (xorshift64).
struct Random(u64);

impl Random {
    fn new() -> Self {
        Random(0x9e37_79b9_7f4a_7c15)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u32) -> u32 {
        (self.next() % u64::from(end)) as u32
    }
}

/// `schedule/NAME/SERVERS`: the choice of a server for a new connection, which it then has.
fn schedule(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("schedule");
    for kind in SchedulerKind::ALL {
        for servers in [10, 1_000] {
            group.bench_function(BenchmarkId::new(kind.name(), servers), |bencher| {
                let table = Rules::new(Method::FullNat, servers).table(1, kind).build();
                let service = table.service(ServiceId(0)).expect("it was put there");
                let mut scheduler = Scheduler::new(service, &table, 0);
                let mut random = Random::new();
                bencher.iter(|| {
                    let random = random.next();
                    let arrival = Arrival {
                        source: Address::from_v4((random as u32).to_be_bytes()),
                        source_port: (random >> 32) as u16,
                        destination: Address::from_v4(VIP),
                        now: 0,
                    };
                    let chosen = scheduler.schedule(service, &table, &arrival);
                    // Those of least connections go by it.
                    if let Some(server) = chosen.and_then(|id| table.server(id)) {
                        server.counters.share(0).active.add(1);
                    }
                    chosen
                });
            });
        }
    }
    group.finish();
}

fn checksums(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checksum");
    let before = [10, 0, 0, 1, 192, 0, 2, 1];
    let after = [10, 0, 2, 200, 10, 0, 2, 1];
    group.bench_function("delta", |bencher| {
        bencher.iter(|| checksum::Delta::of_bytes(black_box(&before), &after));
    });
    let delta = checksum::Delta::of_bytes(&before, &after);
    group.bench_function("apply", |bencher| bencher.iter(|| black_box(delta).apply(black_box(0x1234))));
    for length in [64, 1480] {
        let packet = vec![0x5a; length];
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function(BenchmarkId::new("sum", length), |bencher| {
            bencher.iter(|| checksum::sum(0, black_box(&packet)));
        });
    }
    group.finish();
}

/// The timing wheel with so many timers. `advance` is one tick, at which 64 of them go off; each is set again for when
/// its turn comes, so that all the ways of a timer through the wheel are in the mean.
fn wheel(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wheel");
    for timers in [1_000, 1_000_000] {
        let timeout = timers / BURST as u32;
        let full = || {
            let (mut wheel, mut random) = (Wheel::new(timers as usize, 0), Random::new());
            let mut ids: Vec<u32> = (0..timers).collect();
            (1..timers).rev().for_each(|last| ids.swap(last as usize, random.below(last + 1) as usize));
            for (place, id) in ids.into_iter().enumerate() {
                wheel.schedule(id, 1 + place as u32 / BURST as u32);
            }
            (wheel, random)
        };
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("touch", timers), |bencher| {
            let (mut wheel, mut random) = full();
            bencher.iter(|| wheel.touch(random.below(timers), 2 * timeout));
        });
        group.bench_function(BenchmarkId::new("schedule", timers), |bencher| {
            let (mut wheel, mut random) = full();
            bencher.iter(|| {
                let id = random.below(timers);
                wheel.cancel(id);
                wheel.schedule(id, timeout);
            });
        });
        group.throughput(Throughput::Elements(BURST as u64));
        let (mut made, mut now) = (None, 0);
        group.bench_function(BenchmarkId::new("advance", timers), |bencher| {
            let (wheel, _) = made.get_or_insert_with(full);
            let mut gone = Vec::with_capacity(2 * BURST);
            bencher.iter_custom(|rounds| {
                let mut total = Duration::ZERO;
                for _ in 0..rounds {
                    now += 1;
                    let begun = Instant::now();
                    wheel.advance(now, usize::MAX, |id| gone.push(id));
                    total += begun.elapsed();
                    gone.drain(..).for_each(|id| wheel.schedule(id, now + timeout + 1));
                }
                total
            });
        });
    }
    group.finish();
}

/// A FULLNAT connection, by its number.
fn entry(number: u32) -> Entry {
    const PORTS: u32 = 50_000;
    let (address, port) = (number / PORTS, (10_000 + number % PORTS) as u16);
    let [_, a, b, c] = address.to_be_bytes();
    let client = Tuple {
        source: Address::from_v4([172, 16 + a, b, c]),
        destination: Address::from_v4(VIP),
        source_port: port,
        destination_port: SERVICE_PORT,
        protocol: Protocol::Udp,
    };
    let server = (Address::from_v4(server_address(0)), SERVICE_PORT);
    let local = (Address::from_v4([100, 64 + a, b, c]), port);
    let plan = Plan::new(Method::FullNat, client, server, local);
    Entry::new(client, plan.server, plan.deltas(), ServerId(0), Method::FullNat)
}

/// Looking up the connections of 64 packets, one by one and as a worker does it.
fn table(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("table");
    group.throughput(Throughput::Elements(BURST as u64));
    for connections in [1_000, 100_000, 1_000_000] {
        let mut made: Option<Table> = None;
        let make = || {
            let mut table = Table::new(connections as usize, Seed::new([7; 16]), 0);
            for number in 0..connections {
                table.insert(entry(number)).expect("there is room");
            }
            assert_eq!(table.len(), connections as usize, "all are in");
            table
        };
        let mut random = Random::new();
        let mut tuples = || {
            [(); BURST].map(|()| {
                let entry = entry(random.below(connections));
                if random.next() & 1 == 0 { entry.client } else { entry.server }
            })
        };
        for (name, prefetching) in [("find", false), ("find-burst", true)] {
            group.bench_function(BenchmarkId::new(name, connections), |bencher| {
                let table = made.get_or_insert_with(make);
                bencher.iter_custom(|rounds| {
                    let mut total = Duration::ZERO;
                    for _ in 0..rounds {
                        let tuples = tuples();
                        let begun = Instant::now();
                        if prefetching {
                            let mut lookups = [Lookup::NONE; BURST];
                            for (lookup, tuple) in lookups.iter_mut().zip(&tuples) {
                                *lookup = table.begin(tuple);
                            }
                            for (lookup, tuple) in lookups.iter_mut().zip(&tuples) {
                                table.likely(tuple, lookup);
                            }
                            for (lookup, tuple) in lookups.iter_mut().zip(&tuples) {
                                table.go_on(tuple, lookup);
                            }
                            for (tuple, lookup) in tuples.iter().zip(&lookups) {
                                let found = table.find_likely(tuple, lookup);
                                assert!(black_box(found).is_some(), "it was entered");
                            }
                        } else {
                            let hashes = tuples.map(|tuple| table.hash(&tuple));
                            for (tuple, hash) in tuples.iter().zip(hashes) {
                                assert!(black_box(table.find(tuple, hash)).is_some(), "it was entered");
                            }
                        }
                        total += begun.elapsed();
                    }
                    total
                });
            });
        }
    }
    group.finish();
}

/// `toeplitz/BYTES`: the hash by which a NIC chooses a queue, of the addresses and ports of IPv4 and of IPv6.
fn toeplitz(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("toeplitz");
    let key: [u8; MIN_KEY] = std::array::from_fn(|i| (i as u8).wrapping_mul(0x6d) ^ 0x5a);
    let toeplitz = Toeplitz::new(&key).expect("the key is long enough");
    for length in [12, 36] {
        let input = vec![0xa5; length];
        group.bench_function(length.to_string(), |bencher| bencher.iter(|| toeplitz.hash(black_box(&input))));
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30).measurement_time(Duration::from_millis(500))
        .warm_up_time(Duration::from_millis(200));
    targets = schedule, checksums, toeplitz, wheel, table
}
criterion_main!(benches);
