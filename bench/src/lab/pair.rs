//! Two directors on the same networks, one of which has the addresses.
//!
//! ```text
//!   client 10.0.0.1 --- 10.0.0.254 router
//!                       10.0.1.253   |   10.0.2.253
//!                          |                 |
//!     switch, 10.0.1.0/24 ---+      +--- switch, 10.0.2.0/24 --- rs1 to rs3, 10.0.2.1 to .3
//!                            |      |
//!        first director  eth0 .251  eth1 .251
//!        second director eth0 .252  eth1 .252
//! ```
//!
//! keepalived moves, by the example in `configs/keepalived.conf`: 192.0.2.10, to which the router has a direct route, so
//! that it has to learn whose it is; 10.0.2.254, the servers' gateway for NAT; and 10.0.2.200, a local address.

use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use super::link::offload_keys;
use super::site::{SERVERS, VIP, realserver, server_address};
use super::{Director, End, Lab, Link, Method, Netns, Process, run, sluice_binary, wait_for};

const CLIENT_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);
const ROUTER_FRONT: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 253);
const ROUTER_LAN: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 253);
/// The servers' gateway for NAT, which keepalived moves.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 254);
/// Where directors hear of each other's sessions.
const SYNC_PORT: u16 = 7946;
/// How many addresses the client has, from 10.0.0.1 on.
pub const CLIENTS: u8 = 4;

/// The directors' address towards the servers, by their number from 0.
#[must_use]
pub const fn director_address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 2, 251 + number as u8)
}

/// Two directors with keepalived between a client and three real servers.
#[derive(Debug)]
pub struct Pair {
    /// Where requests come from.
    pub client: Netns,
    /// Interfaces `client`, `front` and `lan`.
    pub router: Netns,
    /// Both switches: bridges `front` and `lan`, whose ports to the directors are `front0`, `front1`, `lan0` and `lan1`.
    pub switch: Netns,
    /// Both directors, with interfaces `eth0` and `eth1`.
    pub directors: [Netns; 2],
    /// The real servers.
    pub servers: Vec<Netns>,
    lab: Lab,
}

impl Pair {
    /// Builds the network for a method.
    ///
    /// # Errors
    /// Without root, or when `ip`, `ethtool` or `sluice realserver` refuses something.
    pub fn new(method: Method) -> Result<Self> {
        let lab = Lab::new()?;
        let (client, router, switch) = (lab.netns("cl")?, lab.netns("rt")?, lab.netns("sw")?);
        let directors = [lab.netns("d1")?, lab.netns("d2")?];
        let servers = (1..=SERVERS).map(|i| lab.netns(&format!("rs{i}"))).collect::<Result<Vec<_>>>()?;
        let pair = Self { client, router, switch, directors, servers, lab };
        pair.wire_up()?;
        pair.route(method)?;
        run(Command::new(sluice_binary()?).arg("sync-key").arg(pair.key()))?;
        Ok(pair)
    }

    fn wire_up(&self) -> Result<()> {
        let Self { client, router, switch, directors, servers, .. } = self;
        let link = |a: End, b: End| Link { a, b, mtu: 1500, queues: 1 }.make();
        let clients: Vec<Ipv4Addr> = (1..=CLIENTS).map(|i| Ipv4Addr::new(10, 0, 0, i)).collect();
        link(End::new(client, "eth0", &clients), End::new(router, "client", &[CLIENT_GATEWAY]))?;
        for bridge in ["front", "lan"] {
            switch.ip(&[format!("link add {bridge} type bridge"), format!("link set {bridge} up")])?;
        }
        let port = |end: End, port: &str, bridge: &str| {
            link(end, End::new(switch, port, &[]))?;
            switch.ip(&[format!("link set {port} master {bridge}")])
        };
        port(End::new(router, "front", &[ROUTER_FRONT]), "router-front", "front")?;
        port(End::new(router, "lan", &[ROUTER_LAN]), "router-lan", "lan")?;
        for (number, director) in directors.iter().enumerate() {
            let [a, b, _, last] = director_address(number).octets();
            let front = Ipv4Addr::new(a, b, 1, last);
            port(End::new(director, "eth0", &[front]), &format!("front{number}"), "front")?;
            port(End::new(director, "eth1", &[director_address(number)]), &format!("lan{number}"), "lan")?;
        }
        for (server, number) in servers.iter().zip(1..) {
            port(End::new(server, "eth0", &[server_address(number)]), &format!("rs{number}"), "lan")?;
        }
        Ok(())
    }

