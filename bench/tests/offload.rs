//! Established connections in the kernel: the director counts and lists them as if it had had every packet, and what
//! changes reaches them.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use sluice_bench::lab::echo::{self, Session};
use sluice_bench::lab::site::{Method, VIP};
use sluice_bench::lab::{self, Director, Site, SiteOptions};

const PORT: u16 = 7777;
const PATIENCE: Duration = Duration::from_secs(10);

/// A site whose servers send back what they get, with a director that has connections carried after two packets.
fn site(method: Method) -> Result<(Site, Director)> {
    let site = Site::new(SiteOptions::default())?;
    site.take_redirects()?;
    site.prepare_servers(method)?;
    for server in &site.servers {
        echo::serve(server, SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)))?;
    }
    let director = start(&site, method)?;
    Ok((site, director))
}

fn start(site: &Site, method: Method) -> Result<Director> {
    site.start_director(&(site.config_carried() + &site.service("tcp", PORT, "rr", method)))
}

fn open(site: &Site) -> Result<Session> {
    Session::open(&site.client, SocketAddr::from((VIP, PORT)))
}

fn status(director: &Director) -> Result<Value> {
    Ok(serde_json::from_str(&director.sluice("status --json")?)?)
}

fn carried(director: &Director) -> Result<(u64, u64)> {
    let status = status(director)?;
    let number =
        |name: &str| status["offload"][name].as_u64().with_context(|| format!("no {name} in {status}"));
    Ok((number("connections")?, number("packets")?))
}

/// Waits until something holds of the connections that are carried, and of their packets.
fn until(director: &Director, what: &str, holds: impl Fn(u64, u64) -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (connections, packets) = carried(director)?;
        if holds(connections, packets) {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!(
                "{what}: {connections} connections and {packets} packets are carried; the director said:\n{}",
                director.log()
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Packets and bytes in and out of the only service.
fn counted(director: &Director) -> Result<[u64; 4]> {
    let text = director.ipvsadm("-Ln --stats --exact")?;
    let line = text.lines().find(|line| line.starts_with("TCP")).with_context(|| text.clone())?;
    let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [.., in_packets, out_packets, in_bytes, out_bytes] = numbers.as_slice() else { bail!("{text}") };
    Ok([*in_packets, *out_packets, *in_bytes, *out_bytes])
}

fn worker(director: &Director, name: &str) -> Result<u64> {
    let status = status(director)?;
    let workers = status["workers"].as_array().context("no workers")?;
    Ok(workers.iter().filter_map(|worker| worker[name].as_u64()).sum())
}

/// What a session says is carried, counted, and listed, and a FIN ends that.
fn a_session_is_carried(method: Method) -> Result<()> {
    if !lab::may_run("a_session_is_carried") {
        return Ok(());
    }
    let (site, director) = site(method)?;
    let mut session = open(&site)?;
    for _ in 0..5 {
        session.say("hello")?;
    }
    until(&director, "the first packets", |connections, _| connections == 1)?;
    // It is in the map a moment after it was asked for.
    let deadline = Instant::now() + PATIENCE;
    loop {
        session.say("are you there?")?;
        if carried(&director)?.1 > 0 {
            break;
        }
        ensure!(Instant::now() < deadline, "nothing is carried; the director said:\n{}", director.log());
    }
    let received = worker(&director, "received")?;
    for number in 0..300 {
        session.say(&format!("line {number}"))?;
    }
    let more = worker(&director, "received")? - received;
    ensure!(more < 20, "{more} packets came to the worker; the director said:\n{}", director.log());
    let listing = director.ipvsadm("-Lnc")?;
    ensure!(listing.contains("ESTABLISHED"), "{listing}");

    drop(session);
    until(&director, "after the end", |connections, packets| connections == 0 && packets >= 300)?;
    let listing = director.ipvsadm("-Lnc")?;
    ensure!(!listing.contains("ESTABLISHED"), "the FIN did not come to the worker: {listing}");
    // Each packet was counted once, by whoever had it.
    let [in_packets, out_packets, in_bytes, out_bytes] = counted(&director)?;
    let all = worker(&director, "transmitted")? + carried(&director)?.1;
    ensure!(in_packets + out_packets == all, "{in_packets} and {out_packets} are not {all}");
    ensure!(in_bytes > 300 * 40 && in_packets >= 300, "{in_bytes} bytes of {in_packets} packets");
    ensure!((out_packets == 0) == method.replies_bypass() && (out_bytes == 0) == method.replies_bypass());
    let (status, log) = director.stop()?;
    ensure!(status.success(), "{status}:\n{log}");
    Ok(())
}

#[test]
fn carried_by_nat() -> Result<()> {
    a_session_is_carried(Method::Nat)
}

#[test]
fn carried_by_fullnat() -> Result<()> {
    a_session_is_carried(Method::FullNat)
}

#[test]
fn carried_by_dr() -> Result<()> {
    a_session_is_carried(Method::Dr)
}

#[test]
fn carried_by_tun() -> Result<()> {
    a_session_is_carried(Method::Tun)
}

/// What the environment and the default make of a director that says nothing of it: so do all other tests.
#[test]
fn a_director_has_what_the_lab_says() -> Result<()> {
    if !lab::may_run("a_director_has_what_the_lab_says") {
        return Ok(());
    }
    let site = Site::new(SiteOptions::default())?;
    for server in &site.servers {
        echo::serve(server, SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)))?;
    }
    let config = site.config() + &site.service("tcp", PORT, "rr", Method::FullNat);
    let director = site.start_director(&config)?;
    if std::env::var(lab::OFFLOAD).is_ok_and(|choice| choice == "off") {
        let mut session = open(&site)?;
        (0..50).try_for_each(|_| session.say("hello"))?;
        ensure!(status(&director)?["offload"].is_null(), "{}", status(&director)?);
        return Ok(());
    }
    drop(carried_session(&site, &director)?);
    until(&director, "after the end", |connections, _| connections == 0)
}

/// A session that is carried, at a server that was removed: its packets pass no more, as without.
#[test]
fn a_removed_server_gets_nothing() -> Result<()> {
    if !lab::may_run("a_removed_server_gets_nothing") {
        return Ok(());
    }
    let (site, director) = site(Method::FullNat)?;
    let mut session = carried_session(&site, &director)?;
    for number in 1..=3 {
        director.ipvsadm(&format!("-d -t {VIP}:{PORT} -r 10.0.2.{number}:{PORT}"))?;
    }
    // What was carried until then is counted with that.
    until(&director, "after the removal", |connections, _| connections == 0)?;
    let packets = carried(&director)?.1;
    ensure!(session.say("is anybody there?").is_err(), "a removed server answered");
    let (connections, after) = carried(&director)?;
    ensure!(after == packets, "{} packets were carried since", after - packets);
    ensure!(connections == 0, "{connections} connections are carried");
    Ok(())
}

fn carried_session(site: &Site, director: &Director) -> Result<Session> {
    let mut session = open(site)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        session.say("hello")?;
        if carried(director)?.1 > 0 {
            return Ok(session);
        }
        ensure!(Instant::now() < deadline, "nothing is carried; the director said:\n{}", director.log());
    }
}

