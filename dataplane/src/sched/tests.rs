use super::*;
use crate::service::{
    Encapsulation, Method, Protocol, RealServer, SchedulerFlags, ServiceId, ServiceKey, ServiceOptions,
    ServiceTableBuilder, Thresholds,
};
use crate::stats::{ServerCounters, TrafficCounters};
use std::collections::BTreeMap;

/// One service and the tables made of it; servers are (slot, weight), the last
/// added first.
pub(super) struct Control {
    pub(super) kind: SchedulerKind,
    address: u8,
    generation: u64,
    pub(super) counters: BTreeMap<u32, Arc<ServerCounters>>,
    /// Where they are not those by default
    pub(super) thresholds: BTreeMap<u32, Thresholds>,
}

impl Control {
    pub(super) fn new(kind: SchedulerKind) -> Self {
        Control { kind, address: 10, generation: 0, counters: BTreeMap::new(), thresholds: BTreeMap::new() }
    }

    pub(super) fn table(&mut self, servers: &[(u32, u32)]) -> (VirtualService, ServiceTable) {
        self.generation += 1;
        let service = VirtualService {
            key: ServiceKey::Address {
                protocol: Protocol::Tcp,
                address: Address::from_v4([192, 0, 2, self.address]),
                port: 80,
            },
            scheduler: self.kind,
            scheduler_flags: SchedulerFlags::default(),
            servers: servers.iter().map(|(slot, _)| ServerId(*slot)).collect(),
            local_addresses: Vec::new(),
            options: ServiceOptions::default(),
            counters: Arc::new(TrafficCounters::new(1)),
        };
        let mut builder = ServiceTableBuilder::new(self.generation);
        builder.service(ServiceId(0), service.clone());
        for (slot, weight) in servers {
            let counters =
                self.counters.entry(*slot).or_insert_with(|| Arc::new(ServerCounters::new(1))).clone();
            let server = RealServer {
                service: ServiceId(0),
                service_key: service.key,
                address: Address::from_v4([10, 1, (slot >> 8) as u8, *slot as u8]),
                port: 80,
                method: Method::Nat,
                encapsulation: Encapsulation::Ipip,
                weight: *weight,
                last_weight: *weight,
                thresholds: self.thresholds.get(slot).copied().unwrap_or_default(),
                edits: 0,
                timeouts: None,
                available: true,
                counters,
                service_counters: service.counters.clone(),
            };
            builder.server(ServerId(*slot), server);
        }
        (service, builder.build())
    }
}

pub(super) const ARRIVAL: Arrival = Arrival {
    source: Address::from_v4([10, 0, 1, 1]),
    source_port: 20_000,
    destination: Address::from_v4([192, 0, 2, 10]),
    now: 0,
};

fn order<const N: usize>(
    scheduler: &mut Scheduler,
    (service, table): &(VirtualService, ServiceTable),
) -> [u32; N] {
    std::array::from_fn(|_| scheduler.schedule(service, table, &ARRIVAL).map_or(0, |id| id.0))
}

#[test]
fn no_server_takes_connections() {
    for kind in SchedulerKind::ALL {
        let mut control = Control::new(kind);
        for servers in [&[][..], &[(1, 0)], &[(2, 0), (1, 0)]] {
            let table = control.table(servers);
            let mut scheduler = Scheduler::new(&table.0, &table.1, 0);
            assert_eq!(order(&mut scheduler, &table), [0, 0, 0]);
            let table = control.table(&[(9, 1), (8, 0)]);
            assert_eq!(order(&mut scheduler, &table), [9, 9, 9]);
        }
    }
}

#[test]
fn rr_goes_on_behind_the_server_that_was_removed() {
    let mut control = Control::new(SchedulerKind::Rr);
    let table = control.table(&[(4, 1), (3, 1), (2, 1), (1, 1)]);
    let mut scheduler = Scheduler::new(&table.0, &table.1, 0);
    assert_eq!(order(&mut scheduler, &table), [4, 3, 2]);
    // Slot 2 was chosen last.
    let table = control.table(&[(4, 1), (3, 1), (1, 1)]);
    assert_eq!(order(&mut scheduler, &table), [1, 4]);
    // The first of the list was chosen last: the new first is next.
    let table = control.table(&[(3, 1), (1, 1)]);
    assert_eq!(order(&mut scheduler, &table), [3, 1, 3]);
    // Several changes at once: 3 gone, 5 and 6 added; 1 is still next.
    let table = control.table(&[(6, 1), (5, 1), (1, 1)]);
    assert_eq!(order(&mut scheduler, &table), [6, 5, 1, 6]);
}

