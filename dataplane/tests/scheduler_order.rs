//! Schedulers against IPVS: the recorded order of `data/scheduler_order.txt`,
//! replayed in a world of counters without packets.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use sluice_dataplane::conn::{Direction, State};
use sluice_dataplane::sched::Scheduler;
use sluice_dataplane::service::{
    Method, Protocol, RealServer, SchedulerKind, ServerId, ServiceId, ServiceKey, ServiceOptions,
    ServiceTable, ServiceTableBuilder, VirtualService,
};
use sluice_dataplane::stats::{ServerCounters, TrafficCounters};
use sluice_dataplane::wire::Address;

const SERVICE: ServiceId = ServiceId(0);
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

struct Connection {
    server: ServerId,
    state: State,
}

/// A director with one service. Connections are counted over two workers in
/// turn, as only their sum may matter.
struct World {
    service: VirtualService,
    servers: BTreeMap<ServerId, RealServer>,
    table: ServiceTable,
    scheduler: Scheduler,
    connections: Vec<Connection>,
    /// Whether the worker hears of each table at once, or only when it needs one
    prompt: bool,
}

const WORKERS: usize = 2;

impl World {
    fn new(protocol: Protocol, scheduler: SchedulerKind, prompt: bool) -> Self {
        let service = VirtualService {
            key: ServiceKey { protocol, address: Address::from_v4([192, 0, 2, 10]), port: 80 },
            scheduler,
            servers: Vec::new(),
            local_addresses: Vec::new(),
            options: ServiceOptions::default(),
            counters: Arc::new(TrafficCounters::new(WORKERS)),
        };
        let table = ServiceTable::default();
        let scheduler = Scheduler::new(&service, &table);
        let (servers, connections) = (BTreeMap::new(), Vec::new());
        World { service, servers, table, scheduler, connections, prompt }
    }

    fn publish(&mut self) {
        let mut builder = ServiceTableBuilder::new(self.table.generation() + 1);
        builder.service(SERVICE, self.service.clone());
        for (id, server) in &self.servers {
            builder.server(*id, server.clone());
        }
        self.table = builder.build();
        if self.prompt {
            self.scheduler.update(&self.service, &self.table);
        }
    }

    fn add(&mut self, id: ServerId, weight: u32) {
        let server = RealServer {
            service: SERVICE,
            service_key: self.service.key,
            address: Address::from_v4([10, 0, 2, id.0 as u8]),
            port: 80,
            method: Method::Nat,
            weight,
            available: true,
            counters: Arc::new(ServerCounters::new(WORKERS)),
            service_counters: self.service.counters.clone(),
        };
        let again = self.servers.entry(id).and_modify(|server| {
            assert!(!server.available, "{id:?} added twice");
            (server.available, server.weight) = (true, weight);
        });
        again.or_insert(server);
        self.service.servers.insert(0, id);
    }

    fn remove(&mut self, id: ServerId) {
        self.service.servers.retain(|server| *server != id);
        self.servers.get_mut(&id).expect("known server").available = false;
    }

    /// A new connection or flow, and who serves it.
    fn open(&mut self) -> Option<ServerId> {
        let server = self.scheduler.schedule(&self.service, &self.table)?;
        let share = self.servers[&server].counters.share(self.connections.len() % WORKERS);
        share.inactive.add(1);
        let udp = self.service.key.protocol == Protocol::Udp;
        let state = if udp { State::Udp } else { State::None };
        self.connections.push(Connection { server, state });
        let last = self.connections.len() - 1;
        for (direction, flags) in
            [(Direction::Input, SYN), (Direction::Output, SYN | ACK), (Direction::Input, ACK)]
        {
            self.packet(last, direction, flags);
        }
        Some(server)
    }

