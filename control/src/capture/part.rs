//! What travels of a capture.

use std::net::{IpAddr, SocketAddr};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_dataplane::capture::{Fate, Parties, Sight, Sighting};
use sluice_dataplane::wire::Address;

use crate::rules::{Method, Protocol};

/// A part of a capture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CapturePart {
    /// The director's interfaces; in the first part only
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<String>,
    /// Packets, in the order of their time
    pub packets: Vec<CapturedPacket>,
    /// For each interface, packets that were wanted and lost since the capture
    /// began, since they came quicker than they were read
    pub lost: Vec<u64>,
}

/// A packet as it was seen once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CapturedPacket {
    /// Nanoseconds since 1970, UTC: when the worker began with its burst
    pub time_ns: u64,
    /// The same for a packet before and after rewriting, and for no other
    pub packet: u64,
    /// The worker that dealt with it
    pub worker: u16,
    /// The interface that it came by or is sent by
    pub interface: String,
    /// What is seen of it
    pub seen: Seen,
    /// Why it was dropped, if it was, by the name of the counter
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Bytes of the frame, of which `data` may have fewer
    pub length: u32,
    /// The connection that it belongs to
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<Ends>,
    /// The frame from its Ethernet header on, in Base64
    pub data: String,
}

/// What is seen of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Seen {
    /// As it was received; it is sent on
    Received,
    /// As it was received; it waits for its next hop, or for the first of its
    /// fragments
    Waits,
    /// As it was received; it is left to the kernel
    Kernel,
    /// As it was received; it is dropped
    Refused,
    /// As it is sent
    Sent,
    /// What the director itself sends to a packet's sender
    Answer,
    /// It is dropped after it waited, or behind the forwarding
    Dropped,
}

impl Seen {
    /// Whether it came in, and did not go out.
    pub fn is_inbound(self) -> bool {
        !matches!(self, Seen::Sent | Seen::Answer)
    }

    /// What is said of it.
    pub fn text(self) -> &'static str {
        match self {
            Seen::Received => "received, sent on",
            Seen::Waits => "received, waits",
            Seen::Kernel => "received, left to the kernel",
            Seen::Refused => "received, dropped",
            Seen::Sent => "sent",
            Seen::Answer => "answer of the director",
            Seen::Dropped => "dropped later",
        }
    }
}

/// The ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ends {
    /// Transport protocol
    pub protocol: Protocol,
    /// Client
    pub client: SocketAddr,
    /// VIP
    pub service: SocketAddr,
    /// LIP of FULLNAT
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<SocketAddr>,
    /// Real server
    pub server: SocketAddr,
    /// How packets reach the server
    pub method: Method,
}

impl From<&Parties> for Ends {
    fn from(parties: &Parties) -> Self {
        let end = |(address, port): (Address, u16)| SocketAddr::new(IpAddr::from(address), port);
        let Parties { protocol, client, service, local, server, method } = *parties;
        Ends {
            protocol: protocol.into(),
            client: end(client),
            service: end(service),
            local: local.map(end),
            server: end(server),
            method: method.into(),
        }
    }
}

impl CapturedPacket {
    /// A packet that a worker copied, on whose clock the year 1970 began at
    /// `-epoch` nanoseconds.
    pub(super) fn new(sighting: &Sighting, bytes: &[u8], interfaces: &[String], epoch: u64) -> Self {
        let (seen, reason) = match sighting.sight {
            Sight::Before(Fate::Sent) => (Seen::Received, None),
            Sight::Before(Fate::Waits) => (Seen::Waits, None),
            Sight::Before(Fate::Kernel) => (Seen::Kernel, None),
            Sight::Before(Fate::Dropped(reason)) => (Seen::Refused, Some(reason)),
            Sight::After => (Seen::Sent, None),
            Sight::Answer => (Seen::Answer, None),
            Sight::Dropped(reason) => (Seen::Dropped, Some(reason)),
        };
        CapturedPacket {
            time_ns: epoch.saturating_add(sighting.at),
            packet: sighting.packet,
            worker: sighting.worker,
            interface: interfaces.get(usize::from(sighting.interface)).cloned().unwrap_or_default(),
            seen,
            reason: reason.map(|reason| reason.name().to_owned()),
            length: sighting.length,
            connection: sighting.parties.as_ref().map(Ends::from),
            data: BASE64_STANDARD.encode(bytes),
        }
    }

    /// The frame, or as much of it as was copied.
    ///
    /// # Errors
    /// When the text is not Base64.
    pub fn bytes(&self) -> Result<Vec<u8>, base64::DecodeError> {
        BASE64_STANDARD.decode(&self.data)
    }

    /// All that is told of it in words.
    pub fn comment(&self) -> String {
        let mut text = format!("worker {}: {}", self.worker, self.seen.text());
        if let Some(reason) = &self.reason {
            text += &format!(" ({reason})");
        }
        if let Some(ends) = &self.connection {
            text += &format!("; {ends}");
        }
        text
    }
}

impl std::fmt::Display for Ends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Ends { protocol, client, service, local, server, method } = self;
        write!(f, "{} {client} -> {service} -> ", protocol.name())?;
        if let Some(local) = local {
            write!(f, "{local} -> ")?;
        }
        write!(f, "{server}, {}", method.name())
    }
}
