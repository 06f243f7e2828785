//! Connections that come and go at random, carried and not: no flow is without its
//! connection, and no packet is lost from the counts.

use std::collections::BTreeMap;

use sluice_dataplane::offload::Key;
use sluice_dataplane::service::Method;

use super::offload::Carried;
use crate::director::packets::{ACK, FIN, RST, SYN, tcp, udp};
use crate::director::random::Random;
use crate::director::{DNS_VIP, Director, SECOND, VIP};

/// Packets that arrived and were sent on, and those of them that were carried.
fn run(seed: u64, steps: usize) -> (u64, u64) {
    let mut random = Random(seed * 2 + 1);
    let method = [Method::Nat, Method::FullNat, Method::DirectRoute, Method::Tunnel][seed as usize % 4];
    let mut director = Director::serving(method);
    director.timeouts.set(30, 5, 8);
    director.publish();
    // Now and then there is no room for all.
    let (connections, room) = ([8, 40][random.below(2)], [1, 40][random.below(2)]);
    let mut carried = Carried::new(director, connections, room);
    let (mut packets, mut bytes, mut by_program) = (0u64, 0u64, 0u64);
    for step in 0..steps {
        let client = format!("198.51.100.{}:{}", 1 + random.below(5), 40_000 + random.below(4));
        let udp_too = random.below(2) == 0;
        let flags = match random.below(100) {
            0 => FIN | ACK,
            1 => RST,
            2..=8 => SYN,
            _ => ACK,
        };
        let frame = match udp_too {
            true => udp(&client, DNS_VIP).bytes(),
            false => tcp(&client, VIP, flags).bytes(),
        };
        for _ in 0..1 + random.below(12) {
            let (program, outcome) = carried.arrive(0, &frame);
            if program || !outcome.sent.is_empty() {
                packets += 1;
                bytes += frame.len() as u64 - 14;
                by_program += u64::from(program);
            }
        }
        match random.below(12) {
            0 => carried.director.pass(random.below(3 * SECOND as usize) as u64).sent.clear(),
            1 if random.below(8) == 0 => carried.board.invalidate(),
            2 if random.below(20) == 0 => carried.pass(40),
            _ => {}
        }
        if random.below(3) == 0 {
            carried.settle();
        }
        if step % 50 == 0 {
            check(&mut carried, (packets, bytes), seed, step);
        }
    }
    carried.pass(130);
    check(&mut carried, (packets, bytes), seed, steps);
    assert_eq!((carried.slots(), carried.director.list().len()), (0, 0), "seed {seed}");
    assert_eq!(carried.director.counters[0].offloaded.get(), 0);
    (packets, by_program)
}

fn check(carried: &mut Carried, expected: (u64, u64), seed: u64, step: usize) {
    // Everything that is on its way arrives, and all is gone through.
    carried.pass(3);
    let list = carried.director.list();
    let mut keys = BTreeMap::new();
    for connection in &list {
        let (client, service) = (connection.client, connection.service);
        keys.insert((client, service), connection.state);
    }
    let clients = list.iter().map(|record| {
        Key::of(&sluice_dataplane::conn::Tuple {
            source: record.client.0,
            destination: record.service.0,
            source_port: record.client.1,
            destination_port: record.service.1,
            protocol: record.protocol,
        })
    });
    let of_clients = clients.filter(|key| carried.board.has(key)).count();
    let sides = if list.iter().any(|record| record.method.has_replies()) { 2 } else { 1 };
    assert_eq!(carried.flows(), of_clients * sides, "seed {seed}, step {step}: {keys:?}");
    let table = carried.director.table();
    let counted = table.servers().map(|(_, server)| server.counters.traffic());
    let counted = counted.fold((0, 0), |sum, t| (sum.0 + t.in_packets, sum.1 + t.in_bytes));
    assert_eq!(counted, expected, "seed {seed}, step {step}: packets and bytes");
}

#[test]
fn no_flow_without_a_connection_and_no_packet_uncounted() {
    let sums = (0..60).map(|seed| run(seed, 400)).fold((0, 0), |sum, run| (sum.0 + run.0, sum.1 + run.1));
    let (packets, carried) = sums;
    assert!(carried * 10 > packets * 2, "only {carried} of {packets} were carried: nothing is shown");
}
