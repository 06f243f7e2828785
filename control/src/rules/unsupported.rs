//! What IPVS can do and this version of Sluice cannot yet.
//!
//! Nothing is accepted that the data plane would not do. Each check goes when
//! its feature comes; no other file has to change for it.

use std::net::IpAddr;

use super::{Protocol, RulesError, Server, ServiceName, ServiceSettings};

fn refuse<T>(what: impl Into<String>) -> Result<T, RulesError> {
    Err(RulesError::Unsupported(what.into()))
}

/// Refuses a service that cannot be forwarded.
pub(super) fn service(name: &ServiceName, settings: &ServiceSettings) -> Result<(), RulesError> {
    match name {
        ServiceName::Mark { .. } => return refuse("a firewall-mark service (-f)"),
        ServiceName::Address { protocol: Protocol::Sctp, .. } => return refuse("an SCTP service"),
        // The data plane cannot tell it from an IPv4 one.
        ServiceName::Address { address: IpAddr::V6(v6), .. } if v6.to_ipv4_mapped().is_some() => {
            return refuse("an IPv4-mapped IPv6 service");
        }
        ServiceName::Address { .. } => {}
    }
    if settings.persistence.is_some() {
        return refuse("persistence (-p)");
    }
    if name.port() == 0 {
        return refuse("a service of every port (port 0)");
    }
    if settings.engine.is_some() {
        return refuse("a persistence engine (--pe)");
    }
    if settings.one_packet {
        return refuse("one-packet scheduling (-o)");
    }
    Ok(())
}

/// Refuses a real server that cannot be reached.
pub(super) fn server(server: &Server) -> Result<(), RulesError> {
    if server.port == 0 {
        return refuse("a real server of every port (port 0)");
    }
    Ok(())
}

/// Refuses to start or stop a sync daemon.
pub(super) fn daemon() -> Result<(), RulesError> {
    refuse("sync daemon")
}

/// What `ipvsadm -h` says of all this, indented as the rest of it.
pub const SUMMARY: &str = "  -p, --pe, -o, -f, SCTP, services of every port, the sync daemon";
