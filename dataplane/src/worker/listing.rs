//! Listing all connections, a slice between two bursts.

use std::sync::Arc;

use crossbeam::channel::{Sender, TrySendError};

use super::flow::Flows;
use crate::conn::timer::TICKS_PER_SECOND;
use crate::conn::{ConnectionFilter, ConnectionRecord, Entry, EntryId, Template, TemplateKey};
use crate::service::{Engine, Method, Protocol, ServerId, ServiceKey, ServiceTable};

/// Entries looked at in one go, for all listings together.
const SLICE: EntryId = 64;

/// A listing under way.
pub(super) struct Listing {
    filter: Arc<ConnectionFilter>,
    next: EntryId,
    /// The next template: they come after the connections
    next_template: u32,
    slice: Vec<ConnectionRecord>,
    answer: Sender<Vec<ConnectionRecord>>,
    over: bool,
}

impl Listing {
    pub(super) fn new(filter: Arc<ConnectionFilter>, answer: Sender<Vec<ConnectionRecord>>) -> Self {
        Listing { filter, next: 0, next_template: 0, slice: Vec::new(), answer, over: false }
    }

    /// Whether it can go on as soon as the worker has time, and need not wait
    /// for its reader.
    pub(super) fn is_ready(&self) -> bool {
        self.slice.is_empty()
    }

    /// Whether everything was sent, or nobody wants it any more.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Goes on. Connections that come and go meanwhile may be in it or not.
    /// Looks at entries only if `may_look`, and takes that off then.
    pub(super) fn proceed(&mut self, flows: &Flows, services: &ServiceTable, now: u32, may_look: &mut bool) {
        if self.slice.is_empty() && std::mem::take(may_look) {
            // All at once, rather than by growing.
            self.slice.reserve_exact(SLICE as usize);
            self.fill(flows, services, now);
        }
        let at_end =
            self.next >= flows.table.high_water() && self.next_template >= flows.templates.high_water();
        if self.slice.is_empty() {
            self.over = at_end;
            return;
        }
        match self.answer.try_send(std::mem::take(&mut self.slice)) {
            Ok(()) => self.over = at_end,
            Err(TrySendError::Full(slice)) => self.slice = slice,
            Err(TrySendError::Disconnected(_)) => self.over = true,
        }
    }

    fn fill(&mut self, flows: &Flows, services: &ServiceTable, now: u32) {
        let left = |deadline: u32| deadline.saturating_sub(now) / TICKS_PER_SECOND;
        let connections = flows.table.high_water();
        if self.next < connections {
            let end = connections.min(self.next.saturating_add(SLICE));
            for id in self.next..end {
                if let Some(entry) = flows.table.get(id).filter(|entry| self.filter.may_match(entry)) {
                    let mut record = record(entry, services, left(flows.wheel.deadline(id).unwrap_or(now)));
                    if let (0, Some(data)) = (record.server.1, flows.ftp.data(id)) {
                        record.server.1 = data.listed_port;
                    }
                    if self.filter.matches(&record) {
                        self.slice.push(record);
                    }
                }
            }
            self.next = end;
            return;
        }
        let end = flows.templates.high_water().min(self.next_template.saturating_add(SLICE));
        for number in self.next_template..end {
            if let Some((id, template, deadline)) = flows.templates.at(number) {
                let call = flows.templates.call(id);
                let engine = call.map(|call| (Engine::Sip.name(), call.into()));
                let record = template_record(template, services, left(deadline));
                if self.filter.matches(&record) {
                    self.slice.push(ConnectionRecord { engine, ..record });
                }
            }
        }
        self.next_template = end;
    }
}

fn template_record(template: &Template, services: &ServiceTable, expires: u32) -> ConnectionRecord {
    let TemplateKey { protocol, client, service, port } = template.key;
    ConnectionRecord {
        protocol: protocol.unwrap_or(Protocol::Tcp),
        expires,
        state: template.state(),
        client: (client, 0),
        service: (service, port),
        local: None,
        server: template.server,
        method: template.method,
        any_protocol: protocol.is_none(),
        mark: mark(services, template.server_id),
        engine: None,
    }
}

fn record(entry: &Entry, services: &ServiceTable, expires: u32) -> ConnectionRecord {
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
        any_protocol: false,
        mark: mark(services, entry.server_id),
        engine: None,
    }
}

/// The mark of a server's service.
fn mark(services: &ServiceTable, server: ServerId) -> Option<u32> {
    match services.server(server)?.service_key {
        ServiceKey::Mark { mark, .. } => Some(mark),
        ServiceKey::Address { .. } => None,
    }
}
