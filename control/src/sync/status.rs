//! What is known of both streams.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Settings;
use crate::observe::PeerState;

/// Delays that are kept for the quantiles.
const SAMPLES: usize = 4096;

/// Between two warnings of the same stream.
const WARNINGS: Duration = Duration::from_secs(10);

/// Synchronisation at one instant, for status and metrics.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SyncStatus {
    /// Where this director hears
    pub listen: String,
    /// Where the peer hears
    pub peer: String,
    /// What it is told
    pub outgoing: Outgoing,
    /// What it tells
    pub incoming: Incoming,
}

/// What the peer is told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Outgoing {
    /// Whether it is connected
    pub connected: bool,
    /// Whether it was told everything since
    pub complete: bool,
    /// Records sent
    pub sent: u64,
    /// Records that its workers took, or had a reason not to
    pub taken: u64,
    /// Records that wait at the workers or on the way
    pub behind: u64,
    /// Milliseconds from a change until the peer's workers took it: the last
    pub milliseconds: f64,
    /// The same, exceeded by one in a hundred lately
    pub milliseconds_p99: f64,
    /// Times that everything was told
    pub transfers: u64,
    /// Changes that there was no room for, made good by a transfer
    pub overflowed: u64,
    /// Why it was disconnected last
    pub error: Option<String>,
}

/// What the peer tells.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Incoming {
    /// Whether it is connected
    pub connected: bool,
    /// Whether it told everything since
    pub complete: bool,
    /// Whether it did so once since it connected
    pub caught_up: bool,
    /// Records received
    pub received: u64,
    /// Records that workers took
    pub taken: u64,
    /// Records that wait for workers here, and at the peer by its own word
    pub behind: u64,
    /// Milliseconds from a change until it was taken here, by the peer's word
    pub milliseconds: f64,
    /// Records of connections that are this director's own
    pub own: u64,
    /// Records of services or servers that are not configured here
    pub unknown: u64,
    /// Records whose local port is in use otherwise
    pub port_taken: u64,
    /// Records that there was no room for
    pub full: u64,
    /// Why it was disconnected last
    pub error: Option<String>,
}

impl From<&SyncStatus> for PeerState {
    fn from(status: &SyncStatus) -> Self {
        let SyncStatus { peer, outgoing, incoming, .. } = status;
        let state = match (outgoing.connected, incoming.connected) {
            (true, true) if outgoing.complete && incoming.complete => "in step",
            (true, true) => "transferring",
            (true, false) => "it is told, and tells nothing",
            (false, true) => "it tells, and is not told",
            (false, false) => "not connected",
        };
        let error = if outgoing.connected { &None } else { &outgoing.error };
        let error = error.as_ref().or(if incoming.connected { None } else { incoming.error.as_ref() });
        PeerState {
            name: peer.clone(),
            connected: outgoing.connected && incoming.connected,
            state: error.map_or_else(|| state.to_owned(), |error| format!("{state}: {error}")),
            lag: outgoing.connected.then_some(outgoing.milliseconds / 1000.0),
            sent: outgoing.sent,
            received: incoming.received,
            lost: outgoing.overflowed,
        }
    }
}

/// Counters of both streams. The thread of synchronisation writes, all read.
#[derive(Debug, Default)]
pub struct Statistics {
    pub(super) outgoing: Sending,
    pub(super) incoming: Receiving,
}

#[derive(Debug, Default)]
pub(super) struct Sending {
    pub(super) connected: AtomicBool,
    pub(super) complete: AtomicBool,
    pub(super) sent: AtomicU64,
    pub(super) taken: AtomicU64,
    pub(super) behind: AtomicU64,
    pub(super) transfers: AtomicU64,
    pub(super) overflowed: AtomicU64,
    delays: Mutex<Delays>,
    pub(super) trouble: Trouble,
}

#[derive(Debug, Default)]
pub(super) struct Receiving {
    pub(super) connected: AtomicBool,
    pub(super) complete: AtomicBool,
    pub(super) caught_up: AtomicBool,
    pub(super) received: AtomicU64,
    pub(super) taken: AtomicU64,
    pub(super) behind: AtomicU64,
    pub(super) milliseconds: AtomicU64,
    pub(super) own: AtomicU64,
    pub(super) unknown: AtomicU64,
    pub(super) port_taken: AtomicU64,
    pub(super) full: AtomicU64,
    pub(super) trouble: Trouble,
}

/// The newest delays, nanoseconds.
#[derive(Debug, Default)]
struct Delays {
    samples: Vec<u64>,
    next: usize,
}

/// Why a stream broke last, said not too often.
#[derive(Debug, Default)]
pub(super) struct Trouble(Mutex<(Option<String>, Option<Instant>)>);

