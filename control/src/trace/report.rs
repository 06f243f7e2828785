//! What is asked, and what is told.

use std::net::{IpAddr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::message::ConnectionListing;
use crate::rules::{Method, Protocol};

/// A packet that begins a connection, or belongs to one that is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TraceQuery {
    /// Transport protocol
    pub protocol: Protocol,
    /// Where it is from
    pub source: SocketAddr,
    /// Where it goes
    pub destination: SocketAddr,
    /// The director's interface that it comes by; without it, that by which the
    /// route to its source leaves
    #[serde(default)]
    pub interface: Option<String>,
    /// The mark that it is taken to have; without it, that of the mark rules
    #[serde(default)]
    pub mark: Option<u32>,
}

/// What would become of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TraceReport {
    /// The interface that it was taken to come by
    pub interface: String,
    /// Whether the XDP program brings it to the workers
    pub steered: bool,
    /// Why, or why not
    pub steering: String,
    /// The queue, and so the worker, that it lands on, where that can be told
    pub queue: Option<usize>,
    /// The mark that it has; 0 for none
    pub mark: u32,
    /// The service that it is for
    pub service: Option<Service>,
    /// What each worker would do with it
    pub workers: Vec<WorkerReport>,
}

/// A service, and its servers in the order in which schedulers have them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Service {
    /// As `tcp 192.0.2.10:80` or `mark 7`
    pub name: String,
    /// How the packet was found to be its own
    pub found_by: String,
    /// Its scheduler
    pub scheduler: String,
    /// Seconds that a client keeps to one server, if it does
    pub persistence: Option<u32>,
    /// LIPs of FULLNAT, in turn
    pub local_addresses: Vec<IpAddr>,
    /// Servers
    pub servers: Vec<Server>,
}

/// A server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Server {
    /// Where it is; port 0 keeps that of the packet
    pub server: SocketAddr,
    /// How packets reach it
    pub method: Method,
    /// Its weight
    pub weight: u32,
    /// Active connections, over all workers
    pub active: u64,
    /// Inactive ones
    pub inactive: u64,
    /// Why it takes no new connections, if so
    pub passed_over: Option<String>,
    /// What health checks say of it, if it is checked
    pub health: Option<String>,
}

/// What a worker would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerReport {
    /// Its number
    pub worker: usize,
    /// In a word
    pub verdict: Verdict,
    /// In words
    pub text: String,
    /// Name of the drop reason that would be counted
    pub reason: Option<String>,
    /// What helps against that
    pub remedy: Option<String>,
    /// The connection that it belongs to
    pub connection: Option<ConnectionListing>,
    /// The persistence template that it goes by
    pub template: Option<ConnectionListing>,
    /// The server that it goes to, and the port there
    pub server: Option<SocketAddr>,
    /// How
    pub method: Option<Method>,
    /// What is rewritten
    pub rewriting: Option<String>,
    /// The way that it goes
    pub way: Option<Way>,
    /// The way that replies take, where they come through the director
    pub reply_way: Option<Way>,
}

/// What becomes of a packet at a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It belongs to a connection, and goes its way
    Connection,
    /// It begins one
    New,
    /// It is left to the kernel
    Kernel,
    /// Another worker gets it
    Handed,
    /// It is dropped
    Dropped,
    /// The worker did not answer
    Silent,
}

/// The way to an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Way {
    /// The address
    pub to: IpAddr,
    /// What is known of it
    pub state: WayState,
    /// The route
    pub route: Option<String>,
    /// The gateway, where there is one
    pub gateway: Option<IpAddr>,
    /// The interface that it leaves by
    pub interface: Option<String>,
    /// The VLAN
    pub vlan: Option<u16>,
    /// MAC of the next hop
    pub mac: Option<String>,
    /// Largest IP packet
    pub mtu: Option<u16>,
}

/// What is known of a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WayState {
    /// The next hop's MAC is known
    Known,
    /// It is not: packets wait for it, for a second at most
    Unresolved,
    /// The route leads out of an interface that is not the director's, or the
    /// address is its own
    Foreign,
    /// There is no route
    NoRoute,
}
