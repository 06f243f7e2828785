//! The network that most things are tried in.
//!
//! ```text
//!   client              router                     director
//!   10.0.0.1 --- 10.0.0.254  10.0.1.253 --- eth0 10.0.1.254
//!                   10.0.2.253                eth1 10.0.2.254
//!                        |                      |
//!                        +--- switch, 10.0.2.0/24 ---+
//!                        |           |               |
//!                  rs1 10.0.2.1  rs2 10.0.2.2   rs3 10.0.2.3
//! ```
//!
//! The router sends 192.0.2.0/24 to the director, which holds the virtual addresses on `lo`. It also has a leg on the
//! servers' network, so that replies of DR and TUN reach the client without the director.
//!
//! With [`SiteOptions::ipv6`], where 10.0.N.M is there is also 2001:db8:N::M, and 2001:db8:f::10 is a virtual address.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::link::offload_keys;
use super::process::run;
use super::{Director, Dns, End, Ftp, Lab, Link, Netns, Nginx, director::sluice_binary};

/// The client's first address; it also has .2, .3 and .4.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// The first virtual address; the director also holds .11 and .12.
pub const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// The director's address towards the router.
pub const DIRECTOR: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 254);
/// The first local address for FULLNAT; the director also holds .201.
pub const LIP: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 200);
/// The virtual address in IPv6.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 0x10);
/// The local address for FULLNAT in IPv6.
pub const LIP6: Ipv6Addr = ipv6_of(LIP);
/// How many real servers there are.
pub const SERVERS: u8 = 3;

const CLIENT_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 253);
pub(super) const ROUTER_LAN: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 253);
pub(super) const DIRECTOR_LAN: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 254);

/// The IPv6 address of whoever has this IPv4 address: 2001:db8:2::254 for 10.0.2.254.
#[must_use]
pub const fn ipv6_of(address: Ipv4Addr) -> Ipv6Addr {
    let [_, _, network, host] = address.octets();
    // The digits are to look the same.
    let host = (host / 100) as u16 * 256 + (host / 10 % 10) as u16 * 16 + (host % 10) as u16;
    Ipv6Addr::new(0x2001, 0xdb8, network as u16, 0, 0, 0, 0, host)
}

/// The address of a real server, counted from 1.
#[must_use]
pub const fn server_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 2, number)
}

/// How packets get to a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// Destination translated; replies pass the director.
    Nat,
    /// Both addresses translated; replies come back to a local address.
    FullNat,
    /// Only the MAC address changed; replies bypass the director.
    Dr,
    /// IP in IP; replies bypass the director.
    Tun,
}

impl Method {
    /// All four.
    pub const ALL: [Self; 4] = [Self::Nat, Self::FullNat, Self::Dr, Self::Tun];

    /// The name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::FullNat => "fullnat",
            Self::Dr => "dr",
            Self::Tun => "tun",
        }
    }

    /// The option of `ipvsadm -a`.
    #[must_use]
    pub const fn option(self) -> &'static str {
        match self {
            Self::Nat => "-m",
            Self::FullNat => "-b",
            Self::Dr => "-g",
            Self::Tun => "-i",
        }
    }

    /// Whether replies come to the client without passing the director.
    #[must_use]
    pub const fn replies_bypass(self) -> bool {
        matches!(self, Self::Dr | Self::Tun)
    }
}

/// The real servers' default gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gateway {
    /// As NAT needs it.
    Director,
    /// As it is in a data centre: for FULLNAT, DR and TUN.
    Router,
}

/// The director's `rp_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReversePath {
    /// 0: no check.
    Off,
    /// 1: a packet must come in where its reply would go out (RFC 3704, section 2.2).
    Strict,
}

/// Environment variable with the queues of the director's interfaces where a test asks for nothing else, so that the
/// whole suite can be run with several workers.
pub const QUEUES: &str = "SLUICE_LAB_QUEUES";

/// What may differ between sites.
#[derive(Clone, Copy, Debug)]
pub struct SiteOptions {
    /// MTU of every link, in bytes.
    pub mtu: u32,
    /// Queues of the director's interfaces, each with a worker.
    pub queues: u32,
    /// The director's reverse path filter.
    pub reverse_path: ReversePath,
    /// Whether there is IPv6 as well. Without it no neighbour discovery blurs the packet counters.
    pub ipv6: bool,
}

impl Default for SiteOptions {
    fn default() -> Self {
        let queues = std::env::var(QUEUES).ok().and_then(|queues| queues.parse().ok()).unwrap_or(1);
        Self { mtu: 1500, queues, reverse_path: ReversePath::Off, ipv6: false }
    }
}