    fn route(&self, method: Method) -> Result<()> {
        let Self { client, router, directors, servers, .. } = self;
        for netns in [client, router].into_iter().chain(directors).chain(servers) {
            netns.sysctl("net.ipv4.conf.all.rp_filter", "0")?;
            netns.sysctl("net.ipv4.conf.default.rp_filter", "0")?;
        }
        for netns in [router].into_iter().chain(directors) {
            netns.sysctl("net.ipv4.ip_forward", "1")?;
            for interface in ["all", "default"] {
                netns.sysctl(&format!("net.ipv4.conf.{interface}.send_redirects"), "0")?;
            }
        }
        client.ip(&[format!("route add default via {CLIENT_GATEWAY}")])?;
        router.ip(&["route add 192.0.2.0/24 dev front"])?;
        for director in directors {
            director.sysctl("net.ipv4.conf.eth0.rp_filter", "0")?;
            director.sysctl("net.ipv4.conf.eth1.rp_filter", "0")?;
            director.ip(&[format!("route add default via {ROUTER_FRONT}")])?;
        }
        let gateway = if method == Method::Nat { GATEWAY } else { ROUTER_LAN };
        for server in servers {
            server.ip(&[format!("route add default via {gateway}")])?;
            if method.replies_bypass() {
                realserver(server, "up", method, VIP.into())?;
            }
        }
        Ok(())
    }

    /// The configuration of a director: the same on both, but for its worker's CPU.
    #[must_use]
    pub fn config(&self, number: usize, method: Method, port: u16) -> String {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let cpu = number % cpus;
        let mut text = format!(
            "[director]\ninterfaces = [\"eth0\", \"eth1\"]\nworkers = [{cpu}]\nidle = \"sleep\"\n\
             connections_per_worker = 100_000\nlocal_addresses = [\"10.0.2.200\"]\nrole = \"backup\"\n\
             when_gone = \"drop\"\n{}\n\
             [sync]\nlisten = \"{}:{SYNC_PORT}\"\npeer = \"{}:{SYNC_PORT}\"\nkey = \"{}\"\n\n\
             [[service]]\naddress = \"{VIP}:{port}\"\nprotocol = \"tcp\"\nscheduler = \"rr\"\n",
            offload_keys(),
            director_address(number),
            director_address(1 - number),
            self.key().display(),
        );
        for server in 1..=SERVERS {
            let (address, method) = (server_address(server), method.name());
            text += &format!(
                "\n[[service.server]]\naddress = \"{address}:{port}\"\nmethod = \"{method}\"\nweight = 1\n"
            );
        }
        text
    }

    /// Starts a director, and lets its keepalived's scripts reach it.
    ///
    /// # Errors
    /// When it ends or stays silent instead; the error has its log.
    pub fn start_director(&self, number: usize, config: &str) -> Result<Director> {
        let director = Director::start(&self.directors[number], self.lab.dir(), config)?;
        let link = self.socket(number);
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(director.socket(), &link)
            .with_context(|| format!("cannot make {}", link.display()))?;
        Ok(director)
    }

