//! ICMP errors: an error about a connection's packet goes where the packet
//! came from.

use super::Worker;
use super::flow::{Flows, Verdict, View, outer_source, resolved};
use crate::conn::{EntryId, Side, Tuple};
use crate::forward::{self, Refused, related};
use crate::packet::{Related, Unparsed};
use crate::port::{Frame, Port};
use crate::service::Method;
use crate::stats::DropReason;

impl<P: Port> Worker<P> {
    /// Forwards an ICMP error with its IP header at `network`, or leaves it
    /// to the kernel, as all other ICMP.
    pub(super) fn relate(
        &mut self,
        mut frame: P::Frame,
        network: u16,
        interface: usize,
        visits: usize,
        now: u64,
    ) {
        let related = match Related::parse(frame.bytes(), network) {
            Ok(related) => related,
            Err(Unparsed::Drop(reason)) => return self.discard(frame, reason),
            Err(_) => return self.punt(frame, interface),
        };
        // A datagram to a port of GUE may be a connection's as well as any other.
        let unknown = related.tunnel.is_none() && self.flows.find(&related.packet.tuple).is_none();
        let gue = if unknown { related.about_gue(frame.bytes()) } else { None };
        let related = gue.unwrap_or(related);
        let (verdict, about) = match related.tunnel {
            None => (self.flows.relate(&self.view, &mut frame, &related), related.packet),
            Some(_) => (self.flows.relate_tunnel(&self.view, &related), related.quoted_packet()),
        };
        match verdict {
            // Not worth a place among the frames that wait: errors come again.
            Verdict::Wait(towards) => {
                self.ask(towards, now);
                self.discard(frame, DropReason::Unresolved);
            }
            // No error is answered by another one (`nat_icmp_send`).
            Verdict::Unclaimed => self.pass_on(frame, interface, visits),
            verdict => self.carry_out(verdict, frame, &about, interface, visits, now),
        }
    }
}

impl Flows {
    /// What is to be done with an error about a packet that a connection sent.
    /// Its state and its time stay as they are, as in IPVS.
    fn relate<F: Frame>(&mut self, view: &View, frame: &mut F, error: &Related) -> Verdict {
        let Some((id, side)) = self.find(&error.packet.tuple) else { return Verdict::Unclaimed };
        let packet_id = self.next_id();
        let Some(entry) = self.table.get(id) else { return Verdict::Unclaimed };
        // As in IPVS: what is not changed is not checked, that being its
        // receiver's business.
        if entry.method.has_replies() && !error.intact {
            return Verdict::Drop(DropReason::BadChecksum);
        }
        let (hop_id, hop) = match resolved(&mut self.table, id, side, &view.hops) {
            Ok(resolved) => resolved,
            Err(verdict) => return verdict,
        };
        if let Some(server) = view.services.server(entry.server_id).filter(|server| server.available) {
            server.count(self.worker, side, 1, error.packet.length.into());
        }
        let Some(outer_source) = outer_source(&entry, hop) else { return Verdict::Drop(DropReason::NoRoute) };
        let encapsulation = view.services.server(entry.server_id).map(|server| server.encapsulation);
        let pmtu_disc = view.services.tunables().pmtu_disc;
        let encapsulation = encapsulation.unwrap_or_default();
        let rewrite = forward::rewrite(&entry, side, outer_source, encapsulation, pmtu_disc);
        let source = related::source(&entry, side);
        match related::apply(&rewrite, error, source, frame, hop.mtu, packet_id) {
            Ok(rewritten) => Verdict::Send(rewritten, hop_id),
            Err(Refused::TtlExceeded) => Verdict::Drop(DropReason::TtlExceeded),
            Err(Refused::TooBig(_) | Refused::Split(_)) => Verdict::Drop(DropReason::TooBig),
            Err(Refused::Drop(reason)) => Verdict::Drop(reason),
        }
    }

    /// What is to be done with an error about a packet that was sent through a
    /// tunnel (`ip_vs_in_icmp`): the client is told.
    fn relate_tunnel(&mut self, view: &View, error: &Related) -> Verdict {
        let found = self.find(&error.quoted.tuple).and_then(|(id, side)| Some((self.table.get(id)?, side)));
        let Some((entry, Side::Client)) = found else { return Verdict::Unclaimed };
        let encapsulation = view.services.server(entry.server_id).map(|server| server.encapsulation);
        let ours = error.tunnel.zip(encapsulation).is_some_and(|(tunnel, encapsulation)| {
            tunnel.server == entry.server.source && tunnel.is(encapsulation)
        });
        if entry.method != Method::Tunnel || !ours {
            return Verdict::Unclaimed;
        }
        if !error.intact {
            return Verdict::Drop(DropReason::BadChecksum);
        }
        match related::in_tunnel(error) {
            Some(answer) => Verdict::Answer {
                error: answer,
                reason: DropReason::TunnelError,
                source: Some(entry.client.destination),
            },
            None => Verdict::Drop(DropReason::TunnelError),
        }
    }

    fn find(&self, tuple: &Tuple) -> Option<(EntryId, Side)> {
        self.table.find(tuple, self.table.hash(tuple))
    }
}
