//! `[[service]]`, and whether its addresses go with all others.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use sluice_dataplane::service::{SchedulerKind, ServiceKey, ServiceOptions};
use sluice_dataplane::wire::Address;
use toml::Spanned;

use super::check::Check;
use super::{Director, Service, file, write};
use crate::rules::ServiceName;

impl Check<'_> {
    pub(super) fn services(&mut self, file: &file::File, director: &Director) -> Vec<Service> {
        let mut seen: HashMap<ServiceKey, usize> = HashMap::new();
        let mut services = Vec::new();
        let mut vips = Vec::new();
        for spanned in &file.service {
            let service = spanned.as_ref();
            let key = self.key(spanned);
            let scheduler = self.scheduler(service.scheduler.as_ref());
            let flags = self.flags(scheduler, &service.flags);
            let options = ServiceOptions {
                offload: self.offload_of_service(service.offload.as_ref(), director.offload),
                ..self.options(service, key.as_ref().map(|(key, _)| *key))
            };
            let timeouts = self.timeouts(&service.timeouts);
            let local_addresses = self.local_addresses(&service.local_addresses);
            if let Some((key, span)) = &key {
                if let ServiceKey::Address { address, .. } = key {
                    vips.push((*address, span.clone()));
                }
                if let Some(first) = seen.insert(*key, self.line(span.clone())) {
                    self.problem(
                        span.clone(),
                        format!("{} is a service already, in line {first}", ServiceName::from(*key)),
                        "put all its servers into one [[service]]",
                    );
                }
            }
            let locals =
                if local_addresses.is_empty() { &director.local_addresses } else { &local_addresses };
            let key = key.map(|(key, _)| key);
            let servers = self.servers(&service.server, key, locals);
            let health = self.health(service, key, &servers, locals);
            if let Some(key) = key {
                services.push(Service {
                    key,
                    scheduler,
                    flags,
                    options,
                    timeouts,
                    local_addresses,
                    servers,
                    health,
                });
            }
        }
        self.addresses_apart(file, &vips);
        services
    }

    /// A reply to a LIP could not be told from a packet to a VIP, and would not
    /// come to the director if a server had the LIP.
    fn addresses_apart(&mut self, file: &file::File, vips: &[(Address, Range<usize>)]) {
        let of_director = file.director.iter().map(|director| &director.as_ref().local_addresses);
        let lips = of_director.chain(file.service.iter().map(|service| &service.as_ref().local_addresses));
        let mut lips = lips.flatten().peekable();
        if lips.peek().is_none() {
            return;
        }
        let vips = first_of_each(vips.iter().cloned());
        let servers = file.service.iter().flat_map(|service| &service.as_ref().server);
        let servers = first_of_each(servers.filter_map(|server| {
            let text = server.as_ref().address.as_ref()?;
            let ip = text.as_ref().parse().or_else(|_| text.as_ref().parse().map(|s: SocketAddr| s.ip()));
            Some((Address::from(ip.ok()?), text.span()))
        }));
        for text in lips {
            let Ok(lip) = text.as_ref().parse::<IpAddr>().map(Address::from) else {
                continue;
            };
            if let Some(span) = servers.get(&lip) {
                let line = self.line(span.clone());
                self.problem(
                    text.span(),
                    format!("local address {lip} is also the address of the server in line {line}"),
                    "use an address of the director, which no server has",
                );
            }
            if let Some(span) = vips.get(&lip) {
                let line = self.line(span.clone());
                self.problem(
                    text.span(),
                    format!("local address {lip} is also the address of the service in line {line}"),
                    "use an address that no service has",
                );
            }
        }
    }

    fn scheduler(&mut self, name: Option<&Spanned<String>>) -> SchedulerKind {
        let Some(name) = name else {
            return SchedulerKind::Wlc;
        };
        let all = SchedulerKind::ALL.map(|kind| (kind.name(), kind));
        self.one_of("scheduler", name, &all).unwrap_or(SchedulerKind::Wlc)
    }

    fn flags(&mut self, scheduler: SchedulerKind, names: &[Spanned<String>]) -> u8 {
        let known = write::flags_of(Some(scheduler));
        names.iter().filter_map(|name| self.one_of("flag", name, known)).fold(0, |bits, bit| bits | bit)
    }

    pub(super) fn virtual_address(&mut self, text: &Spanned<String>) -> Option<(Address, u16)> {
        let Ok(socket) = text.as_ref().parse::<SocketAddr>() else {
            self.problem(
                text.span(),
                format!("{:?} is not an address and port", text.as_ref()),
                "write IP:PORT, as in \"192.0.2.10:80\" or \"[2001:db8::10]:80\"",
            );
            return None;
        };
        self.unicast(socket.ip(), text.span()).then_some((socket.ip().into(), socket.port()))
    }
}

fn first_of_each(all: impl Iterator<Item = (Address, Range<usize>)>) -> HashMap<Address, Range<usize>> {
    let mut first = HashMap::new();
    for (address, span) in all {
        first.entry(address).or_insert(span);
    }
    first
}