/// A client, a router, a director and three real servers. See the module for the addresses.
#[derive(Debug)]
pub struct Site {
    /// Where requests come from; its interface is `eth0`.
    pub client: Netns,
    /// Interfaces `client`, `director` and `lan`.
    pub router: Netns,
    /// Interfaces `eth0`, to the router, and `eth1`, to the servers.
    pub director: Netns,
    /// A bridge.
    pub switch: Netns,
    /// `rs1` and on, each with an interface `eth0`.
    pub servers: Vec<Netns>,
    pub(super) lab: Lab,
    /// Queues of the director's interfaces, each with a worker.
    pub queues: u32,
    pub(super) ipv6: bool,
}

impl Site {
    /// Builds the network. The servers' gateway is the router.
    ///
    /// # Errors
    /// Without root, or when `ip` or `ethtool` refuses something.
    pub fn new(options: SiteOptions) -> Result<Self> {
        let lab = Lab::new()?;
        let client = lab.netns("cl")?;
        let router = lab.netns("rt")?;
        let director = lab.netns("di")?;
        let switch = lab.netns("sw")?;
        let servers = (1..=SERVERS).map(|i| lab.netns(&format!("rs{i}"))).collect::<Result<Vec<_>>>()?;
        let site = Self {
            client,
            router,
            director,
            switch,
            servers,
            lab,
            queues: options.queues,
            ipv6: options.ipv6,
        };
        site.wire_up(options)?;
        if options.ipv6 {
            site.add_ipv6()?;
        }
        site.route(options)?;
        Ok(site)
    }

    fn add_ipv6(&self) -> Result<()> {
        let Self { client, router, director, servers, .. } = self;
        give_ipv6(client, "eth0", CLIENT)?;
        give_ipv6(router, "client", CLIENT_GATEWAY)?;
        give_ipv6(router, "director", ROUTER)?;
        give_ipv6(router, "lan", ROUTER_LAN)?;
        give_ipv6(director, "eth0", DIRECTOR)?;
        give_ipv6(director, "eth1", DIRECTOR_LAN)?;
        for (server, number) in servers.iter().zip(1..) {
            give_ipv6(server, "eth0", server_address(number))?;
        }
        for netns in [router, director] {
            netns.sysctl("net.ipv6.conf.all.forwarding", "1")?;
        }
        client.ip(&[format!("route add default via {}", ipv6_of(CLIENT_GATEWAY))])?;
        router.ip(&[format!("route add 2001:db8:f::/64 via {}", ipv6_of(DIRECTOR))])?;
        director.ip(&[
            format!("route add default via {}", ipv6_of(ROUTER)),
            format!("address add {VIP6}/128 dev lo nodad"),
            format!("address add {LIP6}/128 dev eth1 nodad"),
        ])
    }

    fn wire_up(&self, options: SiteOptions) -> Result<()> {
        let Self { client, router, director, switch, servers, .. } = self;
        let SiteOptions { mtu, queues, .. } = options;
        let clients: Vec<Ipv4Addr> = (1..=4).map(|i| Ipv4Addr::new(10, 0, 0, i)).collect();
        let link = |a: End, b: End, queues| Link { a, b, mtu, queues }.make();

        switch.ip(&["link add br0 type bridge", "link set br0 up"])?;
        link(End::new(client, "eth0", &clients), End::new(router, "client", &[CLIENT_GATEWAY]), 1)?;
        link(End::new(router, "director", &[ROUTER]), End::new(director, "eth0", &[DIRECTOR]), queues)?;
        link(End::new(director, "eth1", &[DIRECTOR_LAN]), End::new(switch, "director", &[]), queues)?;
        link(End::new(router, "lan", &[ROUTER_LAN]), End::new(switch, "router", &[]), 1)?;
        for (server, number) in servers.iter().zip(1..) {
            let port = format!("rs{number}");
            link(End::new(server, "eth0", &[server_address(number)]), End::new(switch, &port, &[]), 1)?;
            switch.ip(&[format!("link set {port} master br0")])?;
        }
        switch.ip(&["link set director master br0", "link set router master br0"])
    }

    fn route(&self, options: SiteOptions) -> Result<()> {
        let Self { client, router, director, servers, .. } = self;
        for netns in [client, router].into_iter().chain(servers) {
            // Replies from a virtual address come in where the route back does not lead.
            netns.sysctl("net.ipv4.conf.all.rp_filter", "0")?;
            netns.sysctl("net.ipv4.conf.default.rp_filter", "0")?;
        }
        let filter = match options.reverse_path {
            ReversePath::Off => "0",
            ReversePath::Strict => "1",
        };
        for interface in ["all", "default", "eth0", "eth1"] {
            director.sysctl(&format!("net.ipv4.conf.{interface}.rp_filter"), filter)?;
        }
        for netns in [router, director] {
            netns.sysctl("net.ipv4.ip_forward", "1")?;
            // A redirect would teach the others a way around the one under test.
            for interface in ["all", "default"] {
                netns.sysctl(&format!("net.ipv4.conf.{interface}.send_redirects"), "0")?;
            }
        }
        client.ip(&[format!("route add default via {CLIENT_GATEWAY}")])?;
        router.ip(&[format!("route add 192.0.2.0/24 via {DIRECTOR}")])?;
        director.ip(&[
            format!("route add default via {ROUTER}"),
            "address add 192.0.2.10/32 dev lo".into(),
            "address add 192.0.2.11/32 dev lo".into(),
            "address add 192.0.2.12/32 dev lo".into(),
            format!("address add {LIP}/32 dev eth1"),
            "address add 10.0.2.201/32 dev eth1".into(),
        ])?;
        self.set_gateway(Gateway::Router)
    }

