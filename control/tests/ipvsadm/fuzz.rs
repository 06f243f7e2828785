//! `ipvsadm -R` with anything for input: nothing panics, the director goes on,
//! what is said is in proportion to what was read, and what was taken can be
//! saved and restored.

use std::cell::Cell;
use std::io::{BufReader, Read};

use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};
use sluice_control::ipvsadm::{Environment, called};

use crate::stage::{RecordedNames, Stage};

const OPTIONS: &[&str] = &[
    "-A",
    "-E",
    "-D",
    "-C",
    "-R",
    "-S",
    "-a",
    "-e",
    "-d",
    "-L",
    "-Z",
    "-Ln",
    "-Lnc",
    "-h",
    "-P",
    "-Q",
    "-G",
    "--add-service",
    "--set",
    "--start-daemon",
    "--stop-daemon",
    "-t",
    "-u",
    "-f",
    "--sctp-service",
    "-s",
    "-p",
    "-M",
    "-r",
    "-g",
    "-i",
    "-m",
    "-b",
    "-w",
    "-x",
    "-y",
    "-o",
    "-n",
    "-c",
    "-6",
    "-z",
    "--pe",
    "--tun-type",
    "--tun-port",
    "--tun-nocsum",
    "--tun-csum",
    "--tun-remcsum",
    "--stats",
    "--rate",
    "--persistent=5",
    "--exact",
    "--json",
    "--",
    "--socket",
    "--socket=/nowhere",
    "-",
    "--mcast-interface",
    "ipvsadm",
    "#",
];
const VALUES: &[&str] = &[
    "10.0.0.1:80",
    "10.0.0.1:5060",
    "10.0.0.2:0",
    "10.0.0.3",
    "[2001:db8::1]:80",
    "2001:db8::1",
    "::ffff:1.2.3.4:80",
    "[::]:1",
    "0.0.0.0:0",
    "255.255.255.255:65535",
    "1.2.3.4:65536",
    "224.0.0.1:1",
    "rr",
    "wrr",
    "lc",
    "wlc",
    "sh",
    "dh",
    "mh",
    "sed",
    "nq",
    "fo",
    "ovf",
    "lblc",
    "lblcr",
    "sip",
    "sip,sip",
    "ipip",
    "gue",
    "gre",
    "0",
    "1",
    "7",
    "64",
    "65535",
    "65536",
    "4294967295",
    "4294967296",
    "-1",
    "99999999999999999999",
    "255.255.255.0",
    "0.0.0.0",
    "128",
    "129",
    "sh-port",
    "flag-1,flag-2",
    "mh-port,nonsense",
    "master",
    "backup",
    "",
    ",",
    "\u{fe0f}",
    "a\u{301}",
];

fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => prop::sample::select(OPTIONS).prop_map(str::to_owned),
        6 => prop::sample::select(VALUES).prop_map(str::to_owned),
        1 => "\\PC{0,12}",
        1 => "-{1,3}[a-zA-Z0-9=]{0,8}",
    ]
}

/// A line as a save has it.
fn rule() -> impl Strategy<Value = String> {
    const SCHEDULERS: &[&str] =
        &["rr", "wrr", "lc", "wlc", "mh", "sh", "sed", "nq", "ovf", "fo", "dh", "lblc"];
    let settings = |more: &'static [&'static str]| {
        (prop::sample::select(SCHEDULERS), prop::sample::select(more))
            .prop_map(|(name, more)| format!("-s {name} {more}"))
    };
    const TCP: &[&str] = &["", "-p 60", "-p 60 -M 255.255.0.0", "-p"];
    const UDP: &[&str] = &["", "-o", "-p 60 --pe sip", "-p 9 -o --pe sip", "-p 300 -M 255.255.0.0"];
    const UDP6: &[&str] = &["", "-o", "-p 60 --pe sip", "-p 5 -M 64"];
    let service = prop_oneof![
        (1..4u8, 1..4u16, settings(TCP)).prop_map(|(a, port, rest)| (format!("-t 10.0.0.{a}:{port}"), rest)),
        (1..4u8, 1..4u16, settings(UDP)).prop_map(|(a, port, rest)| (format!("-u 10.0.0.{a}:{port}"), rest)),
        (1..4u16, settings(UDP6)).prop_map(|(port, rest)| (format!("-u [2001:db8::1]:{port}"), rest)),
        (1..4u32, settings(TCP)).prop_map(|(mark, rest)| (format!("-f {mark}"), rest)),
    ];
    let server = (
        1..4u8,
        1..4u16,
        prop::sample::select(
            &["-m", "-g", "-i", "-b", "-i --tun-type gre", "-i --tun-type gue --tun-port 6080 --tun-csum"][..],
        ),
        prop::sample::select(&["", "-w 0", "-w 7", "-x 9 -y 4", "-w 65535 -x 1"][..]),
    );
    (0..7u8, service, server).prop_map(|(verb, (service, settings), (a, port, method, weight))| match verb {
        0..3 => format!("-A {service} {settings}"),
        3 => format!("-E {service} {settings}"),
        4 => format!("-D {service}"),
        _ => format!("-a {service} -r 10.0.1.{a}:{port} {method} {weight}"),
    })
}

