//! The real-server side of DR and TUN.
//!
//! A real server of these methods gets packets for the VIP itself. So it must
//! hold the VIP, and must not answer ARP for it, which is the director's to
//! do: the VIP goes on lo, with `arp_ignore` and `arp_announce` set as LVS's
//! scripts do (`Documentation/networking/ip-sysctl.rst`). IPv6 needs no
//! settings: the kernel answers neighbour solicitations only for addresses of
//! the interface that they came in by (`ndisc_recv_ns`), and checks no reverse
//! path. With TUN the packets come wrapped in IPv4 or IPv6, and a small XDP
//! program unwraps them, so that no kernel module is needed.
//!
//! The program is attached by netlink and not tied to a process or to bpffs,
//! and stays until `down`. It takes packets that are sent to an address which
//! this machine had when `up` ran last. Where the driver cannot run it, or not
//! with the interface's MTU, it runs in generic mode, which is slower.
//!
//! A wrapped packet is 20 bytes longer, or 40 in IPv6: raise the MTU between director and
//! real servers by as much, or let clients learn the smaller one.

mod decap;
mod host;
mod state;

use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

use decap::Decapsulator;
use host::{Host, Sysctl, ipv6_is_off};
use state::{Entry, State, Store};

/// `sluice realserver ...`
#[derive(Subcommand, Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Make this machine a real server for a VIP
    Up(Target),
    /// Undo what `up` did
    Down(Target),
    /// Say whether the VIP is up; exits with 1 if it is not, or only in part
    Status(Target),
}

/// Which VIP, and how its packets come.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// Address of the virtual service
    #[arg(long, value_name = "V")]
    pub vip: IpAddr,
    /// How the director forwards
    #[arg(long)]
    pub method: Method,
    /// Interface that the director's packets come in by
    #[arg(long, value_name = "IF")]
    pub dev: String,
}

/// A forwarding method that needs something done on the real server.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Direct routing: packets come as the client sent them
    Dr,
    /// Tunnel: packets come wrapped in IP
    Tun,
}

impl Method {
    fn name(self) -> &'static str {
        match self {
            Method::Dr => "dr",
            Method::Tun => "tun",
        }
    }
}

