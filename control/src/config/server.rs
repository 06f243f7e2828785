//! `[[service.server]]`.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use sluice_dataplane::service::{Family, Method, Protocol, ServiceKey};
use sluice_dataplane::wire::Address;
use toml::Spanned;

use super::check::{Check, METHODS};
use super::{MAX_WEIGHT, Server, file};
use crate::rules::MAX_WEIGHT as MAX_THRESHOLD;

impl Check<'_> {
    /// The servers of a service, whose key is `None` if it had a mistake.
    pub(super) fn servers(
        &mut self,
        list: &[Spanned<file::Server>],
        service: Option<ServiceKey>,
        locals: &[Address],
    ) -> Vec<Server> {
        let mut seen: HashMap<(Address, u16), usize> = HashMap::new();
        let mut servers = Vec::new();
        for spanned in list {
            let server = spanned.as_ref();
            let method = match &server.method {
                Some(method) => self.one_of("method", method, &METHODS),
                None => {
                    self.missing(spanned.span(), "method");
                    None
                }
            };
            let tunnel = self.tunnel(server, method);
            let weight = self.weight(server.weight.as_ref());
            let (upper_threshold, lower_threshold) = self.thresholds(server);
            let Some(text) = &server.address else {
                self.missing(spanned.span(), "address");
                continue;
            };
            let Some((address, port)) = self.real_address(text) else {
                continue;
            };
            let Some(key) = service else {
                continue;
            };
            let service_port = key.port();
            let span = text.span();
            let (method_name, method_span) = match &server.method {
                Some(method) => (method.as_ref().as_str(), method.span()),
                None => ("", span.clone()),
            };
            let (its_family, vips_family) = (family(address), name_of(key.family()));
            if matches!(method, Some(Method::Nat | Method::DirectRoute)) && its_family != vips_family {
                self.problem(
                    span.clone(),
                    format!("{} cannot take {vips_family} clients to an {its_family} server", method_name),
                    "use fullnat or tun, or a server of the service's address family",
                );
            }
            if method == Some(Method::FullNat) && !locals.iter().any(|local| family(*local) == its_family) {
                self.problem(
                    method_span.clone(),
                    format!("fullnat needs an {its_family} local address to send from, and there is none"),
                    "add local_addresses = [\"...\"] to [director] or to this [[service]]",
                );
            }
            let sctp = matches!(key, ServiceKey::Address { protocol: Protocol::Sctp, .. });
            if method == Some(Method::FullNat) && sctp {
                self.problem(
                    method_span.clone(),
                    "fullnat does not forward SCTP",
                    "choose \"nat\", \"dr\" or \"tun\"",
                );
            }
            if let ServiceKey::Address { address: vip, .. } = key
                && address == vip
            {
                self.problem(
                    span.clone(),
                    format!("the server has the address of its own service, {vip}"),
                    "use the address of the machine that the server runs on",
                );
            }
            let is_mark = matches!(key, ServiceKey::Mark { .. });
            let port = port.unwrap_or(service_port);
            let keeps = matches!(method, Some(Method::DirectRoute | Method::Tunnel));
            if keeps && !is_mark && port != service_port {
                self.problem(
                    span.clone(),
                    format!(
                        "{} leaves packets as they are, so the server gets them at port {service_port}, not {port}",
                        method_name
                    ),
                    format!("leave out the port, or write {service_port}; nat and fullnat can change it"),
                );
            }
            let line = self.line(span.clone());
            if let Some(first) = seen.insert((address, port), line) {
                self.problem(
                    span,
                    format!("{address}:{port} is a server of this service already, in line {first}"),
                    "remove one of the two",
                );
            }
            if let Some(method) = method {
                servers.push(Server {
                    address,
                    port,
                    method,
                    tunnel,
                    weight,
                    upper_threshold,
                    lower_threshold,
                });
            }
        }
        servers
    }

    fn weight(&mut self, weight: Option<&Spanned<i64>>) -> u32 {
        let Some(weight) = weight else {
            return 1;
        };
        match u32::try_from(*weight.as_ref()) {
            Ok(number) if number <= MAX_WEIGHT => number,
            _ => {
                self.problem(
                    weight.span(),
                    format!("a weight cannot be {}", weight.as_ref()),
                    format!("choose 0 to {MAX_WEIGHT}; 0 takes no new connections"),
                );
                1
            }
        }
    }

    fn thresholds(&mut self, server: &file::Server) -> (u32, u32) {
        let upper = self.threshold("upper_threshold", server.upper_threshold.as_ref());
        let lower = self.threshold("lower_threshold", server.lower_threshold.as_ref());
        if let Some(text) = server.lower_threshold.as_ref().filter(|_| lower > upper) {
            self.problem(
                text.span(),
                format!("the lower threshold {lower} is above the upper one, {upper}"),
                "choose at most upper_threshold, or leave it out for three quarters of that",
            );
        }
        (upper, lower)
    }

    fn threshold(&mut self, key: &str, value: Option<&Spanned<i64>>) -> u32 {
        let Some(value) = value else {
            return 0;
        };
        match u32::try_from(*value.as_ref()) {
            Ok(number) if number <= MAX_THRESHOLD => number,
            _ => {
                self.problem(
                    value.span(),
                    format!("{key} cannot be {}", value.as_ref()),
                    format!("choose 0 to {MAX_THRESHOLD}; 0 is the same as none"),
                );
                0
            }
        }
    }

    /// Address of a real server, and its port where there is one.
    pub(super) fn real_address(&mut self, text: &Spanned<String>) -> Option<(Address, Option<u16>)> {
        let parsed = match text.as_ref().parse::<SocketAddr>() {
            Ok(socket) => Some((socket.ip(), Some(socket.port()))),
            Err(_) => text.as_ref().parse::<IpAddr>().ok().map(|ip| (ip, None)),
        };
        let Some((ip, port)) = parsed else {
            self.problem(
                text.span(),
                format!("{:?} is not an address, nor an address and port", text.as_ref()),
                "write IP or IP:PORT, as in \"10.0.2.1:80\" or \"[2001:db8::1]:80\"",
            );
            return None;
        };
        self.unicast(ip, text.span()).then_some((ip.into(), port))
    }
}

fn family(address: Address) -> &'static str {
    name_of(Family::of(address))
}

fn name_of(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}
