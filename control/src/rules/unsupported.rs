//! What IPVS can do and this version of Sluice cannot yet.
//!
//! Nothing is accepted that the data plane would not do. Each check goes when
//! its feature comes; no other file has to change for it.

use std::net::IpAddr;

use super::{Protocol, RulesError, Server, ServiceName, ServiceSettings, Tunnel};

fn refuse<T>(what: impl Into<String>) -> Result<T, RulesError> {
    Err(RulesError::Unsupported(what.into()))
}

/// Refuses a service that cannot be forwarded.
pub(super) fn service(name: &ServiceName, settings: &ServiceSettings) -> Result<(), RulesError> {
    match name {
        ServiceName::Mark { .. } => return refuse("a firewall-mark service (-f)"),
        ServiceName::Address { protocol: Protocol::Sctp, .. } => return refuse("an SCTP service"),
        // This one stays when IPv6 comes: the data plane cannot tell it apart.
        ServiceName::Address { address: IpAddr::V6(v6), .. } if v6.to_ipv4_mapped().is_some() => {
            return refuse("an IPv4-mapped IPv6 service");
        }
        ServiceName::Address { address: IpAddr::V6(_), .. } => return refuse("an IPv6 service"),
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
    if server.address.is_ipv6() {
        return refuse("an IPv6 real server");
    }
    if server.port == 0 {
        return refuse("a real server of every port (port 0)");
    }
    match server.tunnel {
        Tunnel::Ipip => {}
        Tunnel::Gue { .. } => return refuse("tunnel type gue"),
        Tunnel::Gre { .. } => return refuse("tunnel type gre"),
    }
    Ok(())
}

/// Refuses a LIP that connections cannot be made from.
pub(super) fn local_address(address: IpAddr) -> Result<(), RulesError> {
    if address.is_ipv6() {
        return refuse("an IPv6 local address");
    }
    Ok(())
}

/// Refuses to start or stop a sync daemon.
pub(super) fn daemon() -> Result<(), RulesError> {
    refuse("sync daemon")
}

/// What `ipvsadm -h` says of all this, indented as the rest of it.
pub const SUMMARY: &str =
    "  -p, --pe, -o, -f, -6, IPv6, SCTP, services of every port, --tun-type gue|gre,\n  the sync daemon";
