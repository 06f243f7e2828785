//! Persistence: the server of a client's next connection is that of its last
//! (`ip_vs_sched_persist` in ip_vs_core.c).
//!
//! Templates are a worker's own. So that a client has one server whichever
//! queues its packets arrive on, what begins a connection of a persistent
//! service is handed to the one worker that keeps the client's template, and
//! that makes the connection.
//!
//! With a persistence engine a template is of one client and one call, and kept
//! where the client's others are, so that all packets of a flow find its
//! connection there. Where there are no connections, since each datagram is
//! scheduled by itself, the call has a part in who keeps it, and one proxy's
//! calls are spread.

use super::flow::{Flows, View};
use crate::conn::{Seed, Template, TemplateId, TemplateKey, Tuple};
use crate::packet::Packet;
use crate::service::{
    FTP, Family, Persistence, Protocol, RealServer, ServerId, ServiceId, ServiceKey, VirtualService,
};
use crate::sip;
use crate::stats::DropReason;
use crate::wire::{Address, udp};

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

/// What the template of a packet is found by.
pub(super) struct Wanted<'a> {
    pub(super) key: TemplateKey,
    pub(super) call: Call<'a>,
    pub(super) timeout: u32,
    one_packet: bool,
}

/// The call that a template is of.
#[derive(Clone, Copy)]
pub(super) enum Call<'a> {
    /// The service has no persistence engine
    Any,
    /// This one
    Of(&'a [u8]),
    /// There has to be one, and is none in the packet
    Missing,
}

impl<'a> Wanted<'a> {
    /// For a packet with this client, whose frame is `bytes`; `None` for a
    /// service that is not persistent.
    #[inline]
    pub(super) fn of(
        service: &VirtualService,
        tuple: &Tuple,
        packet: &Packet,
        bytes: &'a [u8],
    ) -> Option<Self> {
        let persistence = service.options.persistence?;
        let call = if service.options.engine.is_none() { Call::Any } else { call(packet, bytes) };
        let one_packet = service.options.one_packet;
        Some(Wanted { key: key(service, persistence, tuple), call, timeout: persistence.timeout, one_packet })
    }
}

impl Wanted<'_> {
    /// Whether there has to be a call, and is none.
    pub(super) fn lacks_call(&self) -> bool {
        matches!(self.call, Call::Missing)
    }
}

/// The call of a packet to a service with a persistence engine.
#[cold]
fn call<'a>(packet: &Packet, bytes: &'a [u8]) -> Call<'a> {
    let end = usize::from(packet.network) + usize::from(packet.length);
    let payload = bytes.get(usize::from(packet.transport) + udp::LEN..end);
    let id = payload.filter(|_| packet.tuple.protocol == Protocol::Udp && !packet.later);
    id.and_then(sip::call_id).map_or(Call::Missing, Call::Of)
}

