//! Metrics of services, real servers and their checks.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Unit;
use sluice_dataplane::service::{RealServer, VirtualService};
use sluice_dataplane::stats::{ServerCounters, Traffic};

use super::Selection;
use super::family::Family;
use crate::observe::{Observatory, ServerHealth, ServerState};
use crate::rules::ServiceName;

pub(super) fn encode(
    observatory: &Observatory,
    selection: Selection,
    encoder: &mut DescriptorEncoder<'_>,
) -> fmt::Result {
    let table = observatory.services();
    let services: Vec<(String, &VirtualService)> =
        table.services().map(|(_, service)| (ServiceName::from(service.key).to_string(), service)).collect();
    encode_services(&services, encoder)?;
    if selection.servers {
        let servers: Vec<(usize, String, &RealServer)> = services
            .iter()
            .enumerate()
            .flat_map(|(place, (_, service))| service.servers.iter().map(move |id| (place, *id)))
            .filter_map(|(place, id)| {
                let server = table.server(id)?;
                Some((place, SocketAddr::new(server.address.into(), server.port).to_string(), server))
            })
            .collect();
        encode_servers(&services, &servers, encoder)?;
    }
    encode_checks(observatory, encoder)
}

/// Packets and bytes have a direction.
const IN: (&str, &str) = ("direction", "in");
const OUT: (&str, &str) = ("direction", "out");

fn encode_services(
    services: &[(String, &VirtualService)],
    encoder: &mut DescriptorEncoder<'_>,
) -> fmt::Result {
    Family::new("service_info", "A virtual service with its scheduler; the value is always 1.").gauges(
        encoder,
        services.iter().map(|(name, service)| {
            ([("service", name.as_str()), ("scheduler", service.scheduler.name())], 1_u64)
        }),
    )?;
    Family::new("service_servers", "Real servers that a service has now.").gauges(
        encoder,
        services.iter().map(|(name, service)| ([("service", name.as_str())], service.servers.len() as u64)),
    )?;
    // Read once, so that the numbers of a service belong together.
    let sums: Vec<Traffic> = services.iter().map(|(_, service)| service.counters.sum()).collect();
    let each = || services.iter().zip(&sums).map(|((name, _), sum)| (name.as_str(), sum));
    Family::new("service_scheduled_connections", "Connections that a service began.")
        .counters(encoder, each().map(|(name, sum)| ([("service", name)], sum.connections)))?;
    Family::new("service_packets", "Packets of a service, from clients (in) and to clients (out).")
        .counters(
            encoder,
            each().flat_map(|(name, sum)| {
                let service = ("service", name);
                [([service, IN], sum.in_packets), ([service, OUT], sum.out_packets)]
            }),
        )?;
    Family::with_unit(
        "service",
        "IP packets of a service, from clients (in) and to clients (out).",
        Unit::Bytes,
    )
    .counters(
        encoder,
        each().flat_map(|(name, sum)| {
            let service = ("service", name);
            [([service, IN], sum.in_bytes), ([service, OUT], sum.out_bytes)]
        }),
    )?;
    Family::new("service_dropped_packets", "Packets of a service that were not forwarded.").counters(
        encoder,
        services.iter().map(|(name, service)| ([("service", name.as_str())], service.counters.dropped())),
    )
}

fn encode_servers(
    services: &[(String, &VirtualService)],
    servers: &[(usize, String, &RealServer)],
    encoder: &mut DescriptorEncoder<'_>,
) -> fmt::Result {
    let each = || {
        servers.iter().map(|(place, name, server)| {
            ([("service", services[*place].0.as_str()), ("server", name.as_str())], *server)
        })
    };
    let gauge = |family: Family, encoder: &mut DescriptorEncoder<'_>, of: fn(&ServerCounters) -> u64| {
        family.gauges(encoder, each().map(|(labels, server)| (labels, of(&server.counters))))
    };
    Family::new("server_weight", "Weight of a real server; 0 takes no new connections.")
        .gauges(encoder, each().map(|(labels, server)| (labels, server.weight)))?;
    gauge(
        Family::new("server_active_connections", "Connections to a real server that are established."),
        encoder,
        ServerCounters::active,
    )?;
    gauge(
        Family::new("server_inactive_connections", "Connections to a real server in other states."),
        encoder,
        ServerCounters::inactive,
    )?;
    gauge(
        Family::new("server_persistence_templates", "Clients that are bound to a real server."),
        encoder,
        ServerCounters::persistent,
    )?;
    gauge(
        Family::new("server_overloaded", "Whether a real server has as many connections as it may have."),
        encoder,
        |counters| u64::from(counters.overload().is_on()),
    )?;
    let sums: Vec<Traffic> = servers.iter().map(|(_, _, server)| server.counters.traffic()).collect();
    let traffic = || each().map(|(labels, _)| labels).zip(&sums);
    Family::new("server_scheduled_connections", "Connections that were given to a real server.")
        .counters(encoder, traffic().map(|(labels, sum)| (labels, sum.connections)))?;
    Family::new("server_packets", "Packets of a real server, from clients (in) and to clients (out).")
        .counters(
            encoder,
            traffic().flat_map(|([service, server], sum)| {
                [([service, server, IN], sum.in_packets), ([service, server, OUT], sum.out_packets)]
            }),
        )?;
    Family::with_unit(
        "server",
        "IP packets of a real server, from clients (in) and to clients (out).",
        Unit::Bytes,
    )
    .counters(
        encoder,
        traffic().flat_map(|([service, server], sum)| {
            [([service, server, IN], sum.in_bytes), ([service, server, OUT], sum.out_bytes)]
        }),
    )?;
    Family::new("server_dropped_packets", "Packets of a real server's connections that were not forwarded.")
        .counters(encoder, each().map(|(labels, server)| (labels, server.counters.dropped())))
}

fn encode_checks(observatory: &Observatory, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let health: Arc<_> = observatory.health();
    let checked: Vec<(String, String, &ServerHealth)> = health
        .services
        .iter()
        .flat_map(|(service, servers)| {
            let name = service.to_string();
            servers.iter().map(move |((address, port), health): (&(IpAddr, u16), _)| {
                (name.clone(), SocketAddr::new(*address, *port).to_string(), health)
            })
        })
        .collect();
    let each = || {
        checked.iter().map(|(service, server, health)| {
            ([("service", service.as_str()), ("server", server.as_str())], *health)
        })
    };
    Family::new("check_up", "Whether a real server passes its checks; 0 also before the first has ended.")
        .gauges(
            encoder,
            each().map(|(labels, health)| (labels, u64::from(health.state == ServerState::Up))),
        )?;
    Family::with_unit(
        "check_last_change_timestamp",
        "When a real server came up or went down.",
        Unit::Seconds,
    )
    .gauges(encoder, each().map(|(labels, health)| (labels, health.since_ms as f64 / 1000.0)))?;
    Family::with_unit("check_latency", "How long the last check of a real server took.", Unit::Seconds)
        .gauges(encoder, each().filter_map(|(labels, health)| Some((labels, health.latency?))))
}
