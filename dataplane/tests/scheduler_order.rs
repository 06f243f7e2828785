//! Schedulers against IPVS: the recorded orders of `data/scheduler_*.txt`,
//! replayed in a world of counters without packets. What the steps of a
//! recording mean, and how to make one, is told in `data/record/README.md`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;

use sluice_dataplane::conn::timer::ticks;
use sluice_dataplane::conn::{Direction, State, Timeouts};
use sluice_dataplane::sched::{Arrival, Scheduler};
use sluice_dataplane::service::{
    Encapsulation, Family, Method, Protocol, RealServer, SchedulerFlags, SchedulerKind, ServerId, ServiceId,
    ServiceKey, ServiceOptions, ServiceTable, ServiceTableBuilder, Thresholds, VirtualService,
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
    /// In seconds since the case began; none once it is over
    expires: Option<u32>,
}

/// What the next connections have in an address and a port, and how much more
/// each further one has.
struct Sequence {
    address: u128,
    port: u16,
    address_step: u128,
    port_step: u16,
}

impl Sequence {
    fn next(&mut self, is_v4: bool) -> (Address, u16) {
        let (address, port) = (self.address, self.port);
        self.address += self.address_step;
        self.port += self.port_step;
        let ip: IpAddr = if is_v4 { IpAddr::V4((address as u32).into()) } else { IpAddr::V6(address.into()) };
        (ip.into(), port)
    }
}

fn as_number(address: &str) -> u128 {
    match address.parse().expect("an address") {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => v6.into(),
    }
}

/// A director with one service. Connections are counted over two workers in
/// turn, as only their sum may matter.
struct World {
    service: VirtualService,
    servers: BTreeMap<ServerId, RealServer>,
    table: ServiceTable,
    scheduler: Scheduler,
    connections: Vec<Connection>,
    from: Sequence,
    to: Sequence,
    /// Seconds since the case began
    now: u32,
    /// Whether the worker hears of each table at once, or only when it needs one
    prompt: bool,
}

const WORKERS: usize = 2;

impl World {
    fn new(protocol: &str, scheduler: SchedulerKind, flags: SchedulerFlags, prompt: bool) -> Self {
        let is_v6 = protocol.ends_with('6');
        let (vip, client) =
            if is_v6 { ("2001:db8:f::10", "2001:db8:1::1") } else { ("192.0.2.10", "10.0.1.1") };
        // To a scheduler, a mark is a service with many addresses.
        let protocol = if protocol.starts_with("udp") { Protocol::Udp } else { Protocol::Tcp };
        let address = vip.parse::<IpAddr>().unwrap().into();
        let service = VirtualService {
            key: ServiceKey::Address { protocol, address, port: 80 },
            scheduler,
            scheduler_flags: flags,
            servers: Vec::new(),
            local_addresses: Vec::new(),
            options: ServiceOptions::default(),
            counters: Arc::new(TrafficCounters::new(WORKERS)),
        };
        let table = ServiceTable::default();
        let scheduler = Scheduler::new(&service, &table, 0);
        let from = Sequence { address: as_number(client), port: 20_000, address_step: 0, port_step: 1 };
        let to = Sequence { address: as_number(vip), port: 80, address_step: 0, port_step: 0 };
        let (servers, connections) = (BTreeMap::new(), Vec::new());
        World { service, servers, table, scheduler, connections, from, to, now: 0, prompt }
    }

    fn publish(&mut self) {
        let mut builder = ServiceTableBuilder::new(self.table.generation() + 1);
        builder.service(SERVICE, self.service.clone());
        for (id, server) in &self.servers {
            builder.server(*id, server.clone());
        }
        self.table = builder.build();
        if self.prompt {
            self.scheduler.update(&self.service, &self.table, ticks(self.now));
        }
    }

    fn add(&mut self, id: ServerId, weight: u32, thresholds: Thresholds) {
        let address = if self.service.key.family() == Family::V4 {
            Address::from_v4([10, 0, 2, id.0 as u8])
        } else {
            IpAddr::V6((as_number("2001:db8:2::") + u128::from(id.0)).into()).into()
        };
        let server = RealServer {
            service: SERVICE,
            service_key: self.service.key,
            address,
            port: 80,
            method: Method::Nat,
            encapsulation: Encapsulation::Ipip,
            weight,
            last_weight: weight,
            thresholds,
            edits: 0,
            timeouts: None,
            available: true,
            counters: Arc::new(ServerCounters::new(WORKERS)),
            service_counters: self.service.counters.clone(),
        };
        let again = self.servers.entry(id).and_modify(|known| {
            assert!(!known.available, "{id:?} added twice");
            let counters = known.counters.clone();
            *known = RealServer { counters, ..server.clone() };
        });
        again.or_insert(server);
        self.service.servers.insert(0, id);
    }

    fn edit(&mut self, id: ServerId, weight: u32, thresholds: Thresholds) {
        let server = self.servers.get_mut(&id).unwrap();
        (server.weight, server.thresholds) = (weight, thresholds);
        if weight > 0 {
            server.last_weight = weight;
        }
        server.edits += 1;
    }

    fn remove(&mut self, id: ServerId) {
        self.service.servers.retain(|server| *server != id);
        self.servers.get_mut(&id).expect("known server").available = false;
    }