#[test]
fn a_server_removed_and_added_again_is_in_front() {
    let mut control = Control::new(SchedulerKind::Rr);
    let table = control.table(&[(3, 1), (2, 1), (1, 1)]);
    let mut scheduler = Scheduler::new(&table.0, &table.1, 0);
    assert_eq!(order(&mut scheduler, &table), [3, 2]);
    let table = control.table(&[(2, 1), (3, 1), (1, 1)]);
    assert_eq!(order(&mut scheduler, &table), [1, 2, 3, 1]);
}

#[test]
fn a_slot_given_to_another_server_is_another_server() {
    let mut control = Control::new(SchedulerKind::Rr);
    let table = control.table(&[(3, 1), (2, 1), (1, 1)]);
    let mut scheduler = Scheduler::new(&table.0, &table.1, 0);
    assert_eq!(order(&mut scheduler, &table), [3, 2, 1]);
    control.counters.remove(&3);
    let table = control.table(&[(3, 1), (2, 1), (1, 1)]);
    let member = control.counters[&3].clone();
    scheduler.update(&table.0, &table.1, 0);
    assert!(Arc::ptr_eq(&scheduler.roster.members[0].counters, &member));
}

#[test]
fn wrr_starts_where_adding_in_turn_left_it() {
    let mut control = Control::new(SchedulerKind::Wrr);
    let all = [(3, 3), (2, 2), (1, 1)];
    let table = control.table(&[]);
    let mut in_turn = Scheduler::new(&table.0, &table.1, 0);
    for first in [2, 1, 0] {
        let table = control.table(&all[first..]);
        in_turn.update(&table.0, &table.1, 0);
    }
    let table = control.table(&all);
    let mut at_once = Scheduler::new(&table.0, &table.1, 0);
    let expected = [3, 2, 1, 3, 3, 2, 3, 2, 1];
    assert_eq!(order(&mut in_turn, &table), expected);
    assert_eq!(order(&mut at_once, &table), expected);
}

#[test]
fn wrr_put_in_charge_of_a_service_starts_at_the_top() {
    let mut control = Control::new(SchedulerKind::Rr);
    let servers = [(3, 3), (2, 2), (1, 1)];
    let table = control.table(&servers);
    let mut scheduler = Scheduler::new(&table.0, &table.1, 0);
    assert_eq!(order(&mut scheduler, &table), [3]);
    control.kind = SchedulerKind::Wrr;
    let table = control.table(&servers);
    assert_eq!(order(&mut scheduler, &table), [3, 3, 2, 3, 2, 1, 3]);
}

#[test]
fn another_service_in_the_slot_starts_afresh() {
    let mut control = Control::new(SchedulerKind::Rr);
    let table = control.table(&[(2, 1), (1, 1)]);
    let mut scheduler = Scheduler::new(&table.0, &table.1, 0);
    assert_eq!(order(&mut scheduler, &table), [2]);
    control.address = 11;
    let table = control.table(&[(2, 1), (1, 1)]);
    assert_eq!(order(&mut scheduler, &table), [2, 1]);
}

#[test]
fn wrr_bears_extreme_weights() {
    let mut control = Control::new(SchedulerKind::Wrr);
    let table = control.table(&[(2, 1), (1, u32::MAX)]);
    let mut scheduler = Scheduler::new(&table.0, &table.1, 0);
    let [first, rest @ ..] = order::<10_000>(&mut scheduler, &table);
    assert_eq!((first, rest), (2, [1; 9_999]));
}