    /// Starts keepalived for a director; the first one has the higher priority.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_keepalived(&self, number: usize) -> Result<Keepalived> {
        let script = self.script(number)?;
        let mut config = include_str!("../../../configs/keepalived.conf")
            .replace("/usr/local/bin/sluice", &script.display().to_string());
        ensure!(config.contains("priority 150"), "configs/keepalived.conf has no priority 150");
        if number > 0 {
            config = config.replace("director-1", "director-2").replace("priority 150", "priority 100");
        }
        let path = |what: &str| self.lab.dir().join(format!("keepalived-{number}.{what}"));
        std::fs::write(path("conf"), config)?;
        let log = std::fs::File::create(path("log"))?;
        let mut command = self.directors[number].command("keepalived");
        command.args(["--dont-fork", "--log-console", "--vrrp", "--use-file"]).arg(path("conf"));
        command.arg("--pid").arg(path("pid")).arg("--vrrp_pid").arg(path("vrrp-pid"));
        command.stdout(log.try_clone()?).stderr(log);
        let process = Process::start(&mut command).context("keepalived, of the Debian package keepalived")?;
        Ok(Keepalived { _process: process, log: path("log"), roles: self.roles(number) })
    }

    /// What keepalived runs in place of `sluice`: it notes which role is to be taken when.
    fn script(&self, number: usize) -> Result<PathBuf> {
        let path = self.lab.dir().join(format!("sluice-{number}"));
        let (sluice, socket, roles) = (sluice_binary()?, self.socket(number), self.roles(number));
        let text = format!(
            "#!/bin/sh\nif [ \"$1\" = role ]; then echo \"$(date +%s%N) $2\" >>'{}'; fi\n\
             SLUICE_SOCKET='{}' exec '{}' \"$@\"\n",
            roles.display(),
            socket.display(),
            sluice.display()
        );
        std::fs::write(&path, text)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        std::fs::write(roles, "")?;
        Ok(path)
    }

    /// The key for session synchronisation.
    fn key(&self) -> PathBuf {
        self.lab.dir().join("sync.key")
    }

    fn socket(&self, number: usize) -> PathBuf {
        self.lab.dir().join(format!("director-of-{number}.sock"))
    }

    fn roles(&self, number: usize) -> PathBuf {
        self.lab.dir().join(format!("roles-{number}"))
    }

    /// Takes the carrier from a director's link to the clients, or gives it back.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn set_link(&self, number: usize, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        self.switch.ip(&[format!("link set front{number} {state}")])
    }

    /// Cuts a director off from everybody, which it cannot see by its links, or joins it again.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub fn set_partition(&self, number: usize, joined: bool) -> Result<()> {
        let lines = ["front", "lan"].map(|bridge| match joined {
            true => format!("link set {bridge}{number} master {bridge}"),
            false => format!("link set {bridge}{number} nomaster"),
        });
        self.switch.ip(&lines)
    }

    /// The scratch directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.lab.dir()
    }
}

/// A running keepalived.
#[derive(Debug)]
pub struct Keepalived {
    _process: Process,
    log: PathBuf,
    roles: PathBuf,
}

/// A role that keepalived told its director to take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Since the epoch.
    pub at: Duration,
    /// "active" or "backup".
    pub role: String,
}

impl Keepalived {
    /// What it told its director so far, in order.
    ///
    /// # Errors
    /// When that cannot be read.
    pub fn told(&self) -> Result<Vec<Told>> {
        let text = std::fs::read_to_string(&self.roles)?;
        let told = text.lines().filter_map(|line| {
            let (at, role) = line.split_once(' ')?;
            Some(Told { at: Duration::from_nanos(at.parse().ok()?), role: role.to_owned() })
        });
        Ok(told.collect())
    }

    /// Waits until it told its director, last and not before a time, to take a role; returns when it did.
    ///
    /// # Errors
    /// When that does not happen within `timeout`.
    pub fn wait_told(&self, role: &str, since: Duration, timeout: Duration) -> Result<Duration> {
        let mut at = Duration::ZERO;
        let waited = wait_for(&format!("keepalived to say {role}"), timeout, || {
            let told = self.told()?;
            let last = told.last().filter(|told| told.role == role && told.at >= since);
            at = last.map_or(Duration::ZERO, |told| told.at);
            Ok(last.is_some())
        });
        waited.with_context(|| format!("it said:\n{}", self.log()))?;
        Ok(at)
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// Now, as [`Told::at`] counts.
#[must_use]
pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Whether keepalived is installed.
#[must_use]
pub fn has_keepalived() -> bool {
    Command::new("keepalived").arg("--version").output().is_ok()
}
