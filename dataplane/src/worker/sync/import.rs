//! Taking connections and templates that others told of.

use std::sync::Arc;

use super::super::exchange::Exchange;
use super::super::flow::{Flows, View, deadline};
use super::super::persist;
use super::{EPOCH, FOREIGN, FRESHER};
use crate::conn::timer::TICKS_PER_SECOND;
use crate::conn::{Entry, EntryId, NO_TEMPLATE, Side, Template, TemplateId, TemplateKey, Tuple};
use crate::forward::Plan;
use crate::ftp::Role;
use crate::service::{FTP, FtpPorts, Method, ServerId};
use crate::sync::{Record, Report, Session, Source, Step, TemplateRecord};
use crate::wire::Address;

/// Records that are taken between two bursts.
const SLICE: usize = 64;

/// Marks that are looked at in one go for what a peer has told no more.
const SCANNED: u32 = 4096;

/// Of those, connections that are ended in one go.
const ENDED: usize = 64;

/// What the worker is being told.
pub(super) struct Import {
    source: Source,
    report: Arc<Report>,
    doing: Doing,
}

enum Doing {
    Taking(std::vec::IntoIter<Record>),
    /// All that was the peer's becomes one's own, and then it begins
    Adopting {
        next: u32,
        templates: bool,
        any: bool,
    },
    /// What the peer did not name is over
    Ending {
        next: u32,
        templates: bool,
    },
}

/// What is known of the peer.
#[derive(Default)]
pub(super) struct Peer {
    /// Whether it goes on telling
    pub(super) live: bool,
    instance: u64,
    /// Number of its present transfer, as it is in marks
    epoch: u8,
}

impl Peer {
    fn next_epoch(&mut self) {
        self.epoch = self.epoch % (FOREIGN - 1) + 1;
    }
}

/// Why a record was not taken.
enum Refused {
    Own,
    Unknown,
    Port,
    Full,
}

impl Flows {
    /// Does a bounded portion of what others told; returns whether there was
    /// any.
    #[inline]
    pub(in crate::worker) fn take_imports(&mut self, view: &View, exchange: &Exchange, now: u32) -> bool {
        if self.sync.import.is_none() && exchange.imports.is_empty() {
            return false;
        }
        let import = match self.sync.import.take() {
            Some(import) => import,
            None => match exchange.imports.pop() {
                Some(crate::sync::Import { source, step, report }) => match self.start(source, step) {
                    Some(doing) => Import { source, report, doing },
                    None => {
                        report.finish();
                        return true;
                    }
                },
                None => return false,
            },
        };
        self.go_on(view, import, now);
        self.sync.update();
        true
    }

    fn start(&mut self, source: Source, step: Step) -> Option<Doing> {
        let peer = &mut self.sync.peer;
        match step {
            Step::Records(records) => Some(Doing::Taking(records.into_iter())),
            _ if source != Source::Peer => None,
            Step::Begin { instance } if peer.instance == instance => {
                peer.next_epoch();
                peer.live = true;
                None
            }
            Step::Begin { instance } => {
                peer.instance = instance;
                peer.live = false;
                Some(Doing::Adopting { next: 0, templates: false, any: false })
            }
            Step::End => Some(Doing::Ending { next: 0, templates: false }),
            Step::Lost => {
                peer.live = false;
                None
            }
        }
    }

