//! When flows are in force, and what takes them out of it.

use std::sync::Arc;

use sluice_dataplane::conn::{Side, Tuple};
use sluice_dataplane::forward::Rewrite;
use sluice_dataplane::offload::{Flow, FlowMap, Key, Terms};
use sluice_dataplane::service::Protocol;
use sluice_dataplane::wire::{Address, checksum};

use crate::kernel::{Program, hops};

const PLACE: u32 = 3;
const TOKEN: u32 = 7;
const WORKER: u8 = 2;

fn tuple() -> Tuple {
    Tuple {
        source: Address::from_v4([198, 51, 100, 7]),
        destination: Address::from_v4([192, 0, 2, 10]),
        source_port: 40_000,
        destination_port: 80,
        protocol: Protocol::Tcp,
    }
}

fn frame(flags: u8) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 0xa, 2, 0, 0, 0, 0, 0xc, 8, 0];
    frame.extend([0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0, 198, 51, 100, 7, 192, 0, 2, 10]);
    let sum = !checksum::sum(0, &frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame.extend([0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 1, 0, 0, 0, 0, 0]);
    frame
}

const ACK: u8 = 0x10;

fn flow(program: &Program, hop: u16) -> Flow {
    let generation = program.board.generation();
    let terms = Terms { generation, token: TOKEN, place: PLACE, hop, worker: WORKER };
    Flow::new(&Rewrite::Keep, Side::Client, true, terms).expect("it can be carried")
}

fn carrying() -> Option<Program> {
    let mut program = Program::load(8)?;
    program.board.set_hops(&hops(10));
    program.board.set_token(PLACE, TOKEN);
    let flow = flow(&program, 0);
    program.enter(Key::of(&tuple()), flow);
    assert!(program.run(&frame(ACK)).is_some());
    Some(program)
}

#[test]
fn another_token_or_generation_ends_it() {
    let Some(mut program) = carrying() else { return };
    program.board.set_token(PLACE, TOKEN + 1);
    assert!(program.run(&frame(ACK)).is_none());
    program.board.set_token(PLACE, TOKEN);
    assert!(program.run(&frame(ACK)).is_some());
    program.board.invalidate();
    assert!(program.run(&frame(ACK)).is_none());
    let flow = flow(&program, 0);
    program.enter(Key::of(&tuple()), flow);
    assert!(program.run(&frame(ACK)).is_some());
    assert_eq!(program.board.carried(PLACE).packets, [3, 0]);
    program.map.take_out(&[Key::of(&tuple())]);
    assert!(program.run(&frame(ACK)).is_none());
}

#[test]
fn nobody_is_carried_for_the_dead() {
    let Some(program) = carrying() else { return };
    program.board.set_alive(WORKER.into(), 0);
    assert!(program.run(&frame(ACK)).is_none());
    program.board.set_alive(WORKER.into(), i64::MAX as u64 / 2);
    program.board.set_alive(usize::from(WORKER) + 1, 0);
    assert!(program.run(&frame(ACK)).is_some(), "another worker's death");
}

/// What may end a connection goes to the worker, and so does what comes after.
#[test]
fn what_may_end_it_closes_it() {
    for flags in [0x11, 0x14, 0x04, 0x02, 0x12, 0x00, 0x08] {
        let Some(mut program) = carrying() else { return };
        assert!(program.run(&frame(flags)).is_none(), "flags {flags:02x}");
        assert!(program.board.is_closed(PLACE, TOKEN));
        assert!(program.run(&frame(ACK)).is_none(), "after flags {flags:02x}");
        // The next connection at the place is another one.
        program.board.set_token(PLACE, TOKEN + 1);
        let flow = {
            let generation = program.board.generation();
            let terms = Terms { generation, token: TOKEN + 1, place: PLACE, hop: 0, worker: WORKER };
            Flow::new(&Rewrite::Keep, Side::Client, true, terms).expect("it can be carried")
        };
        program.enter(Key::of(&tuple()), flow);
        assert!(program.run(&frame(ACK)).is_some());
    }
}

#[test]
fn a_next_hop_that_changes_changes_what_is_sent() {
    let Some(program) = carrying() else { return };
    let mac = |frame: Vec<u8>| frame[..6].to_vec();
    let first = program.run(&frame(ACK)).map(mac);
    assert_eq!(first, Some(vec![2, 0, 0, 2, 0, 0]));
    // Its interface takes no frames any more.
    assert!(program.board.set_capable(0, false));
    assert!(program.run(&frame(ACK)).is_none());
    assert!(!program.board.is_usable(0) && program.board.is_usable(1));
    assert!(program.board.set_capable(0, true));
    assert!(program.run(&frame(ACK)).is_some());
    // Other routes: slots mean something else, and all flows end.
    let generation = program.board.generation();
    let mut others = sluice_dataplane::neigh::NextHopsBuilder::new(2);
    let egress = others.egress(sluice_dataplane::neigh::Egress::new(0, [2; 6]));
    others.neighbour(egress, Address::from_v4([10, 0, 0, 1]), Some([4; 6]));
    program.board.set_hops(&Arc::new(others.snapshot()));
    assert_ne!(program.board.generation(), generation);
    assert_eq!(program.board.hops_generation(), Some(2));
    assert!(program.run(&frame(ACK)).is_none());
    assert!(!program.board.is_usable(1), "it is not there any more");
    // The same ones, with another MAC.
    let generation = program.board.generation();
    others.neighbour(egress, Address::from_v4([10, 0, 0, 1]), None);
    program.board.set_hops(&Arc::new(others.build()));
    assert_eq!(program.board.generation(), generation);
    assert!(!program.board.is_usable(0), "it has no MAC");
}

/// A map has so much room and no more, and what does not fit is told.
#[test]
fn a_full_map_says_so() {
    let Some(mut program) = Program::load(2) else { return };
    program.board.set_hops(&hops(1));
    let flows: Vec<_> = (0..10u16)
        .map(|port| (Key::of(&Tuple { source_port: port, ..tuple() }), flow(&program, 0)))
        .collect();
    assert_eq!(program.map.enter(&flows), (4..10).collect::<Vec<_>>());
    assert_eq!(program.map.len().expect("it can be read"), 4);
    assert_eq!(program.map.complaint().and_then(|error| error.raw_os_error()), Some(libc::E2BIG));
    let keys: Vec<_> = flows.iter().map(|(key, _)| *key).rev().collect();
    program.map.take_out(&keys);
    assert!(program.map.is_empty().expect("it can be read"));
    assert_eq!(program.map.enter(&flows[..4]), Vec::<usize>::new());
}
