//! What Sluice adds to ipvsadm, and what becomes of the command line when the
//! world is not as it should be.

use std::io::{self, Write};
use std::path::PathBuf;

use sluice_control::ipvsadm::{Environment, NoNames, run};

use crate::recording::Outcome;
use crate::stage::Stage;

fn ok(stage: &mut Stage, command: &str) -> Vec<String> {
    let outcome = stage.shell(command, "").unwrap();
    assert_eq!((outcome.status, &outcome.stderr), (0, &Vec::new()), "{command}");
    outcome.stdout
}

fn refused(stage: &mut Stage, command: &str) -> (String, u8) {
    let Outcome { stderr, status, .. } = stage.shell(command, "").unwrap();
    (stderr.join("\n"), status)
}

#[test]
fn fullnat_is_added_listed_saved_and_restored() {
    let mut stage = Stage::new(true);
    ok(&mut stage, "ipvsadm -A -t 192.0.2.10:80 -s wlc");
    ok(&mut stage, "ipvsadm -a -t 192.0.2.10:80 -r 10.0.2.1:8080 -b -w 3");
    ok(&mut stage, "ipvsadm -a -t 192.0.2.10:80 -r 10.0.2.2:80 --fullnat");
    ok(&mut stage, "ipvsadm -P -t 192.0.2.10:80 -z 10.0.2.200");
    ok(&mut stage, "ipvsadm --add-laddr --tcp-service 192.0.2.10:80 --local-address 10.0.2.201");
    let listed = ok(&mut stage, "ipvsadm -Ln");
    assert_eq!(listed[4], "  -> 10.0.2.1:8080                FullNat 3      0          0         ");
    let saved = ok(&mut stage, "ipvsadm -Sn");
    let expected = [
        "-A -t 192.0.2.10:80 -s wlc",
        "-a -t 192.0.2.10:80 -r 10.0.2.1:8080 -b -w 3",
        "-a -t 192.0.2.10:80 -r 10.0.2.2:80 -b -w 1",
        "-P -t 192.0.2.10:80 -z 10.0.2.200",
        "-P -t 192.0.2.10:80 -z 10.0.2.201",
    ];
    assert_eq!(saved, expected);
    ok(&mut stage, "ipvsadm -C");
    let restored = stage.shell("ipvsadm -R", &saved.join("\n")).unwrap();
    assert_eq!(restored, Outcome::default());
    assert_eq!(ok(&mut stage, "ipvsadm -Sn"), expected);
}

#[test]
fn local_addresses_are_listed_and_deleted() {
    let mut stage = Stage::new(true);
    ok(&mut stage, "ipvsadm -A -u 192.0.2.10:53");
    ok(&mut stage, "ipvsadm -P -u 192.0.2.10:53 -z 10.0.2.200");
    let listed = ok(&mut stage, "ipvsadm -G");
    assert_eq!(listed[0], "VIP:VPORT            TOTAL    SNAT_IP              CONFLICTS  CONNS     ");
    assert_eq!(listed[1], "192.0.2.10:domain    1        10.0.2.200           0          0         ");
    let again = "ipvsadm -P -u 192.0.2.10:53 -z 10.0.2.200";
    assert_eq!(refused(&mut stage, again), ("Local address already exists".into(), 255));
    let other = "ipvsadm -Q -u 192.0.2.10:53 -z 10.0.2.201";
    assert_eq!(refused(&mut stage, other), ("No such local address".into(), 255));
    ok(&mut stage, "ipvsadm -Q -u 192.0.2.10:53 -z 10.0.2.200");
    assert_eq!(ok(&mut stage, "ipvsadm -G").len(), 1);
    let absent = "ipvsadm -G -t 192.0.2.99:80";
    assert_eq!(refused(&mut stage, absent), ("No such service".into(), 255));
    for (command, message) in [
        (
            "ipvsadm -P -z 10.0.2.200",
            "You need to supply the 'service-address' option for the 'add-laddr' command",
        ),
        (
            "ipvsadm -Q -t 192.0.2.10:80",
            "You need to supply the 'local-address' option for the 'del-laddr' command",
        ),
        ("ipvsadm -L -z 10.0.2.200", "Illegal 'local-address' option with the 'list' command"),
        ("ipvsadm -P -t 192.0.2.10:80 -z nosuch", "illegal local address specified"),
        (
            "ipvsadm -A -t 192.0.2.10:80 --fullnat",
            "Illegal 'forwarding-method' option with the 'add-service' command",
        ),
        ("ipvsadm -S --json", "Illegal 'json' option with the 'save' command"),
    ] {
        assert_eq!(refused(&mut stage, command), (message.into(), 2), "{command}");
    }
}

