//! Many TCP connections on which data flows both ways all the time, to see what
//! a failover does to them.
//!
//! Each connection sends a message, waits for its echo, and sends the next one
//! when its turn comes again. How long the slowest echo took, and how many
//! connections broke, is known at any time.

mod client;
mod server;

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

pub use client::Conversations;
pub use server::EchoServer;

/// Bytes of a message.
const MESSAGE: usize = 64;

/// Lets this process have so many descriptors.
///
/// # Errors
/// When the system refuses.
pub fn allow_descriptors(count: u64) -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < count {
        setrlimit(Resource::RLIMIT_NOFILE, count, hard.max(count)).with_context(|| {
            format!("{count} descriptors are needed and {hard} allowed: raise the limit (ulimit -n)")
        })?;
    }
    Ok(())
}
