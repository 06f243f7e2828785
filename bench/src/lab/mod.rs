//! Small networks out of network namespaces, with real programs running in them.
//!
//! A [`Lab`] is a set of namespaces whose names start alike, `sl<pid>-<n>-`, so that labs of several tests and several
//! processes live side by side. It leaves nothing behind, however its process ends.
//!
//! [`Site`] is the network that most things are tried in: a client, a router, a director and three real servers.
//! [`Wire`] is the shortest one, for measuring: a source, a director, a sink.

mod browser;
pub mod curl;
mod director;
mod dns;
pub mod echo;
mod far;
pub mod ftp;
mod guard;
mod link;
mod netns;
mod nginx;
pub mod others;
pub mod pair;
mod process;
mod sctp;
mod second;
pub mod site;
pub mod wire;
pub mod wrk;

use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};

pub use browser::Browser;
pub use director::{Director, sluice_binary};
pub use dns::{Dns, ask_big, ask_name};
pub use far::FarServer;
pub use ftp::Ftp;
pub use guard::{exit_cleanly_on_signals, sweep};
pub use link::{Counters, End, Link, OFFLOAD, mac_of};
pub use netns::Netns;
pub use nginx::Nginx;
pub use pair::Pair;
pub use process::{Process, run, wait_for};
pub use sctp::{SctpServer, send as send_by_sctp};
pub use second::Second;
pub use site::{Gateway, Method, ReversePath, Site, SiteOptions};
pub use wire::Wire;

use guard::Guard;

static SWEEP: Once = Once::new();
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A set of namespaces and a scratch directory, removed together when this is dropped or its process ends.
#[derive(Debug)]
pub struct Lab {
    name: String,
    number: u32,
    dir: PathBuf,
    _guard: Guard,
}

impl Lab {
    /// Starts an empty lab, and removes what labs of dead processes have left.
    ///
    /// # Errors
    /// Without root, or when the scratch directory or the guard process cannot be made.
    pub fn new() -> Result<Self> {
        if !is_root() {
            bail!("network namespaces need root: run this with sudo");
        }
        SWEEP.call_once(sweep);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sl{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(&name);
        // The guard first: from here on whatever is made is also removed.
        let guard = Guard::start(&name, &dir)?;
        std::fs::create_dir(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        Ok(Self { name, number, dir, _guard: guard })
    }

    /// Adds a namespace, with its loopback up and IPv6 off: neighbour discovery would blur the packet counters.
    ///
    /// # Errors
    /// When `ip netns add` fails.
    pub fn netns(&self, host: &str) -> Result<Netns> {
        let netns = Netns::add(&format!("{}-{host}", self.name))?;
        netns.sysctl("net.ipv6.conf.all.disable_ipv6", "1")?;
        netns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
        netns.ip(&["link set lo up"])?;
        Ok(netns)
    }

    /// The scratch directory, removed with the lab.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Counts the labs of this process, from 0.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }
}

/// True when this process may make namespaces.
#[must_use]
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Whether a test that needs root may run. If not, says so as [`skipped`] does.
#[must_use]
pub fn may_run(test: &str) -> bool {
    if !is_root() {
        skipped(test, "needs root");
    }
    is_root()
}

/// Says that a test does not run, where the test runner does not swallow it.
pub fn skipped(test: &str, why: &str) {
    use std::io::Write;
    // Straight to the descriptor, in one piece: the macros' output is kept back for tests that pass. Nobody to tell is
    // no failure.
    let _ = std::io::stderr().write_all(format!("SKIPPED: {test} {why}\n").as_bytes());
}
