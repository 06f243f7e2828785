//! What IPVS can do and this version of Sluice cannot yet.
//!
//! Nothing is accepted that the data plane would not do. Each check goes when
//! its feature comes; no other file has to change for it.

use std::net::IpAddr;

use super::{Method, Protocol, RulesError, Server, ServiceName, ServiceSettings};

fn refuse<T>(what: impl Into<String>) -> Result<T, RulesError> {
    Err(RulesError::Unsupported(what.into()))
}

/// Refuses a service that cannot be forwarded.
pub(super) fn service(name: &ServiceName, settings: &ServiceSettings) -> Result<(), RulesError> {
    match name {
        // The data plane cannot tell it from an IPv4 one.
        ServiceName::Address { address: IpAddr::V6(v6), .. } if v6.to_ipv4_mapped().is_some() => {
            return refuse("an IPv4-mapped IPv6 service");
        }
        ServiceName::Address { .. } | ServiceName::Mark { .. } => {}
    }
    // This one stays: IPVS takes it and then schedules nothing.
    if !name.is_mark() && name.port() == 0 && settings.persistence.is_none() {
        return refuse("a service of every port without persistence (port 0 without -p)");
    }
    Ok(())
}

/// Refuses a server that does not go with its service.
pub(super) fn pair(name: &ServiceName, service: &ServiceSettings, server: &Server) -> Result<(), RulesError> {
    // And this one: IPVS has no FULLNAT, and its users have none for SCTP.
    let is_sctp = matches!(name, ServiceName::Address { protocol: Protocol::Sctp, .. });
    if is_sctp && server.method == Method::FullNat {
        return refuse("a FULLNAT server of an SCTP service (-b with --sctp-service)");
    }
    // This one stays too: without a connection nobody knows whose reply it is that
    // comes to a LIP, while the client of a NAT server gets it as it is.
    if service.one_packet && server.method == Method::FullNat {
        return refuse("a FULLNAT server of a one-packet service (-b with -o)");
    }
    Ok(())
}

/// What `ipvsadm -h` says of all this, indented as the rest of it.
pub const SUMMARY: &str = "  an IPv4-mapped IPv6 service; -b with --sctp-service or -o; port 0 without -p";
