//! Recorded conversations with IPVS (`data/tcp_transitions.txt`), packet by packet
//! through a worker, and through the program that carries for it where that is
//! wanted (see [`crate::director::carried`]): each state is reached by packets, and
//! the recorded packet leads to the recorded state and time.

use std::collections::BTreeMap;

use sluice_dataplane::service::Method;

use crate::director::packets::{ACK, FIN, RST, SYN, tcp};
use crate::director::{Director, INSIDE, SECOND, SERVER, VIP, server_mac};

const PSH: u8 = 0x08;

/// Whether it comes from the server, and its flags.
type Step = (bool, u8);

/// How each state is reached.
fn ways(method: Method) -> BTreeMap<&'static str, Vec<Step>> {
    let (opened, answered) = ((false, SYN), (true, SYN | ACK));
    let begun = match method {
        Method::Nat => vec![opened, answered, (false, ACK)],
        _ => vec![opened, (false, ACK)],
    };
    // The second one of these is carried.
    let talking = match method {
        Method::Nat => [&begun[..], &[(true, ACK), (false, ACK), (true, ACK)]].concat(),
        _ => [&begun[..], &[(false, ACK), (false, ACK)]].concat(),
    };
    let then = |step: Step| [&talking[..], &[step]].concat();
    let mut ways = BTreeMap::from([
        ("SYN_RECV", vec![opened]),
        ("ESTABLISHED", talking.clone()),
        ("CLOSE", then((method == Method::Nat, RST))),
    ]);
    match method {
        Method::Nat => {
            ways.insert("SYN_SENT", [then((true, RST)), vec![(true, SYN)]].concat());
            ways.insert("CLOSE_WAIT", then((false, FIN | ACK)));
            ways.insert("FIN_WAIT", then((true, FIN | ACK)));
            ways.insert("TIME_WAIT", [then((false, FIN | ACK)), vec![(true, FIN | ACK)]].concat());
        }
        _ => {
            ways.insert("FIN_WAIT", then((false, FIN | ACK)));
            ways.insert("TIME_WAIT", vec![opened, (false, FIN)]);
        }
    }
    ways
}

fn flags(letters: &str) -> u8 {
    let flag = |letter| match letter {
        'F' => FIN,
        'S' => SYN,
        'R' => RST,
        'P' => PSH,
        'A' => ACK,
        '.' => 0,
        _ => panic!("flag {letter:?}"),
    };
    letters.chars().map(flag).fold(0, |all, flag| all | flag)
}

fn send(director: &mut Director, client: &str, (from_server, flags): Step) {
    match from_server {
        true => {
            let answer = tcp(SERVER, client, flags).link(server_mac(1), INSIDE);
            director.arrive(1, &answer.bytes())
        }
        false => director.arrive(0, &tcp(client, VIP, flags).bytes()),
    };
}

/// The state of a client's connection, and how long it lasts.
fn state(director: &mut Director, client: &str) -> Option<(&'static str, u32)> {
    let list = director.list();
    let found = list.iter().find(|record| format!("{}:{}", record.client.0, record.client.1) == client);
    found.map(|record| (record.state, record.expires))
}

/// How many cases there were.
fn follow(method: Method, name: &str) -> usize {
    let (mut director, mut checked) = (Director::serving(method), 0);
    let ways = ways(method);
    for line in include_str!("../data/tcp_transitions.txt").lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [of, before, direction, letters, after, seconds] = words[..] else { continue };
        if of != name || line.starts_with('#') {
            continue;
        }
        let way = ways.get(before).unwrap_or_else(|| panic!("no way to {before}"));
        let client = format!("198.51.100.7:{}", 40_000 + checked);
        way.iter().for_each(|step| send(&mut director, &client, *step));
        let reached = state(&mut director, &client).map(|(state, _)| state);
        assert_eq!(reached, Some(before), "{line}");
        // So that it shows that time begins anew.
        director.pass(5 * SECOND);
        send(&mut director, &client, (direction == "out", flags(letters)));
        director.pass(2 * SECOND);
        checked += 1;
        if after == "gone" {
            assert_eq!(state(&mut director, &client), None, "{line}");
            continue;
        }
        let seconds: u32 = seconds.parse().expect("a number");
        let (found, left) = state(&mut director, &client).unwrap_or_else(|| panic!("{line}: it is gone"));
        assert_eq!(found, after, "{line}");
        // What was carried is known of within two seconds.
        assert!((seconds - 3..=seconds).contains(&left), "{line}: {left} seconds");
    }
    if director.carries() {
        assert!(director.carried() > 50, "{name}: only {} packets were carried", director.carried());
    }
    checked
}

#[test]
fn states_are_those_of_ipvs_packet_by_packet() {
    for (method, name, cases) in [(Method::Nat, "nat", 168), (Method::DirectRoute, "direct", 60)] {
        assert_eq!(follow(method, name), cases, "{name}");
    }
}
