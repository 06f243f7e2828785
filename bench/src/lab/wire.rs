//! The shortest network: packets come out of a source, pass the director and end in a sink.
//!
//! ```text
//!   source 10.0.1.253 --- eth0 10.0.1.254  director  10.0.2.254 eth1 --- 10.0.2.1 sink
//! ```

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::Result;

use super::{End, Lab, Link, Netns};

/// The source's address.
pub const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 253);
/// The director's address towards the source.
pub const NEAR: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 254);
/// The director's address towards the sink.
pub const FAR: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 254);
/// The sink's address.
pub const SINK: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 1);
/// A virtual address that the director holds.
pub const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// Real servers, which are addresses of the sink from [`SINK`] on.
pub const SERVERS: u8 = 16;
const LOCAL_ADDRESSES: u8 = 32;

/// A source, a director and a sink in a row. Each interface is `eth0`, the director's far one `eth1`.
#[derive(Debug)]
pub struct Wire {
    /// Where packets are made.
    pub source: Netns,
    /// What forwards them.
    pub director: Netns,
    /// Where they are counted.
    pub sink: Netns,
    lab: Lab,
}

impl Wire {
    /// Builds the network. The director holds [`VIP`], and 32 local addresses from 10.0.2.200 for FULLNAT: with
    /// [`SERVERS`] servers, enough for 30 million connections.
    ///
    /// # Errors
    /// Without root, or when `ip` or `ethtool` refuses something.
    pub fn new(queues: u32) -> Result<Self> {
        let lab = Lab::new()?;
        let (source, director, sink) = (lab.netns("src")?, lab.netns("di")?, lab.netns("snk")?);
        let link = |a: End, b: End| Link { a, b, mtu: 1500, queues }.make();
        link(End::new(&source, "eth0", &[SOURCE]), End::new(&director, "eth0", &[NEAR]))?;
        let servers: Vec<_> = servers().collect();
        link(End::new(&director, "eth1", &[FAR]), End::new(&sink, "eth0", &servers))?;
        for interface in ["all", "default", "eth0", "eth1"] {
            director.sysctl(&format!("net.ipv4.conf.{interface}.rp_filter"), "0")?;
        }
        director.sysctl("net.ipv4.ip_forward", "1")?;
        let mut lines =
            vec![format!("route add default via {SOURCE}"), format!("address add {VIP}/32 dev lo")];
        lines.extend(local_addresses().map(|address| format!("address add {address}/32 dev eth1")));
        director.ip(&lines)?;
        sink.ip(&[format!("route add default via {FAR}")])?;
        Ok(Self { source, director, sink, lab })
    }

    /// The scratch directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.lab.dir()
    }
}

/// The local addresses that the director holds.
pub fn local_addresses() -> impl Iterator<Item = Ipv4Addr> {
    (200..200 + LOCAL_ADDRESSES).map(|last| Ipv4Addr::new(10, 0, 2, last))
}

/// The addresses of the real servers.
pub fn servers() -> impl Iterator<Item = Ipv4Addr> {
    (1..=SERVERS).map(|last| Ipv4Addr::new(10, 0, 2, last))
}
