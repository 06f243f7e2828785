//! Session synchronisation, a worker's part: it tells listeners of its
//! connections, and takes those that it is told of. See [`crate::sync`].
//!
//! What is told here and what was told from elsewhere is kept in a byte for each
//! connection, apart from the table: with nobody to tell, it is not looked at.
//!
//! A connection is this worker's own, or a peer's that goes on telling of it.
//! The first packet that comes by makes it its own. Should the other say so too,
//! which of them saw a packet more recently has it ([`FRESHER`]).

mod export;
mod import;

use std::sync::Arc;

use super::owners::Owners;
use super::{Worker, tick};
use crate::conn::{EntryId, NO_TEMPLATE, TemplateId, Tuple};
use crate::port::Port;
use crate::sync::{Change, Record, Tap, What};
use export::{Following, Refresh};
use import::{Import, Peer};

/// Which transfer of the peer named it last; 0 for one's own.
const EPOCH: u8 = 0x0f;
/// In place of a transfer's number: the one who told of it says no more.
const FOREIGN: u8 = 0x0f;
/// It is in the list of what is to be told.
const CHANGED: u8 = 0x10;
/// Its time was over, and the peer was given a while to say so.
const OVERDUE: u8 = 0x40;
/// It was told to listeners, and so must its end be.
const TOLD: u8 = 0x80;

/// Seconds by which the other must have seen a packet later to have the
/// connection. Less would let it change hands with every packet where both
/// get packets; a takeover takes longer.
const FRESHER: u32 = 2;

/// Seconds that the peer is given to say that a connection is over, or goes on.
const GRACE: u32 = 60;

/// What is to be known of all connections, or all templates.
struct Marks {
    marks: Vec<u8>,
    /// What is to be told, each marked [`CHANGED`]
    changed: Vec<u32>,
    /// Those that are the peer's, or another's
    imported: usize,
}

impl Marks {
    fn new(capacity: usize) -> Self {
        // Zeroed memory that the kernel provides as it is used.
        Marks { marks: vec![0; capacity], changed: Vec::with_capacity(capacity), imported: 0 }
    }

    fn get(&self, id: u32) -> u8 {
        self.marks.get(id as usize).copied().unwrap_or(0)
    }

    fn set(&mut self, id: u32, bits: u8) {
        if let Some(mark) = self.marks.get_mut(id as usize) {
            *mark |= bits;
        }
    }

    /// Takes note that it changed, or that it had a packet, which makes it
    /// one's own; either is to be told if somebody listens. Without, nothing is
    /// put into the list, which nobody would empty.
    #[inline]
    fn note(&mut self, id: u32, changed: bool, listened: bool) {
        let Some(mark) = self.marks.get_mut(id as usize) else { return };
        let others = *mark & EPOCH != 0;
        if others {
            self.imported -= 1;
            *mark &= !(EPOCH | OVERDUE);
        }
        if listened && (others || changed) && *mark & CHANGED == 0 {
            *mark |= CHANGED;
            self.changed.push(id);
        }
    }

    /// Takes note that this transfer named it.
    fn confirm(&mut self, id: u32, epoch: u8) {
        let Some(mark) = self.marks.get_mut(id as usize) else { return };
        self.imported += usize::from(*mark & EPOCH == 0 && epoch != 0);
        // Whether it was told is the other's business from now on.
        let stays = if epoch == 0 { !(EPOCH | OVERDUE) } else { 0 };
        *mark = *mark & stays | epoch;
    }

    /// Makes it one's own; returns whether it was not.
    fn adopt(&mut self, id: u32) -> bool {
        let Some(mark) = self.marks.get_mut(id as usize) else { return false };
        let others = *mark & EPOCH != 0;
        self.imported -= usize::from(others);
        *mark &= !(EPOCH | OVERDUE);
        others
    }

    /// Forgets it; returns what was known.
    fn forget(&mut self, id: u32) -> u8 {
        let mark = self.marks.get_mut(id as usize).map_or(0, std::mem::take);
        self.imported -= usize::from(mark & EPOCH != 0);
        mark
    }
}

