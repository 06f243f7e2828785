//! Reading the configuration again while packets flow.

use std::fmt::Write as _;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sluice_bench::lab::site::{Method, VIP, server_address};
use sluice_bench::lab::{self, Director, Site, SiteOptions, wait_for, wrk};

/// Services beside those with load.
const SERVICES: usize = 300;

/// The UDP service whose packets are counted.
const ECHO: u16 = 7;

/// Packets on their way at a time; fewer than any queue between here and there holds.
const WINDOW: u64 = 32;

fn service(text: &mut String, port: usize, scheduler: &str) {
    let _ = write!(
        text,
        "[[service]]\naddress = \"{VIP}:{port}\"\nprotocol = \"tcp\"\nscheduler = \"{scheduler}\"\n"
    );
}

fn server(text: &mut String, number: u8, port: u16, weight: u32) {
    let address = server_address(number);
    let _ = write!(
        text,
        "[[service.server]]\naddress = \"{address}:{port}\"\nmethod = \"nat\"\nweight = {weight}\n"
    );
}

/// Services with load, which are the same in both, and others, which are not.
fn config(site: &Site, second: bool) -> String {
    let mut text = site.config();
    text += &site.service("tcp", 80, "rr", Method::Nat);
    text += &site.service("udp", ECHO, "rr", Method::Nat);
    // A third goes, a third comes: 200 changes. Of the other 200 services the scheduler changes, both servers' weights do,
    // and a third server comes: 800.
    let first = if second { SERVICES / 3 } else { 0 };
    for number in first..first + SERVICES {
        let kept = (SERVICES / 3..SERVICES).contains(&number);
        let other = second && kept;
        service(&mut text, 10_000 + number, if other { "wlc" } else { "rr" });
        for place in 1..=2 {
            server(&mut text, place, 8080, if other { 7 } else { 1 });
        }
        if other {
            server(&mut text, 3, 8080, 1);
        }
    }
    text
}

/// What all workers dropped, for whatever reason.
fn drops(director: &Director) -> Result<u64> {
    let status: serde_json::Value = serde_json::from_str(&director.sluice("status --json")?)?;
    let workers = status["workers"].as_array().context("a status without workers")?;
    let of = |worker: &serde_json::Value| {
        worker["drops"]
            .as_object()
            .map_or(0, |drops| drops.values().filter_map(serde_json::Value::as_u64).sum())
    };
    Ok(workers.iter().map(of).sum::<u64>())
}

/// Sends back every datagram.
fn echo(site: &Site) -> Result<()> {
    for netns in &site.servers {
        let address = SocketAddr::from(([0, 0, 0, 0], ECHO));
        let socket = netns.enter(|| UdpSocket::bind(address))?.context("cannot bind")?;
        std::thread::spawn(move || {
            let mut bytes = [0; 64];
            while let Ok((length, from)) = socket.recv_from(&mut bytes) {
                let _ = socket.send_to(&bytes[..length], from);
            }
        });
    }
    Ok(())
}

/// Sends numbers through the director until it is `done`; returns how many were sent and how many never came back.
fn count(site: &Site, done: &AtomicBool) -> Result<(u64, u64)> {
    let socket = site.client.enter(|| UdpSocket::bind(("0.0.0.0", 0)))??;
    socket.connect((VIP, ECHO))?;
    socket.set_read_timeout(Some(Duration::from_secs(3)))?;
    let (mut sent, mut back) = (0_u64, 0_u64);
    let mut bytes = [0; 64];
    loop {
        let more = !done.load(Ordering::Relaxed);
        while more && sent - back < WINDOW {
            socket.send(&sent.to_be_bytes())?;
            sent += 1;
        }
        if sent == back {
            return Ok((sent, 0));
        }
        if socket.recv(&mut bytes).is_err() {
            // Nothing of it comes any more.
            return Ok((sent, sent - back));
        }
        back += 1;
    }
}

/// Puts a file in place and has it reloaded; returns how many changes that were.
fn reload(director: &Director, text: &str) -> Result<usize> {
    std::fs::write(director.config(), text)?;
    let answer: serde_json::Value = serde_json::from_str(&director.sluice("reload --json")?)?;
    Ok(answer["changes"].as_array().context("no changes")?.len())
}

