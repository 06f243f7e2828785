//! The event log: what happened to the director, when and why.
//!
//! Everything that the director logs at level INFO or above goes into it by
//! [`Recorder`], a layer of `tracing`, together with the changes that commands
//! make ([`changes`]), which are not logged. A message says its kind by a
//! field `event`, as in `info!(event = "role", ...)`; without one the module
//! that it comes from decides ([`Kind::of_module`]).
//!
//! The log is a ring in memory. Neither a long life nor a flood of one kind
//! of events makes it grow, or pushes the others out: see [`EventLog`].

mod changes;
mod limit;
mod log;
mod recorder;
mod show;

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use changes::describe;
pub use log::{CAPACITY, EventLog};
pub use recorder::Recorder;
pub(crate) use show::utc_ns;
pub use show::{Arguments, main};

/// Longest text of an event in bytes; what is beyond is cut off.
pub const MAX_TEXT: usize = 512;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $text:literal),+ $(,)?) => {
        /// What an event is about.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum Kind { $($(#[$doc])* $name),+ }

        impl Kind {
            /// Every kind, in the order of its number.
            pub const ALL: &[Kind] = &[$(Kind::$name),+];

            /// Its name in logs, JSON and metrics.
            pub fn name(self) -> &'static str {
                match self { $(Kind::$name => $text),+ }
            }
        }
    };
}

kinds! {
    /// The director itself: start, workers, sockets, all that is none below
    Director = "director",
    /// A service, server or mark rule was changed by a command
    Command = "command",
    /// The configuration was read again
    Reload = "reload",
    /// A server failed its check, or passed it again
    Health = "health",
    /// The director became active or backup
    Role = "role",
    /// An interface, route or neighbour
    Link = "link",
    /// Sessions that are exchanged with another director
    Sync = "sync",
    /// Something that the director has a fixed number of ran out
    Exhaustion = "exhaustion",
    /// The command socket and the web port
    Access = "access",
}

impl Kind {
    /// The kind of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Kind::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    /// The kind of what a module logs that does not say it.
    pub fn of_module(path: &str) -> Self {
        let mut parts = path.split("::").skip(1);
        match parts.next() {
            Some("health") => Kind::Health,
            Some("netlink") => Kind::Link,
            Some("sync") => Kind::Sync,
            Some("api" | "web") => Kind::Access,
            Some("config" | "reload") => Kind::Reload,
            Some("role") => Kind::Role,
            _ => Kind::Director,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How much an event matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// As it should be
    Info,
    /// The director goes on, and somebody should look
    Warning,
    /// Something does not work
    Error,
}

impl Severity {
    /// Every severity, in the order of its number.
    pub const ALL: [Severity; 3] = [Severity::Info, Severity::Warning, Severity::Error];

    /// Its name in logs, JSON and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// An entry of the log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct EventRecord {
    /// Its number since the director started, from 1, without gaps
    pub number: u64,
    /// When it happened: milliseconds since 1970, UTC
    pub time_ms: u64,
    /// What it is about
    pub kind: Kind,
    /// How much it matters
    pub severity: Severity,
    /// What happened, and why
    pub text: String,
}
