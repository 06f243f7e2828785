//! Health checks of a `[[service]]`, its quorum and its sorry server.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use sluice_dataplane::service::{Family, Method, ServiceKey};
use sluice_dataplane::wire::Address;
use toml::{Spanned, Value};

use super::check::{Check, INTERFACE_HINT, METHODS, or_list};
use super::{Server, file};
use crate::health::{
    self, Command, DEFAULT_BODY, DNS_TYPES, Dns, Grpc, Http, Kind, Pattern, SYSTEM_AUTHORITIES, ServicePlan,
    Timing, Tls, Udp, Way,
};
use crate::rules;

/// Shortest and longest time of a check, in seconds.
const SECONDS: RangeInclusive<f64> = 0.01..=86_400.0;

/// Longest body that may be looked at, in bytes.
const MAX_BODY: usize = 16 << 20;

/// Longest datagram that may be sent, in bytes.
const MAX_DATAGRAM: usize = 1_400;

/// Longest name of a gRPC service, in bytes.
const MAX_SERVICE: usize = 1_000;

/// Most results in a row that may be asked for.
const MAX_IN_A_ROW: u32 = 1_000;

/// Most checks of a server.
const MAX_CHECKS: usize = 16;

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct SorryServer {
    address: Spanned<String>,
    method: Spanned<String>,
}

/// A `[[service.check]]` or `[[service.server.check]]`.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct HealthCheck {
    kind: Spanned<String>,
    interval: Option<Spanned<Value>>,
    timeout: Option<Spanned<Value>>,
    jitter: Option<Spanned<Value>>,
    rise: Option<Spanned<i64>>,
    fall: Option<Spanned<i64>>,
    address: Option<Spanned<String>>,
    port: Option<Spanned<i64>>,
    source: Option<Spanned<String>>,
    fwmark: Option<Spanned<i64>>,
    interface: Option<Spanned<String>>,
    vip: Option<Spanned<bool>>,
    method: Option<Spanned<String>>,
    path: Option<Spanned<String>>,
    host: Option<Spanned<String>>,
    status: Option<Spanned<Vec<Spanned<Value>>>>,
    contains: Option<Spanned<String>>,
    matches: Option<Spanned<String>>,
    digest: Option<Spanned<String>>,
    max_body: Option<Spanned<i64>>,
    tls_name: Option<Spanned<String>>,
    tls_ca: Option<Spanned<String>>,
    grpc_service: Option<Spanned<String>>,
    name: Option<Spanned<String>>,
    record: Option<Spanned<String>>,
    send: Option<Spanned<String>>,
    reply: Option<Spanned<bool>>,
    command: Option<Spanned<Vec<String>>>,
    dynamic_weight: Option<Spanned<bool>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Name {
    Tcp,
    Http,
    Https,
    Grpc,
    Grpcs,
    Dns,
    Udp,
    Icmp,
    Command,
}

const KINDS: [(&str, Name); 9] = [
    ("tcp", Name::Tcp),
    ("http", Name::Http),
    ("https", Name::Https),
    ("grpc", Name::Grpc),
    ("grpcs", Name::Grpcs),
    ("dns", Name::Dns),
    ("udp", Name::Udp),
    ("icmp", Name::Icmp),
    ("command", Name::Command),
];

