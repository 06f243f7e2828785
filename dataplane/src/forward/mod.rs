//! Forwarding methods, one file each, and what they have in common.
//!
//! A [`Rewrite`] says what is done to the packets of one side of a connection.
//! It is a plain value with no pointers in it, worked out from the connection's
//! entry; applying it touches nothing but the frame.

mod dr;
mod egress;
mod fullnat;
pub mod icmp;
mod icmpv6;
mod nat;
pub mod related;
mod split;
mod translate;
mod translate_error;
mod tun;

pub use egress::{link_header_len, put_link_header};
pub use split::Split;

use crate::conn::{Entry, Side, Tuple};
use crate::packet::Packet;
use crate::port::Frame;
use crate::service::{Encapsulation, Method};
use crate::stats::DropReason;
use crate::wire::checksum::Delta;
use crate::wire::{Address, ipv6};

/// What is done to a packet before it is sent to its next hop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rewrite {
    /// The packet stays as it is but for its TTL
    Keep,
    /// Addresses and ports are replaced
    Replace {
        /// New source address and port
        source: (Address, u16),
        /// New destination address and port
        destination: (Address, u16),
        /// What this adds to the sum of the IP header
        ip_delta: Delta,
        /// What this adds to the sum of the transport header
        transport_delta: Delta,
    },
    /// The packet is put behind another IP header, of either family
    Encapsulate {
        /// What is between the two
        encapsulation: Encapsulation,
        /// Outer source: the director
        source: Address,
        /// Outer destination: the real server
        destination: Address,
        /// UDP source port of GUE, the same for all packets of a connection
        source_port: u16,
        /// Whether the outer header takes over "do not fragment" (`pmtu_disc`)
        copy_dont_fragment: bool,
    },
}

/// A packet ready for its link-layer header.
#[derive(Clone, Copy, Debug)]
pub struct Rewritten {
    /// Where the IP packet starts in the frame
    offset: u16,
    /// Bytes of the IP packet
    length: u16,
}

impl Rewritten {
    /// A packet that starts at `offset` in its frame. Two small numbers, so
    /// that it is handed on in a register.
    #[inline]
    pub fn new(offset: usize, length: usize) -> Self {
        Rewritten { offset: offset as u16, length: length as u16 }
    }

    /// Where the IP packet starts in the frame.
    #[inline]
    pub fn offset(self) -> usize {
        self.offset.into()
    }

    /// Bytes of the IP packet.
    #[inline]
    pub fn length(self) -> usize {
        self.length.into()
    }
}

/// Why a packet was not rewritten.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// Its TTL is used up: time exceeded to the sender
    TtlExceeded,
    /// It may not be fragmented and is larger than this MTU, in bytes of the
    /// packet as its sender knows it: fragmentation needed to the sender
    TooBig(u16),
    /// It is to be fragmented into pieces of at most so many bytes, of the
    /// packet as its sender knows it
    Split(u16),
    /// It cannot be carried on
    Drop(DropReason),
}

/// The tuples of a new connection and what rewriting costs their checksums.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Packets of the server as they will arrive
    pub server: Tuple,
    /// For the sum of the IP header, client to server
    pub ip_delta: Delta,
    /// For the sum of the transport header, client to server
    pub transport_delta: Delta,
}

impl Plan {
    /// The plan for a connection whose client's packets arrive as `client`.
    /// `local` is the LIP and port of a FULLNAT connection, and not looked at
    /// otherwise.
    pub fn new(method: Method, client: Tuple, server: (Address, u16), local: (Address, u16)) -> Self {
        match method {
            Method::Nat => nat::plan(client, server),
            Method::FullNat => fullnat::plan(client, server, local),
            Method::DirectRoute => dr::plan(client, server),
            Method::Tunnel => tun::plan(client, server),
        }
    }

    /// For the sums of the IP header and of the transport header.
    #[inline]
    pub fn deltas(&self) -> [Delta; 2] {
        [self.ip_delta, self.transport_delta]
    }
}

