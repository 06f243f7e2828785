//! Plain packets, as most are, and how they are rewritten where they are.

use crate::conn::{Ends, Line, Side};
use crate::forward;
use crate::neigh::NextHop;
use crate::packet::Packet;
use crate::port::Frame;
use crate::service::{Method, Protocol, RealServer, Tunables};
use crate::wire::checksum::Delta;
use crate::wire::ethernet::Mac;
use crate::wire::{Address, ethernet, ipv4};

/// Where the transport header is: behind an untagged Ethernet header and one of
/// IPv4 without options.
pub(super) const TRANSPORT: usize = ethernet::LEN + ipv4::LEN;
/// Where the checksum is in the header of TCP and in that of UDP.
const TCP_CHECKSUM: usize = TRANSPORT + 16;
const UDP_CHECKSUM: usize = TRANSPORT + 6;
/// Bytes up to the end of the ports.
const HEAD: usize = TRANSPORT + 4;
/// What a hop less adds to the sum of the header: 0x0100 less.
const HOP: Delta = Delta::new(0x0100, 0);

/// Whether a packet is a whole one of IPv4 without tags and options, with hops left.
#[inline(always)]
pub(super) fn is_plain(packet: &Packet) -> bool {
    packet.is_v4 && usize::from(packet.transport) == TRANSPORT && !packet.partial && packet.ttl > 1
}

/// Where a packet of a connection goes, and how.
pub(super) struct Way<'a> {
    pub(super) server: &'a RealServer,
    pub(super) hop: &'a NextHop,
    pub(super) mac: Mac,
    pub(super) tunables: &'a Tunables,
}

impl Way<'_> {
    /// Where a tunnel to the server begins, for packets to this VIP; as
    /// [`outer_source`](super::flow::outer_source) for an IPv4 client.
    #[inline]
    fn outer_source(&self, vip: Address) -> Option<Address> {
        self.hop.source.or(self.server.address.is_v4().then_some(vip))
    }

    /// Whether a packet that [`is_plain`] can go there as it is.
    #[inline(always)]
    pub(super) fn takes<F: Frame>(&self, frame: &F, packet: &Packet) -> bool {
        let room = match self.server.method {
            Method::Tunnel => {
                let growth = forward::tunnel_overhead(self.server.encapsulation, self.server.address);
                let end = usize::from(packet.network + growth) + usize::from(packet.length);
                if end > frame.capacity() || self.outer_source(packet.tuple.destination).is_none() {
                    return false;
                }
                self.hop.mtu.saturating_sub(growth)
            }
            Method::Nat | Method::FullNat | Method::DirectRoute => self.hop.mtu,
        };
        packet.length <= room && self.hop.vlan.is_none()
    }
}

/// Rewrites a packet that [`is_plain`] from a side of a connection, takes a hop off
/// it, and puts the next hop's link-layer header on. `None`, and nothing is done,
/// where that is not so simple. `packet_id` is the last identification of a packet
/// of our own.
#[inline(always)]
pub(super) fn carry<F: Frame>(
    frame: &mut F,
    packet: &Packet,
    line: &Line,
    side: Side,
    way: &Way<'_>,
    packet_id: &mut u16,
) -> Option<()> {
    let Way { hop, mac, .. } = *way;
    if hop.vlan.is_some() || packet.length > hop.mtu {
        return None;
    }
    let head = match line.method {
        Method::Tunnel => return tunnel(frame, packet, way, packet_id),
        Method::DirectRoute => {
            let head = frame.bytes_mut().first_chunk_mut::<HEAD>()?;
            hop_off(head, HOP);
            head
        }
        Method::Nat | Method::FullNat => replace(frame, line, side, packet.tuple.protocol)?,
    };
    put(head, 0, mac);
    put(head, 6, hop.source_mac);
    frame.set_len(ethernet::LEN + usize::from(packet.length));
    Some(())
}

/// Takes a hop off, and replaces addresses and ports by those of a connection;
/// `None`, and nothing is done, where one is of IPv6.
#[inline(always)]
fn replace<'a, F: Frame>(
    frame: &'a mut F,
    line: &Line,
    side: Side,
    protocol: Protocol,
) -> Option<&'a mut [u8; HEAD]> {
    let (other, ip_delta, transport_delta) = match side {
        Side::Client => (Side::Server, line.ip_delta, line.transport_delta),
        Side::Server => (Side::Client, line.ip_delta.reversed(), line.transport_delta.reversed()),
    };
    // The addresses and ports of the other side's packets, turned round.
    let Ends { source, destination, ports: [source_port, destination_port] } = *line.narrow(other)?;
    let checksum_at = if protocol == Protocol::Tcp { TCP_CHECKSUM } else { UDP_CHECKSUM };
    let (head, rest) = frame.bytes_mut().split_first_chunk_mut::<HEAD>()?;
    let checksum = rest.get_mut(checksum_at - HEAD..)?.first_chunk_mut::<2>()?;
    put(head, ethernet::LEN + 12, destination.to_be_bytes());
    put(head, ethernet::LEN + 16, source.to_be_bytes());
    put(head, TRANSPORT, destination_port.to_be_bytes());
    put(head, TRANSPORT + 2, source_port.to_be_bytes());
    hop_off(head, ip_delta.and(HOP));
    let before = u16::from_be_bytes(*checksum);
    let after = match protocol {
        Protocol::Udp => transport_delta.apply_udp(before),
        Protocol::Tcp | Protocol::Sctp => transport_delta.apply(before),
    };
    *checksum = after.to_be_bytes();
    Some(head)
}

/// Puts a packet into another one to the server.
#[inline(never)]
fn tunnel<F: Frame>(frame: &mut F, packet: &Packet, way: &Way<'_>, packet_id: &mut u16) -> Option<()> {
    let Way { server, hop, mac, tunables } = *way;
    let client = &packet.tuple;
    let source = way.outer_source(client.destination)?;
    let rewrite = forward::tunnel(client, server.address, source, server.encapsulation, tunables.pmtu_disc);
    let id = packet_id.wrapping_add(1);
    let rewritten = forward::apply(&rewrite, packet, frame, hop.mtu, id).ok()?;
    *packet_id = id;
    forward::put_link_header(frame, rewritten, hop, mac).ok()
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
