//! `sluice mark`, and services of marks beside it.

use clap::Parser;
use sluice_control::marks::{self, World};

use crate::recording::Outcome;
use crate::stage::{RecordedNames, Stage};

#[derive(Parser)]
#[command(no_binary_name = true)]
struct Line {
    #[command(flatten)]
    arguments: marks::Arguments,
}

fn mark_with(stage: &Stage, command: &str, input: &str) -> Outcome {
    let words = ["--socket", stage.socket().to_str().unwrap()];
    let words = words.into_iter().chain(command.split_whitespace());
    let arguments =
        Line::try_parse_from(words).unwrap_or_else(|error| panic!("{command}: {error}")).arguments;
    let (mut stdout, mut stderr, mut stdin) = (Vec::new(), Vec::new(), input.as_bytes());
    let mut world =
        World { stdin: &mut stdin, stdout: &mut stdout, stderr: &mut stderr, names: &RecordedNames };
    let status = marks::run(arguments, &mut world);
    let lines = |bytes| String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect();
    Outcome { stdout: lines(stdout), stderr: lines(stderr), status }
}

fn mark(stage: &Stage, command: &str) -> Vec<String> {
    let outcome = mark_with(stage, command, "");
    assert_eq!((outcome.status, &outcome.stderr), (0, &Vec::new()), "{command}");
    outcome.stdout
}

fn refused(stage: &Stage, command: &str, input: &str) -> String {
    let outcome = mark_with(stage, command, input);
    assert_eq!((outcome.status, &outcome.stdout), (1, &Vec::new()), "{command}");
    outcome.stderr.join("\n")
}

#[test]
fn rules_are_added_inserted_deleted_and_flushed() {
    let stage = Stage::new(true);
    let saved = || -> Vec<String> {
        let lines = mark(&stage, "save").into_iter();
        lines.map(|line| line.rsplit_once("--set ").unwrap().1.to_owned()).collect()
    };
    for set in [1, 2] {
        mark(&stage, &format!("add --vip 192.0.2.10 --set {set}"));
    }
    mark(&stage, "insert --vip 192.0.2.10 --set 3");
    mark(&stage, "insert 2 --vip 192.0.2.10 --set 4");
    mark(&stage, "insert 5 --vip 192.0.2.10 --set 5");
    assert_eq!(saved(), ["3", "4", "1", "2", "5"]);
    let error = refused(&stage, "insert 7 --vip 192.0.2.10 --set 6", "");
    assert_eq!(
        error,
        "sluice mark: there is no mark rule 7; choose 1 to 6, as `sluice mark list' numbers them"
    );
    mark(&stage, "delete 2");
    mark(&stage, "delete --vip 192.0.2.10/32 --proto any --set 0x1");
    assert_eq!(saved(), ["3", "2", "5"]);
    assert_eq!(
        refused(&stage, "delete --vip 192.0.2.10 --set 1", ""),
        "sluice mark: there is no such mark rule; `sluice mark list' shows those that there are"
    );
    mark(&stage, "flush");
    assert_eq!(saved(), <[&str; 0]>::default());
    assert_eq!(refused(&stage, "delete 1", ""), "sluice mark: there is no mark rule 1; there are none");
}

#[test]
fn rules_are_listed_with_names_and_numbers() {
    let stage = Stage::new(true);
    mark(&stage, "add --vip 10.9.9.1 --proto tcp --port 80,443,8000-8100 --set 10");
    mark(
        &stage,
        "add --vip 2001:db8::/32 --proto udp --port 53 --from 2001:db8:9::1 --in eth+ --set 0x10/0xff",
    );
    assert_eq!(
        mark(&stage, "list"),
        [
            "Num  Connections  To                Proto  Ports               From           In    Set",
            "1    0            www.example.test  tcp    http,443,8000-8100  any            any   10",
            "2    0            2001:db8::/32     udp    domain              2001:db8:9::1  eth+  0x10/0xff",
        ]
    );
    assert_eq!(
        mark(&stage, "list -n"),
        [
            "Num  Connections  To             Proto  Ports             From           In    Set",
            "1    0            10.9.9.1       tcp    80,443,8000-8100  any            any   10",
            "2    0            2001:db8::/32  udp    53                2001:db8:9::1  eth+  0x10/0xff",
        ]
    );
    let json: serde_json::Value = serde_json::from_str(&mark(&stage, "list --json")[0]).unwrap();
    assert_eq!(json[0]["rule"]["ports"], "80,443,8000-8100");
    assert_eq!((&json[1]["rule"]["interface"], &json[1]["connections"]), (&"eth+".into(), &0.into()));
}