    /// Lets the far ends of the director's links take frames that are redirected to them, as a NIC's driver does. A veth
    /// does so once it has GRO.
    ///
    /// # Errors
    /// When `ethtool` refuses.
    pub fn take_redirects(&self) -> Result<()> {
        for netns in [&self.router, &self.switch] {
            run(netns.command("ethtool").args(["-K", "director", "gro", "on"]))?;
        }
        Ok(())
    }

    /// Changes the default gateway of all real servers.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn set_gateway(&self, gateway: Gateway) -> Result<()> {
        let address = match gateway {
            Gateway::Director => DIRECTOR_LAN,
            Gateway::Router => ROUTER_LAN,
        };
        let mut routes = vec![format!("route replace default via {address}")];
        if self.ipv6 {
            routes.push(format!("route replace default via {}", ipv6_of(address)));
        }
        self.servers.iter().try_for_each(|server| server.ip(&routes))
    }

    /// Prepares the real servers for a method: their gateway, and for DR and TUN the virtual address.
    ///
    /// # Errors
    /// When `ip` or `sluice realserver` refuses.
    pub fn prepare_servers(&self, method: Method) -> Result<()> {
        self.set_gateway(if method == Method::Nat { Gateway::Director } else { Gateway::Router })?;
        if method.replies_bypass() { self.realserver("up", method) } else { Ok(()) }
    }

    /// Undoes [`Site::prepare_servers`].
    ///
    /// # Errors
    /// When `ip` or `sluice realserver` refuses.
    pub fn restore_servers(&self, method: Method) -> Result<()> {
        self.set_gateway(Gateway::Router)?;
        if method.replies_bypass() { self.realserver("down", method) } else { Ok(()) }
    }

    fn realserver(&self, what: &str, method: Method) -> Result<()> {
        self.servers.iter().try_for_each(|server| {
            realserver(server, what, method, VIP.into())?;
            if self.ipv6 { realserver(server, what, method, VIP6.into()) } else { Ok(()) }
        })
    }

    /// A configuration of the director: its interfaces, a worker for each queue, a local address, and no service yet.
    #[must_use]
    pub fn config(&self) -> String {
        self.config_with(&offload_keys())
    }

    /// The same with established connections carried in the kernel after two packets, whatever the environment says.
    #[must_use]
    pub fn config_carried(&self) -> String {
        self.config_with("offload = \"on\"\noffload_after = 2\n")
    }

    fn config_with(&self, offload: &str) -> String {
        // Labs that run at the same time spread over the CPUs.
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let first = cpus - 1 - self.lab.number() as usize % cpus;
        let workers: Vec<String> =
            (0..self.queues as usize).map(|queue| ((first + queue) % cpus).to_string()).collect();
        // Workers that spin would starve each other.
        let idle = if workers.len() > cpus { "idle = \"sleep\"\n" } else { "" };
        let workers = workers.join(", ");
        let lip6 = if self.ipv6 { format!(", \"{LIP6}\"") } else { String::new() };
        format!(
            "[director]\ninterfaces = [\"eth0\", \"eth1\"]\nworkers = [{workers}]\n\
             connections_per_worker = 100_000\n{idle}local_addresses = [\"{LIP}\"{lip6}]\n{offload}"
        )
    }

    /// One `[[service]]` on [`VIP`] with all three servers, to be appended to [`Site::config`].
    #[must_use]
    pub fn service(&self, protocol: &str, port: u16, scheduler: &str, method: Method) -> String {
        Self::service_between(VIP.into(), protocol, port, scheduler, method, |server| server.into())
    }

    /// The same on a virtual address, with servers of which an address is chosen.
    #[must_use]
    pub fn service_between(
        vip: IpAddr,
        protocol: &str,
        port: u16,
        scheduler: &str,
        method: Method,
        server: impl Fn(Ipv4Addr) -> IpAddr,
    ) -> String {
        let vip = SocketAddr::new(vip, port);
        let mut text = format!(
            "\n[[service]]\naddress = \"{vip}\"\nprotocol = \"{protocol}\"\nscheduler = \"{scheduler}\"\n"
        );
        for number in 1..=SERVERS {
            let (address, method) = (SocketAddr::new(server(server_address(number)), port), method.name());
            text += &format!(
                "\n[[service.server]]\naddress = \"{address}\"\nmethod = \"{method}\"\nweight = 1\n"
            );
        }
        text
    }

    /// Starts the director and waits until packets flow.
    ///
    /// # Errors
    /// When it ends or stays silent instead; the error has its log.
    pub fn start_director(&self, config: &str) -> Result<Director> {
        Director::start(&self.director, self.lab.dir(), config)
    }

    /// Starts nginx on one real server, counted from 1, again.
    ///
    /// # Errors
    /// When there is no such server, or it does not come up; the error has its log.
    pub fn start_nginx_of(&self, number: usize) -> Result<Nginx> {
        let (name, netns) = self.named().nth(number.wrapping_sub(1)).context("no such server")?;
        Nginx::start(netns, &name, self.lab.dir())
    }

    /// Starts nginx on every real server.
    ///
    /// # Errors
    /// When one does not come up; the error has its log.
    pub fn start_nginx(&self) -> Result<Vec<Nginx>> {
        self.named().map(|(name, netns)| Nginx::start(netns, &name, self.lab.dir())).collect()
    }

    /// Starts a DNS server on every real server.
    ///
    /// # Errors
    /// When one does not come up; the error has its log.
    pub fn start_dns(&self) -> Result<Vec<Dns>> {
        self.named().map(|(name, netns)| Dns::start(netns, &name, self.lab.dir())).collect()
    }

    /// Starts an FTP server on every real server, after [`Site::make_blob`].
    ///
    /// # Errors
    /// When one does not come up; the error has its log.
    pub fn start_ftp(&self) -> Result<Vec<Ftp>> {
        self.named().map(|(name, netns)| Ftp::start(netns, &name, self.lab.dir(), self.ipv6)).collect()
    }

    fn named(&self) -> impl Iterator<Item = (String, &Netns)> {
        self.servers.iter().zip(1..).map(|(netns, i)| (format!("rs{i}"), netns))
    }

    /// The scratch directory.
    #[must_use]
    pub fn dir(&self) -> &std::path::Path {
        self.lab.dir()
    }

    /// Makes a file of pseudo-random bytes that every nginx serves as `/blob`, and returns its path.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn make_blob(&self, bytes: usize) -> Result<PathBuf> {
        let path = self.lab.dir().join("blob");
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut content = Vec::with_capacity(bytes + 8);
        while content.len() < bytes {
            // xorshift64: no stretch of the file is like another, so that misplaced segments show.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            content.extend_from_slice(&state.to_le_bytes());
        }
        content.truncate(bytes);
        std::fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

