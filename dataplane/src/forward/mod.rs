//! Forwarding methods, one file each, and what they have in common.
//!
//! A [`Rewrite`] says what is done to the packets of one side of a connection.
//! It is a plain value with no pointers in it, worked out from the connection's
//! entry; applying it touches nothing but the frame.

mod dr;
mod egress;
mod fullnat;
pub mod icmp;
mod nat;
pub mod related;
mod tun;

pub use egress::{link_header_len, put_link_header};
pub use tun::OVERHEAD as TUNNEL_OVERHEAD;

use crate::conn::{Entry, Side, Tuple};
use crate::packet::Packet;
use crate::port::Frame;
use crate::service::Method;
use crate::stats::DropReason;
use crate::wire::Address;
use crate::wire::checksum::Delta;

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
    /// The packet is put behind another IPv4 header
    Encapsulate {
        /// Outer source: the director
        source: [u8; 4],
        /// Outer destination: the real server
        destination: [u8; 4],
    },
}

/// A packet ready for its link-layer header.
#[derive(Clone, Copy, Debug)]
pub struct Rewritten {
    /// Where the IP packet starts in the frame
    pub offset: usize,
    /// Bytes of the IP packet
    pub length: usize,
}

/// Why a packet was not rewritten.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// Its TTL is used up: time exceeded to the sender
    TtlExceeded,
    /// It may not be fragmented and is larger than this MTU, in bytes of the
    /// packet as its sender knows it: fragmentation needed to the sender
    TooBig(u16),
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
}

/// What is done to a packet from `side` of a connection. `outer_source` is
/// the address that a tunnel starts at.
#[inline]
pub fn rewrite(entry: &Entry, side: Side, outer_source: Address) -> Rewrite {
    match entry.method {
        Method::Nat | Method::FullNat => nat::rewrite(entry, side),
        Method::DirectRoute => Rewrite::Keep,
        Method::Tunnel => tun::rewrite(entry, outer_source),
    }
}

/// Applies a rewrite to an IPv4 packet that will leave over a link with `mtu`,
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
        Rewrite::Encapsulate { .. } => mtu.saturating_sub(tun::OVERHEAD),
        Rewrite::Keep | Rewrite::Replace { .. } => mtu,
    };
    if packet.length > room {
        return Err(if packet.dont_fragment {
            Refused::TooBig(room)
        } else {
            Refused::Drop(DropReason::TooBig)
        });
    }
    match *rewrite {
        Rewrite::Keep => dr::apply(packet, frame),
        Rewrite::Replace { source, destination, ip_delta, transport_delta } => {
            nat::apply(packet, frame, source, destination, ip_delta, transport_delta)
        }
        Rewrite::Encapsulate { source, destination } => tun::apply(packet, frame, source, destination, id),
    }
}
