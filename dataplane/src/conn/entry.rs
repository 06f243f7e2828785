//! One connection.

use super::{State, TemplateId, Tuple};
use crate::ftp::Role;
use crate::neigh::HopId;
use crate::service::{Method, ServerId};
use crate::wire::checksum::Delta;

/// A side of a connection: which of its two tuples a packet has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Side {
    /// The packet comes from the client
    Client = 0,
    /// The packet comes from the real server
    Server = 1,
}

/// What is kept of a connection. Its deadline is in the timing wheel, under
/// the same number.
///
/// How its packets are rewritten is worked out once and is all here, as plain
/// values: a packet from the client gets the reverse of `server` as its
/// addresses, one from the server the reverse of `client`, with checksums
/// corrected by the deltas.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Packets of the client as they arrive: CIP to VIP
    pub client: Tuple,
    /// Packets of the server as they arrive: RIP to CIP (NAT) or to LIP
    /// (FULLNAT). With DR and TUN none arrive, and this names the RIP only.
    pub server: Tuple,
    /// The real server
    pub server_id: ServerId,
    /// Next hop towards the server and towards the client; [`NO_HOP`] while
    /// there is none
    pub hops: [HopId; 2],
    /// Generation of the next hops that `hops` belong to
    pub hop_generation: u64,
    /// Packets of the client so far
    pub packets: u32,
    /// What the rewriting of a client's packet adds to the sum of its IP header
    pub ip_delta: Delta,
    /// What it adds to the sum of its transport header
    pub transport_delta: Delta,
    /// State of the connection
    pub state: State,
    /// How packets reach the server
    pub method: Method,
    /// Whether the server counts it as active (`ActiveConn`)
    pub active: bool,
    /// Whether it ends with its first packet (one-packet scheduling)
    pub one_packet: bool,
    /// What it is to FTP
    pub ftp: Role,
    /// The template that it was made by, or [`NO_TEMPLATE`](super::NO_TEMPLATE)
    pub template: TemplateId,
}

impl Entry {
    /// Whether client and server are of the same address family.
    #[inline]
    pub fn is_of_one_family(&self) -> bool {
        self.client.source.is_v4() == self.server.source.is_v4()
    }
}

/// No next hop known.
pub const NO_HOP: HopId = HopId(u32::MAX);
