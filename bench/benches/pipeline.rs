//! One burst of 64 packets through a worker on a port in memory: what the
//! director adds to what the kernel takes. Flows are visited in random order,
//! both directions mixed where replies come back.
#![allow(missing_docs, reason = "criterion's macros make an undocumented main")]

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sluice_bench::pipeline::Pipeline;
use sluice_dataplane::port::BURST;
use sluice_dataplane::service::Method;
use sluice_dataplane::wire::checksum;

fn pipeline(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pipeline");
    group.throughput(Throughput::Elements(BURST as u64));
    let methods = [
        ("nat", Method::Nat),
        ("fullnat", Method::FullNat),
        ("dr", Method::DirectRoute),
        ("tun", Method::Tunnel),
    ];
    for (name, method) in methods {
        for flows in [1_000, 100_000, 1_000_000] {
            let mut pipeline = Pipeline::new(method, flows);
            group.bench_function(BenchmarkId::new(name, flows), |bencher| {
                // Only forwarding is timed, not making the packets.
                bencher.iter_custom(|rounds| {
                    let mut total = Duration::ZERO;
                    for _ in 0..rounds {
                        pipeline.arrive();
                        let begun = Instant::now();
                        std::hint::black_box(pipeline.forward());
                        total += begun.elapsed();
                    }
                    total
                });
            });
        }
    }
    group.finish();
}

fn parts(criterion: &mut Criterion) {
    let before = [10, 0, 0, 1, 192, 0, 2, 1];
    let after = [10, 0, 2, 200, 10, 0, 2, 1];
    criterion.bench_function("checksum/delta", |bencher| {
        bencher.iter(|| checksum::Delta::of_bytes(std::hint::black_box(&before), &after));
    });
    let packet = [0x5a; 1480];
    criterion.bench_function("checksum/sum/1480", |bencher| {
        bencher.iter(|| checksum::sum(0, std::hint::black_box(&packet)));
    });
}

criterion_group!(benches, pipeline, parts);
criterion_main!(benches);
