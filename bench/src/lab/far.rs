//! A real server that is not on the director's network.
//!
//! ```text
//!   switch, 10.0.2.0/24 --- 10.0.2.252 gateway 10.0.4.254 --- 10.0.4.1 server
//! ```
//!
//! The gateway's route to the server has an MTU of its own, while both ends of every link have the usual one: a narrow
//! path that neither end knows of. With [`SiteOptions::ipv6`](super::SiteOptions::ipv6), where 10.0.N.M is there is also
//! 2001:db8:N::M.

use std::net::Ipv4Addr;

use anyhow::Result;

use super::site::{DIRECTOR_LAN, ROUTER_LAN, VIP, VIP6, give_ipv6, ipv6_of, realserver};
use super::{End, Link, Method, Netns, Nginx, Site};

const GATEWAY_LAN: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 252);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 4, 254);

/// A real server with the router before it.
#[derive(Debug)]
pub struct FarServer {
    /// Interfaces `lan`, to the switch, and `far`, to the server.
    pub gateway: Netns,
    /// Its interface is `eth0`.
    pub server: Netns,
}

impl FarServer {
    /// Its address.
    pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 4, 1);

    /// Adds one to a site, prepared for a method, behind a path of this MTU.
    ///
    /// # Errors
    /// When `ip`, `ethtool` or `sluice realserver` refuses something.
    pub fn new(site: &Site, method: Method, mtu: u32) -> Result<Self> {
        let (gateway, server) = (site.lab.netns("gw")?, site.lab.netns("far")?);
        let link = |a, b| Link { a, b, mtu: 1500, queues: 1 }.make();
        link(End::new(&gateway, "lan", &[GATEWAY_LAN]), End::new(&site.switch, "far", &[]))?;
        link(End::new(&gateway, "far", &[GATEWAY]), End::new(&server, "eth0", &[Self::ADDRESS]))?;
        site.switch.ip(&["link set far master br0"])?;
        for netns in [&gateway, &server] {
            netns.sysctl("net.ipv4.conf.all.rp_filter", "0")?;
            netns.sysctl("net.ipv4.conf.default.rp_filter", "0")?;
        }
        gateway.sysctl("net.ipv4.ip_forward", "1")?;
        let default = if method == Method::Nat { DIRECTOR_LAN } else { ROUTER_LAN };
        gateway.ip(&[
            format!("route add default via {default}"),
            format!("route replace 10.0.4.0/24 dev far src {GATEWAY} mtu {mtu}"),
        ])?;
        server.ip(&[format!("route add default via {GATEWAY}")])?;
        site.director.ip(&[format!("route add 10.0.4.0/24 via {GATEWAY_LAN}")])?;
        if site.ipv6 {
            give_ipv6(&gateway, "lan", GATEWAY_LAN)?;
            give_ipv6(&gateway, "far", GATEWAY)?;
            give_ipv6(&server, "eth0", Self::ADDRESS)?;
            gateway.sysctl("net.ipv6.conf.all.forwarding", "1")?;
            gateway.ip(&[
                format!("route add default via {}", ipv6_of(default)),
                format!("route add {}/128 dev far mtu {mtu}", ipv6_of(Self::ADDRESS)),
            ])?;
            server.ip(&[format!("route add default via {}", ipv6_of(GATEWAY))])?;
            site.director.ip(&[format!("route add 2001:db8:4::/64 via {}", ipv6_of(GATEWAY_LAN))])?;
        }
        if method == Method::Tun {
            realserver(&server, "up", method, VIP.into())?;
            if site.ipv6 {
                realserver(&server, "up", method, VIP6.into())?;
            }
        }
        Ok(Self { gateway, server })
    }

    /// Starts nginx on it.
    ///
    /// # Errors
    /// When it does not come up; the error has its log.
    pub fn start_nginx(&self, site: &Site) -> Result<Nginx> {
        Nginx::start(&self.server, "far", site.dir())
    }
}