/// Why a real server could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An IPv6 VIP where there is no IPv6
    #[error("IPv6 is off on {interface}; switch it on: sysctl -w net.ipv6.conf.{interface}.disable_ipv6=0")]
    NoIpv6 {
        /// Where
        interface: String,
    },
    /// Not an address that a service can have
    #[error("{0} cannot be a VIP; use the unicast address of the virtual service")]
    NotUnicast(IpAddr),
    /// No such interface
    #[error("there is no interface {0:?}; `ip link` lists those that exist")]
    NoDevice(String),
    /// The loopback interface
    #[error("packets of a director do not come in by lo; name the interface that they come in by")]
    Loopback,
    /// The VIP is on a real interface
    #[error(
        "{vip} is an address of {device}, so this machine answers {} for it; remove it there first: ip address del {vip} dev {device}",
        if vip.is_ipv4() { "ARP" } else { "neighbour solicitations" }
    )]
    Elsewhere {
        /// The VIP
        vip: IpAddr,
        /// Where it is
        device: String,
    },
    /// Another XDP program is attached
    #[error(
        "{device} has the XDP program {program:?} (id {id}), which is not ours; detach it first, or use another interface"
    )]
    ForeignProgram {
        /// The interface
        device: String,
        /// Name of the program
        program: String,
        /// Its number in `bpftool prog`
        id: u32,
    },
    /// The XDP program was changed by somebody else meanwhile
    #[error("the XDP program was detached while it was being looked at; try again")]
    ProgramGone,
    /// The kernel refused a request
    #[error("cannot {what}: {source}")]
    Refused {
        /// What was tried
        what: String,
        /// The kernel's answer
        source: rtnetlink::Error,
    },
    /// No netlink
    #[error("cannot talk to the kernel: {0}")]
    Netlink(#[source] io::Error),
    /// The decapsulator could not be loaded or its maps not changed
    #[error("BPF: {0} (it needs root, or CAP_BPF and CAP_NET_ADMIN)")]
    Bpf(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A file
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// What was tried
        what: &'static str,
        /// The file
        path: PathBuf,
        /// Why not
        source: io::Error,
    },
    /// The answer could not be written
    #[error("cannot write the answer: {0}")]
    Output(#[source] io::Error),
}

impl Error {
    fn refused(what: impl Into<String>, source: rtnetlink::Error) -> Self {
        Error::Refused { what: what.into(), source }
    }

    fn bpf(source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Error::Bpf(Box::new(source))
    }

    fn file(what: &'static str, path: &Path, source: io::Error) -> Self {
        Error::File { what, path: path.to_owned(), source }
    }
}

/// Runs a subcommand in the network namespace of the calling thread, and
/// writes what there is to say to `out`. Answers whether the exit status is 0:
/// always for `up` and `down`, and for `status` if all of it is in force.
///
/// Must not be called from within a tokio runtime.
///
/// # Errors
/// When something could not be done; what was changed until then is undone.
pub fn run(command: &Command, out: &mut dyn Write) -> Result<bool, Error> {
    let (Command::Up(target) | Command::Down(target) | Command::Status(target)) = command;
    let vip = target.vip;
    let unfit = match vip {
        IpAddr::V4(v4) => v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some(),
    };
    if vip.is_unspecified() || vip.is_loopback() || vip.is_multicast() || unfit {
        return Err(Error::NotUnicast(vip));
    }
    if target.dev == "lo" {
        return Err(Error::Loopback);
    }
    let entry = Entry { vip, method: target.method, dev: target.dev.clone() };
    let host = Host::open()?;
    let (store, state) = Store::open()?;
    let mut server = Server { host, store, state };
    match command {
        Command::Up(_) => server.up(&entry, out).map(|()| true),
        Command::Down(_) => server.down(&entry, out).map(|()| true),
        Command::Status(_) => server.status(&entry, out),
    }
}

struct Server {
    host: Host,
    store: Store,
    state: State,
}

/// A setting and the value that it has to have.
struct Setting {
    sysctl: Sysctl,
    value: i32,
    /// The kernel takes the greater of `all` and the interface's, and greater
    /// ones are stricter
    or_more: bool,
}

/// What ARP needs: answer only for addresses of the interface that the request
/// came in by, and never name the VIP in requests of one's own.
fn arp_settings(entry: &Entry) -> impl Iterator<Item = Setting> {
    let interfaces = ["all", "lo", entry.dev.as_str()].map(str::to_owned);
    interfaces.into_iter().filter(|_| entry.vip.is_ipv4()).flat_map(|interface| {
        [("arp_ignore", 1), ("arp_announce", 2)].map(|(key, value)| Setting {
            sysctl: Sysctl::new(&interface, key),
            value,
            or_more: true,
        })
    })
}

/// Whether the reverse-path filter drops what comes out of an entry's tunnel:
/// packets of clients, whichever way leads to the client (RFC 3704).
fn filters_tunnelled(entry: &Entry) -> Result<bool, Error> {
    if entry.method != Method::Tun || entry.vip.is_ipv6() {
        return Ok(false);
    }
    let dev = &entry.dev;
    let all = Sysctl::new("all", "rp_filter").read()?;
    Ok(all.max(Sysctl::new(dev, "rp_filter").read()?) == 1)
}

/// An interface that an IPv6 VIP needs and that has IPv6 switched off.
fn without_ipv6(entry: &Entry) -> Result<Option<&str>, Error> {
    if entry.vip.is_ipv6() {
        for interface in ["lo", &entry.dev] {
            if ipv6_is_off(interface)? {
                return Ok(Some(interface));
            }
        }
    }
    Ok(None)
}

impl Server {
    fn up(&mut self, entry: &Entry, out: &mut dyn Write) -> Result<(), Error> {
        let lo = self.host.device("lo")?.index;
        self.host.device(&entry.dev)?;
        if let Some(interface) = without_ipv6(entry)? {
            return Err(Error::NoIpv6 { interface: interface.to_owned() });
        }
        let addresses = self.host.addresses()?;
        if let Some(found) = addresses.iter().find(|a| a.address == entry.vip && a.index != lo) {
            return Err(Error::Elsewhere { vip: entry.vip, device: self.host.name(found.index) });
        }
        let new = !self.state.entries.contains(entry);
        let result = self.bring_up(entry, lo, out);
        if result.is_err() && new {
            _ = self.take_down(entry);
        }
        result?;
        say(out, format_args!("{} {} {}: up", entry.vip, entry.method.name(), entry.dev))
    }

    fn bring_up(&mut self, entry: &Entry, lo: u32, out: &mut dyn Write) -> Result<(), Error> {
        if entry.method == Method::Tun {
            self.decapsulate(entry, lo, out)?;
        }
        if !self.state.entries.contains(entry) {
            self.state.entries.push(entry.clone());
        }
        let mut settings: Vec<Setting> = arp_settings(entry).collect();
        if filters_tunnelled(entry)? {
            let sysctl = Sysctl::new(&entry.dev, "rp_filter");
            settings.push(Setting { sysctl, value: 2, or_more: false });
        }
        for Setting { sysctl, value, or_more } in settings {
            let now = sysctl.read()?;
            if now == value || or_more && now > value {
                continue;
            }
            // Saved first: what is changed must be known to `down`.
            self.state.sysctls.entry(sysctl.path()).or_insert(now);
            self.store.save(&self.state)?;
            write_sysctl(&sysctl.path(), value)?;
        }
        if !self.host.addresses()?.iter().any(|a| a.address == entry.vip && a.index == lo) {
            self.state.added.insert(entry.vip);
            self.store.save(&self.state)?;
            self.host.add_address(lo, entry.vip)?;
        }
        self.store.save(&self.state)
    }

    /// Sees to the decapsulator of a device.
    fn decapsulate(&self, entry: &Entry, lo: u32, out: &mut dyn Write) -> Result<(), Error> {
        let dev = &entry.dev;
        let mut decapsulator = match Decapsulator::find(dev, &self.host.device(dev)?)? {
            Some(found) => found,
            None => {
                let (attached, not_native) = Decapsulator::attach(&self.host, dev)?;
                if let Some(error) = not_native {
                    say(
                        out,
                        format_args!(
                            "warning: the driver of {dev} does not run the decapsulator ({error}); \
                             it runs in generic mode, which is slower"
                        ),
                    )?;
                }
                attached
            }
        };
        decapsulator.set_local(&self.own_addresses(lo)?)?;
        decapsulator.add(entry.vip)
    }

    /// The addresses that a director may send tunnelled packets to.
    fn own_addresses(&self, lo: u32) -> Result<Vec<IpAddr>, Error> {
        let addresses = self.host.addresses()?;
        Ok(addresses.iter().filter(|a| a.index != lo && a.lasts()).map(|a| a.address).collect())
    }

    fn down(&mut self, entry: &Entry, out: &mut dyn Write) -> Result<(), Error> {
        let known = self.state.entries.contains(entry);
        self.take_down(entry)?;
        let what = if known { "down" } else { "was not up" };
        say(out, format_args!("{} {} {}: {what}", entry.vip, entry.method.name(), entry.dev))
    }

    fn take_down(&mut self, entry: &Entry) -> Result<(), Error> {
        let mut rest = self.state.entries.clone();
        rest.retain(|other| other != entry);
        if !rest.iter().any(|other| other.vip == entry.vip) && self.state.added.contains(&entry.vip) {
            let lo = self.host.device("lo")?.index;
            let assigned = self.host.addresses()?;
            if let Some(found) = assigned.into_iter().find(|a| a.address == entry.vip && a.index == lo) {
                self.host.remove_address(found)?;
            }
            self.state.added.remove(&entry.vip);
        }
        if entry.method == Method::Tun {
            match self.host.device(&entry.dev) {
                Ok(device) => {
                    // Somebody else's program there is none of our business.
                    let ours = Decapsulator::find(&entry.dev, &device).or_else(|error| match error {
                        Error::ForeignProgram { .. } => Ok(None),
                        other => Err(other),
                    })?;
                    if let Some(mut decapsulator) = ours
                        && !decapsulator.remove(entry.vip)?
                    {
                        decapsulator.detach(&self.host, &entry.dev)?;
                    }
                }
                Err(Error::NoDevice(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let needed: Vec<PathBuf> = rest
            .iter()
            .flat_map(|other| {
                arp_settings(other).map(|setting| setting.sysctl).chain(
                    (other.method == Method::Tun && other.vip.is_ipv4())
                        .then(|| Sysctl::new(&other.dev, "rp_filter")),
                )
            })
            .map(|sysctl| sysctl.path())
            .collect();
        let unneeded: Vec<PathBuf> =
            self.state.sysctls.keys().filter(|path| !needed.contains(path)).cloned().collect();
        for path in unneeded {
            match write_sysctl(&path, self.state.sysctls[&path]) {
                // Its interface is gone.
                Err(Error::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
            self.state.sysctls.remove(&path);
        }
        self.state.entries = rest;
        self.store.save(&self.state)
    }

    fn status(&self, entry: &Entry, out: &mut dyn Write) -> Result<bool, Error> {
        let missing = self.missing(entry)?;
        let word = if missing.is_empty() {
            "up"
        } else if self.state.entries.contains(entry) {
            "up in part"
        } else {
            "not up"
        };
        say(out, format_args!("{} {} {}: {word}", entry.vip, entry.method.name(), entry.dev))?;
        for line in &missing {
            say(out, format_args!("    {line}"))?;
        }
        Ok(missing.is_empty())
    }

    /// What keeps a VIP from being up.
    fn missing(&self, entry: &Entry) -> Result<Vec<String>, Error> {
        let lo = self.host.device("lo")?.index;
        let device = self.host.device(&entry.dev)?;
        let mut missing = Vec::new();
        if let Some(interface) = without_ipv6(entry)? {
            missing.push(format!("IPv6 is off on {interface}"));
        }
        if !self.host.addresses()?.iter().any(|a| a.address == entry.vip && a.index == lo) {
            missing.push(format!("{} is not on lo", entry.vip));
        }
        for Setting { sysctl, value, .. } in arp_settings(entry) {
            let now = sysctl.read()?;
            if now < value {
                missing.push(format!("{sysctl} is {now}, not {value}"));
            }
        }
        if entry.method == Method::Tun {
            if filters_tunnelled(entry)? {
                missing.push(format!("the reverse-path filter of {} is strict", entry.dev));
            }
            match Decapsulator::find(&entry.dev, &device) {
                Ok(None) => missing.push(format!("{} has no decapsulator", entry.dev)),
                Ok(Some(decapsulator)) => {
                    if !decapsulator.has(entry.vip) {
                        missing.push(format!("the decapsulator of {} does not know the VIP", entry.dev));
                    }
                    for own in self.own_addresses(lo)? {
                        if !decapsulator.has_local(own) {
                            missing.push(format!("{own} is new to the decapsulator; run `up` again"));
                        }
                    }
                }
                Err(error @ Error::ForeignProgram { .. }) => missing.push(error.to_string()),
                Err(error) => return Err(error),
            }
        }
        Ok(missing)
    }
}

fn write_sysctl(path: &Path, value: i32) -> Result<(), Error> {
    fs::write(path, format!("{value}\n")).map_err(|source| Error::file("write", path, source))
}

fn say(out: &mut dyn Write, line: std::fmt::Arguments<'_>) -> Result<(), Error> {
    writeln!(out, "{line}").map_err(Error::Output)
}
