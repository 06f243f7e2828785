//! The short way, of packets to which nothing happens but what happens to most:
//! whole packets of TCP or UDP over IPv4, of a connection that stays in its
//! state, to a next hop that is known.
//!
//! Whatever is out of the ordinary is refused before anything is changed, and
//! goes the long way of [`Flows::process`](super::flow::Flows::process), which
//! would do the same with the others.

use super::flow::{Flows, View, deadline};
use super::plain::{Way, carry, is_plain};
use crate::conn::{EntryId, Side, State};
use crate::ftp::Role;
use crate::packet::Packet;
use crate::port::Frame;
use crate::wire::tcp;

impl Flows {
    /// Rewrites a packet of a connection and puts the next hop's link-layer header
    /// on, if it is one for the short way. Returns the interface to send it on;
    /// `None`, and everything is as it was, if it has to go the long way.
    #[inline]
    pub(super) fn express<F: Frame>(
        &mut self,
        view: &View,
        frame: &mut F,
        packet: &Packet,
        (id, side): (EntryId, Side),
        now: u32,
    ) -> Option<usize> {
        let line = self.table.get_mut(id)?;
        let stays = match line.state {
            State::Udp => true,
            State::Established => {
                line.active && packet.flags & (tcp::FIN | tcp::SYN | tcp::RST | tcp::ACK) == tcp::ACK
            }
            _ => false,
        };
        let ordinary = line.ftp == Role::None && !line.one_packet;
        if !(stays && is_plain(packet) && ordinary) {
            return None;
        }
        let server = view.services.server(line.server_id).filter(|server| server.available)?;
        let hop = view.hops.hop(line.hops[side as usize])?;
        if line.hop_generation != view.hops.generation() as u32 {
            return None;
        }
        let way = Way { server, hop, mac: hop.mac?, tunables: view.services.tunables() };
        carry(frame, packet, line, side, &way, &mut self.packet_id)?;
        if self.sync.is_on() {
            self.sync.packet(id, line.template, false);
        }
        server.count(self.worker, side, 1, packet.length.into());
        if side == Side::Client {
            line.packets = line.packets.wrapping_add(1);
        }
        let state = line.state;
        if state == State::Established || side == Side::Server {
            self.templates.assure(line.template);
        }
        let deadline = deadline(now, view.services.timeouts_of(server).seconds(state));
        if !line.prolong(deadline) {
            self.table.touch(id, deadline);
        }
        Some(hop.interface.into())
    }
}

#[cfg(test)]
mod tests;
