//! The short way, of packets to which nothing happens but what happens to most:
//! whole packets of TCP or UDP over IPv4, of a connection that stays in its
//! state, to a next hop that is known.
//!
//! Whatever is out of the ordinary is refused before anything is changed, and
//! goes the long way of [`Flows::process`](super::flow::Flows::process), which
//! would do the same with the others.

use super::flow::{Flows, View, deadline};
use crate::conn::{Ends, EntryId, Line, Side, State};
use crate::ftp::Role;
use crate::neigh::NextHop;
use crate::packet::Packet;
use crate::port::Frame;
use crate::service::{Method, Protocol};
use crate::wire::checksum::Delta;
use crate::wire::ethernet::Mac;
use crate::wire::{ethernet, ipv4, tcp};

/// Where the transport header is: behind an untagged Ethernet header and one of
/// IPv4 without options.
const TRANSPORT: usize = ethernet::LEN + ipv4::LEN;
/// Where the checksum is in the header of TCP and in that of UDP.
const TCP_CHECKSUM: usize = TRANSPORT + 16;
const UDP_CHECKSUM: usize = TRANSPORT + 6;
/// Bytes up to the end of the ports.
const HEAD: usize = TRANSPORT + 4;
/// What a hop less adds to the sum of the header: 0x0100 less.
const HOP: Delta = Delta::new(0x0100, 0);

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
        let mac = hop.mac?;
        let known = line.hop_generation == view.hops.generation() as u32 && hop.vlan.is_none();
        if !known || packet.length > hop.mtu {
            return None;
        }
        let mut fields = Fields::of(frame, packet)?;
        match line.method {
            Method::Tunnel => return None,
            Method::DirectRoute => fields.keep(),
            Method::Nat | Method::FullNat => fields.replace(line, side, packet.tuple.protocol)?,
        }
        fields.address(hop, mac);
        frame.set_len(ethernet::LEN + usize::from(packet.length));
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

/// Where a packet of the short way is changed.
pub(super) struct Fields<'a> {
    /// All up to the ports
    head: &'a mut [u8; HEAD],
    /// The transport checksum
    checksum: &'a mut [u8; 2],
}

impl<'a> Fields<'a> {
    /// Those of a packet that [`is_plain`], if the frame has them.
    #[inline(always)]
    pub(super) fn of<F: Frame>(frame: &'a mut F, packet: &Packet) -> Option<Self> {
        let length = ethernet::LEN + usize::from(packet.length);
        let checksum_at = if packet.tuple.protocol == Protocol::Tcp { TCP_CHECKSUM } else { UDP_CHECKSUM };
        let bytes = frame.bytes_mut();
        if length < checksum_at + 2 || length > bytes.len() {
            return None;
        }
        let (head, rest) = bytes.split_first_chunk_mut::<HEAD>()?;
        let checksum = rest.get_mut(checksum_at - HEAD..)?.first_chunk_mut::<2>()?;
        Some(Fields { head, checksum })
    }

    /// Takes a hop off.
    #[inline(always)]
    pub(super) fn keep(&mut self) {
        hop_off(self.head, HOP);
    }

    /// Takes a hop off, and replaces addresses and ports by those of a connection;
    /// `None`, and nothing is done, where one is of IPv6.
    #[inline(always)]
    pub(super) fn replace(&mut self, line: &Line, side: Side, protocol: Protocol) -> Option<()> {
        let Fields { head, checksum } = self;
        let (other, ip_delta, transport_delta) = match side {
            Side::Client => (Side::Server, line.ip_delta, line.transport_delta),
            Side::Server => (Side::Client, line.ip_delta.reversed(), line.transport_delta.reversed()),
        };
        // The addresses and ports of the other side's packets, turned round.
        let Ends { source, destination, ports: [source_port, destination_port] } = *line.narrow(other)?;
        put(head, ethernet::LEN + 12, destination.to_be_bytes());
        put(head, ethernet::LEN + 16, source.to_be_bytes());
        put(head, TRANSPORT, destination_port.to_be_bytes());
        put(head, TRANSPORT + 2, source_port.to_be_bytes());
        hop_off(head, ip_delta.and(HOP));
        let before = u16::from_be_bytes(**checksum);
        let after = match protocol {
            Protocol::Udp => transport_delta.apply_udp(before),
            Protocol::Tcp | Protocol::Sctp => transport_delta.apply(before),
        };
        **checksum = after.to_be_bytes();
        Some(())
    }

    /// Puts the untagged link-layer header of a next hop on.
    #[inline(always)]
    pub(super) fn address(&mut self, hop: &NextHop, mac: Mac) {
        put(self.head, 0, mac);
        put(self.head, 6, hop.source_mac);
    }
}

/// Whether a packet is a whole one of IPv4 without tags and options, with hops left.
#[inline(always)]
pub(super) fn is_plain(packet: &Packet) -> bool {
    packet.is_v4 && usize::from(packet.transport) == TRANSPORT && !packet.partial && packet.ttl > 1
}

/// Takes a hop off, with the checksum changed by what is rewritten in all.
#[inline(always)]
fn hop_off(head: &mut [u8; HEAD], delta: Delta) {
    const TTL: usize = ethernet::LEN + 8;
    const CHECKSUM: usize = ethernet::LEN + 10;
    head[TTL] -= 1;
    let before = u16::from_be_bytes([head[CHECKSUM], head[CHECKSUM + 1]]);
    put(head, CHECKSUM, delta.apply(before).to_be_bytes());
}

#[inline(always)]
fn put<const N: usize>(head: &mut [u8; HEAD], at: usize, bytes: [u8; N]) {
    head[at..at + N].copy_from_slice(&bytes);
}

#[cfg(test)]
mod tests;
