//! Two directors that have nothing but the kernel's own sync protocol between them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sluice_bench::lab::echo::{self, Session};
use sluice_bench::lab::site::{Method, SERVERS, VIP, VIP6, ipv6_of, server_address};
use sluice_bench::lab::{self, Director, Second, Site, SiteOptions, wait_for};

const PLAIN: u16 = 7000;
const PERSISTENT: u16 = 7001;
const DATAGRAMS: u16 = 7002;
const DIRECT: u16 = 7003;
const SESSIONS: usize = 8;
const PATIENCE: Duration = Duration::from_secs(20);

/// What `ipvsadm -Lnc` lists, without the time that is left.
fn listed(director: &Director) -> Result<Vec<String>> {
    let listed = director.ipvsadm("-Lnc")?;
    let without_time = |line: &str| {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        words.remove(1);
        words.join(" ")
    };
    let mut lines: Vec<_> = listed.lines().skip(2).map(without_time).collect();
    lines.sort_unstable();
    Ok(lines)
}

#[test]
fn connections_appear_at_the_backup_and_go_on_there() -> Result<()> {
    if !lab::may_run("connections_appear_at_the_backup_and_go_on_there") {
        return Ok(());
    }
    let site = Site::new(SiteOptions { ipv6: true, ..SiteOptions::default() })?;
    for (server, number) in site.servers.iter().zip(1..=SERVERS) {
        let address = server_address(number);
        for ip in [IpAddr::from(address), ipv6_of(address).into()] {
            for port in [PLAIN, PERSISTENT] {
                echo::serve(server, SocketAddr::new(ip, port))?;
            }
        }
    }
    site.prepare_servers(Method::Nat)?;
    let second = Second::new(&site)?;
    let persistent = site
        .service("tcp", PERSISTENT, "rr", Method::Nat)
        .replace("scheduler = \"rr\"\n", "scheduler = \"rr\"\npersistent = 300\n");
    let services = [
        site.service("tcp", PLAIN, "rr", Method::Nat),
        persistent,
        site.service("udp", DATAGRAMS, "rr", Method::Nat),
        site.service("udp", DIRECT, "rr", Method::Dr),
        Site::service_between(VIP6.into(), "tcp", PLAIN, "rr", Method::Nat, |server| ipv6_of(server).into()),
    ]
    .concat();
    let idle = if site.config().contains("idle = ") { "" } else { "idle = \"sleep\"\n" };
    let config = format!("{}{idle}{services}", site.config());
    // One is configured, the other told.
    let first = site.start_director(&config)?;
    let daemon = "\n[[sync_daemon]]\nrole = \"backup\"\ninterface = \"eth1\"\nsync_id = 7\n";
    let other = second.start(&(config.clone() + daemon))?;
    let shown = other.ipvsadm("-L --daemon")?;
    ensure!(shown.contains("backup sync daemon (mcast=eth1, syncid=7"), "{shown}");
    first.ipvsadm("--start-daemon master --mcast-interface eth1 --syncid 7")?;

    let mut sessions = Vec::new();
    let vip = |port| SocketAddr::from((VIP, port));
    for number in 0..SESSIONS {
        sessions.push(Session::open(&site.client, vip(if number < 2 { PERSISTENT } else { PLAIN }))?);
    }
    let mut v6 = Session::open(&site.client, SocketAddr::from((VIP6, PLAIN)))?;
    let datagrams = site.client.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
    for port in [DATAGRAMS, DIRECT] {
        datagrams.send_to(b"x", vip(port))?;
    }
    for session in sessions.iter_mut().chain([&mut v6]) {
        session.say("by the first")?;
    }
    // With the template, which is one client's.
    let least = SESSIONS + 4;
    wait_for("the same connections at both", PATIENCE, || {
        let one = listed(&first)?;
        Ok(one.len() >= least && one == listed(&other)?)
    })
    .with_context(|| {
        let show = |director: &Director| {
            let (status, listed) = (director.sluice("status --json"), director.ipvsadm("-Lnc"));
            format!("{}\n{}", status.unwrap_or_default(), listed.unwrap_or_default())
        };
        format!("one:\n{}\nthe other:\n{}", show(&first), show(&other))
    })?;

    second.take_over()?;
    for server in &site.servers {
        server.ip(&["route replace default via 10.0.2.252"])?;
    }
    first.kill()?;
    for session in &mut sessions {
        session.say("by the other").with_context(|| format!("the other said:\n{}", other.log()))?;
    }
    // By its template, a new connection goes to the same server.
    sessions.push(Session::open(&site.client, vip(PERSISTENT))?);
    let persistent = listed(&other)?.into_iter().filter(|line| line.contains(&format!(":{PERSISTENT} ")));
    let servers: std::collections::HashSet<_> =
        persistent.filter_map(|line| line.split(' ').nth(4).map(str::to_owned)).collect();
    ensure!(servers.len() == 1, "{servers:?}");
    other.ipvsadm("--stop-daemon backup")?;
    ensure!(other.ipvsadm("-L --daemon")?.is_empty());
    let (status, log) = other.stop()?;
    ensure!(status.success(), "{status}:\n{log}");
    Ok(())
}
