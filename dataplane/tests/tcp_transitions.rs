//! TCP states against IPVS: the recorded transitions of
//! `data/tcp_transitions.txt`.

use sluice_dataplane::conn::{Direction, State, Timeouts};

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
    let timeouts = Timeouts::default();
    let mut checked = 0;
    for line in include_str!("data/tcp_transitions.txt").lines() {
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
            let next = from.next(direction, flags, false);
            assert_eq!(next.name(), after, "{line}");
            assert_eq!(timeouts.seconds(next).to_string(), seconds, "{line}");
        }
        checked += 1;
    }
    assert!(checked > 200, "only {checked} transitions");
}
