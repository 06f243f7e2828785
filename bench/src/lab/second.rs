//! A second director beside that of a site, which takes over by hand.
//!
//! ```text
//!   router 10.0.3.253 --- eth0 10.0.3.254  second director
//!                              eth1 10.0.2.252 --- switch
//! ```

use std::net::Ipv4Addr;

use anyhow::Result;

use super::site::{DIRECTOR_LAN, LIP, VIP};
use super::{Director, End, Link, Netns, Site};

const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 3, 253);
const FRONT: Ipv4Addr = Ipv4Addr::new(10, 0, 3, 254);
const LAN: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 252);
const SYNC_PORT: u16 = 7946;

/// Another director on the networks of a [`Site`].
#[derive(Debug)]
pub struct Second<'a> {
    site: &'a Site,
    /// Where it runs.
    pub netns: Netns,
}

impl<'a> Second<'a> {
    /// Wires it up. Nothing is sent to it yet.
    ///
    /// # Errors
    /// When `ip` or `ethtool` refuses something.
    pub fn new(site: &'a Site) -> Result<Self> {
        let netns = site.lab.netns("d2")?;
        let link = |a: End, b: End| Link { a, b, mtu: 1500, queues: site.queues }.make();
        link(End::new(&site.router, "second", &[ROUTER]), End::new(&netns, "eth0", &[FRONT]))?;
        link(End::new(&netns, "eth1", &[LAN]), End::new(&site.switch, "second", &[]))?;
        site.switch.ip(&["link set second master br0"])?;
        for interface in ["all", "default", "eth0", "eth1"] {
            netns.sysctl(&format!("net.ipv4.conf.{interface}.rp_filter"), "0")?;
        }
        netns.sysctl("net.ipv4.ip_forward", "1")?;
        netns.ip(&[format!("route add default via {ROUTER}"), format!("address add {VIP}/32 dev lo")])?;
        Ok(Second { site, netns })
    }

    /// The `[sync]` table of the site's own director, and of this one.
    #[must_use]
    pub fn sync(&self) -> [String; 2] {
        let key = self.site.dir().join("sync.key");
        [(DIRECTOR_LAN, LAN), (LAN, DIRECTOR_LAN)].map(|(listen, peer)| {
            format!(
                "\n[sync]\nlisten = \"{listen}:{SYNC_PORT}\"\npeer = \"{peer}:{SYNC_PORT}\"\nkey = \"{}\"\n",
                key.display()
            )
        })
    }

    /// Starts it and waits until packets would flow.
    ///
    /// # Errors
    /// When it ends or stays silent instead; the error has its log.
    pub fn start(&self, config: &str) -> Result<Director> {
        Director::start(&self.netns, self.site.dir(), config)
    }

    /// Cuts the site's own director off, and has this one get what the other got.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn take_over(&self) -> Result<()> {
        let Site { director, router, servers, .. } = self.site;
        director.ip(&["link set eth0 down", "link set eth1 down"])?;
        self.netns.ip(&[format!("address add {LIP}/32 dev eth1")])?;
        router.ip(&[format!("route replace 192.0.2.0/24 via {FRONT}")])?;
        servers.iter().try_for_each(|server| server.ip(&["neighbour flush dev eth0"]))
    }

    /// Joins the site's own director again, to which nothing is sent.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn join(&self) -> Result<()> {
        let Site { director, .. } = self.site;
        director.ip(&[format!("address del {LIP}/32 dev eth1")])?;
        director.ip(&["link set eth0 up", "link set eth1 up", "route replace default via 10.0.1.253"])
    }
}
