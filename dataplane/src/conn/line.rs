//! A connection as the table keeps it: one cache line.

use super::tuple::rest;
use super::{Entry, Seed, Side, State, TemplateId, Tuple};
use crate::ftp::Role;
use crate::neigh::HopId;
use crate::service::{Method, Protocol, ServerId};
use crate::wire::Address;
use crate::wire::checksum::Delta;

/// No next hop known.
pub const NO_HOP: HopId = HopId(u32::MAX);

/// What is kept of a connection in the one cache line that a packet of IPv4
/// reads and writes. Addresses of IPv6 are elsewhere, and here their last four
/// bytes.
///
/// How its packets are rewritten is worked out once and is all here, as plain
/// values: a packet from the client gets the reverse of the server's tuple, one
/// from the server the reverse of the client's, with checksums corrected by the
/// deltas.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Line {
    ends: [Ends; 2],
    kinds: [Kind; 2],
    /// How packets reach the server
    pub method: Method,
    /// State of the connection
    pub state: State,
    /// The real server
    pub server_id: ServerId,
    /// Next hop towards the server and towards the client; [`NO_HOP`] while
    /// there is none
    pub hops: [HopId; 2],
    /// Generation of the next hops that `hops` belong to, of which 32 bits will
    /// do: they do not change so often in the time of a connection
    pub hop_generation: u32,
    /// The tick at which it expires, if it is linked in the timing wheel
    pub(super) deadline: u32,
    /// Packets of the client so far
    pub packets: u32,
    /// What the rewriting of a client's packet adds to the sum of its IP header
    pub ip_delta: Delta,
    /// What it adds to the sum of its transport header
    pub transport_delta: Delta,
    /// The template that it was made by, or [`NO_TEMPLATE`](super::NO_TEMPLATE)
    pub template: TemplateId,
    /// Whether the server counts it as active (`ActiveConn`)
    pub active: bool,
    /// Whether it ends with its first packet (one-packet scheduling)
    pub one_packet: bool,
    /// What it is to FTP
    pub ftp: Role,
    /// How far it is from being carried by the program (`worker/offload.rs`)
    pub offload: u8,
}

/// What there is to say of a connection with its first packet, beside addresses.
#[derive(Clone, Copy, Debug)]
pub struct Begin {
    /// How packets reach the server
    pub method: Method,
    /// State after the packet
    pub state: State,
    /// The real server
    pub server_id: ServerId,
    /// Next hop towards the server
    pub hop: HopId,
    /// Generation of the next hops that it belongs to
    pub hop_generation: u32,
    /// What the rewriting of a client's packet adds to the sums of its IP header
    /// and of its transport header
    pub deltas: [Delta; 2],
}

/// Addresses and ports of a tuple, by their last four bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Ends {
    /// Source address
    pub source: u32,
    /// Destination address
    pub destination: u32,
    /// Source and destination port
    pub ports: [u16; 2],
}

/// Protocol and address family of a tuple; 0 where there is no connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Kind(u8);

impl Kind {
    const NONE: Kind = Kind(0);
    /// Some address is of IPv6
    const WIDE: u8 = 4;

    #[inline]
    fn of(tuple: &Tuple) -> Self {
        let Kind(protocol) = Kind::of_v4(tuple.protocol);
        Kind(protocol | if tuple.is_v4() { 0 } else { Kind::WIDE })
    }

    #[inline]
    fn of_v4(protocol: Protocol) -> Self {
        Kind(match protocol {
            Protocol::Tcp => 1,
            Protocol::Udp => 2,
            Protocol::Sctp => 3,
        })
    }

    #[inline]
    fn is_wide(self) -> bool {
        self.0 & Kind::WIDE != 0
    }

    #[inline]
    fn protocol(self) -> Protocol {
        match self.0 & !Kind::WIDE {
            1 => Protocol::Tcp,
            2 => Protocol::Udp,
            _ => Protocol::Sctp,
        }
    }
}

/// A tuple as a [`Line`] has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Key {
    ends: Ends,
    kind: Kind,
}

impl Key {
    #[inline]
    pub(super) fn of(tuple: &Tuple) -> Self {
        let ends = Ends {
            source: tuple.source.words().1 as u32,
            destination: tuple.destination.words().1 as u32,
            ports: [tuple.source_port, tuple.destination_port],
        };
        Key { ends, kind: Kind::of(tuple) }
    }

    /// [`Tuple::hash`] of its tuple, where no address is of IPv6.
    #[inline]
    pub(super) fn narrow_hash(self, seed: Seed) -> u64 {
        let Ends { source, destination, ports } = self.ends;
        seed.hash_v4(u64::from(source) << 32 | u64::from(destination), rest(ports, self.kind.protocol()))
    }

    /// Whether it says less than the tuple.
    #[inline]
    pub(super) fn is_wide(self) -> bool {
        self.kind.is_wide()
    }
}

/// Source and destination address of a tuple of which some is of IPv6.
pub(super) type Wide = [[u64; 2]; 2];