/// What the template of a packet to `service` is found by, beside its call.
#[inline]
fn key(service: &VirtualService, persistence: Persistence, tuple: &Tuple) -> TemplateKey {
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

/// The worker out of `workers` that keeps a template; the call has a part in it
/// where each datagram is scheduled by itself.
#[inline]
pub(crate) fn keeper(key: &TemplateKey, call: Option<&[u8]>, workers: usize) -> usize {
    // The same on all workers, so none of their seeds.
    let seed = Seed::new([0x5a; 16]);
    let hash = key.hash(seed);
    call.map_or(hash, |call| seed.hash_bytes(hash, call)) as usize % workers.max(1)
}

/// The worker that keeps the template for a client's connections to `service`,
/// if that is persistent.
pub(crate) fn keeper_of_client(service: &VirtualService, client: &Tuple, workers: usize) -> Option<usize> {
    let persistence = service.options.persistence?;
    Some(keeper(&key(service, persistence, client), None, workers))
}

/// What the template of a client's connection to `service` is found by, if
/// that is persistent and goes by the client alone.
pub(super) fn key_of_client(service: &VirtualService, client: &Tuple) -> Option<TemplateKey> {
    let persistence = service.options.persistence.filter(|_| service.options.engine.is_none())?;
    Some(key(service, persistence, client))
}

impl Flows {
    /// The worker that keeps the template for a packet that begins a
    /// connection, where that is not this one.
    #[inline]
    pub(super) fn keeper(&self, wanted: &Wanted) -> Option<usize> {
        if self.workers == 1 {
            return None;
        }
        let call = match wanted.call {
            Call::Of(call) if wanted.one_packet => Some(call),
            // It is dropped wherever it is.
            Call::Missing if wanted.one_packet => return None,
            _ => None,
        };
        let keeper = keeper(&wanted.key, call, self.workers);
        (keeper != self.worker).then_some(keeper)
    }

    /// The worker that keeps the template for a packet of no connection, where it
    /// is for a persistent service.
    pub(super) fn keeper_of(
        &self,
        view: &View,
        packet: &Packet,
        interface: usize,
        bytes: &[u8],
    ) -> Option<usize> {
        let service = view.services.service(view.services.find_for(&packet.tuple, interface)?)?;
        let wanted = Wanted::of(service, &packet.tuple, packet, bytes)?;
        Some(self.keeper(&wanted).unwrap_or(self.worker))
    }

    /// The server for a new connection, by the client's template; one is made
    /// if there is none, or none that holds.
    pub(super) fn keep(
        &mut self,
        view: &View,
        id: ServiceId,
        service: &VirtualService,
        wanted: &Wanted,
        tuple: &Tuple,
        now: u32,
    ) -> Result<Kept, Unserved> {
        if matches!(wanted.call, Call::Missing) {
            return Err(Unserved::Drop(DropReason::NoCallId));
        }
        if let Some(template) = self.template(wanted) {
            if let Some(server) = self.holds(view, template) {
                self.sync.used_template(template);
                return Ok(Kept { server, template });
            }
            self.template_gone(template);
            self.templates.put_away(template);
        }
        let server_id = self.schedule(view, id, service, tuple, now).ok_or(Unserved::NoServer)?;
        let server = view.services.server(server_id).ok_or(Unserved::NoServer)?;
        self.keep_to(server_id, server, wanted, now)
    }

    /// The template for a packet.
    pub(super) fn template(&self, wanted: &Wanted) -> Option<TemplateId> {
        match wanted.call {
            Call::Any => self.templates.find(&wanted.key),
            Call::Of(call) => self.templates.find_call(&wanted.key, call),
            Call::Missing => None,
        }
    }

    /// Makes the template for a packet that has none.
    pub(super) fn keep_to(
        &mut self,
        server_id: ServerId,
        server: &RealServer,
        wanted: &Wanted,
        now: u32,
    ) -> Result<Kept, Unserved> {
        let template = Template {
            key: wanted.key,
            server_id,
            server: (server.address, if wanted.key.port == 0 { 0 } else { server.port }),
            method: server.method,
            timeout: wanted.timeout,
            children: 0,
            assured: false,
        };
        let made = match wanted.call {
            Call::Of(call) => self.templates.insert_call(template, call, now),
            Call::Any | Call::Missing => self.templates.insert(template, now),
        };
        let template = made.map_err(|_| Unserved::Drop(DropReason::TableFull))?;
        server.counters.share(self.worker).persistent.add(1);
        self.sync.used_template(template);
        Ok(Kept { server: server_id, template })
    }

    /// The server of a template, unless it takes no more connections.
    pub(super) fn holds(&self, view: &View, template: TemplateId) -> Option<ServerId> {
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
        while let Some(id) = self.templates.pop_expired(now, &mut budget) {
            if !self.template_outlives(id, now) {
                self.end_template(view, id);
            }
        }
    }

    /// Ends a template.
    pub(super) fn end_template(&mut self, view: &View, id: TemplateId) {
        self.template_gone(id);
        let Some(template) = self.templates.remove(id) else { return };
        // Control keeps a server in the table as long as it has templates.
        if let Some(server) = view.services.server(template.server_id) {
            server.counters.share(self.worker).persistent.sub(1);
        }
    }
}