/// A director that stands still does not go on forwarding, and does when it comes round.
#[test]
fn nothing_is_carried_for_a_director_that_stands_still() -> Result<()> {
    if !lab::may_run("nothing_is_carried_for_a_director_that_stands_still") {
        return Ok(());
    }
    let (site, director) = site(Method::Nat)?;
    let mut session = carried_session(&site, &director)?;
    let id = nix::unistd::Pid::from_raw(director.id().try_into()?);
    nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGSTOP)?;
    // For a second it is taken to be alive.
    let begun = Instant::now();
    let lasted = loop {
        if session.say("are you there?").is_err() {
            break begun.elapsed();
        }
        ensure!(begun.elapsed() < PATIENCE, "packets are carried for a director that stands still");
    };
    nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGCONT)?;
    // The last words waited for their echo for five seconds.
    ensure!(lasted < Duration::from_secs(8), "it took {lasted:?}");
    let mut session = open(&site)?;
    session.say("and now?")?;
    Ok(())
}

/// Nor for one that was killed.
#[test]
fn nothing_is_carried_for_the_dead() -> Result<()> {
    if !lab::may_run("nothing_is_carried_for_the_dead") {
        return Ok(());
    }
    let (site, director) = site(Method::Nat)?;
    let mut session = carried_session(&site, &director)?;
    director.kill()?;
    // The kernel takes the program off when the last thread is gone, which takes a moment.
    let deadline = Instant::now() + Duration::from_secs(2);
    while session.say("is anybody there?").is_ok() {
        ensure!(Instant::now() < deadline, "packets are carried for the dead");
    }
    // Another one takes up where that one was.
    let director = start(&site, Method::Nat)?;
    drop(carried_session(&site, &director)?);
    until(&director, "after the end", |connections, _| connections == 0)
}

/// One director takes another one's place, and goes on to have connections carried.
#[test]
fn a_takeover_keeps_sessions() -> Result<()> {
    if !lab::may_run("a_takeover_keeps_sessions") {
        return Ok(());
    }
    let (site, director) = site(Method::FullNat)?;
    let mut session = carried_session(&site, &director)?;
    let director = director.taken_over()?;
    let deadline = Instant::now() + PATIENCE;
    while carried(&director)?.1 == 0 {
        session.say("hello again")?;
        ensure!(Instant::now() < deadline, "nothing is carried; the director said:\n{}", director.log());
    }
    Ok(())
}
