//! The director starts only where it may, and leaves nothing when it ends.

use anyhow::{Result, ensure};
use sluice_bench::lab::site::{Method, VIP};
use sluice_bench::lab::{self, Site, SiteOptions, curl};
use sluice_bench::traffic::Sink;

fn programs(site: &Site) -> Result<[Option<u64>; 2]> {
    Ok([site.director.xdp_program("eth0")?, site.director.xdp_program("eth1")?])
}

#[test]
fn sigterm_leaves_no_program() -> Result<()> {
    if !lab::may_run("sigterm_leaves_no_program") {
        return Ok(());
    }
    let site = Site::new(SiteOptions::default())?;
    let director = site.start_director(&(site.config() + &site.service("tcp", 80, "rr", Method::Nat)))?;
    ensure!(programs(&site)?.iter().all(Option::is_some), "{:?}", programs(&site)?);
    let socket = director.socket().to_owned();
    let (status, log) = director.stop()?;
    ensure!(status.success(), "{status}:\n{log}");
    ensure!(programs(&site)? == [None, None], "{:?}", programs(&site)?);
    ensure!(!socket.exists(), "{} is left", socket.display());
    Ok(())
}

#[test]
fn a_director_comes_back_after_kill() -> Result<()> {
    if !lab::may_run("a_director_comes_back_after_kill") {
        return Ok(());
    }
    let site = Site::new(SiteOptions::default())?;
    let _nginx = site.start_nginx()?;
    let config = site.config() + &site.service("tcp", 80, "rr", Method::FullNat);
    for _ in 0..2 {
        let director = site.start_director(&config)?;
        let greetings = curl::greet(&site.client, &VIP.to_string(), 6)?;
        greetings.all_answered(&director)?;
        director.kill()?;
    }
    let director = site.start_director(&config)?;
    let (status, log) = director.stop()?;
    ensure!(status.success(), "{status}:\n{log}");
    ensure!(programs(&site)? == [None, None], "{:?}", programs(&site)?);
    Ok(())
}

#[test]
fn the_program_of_somebody_else_is_left_alone() -> Result<()> {
    if !lab::may_run("the_program_of_somebody_else_is_left_alone") {
        return Ok(());
    }
    let site = Site::new(SiteOptions::default())?;
    let sink = Sink::attach(&site.director, "eth1", false)?;
    let before = programs(&site)?;
    let error = match site.start_director(&site.config()) {
        Ok(director) => anyhow::bail!("it started:\n{}", director.log()),
        Err(error) => format!("{error:#}"),
    };
    ensure!(error.contains("eth1") && error.contains("sink"), "neither interface nor program named: {error}");
    ensure!(programs(&site)? == before, "the other program was touched: {:?}", programs(&site)?);
    drop(sink);
    let (status, log) = site.start_director(&site.config())?.stop()?;
    ensure!(status.success(), "{status}:\n{log}");
    Ok(())
}

#[test]
fn mistakes_in_the_configuration_are_named() -> Result<()> {
    if !lab::may_run("mistakes_in_the_configuration_are_named") {
        return Ok(());
    }
    let site = Site::new(SiteOptions::default())?;
    let good = site.config() + &site.service("tcp", 80, "rr", Method::Nat);
    // What is wrong, and the words that its error must have.
    let wrong: [(String, &[&str]); 6] = [
        (good.replace("workers", "wrokers"), &["wrokers", "3"]),
        (good.replace("\"eth1\"", "\"eth9\""), &["eth9"]),
        (good.replace("192.0.2.10:80", "192.0.2.10"), &["192.0.2.10"]),
        (good.replacen("\"rr\"", "\"fastest\"", 1), &["fastest"]),
        (good.replacen("\"nat\"", "\"magic\"", 1), &["magic"]),
        (good.replace("[director]", "[director"), &["1"]),
    ];
    for (config, words) in wrong {
        let error = match site.start_director(&config) {
            Ok(director) => anyhow::bail!("it started with {config}:\n{}", director.log()),
            Err(error) => format!("{error:#}"),
        };
        ensure!(error.contains("the director ended"), "{error}");
        ensure!(!error.contains("panicked"), "{error}");
        for word in words {
            ensure!(error.contains(word), "no {word} in: {error}");
        }
        ensure!(programs(&site)? == [None, None], "{:?}", programs(&site)?);
    }
    Ok(())
}
