//! Checks a configuration file and resolves it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::PathBuf;

use sluice_dataplane::service::{Family, Method, Protocol, SchedulerKind, ServiceKey, ServiceOptions};
use sluice_dataplane::wire::Address;
use toml::Spanned;

use crate::role::Role;
use crate::rules::{MAX_WEIGHT as MAX_THRESHOLD, ServiceName};

use super::{
    CONNECTIONS, Config, DEFAULT_CONNECTIONS, Director, Idle, MAX_CPU, MAX_INTERFACES, MAX_WEIGHT, Problem,
    Server, Service, WhenGone, XdpMode, file,
};

/// What `protocol` may be.
pub(super) const PROTOCOLS: [(&str, Protocol); 3] =
    [("tcp", Protocol::Tcp), ("udp", Protocol::Udp), ("sctp", Protocol::Sctp)];

/// Longest interface name (`IFNAMSIZ` less its NUL).
const MAX_NAME: usize = 15;

/// Longest path of a Unix socket (`sun_path` less its NUL).
const MAX_SOCKET: usize = 107;

/// The mistake of a file that does not parse.
pub(super) fn unparsable(text: &str, error: &toml::de::Error) -> Problem {
    let message = error.message().trim_end().replace('\n', "; ");
    let hint = if message.starts_with("unknown field") {
        "remove the key or correct its spelling; configs/all.toml explains every key"
    } else if message.starts_with("missing field") {
        "add the key to this table; configs/minimal.toml is the smallest configuration"
    } else {
        ""
    };
    let (line, column) = place(text, error.span().unwrap_or(0..0));
    Problem { line, column, message, hint: hint.to_owned() }
}

/// Resolves the file, or lists its mistakes in their order.
pub(super) fn check(text: &str, file: &file::File) -> Result<Config, Vec<Problem>> {
    let mut check = Check { text, problems: Vec::new() };
    let director = check.director(file.director.as_ref());
    let services = check.services(file, &director);
    let marks = check.marks(&file.mark, &director);
    if check.problems.is_empty() {
        Ok(Config { director, services, marks })
    } else {
        check.problems.sort_by_key(|problem| (problem.line, problem.column));
        Err(check.problems)
    }
}

/// Line and column, from 1, of the start of a span.
fn place(text: &str, span: Range<usize>) -> (usize, usize) {
    let before = text.get(..span.start).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

pub(super) struct Check<'a> {
    text: &'a str,
    problems: Vec<Problem>,
}

