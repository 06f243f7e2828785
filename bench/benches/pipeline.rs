//! One burst of 64 packets through a worker on a port in memory: what the director adds to what the kernel takes.
//!
//! `pipeline/METHOD/CONNECTIONS`: packets of established connections in random order, both directions mixed where
//! replies come back. `insert/METHOD/CONNECTIONS`: 64 first packets of new connections, with so many there already.
#![allow(missing_docs, reason = "criterion's macros make an undocumented main")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sluice_bench::pipeline::{Churn, Pipeline};
use sluice_dataplane::port::BURST;
use sluice_dataplane::service::Method;

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
        for flows in [1_000, 100_000, 1_000_000, 10_000_000] {
            // Made by the first round, so that what is filtered out costs nothing, and gone before the next one.
            let mut pipeline = None;
            group.bench_function(BenchmarkId::new(name, flows), |bencher| {
                let pipeline = pipeline.get_or_insert_with(|| Pipeline::new(method, flows));
                // Only forwarding is timed, not making the packets.
                bencher.iter_custom(|rounds| {
                    let mut total = Duration::ZERO;
                    for _ in 0..rounds {
                        pipeline.arrive();
                        let begun = Instant::now();
                        black_box(pipeline.forward());
                        total += begun.elapsed();
                    }
                    total
                });
                assert_eq!(pipeline.connections(), flows as usize, "no packet began a connection");
            });
        }
    }
    group.finish();
}

fn insert(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("insert");
    group.throughput(Throughput::Elements(BURST as u64));
    for (name, method) in [("fullnat", Method::FullNat), ("dr", Method::DirectRoute)] {
        let connections = 1_000_000;
        let mut churn = None;
        group.bench_function(BenchmarkId::new(name, connections), |bencher| {
            let churn = churn.get_or_insert_with(|| Churn::new(method, connections));
            bencher.iter_custom(|rounds| {
                let mut total = Duration::ZERO;
                for _ in 0..rounds {
                    churn.arrive();
                    let present = churn.pipeline().connections();
                    let begun = Instant::now();
                    black_box(churn.forward());
                    total += begun.elapsed();
                    assert_eq!(churn.pipeline().connections(), present + BURST, "all are new");
                }
                total
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(50).measurement_time(Duration::from_secs(3))
        .warm_up_time(Duration::from_secs(1));
    targets = pipeline, insert
}
criterion_main!(benches);
