//! Schedulers that have an index against such as look at every server.

use std::sync::Arc;

use proptest::prelude::*;

use crate::conn::timer::ticks;
use crate::sched::tests::{ARRIVAL, Control};
use crate::sched::{Arrival, Movements, Prepared, Scheduler};
use crate::service::{SchedulerKind, ServerId, Thresholds};
use crate::wire::Address;

const SERVERS: u32 = 40;
const WORKERS: usize = 2;

/// A server: its number, its weight, and how many connections it may have.
type Server = (u32, u32, u32);

/// That a server has so many connections now, active or not, as a worker says.
#[derive(Clone, Copy, Debug)]
struct Load {
    server: u32,
    connections: u64,
    active: bool,
    worker: usize,
}

#[derive(Clone, Debug)]
enum Step {
    /// Other servers, perhaps another scheduler, and what changes while workers
    /// prepare for them
    Publish(SchedulerKind, Vec<Server>, Vec<Load>),
    Load(Load),
    /// Seconds pass
    Pass(u32),
    /// The worker polls
    Tend,
    /// Connections of a client to a destination
    Open(u8, u8, u8),
}

fn servers() -> impl Strategy<Value = Vec<Server>> {
    let weight = prop_oneof![3 => 0u32..4, 1 => 0u32..40, 1 => Just(u32::MAX)];
    let limit = prop_oneof![4 => Just(0u32), 1 => 1u32..6];
    let server = (0..SERVERS, weight, limit);
    let all = prop::collection::vec(server, 0..SERVERS as usize);
    all.prop_map(|mut all| {
        let mut known = std::collections::BTreeSet::new();
        all.retain(|(server, ..)| known.insert(*server));
        all
    })
}

fn a_load() -> impl Strategy<Value = Load> {
    let connections = prop_oneof![9 => 0u64..8, 1 => Just(1 << 40)];
    (0..SERVERS, connections, any::<bool>(), 0..WORKERS)
        .prop_map(|(server, connections, active, worker)| Load { server, connections, active, worker })
}

fn a_step(kind: SchedulerKind) -> impl Strategy<Value = Step> {
    let kinds = prop_oneof![5 => Just(kind), 1 => prop::sample::select(SchedulerKind::ALL.to_vec())];
    prop_oneof![
        2 => (kinds, servers(), prop::collection::vec(a_load(), 0..20))
            .prop_map(|(kind, servers, loads)| Step::Publish(kind, servers, loads)),
        6 => a_load().prop_map(Step::Load),
        1 => (0u32..100_000).prop_map(Step::Pass),
        1 => Just(Step::Tend),
        8 => (any::<u8>(), 0u8..4, 1u8..8).prop_map(|(client, to, count)| Step::Open(client, to, count)),
    ]
}

/// Slots far enough apart that there are several blocks.
fn slot(server: u32) -> u32 {
    1 + server * 5
}

fn load(control: &Control, table: &crate::service::ServiceTable, movements: &Movements, load: Load) {
    let Some(counters) = control.counters.get(&slot(load.server)) else { return };
    let share = counters.share(0);
    if load.active {
        share.active.set(load.connections)
    } else {
        share.inactive.set(load.connections)
    };
    if let Some(server) = table.server(ServerId(slot(load.server))) {
        server.connections_changed();
    }
    movements.note(load.worker, ServerId(slot(load.server)));
}

fn as_those_that_look_at_all(kind: SchedulerKind, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut control = Control::new(kind);
    let movements = Arc::new(Movements::new(WORKERS));
    let (mut service, mut table) = control.table(&[]);
    let watched = || (&movements, 0);
    let mut slow = Scheduler::new(&service, &table, 0);
    let mut quick = Scheduler::watching(watched(), &service, &table, 0, None);
    let mut prepared = Scheduler::watching(watched(), &service, &table, 0, None);
    let mut now = 0;
    for step in steps {
        match step {
            Step::Publish(kind, servers, loads) => {
                control.kind = kind;
                let limit = |upper| Thresholds { upper, lower: 0 };
                control.thresholds = servers.iter().map(|(n, _, upper)| (slot(*n), limit(*upper))).collect();
                let servers: Vec<_> = servers.iter().map(|(n, weight, _)| (slot(*n), *weight)).collect();
                let next = control.table(&servers);
                let mut making = Prepared::begin(Some(&prepared), &next.0, &next.1, watched());
                for one in loads {
                    load(&control, &table, &movements, one);
                    making.as_mut().map(|making| making.proceed(&mut 3));
                }
                if let Some(making) = &mut making {
                    while !making.proceed(&mut 7) {}
                    making.refresh();
                }
                (service, table) = next;
                prepared.update_by(making, &service, &table, now);
                slow.update(&service, &table, now);
                quick.update(&service, &table, now);
            }
            Step::Load(one) => load(&control, &table, &movements, one),
            Step::Pass(seconds) => now += ticks(seconds),
            Step::Tend => quick.tend(now),
            Step::Open(client, to, count) => {
                for port in 0..count {
                    let arrival = Arrival {
                        source: Address::from_v4([10, 0, 1, client]),
                        source_port: port.into(),
                        destination: Address::from_v4([192, 0, 2, to]),
                        now,
                    };
                    let chosen = slow.schedule(&service, &table, &arrival);
                    prop_assert_eq!(quick.schedule(&service, &table, &arrival), chosen, "{:?}", control.kind);
                    prop_assert_eq!(prepared.schedule(&service, &table, &arrival), chosen, "prepared");
                    let Some(id) = chosen else { continue };
                    control.counters[&id.0].share(0).active.add(1);
                    table.server(id).expect("it is there").connections_changed();
                    movements.note(usize::from(port) % WORKERS, id);
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn chooses_as_those_that_look_at_all(
        (kind, steps) in prop::sample::select(SchedulerKind::ALL.to_vec())
            .prop_flat_map(|kind| (Just(kind), prop::collection::vec(a_step(kind), 1..80))),
    ) {
        as_those_that_look_at_all(kind, steps)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    /// With sets that grow and shrink.
    #[test]
    fn sets_of_lblcr_choose_as_those_that_look_at_all(
        servers in servers(),
        steps in prop::collection::vec(a_step(SchedulerKind::Lblcr), 1..150),
    ) {
        let begin = Step::Publish(SchedulerKind::Lblcr, servers, Vec::new());
        as_those_that_look_at_all(SchedulerKind::Lblcr, std::iter::once(begin).chain(steps).collect())?;
    }
}

/// What changed shows, however many changed.
#[test]
fn many_change_at_once() {
    let mut control = Control::new(SchedulerKind::Wlc);
    let movements = Arc::new(Movements::new(1));
    let servers: Vec<_> = (1..=2000).rev().map(|slot| (slot, 1 + slot % 3)).collect();
    let (service, table) = control.table(&servers);
    let mut slow = Scheduler::new(&service, &table, 0);
    let mut quick = Scheduler::watching((&movements, 0), &service, &table, 0, None);
    for round in 0_u64..50 {
        for (slot, _) in servers.iter().step_by(1 + round as usize * 7) {
            control.counters[slot].share(0).active.set(u64::from(*slot).wrapping_mul(round * round + 7) % 97);
            movements.note(0, ServerId(*slot));
        }
        let chosen = slow.schedule(&service, &table, &ARRIVAL);
        assert_eq!(quick.schedule(&service, &table, &ARRIVAL), chosen);
        assert_ne!(chosen, None);
    }
}
