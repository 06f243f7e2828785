//! A connection as listings show it.

use crate::service::{Method, Protocol};
use crate::wire::Address;

/// What `ipvsadm -L -c` shows of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionRecord {
    /// Transport protocol
    pub protocol: Protocol,
    /// Seconds until the entry expires
    pub expires: u32,
    /// IPVS name of the state ("ESTABLISHED", "UDP", ...)
    pub state: &'static str,
    /// Client address and port
    pub client: (Address, u16),
    /// VIP and port
    pub service: (Address, u16),
    /// LIP and port of a FULLNAT connection
    pub local: Option<(Address, u16)>,
    /// Real server address and port
    pub server: (Address, u16),
    /// How packets reach the server
    pub method: Method,
    /// A persistence template of a mark service: it is of every protocol, and
    /// `protocol` says nothing
    pub any_protocol: bool,
    /// Mark of the service, where it is a mark service (`cp->fwmark`)
    pub mark: Option<u32>,
    /// A template of a persistence engine: its name, and what it goes by, which
    /// may be any bytes (`PEName`, `PEData`)
    pub engine: Option<(&'static str, Box<[u8]>)>,
}
