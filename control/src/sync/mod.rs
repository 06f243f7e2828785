//! Session synchronisation between two directors.
//!
//! Each director tells its own connections on a TCP connection that it opens, and
//! hears of the other's on the one that it accepts: two one-way streams, so that
//! neither has to know who is active. All of it is on a thread of its own, since
//! a few hundred thousand records a second are to be encrypted.
//!
//! | file | what |
//! |------|------|
//! | `wire.rs`     | how records are written; versioned |
//! | `noise.rs`    | who may talk: Noise with a pre-shared key |
//! | `sender.rs`   | telling: everything once, then changes |
//! | `receiver.rs` | hearing, and saying what was taken |
//! | `key.rs`      | the key file |
//! | `status.rs`   | what is known of both streams, and how far behind they are |
//! | `show.rs`     | the same in words |
//!
//! What happens when something is wrong:
//!
//! - Changes that workers have no room to tell, or that were lost with a
//!   connection, are made good by telling everything anew.
//! - A peer that stops reading, or says nothing for three seconds, is
//!   disconnected. What it told is believed for as long as it would live here.
//! - Bytes that are altered, repeated or in another order fail to decrypt; a key
//!   that differs fails the handshake. Both end the connection, and no table
//!   changes.
//! - Two directors that are active both keep what they have packets of; who alone
//!   saw packets lately has what both claim.

mod key;
mod noise;
mod receiver;
mod sender;
mod show;
mod status;
#[cfg(test)]
mod tests;
pub mod wire;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use sluice_dataplane::worker::{Exchange, Published};
use thiserror::Error;
use tokio::sync::oneshot;

pub use key::{Key, KeyError, make as make_key};
pub use show::show;
pub use status::{Incoming, Outgoing, Statistics, SyncStatus};

/// Changes that may wait at each worker.
const CAPACITY: usize = 65_536;

/// How often a sender says that it is there.
const HEARTBEAT: Duration = Duration::from_millis(500);

/// A peer that says nothing, or reads nothing, for so long is gone.
const SILENCE: Duration = Duration::from_millis(if cfg!(test) { 1000 } else { 3000 });

/// Between two looks at queues that had nothing.
const PAUSE: Duration = Duration::from_millis(1);

/// Where the peer is, and how it is known to be that.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Where to hear it, and whence to tell it
    pub listen: SocketAddr,
    /// Where it hears
    pub peer: SocketAddr,
    /// The file with the key that both have
    pub key: PathBuf,
}

/// What synchronisation works on.
#[derive(Clone)]
pub struct Plane {
    /// Queues of the workers
    pub exchanges: Arc<[Exchange]>,
    /// The snapshots that they go by
    pub published: Arc<Published>,
    /// What workers count their nanoseconds from
    pub clock: Instant,
}

/// Why synchronisation could not be started.
#[derive(Debug, Error)]
pub enum StartError {
    /// There is no usable key
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Nothing can be heard at the address
    #[error("sync: cannot listen on {0}: {1}; it has to be an address of this machine, and a free port")]
    Listen(SocketAddr, io::Error),
    /// The system refused
    #[error("sync: {0}")]
    System(#[from] io::Error),
}

/// Synchronisation under way; it ends when this is dropped.
pub struct Sync {
    settings: Settings,
    statistics: Arc<Statistics>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What both streams need.
struct Shared {
    settings: Settings,
    key: Key,
    plane: Plane,
    statistics: Arc<Statistics>,
    /// Tells this process from those before it
    instance: u64,
}

impl Sync {
    /// Begins to synchronise. Returns once the peer can connect.
    ///
    /// # Errors
    /// When there is no usable key, or the address cannot be listened on.
    pub fn start(settings: Settings, plane: Plane) -> Result<Self, StartError> {
        let key = Key::load(&settings.key)?;
        let listener = std::net::TcpListener::bind(settings.listen)
            .map_err(|error| StartError::Listen(settings.listen, error))?;
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let statistics = Arc::new(Statistics::default());
        let shared = Shared {
            settings: settings.clone(),
            key,
            plane,
            statistics: Arc::clone(&statistics),
            instance: key::random_number()?,
        };
        let (stop, stopped) = oneshot::channel();
        let run = move || {
            runtime.block_on(async {
                let listener = match tokio::net::TcpListener::from_std(listener) {
                    Ok(listener) => listener,
                    Err(error) => return tracing::error!(%error, "session synchronisation does not work"),
                };
                tokio::select! {
                    () = sender::run(&shared) => {}
                    () = receiver::run(&shared, listener) => {}
                    _ = stopped => {}
                }
            });
        };
        let thread = thread::Builder::new().name("sync".into()).spawn(run)?;
        Ok(Sync { settings, statistics, stop: Some(stop), thread: Some(thread) })
    }

    /// What is known of both streams now.
    pub fn status(&self) -> SyncStatus {
        self.statistics.status(&self.settings)
    }
}

impl Drop for Sync {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("session synchronisation panicked");
        }
    }
}