/// The deltas of a [`Plan`] where no address is of IPv6, in host order. `local` is
/// the client's own address and port but for FULLNAT.
#[inline]
pub fn deltas_v4(method: Method, client: &Tuple, server: (u32, u16), local: (u32, u16)) -> [Delta; 2] {
    if method.has_replies() { nat::deltas_v4(client, local, server) } else { [Delta::default(); 2] }
}

/// What is done to a packet from `side` of a connection. A tunnel starts at
/// `outer_source`, is of the kind `encapsulation`, and with `pmtu_disc` lets
/// clients know of its MTU.
#[inline]
pub fn rewrite(
    entry: &Entry,
    side: Side,
    outer_source: Address,
    encapsulation: Encapsulation,
    pmtu_disc: bool,
) -> Rewrite {
    match entry.method {
        Method::Nat | Method::FullNat => nat::rewrite(entry, side),
        Method::DirectRoute => Rewrite::Keep,
        Method::Tunnel => tunnel(&entry.client, entry.server.source, outer_source, encapsulation, pmtu_disc),
    }
}

/// The same for a connection by a tunnel to `server`, whose client's packets arrive
/// as `client`.
#[inline]
pub fn tunnel(
    client: &Tuple,
    server: Address,
    outer_source: Address,
    encapsulation: Encapsulation,
    pmtu_disc: bool,
) -> Rewrite {
    tun::rewrite(client, server, outer_source, encapsulation, pmtu_disc)
}

/// Bytes that a packet grows by in a tunnel to `server`.
#[inline]
pub fn tunnel_overhead(encapsulation: Encapsulation, server: Address) -> u16 {
    tun::overhead(encapsulation, server)
}

/// Applies a rewrite to a packet that will leave over a link with `mtu`,
/// and takes one hop off its TTL as a router does.
///
/// A refused packet is as it was.
#[inline]
pub fn apply<F: Frame>(
    rewrite: &Rewrite,
    packet: &Packet,
    frame: &mut F,
    mtu: u16,
    id: u16,
) -> Result<Rewritten, Refused> {
    // IPVS decrements in its transmit functions (ip_vs_xmit.c,
    // decrement_ttl) before it looks at the MTU.
    if packet.ttl <= 1 {
        return Err(Refused::TtlExceeded);
    }
    let room = match rewrite {
        Rewrite::Encapsulate { encapsulation, destination, .. } => {
            mtu.saturating_sub(tun::overhead(*encapsulation, *destination))
        }
        Rewrite::Replace { destination, .. } if packet.is_v4 != destination.0.is_v4() => {
            translate::room(mtu, packet, frame.bytes())
        }
        Rewrite::Keep | Rewrite::Replace { .. } => mtu,
    };
    if packet.length > room {
        // A sender of IPv6 cannot make use of less (RFC 8200, section 5), and
        // IPVS then has no route (__ip_vs_get_out_rt_v6).
        if !packet.is_v4 && room < ipv6::MIN_MTU {
            return Err(Refused::Drop(DropReason::TooBig));
        }
        // `ensure_mtu_is_adequate`
        let anyway =
            matches!(rewrite, Rewrite::Encapsulate { copy_dont_fragment: false, .. }) && packet.is_v4;
        let whole = packet.dont_fragment && !anyway;
        return Err(if whole { Refused::TooBig(room) } else { Refused::Split(room) });
    }
    match *rewrite {
        Rewrite::Keep => dr::apply(packet, frame),
        Rewrite::Replace { source, destination, transport_delta, .. }
            if packet.is_v4 != destination.0.is_v4() =>
        {
            translate::apply(packet, frame, source, destination, transport_delta, id)
        }
        Rewrite::Replace { source, destination, ip_delta, transport_delta } => {
            nat::apply(packet, frame, source, destination, ip_delta, transport_delta)
        }
        Rewrite::Encapsulate { encapsulation, source, destination, source_port, copy_dont_fragment } => {
            let between = tun::Between { encapsulation, source_port };
            let outer = tun::Outer { source, destination, id, copy_dont_fragment };
            tun::apply(packet, frame, outer, between)
        }
    }
}