    fn go_on(&mut self, view: &View, mut import: Import, now: u32) {
        let through = match &mut import.doing {
            Doing::Taking(records) => {
                for record in records.by_ref().take(SLICE) {
                    let result = self.take(view, &record, import.source, now);
                    import.report.count(|report| match result {
                        Ok(()) => &report.taken,
                        Err(Refused::Own) => &report.own,
                        Err(Refused::Unknown) => &report.unknown,
                        Err(Refused::Port) => &report.port,
                        Err(Refused::Full) => &report.full,
                    });
                }
                records.len() == 0
            }
            Doing::Adopting { next, templates, any } => {
                let marks = if *templates { &mut self.sync.templates } else { &mut self.sync.sessions };
                let most = if *templates { self.templates.high_water() } else { self.table.high_water() };
                let end = most.min(next.saturating_add(SCANNED));
                for id in *next..end {
                    if marks.get(id) & EPOCH != FOREIGN {
                        *any |= marks.adopt(id);
                    }
                }
                *next = end;
                let at_end = end == most;
                if at_end && !*templates {
                    (*next, *templates) = (0, true);
                    false
                } else {
                    if at_end {
                        self.sync.peer.next_epoch();
                        self.sync.peer.live = true;
                        // Listeners were not told of what was the peer's.
                        if *any {
                            self.sync.followings.iter().for_each(|following| following.tap.lose());
                        }
                    }
                    at_end
                }
            }
            Doing::Ending { next, templates } => {
                let (from, of_templates) = (*next, *templates);
                let end = self.end_unnamed(view, from, of_templates, now);
                let most = if of_templates { self.templates.high_water() } else { self.table.high_water() };
                *next = end;
                // Connections come first, as a template with any has to stay.
                if end >= most && !of_templates {
                    (*next, *templates) = (0, true);
                    false
                } else {
                    end >= most
                }
            }
        };
        if through {
            import.report.finish();
        } else {
            self.sync.import = Some(import);
        }
    }

    /// Ends connections, or templates, from a number on that the peer had named
    /// before and has not now; returns how far it got.
    fn end_unnamed(&mut self, view: &View, from: u32, templates: bool, now: u32) -> u32 {
        let (most, epoch) = match templates {
            true => (self.templates.high_water(), self.sync.peer.epoch),
            false => (self.table.high_water(), self.sync.peer.epoch),
        };
        let end = most.min(from.saturating_add(SCANNED));
        let mut ended = 0;
        for id in from..end {
            let marks = if templates { &self.sync.templates } else { &self.sync.sessions };
            let named = marks.get(id) & EPOCH;
            if named == 0 || named == FOREIGN || named == epoch {
                continue;
            }
            if templates {
                self.end_told_template(view, id, now);
            } else {
                self.expire(view, id);
            }
            ended += 1;
            if ended == ENDED {
                return id + 1;
            }
        }
        end
    }

    fn take(&mut self, view: &View, record: &Record, source: Source, now: u32) -> Result<(), Refused> {
        match record {
            Record::Session(session) => self.take_session(view, session, source, now),
            Record::SessionGone(client) => {
                if let Some(id) = self.of_client(client) {
                    if self.sync.sessions.get(id) & EPOCH == 0 {
                        return Err(Refused::Own);
                    }
                    self.expire(view, id);
                }
                Ok(())
            }
            Record::Template(template) => self.take_template(view, template, source, now),
            Record::TemplateGone(key, call) => {
                if let Some(id) = self.template_of(key, call.as_deref()) {
                    if self.sync.templates.get(id.number()) & EPOCH == 0 {
                        return Err(Refused::Own);
                    }
                    self.end_told_template(view, id.number(), now);
                }
                Ok(())
            }
        }
    }

    fn of_client(&self, client: &Tuple) -> Option<EntryId> {
        let (id, side) = self.table.find(client, self.table.hash(client))?;
        (side == Side::Client).then_some(id)
    }

    fn template_of(&self, key: &TemplateKey, call: Option<&[u8]>) -> Option<TemplateId> {
        match call {
            Some(call) => self.templates.find_call(key, call),
            None => self.templates.find(key),
        }
    }

    /// One with connections goes on until they are gone.
    fn end_told_template(&mut self, view: &View, number: u32, now: u32) {
        let Some((id, template, _)) = self.templates.at(number) else { return };
        if template.children > 0 {
            self.templates.prolong(id, 0, now);
        } else {
            self.end_template(view, id);
        }
    }

