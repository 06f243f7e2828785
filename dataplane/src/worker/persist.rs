//! Persistence: the server of a client's next connection is that of its last
//! (`ip_vs_sched_persist` in ip_vs_core.c).
//!
//! Templates are a worker's own. So that a client has one server whichever
//! queues its packets arrive on, what begins a connection of a persistent
//! service is handed to the one worker that keeps the client's template, and
//! that makes the connection.

use super::flow::{Flows, View};
use crate::conn::{Seed, Template, TemplateId, TemplateKey, Tuple};
use crate::service::{FTP, Family, Persistence, ServerId, ServiceId, ServiceKey, VirtualService};
use crate::stats::DropReason;
use crate::wire::Address;

/// Why there is no server for a connection.
pub(super) enum Unserved {
    /// No server takes connections
    NoServer,
    /// Another reason
    Drop(DropReason),
}

/// The server that a connection of a persistent service goes to.
pub(super) struct Kept {
    pub(super) server: ServerId,
    pub(super) template: TemplateId,
}

/// What the template of a packet to `service` is found by.
#[inline]
pub(super) fn key(service: &VirtualService, persistence: Persistence, tuple: &Tuple) -> TemplateKey {
    let client = persistence.mask.network(tuple.source);
    let port = service.key.port();
    match service.key {
        // Even a mark's, should a packet be for port 0.
        _ if tuple.destination_port == port => TemplateKey {
            protocol: Some(tuple.protocol),
            client,
            service: tuple.destination,
            // Data connections of FTP have other ports: its templates stand for all.
            port: if port != FTP { port } else { 0 },
        },
        ServiceKey::Address { .. } => {
            TemplateKey { protocol: Some(tuple.protocol), client, service: tuple.destination, port: 0 }
        }
        // One template for all protocols and addresses.
        ServiceKey::Mark { mark, family } => {
            TemplateKey { protocol: None, client, service: address_of_mark(mark, family), port: 0 }
        }
    }
}

/// A mark in the place of a VIP: in the first four bytes, whichever the family.
fn address_of_mark(mark: u32, family: Family) -> Address {
    let mark = mark.to_be_bytes();
    match family {
        Family::V4 => Address::from_v4(mark),
        Family::V6 => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&mark);
            Address::from_v6(bytes)
        }
    }
}

impl Flows {
    /// The worker that keeps the template for a packet that begins a
    /// connection, where that is not this one.
    #[inline]
    pub(super) fn keeper(&self, service: &VirtualService, tuple: &Tuple) -> Option<usize> {
        if self.workers == 1 {
            return None;
        }
        let key = key(service, service.options.persistence?, tuple);
        // The same on all workers, so none of their seeds.
        let keeper = key.hash(Seed::new([0x5a; 16])) as usize % self.workers;
        (keeper != self.worker).then_some(keeper)
    }

    /// The server for a new connection, by the client's template; one is made
    /// if there is none, or none that holds.
    pub(super) fn keep(
        &mut self,
        view: &View,
        id: ServiceId,
        service: &VirtualService,
        persistence: Persistence,
        tuple: &Tuple,
        now: u32,
    ) -> Result<Kept, Unserved> {
        let key = key(service, persistence, tuple);
        if let Some(template) = self.templates.find(&key) {
            if let Some(server) = self.holds(view, template) {
                return Ok(Kept { server, template });
            }
            self.templates.put_away(template);
        }
        let server_id = self.schedule(view, id, service, tuple, now).ok_or(Unserved::NoServer)?;
        let server = view.services.server(server_id).ok_or(Unserved::NoServer)?;
        let template = Template {
            key,
            server_id,
            server: (server.address, if key.port == 0 { 0 } else { server.port }),
            method: server.method,
            timeout: persistence.timeout,
            children: 0,
            assured: false,
        };
        let template =
            self.templates.insert(template, now).map_err(|_| Unserved::Drop(DropReason::TableFull))?;
        server.counters.share(self.worker).persistent.add(1);
        Ok(Kept { server: server_id, template })
    }

    /// The server of a template, unless it takes no more connections.
    fn holds(&self, view: &View, template: TemplateId) -> Option<ServerId> {
        let id = self.templates.get(template)?.server_id;
        let server = view.services.server(id)?;
        let quiesced = view.services.tunables().expire_quiescent_template && server.weight == 0;
        (server.available && !quiesced).then_some(id)
    }

    /// The port that a server gets a connection's packets at: the service's own
    /// is translated to the server's, others are kept.
    #[inline]
    pub(super) fn kept_port(service: &VirtualService, server_port: u16, port: u16) -> u16 {
        if port == service.key.port() && server_port != 0 { server_port } else { port }
    }

    /// Ends templates whose time is over.
    pub(super) fn expire_templates(&mut self, view: &View, now: u32, mut budget: usize) {
        while let Some(template) = self.templates.pop_expired(now, &mut budget) {
            self.forget(view, &template);
        }
    }

    /// Takes a template that is gone off its server's count.
    pub(super) fn forget(&self, view: &View, template: &Template) {
        // Control keeps a server in the table as long as it has templates.
        if let Some(server) = view.services.server(template.server_id) {
            server.counters.share(self.worker).persistent.sub(1);
        }
    }
}