impl Check<'_> {
    /// What is checked of a service, whose key is `None` if it had a mistake.
    pub(super) fn health(
        &mut self,
        service: &file::Service,
        key: Option<ServiceKey>,
        servers: &[Server],
        locals: &[Address],
    ) -> ServicePlan {
        let checks = self.health_checks(&service.check);
        let mut own_checks = BTreeMap::new();
        for server in &service.server {
            let Some(list) = &server.as_ref().check else { continue };
            let own = self.health_checks(list);
            let Some(text) = &server.as_ref().address else { continue };
            let address = text.as_ref().parse::<IpAddr>().map(|ip| (ip, None));
            let address = address.or_else(|_| {
                let socket = text.as_ref().parse::<std::net::SocketAddr>();
                socket.map(|socket| (socket.ip(), Some(socket.port())))
            });
            // What is no address was said to be none already.
            if let (Ok((ip, port)), Some(key)) = (address, key) {
                own_checks.insert((ip, port.unwrap_or(key.port())), own);
            }
        }
        let of_servers = service.server.iter().filter_map(|server| server.as_ref().check.as_ref()).flatten();
        for check in service.check.iter().chain(of_servers) {
            if let (Some(ServiceKey::Mark { .. }), Some(vip)) = (key, &check.as_ref().vip)
                && *vip.as_ref()
            {
                self.problem(
                    vip.span(),
                    "a service of a mark has no VIP of its own to ask for",
                    "remove it, or check by a service of one address",
                );
            }
        }
        let quorum = service.quorum.as_ref().map_or(1, |value| self.whole("quorum", value, 1..=u32::MAX));
        let hysteresis = service.hysteresis.as_ref().map_or(0, |value| {
            let number = self.whole("hysteresis", value, 0..=u32::MAX);
            if number >= quorum {
                self.problem(
                    value.span(),
                    format!("a hysteresis of {number} leaves nothing of a quorum of {quorum}"),
                    "choose less than the quorum",
                );
            }
            number
        });
        let sorry_server =
            service.sorry_server.as_ref().and_then(|sorry| self.sorry_server(sorry, key, servers, locals));
        ServicePlan {
            checks,
            own_checks,
            inhibit_on_failure: service.inhibit_on_failure,
            alpha: service.alpha,
            quorum,
            hysteresis,
            quorum_up: service.quorum_up.clone(),
            quorum_down: service.quorum_down.clone(),
            sorry_server,
        }
    }

    fn sorry_server(
        &mut self,
        spanned: &Spanned<SorryServer>,
        key: Option<ServiceKey>,
        servers: &[Server],
        locals: &[Address],
    ) -> Option<rules::Server> {
        let sorry = spanned.as_ref();
        let method = self.one_of("method", &sorry.method, &METHODS);
        let (address, port) = self.real_address(&sorry.address)?;
        let (method, key) = (method?, key?);
        let keeps = matches!(method, Method::DirectRoute | Method::Tunnel);
        let port = port.filter(|_| !keeps).unwrap_or(key.port());
        if servers.iter().any(|server| (server.address, server.port) == (address, port)) {
            self.problem(
                sorry.address.span(),
                format!("the sorry server {address} is a server of this service already"),
                "name another, which takes connections when all these are down",
            );
        }
        let crosses = Family::of(address) != key.family();
        if crosses && matches!(method, Method::Nat | Method::DirectRoute) {
            self.problem(
                sorry.address.span(),
                "the sorry server is not of the service's address family",
                "use fullnat or tun, or another server",
            );
        }
        let same_family = |local: &Address| Family::of(*local) == Family::of(address);
        if method == Method::FullNat && !locals.iter().any(same_family) {
            self.problem(
                sorry.method.span(),
                "fullnat needs a local address of the sorry server's family to send from, and there is none",
                "add local_addresses = [\"...\"] to [director] or to this [[service]]",
            );
        }
        Some(rules::Server::plain(address.into(), port, method.into(), 1))
    }

    fn health_checks(&mut self, list: &[Spanned<HealthCheck>]) -> Vec<Arc<health::Check>> {
        if let Some(one) = list.get(MAX_CHECKS) {
            self.problem(one.span(), format!("a server has at most {MAX_CHECKS} checks"), "remove some");
        }
        list.iter().filter_map(|check| self.health_check(check.as_ref())).map(Arc::new).collect()
    }

    fn health_check(&mut self, check: &HealthCheck) -> Option<health::Check> {
        let name = self.one_of("kind of check", &check.kind, &KINDS)?;
        self.keys_of_others(check, name);
        let timing = self.timing(check);
        let way = self.way(check);
        let kind = match name {
            Name::Tcp => Kind::Tcp,
            Name::Icmp => Kind::Icmp,
            Name::Http | Name::Https => Kind::Http(Box::new(self.http(check, name == Name::Https)?)),
            Name::Grpc | Name::Grpcs => Kind::Grpc(Box::new(self.grpc(check, name == Name::Grpcs)?)),
            Name::Dns => Kind::Dns(self.dns(check)?),
            Name::Udp => Kind::Udp(self.udp(check)),
            Name::Command => Kind::Command(self.command(check)?),
        };
        Some(health::Check { kind, way, timing })
    }

    /// Keys that the kind of a check has no use for.
    fn keys_of_others(&mut self, check: &HealthCheck, name: Name) {
        fn at<T>(key: &Option<Spanned<T>>) -> Option<Range<usize>> {
            key.as_ref().map(Spanned::span)
        }
        const WEB: &[Name] = &[Name::Http, Name::Https];
        const BODY: &[Name] = &[Name::Http, Name::Https, Name::Udp];
        const TLS: &[Name] = &[Name::Https, Name::Grpcs];
        const GRPC: &[Name] = &[Name::Grpc, Name::Grpcs];
        const HOST: &[Name] = &[Name::Http, Name::Https, Name::Grpc, Name::Grpcs];
        const SOCKET: &[Name] =
            &[Name::Tcp, Name::Http, Name::Https, Name::Grpc, Name::Grpcs, Name::Dns, Name::Udp, Name::Icmp];
        const ASKED: &[Name] =
            &[Name::Tcp, Name::Http, Name::Https, Name::Grpc, Name::Grpcs, Name::Dns, Name::Udp];
        type Use = (&'static str, Option<Range<usize>>, &'static [Name]);
        let uses: [Use; 21] = [
            ("source", at(&check.source), SOCKET),
            ("fwmark", at(&check.fwmark), SOCKET),
            ("interface", at(&check.interface), SOCKET),
            ("vip", at(&check.vip), ASKED),
            ("port", at(&check.port).filter(|_| name == Name::Icmp), &[]),
            ("method", at(&check.method), WEB),
            ("path", at(&check.path), WEB),
            ("host", at(&check.host), HOST),
            ("status", at(&check.status), WEB),
            ("contains", at(&check.contains), WEB),
            ("matches", at(&check.matches), BODY),
            ("digest", at(&check.digest), WEB),
            ("max_body", at(&check.max_body), WEB),
            ("tls_name", at(&check.tls_name), TLS),
            ("tls_ca", at(&check.tls_ca), TLS),
            ("grpc_service", at(&check.grpc_service), GRPC),
            ("name", at(&check.name), &[Name::Dns]),
            ("record", at(&check.record), &[Name::Dns]),
            ("send", at(&check.send), &[Name::Udp]),
            ("reply", at(&check.reply), &[Name::Udp]),
            ("dynamic_weight", at(&check.dynamic_weight), &[Name::Command]),
        ];
        let command = ("command", at(&check.command), &[Name::Command][..]);
        for (key, span, kinds) in uses.into_iter().chain([command]) {
            let Some(span) = span.filter(|_| !kinds.contains(&name)) else { continue };
            let of = |kind: &Name| {
                KINDS.iter().find(|(_, other)| other == kind).map(|(text, _)| format!("\"{text}\""))
            };
            let names: Vec<String> = kinds.iter().filter_map(of).collect();
            let hint = match names.as_slice() {
                [] => "remove it".to_owned(),
                names => format!("remove it; it is for {}", or_list(names)),
            };
            self.problem(span, format!("a check of kind {:?} has no {key}", check.kind.as_ref()), hint);
        }
    }

    fn timing(&mut self, check: &HealthCheck) -> Timing {
        let default = Timing::default();
        let seconds = |this: &mut Self, key: &str, value: &Option<Spanned<Value>>, zero: bool| {
            let value = value.as_ref()?;
            let number = match value.as_ref() {
                Value::Integer(number) => Some(*number as f64),
                Value::Float(number) => Some(*number),
                _ => None,
            };
            let good = number.filter(|number| SECONDS.contains(number) || (zero && *number == 0.0));
            if good.is_none() {
                this.problem(
                    value.span(),
                    format!("{key} cannot be {}", value.as_ref()),
                    format!("choose {} to {} seconds, as in 2 or 0.5", SECONDS.start(), SECONDS.end()),
                );
            }
            good.map(Duration::from_secs_f64)
        };
        let interval = seconds(self, "interval", &check.interval, false).unwrap_or(default.interval);
        Timing {
            interval,
            timeout: seconds(self, "timeout", &check.timeout, false).unwrap_or(default.timeout),
            jitter: seconds(self, "jitter", &check.jitter, true).unwrap_or(interval / 10),
            rise: check.rise.as_ref().map_or(default.rise, |n| self.whole("rise", n, 1..=MAX_IN_A_ROW)),
            fall: check.fall.as_ref().map_or(default.fall, |n| self.whole("fall", n, 1..=MAX_IN_A_ROW)),
        }
    }

    fn way(&mut self, check: &HealthCheck) -> Way {
        if let (Some(vip), Some(_)) = (check.vip.as_ref().filter(|vip| *vip.as_ref()), &check.address) {
            let hint = "remove one of the two";
            self.problem(vip.span(), "a check asks for the VIP or for another address, not for both", hint);
        }
        Way {
            address: check.address.as_ref().and_then(|text| self.ip(text)),
            port: check.port.as_ref().map(|n| self.whole("port", n, 1..=65_535)).map(|port| port as u16),
            source: check.source.as_ref().and_then(|text| self.ip(text)),
            mark: check.fwmark.as_ref().map(|n| self.whole("fwmark", n, 1..=u32::MAX)),
            interface: check.interface.as_ref().map(|name| self.interface(name, INTERFACE_HINT)),
            vip: check.vip.as_ref().is_some_and(|vip| *vip.as_ref()),
        }
    }

    fn ip(&mut self, text: &Spanned<String>) -> Option<IpAddr> {
        let ip = text.as_ref().parse().ok();
        if ip.is_none() {
            let hint = "write it without a port, as in \"10.0.2.1\"";
            self.problem(text.span(), format!("{:?} is not an IP address", text.as_ref()), hint);
        }
        ip
    }

    fn http(&mut self, check: &HealthCheck, tls: bool) -> Option<Http> {
        let default = Http::default();
        let tls = if tls { Some(self.tls(check)?) } else { None };
        for (key, text) in [("method", &check.method), ("path", &check.path), ("host", &check.host)] {
            self.visible(key, text.as_ref());
        }
        if let Some(path) = check.path.as_ref().filter(|path| !path.as_ref().starts_with('/')) {
            self.problem(path.span(), "a path begins with a slash", "write it as in \"/.health.html\"");
        }
        let text = |value: &Option<Spanned<String>>| value.as_ref().map(|text| text.as_ref().clone());
        let digest = check.digest.as_ref().and_then(|text| self.digest(text));
        Some(Http {
            tls,
            method: text(&check.method).unwrap_or(default.method),
            path: text(&check.path).unwrap_or(default.path),
            host: text(&check.host),
            status: check.status.as_ref().map_or(default.status, |list| self.statuses(list)),
            contains: text(&check.contains),
            matches: check.matches.as_ref().and_then(|text| self.pattern(text)),
            digest,
            max_body: check
                .max_body
                .as_ref()
                .map_or(DEFAULT_BODY, |value| self.whole("max_body", value, 1..=MAX_BODY as u32) as usize),
        })
    }

    /// Refuses what would end the line, or the request.
    fn visible(&mut self, key: &str, text: Option<&Spanned<String>>) {
        let hidden = |text: &str| text.is_empty() || text.contains(|c: char| !c.is_ascii_graphic());
        if let Some(text) = text.filter(|text| hidden(text.as_ref())) {
            let hint = "use visible ASCII characters; others can be written as in %20";
            self.problem(text.span(), format!("{:?} cannot be a {key}", text.as_ref()), hint);
        }
    }

    fn grpc(&mut self, check: &HealthCheck, tls: bool) -> Option<Grpc> {
        let tls = if tls { Some(self.tls(check)?.for_http2()) } else { None };
        self.visible("host", check.host.as_ref());
        let service = check.grpc_service.as_ref();
        if let Some(service) = service.filter(|service| service.as_ref().len() > MAX_SERVICE) {
            let hint = "name it as its .proto file does, as in \"shop.v1.Orders\"";
            self.problem(service.span(), format!("grpc_service is longer than {MAX_SERVICE} bytes"), hint);
        }
        let text = |value: Option<&Spanned<String>>| value.map(|text| text.as_ref().clone());
        Some(Grpc { tls, service: text(service).unwrap_or_default(), host: text(check.host.as_ref()) })
    }

    fn tls(&mut self, check: &HealthCheck) -> Option<Tls> {
        let name = check.tls_name.as_ref().map(|name| name.as_ref().clone());
        let file = check.tls_ca.as_ref().map(|text| match text.as_ref().as_str() {
            "system" => PathBuf::from(SYSTEM_AUTHORITIES),
            file => PathBuf::from(file),
        });
        match Tls::new(name, file) {
            Ok(tls) => Some(tls),
            Err(problem) => {
                let span = check.tls_ca.as_ref().unwrap_or(&check.kind).span();
                self.problem(span, problem, "name a file of certificates in PEM, or \"system\"");
                None
            }
        }
    }

    fn statuses(&mut self, list: &Spanned<Vec<Spanned<Value>>>) -> Vec<RangeInclusive<u16>> {
        let mut ranges = Vec::new();
        for value in list.as_ref() {
            let range = match value.as_ref() {
                Value::Integer(status) => u16::try_from(*status).ok().map(|status| status..=status),
                Value::String(text) => text
                    .split_once('-')
                    .and_then(|(first, last)| Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)),
                _ => None,
            };
            let good = range.filter(|r| r.start() <= r.end() && *r.start() >= 100 && *r.end() <= 599);
            if good.is_none() {
                let message = format!("{} is not a status, nor a range of them", value.as_ref());
                self.problem(value.span(), message, "write them as in [200, \"300-399\"], from 100 to 599");
            }
            ranges.extend(good);
        }
        if list.as_ref().is_empty() {
            self.problem(list.span(), "no status would do", "write those that do, as in [200]");
        }
        ranges
    }

    fn pattern(&mut self, text: &Spanned<String>) -> Option<Pattern> {
        match text.as_ref().parse() {
            Ok(pattern) => Some(pattern),
            Err(message) => {
                let hint = "see the syntax of regular expressions of Rust's regex";
                self.problem(text.span(), format!("not a regular expression: {message}"), hint);
                None
            }
        }
    }

    fn digest(&mut self, text: &Spanned<String>) -> Option<[u8; 16]> {
        let hex = text.as_ref();
        let good = hex.len() == 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u128::from_str_radix(hex, 16).ok().filter(|_| good);
        if number.is_none() {
            let hint = "write 32 hexadecimal digits, as md5sum or keepalived's genhash tell them";
            self.problem(text.span(), format!("{hex:?} is not an MD5 digest"), hint);
        }
        number.map(u128::to_be_bytes)
    }

    fn dns(&mut self, check: &HealthCheck) -> Option<Dns> {
        let record = match &check.record {
            Some(record) => Some(self.one_of("record", record, &DNS_TYPES)?),
            None => None,
        };
        let name = check.name.as_ref().map_or(".", |name| name.as_ref().as_str());
        match Dns::new(name, record) {
            Ok(dns) => Some(dns),
            Err(message) => {
                let span = check.name.as_ref().map_or_else(|| check.kind.span(), Spanned::span);
                self.problem(span, format!("{name:?} is not a domain name"), message);
                None
            }
        }
    }

    fn udp(&mut self, check: &HealthCheck) -> Udp {
        let send = check.send.as_ref().map(|text| text.as_ref().clone().into_bytes()).unwrap_or_default();
        if let Some(text) = check.send.as_ref().filter(|_| send.len() > MAX_DATAGRAM) {
            let message = format!("a datagram of {} bytes is too long", send.len());
            self.problem(text.span(), message, format!("send at most {MAX_DATAGRAM}"));
        }
        let matches = check.matches.as_ref().and_then(|text| self.pattern(text));
        let reply = check.reply.as_ref().is_some_and(|reply| *reply.as_ref());
        Udp { send, reply: reply || matches.is_some(), matches }
    }

    fn command(&mut self, check: &HealthCheck) -> Option<Command> {
        let words = check.command.as_ref().filter(|words| !words.as_ref().is_empty());
        let Some(words) = words else {
            let span = check.command.as_ref().map_or_else(|| check.kind.span(), Spanned::span);
            self.problem(
                span,
                "a check of kind \"command\" needs a command",
                "write program and arguments, as in command = [\"/usr/local/bin/alive\", \"--quick\"]",
            );
            return None;
        };
        let dynamic_weight = check.dynamic_weight.as_ref().is_some_and(|dynamic| *dynamic.as_ref());
        Some(Command { words: words.as_ref().clone(), dynamic_weight })
    }

    fn whole(&mut self, key: &str, value: &Spanned<i64>, range: RangeInclusive<u32>) -> u32 {
        let number = u32::try_from(*value.as_ref()).ok().filter(|number| range.contains(number));
        if number.is_none() {
            let message = format!("{key} cannot be {}", value.as_ref());
            self.problem(value.span(), message, format!("choose {} to {}", range.start(), range.end()));
        }
        number.unwrap_or(*range.start())
    }
}