    /// The mark of what a source tells now.
    fn epoch(&self, source: Source) -> u8 {
        match source {
            Source::Peer => self.sync.peer.epoch,
            Source::Foreign => FOREIGN,
            Source::Former => 0,
        }
    }

    fn take_session(&mut self, view: &View, told: &Session, source: Source, now: u32) -> Result<(), Refused> {
        let epoch = self.epoch(source);
        let found = self.table.find(&told.client, self.table.hash(&told.client));
        if let Some((id, side)) = found {
            // As the answers of another connection: they cannot both be.
            if side == Side::Server {
                return Err(Refused::Own);
            }
            let Some(entry) = self.table.get(id) else { return Err(Refused::Own) };
            if self.sync.sessions.get(id) & EPOCH == 0 && !self.is_fresher(view, told, id, &entry, now) {
                return Err(Refused::Own);
            }
            if is_same(&entry, told) {
                self.update_session(view, id, told, epoch, now);
                self.inherit(view, id, told);
                return Ok(());
            }
            self.expire(view, id);
        }
        let id = self.make_session(view, told, epoch, now)?;
        self.inherit(view, id, told);
        Ok(())
    }

    /// Whether who tells of a connection of one's own saw a packet of it clearly
    /// later.
    fn is_fresher(&self, view: &View, told: &Session, id: EntryId, entry: &Entry, now: u32) -> bool {
        let Some(server) = view.services.server(entry.server_id) else { return true };
        let timeouts = view.services.timeouts_of(server);
        let left = self
            .expiry(&view.services, id)
            .map_or(0, |deadline| deadline.saturating_sub(now) / TICKS_PER_SECOND);
        let idle = timeouts.seconds(entry.state).saturating_sub(left);
        let its_idle = timeouts.seconds(told.state).saturating_sub(told.expires);
        its_idle + FRESHER < idle
    }

    fn update_session(&mut self, view: &View, id: EntryId, told: &Session, epoch: u8, now: u32) {
        let Some(entry) = self.table.get_mut(id) else { return };
        entry.state = told.state;
        entry.packets = told.packets;
        let server_id = entry.server_id;
        if told.state.is_active() != entry.active {
            entry.active = told.state.is_active();
            if let Some(server) = view.services.server(server_id) {
                let share = server.counters.share(self.worker);
                let (from, to) = match told.state.is_active() {
                    true => (&share.inactive, &share.active),
                    false => (&share.active, &share.inactive),
                };
                from.sub(1);
                to.add(1);
                self.movements.note(self.worker, server_id);
            }
        }
        self.table.schedule(id, deadline(now, told.expires));
        self.sync.took_session(id, epoch);
        if let (Role::Control, Some(control)) = (told.ftp, &told.control) {
            // Without room for it the connection goes on as far as it can.
            let _ = self.ftp.resume(id, control);
        }
    }