    /// A new connection or flow, and who serves it.
    fn open(&mut self) -> Option<ServerId> {
        let is_v4 = self.service.key.family() == Family::V4;
        let ((source, source_port), (destination, _)) = (self.from.next(is_v4), self.to.next(is_v4));
        let arrival = Arrival { source, source_port, destination, now: ticks(self.now) };
        let server = self.scheduler.schedule(&self.service, &self.table, &arrival)?;
        self.servers[&server].counters.share(self.connections.len() % WORKERS).inactive.add(1);
        self.servers[&server].connections_changed();
        let udp = matches!(self.service.key, ServiceKey::Address { protocol: Protocol::Udp, .. });
        let state = if udp { State::Udp } else { State::None };
        self.connections.push(Connection { server, state, expires: None });
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
        let Connection { server, state, expires } = &mut self.connections[connection];
        let share = self.servers[server].counters.share(connection % WORKERS);
        let next = state.next(direction, flags, false);
        match (state.is_active(), next.is_active()) {
            (false, true) => (share.inactive.sub(1), share.active.add(1)),
            (true, false) => (share.active.sub(1), share.inactive.add(1)),
            _ => ((), ()),
        };
        *state = next;
        *expires = Some(self.now + Timeouts::default().seconds(next));
    }

    fn reset(&mut self, connection: usize) {
        let Connection { server, expires, state } = &self.connections[connection];
        if expires.is_some() && *state != State::Close {
            // Packets to a removed server are dropped; its own go through.
            let available = self.servers[server].available;
            self.packet(connection, if available { Direction::Input } else { Direction::Output }, RST);
        }
    }

    fn wait(&mut self, seconds: u32) {
        self.now += seconds;
        for (number, connection) in self.connections.iter_mut().enumerate() {
            if connection.expires.take_if(|expires| *expires <= self.now).is_some() {
                let server = &self.servers[&connection.server];
                let share = server.counters.share(number % WORKERS);
                if connection.state.is_active() { &share.active } else { &share.inactive }.sub(1);
                server.connections_changed();
            }
        }
    }
}

fn id(name: &str) -> ServerId {
    ServerId(
        name.strip_prefix("rs").and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("server {name:?}")),
    )
}

fn number_of(word: &str) -> u128 {
    word.parse().expect("a number")
}

fn flags(words: &[&str]) -> SchedulerFlags {
    let bit = |flag: &str| match flag {
        "flag-1" | "sh-fallback" | "mh-fallback" => 1,
        "flag-2" | "sh-port" | "mh-port" => 2,
        "flag-3" => 4,
        _ => panic!("flag {flag:?}"),
    };
    SchedulerFlags::new(words.first().map_or(0, |flags| flags.split(',').map(bit).sum()))
}

fn thresholds(words: &[&str]) -> Thresholds {
    let mut thresholds = Thresholds::default();
    for option in words.chunks(2) {
        let n = option[1].parse().expect("a threshold");
        match option[0] {
            "upper" => thresholds.upper = n,
            "lower" => thresholds.lower = n,
            word => panic!("threshold {word:?}"),
        }
    }
    thresholds
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
            let kind = SchedulerKind::from_name(words[1]).expect("known scheduler");
            world = Some(World::new(words[0], kind, flags(&words[2..]), prompt));
            world.as_mut().unwrap().publish();
            writeln!(answer, "{line}").unwrap();
            continue;
        }
        let world = world.as_mut().expect("a service comes first");
        match step {
            "add" => world.add(id(words[0]), words[1].parse().unwrap(), thresholds(&words[2..])),
            "edit" => world.edit(id(words[0]), words[1].parse().unwrap(), thresholds(&words[2..])),
            "wait" => world.wait(words[0].parse().unwrap()),
            "from" => {
                let (address, port) = (as_number(words[0]), words[1].parse().unwrap());
                let steps = words.get(2..5).map(|steps| (number_of(steps[1]), number_of(steps[2]) as u16));
                let (address_step, port_step) = steps.unwrap_or((0, 1));
                world.from = Sequence { address, port, address_step, port_step };
            }
            "to" => {
                world.to.address = as_number(words[0]);
                world.to.address_step = words.get(2).map_or(0, |step| number_of(step));
            }
            "method" => {
                assert_eq!(words[1], "direct");
                world.servers.get_mut(&id(words[0])).unwrap().method = Method::DirectRoute;
            }
            "scheduler" => {
                world.service.scheduler = SchedulerKind::from_name(words[0]).unwrap();
                world.service.scheduler_flags = flags(&words[1..]);
            }
            "delete" => world.remove(id(words[0])),
            "reset" => {
                let first = words[0].parse::<usize>().unwrap().min(world.connections.len());
                (0..first).for_each(|i| world.reset(i));
            }
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

const RECORDINGS: [(&str, &str); 4] = [
    ("order", include_str!("data/scheduler_order.txt")),
    ("hash", include_str!("data/scheduler_hash.txt")),
    ("load", include_str!("data/scheduler_load.txt")),
    ("thresholds", include_str!("data/scheduler_thresholds.txt")),
];

fn check(prompt: bool) {
    for (name, recorded) in RECORDINGS {
        let answer = replay(recorded, prompt);
        assert_eq!(recorded.lines().count(), answer.lines().count());
        let mut case = "";
        for (number, (recorded, answer)) in recorded.lines().zip(answer.lines()).enumerate() {
            if recorded.starts_with("case") {
                case = recorded;
            }
            assert_eq!(recorded, answer, "{name}, line {}, {case}", number + 1);
        }
        assert!(answer.lines().filter(|line| line.starts_with("case")).count() > 20);
    }
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
