use super::*;
use crate::service::{Protocol, ServiceId, ServiceOptions, ServiceTableBuilder};
use crate::stats::TrafficCounters;
use crate::wire::Address;
use std::collections::BTreeMap;

/// One service and the tables made of it; servers are (slot, weight), the last
/// added first.
struct Control {
    kind: SchedulerKind,
    address: u8,
    generation: u64,
    counters: BTreeMap<u32, Arc<ServerCounters>>,
}

impl Control {
    fn new(kind: SchedulerKind) -> Self {
        Control { kind, address: 10, generation: 0, counters: BTreeMap::new() }
    }

    fn table(&mut self, servers: &[(u32, u32)]) -> (VirtualService, ServiceTable) {
        self.generation += 1;
        let service = VirtualService {
            key: ServiceKey {
                protocol: Protocol::Tcp,
                address: Address::from_v4([192, 0, 2, self.address]),
                port: 80,
            },
            scheduler: self.kind,
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
                address: Address::from_v4([10, 0, 2, 1]),
                port: 80,
                method: Method::Nat,
                weight: *weight,
                available: true,
                counters,
                service_counters: service.counters.clone(),
            };
            builder.server(ServerId(*slot), server);
        }
        (service, builder.build())
    }
}

fn order<const N: usize>(
    scheduler: &mut Scheduler,
    (service, table): &(VirtualService, ServiceTable),
) -> [u32; N] {
    std::array::from_fn(|_| scheduler.schedule(service, table).map_or(0, |id| id.0))
}

#[test]
fn no_server_takes_connections() {
    for kind in [SchedulerKind::Rr, SchedulerKind::Wrr, SchedulerKind::Lc, SchedulerKind::Wlc] {
        let mut control = Control::new(kind);
        for servers in [&[][..], &[(1, 0)], &[(2, 0), (1, 0)]] {
            let table = control.table(servers);
            let mut scheduler = Scheduler::new(&table.0, &table.1);
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
    let mut scheduler = Scheduler::new(&table.0, &table.1);
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
    let mut scheduler = Scheduler::new(&table.0, &table.1);
    assert_eq!(order(&mut scheduler, &table), [3, 2]);
    let table = control.table(&[(2, 1), (3, 1), (1, 1)]);
    assert_eq!(order(&mut scheduler, &table), [1, 2, 3, 1]);
}

#[test]
fn a_slot_given_to_another_server_is_another_server() {
    let mut control = Control::new(SchedulerKind::Rr);
    let table = control.table(&[(3, 1), (2, 1), (1, 1)]);
    let mut scheduler = Scheduler::new(&table.0, &table.1);
    assert_eq!(order(&mut scheduler, &table), [3, 2, 1]);
    control.counters.remove(&3);
    let table = control.table(&[(3, 1), (2, 1), (1, 1)]);
    let member = control.counters[&3].clone();
    scheduler.update(&table.0, &table.1);
    assert!(Arc::ptr_eq(&scheduler.servers[0].counters, &member));
}

#[test]
fn wrr_starts_where_adding_in_turn_left_it() {
    let mut control = Control::new(SchedulerKind::Wrr);
    let all = [(3, 3), (2, 2), (1, 1)];
    let table = control.table(&[]);
    let mut in_turn = Scheduler::new(&table.0, &table.1);
    for first in [2, 1, 0] {
        let table = control.table(&all[first..]);
        in_turn.update(&table.0, &table.1);
    }
    let table = control.table(&all);
    let mut at_once = Scheduler::new(&table.0, &table.1);
    let expected = [3, 2, 1, 3, 3, 2, 3, 2, 1];
    assert_eq!(order(&mut in_turn, &table), expected);
    assert_eq!(order(&mut at_once, &table), expected);
}

#[test]
fn wrr_put_in_charge_of_a_service_starts_at_the_top() {
    let mut control = Control::new(SchedulerKind::Rr);
    let servers = [(3, 3), (2, 2), (1, 1)];
    let table = control.table(&servers);
    let mut scheduler = Scheduler::new(&table.0, &table.1);
    assert_eq!(order(&mut scheduler, &table), [3]);
    control.kind = SchedulerKind::Wrr;
    let table = control.table(&servers);
    assert_eq!(order(&mut scheduler, &table), [3, 3, 2, 3, 2, 1, 3]);
}

#[test]
fn another_service_in_the_slot_starts_afresh() {
    let mut control = Control::new(SchedulerKind::Rr);
    let table = control.table(&[(2, 1), (1, 1)]);
    let mut scheduler = Scheduler::new(&table.0, &table.1);
    assert_eq!(order(&mut scheduler, &table), [2]);
    control.address = 11;
    let table = control.table(&[(2, 1), (1, 1)]);
    assert_eq!(order(&mut scheduler, &table), [2, 1]);
}

#[test]
fn wrr_bears_extreme_weights() {
    let mut control = Control::new(SchedulerKind::Wrr);
    let table = control.table(&[(2, 1), (1, u32::MAX)]);
    let mut scheduler = Scheduler::new(&table.0, &table.1);
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
    let mut scheduler = Scheduler::new(&table.0, &table.1);
    assert_eq!(order(&mut scheduler, &table), [2]);
    control.counters[&2].share(0).active.add(1 << 12);
    assert_eq!(order(&mut scheduler, &table), [1]);
}
