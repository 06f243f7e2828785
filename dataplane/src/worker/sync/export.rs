//! Telling listeners of connections and templates.

use std::sync::Arc;

use super::super::flow::{Flows, View};
use super::{CHANGED, GRACE};
use super::{EPOCH, FOREIGN, OVERDUE, Syncing, TOLD};
use crate::conn::timer::{TICKS_PER_SECOND, ticks};
use crate::conn::{EntryId, NO_TEMPLATE, State, TemplateId};
use crate::service::Method;
use crate::sync::{Change, Record, Session, Tap, TemplateRecord, What};

/// Connections or templates of a transfer that are looked at between two bursts.
const SLICE: u32 = 128;

/// Seconds in which all connections are looked at once, and those that had
/// packets meanwhile are told anew.
const ROUND: u32 = 30;

/// Connections that are looked at for that between two bursts.
const REFRESHED: u32 = 32;

/// A listener, and how far it has been told everything.
pub(super) struct Following {
    pub(super) tap: Arc<Tap>,
    transfer: u64,
    place: Place,
}

/// Where a transfer is.
#[derive(Clone, Copy)]
enum Place {
    Nowhere,
    Templates(u32),
    Sessions(EntryId),
    End,
}

impl Following {
    pub(super) fn new(tap: Arc<Tap>) -> Self {
        Following { tap, transfer: 0, place: Place::Nowhere }
    }
}

/// Where the round is in which connections with packets are told anew.
#[derive(Default)]
pub(super) struct Refresh {
    tick: u32,
    due: u32,
    next: u32,
    template_due: u32,
    next_template: u32,
}

impl Syncing {
    /// Whether it is this worker's to tell of: not while the peer does.
    fn is_told(&self, mark: u8) -> bool {
        matches!(mark & EPOCH, 0 | FOREIGN) || !self.peer.live
    }

    fn all_have_room(&self) -> bool {
        self.followings.iter().all(|following| following.tap.has_room())
    }
}

/// Whether others are to know of a connection in this state: not before it is
/// established (`ip_vs_sync_conn_needed`).
fn concerns_others(state: State) -> bool {
    match state {
        State::None | State::SynSent | State::SynRecv | State::SynAck => false,
        state if state.is_of_sctp() => state >= State::SctpEstablished,
        _ => true,
    }
}

impl Flows {
    /// What is to be done for synchronisation between two bursts; returns
    /// whether something was.
    #[inline]
    pub(in crate::worker) fn tell_changes(&mut self, view: &View, clock: u64, now: u32) -> bool {
        self.sync.clock = clock;
        if !self.sync.on || self.sync.followings.is_empty() {
            return false;
        }
        self.tell_all(view, now)
    }

    #[cold]
    fn tell_all(&mut self, view: &View, now: u32) -> bool {
        let mut busy = !self.sync.sessions.changed.is_empty();
        let mut changed = std::mem::take(&mut self.sync.templates.changed);
        for id in changed.drain(..) {
            if self.sync.templates.get(id) & CHANGED != 0 {
                self.sync.templates.marks[id as usize] &= !CHANGED;
                self.tell_template(view, id, now);
            }
        }
        self.sync.templates.changed = changed;
        let mut changed = std::mem::take(&mut self.sync.sessions.changed);
        for id in changed.drain(..) {
            // Without the mark, another has its number since.
            if self.sync.sessions.get(id) & CHANGED != 0 {
                self.sync.sessions.marks[id as usize] &= !CHANGED;
                self.tell_session(view, id, now);
            }
        }
        self.sync.sessions.changed = changed;
        self.refresh(view, now);
        let mut followings = std::mem::take(&mut self.sync.followings);
        followings.retain(|following| !following.tap.is_closed());
        for following in &mut followings {
            busy |= self.transfer(view, following, now);
        }
        self.sync.followings = followings;
        self.sync.update();
        busy
    }

