//! Datagrams larger than a link's MTU: in fragments from the client, from the server, and from the director itself.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sluice_bench::lab::site::{Method, VIP, VIP6, ipv6_of, server_address};
use sluice_bench::lab::{self, Netns, Site, SiteOptions};

const TIMEOUT: Duration = Duration::from_secs(3);

/// A DNS answer of 3 kB comes through whole, from servers of which an address is chosen.
fn big_answers_between(
    vip: IpAddr,
    method: Method,
    server: fn(Ipv4Addr) -> IpAddr,
    options: SiteOptions,
) -> Result<()> {
    if !lab::may_run("big_answers") {
        return Ok(());
    }
    let site = Site::new(options)?;
    let _dns = site.start_dns()?;
    site.prepare_servers(method)?;
    let service = Site::service_between(vip, "udp", 53, "rr", method, server);
    let director = site.start_director(&(site.config() + &service))?;
    for _ in 0..12 {
        lab::ask_big(&site.client, SocketAddr::new(vip, 53), TIMEOUT).with_context(|| {
            format!("{:?}; the director said:\n{}", director.sluice("status"), director.log())
        })?;
    }
    Ok(())
}

fn big_answers(method: Method, options: SiteOptions) -> Result<()> {
    big_answers_between(VIP.into(), method, IpAddr::from, options)
}

/// Over IPv6 on either side, or on both.
fn big_ipv6_answers(vip: impl Into<IpAddr>, method: Method, server: fn(Ipv4Addr) -> IpAddr) -> Result<()> {
    big_answers_between(vip.into(), method, server, SiteOptions { ipv6: true, ..SiteOptions::default() })
}

#[test]
fn big_ipv6_answers_by_nat() -> Result<()> {
    big_ipv6_answers(VIP6, Method::Nat, |server| ipv6_of(server).into())
}

#[test]
fn big_ipv6_answers_by_fullnat() -> Result<()> {
    big_ipv6_answers(VIP6, Method::FullNat, |server| ipv6_of(server).into())
}

#[test]
fn big_ipv6_answers_by_dr() -> Result<()> {
    big_ipv6_answers(VIP6, Method::Dr, |server| ipv6_of(server).into())
}

#[test]
fn big_ipv6_answers_by_tun() -> Result<()> {
    big_ipv6_answers(VIP6, Method::Tun, |server| ipv6_of(server).into())
}

/// The fragments of an answer become those of the other family, and where they are full of data, two.
#[test]
fn big_answers_of_ipv4_servers_to_ipv6_clients() -> Result<()> {
    big_ipv6_answers(VIP6, Method::FullNat, IpAddr::from)
}

