//! How much goes into the tables, and that all of it is found.

use sluice_dataplane::conn::Tuple;
use sluice_dataplane::forward::Rewrite;
use sluice_dataplane::offload::{Entered, Flow, Held, Key};
use sluice_dataplane::service::Protocol;
use sluice_dataplane::wire::Address;

use crate::differential::sound_frame;
use crate::kernel::{OWNER, Program, hops};

/// Tuples as a site has them: few servers, clients in a row.
fn tuple(number: u32, is_v4: bool) -> Tuple {
    let [_, a, b, c] = number.to_be_bytes();
    let (source, destination) = match is_v4 {
        true => (Address::from_v4([10, a, b, 7]), Address::from_v4([192, 0, 2, 1])),
        false => {
            let at = |last| [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, last];
            (Address::from_v6(at(7)), Address::from_v6(at(1)))
        }
    };
    Tuple {
        source,
        destination,
        source_port: 40_000 + u16::from(c),
        destination_port: 80,
        protocol: if number.is_multiple_of(3) { Protocol::Udp } else { Protocol::Tcp },
    }
}

fn flow(number: u32, is_v4: bool) -> Entered {
    let flow = Flow::new(&Rewrite::Keep, is_v4, 0).expect("it can be carried");
    (Key::of(&tuple(number, is_v4)), flow)
}

/// The program finds what is there and nothing else, wherever it is.
#[test]
fn a_full_table_has_what_was_entered() {
    const CONNECTIONS: u32 = 2000;
    let Some(program) = Program::load(CONNECTIONS) else { return };
    program.board.set_hops(&hops(1));
    for is_v4 in [true, false] {
        let generation = program.board.generation();
        let mut held: Vec<Option<Held>> = Vec::new();
        for number in 0..2 * CONNECTIONS {
            let entered = program.board.enter((generation, number + 1), OWNER, &flow(number, is_v4), None);
            held.push(entered);
        }
        let fit = held.iter().flatten().count() as u32;
        assert!(fit * 1000 >= 2 * CONNECTIONS * 999, "only {fit} of {}", 2 * CONNECTIONS);
        let check = |held: &[Option<Held>]| {
            for (number, held) in held.iter().enumerate() {
                let tuple = tuple(number as u32, is_v4);
                let carried = program.run(&sound_frame(&tuple)).is_some();
                assert_eq!(carried, held.is_some(), "{number}: {tuple:?}");
            }
        };
        check(&held);
        // A flow that goes leaves those behind it to be found.
        for held in held.iter_mut().step_by(3) {
            if let Some(held) = held.take() {
                program.take_out(&held);
            }
        }
        check(&held);
        held.iter().flatten().for_each(|held| program.take_out(held));
    }
    assert_eq!(program.board.taken(), (0, 0));
}

/// A table has so much room and no more, and what does not fit is refused.
#[test]
fn what_does_not_fit_is_refused() {
    let Some(program) = Program::load(4) else { return };
    let enter = |number: u32| {
        let (client, server) = (flow(2 * number, true), flow(2 * number + 1, true));
        program.board.enter((program.board.generation(), number + 1), OWNER, &client, Some(&server))
    };
    let held: Vec<Held> = (0..1000).filter_map(enter).collect();
    // Slots of four connections, as many again, and the last one's window.
    assert!((6..=(16 + 120) / 2).contains(&held.len()), "{}", held.len());
    // Half of a connection is none.
    assert_eq!(program.board.taken(), (2 * held.len(), 2 * held.len()));
    held.iter().for_each(|held| program.take_out(held));
    assert_eq!(program.board.taken(), (0, 0));
    assert!(enter(1).is_some());
}
