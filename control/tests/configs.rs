//! Every example in `configs/` is valid.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sluice_control::config::Config;
use sluice_dataplane::service::Method;

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs")
}

fn read(name: &str) -> String {
    fs::read_to_string(configs().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Output of a checker, or `None` (and a word about it) where it is not installed.
fn checker(command: &mut Command) -> Option<Output> {
    match command.output() {
        Ok(output) => Some(output),
        Err(error) => {
            eprintln!("SKIPPED {:?}: {error}", command.get_program());
            None
        }
    }
}

fn assert_accepted(output: &Output) {
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
}

/// The text without comments, which both keepalived and BIRD begin with `#`.
fn without_comments(text: &str) -> String {
    text.lines().map(|line| line.split('#').next().unwrap_or("")).collect::<Vec<_>>().join("\n")
}

fn assert_balanced(text: &str) {
    let mut depth = 0;
    for character in without_comments(text).chars() {
        depth += match character {
            '{' => 1,
            '}' => -1,
            _ => 0,
        };
        assert!(depth >= 0, "a brace too many");
    }
    assert_eq!(depth, 0, "a brace is open");
}

#[test]
fn every_file_is_looked_at() {
    let mut others: Vec<String> = fs::read_dir(configs())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with(".toml"))
        .collect();
    others.sort();
    let tested =
        ["bird.conf", "grafana-dashboard.json", "keepalived.conf", "prometheus-alerts.yml", "sluice.service"];
    assert_eq!(others, tested, "each has a test below, or one beside the metrics");
}

#[test]
fn every_toml_file_is_a_configuration() {
    let mut seen = 0;
    for entry in fs::read_dir(configs()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            Config::load(&path).unwrap_or_else(|error| panic!("{error}"));
            seen += 1;
        }
    }
    assert!(seen >= 6, "only {seen} were found");
}

#[test]
fn the_example_of_a_method_uses_it() {
    for (name, method) in [
        ("nat.toml", Method::Nat),
        ("fullnat.toml", Method::FullNat),
        ("dr.toml", Method::DirectRoute),
        ("tun.toml", Method::Tunnel),
    ] {
        let config = Config::load(&configs().join(name)).unwrap();
        let mut servers = config.services.iter().flat_map(|service| &service.servers).peekable();
        assert!(servers.peek().is_some() && servers.all(|server| server.method == method), "{name}");
    }
}

#[test]
fn the_explanation_of_every_key_is_complete() {
    let text = read("all.toml");
    for table in
        ["director", "web", "sync", "sync_daemon", "service", "service.server", "service.check", "mark"]
    {
        // The error for an unknown key lists the known ones.
        let (open, close) =
            if ["director", "web", "sync"].contains(&table) { ("[", "]") } else { ("[[", "]]") };
        let header = format!("{open}{table}{close}");
        let start = format!("\n{header}\n");
        let wrong = text.replacen(&start, &format!("{start}no_such_key = 1\n"), 1);
        let error = Config::parse(&wrong, Path::new("all.toml")).unwrap_err().to_string();
        let keys: Vec<&str> =
            error.split('`').skip(3).step_by(2).filter(|key| !["server", "check"].contains(key)).collect();
        assert!(keys.len() >= 2, "{error}");
        // A server's check has the same keys as a service's.
        let starts = [start, format!("\n[[service.server.{}]]\n", table.trim_start_matches("service."))];
        let sections = starts.iter().flat_map(|start| text.split(start).skip(1));
        let written: String =
            sections.map(|rest| ["\n", rest.split("\n[").next().unwrap()].concat()).collect();
        for key in keys {
            let of_its_own = format!("\n[{table}.{key}]\n");
            let there = written.contains(&format!("\n{key} = ")) || text.contains(&of_its_own);
            assert!(there, "{header} lacks {key}");
        }
    }
}

#[test]
fn keepalived_takes_its_example() {
    let text = read("keepalived.conf");
    assert_balanced(&text);
    for word in ["vrrp_instance", "virtual_router_id", "virtual_ipaddress", "192.0.2.10/32"] {
        assert!(text.contains(word), "{word}");
    }
    let file = configs().join("keepalived.conf");
    // It names interfaces that this machine need not have, so only its
    // complaints about the text count.
    if let Some(output) = checker(Command::new("keepalived").arg("-t").arg("-f").arg(file)) {
        let text = String::from_utf8_lossy(&output.stderr).to_lowercase();
        for complaint in ["unknown keyword", "missing '}'", "missing '{'", "must be set", "invalid"] {
            assert!(!text.contains(complaint), "{text}");
        }
    }
}

#[test]
fn bird_takes_its_example() {
    let text = read("bird.conf");
    assert_balanced(&text);
    for word in ["router id", "protocol direct", "protocol bgp", "export filter vips"] {
        assert!(text.contains(word), "{word}");
    }
    if let Some(output) = checker(Command::new("bird").arg("-p").arg("-c").arg(configs().join("bird.conf"))) {
        assert_accepted(&output);
    }
}

#[test]
fn prometheus_takes_the_alerts() {
    let file = configs().join("prometheus-alerts.yml");
    if let Some(output) = checker(Command::new("promtool").args(["check", "rules"]).arg(file)) {
        assert_accepted(&output);
    }
}

#[test]
fn systemd_takes_the_unit() {
    let text = read("sluice.service");
    let mut sections = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if line.starts_with('[') {
            sections.push(line);
        } else {
            assert!(
                line.split_once('=').is_some_and(|(key, _)| key.chars().all(char::is_alphanumeric)),
                "{line}"
            );
        }
    }
    assert_eq!(sections, ["[Unit]", "[Service]", "[Install]"]);
    for line in ["Type=notify", "LimitMEMLOCK=infinity", "RuntimeDirectoryPreserve=yes"] {
        assert!(text.lines().any(|found| found == line), "{line}");
    }
    // The program need not be installed where this test runs.
    let directory = tempfile::tempdir().unwrap();
    let unit = directory.path().join("sluice.service");
    fs::write(&unit, text.replace("=sluice ", "=true ")).unwrap();
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--recursive-errors=no", "--man=no"]).arg(&unit);
    if let Some(output) = checker(&mut verify) {
        assert_accepted(&output);
    }
}