/// Gives an interface the IPv6 address that goes with an IPv4 one.
pub(super) fn give_ipv6(netns: &Netns, interface: &str, address: Ipv4Addr) -> Result<()> {
    // The kernel asks for no neighbour while its link-local address waits to be known as its own.
    netns.sysctl(&format!("net.ipv6.conf.{interface}.dad_transmits"), "0")?;
    for interface in ["default", "all", "lo", interface] {
        netns.sysctl(&format!("net.ipv6.conf.{interface}.disable_ipv6"), "0")?;
    }
    netns.ip(&[format!("address add {}/64 dev {interface} nodad", ipv6_of(address))])
}

/// Runs `sluice realserver` on a server.
pub(super) fn realserver(server: &Netns, what: &str, method: Method, vip: IpAddr) -> Result<()> {
    let (sluice, vip) = (sluice_binary()?, vip.to_string());
    let mut command = server.command(&sluice.display().to_string());
    command.args(["realserver", what, "--vip", &vip, "--method", method.name(), "--dev", "eth0"]);
    run(&mut command).map(drop)
}

/// The SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// When it cannot be read.
pub fn sha256(path: &std::path::Path) -> Result<String> {
    let said = run(Command::new("sha256sum").arg("--").arg(path))?;
    Ok(said.split_whitespace().next().unwrap_or_default().to_owned())
}

/// Whether every server was named as often as rr gives: each worker goes round by itself, and is at most one ahead with
/// a server.
#[must_use]
pub fn is_fair(counts: &BTreeMap<String, usize>, workers: u32) -> bool {
    let least = counts.values().min().copied().unwrap_or(0);
    let most = counts.values().max().copied().unwrap_or(0);
    let difference = if workers > 1 { workers as usize } else { 0 };
    counts.len() == usize::from(SERVERS) && most - least <= difference
}

/// How many times each name occurs.
#[must_use]
pub fn spread(names: &[String]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for name in names {
        *counts.entry(name.clone()).or_default() += 1;
    }
    counts
}
