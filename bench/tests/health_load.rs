//! What checking many servers costs.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sluice_bench::lab::site::server_address;
use sluice_bench::lab::{self, Director, Netns, Site, SiteOptions, wait_for};

const SERVICES: usize = 100;
const SERVERS: u8 = 100;
const PORT: u16 = 8080;

const ALL: usize = SERVICES * SERVERS as usize;

/// How long it is measured.
const TIME: Duration = Duration::from_secs(20);

/// Answers every request on every address of the namespace.
fn serve(netns: &Netns) -> Result<()> {
    let address = SocketAddr::from(([0, 0, 0, 0], PORT));
    let listener = netns.enter(|| TcpListener::bind(address))?.context("cannot listen")?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 512]);
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nOK");
        }
    });
    Ok(())
}

/// Services whose servers are checked on addresses of the director's own loopback, so that no network is measured. Each
/// service has another, so that local ports are not used up.
fn config(site: &Site) -> String {
    let mut text = site.config();
    for service in 1..=SERVICES {
        text += &format!(
            "[[service]]\naddress = \"192.0.2.10:{}\"\nprotocol = \"tcp\"\n\
             [[service.check]]\nkind = \"http\"\ncontains = \"OK\"\naddress = \"127.1.0.{service}\"\nport = {PORT}\n",
            10_000 + service
        );
        for server in 0..SERVERS {
            let (address, port) = (server_address(1 + server % 3), 20_000 + u16::from(server));
            text += &format!("[[service.server]]\naddress = \"{address}:{port}\"\nmethod = \"nat\"\n");
        }
    }
    text
}

/// CPU time of the director's threads in seconds, but for the workers', by name.
fn cpu(director: &Director) -> Result<Vec<(String, f64)>> {
    let mut times = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{}/task", director.id()))? {
        let stat = std::fs::read_to_string(task?.path().join("stat"))?;
        let (head, tail) = stat.rsplit_once(") ").context("a stat without a name")?;
        let name = head.split_once('(').map_or(head, |(_, name)| name);
        // utime and stime, in clock ticks of 10 ms (proc_pid_stat(5)).
        let ticks: Vec<f64> =
            tail.split(' ').skip(11).take(2).map(str::parse).collect::<Result<_, _>>().context("no times")?;
        if !name.starts_with("worker") {
            times.push((name.to_owned(), ticks.iter().sum::<f64>() / 100.0));
        }
    }
    times.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(times)
}

/// How many servers are up, and how many checks were made and failed.
fn checks(director: &Director) -> Result<(usize, u64, u64)> {
    let (mut up, mut made, mut failed) = (0, 0, 0);
    for line in director.sluice("health --json")?.lines() {
        let service: serde_json::Value = serde_json::from_str(line)?;
        for server in service["servers"].as_array().context("no servers")? {
            up += usize::from(server["state"] == "up");
            let count = |key| server["checks"][0][key].as_u64().unwrap_or(0);
            made += count("passed") + count("failed");
            failed += count("failed");
        }
    }
    Ok((up, made, failed))
}

/// Meant for a release build of the director, and for a machine that does nothing else.
#[test]
#[ignore = "takes a minute, and measures"]
fn ten_thousand_servers_take_less_than_half_a_core() -> Result<()> {
    if !lab::may_run("ten_thousand_servers_take_less_than_half_a_core") {
        return Ok(());
    }
    let site = Site::new(SiteOptions::default())?;
    serve(&site.director)?;
    let director = site.start_director(&config(&site))?;
    wait_for("all servers to be up", Duration::from_secs(60), || Ok(checks(&director)?.0 == ALL))?;
    let (_, made_before, failed_before) = checks(&director)?;
    let (before, begun) = (cpu(&director)?, Instant::now());
    std::thread::sleep(TIME);
    let (after, seconds) = (cpu(&director)?, begun.elapsed().as_secs_f64());
    let (up, made, failed) = checks(&director)?;
    let used: Vec<(String, f64)> = after
        .into_iter()
        .map(|(name, time)| {
            let earlier = before.iter().find(|(other, _)| *other == name).map_or(0.0, |(_, time)| *time);
            (name, (time - earlier) / seconds)
        })
        .collect();
    let all: f64 = used.iter().map(|(_, share)| share).sum();
    let rate = (made - made_before) as f64 / seconds;
    let of: Vec<String> = used.iter().map(|(name, share)| format!("{name} {share:.3}")).collect();
    println!("figure: {rate:.0} HTTP checks/s take {all:.2} CPU s/s ({})", of.join(", "));
    ensure!(up == ALL && failed == failed_before, "{up} are up, {failed} checks failed");
    ensure!(rate > 4_000.0, "only {rate:.0} checks/s");
    ensure!(all < 0.5, "{all:.2} CPU s/s");
    Ok(())
}