    fn make_session(&mut self, view: &View, told: &Session, epoch: u8, now: u32) -> Result<EntryId, Refused> {
        let Session { client, method, .. } = *told;
        let server_id = server_of(view, &told.service, told.server).ok_or(Refused::Unknown)?;
        let server = view.services.server(server_id).ok_or(Refused::Unknown)?;
        let service = view.services.service(server.service).ok_or(Refused::Unknown)?;
        if self.room() == 0 || told.ftp == Role::Expected && self.ftp.is_full() {
            return Err(Refused::Full);
        }
        let is_data = matches!(told.ftp, Role::Expected | Role::Data);
        let local = match (method, told.local) {
            (Method::FullNat, Some((lip, port))) => {
                let of_pool = (told.server.0, if is_data { 0 } else { told.server.1 });
                if !self.local_ports.claim(lip, port, of_pool, client.protocol) {
                    return Err(Refused::Port);
                }
                (lip, port)
            }
            (Method::FullNat, None) => return Err(Refused::Unknown),
            (Method::Nat | Method::DirectRoute | Method::Tunnel, _) => (client.source, client.source_port),
        };
        let template = match told.persistent {
            true => persist::key_of_client(service, &client).and_then(|key| self.templates.find(&key)),
            false => None,
        };
        let plan = Plan::new(method, client, told.server, local);
        let active = told.state.is_active();
        let entry = Entry {
            packets: told.packets,
            state: told.state,
            active,
            ftp: told.ftp,
            template: template.unwrap_or(NO_TEMPLATE),
            ..Entry::new(client, plan.server, plan.deltas(), server_id, method)
        };
        let Ok(id) = self.table.insert(entry) else {
            self.give_back(&if is_data { super::super::ftp::of_pool(entry) } else { entry });
            return Err(Refused::Full);
        };
        self.table.schedule(id, deadline(now, told.expires));
        self.templates.join(entry.template);
        // As in IPVS, it counts as the server's, but not as one that was
        // scheduled.
        let share = server.counters.share(self.worker);
        if active { &share.active } else { &share.inactive }.add(1);
        self.connections_changed(server_id, server);
        self.sync.took_session(id, epoch);
        self.owners.begun(&client, self.worker);
        match (told.ftp, &told.control) {
            (Role::Control, Some(control)) => {
                let _ = self.ftp.resume(id, control);
            }
            (Role::Expected | Role::Data, _) => {
                let listed = if told.server.1 != 0 { told.server.1 } else { FtpPorts::active(FTP) };
                if self.ftp.adopt(id, listed, told.ftp == Role::Expected).is_err() {
                    self.expire(view, id);
                    return Err(Refused::Full);
                }
            }
            (Role::None | Role::Control, _) => {}
        }
        Ok(id)
    }

    fn take_template(
        &mut self,
        view: &View,
        told: &TemplateRecord,
        source: Source,
        now: u32,
    ) -> Result<(), Refused> {
        let epoch = self.epoch(source);
        if let Some(id) = self.template_of(&told.key, told.call.as_deref()) {
            let Some((_, template, deadline)) = self.templates.at(id.number()) else {
                return Err(Refused::Own);
            };
            let left = deadline.saturating_sub(now) / TICKS_PER_SECOND;
            let own = self.sync.templates.get(id.number()) & EPOCH == 0;
            if own && told.expires <= left + FRESHER {
                return Err(Refused::Own);
            }
            if template.server == told.server && template.method == told.method {
                self.templates.renew(id, told.timeout, told.assured, told.expires, now);
                self.sync.took_template(id, epoch);
                return Ok(());
            }
            self.template_gone(id);
            self.templates.put_away(id);
        }
        let server_id = server_of(view, &told.service, told.server).ok_or(Refused::Unknown)?;
        let server = view.services.server(server_id).ok_or(Refused::Unknown)?;
        let template = Template {
            key: told.key,
            server_id,
            server: told.server,
            method: told.method,
            timeout: told.timeout,
            children: 0,
            assured: told.assured,
        };
        let made = match told.call.as_deref() {
            Some(call) => self.templates.insert_call(template, call, now),
            None => self.templates.insert(template, now),
        };
        let id = made.map_err(|_| Refused::Full)?;
        self.templates.prolong(id, told.expires, now);
        server.counters.share(self.worker).persistent.add(1);
        self.sync.took_template(id, epoch);
        Ok(())
    }
}

fn server_of(
    view: &View,
    service: &crate::service::ServiceKey,
    (address, port): (Address, u16),
) -> Option<ServerId> {
    let service = view.services.id_of(service)?;
    view.services.server_at(service, address, port)
}

/// Whether an entry goes the way that is told.
fn is_same(entry: &Entry, told: &Session) -> bool {
    let local = (entry.server.destination, entry.server.destination_port);
    entry.method == told.method
        && entry.ftp == told.ftp
        && (entry.server.source, entry.server.source_port) == told.server
        && (entry.method != Method::FullNat || told.local == Some(local))
}
