//! Replays recordings of ipvsadm 1.31 on Linux 6.1 against our command line.
//!
//! Each recording is replayed twice: with rules that take all that IPVS takes,
//! which shows that parser and printers are complete, and with the rules of
//! this version, which refuse some. What differs from the recording must be
//! listed in `golden/differences.txt` with a reason, and what is listed there
//! must differ.
//!
//! `UPDATE_DIFFERENCES=1 cargo test -p sluice-control --test ipvsadm`
//! writes the file anew; reasons are kept, and missing ones have to be filled
//! in.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use crate::recording::{Outcome, Step, read_recording};
use crate::stage::Stage;

const NO_REASON: &str = "REASON MISSING";

/// The recordings by name, and whether this version's refusals are part of
/// the replay.
const REPLAYS: [(&str, bool); 3] = [("cli_basic", false), ("cli_basic", true), ("cli_options", false)];

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn part_name(recording: &str, refusing: bool) -> String {
    format!("{recording}, {}", if refusing { "as in this version" } else { "with all of IPVS" })
}

#[derive(Clone, PartialEq, Debug)]
struct Difference {
    reason: String,
    outcome: Outcome,
}

/// Differences by part and by command, with a number where a command occurs
/// more than once.
type Differences = BTreeMap<String, Vec<(String, Difference)>>;

fn parse_differences(text: &str) -> Differences {
    let mut parts = Differences::new();
    let mut part = String::new();
    let mut reason = String::new();
    let mut entry: Option<(String, Vec<&str>)> = None;
    for line in text.lines() {
        if let Some((key, lines)) = &mut entry {
            lines.push(line);
            if line.starts_with("=> ") {
                let outcome = Outcome::parse(lines);
                let difference = Difference { reason: reason.clone(), outcome };
                parts.entry(part.clone()).or_default().push((key.clone(), difference));
                entry = None;
            }
        } else if let Some(name) = line.strip_prefix("## ") {
            part = name.to_owned();
        } else if let Some(text) = line.strip_prefix("# ") {
            reason = text.to_owned();
        } else if let Some(key) = line.strip_prefix("$ ") {
            entry = Some((key.to_owned(), Vec::new()));
        }
    }
    parts
}

fn print_differences(parts: &Differences) -> String {
    let mut text =
        String::from("Where our command line differs from the recordings, and why. See golden.rs.\n");
    for (part, entries) in parts {
        write!(text, "\n## {part}\n").unwrap();
        let mut last = "";
        for (key, Difference { reason, outcome }) in entries {
            if reason != last {
                write!(text, "\n# {reason}\n").unwrap();
                last = reason;
            }
            write!(text, "$ {key}\n{outcome}").unwrap();
        }
    }
    text
}

/// The kernel lists services in the order of a seeded hash where ipvsadm does
/// not sort them: there each service is compared by itself.
fn comparable(command: &str, outcome: &Outcome) -> Outcome {
    let mut outcome = outcome.clone();
    if !command.contains("--nosort") {
        return outcome;
    }
    let mut services: Vec<Vec<String>> = Vec::new();
    for line in outcome.stdout.drain(..) {
        let of_service = line.starts_with("  -> ") || services.is_empty();
        match services.last_mut() {
            Some(last) if of_service => last.push(line),
            _ => services.push(vec![line]),
        }
    }
    services.sort();
    outcome.stdout = services.concat();
    outcome
}

/// What differs, in the order of the recording.
fn replay(recording: &str, refusing: bool) -> Vec<(String, Outcome)> {
    let text = std::fs::read_to_string(golden(&format!("{recording}.txt"))).unwrap();
    let steps = read_recording(&text);
    assert!(steps.len() > 100, "the recording is read");
    let mut stage = Stage::new(refusing);
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    let mut different = Vec::new();
    for Step { command, input, expected } in &steps {
        let count = seen.entry(command).or_default();
        *count += 1;
        let Some(outcome) = stage.shell(command, input) else { continue };
        if comparable(command, &outcome) != comparable(command, expected) {
            let key = if *count == 1 { command.clone() } else { format!("{command} ({count})") };
            different.push((key, outcome));
        }
    }
    different
}

#[test]
fn only_listed_differences_from_the_recordings() {
    let path = golden("differences.txt");
    let read = || parse_differences(&std::fs::read_to_string(&path).unwrap());
    let mut listed = read();
    let mut found = Differences::new();
    for (recording, refusing) in REPLAYS {
        let part = part_name(recording, refusing);
        let known = listed.get(&part).cloned().unwrap_or_default();
        let reason = |key: &str| {
            known.iter().find(|(k, _)| k == key).map_or(NO_REASON, |(_, difference)| &difference.reason)
        };
        let entries = replay(recording, refusing)
            .into_iter()
            .map(|(key, outcome)| {
                let reason = reason(&key).to_owned();
                (key, Difference { reason, outcome })
            })
            .collect();
        found.insert(part, entries);
    }
    found.retain(|_, entries| !entries.is_empty());
    if std::env::var_os("UPDATE_DIFFERENCES").is_some() {
        std::fs::write(&path, print_differences(&found)).unwrap();
        listed = read();
    }
    for (part, entries) in &found {
        let known = listed.get(part).map(Vec::as_slice).unwrap_or_default();
        for (key, difference) in entries {
            let expected = known.iter().find(|(k, _)| k == key).map(|(_, d)| &d.outcome);
            assert_eq!(
                expected,
                Some(&difference.outcome),
                "{part}: `{key}` differs from the recording and not as listed; ours is\n{}",
                difference.outcome
            );
            assert_ne!(difference.reason, NO_REASON, "{part}: `{key}` needs a reason");
        }
    }
    for (part, entries) in &listed {
        for (key, _) in entries {
            let differs = found.get(part).is_some_and(|found| found.iter().any(|(k, _)| k == key));
            assert!(differs, "{part}: `{key}` no longer differs; take it off the list");
        }
    }
}
