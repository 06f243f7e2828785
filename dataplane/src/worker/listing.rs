//! Listing all connections, a slice between two bursts.

use crossbeam::channel::{Sender, TrySendError};

use super::flow::{Flows, View};
use crate::conn::timer::TICKS_PER_SECOND;
use crate::conn::{ConnectionRecord, Entry, EntryId};
use crate::service::Method;

/// Entries looked at in one go.
const SLICE: EntryId = 256;

/// A listing under way.
pub(super) struct Listing {
    next: EntryId,
    slice: Vec<ConnectionRecord>,
    answer: Sender<Vec<ConnectionRecord>>,
}

impl Listing {
    pub(super) fn new(answer: Sender<Vec<ConnectionRecord>>) -> Self {
        Listing { next: 0, slice: Vec::new(), answer }
    }

    /// Goes on; returns false at the end. Connections that come and go
    /// meanwhile may be in it or not.
    pub(super) fn proceed(&mut self, flows: &Flows, _view: &View, now: u32) -> bool {
        if self.slice.is_empty() {
            let end = flows.table.high_water().min(self.next.saturating_add(SLICE));
            for id in self.next..end {
                if let Some(entry) = flows.table.get(id) {
                    let left = flows.wheel.deadline(id).unwrap_or(now).saturating_sub(now);
                    self.slice.push(record(entry, left / TICKS_PER_SECOND));
                }
            }
            self.next = end;
        }
        let at_end = self.next >= flows.table.high_water();
        if self.slice.is_empty() {
            return !at_end;
        }
        match self.answer.try_send(std::mem::take(&mut self.slice)) {
            Ok(()) => !at_end,
            Err(TrySendError::Full(slice)) => {
                self.slice = slice;
                true
            }
            Err(TrySendError::Disconnected(_)) => false,
        }
    }
}

fn record(entry: &Entry, expires: u32) -> ConnectionRecord {
    let Entry { client, server, .. } = entry;
    ConnectionRecord {
        protocol: client.protocol,
        expires,
        state: entry.state.name(),
        client: (client.source, client.source_port),
        service: (client.destination, client.destination_port),
        local: (entry.method == Method::FullNat).then_some((server.destination, server.destination_port)),
        server: (server.source, server.source_port),
        method: entry.method,
    }
}
