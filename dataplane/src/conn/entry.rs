//! One connection.

use super::{NO_TEMPLATE, State, TemplateId, Tuple};
use crate::ftp::Role;
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

/// What a connection is, put in order for who looks at all of it. The table
/// keeps it as a [`Line`](super::Line).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Packets of the client as they arrive: CIP to VIP
    pub client: Tuple,
    /// Packets of the server as they arrive: RIP to CIP (NAT) or to LIP
    /// (FULLNAT). With DR and TUN none arrive, and this names the RIP only.
    pub server: Tuple,
    /// The real server
    pub server_id: ServerId,
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
    /// A connection that begins, with a server that is reached by `method`.
    /// `deltas` are what the rewriting of a client's packet adds to the sums of
    /// its IP header and of its transport header.
    #[inline]
    pub fn new(
        client: Tuple,
        server: Tuple,
        deltas: [Delta; 2],
        server_id: ServerId,
        method: Method,
    ) -> Self {
        let [ip_delta, transport_delta] = deltas;
        Entry {
            client,
            server,
            server_id,
            packets: 0,
            ip_delta,
            transport_delta,
            state: State::first(client.protocol),
            method,
            active: false,
            one_packet: false,
            ftp: Role::None,
            template: NO_TEMPLATE,
        }
    }

    /// Whether client and server are of the same address family.
    #[inline]
    pub fn is_of_one_family(&self) -> bool {
        self.client.source.is_v4() == self.server.source.is_v4()
    }
}