    fn tell_session(&mut self, view: &View, id: EntryId, now: u32) {
        if !self.sync.is_told(self.sync.sessions.get(id)) {
            return;
        }
        if let Some(session) = self.session(view, id, now) {
            self.sync.sessions.set(id, TOLD);
            self.sync.tell(&Record::Session(session));
        }
    }

    fn tell_template(&mut self, view: &View, id: u32, now: u32) {
        if !self.sync.is_told(self.sync.templates.get(id)) {
            return;
        }
        if let Some(template) = self.template_record(view, id, now) {
            self.sync.templates.set(id, TOLD);
            self.sync.tell(&Record::Template(template));
        }
    }

    /// A connection as others are told of it, if they are to know.
    fn session(&self, view: &View, id: EntryId, now: u32) -> Option<Session> {
        let entry = self.table.get(id)?;
        // Who was told before has to know that it is opened anew.
        let known = self.sync.sessions.get(id) & TOLD != 0;
        if entry.one_packet || !known && !concerns_others(entry.state) {
            return None;
        }
        let (client, server) = (entry.client, entry.server);
        // A flow that came to another queue when it began anew is that worker's.
        if self.owners.is_outdated(&client, self.worker) {
            return None;
        }
        Some(Session {
            client,
            service: view.services.server(entry.server_id)?.service_key,
            server: (server.source, server.source_port),
            local: (entry.method == Method::FullNat).then_some((server.destination, server.destination_port)),
            method: entry.method,
            state: entry.state,
            expires: left(self.table.deadline(id)?, now),
            packets: entry.packets,
            persistent: entry.template != NO_TEMPLATE,
            ftp: entry.ftp,
            control: self.ftp.adjustments(id),
        })
    }

    fn template_record(&self, view: &View, id: u32, now: u32) -> Option<TemplateRecord> {
        let (id, template, deadline) = self.templates.at(id)?;
        // One that was put away is found no more, here or elsewhere.
        if !template.is_found() {
            return None;
        }
        Some(TemplateRecord {
            key: template.key,
            service: view.services.server(template.server_id)?.service_key,
            server: template.server,
            method: template.method,
            timeout: template.timeout,
            expires: left(deadline, now),
            assured: template.assured,
            call: self.templates.call(id).map(Box::from),
        })
    }

    /// Takes note that a template is over, or is to be found no more.
    pub(in crate::worker) fn template_gone(&mut self, id: TemplateId) {
        if !self.sync.on || self.sync.templates.forget(id.number()) & TOLD == 0 {
            return;
        }
        let Some(template) = self.templates.get(id) else { return };
        let record = Record::TemplateGone(template.key, self.templates.call(id).map(Box::from));
        self.sync.tell(&record);
    }

    /// Goes on telling a listener everything.
    fn transfer(&mut self, view: &View, following: &mut Following, now: u32) -> bool {
        let wanted = following.tap.wanted();
        if wanted != following.transfer {
            (following.transfer, following.place) = (wanted, Place::Templates(0));
        }
        if matches!(following.place, Place::Nowhere) || !following.tap.has_room() {
            return false;
        }
        let at = self.sync.clock;
        let push = |what| following.tap.push(Change { at, what });
        following.place = match following.place {
            Place::Nowhere => Place::Nowhere,
            Place::Templates(mut next) => {
                let most = self.templates.high_water();
                let end = most.min(next.saturating_add(SLICE));
                while next < end {
                    let told = self.sync.is_told(self.sync.templates.get(next));
                    if let (true, Some(record)) = (told, self.template_record(view, next, now)) {
                        if !push(What::Record(Record::Template(record))) {
                            break;
                        }
                        self.sync.templates.set(next, TOLD);
                    }
                    next += 1;
                }
                if next >= most { Place::Sessions(0) } else { Place::Templates(next) }
            }
            Place::Sessions(mut next) => {
                let most = self.table.high_water();
                let end = most.min(next.saturating_add(SLICE));
                while next < end {
                    let told = self.sync.is_told(self.sync.sessions.get(next));
                    if let (true, Some(session)) = (told, self.session(view, next, now)) {
                        if !push(What::Record(Record::Session(session))) {
                            break;
                        }
                        self.sync.sessions.set(next, TOLD);
                    }
                    next += 1;
                }
                if next >= most { Place::End } else { Place::Sessions(next) }
            }
            Place::End if push(What::End(following.transfer)) => Place::Nowhere,
            Place::End => Place::End,
        };
        true
    }