    /// Follows a packet of a connection as IPVS counts it.
    fn packet(&mut self, connection: usize, direction: Direction, flags: u8) {
        let Connection { server, state } = &mut self.connections[connection];
        let share = self.servers[server].counters.share(connection % WORKERS);
        let next = state.next(direction, flags);
        match (state.is_active(), next.is_active()) {
            (false, true) => (share.inactive.sub(1), share.active.add(1)),
            (true, false) => (share.active.sub(1), share.inactive.add(1)),
            _ => ((), ()),
        };
        *state = next;
    }

    fn reset(&mut self, connection: usize) {
        self.packet(connection, Direction::Input, RST);
    }
}

fn id(name: &str) -> ServerId {
    ServerId(
        name.strip_prefix("rs").and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("server {name:?}")),
    )
}

fn name(server: Option<ServerId>) -> String {
    server.map_or("none".into(), |id| format!("rs{}", id.0))
}

/// Replays the file, with what the schedulers answered in place of the
/// recorded answers.
fn replay(recorded: &str, prompt: bool) -> String {
    let mut world: Option<World> = None;
    let mut answer = String::new();
    for (number, line) in recorded.lines().enumerate() {
        let mut words = line.split_whitespace();
        let step = words.next().unwrap_or("#");
        let words: Vec<&str> = words.collect();
        if step.starts_with('#') || step == "case" {
            writeln!(answer, "{line}").unwrap();
            continue;
        }
        if step == "service" {
            let protocol = if words[0] == "tcp" { Protocol::Tcp } else { Protocol::Udp };
            let kind = SchedulerKind::from_name(words[1]).expect("known scheduler");
            world = Some(World::new(protocol, kind, prompt));
            world.as_mut().unwrap().publish();
            writeln!(answer, "{line}").unwrap();
            continue;
        }
        let world = world.as_mut().expect("a service comes first");
        match step {
            "add" => world.add(id(words[0]), words[1].parse().unwrap()),
            "edit" => world.servers.get_mut(&id(words[0])).unwrap().weight = words[1].parse().unwrap(),
            "method" => {
                assert_eq!(words[1], "direct");
                world.servers.get_mut(&id(words[0])).unwrap().method = Method::DirectRoute;
            }
            "scheduler" => world.service.scheduler = SchedulerKind::from_name(words[0]).unwrap(),
            "delete" => world.remove(id(words[0])),
            "reset" => (0..words[0].parse().unwrap()).for_each(|i| world.reset(i)),
            "held" | "closed" | "datagrams" => {
                let mut served = Vec::new();
                for _ in &words {
                    let server = world.open();
                    served.push(name(server));
                    if step == "closed" && server.is_some() {
                        world.reset(world.connections.len() - 1);
                    }
                }
                writeln!(answer, "{step} {}", served.join(" ")).unwrap();
                continue;
            }
            "counts" => {
                let counters = &world.servers[&id(words[0])].counters;
                writeln!(answer, "counts {} {} {}", words[0], counters.active(), counters.inactive())
                    .unwrap();
                continue;
            }
            _ => panic!("line {}: step {step:?}", number + 1),
        }
        writeln!(answer, "{line}").unwrap();
        if matches!(step, "add" | "edit" | "method" | "scheduler" | "delete") {
            world.publish();
        }
    }
    answer
}

fn check(prompt: bool) {
    let recorded = include_str!("data/scheduler_order.txt");
    let answer = replay(recorded, prompt);
    assert_eq!(recorded.lines().count(), answer.lines().count());
    let mut case = "";
    for (number, (recorded, answer)) in recorded.lines().zip(answer.lines()).enumerate() {
        if recorded.starts_with("case") {
            case = recorded;
        }
        assert_eq!(recorded, answer, "line {}, {case}", number + 1);
    }
    assert!(answer.lines().filter(|line| line.starts_with("case")).count() > 25);
}

#[test]
fn every_table_is_adopted() {
    check(true);
}

/// A worker that was busy adopts only the last of several tables.
#[test]
fn only_the_last_table_before_a_connection_is_adopted() {
    check(false);
}
