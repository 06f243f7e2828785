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
    sessions: Share,
    templates: Share,
}

/// How much of a round is due.
#[derive(Default)]
struct Share {
    /// To be looked at by now
    due: u32,
    /// Where it goes on
    next: u32,
    /// What is left of a division: few that are looked at in a round would else be
    /// looked at all the time, or never
    rest: u64,
}

impl Share {
    /// Takes note that so many ticks have passed, with so many to be looked at in a
    /// round of so many.
    fn pass(&mut self, all: u32, ticks_passed: u32, round: u32) {
        let round = u64::from(round.max(1));
        let sum = self.rest + u64::from(all) * u64::from(ticks_passed);
        self.rest = sum % round;
        self.due = self.due.saturating_add(u32::try_from(sum / round).unwrap_or(all)).min(all);
    }

    /// The next to be looked at, of so many.
    fn take(&mut self, all: u32) -> Option<u32> {
        self.due = self.due.checked_sub(1)?;
        let id = self.next.checked_rem(all)?;
        self.next = id + 1;
        Some(id)
    }
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
        let mark = self.sync.sessions.get(id);
        if !self.sync.is_told(mark) {
            return;
        }
        if let Some(session) = self.session(view, id, now) {
            self.sync.sessions.set(id, TOLD);
            self.sync.tell(Record::Session(session), mark & EPOCH == FOREIGN);
        }
    }

    fn tell_template(&mut self, view: &View, id: u32, now: u32) {
        let mark = self.sync.templates.get(id);
        if !self.sync.is_told(mark) {
            return;
        }
        if let Some(template) = self.template_record(view, id, now) {
            self.sync.templates.set(id, TOLD);
            self.sync.tell(Record::Template(template), mark & EPOCH == FOREIGN);
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
            expires: left(self.expiry(&view.services, id)?, now),
            packets: entry.packets,
            persistent: entry.template != NO_TEMPLATE,
            ftp: entry.ftp,
            control: self.ftp.adjustments(id),
            carried: self.sync.succeeded && self.is_carried(id),
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
        if !self.sync.on {
            return;
        }
        let mark = self.sync.templates.forget(id.number());
        if mark & TOLD == 0 {
            return;
        }
        let Some(template) = self.templates.get(id) else { return };
        let record = Record::TemplateGone(template.key, self.templates.call(id).map(Box::from));
        self.sync.tell(record, mark & EPOCH == FOREIGN);
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
        let push = |foreign, what| following.tap.push(Change { at, foreign, what });
        following.place = match following.place {
            Place::Nowhere => Place::Nowhere,
            Place::Templates(mut next) => {
                let most = self.templates.high_water();
                let end = most.min(next.saturating_add(SLICE));
                while next < end {
                    let mark = self.sync.templates.get(next);
                    let (told, foreign) = (self.sync.is_told(mark), mark & EPOCH == FOREIGN);
                    if let (true, Some(record)) = (told, self.template_record(view, next, now)) {
                        if !push(foreign, What::Record(Record::Template(record))) {
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
                    let mark = self.sync.sessions.get(next);
                    let (told, foreign) = (self.sync.is_told(mark), mark & EPOCH == FOREIGN);
                    if let (true, Some(session)) = (told, self.session(view, next, now)) {
                        if !push(foreign, What::Record(Record::Session(session))) {
                            break;
                        }
                        self.sync.sessions.set(next, TOLD);
                    }
                    next += 1;
                }
                if next >= most { Place::End } else { Place::Sessions(next) }
            }
            Place::End if push(false, What::End(following.transfer)) => Place::Nowhere,
            Place::End => Place::End,
        };
        true
    }

    /// Looks at all once in a round, and tells those anew that had packets since the
    /// last, so that they live as long elsewhere as they do here.
    fn refresh(&mut self, view: &View, now: u32) {
        let round = view.services.tunables().sync_refresh();
        let (sessions, templates) = (self.table.high_water(), self.templates.high_water());
        let passed = now.saturating_sub(self.sync.refresh.tick).min(ticks(round));
        if passed > 0 {
            let refresh = &mut self.sync.refresh;
            refresh.tick = now;
            refresh.sessions.pass(sessions, passed, ticks(round));
            refresh.templates.pass(templates, passed, ticks(round));
        }
        let (due, template_due) = (self.sync.refresh.sessions.due, self.sync.refresh.templates.due);
        // Who cannot follow as it is, is not told what it mostly knows.
        if due + template_due == 0 || !self.sync.all_have_room() {
            return;
        }
        for _ in 0..due.min(REFRESHED) {
            let Some(id) = self.sync.refresh.sessions.take(sessions) else { break };
            let (Some(entry), Some(deadline)) = (self.table.get(id), self.expiry(&view.services, id)) else {
                continue;
            };
            let Some(server) = view.services.server(entry.server_id) else { continue };
            let timeout = view.services.timeouts_of(server).seconds(entry.state);
            let untold = self.sync.sessions.get(id) & TOLD == 0;
            if untold || deadline.saturating_add(ticks(round + 1)) > now.saturating_add(ticks(timeout)) {
                self.tell_session(view, id, now);
            }
        }
        for _ in 0..template_due.min(REFRESHED) {
            let Some(id) = self.sync.refresh.templates.take(templates) else { break };
            let Some((_, template, deadline)) = self.templates.at(id) else { continue };
            let untold = self.sync.templates.get(id) & TOLD == 0;
            if untold
                || deadline.saturating_add(ticks(round + 1)) > now.saturating_add(ticks(template.timeout))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_many_there_are_each_is_looked_at_once_in_a_round() {
        for all in [1, 7, 1000, 100_003] {
            let mut share = Share::default();
            let mut seen = vec![0; all as usize];
            for _ in 0..ticks(30) {
                share.pass(all, 1, ticks(30));
                while let Some(id) = share.take(all) {
                    seen[id as usize] += 1;
                }
            }
            assert!(seen.iter().all(|times| *times == 1), "of {all}");
        }
    }

    #[test]
    fn nothing_is_looked_at_where_nothing_is() {
        let mut share = Share::default();
        share.pass(0, ticks(30), ticks(30));
        assert_eq!(share.take(0), None);
    }
}
