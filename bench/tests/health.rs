//! Servers come and go by what their health page says, and clients do not notice.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sluice_bench::lab::site::{Method, VIP, server_address};
use sluice_bench::lab::{self, Director, Nginx, Site, SiteOptions, curl, wait_for};

/// Three checks and some, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(15);

/// Servers 1 and 2; server 3 says sorry.
fn config(site: &Site, more: &str) -> String {
    let mut text = format!(
        "{}\n[[service]]\naddress = \"{VIP}:80\"\nprotocol = \"tcp\"\nscheduler = \"rr\"\n{more}\n\
         sorry_server = {{ address = \"{}\", method = \"nat\" }}\n\
         [[service.check]]\nkind = \"http\"\npath = \"/.health.html\"\nmatches = \"^OK$\"\n\
         interval = 0.2\njitter = 0.02\ntimeout = 1\n",
        site.config(),
        server_address(3)
    );
    for number in [1, 2] {
        let address = server_address(number);
        text += &format!("[[service.server]]\naddress = \"{address}\"\nmethod = \"nat\"\nweight = 4\n");
    }
    text
}

/// Address and weight of each server, as `ipvsadm -Ln` shows them.
fn listed(director: &Director) -> Result<Vec<(String, String)>> {
    let text = director.ipvsadm("-L -n")?;
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("-> "));
    let mut servers: Vec<_> = servers
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?.to_owned(), words.nth(1)?.to_owned()))
        })
        .filter(|(address, _)| address.starts_with("10."))
        .collect();
    servers.sort();
    Ok(servers)
}

fn wait_listed(director: &Director, expected: &[(&str, &str)]) -> Result<()> {
    let expected: Vec<_> = expected.iter().map(|(a, w)| (format!("{a}:80"), (*w).to_owned())).collect();
    wait_for(&format!("{expected:?}"), PATIENCE, || Ok(listed(director)? == expected))
        .with_context(|| format!("ipvsadm says {:?}, the director:\n{}", listed(director), director.log()))
}

/// All servers of the service, as `sluice health` shows them.
fn wait_state(director: &Director, states: [&str; 2]) -> Result<()> {
    wait_for(&format!("{states:?}"), PATIENCE, || {
        let health: serde_json::Value = serde_json::from_str(&director.sluice("health --json")?)?;
        let servers = health["servers"].as_array().context("no servers")?.clone();
        Ok(servers.iter().map(|server| server["state"].as_str().unwrap_or("?")).eq(states))
    })
    .with_context(|| format!("the director said:\n{}", director.log()))
}

fn served_by(site: &Site, servers: &[&str]) -> Result<()> {
    let greetings = curl::greet(&site.client, &VIP.to_string(), 20)?;
    ensure!(greetings.failed == 0, "{} requests failed", greetings.failed);
    let mut names: Vec<_> = greetings.answers.into_iter().map(|answer| answer.server).collect();
    names.sort();
    names.dedup();
    ensure!(names == servers, "{names:?}, not {servers:?}");
    Ok(())
}

fn start(site: &Site, more: &str) -> Result<(Vec<Nginx>, Director)> {
    let nginx = site.start_nginx()?;
    site.prepare_servers(Method::Nat)?;
    nginx.iter().try_for_each(|nginx| nginx.set_health("OK"))?;
    let director = site.start_director(&config(site, more))?;
    wait_state(&director, ["up", "up"])?;
    Ok((nginx, director))
}

/// Reloads a file with these keys and weights; returns what changed.
fn reload(director: &Director, site: &Site, more: &str, weight: u32) -> Result<String> {
    let text = config(site, more).replace("weight = 4", &format!("weight = {weight}"));
    std::fs::write(director.config(), text)?;
    director.sluice("reload")
}

/// Sends requests all the time while `work` is done; returns how many failed.
fn meanwhile(site: &Site, work: impl FnOnce() -> Result<()>) -> Result<usize> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients = scope.spawn(|| -> Result<usize> {
            let mut failed = 0;
            while !done.load(Ordering::Relaxed) {
                failed += curl::greet(&site.client, &VIP.to_string(), 10)?.failed;
            }
            Ok(failed)
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        let failed = clients.join().expect("clients do not panic")?;
        result.map(|()| failed)
    })
}

const RS1: &str = "10.0.2.1";
const RS2: &str = "10.0.2.2";
const SORRY: &str = "10.0.2.3";

