//! What a scrape shows.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use super::*;
use crate::observe::sample::Sample;

fn scrape(sample: &Sample, selection: Selection, format: Format) -> String {
    let mut text = Vec::new();
    let send = |piece: Vec<u8>| {
        text.extend(piece);
        Ok(())
    };
    encode(&sample.observatory, selection, format, send).unwrap();
    String::from_utf8(text).unwrap()
}

fn busy() -> Sample {
    let sample = Sample::new(3, 2);
    sample.traffic(0, 0, 5);
    sample.traffic(0, 1, 2);
    sample.fail();
    sample.pair();
    sample
}

#[test]
fn everything_is_there() {
    let text = scrape(&busy(), Selection::default(), Format::Plain);
    for line in [
        "# TYPE sluice_service_scheduled_connections_total counter",
        "sluice_service_scheduled_connections_total{service=\"tcp 192.0.2.10:1\"} 7",
        "sluice_service_packets_total{service=\"tcp 192.0.2.10:1\",direction=\"in\"} 70",
        "sluice_service_bytes_total{service=\"tcp 192.0.2.10:1\",direction=\"out\"} 7000",
        "sluice_service_dropped_packets_total{service=\"tcp 192.0.2.10:1\"} 7",
        "sluice_service_info{service=\"tcp 192.0.2.10:3\",scheduler=\"wlc\"} 1",
        "sluice_service_servers{service=\"tcp 192.0.2.10:3\"} 2",
        "sluice_server_weight{service=\"tcp 192.0.2.10:1\",server=\"10.0.0.2:8080\"} 2",
        "sluice_server_active_connections{service=\"tcp 192.0.2.10:1\",server=\"10.0.0.1:8080\"} 7",
        "sluice_server_packets_total{service=\"tcp 192.0.2.10:1\",server=\"10.0.0.1:8080\",direction=\"out\"} 70",
        "sluice_worker_received_packets_total{worker=\"0\"} 100",
        "sluice_worker_connections_limit{worker=\"1\"} 1000000",
        "sluice_dropped_packets_total{worker=\"1\",reason=\"no_server\"} 2",
        "sluice_interface_transmitted_packets_total{interface=\"eth1\"} 140",
        "sluice_interface_up{interface=\"eth1\"} 0",
        "sluice_interface_info{interface=\"eth0\",xdp=\"native\",socket=\"copy\",answers=\"rss\"} 1",
        "sluice_check_up{service=\"tcp 192.0.2.10:1\",server=\"10.0.0.99:8080\"} 0",
        "sluice_check_latency_seconds{service=\"tcp 192.0.2.10:1\",server=\"10.0.0.1:8080\"} 0.25",
        "sluice_active 1",
        "sluice_sync_connected{peer=\"192.0.2.2:8849\"} 1",
        "sluice_sync_sent_records_total{peer=\"192.0.2.2:8849\"} 1234",
        "sluice_sync_daemon_messages_total{role=\"backup\"} 5",
        "sluice_sync_daemon_overflowed_total{role=\"backup\"} 2",
        "sluice_sync_daemon_not_taken_total{role=\"backup\",reason=\"no room\"} 1",
        "sluice_events_total{kind=\"health\",severity=\"warning\"} 1",
        "sluice_table_generation 7",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    let fewer = scrape(&busy(), Selection { servers: false }, Format::Plain);
    assert!(!fewer.contains("sluice_server_") && fewer.contains("sluice_service_packets_total"));
    let open = scrape(&busy(), Selection::default(), Format::OpenMetrics);
    assert!(open.ends_with("# EOF\n") && open.contains("# TYPE sluice_service_packets counter\n"));
}

/// Each name once, so that no scraper finds a family in two places.
#[test]
fn families_are_whole() {
    let text = scrape(&busy(), Selection::default(), Format::Plain);
    let mut seen = BTreeSet::new();
    let mut current = "";
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            current = rest.split(' ').next().unwrap();
            assert!(seen.insert(current), "{current} comes twice");
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().unwrap();
            assert_eq!(name, current, "{line}");
        }
    }
}

/// What looks like the name of a metric, in a text of another language.
fn names_in(text: &str) -> BTreeSet<&str> {
    let of_a_name = |character: char| character.is_ascii_alphanumeric() || character == '_';
    text.split(|character| !of_a_name(character)).filter(|word| word.starts_with("sluice_")).collect()
}

/// A dashboard and alerts that name what is not there would be silent.
#[test]
fn dashboard_and_alerts_name_what_there_is() {
    let text = scrape(&busy(), Selection::default(), Format::Plain);
    let known = names_in(&text);
    for (file, least) in [
        (include_str!("../../../configs/grafana-dashboard.json"), 15),
        (include_str!("../../../configs/prometheus-alerts.yml"), 10),
    ] {
        let named = names_in(file);
        let missing: Vec<_> = named.difference(&known).collect();
        assert!(missing.is_empty(), "{missing:?}");
        assert!(named.len() >= least, "only {named:?}");
        for reason in file.split("reason=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(text.contains(&format!("reason=\"{reason}\"")), "{reason}");
        }
    }
    let dashboard: serde_json::Value =
        serde_json::from_str(include_str!("../../../configs/grafana-dashboard.json")).unwrap();
    assert!(dashboard["panels"].as_array().is_some_and(|panels| panels.len() > 10));
}

#[test]
fn who_wants_no_more_gets_no_more() {
    let sample = Sample::new(5000, 2);
    let mut pieces = 0;
    let send = |_| {
        pieces += 1;
        if pieces == 2 { Err(std::fmt::Error) } else { Ok(()) }
    };
    assert!(encode(&sample.observatory, Selection::default(), Format::Plain, send).is_err());
    assert_eq!(pieces, 2);
}

#[test]
fn promtool_has_nothing_to_say() {
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return eprintln!("SKIPPED: promtool (package prometheus): {error}"),
    };
    let text = scrape(&busy(), Selection::default(), Format::Plain);
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

/// How long a scrape of 10 000 services with 10 servers each takes, and how
/// large it is.
#[test]
#[ignore = "takes a gigabyte of counters, and is about time: run it by itself in a release build"]
fn a_large_scrape() {
    let sample = Sample::new(10_000, 10);
    for servers in [true, false] {
        let begun = std::time::Instant::now();
        let mut bytes = 0;
        let send = |piece: Vec<u8>| {
            bytes += piece.len();
            Ok(())
        };
        encode(&sample.observatory, Selection { servers }, Format::OpenMetrics, send).unwrap();
        println!("servers {servers}: {bytes} bytes in {:?}", begun.elapsed());
    }
}