impl Line {
    /// No connection.
    pub(super) const NONE: Line = Line {
        ends: [Ends { source: 0, destination: 0, ports: [0; 2] }; 2],
        kinds: [Kind::NONE; 2],
        method: Method::Nat,
        state: State::None,
        server_id: ServerId(0),
        hops: [NO_HOP; 2],
        hop_generation: 0,
        deadline: 0,
        packets: 0,
        ip_delta: Delta::NONE,
        transport_delta: Delta::NONE,
        template: super::NO_TEMPLATE,
        active: false,
        one_packet: false,
        ftp: Role::None,
        offload: 0,
    };

    /// The line of an entry.
    #[inline]
    pub(super) fn of(entry: &Entry) -> Self {
        let keys = [Key::of(&entry.client), Key::of(&entry.server)];
        Line {
            ends: keys.map(|key| key.ends),
            kinds: keys.map(|key| key.kind),
            method: entry.method,
            state: entry.state,
            server_id: entry.server_id,
            hops: [NO_HOP; 2],
            hop_generation: 0,
            deadline: 0,
            packets: entry.packets,
            ip_delta: entry.ip_delta,
            transport_delta: entry.transport_delta,
            template: entry.template,
            active: entry.active,
            one_packet: entry.one_packet,
            ftp: entry.ftp,
            offload: 0,
        }
    }

    /// The line of a new connection of which no address is of IPv6: `client` is as
    /// its packets arrive, and a server's are from `server` to `local`, which is
    /// the client itself but for FULLNAT.
    #[inline]
    pub fn begun(client: &Tuple, [server, local]: [(u32, u16); 2], begin: &Begin) -> Self {
        let kind = Kind::of_v4(client.protocol);
        let replies = Ends { source: server.0, destination: local.0, ports: [server.1, local.1] };
        let [ip_delta, transport_delta] = begin.deltas;
        Line {
            ends: [Key::of(client).ends, replies],
            kinds: [kind; 2],
            method: begin.method,
            state: begin.state,
            server_id: begin.server_id,
            hops: [begin.hop, NO_HOP],
            hop_generation: begin.hop_generation,
            deadline: 0,
            packets: 1,
            ip_delta,
            transport_delta,
            template: super::NO_TEMPLATE,
            active: begin.state.is_active(),
            one_packet: false,
            ftp: Role::None,
            offload: 0,
        }
    }

    /// [`Tuple::hash`] of a server's packets, where no address is of IPv6.
    #[inline]
    pub(super) fn hash_of_replies(&self, seed: Seed) -> u64 {
        let (ends, kind) = (self.ends[Side::Server as usize], self.kinds[Side::Server as usize]);
        Key { ends, kind }.narrow_hash(seed)
    }

    /// The entry that the line is of, whose wide addresses `wide` knows.
    #[inline]
    pub(super) fn entry(&self, wide: impl Fn(Side) -> Wide) -> Entry {
        let tuple = |side: Side| {
            let (ends, kind) = (self.ends[side as usize], self.kinds[side as usize]);
            let [source, destination] = if kind.is_wide() {
                wide(side).map(Address::from_words)
            } else {
                [ends.source, ends.destination].map(|v4| Address::from_v4(v4.to_be_bytes()))
            };
            let [source_port, destination_port] = ends.ports;
            Tuple { source, destination, source_port, destination_port, protocol: kind.protocol() }
        };
        Entry {
            client: tuple(Side::Client),
            server: tuple(Side::Server),
            server_id: self.server_id,
            packets: self.packets,
            ip_delta: self.ip_delta,
            transport_delta: self.transport_delta,
            state: self.state,
            method: self.method,
            active: self.active,
            one_packet: self.one_packet,
            ftp: self.ftp,
            template: self.template,
        }
    }

    /// Whether there is a connection.
    #[inline]
    pub(super) fn is_some(&self) -> bool {
        self.kinds[Side::Client as usize] != Kind::NONE
    }

    /// Whether a side's tuple may be one with this key, and is, unless that is
    /// wide.
    #[inline]
    pub(super) fn is(&self, side: Side, key: Key) -> bool {
        let (ends, kind) = (self.ends[side as usize], self.kinds[side as usize]);
        // One branch, as most likely all are the same.
        let [source_port, destination_port] = [0, 1].map(|i| ends.ports[i] ^ key.ends.ports[i]);
        let differ = ends.source ^ key.ends.source
            | ends.destination ^ key.ends.destination
            | u32::from(source_port | destination_port)
            | u32::from(kind.0 ^ key.kind.0);
        differ == 0
    }

    /// Moves the deadline to a tick that is not earlier; returns false, and
    /// nothing is done, where it is.
    #[inline]
    pub fn prolong(&mut self, deadline: u32) -> bool {
        let later = deadline >= self.deadline;
        if later {
            self.deadline = deadline;
        }
        later
    }

    /// The tuple of a side, where neither has addresses of IPv6.
    #[inline]
    pub fn narrow(&self, side: Side) -> Option<&Ends> {
        let wide = self.kinds[0].is_wide() || self.kinds[1].is_wide();
        (!wide).then(|| &self.ends[side as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_line() {
        assert_eq!(size_of::<Line>(), 64);
    }
}
