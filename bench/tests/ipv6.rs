//! Real clients reach real servers over IPv6, by each method.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Result, ensure};
use sluice_bench::lab::site::{self, Method, VIP, VIP6, ipv6_of, is_fair, sha256, spread};
use sluice_bench::lab::{self, Site, SiteOptions, curl};

/// Requests to a virtual address are spread over servers, of which an address is chosen, and a large answer arrives as
/// it was sent.
fn requests(vip: impl Into<IpAddr>, method: Method, server: fn(Ipv4Addr) -> IpAddr) -> Result<()> {
    if !lab::may_run("requests over IPv6") {
        return Ok(());
    }
    let vip = vip.into();
    let site = Site::new(SiteOptions { ipv6: true, ..SiteOptions::default() })?;
    let _nginx = site.start_nginx()?;
    site.prepare_servers(method)?;
    let service = Site::service_between(vip, "tcp", 80, "rr", method, server);
    let director = site.start_director(&(site.config() + &service))?;
    let host = match vip {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    };
    let greetings = curl::greet(&site.client, &host, 12)?;
    greetings.all_answered(&director)?;
    let servers: Vec<String> = greetings.answers.iter().map(|answer| answer.server.clone()).collect();
    let counts = spread(&servers);
    ensure!(is_fair(&counts, site.queues), "{counts:?}");
    let expected: IpAddr = match (method, vip.is_ipv4()) {
        (Method::FullNat, _) if server(site::LIP).is_ipv4() => site::LIP.into(),
        (Method::FullNat, _) => site::LIP6.into(),
        (_, true) => site::CLIENT.into(),
        (_, false) => ipv6_of(site::CLIENT).into(),
    };
    ensure!(greetings.answers.iter().all(|answer| answer.client == expected), "{:?}", greetings.answers[0]);

    let blob = site.make_blob(2_000_000)?;
    let downloaded = curl::target(site.dir(), "blob");
    curl::download(&site.client, &format!("http://{host}/blob"), &downloaded)?;
    ensure!(sha256(&downloaded)? == sha256(&blob)?, "the download differs");
    // Larger than the tunnel takes in one piece: the client has to learn its MTU.
    curl::upload(&site.client, &blob, &format!("http://{host}/upload/blob"))?;
    let (status, log) = director.stop()?;
    ensure!(status.success(), "{status}:\n{log}");
    Ok(())
}

#[test]
fn requests_by_nat() -> Result<()> {
    requests(VIP6, Method::Nat, |server| ipv6_of(server).into())
}

#[test]
fn requests_by_fullnat() -> Result<()> {
    requests(VIP6, Method::FullNat, |server| ipv6_of(server).into())
}

#[test]
fn requests_by_dr() -> Result<()> {
    requests(VIP6, Method::Dr, |server| ipv6_of(server).into())
}

#[test]
fn requests_by_a_tunnel_of_ipv6_in_ipv6() -> Result<()> {
    requests(VIP6, Method::Tun, |server| ipv6_of(server).into())
}

#[test]
fn requests_by_a_tunnel_of_ipv6_in_ipv4() -> Result<()> {
    requests(VIP6, Method::Tun, IpAddr::from)
}

#[test]
fn requests_by_a_tunnel_of_ipv4_in_ipv6() -> Result<()> {
    requests(VIP, Method::Tun, |server| ipv6_of(server).into())
}

/// The header of one family is translated into the other's.
#[test]
fn requests_of_ipv6_clients_to_ipv4_servers() -> Result<()> {
    requests(VIP6, Method::FullNat, IpAddr::from)
}

#[test]
fn requests_of_ipv4_clients_to_ipv6_servers() -> Result<()> {
    requests(VIP, Method::FullNat, |server| ipv6_of(server).into())
}