impl Check<'_> {
    pub(super) fn problem(
        &mut self,
        span: Range<usize>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let (line, column) = place(self.text, span);
        self.problems.push(Problem { line, column, message: message.into(), hint: hint.into() });
    }

    pub(super) fn line(&self, span: Range<usize>) -> usize {
        place(self.text, span).0
    }

    fn director(&mut self, file: &file::Director) -> Director {
        let workers = self.workers(&file.workers);
        let connections_per_worker = self.connections(file.connections_per_worker.as_ref());
        let tunables = self.tunables(file);
        self.defenses(file, &tunables, workers.len() as u64 * u64::from(connections_per_worker));
        Director {
            interfaces: self.interfaces(&file.interfaces),
            workers,
            connections_per_worker,
            local_addresses: self.local_addresses(&file.local_addresses),
            idle: self.choice("idle", file.idle.as_ref(), &[("spin", Idle::Spin), ("sleep", Idle::Sleep)]),
            xdp_mode: self.choice(
                "xdp_mode",
                file.xdp_mode.as_ref(),
                &[("auto", XdpMode::Auto), ("native", XdpMode::Native), ("generic", XdpMode::Generic)],
            ),
            socket: file.socket.as_ref().map(|path| self.socket(path)),
            role: self.choice(
                "role",
                file.role.as_ref(),
                &[("active", Role::Active), ("backup", Role::Backup)],
            ),
            when_gone: self.choice(
                "when_gone",
                file.when_gone.as_ref(),
                &[("kernel", WhenGone::Kernel), ("drop", WhenGone::Drop)],
            ),
            tunables,
            timeouts: self.timeouts(&file.timeouts),
        }
    }

    fn interfaces(&mut self, names: &Spanned<Vec<Spanned<String>>>) -> Vec<String> {
        let list = names.as_ref();
        if list.is_empty() || list.len() > MAX_INTERFACES {
            self.problem(
                names.span(),
                format!("a director has 1 to {MAX_INTERFACES} interfaces, not {}", list.len()),
                "name the interfaces that clients and real servers are reached by, as in [\"eth0\", \"eth1\"]",
            );
        }
        let mut seen = HashMap::new();
        for name in list {
            let text = name.as_ref();
            if text.is_empty()
                || text.len() > MAX_NAME
                || text.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control())
            {
                self.problem(
                    name.span(),
                    format!("{text:?} cannot be the name of an interface"),
                    "`ip -br link` lists the names of the interfaces of this machine",
                );
            }
            if seen.insert(text.clone(), ()).is_some() {
                self.problem(
                    name.span(),
                    format!("interface {text} is named twice"),
                    "remove one of the two",
                );
            }
        }
        list.iter().map(|name| name.as_ref().clone()).collect()
    }

    fn workers(&mut self, cpus: &Spanned<Vec<Spanned<i64>>>) -> Vec<usize> {
        let list = cpus.as_ref();
        if list.is_empty() {
            self.problem(
                cpus.span(),
                "a director needs at least one worker",
                "name the CPU of each worker, as in [1]; `nproc` says how many CPUs there are",
            );
        }
        let mut workers: Vec<usize> = Vec::new();
        for cpu in list {
            match usize::try_from(*cpu.as_ref()) {
                Ok(number) if number <= MAX_CPU => {
                    if workers.contains(&number) {
                        self.problem(
                            cpu.span(),
                            format!("CPU {number} has two workers"),
                            "give each worker a CPU of its own",
                        );
                    }
                    workers.push(number);
                }
                _ => self.problem(
                    cpu.span(),
                    format!("{} is not the number of a CPU", cpu.as_ref()),
                    format!("CPUs are numbered from 0, up to {MAX_CPU}"),
                ),
            }
        }
        workers
    }

    fn connections(&mut self, value: Option<&Spanned<i64>>) -> u32 {
        let Some(value) = value else {
            return DEFAULT_CONNECTIONS;
        };
        match u32::try_from(*value.as_ref()) {
            Ok(number) if CONNECTIONS.contains(&number) => number,
            _ => {
                self.problem(
                    value.span(),
                    format!("connections_per_worker cannot be {}", value.as_ref()),
                    format!("choose {} to {}", CONNECTIONS.start, CONNECTIONS.end - 1),
                );
                DEFAULT_CONNECTIONS
            }
        }
    }

    fn socket(&mut self, path: &Spanned<String>) -> PathBuf {
        let text = path.as_ref();
        if !text.starts_with('/') || text.len() > MAX_SOCKET || text.contains('\0') {
            self.problem(
                path.span(),
                format!("{text:?} cannot be the path of a socket"),
                format!("give an absolute path of at most {MAX_SOCKET} bytes"),
            );
        }
        PathBuf::from(text)
    }

    pub(super) fn choice<T: Copy + Default>(
        &mut self,
        key: &str,
        value: Option<&Spanned<String>>,
        choices: &[(&str, T)],
    ) -> T {
        let Some(value) = value else {
            return T::default();
        };
        self.one_of(key, value, choices).unwrap_or_default()
    }

    pub(super) fn one_of<T: Copy>(
        &mut self,
        key: &str,
        value: &Spanned<String>,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let found = choices.iter().find(|(name, _)| name == value.as_ref()).map(|(_, choice)| *choice);
        if found.is_none() {
            let names: Vec<String> = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
            self.problem(
                value.span(),
                format!("there is no {key} {:?}", value.as_ref()),
                format!("choose {}", or_list(&names)),
            );
        }
        found
    }

    fn local_addresses(&mut self, list: &[Spanned<String>]) -> Vec<Address> {
        let mut addresses: Vec<Address> = Vec::new();
        for text in list {
            let Ok(ip) = text.as_ref().parse::<IpAddr>() else {
                self.problem(
                    text.span(),
                    format!("{:?} is not an IP address", text.as_ref()),
                    "write it without a port or prefix length, as in \"10.0.2.200\"",
                );
                continue;
            };
            if !self.unicast(ip, text.span()) {
                continue;
            }
            let address = Address::from(ip);
            if addresses.contains(&address) {
                self.problem(
                    text.span(),
                    format!("local address {ip} is named twice"),
                    "remove one of the two",
                );
            }
            addresses.push(address);
        }
        addresses
    }

    fn unicast(&mut self, ip: IpAddr, span: Range<usize>) -> bool {
        // Workers could not tell it from the IPv4 address.
        if let IpAddr::V6(v6) = ip
            && let Some(v4) = v6.to_ipv4_mapped()
        {
            self.problem(
                span,
                format!("{ip} is an IPv4 address in the form of an IPv6 one"),
                format!("write {v4}"),
            );
            return false;
        }
        let narrow = match ip {
            IpAddr::V4(v4) => v4.is_broadcast(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        let bad = ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() || narrow;
        if bad {
            self.problem(
                span,
                format!("{ip} is not an address that packets can be sent to from outside"),
                "use a unicast address that is neither of the loopback network nor link-local",
            );
        }
        !bad
    }

    fn services(&mut self, file: &file::File, director: &Director) -> Vec<Service> {
        let mut seen: HashMap<ServiceKey, usize> = HashMap::new();
        let mut services = Vec::new();
        let mut vips = Vec::new();
        for spanned in &file.service {
            let service = spanned.as_ref();
            let key = self.key(spanned);
            let scheduler = self.scheduler(service.scheduler.as_ref());
            let flags = self.flags(scheduler, &service.flags);
            let options = self.options(service, key.as_ref().map(|(key, _)| *key));
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
            let servers = self.servers(&service.server, key, options, locals);
            if let Some(key) = key {
                services.push(Service { key, scheduler, flags, options, timeouts, local_addresses, servers });
            }
        }
        self.addresses_apart(file, &vips);
        services
    }

    /// A reply to a LIP could not be told from a packet to a VIP, and would not
    /// come to the director if a server had the LIP.
    fn addresses_apart(&mut self, file: &file::File, vips: &[(Address, Range<usize>)]) {
        let lists = std::iter::once(&file.director.as_ref().local_addresses)
            .chain(file.service.iter().map(|service| &service.as_ref().local_addresses));
        for text in lists.flatten() {
            let Ok(lip) = text.as_ref().parse::<IpAddr>().map(Address::from) else {
                continue;
            };
            let server = |server: &Spanned<file::Server>| {
                let text = &server.as_ref().address;
                let ip = text.as_ref().parse().or_else(|_| text.as_ref().parse().map(|s: SocketAddr| s.ip()));
                ip.is_ok_and(|ip: IpAddr| Address::from(ip) == lip).then(|| text.span())
            };
            let mut servers = file.service.iter().flat_map(|service| &service.as_ref().server);
            if let Some(span) = servers.find_map(server) {
                let line = self.line(span);
                self.problem(
                    text.span(),
                    format!("local address {lip} is also the address of the server in line {line}"),
                    "use an address of the director, which no server has",
                );
            }
            if let Some((_, span)) = vips.iter().find(|(vip, _)| *vip == lip) {
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
        let known: &[(&str, u8)] = match scheduler {
            SchedulerKind::Sh => &[("sh-fallback", 1), ("sh-port", 2)],
            SchedulerKind::Mh => &[("mh-fallback", 1), ("mh-port", 2)],
            _ => {
                if let Some(name) = names.first() {
                    self.problem(
                        name.span(),
                        format!("scheduler {} has no flags", scheduler.name()),
                        "remove them; sh and mh have flags",
                    );
                }
                return 0;
            }
        };
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

    /// The servers of a service, whose key is `None` if it had a mistake.
    fn servers(
        &mut self,
        list: &[Spanned<file::Server>],
        service: Option<ServiceKey>,
        options: ServiceOptions,
        locals: &[Address],
    ) -> Vec<Server> {
        const METHODS: [(&str, Method); 4] = [
            ("nat", Method::Nat),
            ("fullnat", Method::FullNat),
            ("dr", Method::DirectRoute),
            ("tun", Method::Tunnel),
        ];
        let mut seen: HashMap<(Address, u16), usize> = HashMap::new();
        let mut servers = Vec::new();
        for spanned in list {
            let server = spanned.as_ref();
            let method = self.one_of("method", &server.method, &METHODS);
            let encapsulation = self.encapsulation(server, method);
            let weight = self.weight(server.weight.as_ref());
            let (upper_threshold, lower_threshold) = self.thresholds(server);
            let Some((address, port)) = self.real_address(&server.address) else {
                continue;
            };
            let Some(key) = service else {
                continue;
            };
            let service_port = key.port();
            let span = server.address.span();
            let (its_family, vips_family) = (family(address), name_of(key.family()));
            if matches!(method, Some(Method::Nat | Method::DirectRoute)) && its_family != vips_family {
                self.problem(
                    span.clone(),
                    format!(
                        "{} cannot take {vips_family} clients to an {its_family} server",
                        server.method.as_ref()
                    ),
                    "use fullnat or tun, or a server of the service's address family",
                );
            }
            if method == Some(Method::FullNat) && !locals.iter().any(|local| family(*local) == its_family) {
                self.problem(
                    server.method.span(),
                    format!("fullnat needs an {its_family} local address to send from, and there is none"),
                    "add local_addresses = [\"...\"] to [director] or to this [[service]]",
                );
            }
            let sctp = matches!(key, ServiceKey::Address { protocol: Protocol::Sctp, .. });
            if method == Some(Method::FullNat) && sctp {
                self.problem(
                    server.method.span(),
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
            if is_mark && let Some(port) = port {
                let keeps = matches!(method, Some(Method::DirectRoute | Method::Tunnel));
                if keeps || options.persistence.is_some() {
                    let what = if keeps { server.method.as_ref() } else { "a persistent service of a mark" };
                    self.problem(
                        span.clone(),
                        format!("{what} leaves ports as they are, so {port} would have no effect"),
                        "leave out the port",
                    );
                }
            }
            let port = port.unwrap_or(service_port);
            let keeps = matches!(method, Some(Method::DirectRoute | Method::Tunnel));
            if keeps && !is_mark && port != service_port {
                self.problem(
                    span.clone(),
                    format!(
                        "{} leaves packets as they are, so the server gets them at port {service_port}, not {port}",
                        server.method.as_ref()
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
                    encapsulation,
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
    fn real_address(&mut self, text: &Spanned<String>) -> Option<(Address, Option<u16>)> {
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
        if port == Some(0) {
            self.problem(
                text.span(),
                "a server cannot have port 0",
                "leave the port out to use the service's",
            );
            return None;
        }
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

/// `a`, `b` or `c`.
pub(super) fn or_list(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [only] => only.clone(),
        [rest @ .., last] => format!("{} or {last}", rest.join(", ")),
    }
}
