//! Listing all connections, a slice between two bursts.

use super::flow::Flows;
use super::pages::{Order, PAGE, Writer};
use crate::conn::timer::TICKS_PER_SECOND;
use crate::conn::{ConnectionFilter, ConnectionRecord, Entry, EntryId, Template, TemplateKey};
use crate::service::{Method, Protocol, ServerId, ServiceKey, ServiceTable};

/// Entries looked at in one go, for all listings together.
const SLICE: EntryId = PAGE as EntryId;

/// A listing under way.
pub(super) struct Listing {
    order: Order,
    next: EntryId,
    /// The next template: they come after the connections
    next_template: u32,
    over: bool,
}

impl Listing {
    pub(super) fn new(order: Order) -> Self {
        Listing { order, next: 0, next_template: 0, over: false }
    }

    /// Whether it can go on as soon as the worker has time, and need not wait
    /// for its reader.
    pub(super) fn is_ready(&self) -> bool {
        self.order.has_room()
    }

    /// Whether everything was written, or nobody wants it any more.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Goes on. Connections that come and go meanwhile may be in it or not.
    /// Looks at entries only if `may_look`, and takes that off then.
    pub(super) fn proceed(&mut self, flows: &Flows, services: &ServiceTable, now: u32, may_look: &mut bool) {
        let Listing { order, next, next_template, over } = self;
        if order.is_unwanted() {
            *over = true;
        } else if *may_look && order.has_room() {
            *may_look = false;
            order.write(|page, filter| fill(page, filter, (next, next_template), flows, services, now));
            *over = *next >= flows.table.high_water() && *next_template >= flows.templates.high_water();
        }
    }
}

/// Writes what is next on a page.
fn fill(
    page: &mut Writer<'_>,
    filter: &ConnectionFilter,
    (next, next_template): (&mut EntryId, &mut u32),
    flows: &Flows,
    services: &ServiceTable,
    now: u32,
) {
    let left = |deadline: u32| deadline.saturating_sub(now) / TICKS_PER_SECOND;
    let connections = flows.table.high_water();
    if *next < connections {
        let end = connections.min(next.saturating_add(SLICE));
        for id in *next..end {
            if let Some(entry) = flows.table.get(id).filter(|entry| filter.may_match(entry)) {
                let mut record = record(&entry, services, left(flows.expiry(services, id).unwrap_or(now)));
                if let (0, Some(data)) = (record.server.1, flows.ftp.data(id)) {
                    record.server.1 = data.listed_port;
                }
                if filter.matches(&record) {
                    page.add(record, None);
                }
            }
        }
        *next = end;
        return;
    }
    let end = flows.templates.high_water().min(next_template.saturating_add(SLICE));
    for number in *next_template..end {
        if let Some((id, template, deadline)) = flows.templates.at(number) {
            let record = template_record(template, services, left(deadline));
            if filter.matches(&record) {
                page.add(record, flows.templates.call(id));
            }
        }
    }
    *next_template = end;
}

/// A template as listings show it, with so many seconds left.
pub(super) fn template_record(
    template: &Template,
    services: &ServiceTable,
    expires: u32,
) -> ConnectionRecord {
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

/// A connection as listings show it, with so many seconds left.
pub(super) fn record(entry: &Entry, services: &ServiceTable, expires: u32) -> ConnectionRecord {
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
