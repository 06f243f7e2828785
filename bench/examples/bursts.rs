//! Bursts through a worker in memory, again and again: for a profiler, or a counter of instructions, as told in
//! `bench/README.md`. The arguments are `nat`, `fullnat`, `dr`, `tun`, `insert-fullnat` or `insert-dr`, the number of
//! connections, and the number of bursts. Nanoseconds a packet are printed, of the median burst and of the quickest.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use sluice_bench::pipeline::{Churn, Pipeline};
use sluice_dataplane::port::BURST;
use sluice_dataplane::service::Method;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [what, connections, bursts] = arguments.as_slice() else {
        bail!("say what, the number of connections, and the number of bursts")
    };
    let connections = connections.parse().context("the number of connections")?;
    let bursts: usize = bursts.parse().context("the number of bursts")?;
    let (what, inserting) = match what.strip_prefix("insert-") {
        Some(method) => (method, true),
        None => (what.as_str(), false),
    };
    let method = match what {
        "nat" => Method::Nat,
        "fullnat" => Method::FullNat,
        "dr" => Method::DirectRoute,
        "tun" => Method::Tunnel,
        other => bail!("{other} is no method"),
    };
    let mut times = Vec::with_capacity(bursts);
    let mut time = |forward: &mut dyn FnMut() -> usize| {
        let begun = Instant::now();
        let handled = forward();
        times.push(begun.elapsed().as_nanos() as u64);
        assert_eq!(handled, BURST, "a whole burst");
    };
    if inserting {
        let mut churn = Churn::new(method, connections);
        for _ in 0..bursts {
            churn.arrive();
            time(&mut || churn.forward());
        }
    } else {
        let mut pipeline = Pipeline::new(method, connections);
        for _ in 0..bursts {
            pipeline.arrive();
            time(&mut || pipeline.forward());
        }
    }
    times.sort_unstable();
    let of_packet = |time: u64| time as f64 / BURST as f64;
    let median = times.get(times.len() / 2).copied().unwrap_or(0);
    let quickest = times.first().copied().unwrap_or(0);
    println!("{:.1} ns, at best {:.1}", of_packet(median), of_packet(quickest));
    Ok(())
}