#[test]
fn big_answers_of_ipv6_servers_to_ipv4_clients() -> Result<()> {
    big_ipv6_answers(VIP, Method::FullNat, |server| ipv6_of(server).into())
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

#[test]
fn big_ipv6_answers_by_two_workers() -> Result<()> {
    if std::thread::available_parallelism()?.get() < 2 {
        lab::skipped("big_ipv6_answers_by_two_workers", "needs two CPUs");
        return Ok(());
    }
    let options = SiteOptions { queues: 2, ipv6: true, ..SiteOptions::default() };
    big_answers_between(VIP6.into(), Method::FullNat, |server| ipv6_of(server).into(), options)
}

/// Sends back what it gets, from the address that it came to; ends with the process.
fn serve(server: &Netns, address: IpAddr) -> Result<()> {
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

/// Says so many bytes to a virtual address, as often as is given, until they come back.
fn say(site: &Site, vip: IpAddr, length: usize, times: u32) -> Result<()> {
    let any = if vip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = site.client.enter(|| UdpSocket::bind(any))??;
    socket.set_read_timeout(Some(TIMEOUT / times))?;
    socket.connect((vip, 4000))?;
    let said: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
    let mut heard = vec![0; 65536];
    let mut echo = || {
        socket.send(&said)?;
        socket.recv(&mut heard)
    };
    let count = (1..times).find_map(|_| echo().ok()).map_or_else(&mut echo, Ok);
    let count = count.with_context(|| format!("{length} bytes were not echoed"))?;
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
    serve(&site.servers[0], if method.replies_bypass() { VIP.into() } else { server.into() })?;
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
            .try_for_each(|length| say(&site, VIP.into(), length, 1))
            .with_context(|| format!("{what}; the director said:\n{}", director.log()))
    };
    all("by links of 1500")?;
    drop(director);

    // The director has to cut what comes whole, and what comes in pieces once more.
    site.director.ip(&[format!("route add {server}/32 dev eth1 src 10.0.2.254 mtu 1300")])?;
    let director = site.start_director(&config)?;
    let before = site.director.counters("eth1")?.tx_packets;
    say(&site, VIP.into(), 1400, 1).with_context(|| format!("the director said:\n{}", director.log()))?;
    let pieces = site.director.counters("eth1")?.tx_packets - before;
    ensure!(pieces >= 2, "{pieces} frames carried 1400 bytes over 1300");
    [1472, 1473, 4000, 20_000]
        .into_iter()
        .try_for_each(|length| say(&site, VIP.into(), length, 1))
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

/// The client fragments what it sends, to the size that the way takes: the first try may teach it that.
fn big_ipv6_requests(vip: impl Into<IpAddr>, method: Method, server: impl Into<IpAddr>) -> Result<()> {
    if !lab::may_run("big_ipv6_requests") {
        return Ok(());
    }
    let (vip, server) = (vip.into(), server.into());
    let site = Site::new(SiteOptions { ipv6: true, ..SiteOptions::default() })?;
    site.prepare_servers(method)?;
    serve(&site.servers[0], if method.replies_bypass() { vip } else { server })?;
    let (at, target) = (SocketAddr::new(vip, 4000), SocketAddr::new(server, 4000));
    let config = format!(
        "{}\n[[service]]\naddress = \"{at}\"\nprotocol = \"udp\"\nscheduler = \"rr\"\n\n[[service.server]]\n\
         address = \"{target}\"\nmethod = \"{}\"\nweight = 1\n",
        site.config(),
        method.name()
    );
    for mtu in [1500, 1400] {
        let (length, source) = match server {
            IpAddr::V4(_) => (32, "10.0.2.254"),
            IpAddr::V6(_) => (128, "2001:db8:2::254"),
        };
        site.director.ip(&[format!("route replace {server}/{length} dev eth1 src {source} mtu {mtu}")])?;
        let director = site.start_director(&config)?;
        [100, 1280, 1452, 1453, 4000, 20_000]
            .into_iter()
            .try_for_each(|length| say(&site, vip, length, 6))
            .with_context(|| format!("by a link of {mtu}; the director said:\n{}", director.log()))?;
    }
    Ok(())
}

#[test]
fn big_ipv6_requests_by_nat() -> Result<()> {
    big_ipv6_requests(VIP6, Method::Nat, ipv6_of(server_address(1)))
}

#[test]
fn big_ipv6_requests_by_fullnat() -> Result<()> {
    big_ipv6_requests(VIP6, Method::FullNat, ipv6_of(server_address(1)))
}

#[test]
fn big_ipv6_requests_by_dr() -> Result<()> {
    big_ipv6_requests(VIP6, Method::Dr, ipv6_of(server_address(1)))
}

#[test]
fn big_ipv6_requests_by_a_tunnel_of_ipv6() -> Result<()> {
    big_ipv6_requests(VIP6, Method::Tun, ipv6_of(server_address(1)))
}

#[test]
fn big_ipv6_requests_by_a_tunnel_of_ipv4() -> Result<()> {
    big_ipv6_requests(VIP6, Method::Tun, server_address(1))
}

#[test]
fn big_requests_by_a_tunnel_of_ipv6() -> Result<()> {
    big_ipv6_requests(VIP, Method::Tun, ipv6_of(server_address(1)))
}

#[test]
fn big_requests_of_ipv6_clients_to_ipv4_servers() -> Result<()> {
    big_ipv6_requests(VIP6, Method::FullNat, server_address(1))
}

#[test]
fn big_requests_of_ipv4_clients_to_ipv6_servers() -> Result<()> {
    big_ipv6_requests(VIP, Method::FullNat, ipv6_of(server_address(1)))
}
