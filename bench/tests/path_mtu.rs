//! Path-MTU discovery (RFC 1191, RFC 8201): a router on the way says that packets are too big, and that gets through
//! the director to whoever sent them. The links have an MTU of 1500 at both ends of the path, so that only the router
//! knows better.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use sluice_bench::lab::site::{self, Method, VIP, VIP6, ipv6_of, server_address, sha256};
use sluice_bench::lab::{self, FarServer, Netns, Site, SiteOptions, curl};

const NARROW: u32 = 1400;
const BYTES: usize = 2_000_000;
/// What an IPv6 header has more than an IPv4 one.
const DIFFERENCE: u32 = 20;

/// The families of the virtual address and of the server.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Families {
    Four,
    Six,
    SixToFour,
    FourToSix,
}
use Families::{Four, FourToSix, Six, SixToFour};

impl Families {
    fn vip(self) -> IpAddr {
        if matches!(self, Four | FourToSix) { VIP.into() } else { VIP6.into() }
    }

    /// The address of the server that also has this one.
    fn server(self, address: Ipv4Addr) -> IpAddr {
        if matches!(self, Four | SixToFour) { address.into() } else { ipv6_of(address).into() }
    }

    fn site(self) -> Result<Site> {
        Site::new(SiteOptions { ipv6: self != Four, ..SiteOptions::default() })
    }

    fn url(self, path: &str) -> String {
        format!("http://{}/{path}", SocketAddr::new(self.vip(), 80))
    }

    /// The configuration of a service with one server.
    fn config(self, site: &Site, server: Ipv4Addr, method: Method) -> String {
        let (vip, server) = (SocketAddr::new(self.vip(), 80), SocketAddr::new(self.server(server), 80));
        format!(
            "{}\n[[service]]\naddress = \"{vip}\"\nprotocol = \"tcp\"\nscheduler = \"rr\"\n\n\
             [[service.server]]\naddress = \"{server}\"\nmethod = \"{}\"\nweight = 1\n",
            site.config(),
            method.name()
        )
    }
}

/// The kernel of a station knows the MTU of the path to an address.
fn learned(station: &Netns, towards: IpAddr, mtu: u32) -> Result<()> {
    let route = station.ip_show(&["route", "get", &towards.to_string()])?;
    ensure!(route.contains(&format!("mtu {mtu}")), "not an MTU of {mtu}: {route}");
    Ok(())
}

/// A download meets a narrow path between the router and the client.
fn downloads_find_a_narrow_path(method: Method, families: Families) -> Result<()> {
    if !lab::may_run("downloads_find_a_narrow_path") {
        return Ok(());
    }
    let site = families.site()?;
    let _nginx = site.start_nginx()?;
    site.prepare_servers(method)?;
    site.router.ip(&[format!("route replace 10.0.0.0/24 dev client mtu {NARROW}")])?;
    if families != Four {
        site.router.ip(&[format!("route add {}/128 dev client mtu {NARROW}", ipv6_of(site::CLIENT))])?;
    }
    let director = site.start_director(&families.config(&site, server_address(1), method))?;
    let digest = sha256(&site.make_blob(BYTES)?)?;
    let downloaded = curl::target(site.dir(), "blob");
    curl::download(&site.client, &families.url("blob"), &downloaded)
        .with_context(|| format!("the director said:\n{}", director.log()))?;
    ensure!(sha256(&downloaded)? == digest, "the download differs");

    // The server learned it for the address that its packets go to: behind FULLNAT, the local one.
    let towards = if method == Method::FullNat { site::LIP } else { site::CLIENT };
    let mtu = match families {
        Four | Six => NARROW,
        SixToFour => NARROW - DIFFERENCE,
        FourToSix => NARROW + DIFFERENCE,
    };
    learned(&site.servers[0], families.server(towards), mtu)
}

/// An upload meets a narrow path behind the director.
fn uploads_find_a_narrow_path(method: Method, families: Families) -> Result<()> {
    if !lab::may_run("uploads_find_a_narrow_path") {
        return Ok(());
    }
    let site = families.site()?;
    let far = FarServer::new(&site, method, NARROW)?;
    let nginx = far.start_nginx(&site)?;
    let director = site.start_director(&families.config(&site, FarServer::ADDRESS, method))?;
    upload(&site, families, &nginx).with_context(|| format!("the director said:\n{}", director.log()))?;
    let mtu = match (method, families) {
        // A tunnel takes an outer header.
        (Method::Tun, Four | SixToFour) => NARROW - 20,
        (Method::Tun, Six | FourToSix) => NARROW - 40,
        (_, Four | Six) => NARROW,
        (_, SixToFour) => NARROW + DIFFERENCE,
        (_, FourToSix) => NARROW - DIFFERENCE,
    };
    learned(&site.client, families.vip(), mtu)
}

