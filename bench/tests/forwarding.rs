//! Real clients reach real servers through the director, by each method.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sluice_bench::lab::echo::{self, Session};
use sluice_bench::lab::site::{self, Method, VIP, is_fair, sha256, spread};
use sluice_bench::lab::{self, ReversePath, Site, SiteOptions, curl};

const MEGABYTE: usize = 1_000_000;

/// A site with a director that sends HTTP on to all three servers.
fn site(method: Method, options: SiteOptions) -> Result<(Site, lab::Director, Vec<lab::Nginx>)> {
    let site = Site::new(options)?;
    let nginx = site.start_nginx()?;
    site.prepare_servers(method)?;
    let director = site.start_director(&(site.config() + &site.service("tcp", 80, "rr", method)))?;
    Ok((site, director, nginx))
}

/// Every request is answered, by each server in turn, and nginx sees the right client.
fn requests_are_spread(method: Method, options: SiteOptions) -> Result<()> {
    if !lab::may_run("requests_are_spread") {
        return Ok(());
    }
    let (site, director, _nginx) = site(method, options)?;
    let far = site.director.counters("eth1")?;
    let greetings = curl::greet(&site.client, &VIP.to_string(), 30)?;
    greetings.all_answered(&director)?;

    let servers: Vec<String> = greetings.answers.iter().map(|answer| answer.server.clone()).collect();
    let counts = spread(&servers);
    ensure!(is_fair(&counts, site.queues), "{counts:?}");
    let expected = IpAddr::from(if method == Method::FullNat { site::LIP } else { site::CLIENT });
    ensure!(greetings.answers.iter().all(|answer| answer.client == expected), "{:?}", greetings.answers[0]);

    let replies = site.director.counters("eth1")?.since(far).rx_packets;
    if method.replies_bypass() {
        // A few for ARP.
        ensure!(replies < 20, "{replies} packets of replies crossed the director");
    } else {
        ensure!(replies >= 60, "only {replies} packets of replies crossed the director");
    }
    let (status, log) = director.stop()?;
    ensure!(status.success(), "{status}:\n{log}");
    Ok(())
}

/// Every request is answered, by whichever server.
fn requests_are_answered(method: Method, options: SiteOptions) -> Result<()> {
    if !lab::may_run("requests_are_answered") {
        return Ok(());
    }
    let (site, director, _nginx) = site(method, options)?;
    let greetings = curl::greet(&site.client, &VIP.to_string(), 60)?;
    greetings.all_answered(&director)?;
    Ok(())
}

#[test]
fn requests_by_nat() -> Result<()> {
    requests_are_spread(Method::Nat, SiteOptions::default())
}

#[test]
fn requests_by_fullnat() -> Result<()> {
    requests_are_spread(Method::FullNat, SiteOptions::default())
}

#[test]
fn requests_by_dr() -> Result<()> {
    requests_are_spread(Method::Dr, SiteOptions::default())
}

#[test]
fn requests_by_tun() -> Result<()> {
    requests_are_spread(Method::Tun, SiteOptions::default())
}

#[test]
fn requests_past_a_strict_reverse_path_filter() -> Result<()> {
    let strict = SiteOptions { reverse_path: ReversePath::Strict, ..SiteOptions::default() };
    requests_are_spread(Method::Nat, strict)?;
    requests_are_spread(Method::FullNat, strict)
}

/// A veth spreads what it gets over queues by CPU, so that requests and replies of one connection meet different workers.
#[test]
fn requests_by_two_workers() -> Result<()> {
    if std::thread::available_parallelism()?.get() < 2 {
        lab::skipped("requests_by_two_workers", "needs two CPUs");
        return Ok(());
    }
    let two = SiteOptions { queues: 2, ..SiteOptions::default() };
    requests_are_answered(Method::Nat, two)?;
    requests_are_answered(Method::FullNat, two)
}

/// 100 MB each way arrive as they were sent, while somebody works on the director over the same interface.
fn bulk_arrives_unchanged(method: Method) -> Result<()> {
    if !lab::may_run("bulk_arrives_unchanged") {
        return Ok(());
    }
    let (site, director, nginx) = site(method, SiteOptions::default())?;
    let blob = site.make_blob(100 * MEGABYTE)?;
    let digest = sha256(&blob)?;
    let login = SocketAddr::from((site::DIRECTOR, 22));
    echo::serve(&site.director, login)?;

    let done = AtomicBool::new(false);
    let said = std::thread::scope(|scope| {
        let session = scope.spawn(|| -> Result<u32> {
            let mut session = Session::open(&site.client, login)?;
            let mut said = 0;
            while !done.load(Ordering::Relaxed) {
                session.say(&format!("line {said}"))?;
                said += 1;
                // As fast as somebody types, not as fast as a benchmark.
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(said)
        });
        let transferred = transfer(&site, &nginx, &blob, &digest);
        done.store(true, Ordering::Relaxed);
        let said = session.join().expect("the session does not panic").context("the login on the director");
        transferred.with_context(|| format!("the director said:\n{}", director.log()))?;
        said
    })?;
    ensure!(said > 5, "only {said} lines were echoed meanwhile");
    Ok(())
}

fn transfer(site: &Site, nginx: &[lab::Nginx], blob: &std::path::Path, digest: &str) -> Result<()> {
    let downloaded = curl::target(site.dir(), "blob");
    curl::download(&site.client, &format!("http://{VIP}/blob"), &downloaded)?;
    ensure!(sha256(&downloaded)? == digest, "the download differs");
    curl::upload(&site.client, blob, &format!("http://{VIP}/upload/blob"))?;
    let uploads: Vec<_> =
        nginx.iter().map(|nginx| nginx.uploaded("blob")).filter(|path| path.exists()).collect();
    ensure!(uploads.len() == 1, "{} servers have the upload", uploads.len());
    ensure!(sha256(&uploads[0])? == digest, "the upload differs");
    Ok(())
}

#[test]
fn bulk_by_nat() -> Result<()> {
    bulk_arrives_unchanged(Method::Nat)
}

#[test]
fn bulk_by_fullnat() -> Result<()> {
    bulk_arrives_unchanged(Method::FullNat)
}

#[test]
fn bulk_by_dr() -> Result<()> {
    bulk_arrives_unchanged(Method::Dr)
}

#[test]
fn bulk_by_tun() -> Result<()> {
    bulk_arrives_unchanged(Method::Tun)
}

/// DNS questions, each from a port of its own, are answered by all servers.
#[test]
fn datagrams_by_every_method() -> Result<()> {
    if !lab::may_run("datagrams_by_every_method") {
        return Ok(());
    }
    let site = Site::new(SiteOptions::default())?;
    let _dns = site.start_dns()?;
    for method in Method::ALL {
        site.prepare_servers(method)?;
        let director = site.start_director(&(site.config() + &site.service("udp", 53, "rr", method)))?;
        let ask = || lab::ask_name(&site.client, SocketAddr::from((VIP, 53)), Duration::from_secs(3));
        let answers: Vec<String> = (0..12)
            .map(|_| ask())
            .collect::<Result<_>>()
            .with_context(|| format!("{}; the director said:\n{}", method.name(), director.log()))?;
        let counts = spread(&answers);
        ensure!(is_fair(&counts, site.queues), "{}: {counts:?}", method.name());
        director.stop()?;
        site.restore_servers(method)?;
    }
    Ok(())
}
