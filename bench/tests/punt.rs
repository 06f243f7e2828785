//! What belongs to nobody's connection is the kernel's, and it answers as it would without a director.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use sluice_bench::lab::site::{Method, VIP};
use sluice_bench::lab::{self, ReversePath, Site, SiteOptions, run};

fn site(reverse_path: ReversePath) -> Result<Site> {
    Site::new(SiteOptions { reverse_path, ..SiteOptions::default() })
}

#[test]
fn the_virtual_address_answers_ping() -> Result<()> {
    if !lab::may_run("the_virtual_address_answers_ping") {
        return Ok(());
    }
    let site = site(ReversePath::Strict)?;
    let _director = site.start_director(&(site.config() + &site.service("tcp", 80, "rr", Method::Nat)))?;
    run(site.client.command("ping").args(["-c", "3", "-i", "0.05", "-W", "2", &VIP.to_string()]))?;
    Ok(())
}

#[test]
fn a_port_without_a_service_refuses() -> Result<()> {
    if !lab::may_run("a_port_without_a_service_refuses") {
        return Ok(());
    }
    let site = site(ReversePath::Strict)?;
    let _director = site.start_director(&(site.config() + &site.service("tcp", 80, "rr", Method::Nat)))?;
    let started = Instant::now();
    let closed = SocketAddr::from((VIP, 81));
    let refused = site.client.enter(|| TcpStream::connect_timeout(&closed, Duration::from_secs(5)))?;
    match refused {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
        other => bail!("{other:?} instead of being refused"),
    }
    ensure!(started.elapsed() < Duration::from_millis(900), "refused only after {:?}", started.elapsed());
    Ok(())
}

/// A director that was restarted knows nothing of the connection; the client is told at its next packet.
fn a_forgotten_connection_is_reset(reverse_path: ReversePath) -> Result<()> {
    if !lab::may_run("a_forgotten_connection_is_reset") {
        return Ok(());
    }
    let site = site(reverse_path)?;
    let _nginx = site.start_nginx()?;
    let config = site.config() + &site.service("tcp", 80, "rr", Method::FullNat);
    let director = site.start_director(&config)?;
    let service = SocketAddr::from((VIP, 80));
    let mut stream = site.client.enter(|| TcpStream::connect_timeout(&service, Duration::from_secs(3)))??;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut answer = [0; 512];
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")?;
    ensure!(stream.read(&mut answer)? > 0, "no answer to the first request");

    director.stop()?;
    let _director = site.start_director(&config)?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")?;
    match stream.read(&mut answer) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        other => bail!("{other:?} instead of a reset"),
    }
}

#[test]
fn a_segment_without_an_entry_is_reset() -> Result<()> {
    a_forgotten_connection_is_reset(ReversePath::Off)
}

#[test]
fn a_segment_without_an_entry_is_reset_past_a_strict_filter() -> Result<()> {
    a_forgotten_connection_is_reset(ReversePath::Strict)
}
