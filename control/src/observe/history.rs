//! Rates of the last minutes, in a bounded ring.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_dataplane::service::{ServiceKey, ServiceTable};
use sluice_dataplane::stats::{DropReason, TrafficCounters, WorkerCounters};

/// Points that are kept of each plot: one a sample.
pub const POINTS: usize = 180;

/// Services whose plots are kept; of others there are only the rates of now.
pub const PLOTTED_SERVICES: usize = 2000;

/// What happened in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RatePoint {
    /// Packets from and to clients
    pub packets: f32,
    /// Bits of IP packets from and to clients
    pub bits: f32,
    /// New connections
    pub connections: f32,
    /// Packets that were dropped
    pub drops: f32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    packets: u64,
    bytes: u64,
    connections: u64,
    drops: u64,
}

impl Totals {
    fn since(self, before: Totals) -> Totals {
        let grown = |now: u64, before: u64| now.wrapping_sub(before);
        Totals {
            packets: grown(self.packets, before.packets),
            bytes: grown(self.bytes, before.bytes),
            connections: grown(self.connections, before.connections),
            drops: grown(self.drops, before.drops),
        }
    }

    fn add(&mut self, other: Totals) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.connections += other.connections;
        self.drops += other.drops;
    }

    fn per_second(self, seconds: f64) -> RatePoint {
        let rate = |n: u64| (n as f64 / seconds) as f32;
        RatePoint {
            packets: rate(self.packets),
            bits: rate(self.bytes.saturating_mul(8)),
            connections: rate(self.connections),
            drops: rate(self.drops),
        }
    }
}

/// Plots and rates of everything.
#[derive(Debug, Default)]
pub(super) struct History {
    sampled: Option<Instant>,
    services: HashMap<ServiceKey, ServiceHistory>,
    workers: Vec<WorkerHistory>,
    total: Plot,
    samples: u64,
}

#[derive(Debug, Default)]
struct WorkerHistory {
    /// Dropped for any reason
    drops: u64,
    plot: Plot,
}

#[derive(Debug)]
struct ServiceHistory {
    counters: Arc<TrafficCounters>,
    /// Of each worker
    last: Box<[Totals]>,
    rate: RatePoint,
    plot: Option<Plot>,
    /// Number of the sample that it was seen in
    seen: u64,
}

#[derive(Debug, Default)]
struct Plot(VecDeque<RatePoint>);

impl Plot {
    fn push(&mut self, point: RatePoint) {
        if self.0.len() == POINTS {
            self.0.pop_front();
        }
        self.0.push_back(point);
    }

    fn newest(&self, points: usize) -> Vec<RatePoint> {
        self.0.iter().skip(self.0.len().saturating_sub(points)).copied().collect()
    }

    fn now(&self) -> RatePoint {
        self.0.back().copied().unwrap_or_default()
    }
}

fn totals(counters: &TrafficCounters, worker: usize) -> Totals {
    let share = counters.share(worker);
    Totals {
        packets: share.in_packets.get() + share.out_packets.get(),
        bytes: share.in_bytes.get() + share.out_bytes.get(),
        connections: share.connections.get(),
        drops: share.dropped.get(),
    }
}

impl History {
    pub(super) fn new(workers: usize) -> Self {
        History { workers: (0..workers).map(|_| WorkerHistory::default()).collect(), ..History::default() }
    }

    /// Takes a sample. The first one has no rates.
    pub(super) fn sample(&mut self, table: &ServiceTable, counters: &[Arc<WorkerCounters>], now: Instant) {
        let seconds = self.sampled.map(|last| now.duration_since(last).as_secs_f64());
        // Two in one go would make rates out of rounding.
        if seconds.is_some_and(|seconds| seconds < 0.01) {
            return;
        }
        self.sampled = Some(now);
        self.samples += 1;
        let mut by_worker = vec![Totals::default(); self.workers.len()];
        let mut plotted = self.services.values().filter(|service| service.plot.is_some()).count();
        for (_, service) in table.services() {
            let known = self.services.get_mut(&service.key);
            let known = match known.filter(|known| Arc::ptr_eq(&known.counters, &service.counters)) {
                Some(known) => known,
                None => {
                    let begun = ServiceHistory {
                        counters: Arc::clone(&service.counters),
                        // Before the first sample there may have been hours of traffic.
                        last: (0..by_worker.len())
                            .map(|w| {
                                if seconds.is_some() {
                                    Totals::default()
                                } else {
                                    totals(&service.counters, w)
                                }
                            })
                            .collect(),
                        rate: RatePoint::default(),
                        plot: None,
                        seen: self.samples,
                    };
                    let replaced = self.services.insert(service.key, begun);
                    plotted -= usize::from(replaced.is_some_and(|replaced| replaced.plot.is_some()));
                    let Some(begun) = self.services.get_mut(&service.key) else { continue };
                    if plotted < PLOTTED_SERVICES {
                        begun.plot = Some(Plot::default());
                        plotted += 1;
                    }
                    begun
                }
            };
            known.seen = self.samples;
            let mut grown = Totals::default();
            for (worker, last) in known.last.iter_mut().enumerate() {
                let now = totals(&known.counters, worker);
                let since = now.since(std::mem::replace(last, now));
                by_worker[worker].add(since);
                grown.add(since);
            }
            if let Some(seconds) = seconds {
                known.rate = grown.per_second(seconds);
                if let Some(plot) = &mut known.plot {
                    plot.push(known.rate);
                }
            }
        }
        let samples = self.samples;
        self.services.retain(|_, service| service.seen == samples);
        let mut total = Totals::default();
        for ((worker, mut grown), counters) in self.workers.iter_mut().zip(by_worker).zip(counters) {
            // Of a worker, also what no service is to blame for.
            let drops = DropReason::ALL.iter().map(|reason| counters.dropped(*reason)).sum();
            grown.drops = drops - std::mem::replace(&mut worker.drops, drops);
            total.add(grown);
            if let Some(seconds) = seconds {
                worker.plot.push(grown.per_second(seconds));
            }
        }
        if let Some(seconds) = seconds {
            self.total.push(total.per_second(seconds));
        }
    }

    pub(super) fn total(&self) -> RatePoint {
        self.total.now()
    }

    pub(super) fn total_plot(&self, points: usize) -> Vec<RatePoint> {
        self.total.newest(points)
    }

    pub(super) fn worker(&self, worker: usize) -> RatePoint {
        self.workers.get(worker).map(|worker| worker.plot.now()).unwrap_or_default()
    }

    pub(super) fn worker_plot(&self, worker: usize, points: usize) -> Vec<RatePoint> {
        self.workers.get(worker).map(|worker| worker.plot.newest(points)).unwrap_or_default()
    }

    pub(super) fn service(&self, key: &ServiceKey) -> RatePoint {
        self.services.get(key).map(|service| service.rate).unwrap_or_default()
    }

    pub(super) fn service_plot(&self, key: &ServiceKey, points: usize) -> Vec<RatePoint> {
        let plot = self.services.get(key).and_then(|service| service.plot.as_ref());
        plot.map(|plot| plot.newest(points)).unwrap_or_default()
    }
}
