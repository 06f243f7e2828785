//! Answering what would become of a packet ([`crate::trace`]). All that could
//! happen is gone through in the order of [`Flows::process`], and nothing of it
//! is done.

use super::flow::{Flows, View};
use super::listing;
use super::persist::Wanted;
use crate::conn::timer::TICKS_PER_SECOND;
use crate::conn::{ConnectionRecord, EntryId, Side, Tuple};
use crate::ftp::Role;
use crate::packet::Packet;
use crate::sched::Arrival;
use crate::service::{Method, Protocol, ServiceId, VirtualService};
use crate::stats::DropReason;
use crate::trace::{Answer, Outcome, Question, Unclaimed};
use crate::wire::sctp::Chunk;
use crate::wire::{ethernet, ipv4, ipv6, tcp};

impl Flows {
    /// Answers a question at tick `now`.
    #[cold]
    #[inline(never)]
    pub(super) fn answer(&mut self, view: &View, question: &Question, now: u32) {
        let packet = opening(question.tuple);
        let answer = Answer {
            elsewhere: self.owners.other(&packet.tuple, self.worker),
            drop_rate: self.overload.rate(),
            outcome: self.outcome(view, &packet, question, now),
            services: view.services.clone(),
            hops: view.hops.clone(),
        };
        question.put(answer);
    }

    fn outcome(&mut self, view: &View, packet: &Packet, question: &Question, now: u32) -> Outcome {
        let found = self.table.find(&packet.tuple, self.table.hash(&packet.tuple));
        if let Some((id, side)) = found
            && !self.is_over(view, id, side, packet)
            && let Some(outcome) = self.of_connection(view, id, side, now)
        {
            return outcome;
        }
        if self.expects(packet).is_some() {
            return Outcome::Expected;
        }
        if self.standby {
            return Outcome::Kernel(Unclaimed::Standby);
        }
        let service = question.service(&view.services);
        match service.and_then(|id| Some((id, view.services.service(id)?))) {
            Some((id, service)) => self.of_service(view, id, service, packet, now),
            None => Outcome::Kernel(Unclaimed::NoService),
        }
    }

    fn of_connection(&self, view: &View, id: EntryId, side: Side, now: u32) -> Option<Outcome> {
        let entry = self.table.get(id)?;
        if entry.ftp == Role::Expected {
            return None;
        }
        let left = self.expiry(&view.services, id).unwrap_or(now).saturating_sub(now) / TICKS_PER_SECOND;
        let taken = view.services.server(entry.server_id);
        let gone = taken.is_none_or(|server| side == Side::Client && !server.available);
        Some(Outcome::Connection {
            record: listing::record(&entry, &view.services, left),
            server: entry.server_id,
            side,
            refused: gone.then_some(DropReason::ServerGone),
        })
    }

    fn of_service(
        &mut self,
        view: &View,
        id: ServiceId,
        service: &VirtualService,
        packet: &Packet,
        now: u32,
    ) -> Outcome {
        let tuple = packet.tuple;
        let wanted = Wanted::of(service, &tuple, packet, &[]);
        if let Some(keeper) = wanted.as_ref().and_then(|wanted| self.keeper(wanted)) {
            return Outcome::Handed { keeper, service: id };
        }
        let dropped = |reason| Outcome::Dropped { reason, service: id };
        if self.room() == 0 {
            return dropped(DropReason::TableFull);
        }
        if wanted.as_ref().is_some_and(Wanted::lacks_call) {
            return dropped(DropReason::NoCallId);
        }
        let template = wanted.as_ref().and_then(|wanted| self.template(wanted));
        let kept = template.and_then(|template| Some((template, self.holds(view, template)?)));
        let chosen = match kept {
            Some((_, server)) => Some(server),
            None => {
                let Tuple { source, source_port, destination, .. } = tuple;
                let arrival = Arrival { source, source_port, destination, now };
                self.peek(id, service, &view.services, &arrival)
            }
        };
        let chosen = chosen.and_then(|id| Some((id, view.services.server(id)?)));
        let Some((server_id, server)) = chosen else { return dropped(DropReason::NoServer) };
        if server.method == Method::FullNat && tuple.protocol == Protocol::Sctp {
            return Outcome::Kernel(Unclaimed::SctpByFullNat);
        }
        let destination = (server.address, Flows::server_port(service, server, tuple.destination_port));
        if server.method == Method::FullNat
            && !self.local_ports.has_room(&service.local_addresses, destination, tuple.protocol)
        {
            return dropped(DropReason::NoLocalPort);
        }
        Outcome::New {
            service: id,
            server: server_id,
            destination,
            template: kept.and_then(|(template, _)| self.record_of_template(view, template, now)),
            makes_template: wanted.is_some() && kept.is_none(),
        }
    }

    fn record_of_template(
        &self,
        view: &View,
        id: crate::conn::TemplateId,
        now: u32,
    ) -> Option<ConnectionRecord> {
        let (_, template, deadline) = self.templates.at(id.number())?;
        let left = deadline.saturating_sub(now) / TICKS_PER_SECOND;
        Some(listing::template_record(template, &view.services, left))
    }
}

/// A packet that begins a connection.
fn opening(tuple: Tuple) -> Packet {
    let is_v4 = tuple.is_v4();
    let header = if is_v4 { ipv4::LEN } else { ipv6::LEN };
    Packet {
        tuple,
        network: ethernet::LEN as u16,
        transport: (ethernet::LEN + header) as u16,
        length: header as u16,
        flags: match tuple.protocol {
            Protocol::Tcp => tcp::SYN,
            Protocol::Udp => 0,
            Protocol::Sctp => Chunk::Init as u8,
        },
        ttl: 64,
        is_v4,
        dont_fragment: true,
        later: false,
        partial: false,
    }
}