#[test]
fn a_thousand_changes_break_nothing() -> Result<()> {
    if !lab::may_run("a_thousand_changes_break_nothing") {
        return Ok(());
    }
    let site = Site::new(SiteOptions::default())?;
    let _nginx = site.start_nginx()?;
    site.prepare_servers(Method::Nat)?;
    echo(&site)?;
    let files = [config(&site, false), config(&site, true)];
    let director = site.start_director(&files[0])?;
    let dropped = drops(&director)?;
    let done = AtomicBool::new(false);
    let url = format!("http://{VIP}/");
    let (reports, counted, reloads) = std::thread::scope(|scope| {
        // Connections that live through all of it, and ones that come and go.
        let loads = [false, true].map(|new| {
            let (site, url) = (&site, &url);
            scope.spawn(move || wrk::load(&site.client, url, 8, 8, new))
        });
        let counter = scope.spawn(|| count(&site, &done));
        let work = || -> Result<Vec<Duration>> {
            wait_for("load", Duration::from_secs(10), || Ok(director.connections()? > 20))?;
            let mut times = Vec::new();
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(5) {
                let at = Instant::now();
                let changes = reload(&director, &files[(times.len() + 1) % 2])?;
                times.push(at.elapsed());
                ensure!(changes == 1_000, "{changes} changes");
            }
            Ok(times)
        };
        let reloads = work();
        let reports = loads.map(|load| load.join().expect("wrk's thread does not panic"));
        done.store(true, Ordering::Relaxed);
        (reports, counter.join().expect("the counter does not panic"), reloads)
    });
    let (reloads, (sent, lost)) = (reloads?, counted?);
    let [kept, new] = reports;
    let (kept, new) = (kept?, new?);
    let longest = reloads.iter().max().copied().unwrap_or_default();
    println!(
        "figure: {} reloads of 1000 changes (the longest took {longest:.0?}), {} requests and {sent} datagrams meanwhile",
        reloads.len(),
        kept.requests + new.requests
    );
    ensure!(reloads.len() >= 2, "only {} reloads", reloads.len());
    ensure!(kept.requests > 100 && new.requests > 100 && sent > 1_000, "{kept:?} {new:?} {sent}");
    ensure!(kept.failed == 0 && new.failed == 0, "{kept:?} {new:?}\n{}", director.log());
    ensure!(lost == 0, "{lost} datagrams of {sent} are lost");
    let dropped = drops(&director)? - dropped;
    ensure!(dropped == 0, "{dropped} packets were dropped: {}", director.sluice("status")?);
    Ok(())
}

/// So many services with ten servers each, all different.
fn many(site: &Site, services: usize) -> String {
    let mut text = site.config();
    for number in 0..services {
        service(&mut text, 10_000 + number, "rr");
        for place in 0..10 {
            server(&mut text, 1 + place % 3, 1_000 + u16::from(place), 1);
        }
    }
    text
}

/// CPU time of all threads but the workers': those that read, check and apply configurations.
fn control_time(director: &Director) -> Result<Duration> {
    let mut busy = Duration::ZERO;
    for task in std::fs::read_dir(format!("/proc/{}/task", director.id()))? {
        let path = task?.path();
        // A thread may have ended since it was listed.
        let Ok(name) = std::fs::read_to_string(path.join("comm")) else { continue };
        let Ok(text) = std::fs::read_to_string(path.join("schedstat")) else { continue };
        if !name.starts_with("worker") {
            busy += Duration::from_nanos(text.split(' ').next().unwrap_or_default().parse()?);
        }
    }
    Ok(busy)
}

fn is_debug_build() -> Result<bool> {
    let binary = lab::sluice_binary()?;
    Ok(binary.parent().and_then(Path::file_name).is_some_and(|name| name == "debug"))
}

#[test]
fn ten_thousand_services_load_quickly() -> Result<()> {
    if !lab::may_run("ten_thousand_services_load_quickly") {
        return Ok(());
    }
    let site = Site::new(SiteOptions::default())?;
    let small = site.config();
    let large = many(&site, 10_000);
    // From nothing to packets that are forwarded by it.
    let begun = Instant::now();
    let director = site.start_director(&large)?;
    let (start, start_busy) = (begun.elapsed(), control_time(&director)?);
    let services = || -> Result<usize> {
        Ok(director.ipvsadm("-L -n")?.lines().filter(|line| line.starts_with("TCP ")).count())
    };
    ensure!(services()? == 10_000, "{} services", services()?);
    ensure!(reload(&director, &small)? == 10_000);
    ensure!(services()? == 0, "{} services", services()?);
    let (begun, busy) = (Instant::now(), control_time(&director)?);
    ensure!(reload(&director, &large)? == 10_000);
    let (reloaded, reload_busy) = (begun.elapsed(), control_time(&director)?.saturating_sub(busy));
    ensure!(services()? == 10_000, "{} services", services()?);
    println!(
        "figure: 100 000 servers of 10 000 services: start {start:.2?} ({start_busy:.2?} busy), reload {reloaded:.2?} \
         ({reload_busy:.2?} busy)"
    );
    // Without optimization it is slower, but still not by more than linearly.
    let limit = if is_debug_build()? { Duration::from_secs(60) } else { Duration::from_secs(2) };
    // What other programs take of the CPU meanwhile is not the director's.
    ensure!(start_busy < limit && reload_busy < limit, "busy for {start_busy:?}, reload {reload_busy:?}");
    Ok(())
}