    /// Tells those anew that had packets since the last round, so that they live
    /// as long elsewhere as they do here.
    fn refresh(&mut self, view: &View, now: u32) {
        let (sessions, templates) = (self.table.high_water(), self.templates.high_water());
        let passed = now.saturating_sub(self.sync.refresh.tick).min(ticks(ROUND));
        if passed > 0 {
            let share =
                |all: u32| (u64::from(all) * u64::from(passed)).div_ceil(u64::from(ticks(ROUND))) as u32;
            let refresh = &mut self.sync.refresh;
            refresh.tick = now;
            refresh.due = refresh.due.saturating_add(share(sessions)).min(sessions);
            refresh.template_due = refresh.template_due.saturating_add(share(templates)).min(templates);
        }
        let Refresh { due, template_due, .. } = self.sync.refresh;
        // Who cannot follow as it is, is not told what it mostly knows.
        if due + template_due == 0 || !self.sync.all_have_room() {
            return;
        }
        for _ in 0..due.min(REFRESHED) {
            let id = self.sync.refresh.next % sessions;
            self.sync.refresh.next = id + 1;
            self.sync.refresh.due -= 1;
            let (Some(entry), Some(deadline)) = (self.table.get(id), self.table.deadline(id)) else {
                continue;
            };
            let Some(server) = view.services.server(entry.server_id) else { continue };
            let timeout = view.services.timeouts_of(server).seconds(entry.state);
            let untold = self.sync.sessions.get(id) & TOLD == 0;
            if untold || deadline.saturating_add(ticks(ROUND + 1)) > now.saturating_add(ticks(timeout)) {
                self.tell_session(view, id, now);
            }
        }
        for _ in 0..template_due.min(REFRESHED) {
            let id = self.sync.refresh.next_template % templates;
            self.sync.refresh.next_template = id + 1;
            self.sync.refresh.template_due -= 1;
            let Some((_, template, deadline)) = self.templates.at(id) else { continue };
            let untold = self.sync.templates.get(id) & TOLD == 0;
            if untold
                || deadline.saturating_add(ticks(ROUND + 1)) > now.saturating_add(ticks(template.timeout))
            {
                self.tell_template(view, id, now);
            }
        }
    }

    /// Whether a connection whose time is over is the peer's, which will say
    /// whether it is: it may have had packets there lately.
    pub(in crate::worker) fn awaits_word(&mut self, id: EntryId, now: u32) -> bool {
        let awaits = self.sync.on && self.sync.awaits(self.sync.sessions.get(id));
        if awaits {
            self.sync.sessions.set(id, OVERDUE);
            self.table.schedule(id, super::super::flow::deadline(now, GRACE));
        }
        awaits
    }

    /// The same for a template.
    pub(in crate::worker) fn template_outlives(&mut self, id: TemplateId, now: u32) -> bool {
        let awaits = self.sync.on && self.sync.awaits(self.sync.templates.get(id.number()));
        if awaits {
            self.sync.templates.set(id.number(), OVERDUE);
            self.templates.prolong(id, GRACE, now);
        }
        awaits
    }
}

impl Syncing {
    fn awaits(&self, mark: u8) -> bool {
        self.peer.live && !matches!(mark & EPOCH, 0 | FOREIGN) && mark & OVERDUE == 0
    }
}

/// Whole seconds until a deadline.
fn left(deadline: u32, now: u32) -> u32 {
    deadline.saturating_sub(now) / TICKS_PER_SECOND
}
