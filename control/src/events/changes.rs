//! What a command changed, in words.

use std::net::{IpAddr, SocketAddr};

use crate::api::Request;
use crate::rules::{Daemon, DaemonRole, Method, Server, ServiceName, ServiceSettings, Timeouts};

/// What was changed by a request that was granted; `None` for those that
/// change nothing but counters.
pub fn describe(request: &Request) -> Option<String> {
    Some(match request {
        Request::AddService { service, settings } => format!("service {service} added ({})", how(settings)),
        Request::EditService { service, settings } => format!("service {service} set to {}", how(settings)),
        Request::DeleteService { service } => format!("service {service} removed"),
        Request::Flush => "all services removed".into(),
        Request::AddServer { service, server } => {
            format!("server {} added to {service} ({})", end(server.address, server.port), what(server))
        }
        Request::EditServer { service, server } => {
            format!("server {} of {service} set to {}", end(server.address, server.port), what(server))
        }
        Request::DeleteServer { service, address, port } => {
            format!("server {} removed from {service}", end(*address, *port))
        }
        Request::AddLocalAddress { service, address } => local(service, *address, "added to"),
        Request::DeleteLocalAddress { service, address } => local(service, *address, "removed from"),
        Request::Zero { service: Some(service) } => format!("counters of {service} zeroed"),
        Request::Zero { service: None } => "all counters zeroed".into(),
        Request::SetTimeouts { timeouts: Timeouts { tcp, tcp_fin, udp } } => {
            format!("timeouts set to {tcp}, {tcp_fin} and {udp} seconds (TCP, after FIN, UDP; 0 unchanged)")
        }
        Request::StartDaemon { daemon: Daemon { role, interface, .. } } => {
            format!("sync daemon started as {} on {interface}", role_name(*role))
        }
        Request::StopDaemon { role } => format!("sync daemon stopped as {}", role_name(*role)),
        Request::AddMark { rule, number } => match number {
            Some(number) => format!("mark rule inserted as number {number}: {rule}"),
            None => format!("mark rule added: {rule}"),
        },
        Request::DeleteMark { rule } => format!("mark rule removed: {rule}"),
        Request::DeleteMarkNumber { number } => format!("mark rule number {number} removed"),
        Request::FlushMarks => "all mark rules removed".into(),
        Request::ReplaceMarks { rules } => format!("mark rules replaced by {}", rules.len()),
        _ => return None,
    })
}

fn how(settings: &ServiceSettings) -> String {
    let mut text = format!("scheduler {}", settings.scheduler);
    if let Some(seconds) = settings.persistence {
        text += &format!(", persistent for {seconds} s");
    }
    if settings.one_packet {
        text += ", one-packet";
    }
    text
}

fn what(server: &Server) -> String {
    let method = match server.method {
        Method::Nat => "nat",
        Method::FullNat => "fullnat",
        Method::Dr => "dr",
        Method::Tun => "tun",
    };
    format!("{method}, weight {}", server.weight)
}

fn end(address: IpAddr, port: u16) -> String {
    SocketAddr::new(address, port).to_string()
}

fn local(service: &ServiceName, address: IpAddr, done: &str) -> String {
    format!("local address {address} {done} {service}")
}

fn role_name(role: DaemonRole) -> &'static str {
    match role {
        DaemonRole::Master => "master",
        DaemonRole::Backup => "backup",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{Family, Protocol};

    #[test]
    fn changes_read_well() {
        let service =
            ServiceName::Address { protocol: Protocol::Tcp, address: [192, 0, 2, 10].into(), port: 80 };
        let server = Server::plain([10, 0, 2, 1].into(), 8080, Method::FullNat, 3);
        let settings =
            ServiceSettings { persistence: Some(300), ..ServiceSettings::plain("wrr", Family::Ipv4) };
        for (request, expected) in [
            (
                Request::AddService { service, settings },
                Some("service tcp 192.0.2.10:80 added (scheduler wrr, persistent for 300 s)"),
            ),
            (
                Request::AddServer { service, server },
                Some("server 10.0.2.1:8080 added to tcp 192.0.2.10:80 (fullnat, weight 3)"),
            ),
            (Request::DeleteService { service }, Some("service tcp 192.0.2.10:80 removed")),
            (Request::Zero { service: None }, Some("all counters zeroed")),
            (Request::Services { service: None }, None),
            (Request::Status, None),
        ] {
            assert_eq!(describe(&request).as_deref(), expected, "{request:?}");
        }
    }
}
