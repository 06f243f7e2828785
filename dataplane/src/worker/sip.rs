//! Calls that a server begins: its datagram to a client makes the connection
//! and the template that the client's answers go by (`ip_vs_new_conn_out` in
//! ip_vs_core.c).
//!
//! With one-packet scheduling every datagram of a server is one of these, also
//! what answers a client: that is how its source becomes the VIP.

use super::flow::{Flows, Verdict, View};
use super::persist::{Call, Kept, Unserved, Wanted};
use crate::conn::{EntryId, Tuple};
use crate::packet::Packet;
use crate::service::{Protocol, ServiceKey};
use crate::stats::DropReason;

impl Flows {
    /// Makes the connection that a NAT server's datagram begins, where its
    /// service has a persistence engine.
    pub(super) fn call(
        &mut self,
        view: &View,
        packet: &Packet,
        bytes: &[u8],
        now: u32,
    ) -> Result<EntryId, Verdict> {
        let services = &view.services;
        let reply = packet.tuple;
        if reply.protocol != Protocol::Udp {
            return Err(Verdict::Unclaimed);
        }
        let caller = services.caller(reply.source, reply.source_port).ok_or(Verdict::Unclaimed)?;
        let server = services.server(caller).ok_or(Verdict::Unclaimed)?;
        let service = services.service(server.service).ok_or(Verdict::Unclaimed)?;
        let ServiceKey::Address { protocol, address, port } = service.key else {
            return Err(Verdict::Unclaimed);
        };
        let client = Tuple {
            source: reply.destination,
            source_port: reply.destination_port,
            destination: address,
            destination_port: port,
            protocol,
        };
        let wanted = Wanted::of(service, &client, packet, bytes).ok_or(Verdict::Unclaimed)?;
        if let Some(keeper) = self.keeper(&wanted) {
            return Err(Verdict::Hand(keeper));
        }
        if matches!(wanted.call, Call::Missing) {
            return Err(Verdict::Unclaimed);
        }
        // One of this client with another server gives way: the newest is what
        // the client's packets find.
        if let Some((old, _)) = self.table.find(&client, self.table.hash(&client)) {
            self.expire(view, old);
        }
        if self.room() == 0 {
            return Err(Verdict::Drop(DropReason::TableFull));
        }
        let kept = match self.template(&wanted) {
            Some(template) if self.holds(view, template) == Some(caller) => Kept { server: caller, template },
            other => {
                if let Some(template) = other {
                    self.template_gone(template);
                    self.templates.put_away(template);
                }
                self.keep_to(caller, server, &wanted, now).map_err(|unserved| match unserved {
                    Unserved::NoServer => Verdict::Unclaimed,
                    Unserved::Drop(reason) => Verdict::Drop(reason),
                })?
            }
        };
        let ends = [(reply.source, reply.source_port), (client.source, client.source_port)];
        self.enter(view, service, kept, client, ends, now)
    }
}
