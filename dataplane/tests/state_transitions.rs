//! States against IPVS: the recorded transitions of `data/*_transitions*.txt`.

use sluice_dataplane::conn::{Direction, State, Timeouts};
use sluice_dataplane::wire::sctp::Chunk;

fn state(name: &str) -> State {
    State::ALL.into_iter().find(|state| state.name() == name).unwrap_or_else(|| panic!("state {name:?}"))
}

fn flags(letters: &str) -> u8 {
    letters
        .chars()
        .map(|letter| match letter {
            'F' => 0x01,
            'S' => 0x02,
            'R' => 0x04,
            'P' => 0x08,
            'A' => 0x10,
            '.' => 0,
            _ => panic!("flag {letter:?}"),
        })
        .fold(0, |all, flag| all | flag)
}

#[test]
fn transitions_are_those_of_ipvs() {
    follow(include_str!("data/tcp_transitions.txt"), false);
}

#[test]
fn transitions_under_attack_are_those_of_ipvs() {
    follow(include_str!("data/tcp_transitions_secure.txt"), true);
}

fn follow(recorded: &str, secure: bool) {
    let timeouts = Timeouts::default();
    let mut checked = 0;
    for line in recorded.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [method, before, direction, letters, after, seconds] = words[..] else {
            assert!(line.is_empty() || line.starts_with('#'), "{line}");
            continue;
        };
        let direction = match (method, direction) {
            ("nat", "in") => Direction::Input,
            ("nat", "out") => Direction::Output,
            ("direct", "in") => Direction::InputOnly,
            _ => panic!("{line}"),
        };
        let (mut from, flags) = (state(before), flags(letters));
        let opens_anew = from.is_over() && direction != Direction::Output && flags & 0x02 != 0;
        if opens_anew {
            assert_eq!(flags & 0x04 != 0, after == "gone", "{line}");
            from = State::None;
        }
        if after != "gone" {
            let next = from.next(direction, flags, secure);
            assert_eq!(next.name(), after, "{line}");
            assert_eq!(timeouts.seconds(next).to_string(), seconds, "{line}");
        }
        checked += 1;
    }
    assert!(checked > 200, "only {checked} transitions");
}

#[test]
fn sctp_transitions_are_those_of_ipvs() {
    let timeouts = Timeouts::default();
    let mut checked = 0;
    for line in include_str!("data/sctp_transitions.txt").lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let [method, before, direction, kinds, after, seconds] = words[..] else { panic!("{line}") };
        let kinds: Vec<u8> = kinds.split('+').map(|kind| kind.parse().unwrap()).collect();
        let chunks: Vec<u8> = kinds.iter().flat_map(|kind| [*kind, 0, 0, 4]).collect();
        let chunk = Chunk::deciding(&chunks);
        let (begins, direction) = match (method, direction) {
            ("nat-sloppy", "in") => (chunk != Chunk::Abort, Direction::Input),
            ("direct-sloppy", "in") => (chunk != Chunk::Abort, Direction::InputOnly),
            ("nat", "in") => (chunk == Chunk::Init, Direction::Input),
            ("nat", "out") => (false, Direction::Output),
            ("direct", "in") => (chunk == Chunk::Init, Direction::InputOnly),
            _ => panic!("{line}"),
        };
        let is_it = |state: &State| state.is_of_sctp() && state.name() == before;
        let mut from = State::ALL.into_iter().find(is_it).unwrap_or_else(|| panic!("{line}"));
        checked += 1;
        if from == State::SctpNone && !begins {
            assert_eq!(after, "gone", "{line}");
            continue;
        }
        if from.is_over() && chunk == Chunk::Init && direction != Direction::Output {
            from = State::SctpNone;
        }
        let next = from.next(direction, chunk as u8, false);
        assert_eq!((next.name(), timeouts.seconds(next).to_string().as_str()), (after, seconds), "{line}");
    }
    assert!(checked > 800, "only {checked} transitions");
}
