//! The configuration file: parse, validate, resolve.
//!
//! A file that parses is checked as a whole, and every mistake in it is shown
//! with its line, its column and what to do about it. Whether the interfaces
//! exist is not checked here but at start.

mod check;
mod daemon;
mod director;
mod file;
mod ftp;
mod health;
#[cfg(test)]
mod health_tests;
mod mark;
#[cfg(test)]
mod mark_tests;
mod offload;
mod options;
mod place;
mod problem;
mod read;
mod server;
mod service;
mod suggest;
mod sync;
mod target;
#[cfg(test)]
mod tests;
pub(crate) mod timeouts;
mod tunables;
mod web;
pub(crate) mod write;

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use sluice_dataplane::conn::TimeoutOverrides;
use sluice_dataplane::service::{Method, OffloadChoice, SchedulerKind, ServiceKey, ServiceOptions, Tunables};
use sluice_dataplane::wire::Address;

use crate::health::ServicePlan;
use crate::marks::MarkRule;
use crate::role::Role;
use crate::rules::{Daemon, Tunnel};

pub(crate) use offload::name as offload_name;
pub use problem::{Error, Problem, Problems};
pub use web::{DEFAULT_PORT, Web};

/// A valid configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The director itself
    pub director: Director,
    /// Virtual services in the order of the file
    pub services: Vec<Service>,
    /// Rules that mark packets, in the order of the file, each with the line
    /// that it begins in
    pub marks: Vec<(usize, MarkRule)>,
    /// The web page and metrics
    pub web: Web,
    /// The other director that connections are told to, if there is one
    pub sync: Option<crate::sync::Settings>,
    /// Sync daemons of IPVS
    pub daemons: Vec<Daemon>,
}

/// The `[director]` table.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Director {
    /// Names of the interfaces that packets come and go by, at least one and
    /// at most [`MAX_INTERFACES`]
    pub interfaces: Vec<String>,
    /// CPU of each worker, at least one; worker i owns queue i of every
    /// interface
    pub workers: Vec<usize>,
    /// Connections that each worker has room for
    pub connections_per_worker: u32,
    /// LIPs of FULLNAT for services that name none; may be empty
    pub local_addresses: Vec<Address>,
    /// What a worker does when there is nothing to do
    pub idle: Idle,
    /// How the XDP program is attached
    pub xdp_mode: XdpMode,
    /// Where the API socket is, if the file says so
    pub socket: Option<PathBuf>,
    /// The group whose members may use that socket
    pub api_group: Option<String>,
    /// Whether it begins as the active director
    pub role: Role,
    /// What becomes of packets of services when the director crashed
    pub when_gone: WhenGone,
    /// Whether established connections are carried in the kernel
    pub offload: OffloadChoice,
    /// Connections of IPv4 that there is room for in the kernel
    pub offload_flows: u32,
    /// Those of IPv6
    pub offload_flows_v6: u32,
    /// Packets after which a connection is carried
    pub offload_after: u8,
    /// Seconds after which nothing is carried for a worker that shows no sign of
    /// life
    pub offload_stale: u32,
    /// The sysctls of IPVS that are settings here
    pub tunables: Tunables,
    /// How long connections live, where that is not the kernel's default
    pub timeouts: TimeoutOverrides,
}

/// What a worker does when there is nothing to do.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Idle {
    /// It looks again at once, and keeps its CPU busy
    #[default]
    Spin,
    /// It sleeps in `poll()`, which costs latency
    Sleep,
}

/// What becomes of packets of services while the director is not there although
/// nobody stopped it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum WhenGone {
    /// The kernel has them, and resets the connections that it does not know
    #[default]
    Kernel,
    /// They are dropped, so that connections last until another director has
    /// their addresses, or this one is there again
    Drop,
}

/// How the XDP program is attached to interfaces.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum XdpMode {
    /// In the driver, or generically where the driver cannot
    #[default]
    Auto,
    /// In the driver, or not at all
    Native,
    /// Generically: slower, works with any driver
    Generic,
}

/// A `[[service]]` table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    /// Protocol, VIP and port, or a mark
    pub key: ServiceKey,
    /// Its scheduler
    pub scheduler: SchedulerKind,
    /// Its flags (`ipvsadm -b`), bit 0 for `flag-1` to bit 2 for `flag-3`
    pub flags: u8,
    /// One-packet scheduling and persistence
    pub options: ServiceOptions,
    /// How long its connections live, where that is not the director's
    pub timeouts: TimeoutOverrides,
    /// LIPs of its own; when empty, those of the director are used
    pub local_addresses: Vec<Address>,
    /// Real servers in the order of the file, in which they are to be added
    pub servers: Vec<Server>,
    /// How its servers are checked, and what follows from that
    pub health: ServicePlan,
}

/// A `[[service.server]]` table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Server {
    /// The RIP
    pub address: Address,
    /// Port in host order; the service's where the file names none, and 0 where
    /// that is one of a mark
    pub port: u16,
    /// How packets reach it
    pub method: Method,
    /// What they are wrapped in where that is by a tunnel
    pub tunnel: Tunnel,
    /// 0 to [`MAX_WEIGHT`]; 0 takes no new connections
    pub weight: u32,
    /// No new connections at so many; 0 for no limit
    pub upper_threshold: u32,
    /// New connections again below so many; 0 for three quarters of the upper
    /// threshold
    pub lower_threshold: u32,
}

/// Most interfaces of a director.
pub const MAX_INTERFACES: usize = sluice_dataplane::stats::MAX_INTERFACES;

/// Highest CPU number of a worker (`CPU_SETSIZE` less one).
pub const MAX_CPU: usize = 1023;

/// Bounds and default of `connections_per_worker`. The lowest keeps the table
/// worth having; the highest takes some ten gigabytes.
pub const CONNECTIONS: Range<u32> = 16..64_000_001;

/// `connections_per_worker` where the file has none.
pub const DEFAULT_CONNECTIONS: u32 = 1_000_000;

/// Highest weight: what ipvsadm takes, although it documents 65535.
pub const MAX_WEIGHT: u32 = crate::rules::MAX_WEIGHT;

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// When it cannot be read or is not valid; the text names the file, and
    /// line and column of every mistake.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text =
            fs::read_to_string(path).map_err(|source| Error::Unreadable { file: path.to_owned(), source })?;
        Config::parse(&text, path)
    }

    /// Parses the text of a configuration file; `path` is for messages only.
    ///
    /// # Errors
    /// When it is not valid.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        let invalid = |problems| Error::Invalid { file: path.to_owned(), problems: Problems(problems) };
        check::check(text).map_err(invalid)
    }
}