#[test]
fn a_page_says_how_a_server_is() -> Result<()> {
    if !lab::may_run("a_page_says_how_a_server_is") {
        return Ok(());
    }
    let site = Site::new(SiteOptions::default())?;
    let (mut nginx, director) = start(&site, "inhibit_on_failure = true")?;
    served_by(&site, &["rs1", "rs2"])?;

    let failed = meanwhile(&site, || {
        nginx[0].set_health("under repair")?;
        wait_listed(&director, &[(RS1, "0"), (RS2, "4")])?;
        served_by(&site, &["rs2"])?;
        nginx[0].set_health("OK")?;
        wait_listed(&director, &[(RS1, "4"), (RS2, "4")])
    })?;
    ensure!(failed == 0, "{failed} requests failed though no server died:\n{}", director.log());
    let log = director.log();
    ensure!(log.contains("a server is down") && log.contains("does not match"), "no reason:\n{log}");

    // The one that dies loses its own connections, until it is known.
    drop(nginx.remove(0));
    wait_listed(&director, &[(RS1, "0"), (RS2, "4")])?;
    served_by(&site, &["rs2"])?;

    // With nobody left, there is the sorry server.
    drop(nginx.remove(0));
    wait_listed(&director, &[(RS1, "0"), (RS2, "0"), (SORRY, "1")])?;
    served_by(&site, &["rs3"])?;

    // The first that comes back takes over from it.
    let _again = site.start_nginx_of(1)?;
    wait_listed(&director, &[(RS1, "4"), (RS2, "0")])?;
    wait_state(&director, ["up", "down"])?;
    served_by(&site, &["rs1"])
}

#[test]
fn ipvsadm_and_health_go_together() -> Result<()> {
    if !lab::may_run("ipvsadm_and_health_go_together") {
        return Ok(());
    }
    let site = Site::new(SiteOptions::default())?;
    let (nginx, director) = start(&site, "")?;

    // Gone is gone, also for what is saved.
    nginx[0].set_health("no")?;
    wait_listed(&director, &[(RS2, "4")])?;
    let saved = director.ipvsadm("-S -n")?;
    ensure!(!saved.contains(RS1) && saved.contains(RS2), "{saved}");
    served_by(&site, &["rs2"])?;

    // A weight that is edited meanwhile is the one that comes back.
    director.ipvsadm(&format!("-e -t {VIP}:80 -r {RS1}:80 -m -w 9"))?;
    wait_listed(&director, &[(RS2, "4")])?;
    nginx[0].set_health("OK")?;
    wait_listed(&director, &[(RS1, "9"), (RS2, "4")])?;

    // One that is deleted while it is down does not come back.
    nginx[0].set_health("no")?;
    wait_listed(&director, &[(RS2, "4")])?;
    director.ipvsadm(&format!("-d -t {VIP}:80 -r {RS1}:80"))?;
    nginx[0].set_health("OK")?;
    wait_for("the end of its checks", PATIENCE, || Ok(!director.sluice("health")?.contains(RS1)))?;
    wait_listed(&director, &[(RS2, "4")])?;

    // One that is added is checked by what the service says.
    nginx[0].set_health("no")?;
    director.ipvsadm(&format!("-a -t {VIP}:80 -r {RS1}:80 -m"))?;
    wait_state(&director, ["down", "up"])?;
    wait_listed(&director, &[(RS2, "4")])?;

    // The sorry server takes over when all are gone, and goes again.
    nginx[1].set_health("no")?;
    wait_listed(&director, &[(SORRY, "1")])?;
    served_by(&site, &["rs3"])?;
    nginx[1].set_health("OK")?;
    wait_listed(&director, &[(RS2, "4")])?;
    director.ipvsadm("-C")?;
    wait_for("the end of all checks", PATIENCE, || Ok(director.sluice("health")?.is_empty()))?;
    let (status, log) = director.stop()?;
    ensure!(status.success() && !log.contains("panicked"), "{status}:\n{log}");
    Ok(())
}

#[test]
fn a_reload_and_health_go_together() -> Result<()> {
    if !lab::may_run("a_reload_and_health_go_together") {
        return Ok(());
    }
    let site = Site::new(SiteOptions::default())?;
    let (nginx, director) = start(&site, "")?;

    // Who is out is not missing.
    nginx[0].set_health("no")?;
    wait_listed(&director, &[(RS2, "4")])?;
    let changes = reload(&director, &site, "", 4)?;
    ensure!(changes == "nothing differs\n", "{changes}");
    wait_listed(&director, &[(RS2, "4")])?;

    // It comes back with the weight that it was given meanwhile.
    let changes = reload(&director, &site, "", 6)?;
    ensure!(changes.ends_with("0 added, 0 removed, 2 changed\n"), "{changes}");
    wait_listed(&director, &[(RS2, "6")])?;
    nginx[0].set_health("OK")?;
    wait_listed(&director, &[(RS1, "6"), (RS2, "6")])?;
    served_by(&site, &["rs1", "rs2"])?;

    // The weight that the checks set is not the one that counts.
    let changes = reload(&director, &site, "inhibit_on_failure = true", 6)?;
    ensure!(changes.contains("health checks"), "{changes}");
    nginx[0].set_health("no")?;
    wait_listed(&director, &[(RS1, "0"), (RS2, "6")])?;
    // Where it stands in the schedule is another matter: it came back as the newest.
    let changes = reload(&director, &site, "inhibit_on_failure = true", 6)?;
    ensure!(!changes.contains("weight"), "{changes}");
    wait_listed(&director, &[(RS1, "0"), (RS2, "6")])?;
    served_by(&site, &["rs2"])?;
    let events = director.sluice("events")?;
    ensure!(events.contains("health") && events.contains("a server is down"), "{events}");
    Ok(())
}