#[test]
fn listings_are_there_for_programs_as_well() {
    let mut stage = Stage::new(true);
    ok(&mut stage, "ipvsadm -A -t 192.0.2.10:80");
    ok(&mut stage, "ipvsadm -a -t 192.0.2.10:80 -r 10.0.2.1:80 -m");
    let mut json =
        |command| -> serde_json::Value { serde_json::from_str(&ok(&mut stage, command).join("\n")).unwrap() };
    let services = json("ipvsadm -L --json");
    let service = &services["services"][0];
    assert_eq!(service["name"]["address"]["port"], 80);
    assert_eq!(service["servers"][0]["server"]["method"], "nat");
    assert_eq!(json("ipvsadm -Lc --json"), serde_json::json!({ "connections": [] }));
    assert_eq!(json("ipvsadm -L --timeout --json")["tcp_fin"], 120);
    assert_eq!(json("ipvsadm -L --daemon --json"), serde_json::json!({ "daemons": [] }));
    assert_eq!(json("ipvsadm -G --json"), serde_json::json!({ "local_addresses": [] }));
}

/// Fails every write with the same error.
struct Broken(io::ErrorKind);

impl Write for Broken {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(self.0.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn run_with(stdout: &mut dyn Write, socket: PathBuf, words: &[&str]) -> (u8, String) {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let mut stderr = Vec::new();
    let mut environment = Environment {
        stdin: &mut io::empty(),
        stdout,
        stderr: &mut stderr,
        names: &NoNames,
        socket: Some(socket),
    };
    (run(&words, &mut environment), String::from_utf8(stderr).unwrap())
}

#[test]
fn a_reader_that_left_is_no_error_but_a_full_disk_is() {
    let stage = Stage::new(true);
    for words in [["-L", "-n"], ["-L", "-c"], ["-h", ""]] {
        let socket = stage.socket().to_owned();
        let (status, stderr) = run_with(&mut Broken(io::ErrorKind::BrokenPipe), socket.clone(), &words);
        assert_eq!((status, stderr.as_str()), (0, ""), "{words:?}");
        let (status, stderr) = run_with(&mut Broken(io::ErrorKind::StorageFull), socket, &words);
        assert_eq!(status, 255);
        assert!(stderr.contains("cannot"), "{stderr}");
    }
}

#[test]
fn a_missing_director_is_named_with_the_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("nobody.sock");
    for words in [&["-L"][..], &["-C"], &["-A", "-t", "192.0.2.10:80"]] {
        let (status, stderr) = run_with(&mut Vec::new(), socket.clone(), words);
        assert_eq!(status, 2);
        assert!(stderr.contains(socket.to_str().unwrap()) && stderr.contains("--socket PATH"), "{stderr}");
    }
    // Mistakes are told, and help is given, without one.
    assert_eq!(run_with(&mut Vec::new(), socket.clone(), &["-L", "-w", "x"]).1, "illegal weight specified\n");
    assert_eq!(run_with(&mut Vec::new(), socket, &["-v"]).0, 0);
}

#[test]
fn the_socket_can_be_named_before_and_after_the_command() {
    let stage = Stage::new(true);
    let nobody = PathBuf::from("/nonexistent/nobody.sock");
    let socket = stage.socket().to_str().unwrap();
    let attached = format!("--socket={socket}");
    for words in [
        &["--socket", socket, "-L", "-n"][..],
        &[&attached, "-L"],
        &["-L", "--socket", socket],
        &["-L", &attached, "-n"],
        &[&attached],
    ] {
        let (status, stderr) = run_with(&mut Vec::new(), nobody.clone(), words);
        assert_eq!((status, stderr.as_str()), (0, ""), "{words:?}");
    }
}

#[test]
fn debians_restore_clears_and_skips_comments() {
    let mut stage = Stage::new(true);
    ok(&mut stage, "ipvsadm -A -t 192.0.2.10:80");
    let rules = "# saved yesterday\n-A -t 192.0.2.11:80 -s rr\n#-A -t 192.0.2.12:80 -s rr\n";
    assert_eq!(stage.shell("ipvsadm-restore", rules), Some(Outcome::default()));
    assert_eq!(ok(&mut stage, "ipvsadm-save -n"), ["-A -t 192.0.2.11:80 -s rr"]);
}