#[test]
fn rules_are_restored_all_or_none() {
    let stage = Stage::new(true);
    mark(&stage, "add --vip 192.0.2.10 --proto tcp --port 80,443 --in eth1 --set 10");
    mark(&stage, "add --vip 192.0.2.0/24 --set 0x1/0xf");
    let saved = mark(&stage, "save");
    let text = saved.join("\n");
    mark(&stage, "flush");
    assert_eq!(mark_with(&stage, "restore", &text), Outcome::default());
    assert_eq!(mark(&stage, "save"), saved);

    let wrong = format!("# two good ones\n{text}\nadd --vip 192.0.2.99 --in eth7 --set 1\n");
    assert_eq!(
        refused(&stage, "restore", &wrong),
        "sluice mark: line 4: interface eth7 is none of the director's (eth0, eth1, lan0); packets that come in \
         by others are the kernel's"
    );
    assert!(
        refused(&stage, "restore", "add --vip 192.0.2.10").starts_with("sluice mark: line 1: the following")
    );
    let many: String =
        (0..513).map(|port| format!("add --vip 192.0.2.7 --proto tcp --port {port} --set 1\n")).collect();
    let error = refused(&stage, "restore", &many);
    assert!(
        error.contains("513 mark rules and port ranges apply to 192.0.2.7/32, and 512 is the most"),
        "{error}"
    );
    assert_eq!(mark(&stage, "save"), saved, "nothing has changed");
    assert_eq!(mark_with(&stage, "restore", ""), Outcome::default());
    assert_eq!(mark(&stage, "save"), <[&str; 0]>::default());
    let error = refused(&stage, "restore /nonexistent/rules", "");
    assert!(error.starts_with("sluice mark: cannot read /nonexistent/rules: No such file"), "{error}");
}

#[test]
fn a_rule_names_an_interface_of_the_director() {
    let stage = Stage::new(true);
    for interface in ["eth0", "lan0", "eth+", "+"] {
        mark(&stage, &format!("add --vip 192.0.2.10 --in {interface} --set 10"));
    }
    let error = refused(&stage, "add --vip 192.0.2.10 --in wan+ --set 10", "");
    assert!(error.contains("interface wan+ is none of the director's (eth0, eth1, lan0)"), "{error}");
}

/// As recorded from ipvsadm 1.31.
#[test]
fn services_of_marks_are_saved_and_restored() {
    let mut stage = Stage::new(true);
    let rules = [
        "-A -f 10 -s rr -p 300",
        "-a -f 10 -r 10.0.2.1:8080 -m -w 1",
        "-a -f 10 -r 10.0.2.2:0 -m -w 1",
        "-A -f 10 -6 -s rr -p 300",
        "-a -f 10 -6 -r [2001:db8:2::1]:0 -g -w 1",
    ];
    let ok = |outcome: Option<Outcome>| {
        let outcome = outcome.unwrap();
        assert_eq!((outcome.status, &outcome.stderr), (0, &Vec::new()));
        outcome.stdout
    };
    ok(stage.shell("ipvsadm -R", &rules.join("\n")));
    assert_eq!(ok(stage.shell("ipvsadm -Sn", "")), rules);
    assert_eq!(
        ok(stage.shell("ipvsadm -Ln", ""))[3..],
        [
            "FWM  10 rr persistent 300",
            "  -> 10.0.2.1:8080                Masq    1      0          0         ",
            "  -> 10.0.2.2:0                   Masq    1      0          0         ",
            "FWM  10 IPv6 rr persistent 300",
            "  -> [2001:db8:2::1]:0            Route   1      0          0         ",
        ]
    );
    assert_eq!(ok(stage.shell("ipvsadm -Ln -f 10 -6", ""))[2..3], ["FWM  10 IPv6 rr persistent 300"]);
}