#[test]
fn wlc_compares_extreme_loads_exactly() {
    let mut control = Control::new(SchedulerKind::Wlc);
    let table = control.table(&[(2, u32::MAX), (1, u32::MAX - 1)]);
    for slot in [1, 2] {
        control.counters[&slot].share(0).active.add(1 << 40);
    }
    let mut scheduler = Scheduler::new(&table.0, &table.1, 0);
    assert_eq!(order(&mut scheduler, &table), [2]);
    control.counters[&2].share(0).active.add(1 << 12);
    assert_eq!(order(&mut scheduler, &table), [1]);
}

/// With several workers, each follows its own sequence. Whichever worker a
/// connection comes to, the servers' shares are those of their weights.
#[test]
fn several_workers_spread_by_weight() {
    use SchedulerKind::{Lc, Nq, Rr, Sed, Wlc, Wrr};
    const CONNECTIONS: u32 = 10_000;
    for (kind, weights) in [
        (Rr, [1, 1, 1]),
        (Wrr, [5, 2, 1]),
        (Lc, [1, 1, 1]),
        (Wlc, [5, 2, 1]),
        (Sed, [5, 2, 1]),
        (Nq, [5, 2, 1]),
    ] {
        let mut control = Control::new(kind);
        let table = control.table(&[(3, weights[2]), (2, weights[1]), (1, weights[0])]);
        let mut workers: Vec<_> = (0..4).map(|_| Scheduler::new(&table.0, &table.1, 0)).collect();
        let mut random = 1_u32;
        let mut served = [0; 3];
        for _ in 0..CONNECTIONS {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Uneven on purpose: half of all connections come to one worker.
            let worker = (random >> 29).min(3) as usize;
            let [slot] = order(&mut workers[worker], &table);
            control.counters[&slot].share(0).active.add(1);
            served[slot as usize - 1] += 1;
        }
        for (served, weight) in served.into_iter().zip(weights) {
            let fair = f64::from(CONNECTIONS * weight) / f64::from(weights.iter().sum::<u32>());
            assert!((f64::from(served) - fair).abs() <= fair * 0.02, "{kind:?}: {served} for {weight}");
        }
    }
}

#[test]
fn wrr_is_quick_to_pass_heavy_servers_that_are_overloaded() {
    let mut control = Control::new(SchedulerKind::Wrr);
    let (service, mut table) = control.table(&[(3, u32::MAX), (2, u32::MAX - 1), (1, 1)]);
    let limited = |table: &ServiceTable, limited: &[u32]| {
        let mut builder = ServiceTableBuilder::new(table.generation() + 1);
        builder.service(ServiceId(0), service.clone());
        for (id, server) in table.servers() {
            let upper = u32::from(limited.contains(&id.0));
            let thresholds = Thresholds { upper, lower: 0 };
            builder.server(id, RealServer { thresholds, ..server.clone() });
        }
        builder.build()
    };
    control.counters.values().for_each(|counters| counters.share(0).inactive.add(1));
    let mut scheduler = Scheduler::new(&service, &table, 0);
    for (full, next) in [(&[3, 2][..], 1), (&[3, 2, 1], 0), (&[2, 1], 3), (&[], 3)] {
        table = limited(&table, full);
        assert_eq!(scheduler.schedule(&service, &table, &ARRIVAL).map_or(0, |id| id.0), next, "{full:?}");
    }
}

/// Who serves each of a thousand clients.
fn clients(scheduler: &mut Scheduler, (service, table): &(VirtualService, ServiceTable)) -> Vec<u32> {
    let from = |client: u32| Arrival { source: Address::from_v4(client.to_be_bytes()), ..ARRIVAL };
    let served = (0..1000).map(|i| scheduler.schedule(service, table, &from(0x0a00_0000 + 77 * i)));
    served.map(|server| server.map_or(0, |id| id.0)).collect()
}

#[test]
fn mh_leaves_clients_where_they_are() {
    let mut control = Control::new(SchedulerKind::Mh);
    let all: Vec<(u32, u32)> = (1..=20).rev().map(|slot| (slot, 1)).collect();
    let table = control.table(&all);
    let mut scheduler = Scheduler::new(&table.0, &table.1, 0);
    let before = clients(&mut scheduler, &table);
    let table = control.table(&all[1..]);
    let after = clients(&mut scheduler, &table);
    let moved = before.iter().zip(&after).filter(|(before, after)| **before != 20 && before != after);
    // The twentieth part has to move, and some more does.
    assert!(moved.count() < 80);
    // Whichever way they came about, equal services serve alike.
    assert_eq!(after, clients(&mut Scheduler::new(&table.0, &table.1, 0), &table));
}