fn upload(site: &Site, families: Families, nginx: &lab::Nginx) -> Result<()> {
    let blob = site.make_blob(BYTES)?;
    curl::upload(&site.client, &blob, &families.url("upload/blob"))?;
    ensure!(sha256(&nginx.uploaded("blob"))? == sha256(&blob)?, "the upload differs");
    Ok(())
}

/// Direct routing has no router behind the director: the narrow link is the director's own.
fn uploads_by_dr_over(families: Families) -> Result<()> {
    if !lab::may_run("uploads_by_dr") {
        return Ok(());
    }
    let site = families.site()?;
    let nginx = site.start_nginx()?;
    site.prepare_servers(Method::Dr)?;
    let server = families.server(server_address(1));
    let length = if server.is_ipv4() { 32 } else { 128 };
    site.director.ip(&[format!("route add {server}/{length} dev eth1 mtu {NARROW}")])?;
    let director = site.start_director(&families.config(&site, server_address(1), Method::Dr))?;
    upload(&site, families, &nginx[0]).with_context(|| format!("the director said:\n{}", director.log()))?;
    learned(&site.client, families.vip(), NARROW)
}

#[test]
fn uploads_by_dr() -> Result<()> {
    uploads_by_dr_over(Four)
}

#[test]
fn uploads_by_nat() -> Result<()> {
    uploads_find_a_narrow_path(Method::Nat, Four)
}

#[test]
fn uploads_by_fullnat() -> Result<()> {
    uploads_find_a_narrow_path(Method::FullNat, Four)
}

#[test]
fn uploads_by_tun() -> Result<()> {
    uploads_find_a_narrow_path(Method::Tun, Four)
}

#[test]
fn downloads_by_nat() -> Result<()> {
    downloads_find_a_narrow_path(Method::Nat, Four)
}

#[test]
fn downloads_by_fullnat() -> Result<()> {
    downloads_find_a_narrow_path(Method::FullNat, Four)
}

#[test]
fn downloads_by_dr() -> Result<()> {
    downloads_find_a_narrow_path(Method::Dr, Four)
}

#[test]
fn downloads_by_tun() -> Result<()> {
    downloads_find_a_narrow_path(Method::Tun, Four)
}

#[test]
fn ipv6_uploads_by_dr() -> Result<()> {
    uploads_by_dr_over(Six)
}

#[test]
fn ipv6_uploads_by_nat() -> Result<()> {
    uploads_find_a_narrow_path(Method::Nat, Six)
}

#[test]
fn ipv6_uploads_by_fullnat() -> Result<()> {
    uploads_find_a_narrow_path(Method::FullNat, Six)
}

#[test]
fn ipv6_uploads_by_tun() -> Result<()> {
    uploads_find_a_narrow_path(Method::Tun, Six)
}

#[test]
fn ipv6_downloads_by_nat() -> Result<()> {
    downloads_find_a_narrow_path(Method::Nat, Six)
}

#[test]
fn ipv6_downloads_by_fullnat() -> Result<()> {
    downloads_find_a_narrow_path(Method::FullNat, Six)
}

#[test]
fn ipv6_downloads_by_dr() -> Result<()> {
    downloads_find_a_narrow_path(Method::Dr, Six)
}

#[test]
fn ipv6_downloads_by_tun() -> Result<()> {
    downloads_find_a_narrow_path(Method::Tun, Six)
}

/// IPv6 says it of a tunnel for IPv4. (Of one for IPv6, an IPv4 router says nothing: it fragments the outer packet.)
#[test]
fn ipv4_uploads_by_a_tunnel_of_ipv6() -> Result<()> {
    uploads_find_a_narrow_path(Method::Tun, FourToSix)
}

#[test]
fn uploads_of_ipv6_clients_to_ipv4_servers() -> Result<()> {
    uploads_find_a_narrow_path(Method::FullNat, SixToFour)
}

#[test]
fn uploads_of_ipv4_clients_to_ipv6_servers() -> Result<()> {
    uploads_find_a_narrow_path(Method::FullNat, FourToSix)
}

#[test]
fn downloads_of_ipv6_clients_from_ipv4_servers() -> Result<()> {
    downloads_find_a_narrow_path(Method::FullNat, SixToFour)
}

#[test]
fn downloads_of_ipv4_clients_from_ipv6_servers() -> Result<()> {
    downloads_find_a_narrow_path(Method::FullNat, FourToSix)
}
