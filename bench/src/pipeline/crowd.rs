//! A service with very many servers: how long a worker does not look at its port while it takes up changes of it, and
//! while many connections begin.
//!
//! All is done in one thread, poll by poll the same in every round, so that the time of a poll can be that of the
//! round in which it was the shortest: what interrupts take is not in it.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use sluice_dataplane::port::BURST;
use sluice_dataplane::service::{
    Method, SchedulerKind, ServerId, ServiceId, ServiceTableBuilder, Thresholds,
};

use super::Pipeline;
use super::rules::{self, Rules};

/// What a worker is busy with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Task {
    /// Taking up a service that was not there
    Added,
    /// Taking up other weights and thresholds of all servers
    Edited,
    /// Taking up that a server is gone
    OneLess,
    /// Taking up other servers in place of all
    Replaced,
    /// Taking up that the service is gone
    Gone,
    /// Nothing but new connections
    Opening,
}

impl Task {
    /// Every task.
    pub const ALL: [Task; 6] =
        [Task::Added, Task::Edited, Task::OneLess, Task::Replaced, Task::Gone, Task::Opening];
}

/// Bursts of new connections, beside those that come while something is taken up.
const BURSTS: usize = 200;
/// Polls after a table was taken up that are counted as its.
const AFTER: usize = 8;
/// What is gone through so that nothing of a table is in a cache.
const CACHES: usize = 64 << 20;

/// The longest poll at each of [`Task::ALL`], in microseconds of the thread's time, of the shortest of so many rounds.
/// In every poll, a burst of connections begins.
#[must_use]
pub fn longest_polls(kind: SchedulerKind, servers: u32, rounds: u32) -> [f32; Task::ALL.len()] {
    let rounds: Vec<_> = (0..rounds).map(|_| round(kind, servers)).collect();
    Task::ALL.map(|task| {
        let polls = (0..rounds[0].len()).filter(|poll| rounds[0][*poll].0 == task);
        let shortest =
            polls.map(|poll| rounds.iter().map(|round| round[poll].1).fold(f32::INFINITY, f32::min));
        shortest.fold(0.0, f32::max)
    })
}

/// How long each poll took.
fn round(kind: SchedulerKind, servers: u32) -> Vec<(Task, f32)> {
    let mut pipeline = Pipeline::of_servers(Method::DirectRoute, servers, 200_000);
    pipeline.discard_sent();
    let (published, _) = pipeline.control();
    let mut caches = vec![1_u8; CACHES];
    let (first, second) = (busy(kind, servers), busy(kind, servers));
    let mut polls = Vec::new();
    pipeline.forward();
    published.services.store(Arc::new(ServiceTableBuilder::new(2).build()));
    let mut generation = 2;
    while pipeline.generation() < generation {
        pipeline.forward();
    }
    let mut rosters = Arc::default();
    for task in [Task::Added, Task::Opening, Task::Edited, Task::OneLess, Task::Replaced, Task::Gone] {
        generation += 1;
        let mut polls_left = AFTER;
        if task == Task::Opening {
            polls_left = BURSTS;
        } else {
            let mut builder = ServiceTableBuilder::new(generation);
            builder.rosters(rosters);
            let rules = if task == Task::Replaced { &second } else { &first };
            if task != Task::Gone {
                put(&mut builder, rules, kind, servers, task);
            }
            let table = builder.build();
            rosters = Arc::clone(table.rosters());
            published.services.store(Arc::new(table));
        }
        caches.iter_mut().step_by(64).for_each(|byte| *byte = byte.wrapping_add(1));
        black_box(&caches);
        while polls_left > 0 {
            // Nobody would have the packets.
            if task != Task::Added || pipeline.generation() == generation {
                pipeline.arrive_new(BURST as u32);
            }
            let before = now();
            pipeline.forward();
            polls.push((task, (now() - before).as_secs_f32() * 1e6));
            if task == Task::Opening || pipeline.generation() == generation {
                polls_left -= 1;
            }
        }
        if task == Task::Opening {
            generation -= 1;
        }
    }
    polls
}

fn now() -> Duration {
    Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("the thread has a clock"))
}

/// Servers with connections, in a way that the scheduler has the most to look at.
fn busy(kind: SchedulerKind, servers: u32) -> Rules {
    let rules = Rules::new(Method::DirectRoute, servers);
    for (number, counters) in (0..).zip(&rules.servers) {
        // One that idles, and takes none as it has as many as it may have.
        let idle = is_idle(number, servers);
        let active = match kind {
            SchedulerKind::Ovf => 0,
            _ if idle => 0,
            _ => u64::from(weight(number, Task::Added)) + 1,
        };
        counters.share(0).active.add(active);
        counters.share(0).inactive.add(u64::from(idle));
    }
    rules
}

fn is_idle(number: u32, servers: u32) -> bool {
    number == servers / 2
}

fn weight(number: u32, task: Task) -> u32 {
    match task {
        // All different, which wrr has the most to do with.
        Task::Edited | Task::OneLess => 1 + number,
        _ => 1 + number % 4,
    }
}

fn put(builder: &mut ServiceTableBuilder, rules: &Rules, kind: SchedulerKind, servers: u32, task: Task) {
    let key = rules::key();
    let first = if task == Task::Replaced { servers } else { 0 };
    let numbers = (0..servers).filter(|number| task != Task::OneLess || *number != servers / 3);
    for number in numbers.clone() {
        let mut server = rules.server(ServiceId(0), key, number, Arc::clone(&rules.servers[number as usize]));
        server.weight = weight(number, task);
        server.last_weight = server.weight;
        // Those that go by nothing else have to pass all but one.
        let passes = matches!(kind, SchedulerKind::Rr | SchedulerKind::Wrr | SchedulerKind::Fo);
        let is_full = is_idle(number, servers) || passes && number + 1 < servers;
        server.thresholds = Thresholds { upper: u32::from(is_full), lower: 0 };
        builder.server(ServerId(first + number), server);
    }
    let ids = numbers.map(|number| ServerId(first + number)).collect();
    builder.service(ServiceId(0), rules.service(key, kind, ids));
}
