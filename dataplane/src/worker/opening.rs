//! The short way of packets that begin an ordinary connection: whole ones of TCP
//! or UDP over IPv4, to a service without persistence, marks and FTP, of a worker
//! that nothing is the matter with.
//!
//! As in [`express`](super::express), whatever is out of the ordinary is refused
//! before anything is changed, and goes the long way. That holds until a server is
//! chosen; from there on, the rest of the long way is gone.

use super::flow::{Flows, Verdict, View, deadline, rport};
use super::persist::Kept;
use super::plain::{Way, carry, is_plain};
use crate::conn::{Begin, Direction, Line, NO_TEMPLATE, Side, State};
use crate::forward::deltas_v4;
use crate::neigh::HopId;
use crate::packet::Packet;
use crate::port::Frame;
use crate::service::{Method, Protocol, ServerId, VirtualService};
use crate::stats::DropReason;
use crate::wire::{Address, tcp};

/// A server that was chosen, and the way to it.
struct Chosen<'a> {
    id: ServerId,
    hop: HopId,
    way: Way<'a>,
}

impl Flows {
    /// Makes the connection that a packet begins, rewrites the packet and puts the
    /// next hop's link-layer header on, if it is one for the short way. Returns the
    /// interface to send it on, or what else is to be done with it; `None`, and
    /// everything is as it was, if it has to go the long way. `hash` is that of its
    /// tuple, which is not in the table.
    #[inline(never)]
    pub(super) fn open<F: Frame>(
        &mut self,
        view: &View,
        frame: &mut F,
        packet: &Packet,
        hash: u64,
        now: u32,
    ) -> Option<Result<usize, Verdict>> {
        let services = &*view.services;
        let tuple = &packet.tuple;
        let opens = match tuple.protocol {
            Protocol::Udp => true,
            Protocol::Tcp => {
                packet.flags & (tcp::FIN | tcp::SYN | tcp::RST | tcp::ACK) == tcp::SYN
                    && self.ftp.expected() == 0
                    && !services.tunables().ftp.is_control(tuple.destination_port)
            }
            Protocol::Sctp => false,
        };
        let usual =
            !self.standby && !self.overload.may_drop() && services.marks().is_empty() && self.room() > 0;
        if !(opens && usual && is_plain(packet)) {
            return None;
        }
        let (service_id, service) = self.recent.service(services, tuple)?;
        if service.options.persistence.is_some() || service.options.one_packet {
            return None;
        }
        if self.owners.elsewhere(tuple, self.worker).is_some() {
            return None;
        }

        let chosen = self.schedule(view, service_id, service, tuple, now);
        let Some((id, server)) = chosen.and_then(|id| Some((id, services.server(id)?))) else {
            return Some(Err(Verdict::no_server(tuple)));
        };
        let hop = self.recent.hop(&view.hops, id, server).filter(|_| server.address.is_v4());
        let way = hop.and_then(|(hop_id, hop)| {
            let way = Way { server, hop, mac: hop.mac?, tunables: services.tunables() };
            way.takes(frame, packet).then_some((hop_id, way))
        });
        let Some((hop, way)) = way else {
            let kept = Kept { server: id, template: NO_TEMPLATE };
            let begun = self.connect_to(view, service, kept, packet, now);
            return Some(Err(match begun {
                Ok(id) => self.forward(view, frame, packet, id, Side::Client, now),
                Err(verdict) => verdict,
            }));
        };
        let chosen = Chosen { id, hop, way };
        let begun = self.begin_at(view, frame, packet, hash, service, &chosen, now);
        Some(begun.map(|()| usize::from(chosen.way.hop.interface)))
    }

    /// Enters the connection of a packet to a chosen server and rewrites the packet.
    #[expect(clippy::too_many_arguments, reason = "all that is known by then")]
    #[inline(always)]
    fn begin_at<F: Frame>(
        &mut self,
        view: &View,
        frame: &mut F,
        packet: &Packet,
        hash: u64,
        service: &VirtualService,
        chosen: &Chosen,
        now: u32,
    ) -> Result<(), Verdict> {
        let Chosen { id: server_id, hop, ref way } = *chosen;
        let server = way.server;
        let (tuple, method) = (&packet.tuple, server.method);
        let destination = (server.address, rport(server, tuple.destination_port));
        let local = match method {
            Method::FullNat => self
                .local_ports
                .allocate(&service.local_addresses, destination, tuple.protocol)
                .map_err(|_| Verdict::Drop(DropReason::NoLocalPort))?,
            Method::Nat | Method::DirectRoute | Method::Tunnel => (tuple.source, tuple.source_port),
        };
        let narrow = |(address, port): (Address, u16)| (address.words().1 as u32, port);
        let ends = [narrow(destination), narrow(local)];
        let direction = if method.has_replies() { Direction::Input } else { Direction::InputOnly };
        let state = State::first(tuple.protocol).next(direction, packet.flags, self.overload.secure_tcp());
        let begin = Begin {
            method,
            state,
            server_id,
            hop,
            hop_generation: view.hops.generation() as u32,
            deltas: deltas_v4(method, tuple, ends[0], ends[1]),
        };
        let line = Line::begun(tuple, ends, &begin);
        let Ok(id) = self.table.insert_line(line, hash) else {
            if method == Method::FullNat {
                self.local_ports.free(local.0, local.1, destination, tuple.protocol);
            }
            return Err(Verdict::Drop(DropReason::TableFull));
        };
        self.table.schedule(id, deadline(now, view.services.timeouts_of(server).seconds(state)));
        self.owners.begun(tuple, self.worker);
        if self.sync.is_on() {
            self.sync.packet(id, NO_TEMPLATE, true);
        }
        carry(frame, packet, &line, Side::Client, way, &mut self.packet_id)
            .ok_or(Verdict::Drop(DropReason::Truncated))?;

        let share = server.counters.share(self.worker);
        if line.active { &share.active } else { &share.inactive }.add(1);
        self.connections_changed(server_id, server);
        share.traffic.connections.add(1);
        server.service_counters.share(self.worker).connections.add(1);
        server.count(self.worker, Side::Client, 1, packet.length.into());
        Ok(())
    }
}
