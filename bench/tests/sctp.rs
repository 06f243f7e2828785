//! Associations of a real SCTP client with real SCTP servers, by each method that takes them.

use std::time::Duration;

use anyhow::{Result, ensure};
use sluice_bench::lab::site::{CLIENT, Method, VIP, server_address};
use sluice_bench::lab::{self, SctpServer, Site, SiteOptions, send_by_sctp, wait_for};

const PORT: u16 = 5001;
const MESSAGES: usize = 200;

/// Three associations are spread over three servers by one worker, and servers get all messages. `port` is the servers' own.
fn associations(method: Method, port: u16) -> Result<()> {
    if !lab::may_run("SCTP") {
        return Ok(());
    }
    let site = Site::new(SiteOptions::default())?;
    site.prepare_servers(method)?;
    if method.replies_bypass() {
        // tsctp takes addresses of `lo` for such as other machines cannot reach. Nobody asks for the virtual address on
        // this network.
        for netns in &site.servers {
            netns.ip(&[format!("addr del {VIP}/32 dev lo"), format!("addr add {VIP}/32 dev eth0")])?;
        }
    }
    let servers = site.servers.iter().zip(1..).map(|(netns, number)| {
        let address = if method.replies_bypass() { VIP } else { server_address(number) };
        SctpServer::start(netns, address.into(), port, site.dir())
    });
    let servers = servers.collect::<Result<Vec<_>>>()?;
    let director = site.start_director(&site.config())?;
    director.ipvsadm(&format!("-A --sctp-service {VIP}:{PORT} -s rr"))?;
    for number in 1..=3 {
        let (server, option) = (server_address(number), method.option());
        director.ipvsadm(&format!("-a --sctp-service {VIP}:{PORT} -r {server}:{port} {option}"))?;
    }
    // One after the other: each client answers for all associations of its machine.
    for _ in 0..3 {
        send_by_sctp(&site.client, CLIENT.into(), VIP.into(), PORT, MESSAGES)?;
    }
    // A server is done some time after its client.
    wait_for("all servers to have counted", Duration::from_secs(10), || {
        let counts = servers.iter().map(SctpServer::received).collect::<Result<Vec<_>>>()?;
        let in_turn = site.queues > 1 || counts.iter().all(|counts| counts.len() == 1);
        Ok(in_turn && counts.concat() == [MESSAGES; 3])
    })?;
    let listing = director.ipvsadm("-Lnc")?;
    let lines: Vec<&str> = listing.lines().filter(|line| line.starts_with("SCTP")).collect();
    ensure!(lines.len() == 3 && lines.iter().all(|line| line.contains("CLOSED")), "{listing}");
    let (status, log) = director.stop()?;
    ensure!(status.success(), "{status}:\n{log}");
    Ok(())
}

#[test]
fn associations_by_nat() -> Result<()> {
    associations(Method::Nat, PORT + 1)
}

#[test]
fn associations_by_dr() -> Result<()> {
    associations(Method::Dr, PORT)
}

#[test]
fn associations_by_tun() -> Result<()> {
    associations(Method::Tun, PORT)
}
