//! One connection, or one persistence template, as another director learns of it.

use crate::conn::{State, TemplateKey, Tuple};
use crate::ftp::Role;
use crate::service::{Method, ServiceKey};
use crate::wire::Address;

/// A change of what a director knows, to be applied in the order of its worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// The connection is there and is like this; whoever has it already brings
    /// it up to date
    Session(Session),
    /// The connection of this client's tuple is over
    SessionGone(Tuple),
    /// The template is there and is like this
    Template(TemplateRecord),
    /// The template with this key, and of this call where it is of one, is over
    TemplateGone(TemplateKey, Option<Box<[u8]>>),
}

/// A connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Packets of the client as they arrive: CIP to VIP
    pub client: Tuple,
    /// The service that it belongs to
    pub service: ServiceKey,
    /// RIP, and port in host order
    pub server: (Address, u16),
    /// LIP and port of a FULLNAT connection
    pub local: Option<(Address, u16)>,
    /// How packets reach the server
    pub method: Method,
    /// State of the connection
    pub state: State,
    /// Seconds that it lives from now on unless packets come
    pub expires: u32,
    /// Packets of the client so far
    pub packets: u32,
    /// Whether a template was made with it, or it was made by one
    pub persistent: bool,
    /// What it is to FTP. Of one that is [`Role::Expected`] the port that is
    /// not known yet is 0.
    pub ftp: Role,
    /// What FTP's control connection needs to go on, where text was changed
    pub control: Option<FtpControl>,
    /// Whether the kernel carries it ([`crate::offload`]), as far as that is told: only
    /// while a [successor](super::Subscription::of_successor) is among the listeners
    pub carried: bool,
}

/// Where a control connection of FTP is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FtpControl {
    /// What the client sends
    pub client: Adjustment,
    /// What the server sends
    pub server: Adjustment,
    /// Whether it is encrypted, and so only its numbers change
    pub encrypted: bool,
}

/// How sequence numbers of one direction change (`struct ip_vs_seq`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Adjustment {
    /// The sequence number, as its sender counts, from which on `delta` holds
    pub from: u32,
    /// What is added from there on
    pub delta: i32,
    /// What is added before
    pub previous_delta: i32,
}

/// A persistence template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateRecord {
    /// What it is found by
    pub key: TemplateKey,
    /// The service that it belongs to
    pub service: ServiceKey,
    /// RIP, and port in host order or 0
    pub server: (Address, u16),
    /// How packets reach the server
    pub method: Method,
    /// Seconds that it lives from its last connection on
    pub timeout: u32,
    /// Seconds that it lives from now on unless connections come
    pub expires: u32,
    /// Whether one of its connections was established
    pub assured: bool,
    /// The call that it is of (`--pe sip`)
    pub call: Option<Box<[u8]>>,
}
