//! The master: tells the group of this director's connections.
//!
//! IPVS decides at packets when to tell, by `sync_threshold`, `sync_period` and
//! `sync_refresh_period` (`ip_vs_sync_conn_needed`). Here workers tell at once
//! of a connection that is established, of each change of its state, and again
//! after `sync_refresh_period` in which it had packets; and all that there are when
//! the master begins, so that a backup that is there by then has them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use sluice_dataplane::sync::{Record, Subscription, What};
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep};

use super::codec::Encoder;
use super::counters::{Sent, add};
use super::socket::{Place, sender};
use super::translate::{Inexpressible, entry_of};
use crate::rules::Daemon;
use crate::sync::{CAPACITY, PAUSE, Plane};

/// Longest wait of an entry for others to share its message.
const DELAY: Duration = Duration::from_millis(20);

/// Messages that are sent one after the other; then there is a moment's pause,
/// so that a backup can read them.
const AT_ONCE: u32 = 32;

/// Between two times that everything is told, at least.
const TRANSFERS: Duration = Duration::from_secs(1);

/// How often the interface is looked for.
const LOOK: Duration = Duration::from_secs(1);

/// Tells for as long as it can.
///
/// # Errors
/// When it has to begin anew: the interface is another one, or messages cannot
/// be sent.
pub(super) async fn run(daemon: &Daemon, plane: &Plane, counters: &Sent) -> io::Result<()> {
    let place = Place::of(daemon)?;
    let services = || Arc::clone(&plane.published.services.load());
    let socket = sender(daemon, services().tunables().sync_sock_size)?;
    let mut subscription = loop {
        match Subscription::new(&plane.exchanges, CAPACITY) {
            Some(subscription) => break subscription,
            None => sleep(PAUSE).await,
        }
    };
    subscription.transfer();
    let mut transferred = Instant::now();
    let mut looked = Instant::now();
    let mut lost = 0;
    let mut master = Master {
        encoder: Encoder::new(daemon.sync_id.unwrap_or(255), daemon.max_length.unwrap_or(1472)),
        socket,
        counters,
        since: None,
        in_a_row: 0,
        templates_only: false,
    };
    loop {
        if subscription.is_behind() && !subscription.is_transferring() && transferred.elapsed() >= TRANSFERS {
            subscription.transfer();
            transferred = Instant::now();
        }
        add(&counters.overflowed, subscription.lost() - lost);
        lost = subscription.lost();
        // As it is now: a reload may have changed it.
        master.templates_only = services().tunables().sync_persist_mode;
        while let Some(change) = subscription.next_change() {
            // What was heard of another director is that one's to tell.
            if let (What::Record(record), false) = (&change.what, change.foreign) {
                master.tell(record).await?;
            }
        }
        if master.since.is_some_and(|since| since.elapsed() >= DELAY) {
            master.send().await?;
        }
        if looked.elapsed() >= LOOK {
            looked = Instant::now();
            place.check()?;
        }
        master.in_a_row = 0;
        sleep(PAUSE).await;
    }
}

struct Master<'a> {
    encoder: Encoder,
    socket: UdpSocket,
    counters: &'a Sent,
    /// When the oldest entry of the message came
    since: Option<Instant>,
    in_a_row: u32,
    /// Whether connections of persistent services are left to their templates
    templates_only: bool,
}

impl Master<'_> {
    async fn tell(&mut self, record: &Record) -> io::Result<()> {
        if self.templates_only && matches!(record, Record::Session(session) if session.persistent) {
            return Ok(());
        }
        let entry = match entry_of(record) {
            Ok(entry) => entry,
            // Its last state was told.
            Err(Inexpressible::Gone) => return Ok(()),
            Err(Inexpressible::FullNat | Inexpressible::ServerPort) => {
                add(&self.counters.left_out, 1);
                return Ok(());
            }
        };
        let mut pushed = self.encoder.push(&entry);
        if pushed == Ok(false) {
            self.send().await?;
            pushed = self.encoder.push(&entry);
        }
        if pushed.is_err() {
            add(&self.counters.left_out, 1);
            return Ok(());
        }
        self.since.get_or_insert_with(Instant::now);
        add(&self.counters.entries, 1);
        Ok(())
    }

    async fn send(&mut self) -> io::Result<()> {
        let message = self.encoder.take();
        self.since = None;
        match self.socket.send(&message).await {
            Ok(_) => {
                self.counters.messages.fetch_add(1, Relaxed);
            }
            Err(error) => {
                add(&self.counters.failed, 1);
                // Another socket tells everything anew.
                return Err(error);
            }
        }
        self.in_a_row += 1;
        if self.in_a_row.is_multiple_of(AT_ONCE) {
            sleep(PAUSE).await;
        }
        Ok(())
    }
}