/// All of these have the counters and places of hundreds of servers to look
/// after; none may lose its way among them.
#[test]
fn many_servers_come_and_go() {
    for kind in SchedulerKind::ALL {
        let mut control = Control::new(kind);
        let mut scheduler = None;
        for round in 0..40_u32 {
            let slots = (1..=300).rev().filter(|slot| (slot + round) % (round % 7 + 2) != 0);
            let servers: Vec<_> = slots.map(|slot| (slot, (slot * round) % 11)).collect();
            let table = control.table(&servers);
            let scheduler = scheduler.get_or_insert_with(|| Scheduler::new(&table.0, &table.1, 0));
            for client in 0..50_u32 {
                let arrival = Arrival {
                    source: Address::from_v4((client * 7919).to_be_bytes()),
                    destination: Address::from_v4([198, 51, 100, (client % 9) as u8]),
                    ..ARRIVAL
                };
                let chosen = scheduler.schedule(&table.0, &table.1, &arrival);
                let takes = |id: ServerId| servers.iter().any(|(slot, weight)| *slot == id.0 && *weight > 0);
                assert!(chosen.is_none_or(takes), "{kind:?}, round {round}: {chosen:?}");
                if let Some(id) = chosen {
                    control.counters[&id.0].share(0).active.add(1);
                }
            }
        }
    }
}

mod peeking {
    use proptest::prelude::*;

    use super::*;
    use crate::conn::timer::ticks;

    /// What happens to a service.
    #[derive(Clone, Debug)]
    enum Step {
        /// Other servers and weights
        Publish(Vec<(u32, u32)>),
        /// A server has so many active connections, or others
        Load(u32, u64, bool),
        /// Time passes
        Pass(u32),
        /// A connection from a client to a destination
        Open(u8, u8),
    }

    fn a_step() -> impl Strategy<Value = Step> {
        let servers = prop::collection::btree_map(1u32..6, 0u32..5, 0..6);
        prop_oneof![
            1 => servers.prop_map(|servers| Step::Publish(servers.into_iter().collect())),
            3 => (1u32..6, 0u64..8, any::<bool>()).prop_map(|(server, load, active)| Step::Load(server, load, active)),
            1 => (0u32..100_000).prop_map(Step::Pass),
            8 => (any::<u8>(), 0u8..4).prop_map(|(client, to)| Step::Open(client, to)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

        /// To look twice tells the same, and tells what comes.
        #[test]
        fn what_is_told_is_what_comes(
            kind in prop::sample::select(SchedulerKind::ALL.to_vec()),
            steps in prop::collection::vec(a_step(), 1..60),
        ) {
            let mut control = Control::new(kind);
            let mut table = control.table(&[(3, 1), (2, 2), (1, 1)]);
            let mut scheduler = Scheduler::new(&table.0, &table.1, 0);
            let mut alone = Scheduler::new(&table.0, &table.1, 0);
            let mut now = 0;
            for step in steps {
                match step {
                    Step::Publish(servers) => table = control.table(&servers),
                    Step::Load(server, load, active) => {
                        let Some(counters) = control.counters.get(&server) else { continue };
                        let share = counters.share(0);
                        if active { share.active.set(load) } else { share.inactive.set(load) };
                    }
                    Step::Pass(seconds) => now += ticks(seconds),
                    Step::Open(client, to) => {
                        let arrival = Arrival {
                            source: Address::from_v4([10, 0, 1, client]),
                            destination: Address::from_v4([192, 0, 2, to]),
                            now,
                            ..ARRIVAL
                        };
                        let told = scheduler.peek(&table.0, &table.1, &arrival);
                        prop_assert_eq!(scheduler.peek(&table.0, &table.1, &arrival), told);
                        prop_assert_eq!(scheduler.schedule(&table.0, &table.1, &arrival), told);
                        // Nor is it another one for having been asked.
                        prop_assert_eq!(alone.schedule(&table.0, &table.1, &arrival), told);
                    }
                }
            }
        }
    }
}
