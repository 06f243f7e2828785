//! Datagrams larger than a link's MTU: in fragments from the client, from the server, and from the director itself.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sluice_bench::lab::site::{Method, VIP, server_address};
use sluice_bench::lab::{self, Netns, Site, SiteOptions};

const TIMEOUT: Duration = Duration::from_secs(3);

/// A DNS answer of 3 kB comes through whole.
fn big_answers(method: Method, options: SiteOptions) -> Result<()> {
    if !lab::may_run("big_answers") {
        return Ok(());
    }
    let site = Site::new(options)?;
    let _dns = site.start_dns()?;
    site.prepare_servers(method)?;
    let director = site.start_director(&(site.config() + &site.service("udp", 53, "rr", method)))?;
    for _ in 0..12 {
        lab::ask_big(&site.client, SocketAddr::from((VIP, 53)), TIMEOUT)
            .with_context(|| format!("the director said:\n{}", director.log()))?;
    }
    Ok(())
}

#[test]
fn big_answers_by_nat() -> Result<()> {
    big_answers(Method::Nat, SiteOptions::default())
}

#[test]
fn big_answers_by_fullnat() -> Result<()> {
    big_answers(Method::FullNat, SiteOptions::default())
}

/// The pieces of an answer meet at one worker, whatever queues they come by.
#[test]
fn big_answers_by_two_workers() -> Result<()> {
    if std::thread::available_parallelism()?.get() < 2 {
        lab::skipped("big_answers_by_two_workers", "needs two CPUs");
        return Ok(());
    }
    big_answers(Method::FullNat, SiteOptions { queues: 2, ..SiteOptions::default() })
}

/// Sends back what it gets, from the address that it came to; ends with the process.
fn serve(server: &Netns, address: Ipv4Addr) -> Result<()> {
    let socket = server.enter(|| UdpSocket::bind((address, 4000)))??;
    std::thread::spawn(move || {
        let mut datagram = [0; 65536];
        while let Ok((length, from)) = socket.recv_from(&mut datagram) {
            // A client that is gone is none of the server's business.
            let _ = socket.send_to(&datagram[..length], from);
        }
    });
    Ok(())
}

fn say(site: &Site, length: usize) -> Result<()> {
    let socket = site.client.enter(|| UdpSocket::bind("0.0.0.0:0"))??;
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.connect((VIP, 4000))?;
    let said: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
    socket.send(&said)?;
    let mut heard = vec![0; 65536];
    let count = socket.recv(&mut heard).with_context(|| format!("{length} bytes were not echoed"))?;
    ensure!(heard[..count] == said, "{length} bytes were echoed as {count} others");
    Ok(())
}

fn big_requests(method: Method) -> Result<()> {
    if !lab::may_run("big_requests") {
        return Ok(());
    }
    let site = Site::new(SiteOptions::default())?;
    site.prepare_servers(method)?;
    // So that what fits the client's own link may be fragmented further on.
    site.client.sysctl("net.ipv4.ip_no_pmtu_disc", "1")?;
    let server = server_address(1);
    serve(&site.servers[0], if method.replies_bypass() { VIP } else { server })?;
    let config = format!(
        "{}\n[[service]]\naddress = \"{VIP}:4000\"\nprotocol = \"udp\"\nscheduler = \"rr\"\n\n[[service.server]]\n\
         address = \"{server}:4000\"\nmethod = \"{}\"\nweight = 1\n",
        site.config(),
        method.name()
    );
    let director = site.start_director(&config)?;
    let all = |what: &str| {
        [100, 1400, 1472, 1473, 4000, 20_000]
            .into_iter()
            .try_for_each(|length| say(&site, length))
            .with_context(|| format!("{what}; the director said:\n{}", director.log()))
    };
    all("by links of 1500")?;
    drop(director);

    // The director has to cut what comes whole, and what comes in pieces once more.
    site.director.ip(&[format!("route add {server}/32 dev eth1 src 10.0.2.254 mtu 1300")])?;
    let director = site.start_director(&config)?;
    let before = site.director.counters("eth1")?.tx_packets;
    say(&site, 1400).with_context(|| format!("the director said:\n{}", director.log()))?;
    let pieces = site.director.counters("eth1")?.tx_packets - before;
    ensure!(pieces >= 2, "{pieces} frames carried 1400 bytes over 1300");
    [1472, 1473, 4000, 20_000]
        .into_iter()
        .try_for_each(|length| say(&site, length))
        .with_context(|| format!("by a link of 1300; the director said:\n{}", director.log()))
}

#[test]
fn big_requests_by_nat() -> Result<()> {
    big_requests(Method::Nat)
}

#[test]
fn big_requests_by_fullnat() -> Result<()> {
    big_requests(Method::FullNat)
}

#[test]
fn big_requests_by_dr() -> Result<()> {
    big_requests(Method::Dr)
}

#[test]
fn big_requests_by_tun() -> Result<()> {
    big_requests(Method::Tun)
}
