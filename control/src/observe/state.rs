//! What the control thread leaves for others to look at.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rules::ServiceName;

/// An interface of the director.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InterfaceState {
    /// Its name
    pub name: String,
    /// How the XDP program is attached: `native` or `generic`
    pub xdp: String,
    /// How sockets share memory with the driver: `zero-copy` or `copy`
    pub socket: String,
    /// How FULLNAT's answers reach their worker: `rss`, `filters`, `hand-off` or
    /// `one-queue`
    pub answers: String,
    /// Whether it is there, and its link is up
    pub up: bool,
    /// Packets that the kernel dropped because the workers did not come round in
    /// time for them
    #[serde(default)]
    pub missed: u64,
}

/// What checks say of servers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Health {
    /// By service, then by address and port; servers that nobody checks are not
    /// in it
    pub services: HashMap<ServiceName, BTreeMap<(IpAddr, u16), ServerHealth>>,
}

/// Whether a server passes its checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServerState {
    /// No check has ended yet
    Checking,
    /// It passes
    Up,
    /// It fails
    Down,
}

impl ServerState {
    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            ServerState::Checking => "checking",
            ServerState::Up => "up",
            ServerState::Down => "down",
        }
    }
}

/// What checks say of one server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServerHealth {
    /// Whether it passes
    pub state: ServerState,
    /// Since when: milliseconds since 1970, UTC
    pub since_ms: u64,
    /// What the last check found
    pub reason: String,
    /// How long the last check took, in seconds
    pub latency: Option<f64>,
}

/// How sessions are exchanged with other directors; without peers there is
/// no such thing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SyncState {
    /// `active` or `backup`, where the director has a role
    pub role: Option<String>,
    /// The other directors
    pub peers: Vec<PeerState>,
}

/// Another director.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PeerState {
    /// What it is known by
    pub name: String,
    /// Whether sessions flow
    pub connected: bool,
    /// In words, for people
    pub state: String,
    /// How old the newest session is that it has confirmed, in seconds
    pub lag: Option<f64>,
    /// Session records sent to it
    pub sent: u64,
    /// Session records received from it
    pub received: u64,
    /// Records that were lost because it was too slow
    pub lost: u64,
}
