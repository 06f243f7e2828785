//! Connections that begin and end at random while the peer comes and goes.

use std::collections::BTreeSet;

use super::director::{ConnectionEnd, client};
use super::*;

/// Connections of which some begin or end.
const CONNECTIONS: u32 = 10_000;

/// How often the peer comes.
const ROUNDS: u32 = 10;

/// As reset connections are forgotten after ten seconds, one is enough so.
const SPEED: u64 = 10;

/// xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, below: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % u64::from(below)) as u32
    }
}

#[test]
fn tables_are_equal_after_connections_at_random_and_a_peer_that_comes_and_goes() {
    let [one_end, other_end] = ends();
    let one = Director::hasty(2, SPEED);
    let first = start(&one, one_end, other_end, 1);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut open = BTreeSet::new();
    let mut other = Director::hasty(1, SPEED);
    let mut second = Some(start(&other, other_end, one_end, 1));
    for round in 0..ROUNDS {
        // It is there for anything from no time to a good while, and told meanwhile or not.
        if round % 3 == 0 {
            wait_for("the peer", || first.status().outgoing.connected);
        }
        for _ in 0..random.below(40) + 10 {
            for _ in 0..100 {
                let number = random.below(CONNECTIONS);
                if open.insert(client(number)) {
                    one.packet(number, tcp::SYN);
                    one.packet(number, tcp::ACK);
                } else {
                    open.remove(&client(number));
                    one.packet(number, tcp::RST);
                }
            }
            thread::sleep(Duration::from_millis(u64::from(random.below(10))));
        }
        if round + 1 == ROUNDS {
            break;
        }
        second = None;
        // Now its table is lost with it, now only the stream.
        if round % 2 == 0 {
            other = Director::hasty(1 + round as usize % 4 / 2, SPEED);
        }
        second = second.or_else(|| Some(start(&other, other_end, one_end, 1)));
    }
    let established = |all: &[(ConnectionEnd, &str)]| -> BTreeSet<ConnectionEnd> {
        all.iter().filter(|(_, state)| *state == "ESTABLISHED").map(|(client, _)| *client).collect()
    };
    wait_for("what is open at the one", || established(&one.connections()) == open);
    wait_for_equality(&one, &other);
    assert_eq!(established(&other.connections()), open);
    assert!(open.len() > 1000, "{} connections are not enough", open.len());
    // What ended is forgotten by both.
    wait_for("the rest to be forgotten", || one.connections().len() == open.len());
    wait_for_equality(&one, &other);
    assert!(first.status().outgoing.transfers >= u64::from(ROUNDS) / 3, "{:?}", first.status());
    drop(second);
}
