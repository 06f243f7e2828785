//! Connections that are opened, carried, idle out and are closed at random, by a
//! worker and the program: no flow without its connection, no lost count, and no
//! memory that grows.
//!
//! `SLUICE_CHURN_SECONDS` sets how long it takes, `SLUICE_CHURN_FLOWS` how many
//! connections there may be.

use std::env;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sluice_dataplane::offload::Share;
use sluice_dataplane::service::Method;

use crate::director::packets::{ACK, Datagram, FIN, RST, SYN, tcp, udp};
use crate::director::random::Random;
use crate::director::{DNS_VIP, Director, SECOND, VIP};
use crate::kernel::{Guard, Program};

fn setting(name: &str, otherwise: u64) -> u64 {
    env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// A director with the program.
struct Churn {
    director: Director,
    program: Program,
    /// What was sent on, by whoever had it
    packets: u64,
    bytes: u64,
    by_program: u64,
}

impl Churn {
    fn new(program: Program, flows: u32) -> Self {
        let mut director = Director::with(1, flows as usize);
        let (http, dns) = director.both_services();
        director.add_server(http, "10.0.2.1:80", Method::Nat, 1);
        director.add_server(dns, "10.0.2.1:53", Method::Nat, 1);
        director.timeouts.set(60, 10, 40);
        director.publish();
        program.board.set_hops(&director.published().hops.load());
        // A sign of life is from a time that is yet to come.
        let clock = i64::MAX as u64 / 2;
        let board = Arc::clone(&program.board);
        director.workers[0].carry(Share { board, connections: flows as usize, after: 3, clock });
        director.settle();
        Churn { director, program, packets: 0, bytes: 0, by_program: 0 }
    }

    fn settle(&mut self) {
        self.director.settle();
    }

    fn arrive(&mut self, packet: &Datagram) {
        let frame = packet.bytes();
        let carried = self.program.run(&frame).is_some();
        if carried || !self.director.arrive(0, &frame).sent.is_empty() {
            self.packets += 1;
            self.bytes += frame.len() as u64 - 14;
            self.by_program += u64::from(carried);
        }
    }

    fn pass(&mut self, seconds: u64) {
        for _ in 0..4 * seconds {
            self.director.pass(SECOND / 4);
            self.settle();
        }
    }

    fn check(&mut self) {
        // Everything that is on its way arrives, and all is gone through.
        self.pass(3);
        // Slots are kept for a moment after their flows are gone.
        self.director.pass(SECOND / 32);
        let (slots, _) = self.program.board.taken();
        let carried = self.director.counters[0].offloaded.get();
        let connections = self.director.workers[0].connections() as u64;
        assert_eq!(slots as u64, 2 * carried, "two flows of each of {carried} connections");
        assert!(carried <= connections, "{carried} of {connections} connections");
        let table = self.director.table();
        let counted = table.servers().map(|(_, server)| server.counters.traffic());
        let counted = counted.fold((0, 0), |sum, t| (sum.0 + t.in_packets, sum.1 + t.in_bytes));
        assert_eq!(counted, (self.packets, self.bytes), "packets and bytes");
    }
}

/// Bytes of memory of this process, and of the kernel for its maps.
fn memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("it can be read");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident = resident.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
    let maps: u64 = fs::read_dir("/proc/self/fdinfo")
        .expect("it can be read")
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok())
        .filter_map(|info| {
            let memlock = info.lines().find_map(|line| line.strip_prefix("memlock:"))?;
            memlock.trim().parse::<u64>().ok()
        })
        .sum();
    resident.unwrap_or(0) * 1024 + maps
}

#[test]
fn flows_come_and_go_with_their_connections() {
    let (seconds, flows) = (setting("SLUICE_CHURN_SECONDS", 4), setting("SLUICE_CHURN_FLOWS", 3000));
    let Some(program) = Program::load_under(Guard::alone(), flows as u32) else { return };
    let mut churn = Churn::new(program, flows as u32);
    let mut random = Random::new(setting("SLUICE_CHURN_SEED", 1));
    let (begun, mut rounds, mut high, mut first) = (Instant::now(), 0u64, 0, None);
    while begun.elapsed() < Duration::from_secs(seconds) || rounds < 8 {
        // A part of the clients talks in each round; the others idle.
        let base = random.below(flows as usize);
        for _ in 0..flows / 4 {
            let client = base + random.below(flows as usize / 3);
            let client =
                format!("198.51.{}.{}:{}", 100 + client / 60_000, 1 + client % 200, 1024 + client % 60_000);
            let packets = match random.below(20) {
                0 => vec![tcp(&client, VIP, FIN | ACK)],
                1 => vec![tcp(&client, VIP, RST)],
                2..=9 => vec![udp(&client, DNS_VIP); 1 + random.below(12)],
                _ => [vec![tcp(&client, VIP, SYN)], vec![tcp(&client, VIP, ACK); 1 + random.below(12)]]
                    .concat(),
            };
            packets.iter().for_each(|packet| churn.arrive(packet));
        }
        churn.pass(1 + random.below(4) as u64);
        if random.chance(5) {
            churn.program.board.invalidate();
        }
        rounds += 1;
        if rounds % 4 == 0 {
            churn.check();
            high = high.max(churn.director.counters[0].offloaded.get());
            // Once all was used for the first time.
            if rounds == 8 {
                first = Some(memory());
            }
        }
    }
    let last = memory();
    churn.pass(80);
    // A worker ends so many between two bursts, and there is none here.
    let over = Instant::now() + Duration::from_secs(60);
    while churn.director.workers[0].connections() > 0 && Instant::now() < over {
        churn.settle();
    }
    churn.check();
    println!(
        "{rounds} rounds, {} packets, {} of them carried, at most {high} of {} connections carried at a time, \
         memory {:?} MiB and then {} MiB",
        churn.packets,
        churn.by_program,
        flows,
        first.map(|bytes| bytes >> 20),
        last >> 20
    );
    assert!(churn.by_program * 20 > churn.packets, "only {} of {}", churn.by_program, churn.packets);
    assert_eq!(churn.director.workers[0].connections(), 0);
    assert_eq!(churn.program.board.taken(), (0, 0));
    let first = first.expect("there were so many rounds");
    assert!(last < first + first / 10 + (8 << 20), "memory grew from {first} to {last} bytes");
}
