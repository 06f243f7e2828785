//! When flows are in force, and what takes them out of it.

use std::sync::Arc;

use sluice_dataplane::conn::Tuple;
use sluice_dataplane::forward::Rewrite;
use sluice_dataplane::offload::{Carried, Entered, Flow, Held, Key};
use sluice_dataplane::service::Protocol;
use sluice_dataplane::wire::{Address, checksum};

use crate::kernel::{OWNER, Program, hops};

const WORKER: u8 = 2;
const TOKEN: u32 = (WORKER as u32) << 24 | 7;

const CLIENT: ([u8; 4], u16) = ([198, 51, 100, 7], 40_000);
const VIP: ([u8; 4], u16) = ([192, 0, 2, 10], 80);
const SERVER: ([u8; 4], u16) = ([10, 0, 2, 1], 80);

fn tuple(source: ([u8; 4], u16), destination: ([u8; 4], u16)) -> Tuple {
    Tuple {
        source: Address::from_v4(source.0),
        destination: Address::from_v4(destination.0),
        source_port: source.1,
        destination_port: destination.1,
        protocol: Protocol::Tcp,
    }
}

fn frame_between(source: ([u8; 4], u16), destination: ([u8; 4], u16), flags: u8) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 0xa, 2, 0, 0, 0, 0, 0xc, 8, 0];
    frame.extend([0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0]);
    frame.extend([source.0, destination.0].concat());
    let sum = !checksum::sum(0, &frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame.extend([source.1.to_be_bytes(), destination.1.to_be_bytes()].concat());
    frame.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 1, 0, 0, 0, 0, 0]);
    frame
}

fn frame(flags: u8) -> Vec<u8> {
    frame_between(CLIENT, VIP, flags)
}

fn answer(flags: u8) -> Vec<u8> {
    frame_between(SERVER, CLIENT, flags)
}

const ACK: u8 = 0x10;

fn flow(tuple: &Tuple) -> Entered {
    let flow = Flow::new(&Rewrite::Keep, true, 0).expect("it can be carried");
    (Key::of(tuple), flow)
}

fn enter(program: &Program, token: u32) -> Held {
    program.enter(token, &flow(&tuple(CLIENT, VIP)), Some(&flow(&tuple(SERVER, CLIENT))))
}

fn carrying() -> Option<(Program, Held)> {
    let program = Program::load(8)?;
    program.board.set_hops(&hops(10));
    let held = enter(&program, TOKEN);
    assert!(program.run(&frame(ACK)).is_some() && program.run(&answer(ACK)).is_some());
    Some((program, held))
}

#[test]
fn another_generation_ends_it_and_so_does_its_worker() {
    let Some((program, held)) = carrying() else { return };
    program.board.invalidate();
    assert!(program.run(&frame(ACK)).is_none() && program.run(&answer(ACK)).is_none());
    // It is entered anew, while the slots that it had are kept still.
    program.board.withdraw(&held);
    let again = enter(&program, TOKEN + 1);
    assert!(program.run(&frame(ACK)).is_some() && program.run(&answer(ACK)).is_some());
    assert_eq!(program.board.taken(), (4, 2));
    let one = Carried { packets: [1; 2], bytes: [40; 2] };
    assert_eq!((program.board.settle(&held), program.board.settle(&again)), (one, one));
    assert_eq!(program.board.settle(&held), Carried::default(), "it was taken");
    program.board.release(&held);
    program.board.withdraw(&again);
    assert!(program.run(&frame(ACK)).is_none() && program.run(&answer(ACK)).is_none());
    program.board.release(&again);
    assert_eq!(program.board.taken(), (0, 0));
}

/// Two connections of the same packets would be two for the program.
#[test]
fn a_key_that_is_there_is_left_alone() {
    let Some((program, held)) = carrying() else { return };
    let generation = program.board.generation();
    let client = flow(&tuple(CLIENT, VIP));
    assert_eq!(program.board.enter((generation, TOKEN + 1), OWNER, &client, None), None);
    let other = flow(&tuple(VIP, CLIENT));
    let answers = flow(&tuple(SERVER, CLIENT));
    assert_eq!(program.board.enter((generation, TOKEN + 1), OWNER, &other, Some(&answers)), None);
    assert_eq!(program.board.taken(), (2, 2));
    program.take_out(&held);
    assert!(program.board.enter((generation, TOKEN + 1), OWNER, &client, None).is_some());
}

#[test]
fn nobody_is_carried_for_the_dead() {
    let Some((program, _)) = carrying() else { return };
    program.board.set_alive(WORKER.into(), 0);
    assert!(program.run(&frame(ACK)).is_none());
    program.board.set_alive(WORKER.into(), i64::MAX as u64 / 2);
    program.board.set_alive(usize::from(WORKER) + 1, 0);
    assert!(program.run(&frame(ACK)).is_some(), "another worker's death");
}

/// What may end a connection goes to the worker, and so does what comes after, by
/// either way.
#[test]
fn what_may_end_it_closes_it() {
    for (number, flags) in [0x11, 0x14, 0x04, 0x02, 0x12, 0x00, 0x08].into_iter().enumerate() {
        let Some((program, held)) = carrying() else { return };
        let ends = if number % 2 == 0 { frame(flags) } else { answer(flags) };
        assert!(!program.board.is_closed(&held));
        assert!(program.run(&ends).is_none(), "flags {flags:02x}");
        assert!(program.board.is_closed(&held));
        assert!(program.run(&frame(ACK)).is_none(), "after flags {flags:02x}");
        assert!(program.run(&answer(ACK)).is_none(), "after flags {flags:02x}");
        // The next connection at the same slots is another one.
        program.take_out(&held);
        let next = enter(&program, TOKEN + 1);
        assert_ne!(next, held);
        assert!(program.run(&frame(ACK)).is_some() && program.run(&answer(ACK)).is_some());
    }
}

#[test]
fn a_next_hop_that_changes_changes_what_is_sent() {
    let Some((program, _)) = carrying() else { return };
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
