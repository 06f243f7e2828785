//! Path-MTU discovery (RFC 1191): a router on the way says that packets are too big, and that gets through the director
//! to whoever sent them. The links have an MTU of 1500 at both ends of the path, so that only the router knows better.

use anyhow::{Context, Result, ensure};
use sluice_bench::lab::site::{self, Method, VIP, server_address, sha256};
use sluice_bench::lab::{self, FarServer, Site, SiteOptions, curl};

const NARROW: u32 = 1400;
const BYTES: usize = 2_000_000;

/// The configuration of a service with one server.
fn config(site: &Site, server: std::net::Ipv4Addr, method: Method) -> String {
    format!(
        "{}\n[[service]]\naddress = \"{VIP}:80\"\nprotocol = \"tcp\"\nscheduler = \"rr\"\n\n[[service.server]]\n\
         address = \"{server}:80\"\nmethod = \"{}\"\nweight = 1\n",
        site.config(),
        method.name()
    )
}

/// A download meets a narrow path between the router and the client.
fn downloads_find_a_narrow_path(method: Method) -> Result<()> {
    if !lab::may_run("downloads_find_a_narrow_path") {
        return Ok(());
    }
    let site = Site::new(SiteOptions::default())?;
    let _nginx = site.start_nginx()?;
    site.prepare_servers(method)?;
    site.router.ip(&[format!("route replace 10.0.0.0/24 dev client mtu {NARROW}")])?;
    let director = site.start_director(&config(&site, server_address(1), method))?;
    let digest = sha256(&site.make_blob(BYTES)?)?;
    let downloaded = curl::target(site.dir(), "blob");
    curl::download(&site.client, &format!("http://{VIP}/blob"), &downloaded)
        .with_context(|| format!("the director said:\n{}", director.log()))?;
    ensure!(sha256(&downloaded)? == digest, "the download differs");

    // The server learned it for the address that its packets go to: behind FULLNAT, the local one.
    let towards = if method == Method::FullNat { site::LIP } else { site::CLIENT };
    let route = site.servers[0].ip_show(&["route", "get", &towards.to_string()])?;
    ensure!(route.contains(&format!("mtu {NARROW}")), "the server's route is {route}");
    Ok(())
}

/// An upload meets a narrow path behind the director.
fn uploads_find_a_narrow_path(method: Method) -> Result<()> {
    if !lab::may_run("uploads_find_a_narrow_path") {
        return Ok(());
    }
    let site = Site::new(SiteOptions::default())?;
    let far = FarServer::new(&site, method, NARROW)?;
    let nginx = far.start_nginx(&site)?;
    let director = site.start_director(&config(&site, FarServer::ADDRESS, method))?;
    upload(&site, &nginx).with_context(|| format!("the director said:\n{}", director.log()))?;
    // A tunnel takes an outer header of 20 bytes.
    learned(&site, if method == Method::Tun { NARROW - 20 } else { NARROW })
}

fn upload(site: &Site, nginx: &lab::Nginx) -> Result<()> {
    let blob = site.make_blob(BYTES)?;
    curl::upload(&site.client, &blob, &format!("http://{VIP}/upload/blob"))?;
    ensure!(sha256(&nginx.uploaded("blob"))? == sha256(&blob)?, "the upload differs");
    Ok(())
}

/// The client knows the MTU of the path.
fn learned(site: &Site, mtu: u32) -> Result<()> {
    let route = site.client.ip_show(&["route", "get", &VIP.to_string()])?;
    ensure!(route.contains(&format!("mtu {mtu}")), "the client's route is {route}");
    Ok(())
}

/// Direct routing has no router behind the director: the narrow link is the director's own.
#[test]
fn uploads_by_dr() -> Result<()> {
    if !lab::may_run("uploads_by_dr") {
        return Ok(());
    }
    let site = Site::new(SiteOptions::default())?;
    let nginx = site.start_nginx()?;
    site.prepare_servers(Method::Dr)?;
    site.director.ip(&[format!("route add {}/32 dev eth1 mtu {NARROW}", server_address(1))])?;
    let director = site.start_director(&config(&site, server_address(1), Method::Dr))?;
    upload(&site, &nginx[0]).with_context(|| format!("the director said:\n{}", director.log()))?;
    learned(&site, NARROW)
}

#[test]
fn uploads_by_nat() -> Result<()> {
    uploads_find_a_narrow_path(Method::Nat)
}

#[test]
fn uploads_by_fullnat() -> Result<()> {
    uploads_find_a_narrow_path(Method::FullNat)
}

#[test]
fn uploads_by_tun() -> Result<()> {
    uploads_find_a_narrow_path(Method::Tun)
}

#[test]
fn downloads_by_nat() -> Result<()> {
    downloads_find_a_narrow_path(Method::Nat)
}

#[test]
fn downloads_by_fullnat() -> Result<()> {
    downloads_find_a_narrow_path(Method::FullNat)
}

#[test]
fn downloads_by_dr() -> Result<()> {
    downloads_find_a_narrow_path(Method::Dr)
}

#[test]
fn downloads_by_tun() -> Result<()> {
    downloads_find_a_narrow_path(Method::Tun)
}
