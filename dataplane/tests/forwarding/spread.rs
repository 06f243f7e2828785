//! Several workers: each goes on in the scheduler's order by itself, and the
//! connections are spread by the weights all the same.

use sluice_dataplane::service::{Method, Protocol, SchedulerKind, ServerId, ServiceId};

use crate::director::packets::{SYN, tcp};
use crate::director::{Director, VIP};

const WORKERS: usize = 4;
const CONNECTIONS: u32 = 10_000;
const LEAST_CONNECTIONS: [SchedulerKind; 4] =
    [SchedulerKind::Lc, SchedulerKind::Wlc, SchedulerKind::Sed, SchedulerKind::Nq];

fn director(scheduler: SchedulerKind, weights: &[u32]) -> Director {
    let mut director = Director::with(WORKERS, CONNECTIONS as usize);
    let id = director.add_service(Protocol::Tcp, VIP);
    director.service(id).scheduler = scheduler;
    for (last, weight) in (1..).zip(weights) {
        director.add_server(id, &format!("10.0.2.{last}:80"), Method::Nat, *weight);
    }
    director.publish();
    director
}

/// Opens connections, one for each number, at a worker; how many servers 1, 2
/// and 3 got.
fn open(director: &mut Director, worker: usize, numbers: impl Iterator<Item = u32>) -> [u32; 3] {
    let syn = |number: u32| {
        let client = format!("198.51.{}.{}:{}", number >> 14 & 0xff, number & 0xff, 1024 + (number >> 8));
        tcp(&client, VIP, SYN).bytes()
    };
    let frames: Vec<_> = numbers.map(syn).collect();
    let frames: Vec<_> = frames.iter().map(Vec::as_slice).collect();
    let outcome = director.arrive_at(worker, 0, &frames);
    assert_eq!(outcome.sent.len(), frames.len(), "{:?}", outcome.dropped);
    outcome.sent.iter().fold([0; 3], |mut counts, (_, frame)| {
        counts[usize::from(frame[5]) - 1] += 1;
        counts
    })
}

/// Bursts of different lengths come by the workers in no order.
#[test]
fn ten_thousand_connections_are_within_two_percent_of_the_weights() {
    let kinds = [SchedulerKind::Rr, SchedulerKind::Wrr].into_iter().chain(LEAST_CONNECTIONS);
    for (kind, weights) in kinds.flat_map(|kind| [[1, 1, 1], [1, 2, 3], [5, 50, 45]].map(|w| (kind, w))) {
        let mut director = director(kind, &weights);
        let mut random: u64 = 0x5eed;
        let (mut next, mut counts) = (0, [0; 3]);
        while next < CONNECTIONS {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let worker = (random >> 33) as usize % WORKERS;
            let end = CONNECTIONS.min(next + 1 + (random >> 40) as u32 % 40);
            let more = open(&mut director, worker, next..end);
            counts = std::array::from_fn(|i| counts[i] + more[i]);
            next = end;
        }
        let shares = match kind {
            SchedulerKind::Rr | SchedulerKind::Lc => [1; 3],
            _ => weights,
        };
        let total: u32 = shares.iter().sum();
        for (count, share) in counts.into_iter().zip(shares) {
            let expected = f64::from(CONNECTIONS) * f64::from(share) / f64::from(total);
            let off = (f64::from(count) - expected).abs() / expected;
            assert!(off <= 0.02, "{kind:?} by {weights:?}: {counts:?}, {off:.3} off");
        }
        assert!(director.workers.iter().all(|worker| worker.connections() > 2000));
    }
}

/// What another worker's clients have counts as one's own do.
#[test]
fn connections_are_counted_over_all_workers() {
    for kind in LEAST_CONNECTIONS {
        let mut director = director(kind, &[1, 0]);
        for worker in 0..WORKERS - 1 {
            let first = 100 * worker as u32;
            assert_eq!(open(&mut director, worker, first..first + 10), [10, 0, 0], "{kind:?}");
        }
        director.server(ServerId(1)).weight = 1;
        director.publish();
        assert_eq!(open(&mut director, WORKERS - 1, 1000..1030), [0, 30, 0], "{kind:?}");
        assert_eq!(open(&mut director, 0, 2000..2010), [5, 5, 0], "{kind:?}");
        assert_eq!(director.service(ServiceId(0)).counters.sum().connections, 70);
    }
}