/// A line of any kind, also one that was right before some of its characters
/// changed.
fn line() -> impl Strategy<Value = Vec<u8>> {
    let changed = (rule(), prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4))
        .prop_map(|(rule, changes)| {
            let mut bytes = rule.into_bytes();
            for (place, byte) in changes {
                let place = place.index(bytes.len());
                match byte % 3 {
                    0 => bytes[place] = byte,
                    1 => bytes.insert(place, byte),
                    _ if bytes.len() > 1 => _ = bytes.remove(place),
                    _ => {}
                }
            }
            bytes
        });
    prop_oneof![
        60 => rule().prop_map(String::into_bytes),
        3 => changed,
        2 => prop::collection::vec(word(), 0..10).prop_map(|words| words.join(" ").into_bytes()),
        1 => prop::collection::vec(any::<u8>(), 0..80),
    ]
}

fn run(stage: &Stage, words: &[&str], input: &mut dyn std::io::BufRead) -> (Vec<u8>, Vec<u8>, u8) {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut environment = Environment {
        stdin: input,
        stdout: &mut stdout,
        stderr: &mut stderr,
        names: &RecordedNames,
        socket: Some(stage.socket().to_owned()),
    };
    let words: Vec<_> = words.iter().map(|word| word.to_string()).collect();
    let status = called("ipvsadm", &words, &mut environment);
    (stdout, stderr, status)
}

fn saved(stage: &Stage) -> String {
    let (stdout, stderr, status) = run(stage, &["-Sn"], &mut &b""[..]);
    assert_eq!((status, String::from_utf8_lossy(&stderr).as_ref()), (0, ""));
    String::from_utf8(stdout).unwrap()
}

#[test]
fn any_input_of_a_restore_is_survived() {
    let stage = Stage::new(true);
    let config = ProptestConfig {
        rng_seed: RngSeed::Fixed(3),
        failure_persistence: None,
        ..ProptestConfig::with_cases(600)
    };
    let (taken, refused) = (Cell::new(0), Cell::new(0));
    TestRunner::new(config)
        .run(&prop::collection::vec(line(), 0..30), |lines| {
            run(&stage, &["-C"], &mut &b""[..]);
            let input = lines.join(&b'\n');
            let (stdout, stderr, status) = run(&stage, &["-R"], &mut input.as_slice());
            prop_assert!([0, 1, 2, 255].contains(&status), "status {status}");
            // Each line says a screen of help at most, and what it was about.
            let said = stdout.len() + stderr.len();
            prop_assert!(said <= lines.len() * 10_000 + 10 * input.len(), "{said} bytes for {}", input.len());
            let rules = saved(&stage);
            prop_assert!(rules.lines().count() <= lines.len());
            taken.set(taken.get() + rules.lines().count());
            refused.set(refused.get() + usize::from(!stderr.is_empty()));

            run(&stage, &["-C"], &mut &b""[..]);
            let (_, stderr, status) = run(&stage, &["-R"], &mut rules.as_bytes());
            prop_assert_eq!(
                (status, String::from_utf8_lossy(&stderr).into_owned()),
                (0, String::new()),
                "{}",
                rules
            );
            prop_assert_eq!(saved(&stage), rules);
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    let (taken, refused) = (taken.get(), refused.get());
    assert!(taken > 1000 && refused > 100, "{taken} rules were taken, {refused} inputs were wrong");
}

/// A line that does not end is not gathered for ever.
#[test]
fn a_line_without_an_end_is_refused() {
    let stage = Stage::new(true);
    let rule = "-A -t 10.0.0.1:80 -s rr\n";
    let mut endless = BufReader::new(rule.as_bytes().chain(std::io::repeat(b'x')));
    let (_, stderr, status) = run(&stage, &["-R"], &mut endless);
    assert_eq!(
        (status, String::from_utf8(stderr).unwrap().as_str()),
        (
            2,
            "line 2 of the rules is longer than 65536 bytes, and no rule is; is it what `ipvsadm -S' printed?\n"
        )
    );
    assert_eq!(saved(&stage), rule);
}