/// Synchronisation of one worker.
pub(super) struct Syncing {
    /// Whether anything is to be looked at
    on: bool,
    /// Whether a listener is to take this process's place
    succeeded: bool,
    followings: Vec<Following>,
    sessions: Marks,
    templates: Marks,
    peer: Peer,
    import: Option<Import>,
    refresh: Refresh,
    /// The worker's clock at the beginning of this round, nanoseconds
    clock: u64,
}

impl<P: Port> Worker<P> {
    /// Goes on with synchronisation, by a bounded portion; returns whether there
    /// was anything to do.
    pub(super) fn synchronise(&mut self, now: u64) -> bool {
        let exchange = &self.exchanges[self.settings.worker];
        let took = self.flows.take_imports(&self.view, exchange, tick(now));
        self.flows.tell_changes(&self.view, now, tick(now)) || took
    }
}

impl Syncing {
    pub(super) fn new(capacity: usize) -> Self {
        Syncing {
            on: false,
            succeeded: false,
            followings: Vec::new(),
            sessions: Marks::new(capacity),
            templates: Marks::new(capacity),
            peer: Peer::default(),
            import: None,
            refresh: Refresh::default(),
            clock: 0,
        }
    }

    /// Whether [`Syncing::packet`] is to be called.
    #[inline]
    pub(super) fn is_on(&self) -> bool {
        self.on
    }

    fn update(&mut self) {
        let imported = self.sessions.imported + self.templates.imported > 0;
        self.on = !self.followings.is_empty() || imported;
        self.succeeded = self.followings.iter().any(|following| following.tap.is_successors());
    }

    /// Takes note of a packet of a connection that was made by `template`, and
    /// whether that is to be told.
    #[inline]
    pub(super) fn packet(&mut self, id: EntryId, template: TemplateId, changed: bool) {
        if changed && template != NO_TEMPLATE {
            self.used_template(template);
        }
        if changed || self.sessions.imported > 0 {
            self.sessions.note(id, changed, !self.followings.is_empty());
        }
    }

    /// Takes note that a connection is carried by the kernel from now on. That is told
    /// to a successor alone.
    pub(super) fn carried(&mut self, id: EntryId) {
        if self.succeeded {
            self.sessions.note(id, true, true);
        }
    }

    /// Takes note that a connection is made by a template.
    #[inline]
    pub(super) fn used_template(&mut self, id: TemplateId) {
        if self.on {
            self.templates.note(id.number(), true, !self.followings.is_empty());
        }
    }

    /// Takes note that the connection with this tuple is over, or that its tuple
    /// becomes another.
    #[inline]
    pub(super) fn gone(&mut self, id: EntryId, client: &Tuple, owners: &Owners, worker: usize) {
        if self.on {
            self.session_gone(id, client, owners, worker);
        }
    }

    #[cold]
    fn session_gone(&mut self, id: EntryId, client: &Tuple, owners: &Owners, worker: usize) {
        let mark = self.sessions.forget(id);
        // One that another worker began since has not ended.
        if mark & TOLD != 0 && !owners.is_outdated(client, worker) {
            self.tell(Record::SessionGone(*client), mark & EPOCH == FOREIGN);
        }
    }

    /// Takes note that a connection was told of; one's own is news to listeners.
    fn took_session(&mut self, id: EntryId, epoch: u8) {
        self.sessions.confirm(id, epoch);
        if epoch == 0 {
            self.sessions.note(id, true, !self.followings.is_empty());
        }
    }

    /// The same of a template.
    fn took_template(&mut self, id: TemplateId, epoch: u8) {
        self.templates.confirm(id.number(), epoch);
        if epoch == 0 {
            self.templates.note(id.number(), true, !self.followings.is_empty());
        }
    }

    fn tell(&mut self, record: Record, foreign: bool) {
        let tell = |tap: &Tap, record| {
            if !tap.push(Change { at: self.clock, foreign, what: What::Record(record) }) {
                tap.lose();
            }
        };
        // There is mostly one, for which nothing is copied.
        if let Some((last, others)) = self.followings.split_last() {
            others.iter().for_each(|following| tell(&following.tap, record.clone()));
            tell(&last.tap, record);
        }
    }

    /// Tells another listener from now on.
    pub(super) fn follow(&mut self, tap: Arc<Tap>) {
        self.followings.push(Following::new(tap));
        self.update();
    }
}
