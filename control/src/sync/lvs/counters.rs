//! What the sync daemons did so far.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};

use serde_json::{Value, json};

use super::translate::KeptOut;

/// Counters of both daemons. A daemon's thread writes its own, all read.
#[derive(Debug, Default)]
pub struct Counters {
    /// The master's
    pub master: Sent,
    /// The backup's
    pub backup: Heard,
}

/// What a master told.
#[derive(Debug, Default)]
pub struct Sent {
    /// Whether there was one
    pub ran: AtomicBool,
    /// Messages that were sent
    pub messages: AtomicU64,
    /// Connections and templates in them
    pub entries: AtomicU64,
    /// Messages that could not be sent
    pub failed: AtomicU64,
    /// Times that a connection was not told of as the protocol has no words for
    /// it
    pub left_out: AtomicU64,
    /// Changes that workers had no room to tell, each made good by telling
    /// everything
    pub overflowed: AtomicU64,
}

/// What a backup heard.
#[derive(Debug, Default)]
pub struct Heard {
    /// Whether there was one
    pub ran: AtomicBool,
    /// Messages of its sync id
    pub messages: AtomicU64,
    /// Connections and templates in them
    pub entries: AtomicU64,
    /// Messages of another sync id
    pub other_id: AtomicU64,
    /// Messages that could not be read, or not to their end
    pub malformed: AtomicU64,
    /// Entries with an option that is not known
    pub unknown_option: AtomicU64,
    /// Entries that were kept out, by their [`KeptOut`]
    pub kept_out: [AtomicU64; KeptOut::ALL.len()],
    /// Entries that workers took
    pub taken: AtomicU64,
    /// Entries of connections that are this director's own
    pub own: AtomicU64,
    /// Entries that there was no room for
    pub full: AtomicU64,
    /// Messages that the socket had no room for: larger with `sync_sock_size`, and
    /// `net.core.rmem_max`, which bounds it
    pub overflowed: AtomicU64,
}

/// Adds to a counter that one thread writes.
pub(super) fn add(counter: &AtomicU64, number: u64) {
    counter.fetch_add(number, Relaxed);
}

fn of(counter: &AtomicU64) -> u64 {
    counter.load(Relaxed)
}

impl Sent {
    /// For `sluice status`.
    pub fn status(&self) -> Value {
        json!({
            "messages": of(&self.messages),
            "entries": of(&self.entries),
            "failed": of(&self.failed),
            "left_out": of(&self.left_out),
            "overflowed": of(&self.overflowed),
        })
    }
}

impl Heard {
    /// For `sluice status`.
    pub fn status(&self) -> Value {
        let kept_out: serde_json::Map<_, _> = KeptOut::ALL
            .iter()
            .zip(&self.kept_out)
            .map(|(reason, count)| (reason.to_string(), of(count).into()))
            .collect();
        json!({
            "messages": of(&self.messages),
            "entries": of(&self.entries),
            "other_id": of(&self.other_id),
            "malformed": of(&self.malformed),
            "unknown_option": of(&self.unknown_option),
            "taken": of(&self.taken),
            "own": of(&self.own),
            "full": of(&self.full),
            "overflowed": of(&self.overflowed),
            "kept_out": kept_out,
        })
    }

    pub(super) fn keep_out(&self, reason: KeptOut) {
        add(&self.kept_out[reason as usize], 1);
    }
}
