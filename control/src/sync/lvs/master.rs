//! The master: tells the group of this director's connections.

use std::cell::Cell;
use std::io;
use std::time::Duration;

use sluice_dataplane::conn::{ConnectionFilter, ConnectionRecord};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::codec::Encoder;
use super::due::Due;
use super::socket;
use super::translate::entry_of_listed;
use crate::api::{DataPlane, Director};
use crate::rules::{Daemon, DaemonRole};

/// How often connections are looked at, at the most.
const ROUND: Duration = Duration::from_secs(1);

/// A round that took long is followed by a pause of so many times that.
const SHARE: u32 = 4;

/// Messages that are sent one after the other; then there is a moment's pause,
/// so that a backup can read them.
const AT_ONCE: u64 = 32;

/// What the master did so far.
#[derive(Debug, Default)]
pub struct Counters {
    /// Messages that were sent
    pub messages: Cell<u64>,
    /// Connections and templates in them
    pub entries: Cell<u64>,
    /// Messages that could not be sent
    pub failed: Cell<u64>,
    /// Connections met in the last round that the protocol has no words for
    pub left_out: Cell<u64>,
}

impl Counters {
    /// For `sluice status`.
    pub fn status(&self) -> serde_json::Value {
        serde_json::json!({
            "messages": self.messages.get(),
            "entries": self.entries.get(),
            "failed": self.failed.get(),
            "left_out": self.left_out.get(),
        })
    }
}

/// A master that runs.
struct Master {
    daemon: Daemon,
    socket: UdpSocket,
    encoder: Encoder,
    due: Due,
    begun: Instant,
    /// Whether the last message could not be sent
    failing: bool,
}

impl Master {
    fn new(daemon: Daemon) -> io::Result<Self> {
        let socket = socket::sender(&daemon)?;
        let encoder = Encoder::new(daemon.sync_id.unwrap_or(255), daemon.max_length.unwrap_or(1472));
        tracing::info!(interface = daemon.interface, "sync daemon started as master");
        Ok(Master { daemon, socket, encoder, due: Due::default(), begun: Instant::now(), failing: false })
    }

    /// Looks at all connections once and tells of those that are due.
    async fn round(&mut self, mut slices: mpsc::Receiver<Vec<ConnectionRecord>>, counters: &Counters) {
        let now = self.begun.elapsed().as_secs();
        let mut left_out = 0;
        while let Some(slice) = slices.recv().await {
            for listed in slice {
                let Ok(entry) = entry_of_listed(&listed) else {
                    left_out += 1;
                    continue;
                };
                if !self.due.is_due(&entry, now) {
                    continue;
                }
                match self.encoder.push(&entry) {
                    Ok(true) => {}
                    Ok(false) => {
                        self.send(counters).await;
                        // There is room in an empty one.
                        let _ = self.encoder.push(&entry);
                    }
                    Err(_) => {
                        left_out += 1;
                        continue;
                    }
                }
                counters.entries.set(counters.entries.get() + 1);
            }
        }
        if !self.encoder.is_empty() {
            self.send(counters).await;
        }
        self.due.end_round();
        counters.left_out.set(left_out);
    }

    async fn send(&mut self, counters: &Counters) {
        let message = self.encoder.take();
        match self.socket.send(&message).await {
            Ok(_) => {
                counters.messages.set(counters.messages.get() + 1);
                self.failing = false;
                if counters.messages.get().is_multiple_of(AT_ONCE) {
                    sleep(Duration::from_millis(1)).await;
                }
            }
            Err(error) => {
                counters.failed.set(counters.failed.get() + 1);
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(interface = self.daemon.interface, %error, "sync messages cannot be sent");
                }
                // What it told of is due again.
                self.due = Due::default();
            }
        }
    }
}

/// Runs the master for as long as the rules have one; never returns.
pub async fn run<D: DataPlane>(director: &Director<D>) {
    let mut running: Option<Master> = None;
    let mut told = false;
    loop {
        let wanted = director.rules().daemons().iter().find(|d| d.role == DaemonRole::Master).cloned();
        if running.as_ref().is_some_and(|master| Some(&master.daemon) != wanted.as_ref()) {
            running = None;
            tracing::info!("sync daemon stopped");
        }
        let begun = Instant::now();
        match (&mut running, wanted) {
            (Some(master), _) => {
                master.round(director.plane().connections(ConnectionFilter::default()), director.lvs()).await
            }
            (None, Some(daemon)) => match Master::new(daemon) {
                Ok(master) => {
                    (running, told) = (Some(master), false);
                    continue;
                }
                Err(error) if !told => {
                    told = true;
                    tracing::warn!(%error, "the sync daemon cannot start; this is tried again every second");
                }
                Err(_) => {}
            },
            (None, None) => {}
        }
        sleep((begun.elapsed() * SHARE).max(ROUND)).await;
    }
}