impl Trouble {
    /// Takes note of it; returns whether it is to be logged.
    pub(super) fn note(&self, text: String) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = state.0.as_ref() != Some(&text);
        let due = state.1.is_none_or(|last| last.elapsed() >= WARNINGS);
        state.0 = Some(text);
        // Two that take turns are not to fill a log either.
        let say = due || is_news && state.1.is_none_or(|last| last.elapsed() >= WARNINGS / 10);
        if say {
            state.1 = Some(Instant::now());
        }
        say
    }

    fn text(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }
}

impl Sending {
    /// Takes note of how long a change took to arrive.
    pub(super) fn arrived(&self, nanoseconds: u64) {
        let mut delays = self.delays.lock().unwrap_or_else(PoisonError::into_inner);
        let next = delays.next % SAMPLES;
        match delays.samples.get_mut(next) {
            Some(sample) => *sample = nanoseconds,
            None => delays.samples.push(nanoseconds),
        }
        delays.next = next + 1;
    }

    /// The last delay, and that which one in a hundred exceeds, milliseconds.
    pub(super) fn delays(&self) -> (f64, f64) {
        let delays = self.delays.lock().unwrap_or_else(PoisonError::into_inner);
        let last = delays.next.checked_sub(1).and_then(|last| delays.samples.get(last)).copied();
        let mut sorted = delays.samples.clone();
        drop(delays);
        sorted.sort_unstable();
        let p99 = sorted.get((sorted.len() * 99).div_ceil(100).saturating_sub(1)).copied();
        let milliseconds = |nanoseconds: Option<u64>| nanoseconds.unwrap_or(0) as f64 / 1e6;
        (milliseconds(last), milliseconds(p99))
    }
}

impl Statistics {
    pub(super) fn status(&self, settings: &Settings) -> SyncStatus {
        let Statistics { outgoing, incoming } = self;
        let (milliseconds, milliseconds_p99) = outgoing.delays();
        SyncStatus {
            listen: settings.listen.to_string(),
            peer: settings.peer.to_string(),
            outgoing: Outgoing {
                connected: outgoing.connected.load(Relaxed),
                complete: outgoing.complete.load(Relaxed),
                sent: outgoing.sent.load(Relaxed),
                taken: outgoing.taken.load(Relaxed),
                behind: outgoing.behind.load(Relaxed),
                milliseconds,
                milliseconds_p99,
                transfers: outgoing.transfers.load(Relaxed),
                overflowed: outgoing.overflowed.load(Relaxed),
                error: outgoing.trouble.text(),
            },
            incoming: Incoming {
                connected: incoming.connected.load(Relaxed),
                complete: incoming.complete.load(Relaxed),
                caught_up: incoming.caught_up.load(Relaxed),
                received: incoming.received.load(Relaxed),
                taken: incoming.taken.load(Relaxed),
                behind: incoming.behind.load(Relaxed),
                milliseconds: incoming.milliseconds.load(Relaxed) as f64,
                own: incoming.own.load(Relaxed),
                unknown: incoming.unknown.load(Relaxed),
                port_taken: incoming.port_taken.load(Relaxed),
                full: incoming.full.load(Relaxed),
                error: incoming.trouble.text(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_in_step_when_both_streams_are() {
        let mut status = SyncStatus { peer: "10.0.9.2:7946".into(), ..SyncStatus::default() };
        let mut shown = |change: fn(&mut SyncStatus)| {
            change(&mut status);
            let PeerState { connected, state, lag, .. } = PeerState::from(&status);
            (connected, state, lag)
        };
        assert_eq!(shown(|_| {}), (false, "not connected".into(), None));
        let refused = |status: &mut SyncStatus| status.outgoing.error = Some("it refused".into());
        assert_eq!(shown(refused), (false, "not connected: it refused".into(), None));
        let told = |status: &mut SyncStatus| {
            status.outgoing = Outgoing { connected: true, milliseconds: 250.0, ..Outgoing::default() };
        };
        assert_eq!(shown(told), (false, "it is told, and tells nothing".into(), Some(0.25)));
        assert_eq!(shown(|s| s.incoming.connected = true), (true, "transferring".into(), Some(0.25)));
        let done =
            |status: &mut SyncStatus| (status.outgoing.complete, status.incoming.complete) = (true, true);
        assert_eq!(shown(done), (true, "in step".into(), Some(0.25)));
    }

    #[test]
    fn one_in_a_hundred_is_beyond_the_quantile() {
        let sending = Sending::default();
        assert_eq!(sending.delays(), (0.0, 0.0));
        (1..=1000).for_each(|milliseconds| sending.arrived(milliseconds * 1_000_000));
        assert_eq!(sending.delays(), (1000.0, 990.0));
        // Only the newest count.
        (0..SAMPLES).for_each(|_| sending.arrived(2_000_000));
        assert_eq!(sending.delays(), (2.0, 2.0));
    }

    #[test]
    fn trouble_is_not_said_too_often() {
        let trouble = Trouble::default();
        assert!(trouble.note("one".into()));
        assert!(
            !trouble.note("one".into()) && !trouble.note("another".into()) && !trouble.note("one".into())
        );
        assert_eq!(trouble.text(), Some("one".into()));
    }
}
