//! Listings of services, byte for byte those of ipvsadm.

use std::io::{self, Write};
use std::net::IpAddr;

use super::command::{Format, View};
use super::names::Resolver;
use crate::rules::{
    Daemon, DaemonRole, Family, Granularity, Method, Protocol, Rates, ServerListing, ServiceListing,
    ServiceName, ServiceSettings, Timeouts, TrafficListing, Tunnel, TunnelChecksum,
};

/// First line of listings: IPVS's version and its default connection hash
/// size, which scripts skip.
const BANNER: &str = "IP Virtual Server version 1.2.1 (size=4096)";

/// Columns that a name has in listings.
const NAME_WIDTH: usize = 28;

/// Prints names and numbers in the way that the command line asked for.
#[derive(Clone, Copy)]
pub(super) struct Printer<'a> {
    pub(super) format: Format,
    pub(super) names: &'a dyn Resolver,
}

impl Printer<'_> {
    /// A listing of services; `banner` when it is of all of them.
    pub(super) fn services(
        &self,
        out: &mut dyn Write,
        services: &[ServiceListing],
        view: View,
        banner: bool,
    ) -> io::Result<()> {
        if banner {
            writeln!(out, "{BANNER}")?;
        }
        out.write_all(heading(view).as_bytes())?;
        for service in services {
            self.service(out, service, view)?;
            for server in &service.servers {
                self.server(out, &service.name, server, view)?;
            }
        }
        Ok(())
    }

    fn service(&self, out: &mut dyn Write, service: &ServiceListing, view: View) -> io::Result<()> {
        let (kind, name) = match service.name {
            ServiceName::Address { protocol, address, port } => {
                let kind = match protocol {
                    Protocol::Tcp => "TCP",
                    Protocol::Udp => "UDP",
                    Protocol::Sctp => "SCTP",
                };
                (kind, self.column(address, port, Some(protocol)))
            }
            ServiceName::Mark { mark, family } => ("FWM", mark_name(mark, family, " IPv6")),
        };
        match view {
            View::Stats => {
                write!(out, "{kind:<4} {name:<NAME_WIDTH$}")?;
                self.numbers(out, traffic(&service.traffic))
            }
            View::Rate => {
                write!(out, "{kind:<4} {name:<NAME_WIDTH$}")?;
                self.numbers(out, rates(&service.rates))
            }
            _ => writeln!(out, "{kind:<4} {name} {}", properties(&service.settings)),
        }
    }

    fn server(
        &self,
        out: &mut dyn Write,
        service: &ServiceName,
        listing: &ServerListing,
        view: View,
    ) -> io::Result<()> {
        let ServerListing { server, active, inactive, persistent, .. } = listing;
        let name = self.column(server.address, server.port, protocol(service));
        write!(out, "  -> {name:<NAME_WIDTH$}")?;
        let weight = server.weight;
        match view {
            View::Stats => self.numbers(out, traffic(&listing.traffic)),
            View::Rate => self.numbers(out, rates(&listing.rates)),
            View::Plain => {
                let method = method(server.method);
                writeln!(out, " {method:<7} {weight:<6} {active:<10} {inactive:<10}")
            }
            View::Tunnel => {
                let (method, tunnel) = (method(server.method), tunnel(server.method, server.tunnel));
                writeln!(out, " {method:<7} {tunnel:<13} {weight:<6} {active:<10} {inactive:<10}")
            }
            View::Thresholds => {
                let (upper, lower) = (server.upper_threshold, server.lower_threshold);
                writeln!(out, " {upper:<10} {lower:<10} {active:<10} {inactive:<10}")
            }
            View::Persistent => {
                writeln!(out, " {weight:<9} {persistent:<11} {active:<10} {inactive:<10}")
            }
        }
    }

    /// `-S`.
    pub(super) fn rules(&self, out: &mut dyn Write, services: &[ServiceListing]) -> io::Result<()> {
        for service in services {
            let name = self.service_words(&service.name);
            let ServiceSettings { scheduler, persistence, granularity, engine, one_packet, .. } =
                &service.settings;
            write!(out, "-A {name} -s {scheduler}")?;
            if let Some(seconds) = persistence {
                write!(out, " -p {seconds}")?;
                match granularity {
                    _ if granularity.is_host() => {}
                    Granularity::Mask(mask) => write!(out, " -M {mask}")?,
                    Granularity::Prefix(bits) => write!(out, " -M {bits}")?,
                }
            }
            if let Some(engine) = engine {
                write!(out, " --pe {engine}")?;
            }
            if *one_packet {
                write!(out, " -o")?;
            }
            if let Some(flags) = flag_names(&service.settings) {
                write!(out, " -b {flags}")?;
            }
            writeln!(out)?;
            for listing in &service.servers {
                self.server_rule(out, &name, &service.name, listing)?;
            }
            for lip in &service.local_addresses {
                writeln!(out, "-P {name} -z {lip}")?;
            }
        }
        Ok(())
    }

    fn server_rule(
        &self,
        out: &mut dyn Write,
        service_words: &str,
        service: &ServiceName,
        listing: &ServerListing,
    ) -> io::Result<()> {
        let server = &listing.server;
        let name = self.endpoint(server.address, server.port, protocol(service));
        let method = match server.method {
            Method::Nat => "-m",
            Method::FullNat => "-b",
            Method::Dr => "-g",
            Method::Tun => "-i",
        };
        write!(out, "-a {service_words} -r {name} {method} -w {}", server.weight)?;
        if server.method == Method::Tun {
            let checksum_option = |checksum| match checksum {
                TunnelChecksum::None => "--tun-nocsum",
                TunnelChecksum::Sent => "--tun-csum",
                TunnelChecksum::Remote => "--tun-remcsum",
            };
            match server.tunnel {
                Tunnel::Ipip => write!(out, " --tun-type ipip")?,
                Tunnel::Gue { port, checksum } => {
                    let checksum = checksum_option(checksum);
                    write!(out, " --tun-type gue --tun-port {port} {checksum}")?;
                }
                Tunnel::Gre { checksum } => {
                    write!(out, " --tun-type gre {}", checksum_option(checksum))?;
                }
            }
        }
        writeln!(out)
    }

    fn service_words(&self, service: &ServiceName) -> String {
        match *service {
            ServiceName::Address { protocol, address, port } => {
                let option = match protocol {
                    Protocol::Tcp => "-t",
                    Protocol::Udp => "-u",
                    Protocol::Sctp => "--sctp-service",
                };
                format!("{option} {}", self.endpoint(address, port, Some(protocol)))
            }
            ServiceName::Mark { mark, family } => format!("-f {}", mark_name(mark, family, " -6")),
        }
    }

    /// `address:port`, with names unless they are not wanted.
    pub(super) fn endpoint(&self, address: IpAddr, port: u16, protocol: Option<Protocol>) -> String {
        let numeric = self.format.numeric;
        let host = if numeric { None } else { self.names.name_of(address) };
        let host = host.unwrap_or_else(|| address.to_string());
        let service = match protocol {
            Some(protocol) if !numeric => self.names.service_of(port, protocol),
            _ => None,
        };
        let port = service.unwrap_or_else(|| port.to_string());
        if address.is_ipv6() { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    /// The same for a column: of IPv4 no more than fits.
    fn column(&self, address: IpAddr, port: u16, protocol: Option<Protocol>) -> String {
        let text = self.endpoint(address, port, protocol);
        if address.is_ipv6() { text } else { text.chars().take(NAME_WIDTH).collect() }
    }

    fn numbers(&self, out: &mut dyn Write, numbers: [u64; 5]) -> io::Result<()> {
        for number in numbers {
            write_number(out, number, self.format.exact)?;
        }
        writeln!(out)
    }
}

/// `-L --timeout`.
pub(super) fn timeouts(out: &mut dyn Write, timeouts: Timeouts) -> io::Result<()> {
    let Timeouts { tcp, tcp_fin, udp } = timeouts;
    writeln!(out, "Timeout (tcp tcpfin udp): {tcp} {tcp_fin} {udp}")
}

/// `-L --daemon`.
pub(super) fn daemons(out: &mut dyn Write, daemons: &[Daemon]) -> io::Result<()> {
    for daemon in daemons {
        let role = match daemon.role {
            DaemonRole::Master => "master",
            DaemonRole::Backup => "backup",
        };
        let group = daemon.group.unwrap_or_else(|| [224, 0, 0, 81].into());
        writeln!(
            out,
            "{role} sync daemon (mcast={}, syncid={}, maxlen={}, group={group}, port={}, ttl={})",
            daemon.interface,
            daemon.sync_id.unwrap_or(255),
            daemon.max_length.unwrap_or(1472),
            daemon.port.unwrap_or(8848),
            daemon.ttl.unwrap_or(1),
        )?;
    }
    Ok(())
}

fn heading(view: View) -> &'static str {
    match view {
        View::Plain => {
            "Prot LocalAddress:Port Scheduler Flags\n  \
             -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n"
        }
        View::Stats => {
            "Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes\n  \
             -> RemoteAddress:Port\n"
        }
        View::Rate => {
            "Prot LocalAddress:Port                 CPS    InPPS   OutPPS    InBPS   OutBPS\n  \
             -> RemoteAddress:Port\n"
        }
        View::Thresholds => {
            "Prot LocalAddress:Port            Uthreshold Lthreshold ActiveConn InActConn \n  \
             -> RemoteAddress:Port\n"
        }
        View::Persistent => {
            "Prot LocalAddress:Port            Weight    PersistConn ActiveConn InActConn \n  \
             -> RemoteAddress:Port\n"
        }
        View::Tunnel => {
            "Prot LocalAddress:Port Scheduler Flags\n  \
             -> RemoteAddress:Port           Forward TunnelInfo    Weight ActiveConn InActConn\n"
        }
    }
}

/// Ports of a mark's servers have no protocol to be named by.
fn protocol(service: &ServiceName) -> Option<Protocol> {
    match *service {
        ServiceName::Address { protocol, .. } => Some(protocol),
        ServiceName::Mark { .. } => None,
    }
}

/// ipvsadm prints marks as signed numbers.
fn mark_name(mark: u32, family: Family, ipv6: &str) -> String {
    format!("{}{}", mark as i32, if family == Family::Ipv6 { ipv6 } else { "" })
}

/// Scheduler and what makes the service special.
fn properties(settings: &ServiceSettings) -> String {
    let mut text = settings.scheduler.clone();
    if let Some(flags) = flag_names(settings) {
        text += &format!(" ({flags})");
    }
    if let Some(seconds) = settings.persistence {
        text += &format!(" persistent {seconds}");
        match settings.granularity {
            granularity if granularity.is_host() => {}
            Granularity::Mask(mask) => text += &format!(" mask {mask}"),
            Granularity::Prefix(bits) => text += &format!(" mask {bits}"),
        }
        if let Some(engine) = &settings.engine {
            text += &format!(" pe {engine}");
        }
    }
    if settings.one_packet {
        text += " ops";
    }
    text
}

/// The flags as this scheduler names them. A flag that sh or mh does not use
/// has no name with them, so the text may be empty.
fn flag_names(settings: &ServiceSettings) -> Option<String> {
    let names: [&str; 3] = match settings.scheduler.as_str() {
        "sh" => ["sh-fallback", "sh-port", ""],
        "mh" => ["mh-fallback", "mh-port", ""],
        _ => ["flag-1", "flag-2", "flag-3"],
    };
    let set = names.iter().enumerate().filter(|(bit, _)| settings.scheduler_flags & 1 << bit != 0);
    let named: Vec<_> = set.map(|(_, name)| *name).filter(|name| !name.is_empty()).collect();
    (settings.scheduler_flags != 0).then(|| named.join(","))
}

fn method(method: Method) -> &'static str {
    match method {
        Method::Nat => "Masq",
        Method::FullNat => "FullNat",
        Method::Dr => "Route",
        Method::Tun => "Tunnel",
    }
}

fn tunnel(method: Method, tunnel: Tunnel) -> String {
    let checksum = |checksum| match checksum {
        TunnelChecksum::None => "-c",
        TunnelChecksum::Sent => "+c",
        TunnelChecksum::Remote => "r+c",
    };
    match (method, tunnel) {
        (Method::Tun, Tunnel::Ipip) => "ipip".into(),
        (Method::Tun, Tunnel::Gue { port, checksum: sum }) => format!("gue:{port}:{}", checksum(sum)),
        (Method::Tun, Tunnel::Gre { checksum: sum }) => format!("gre:{}", checksum(sum)),
        _ => "n/a".into(),
    }
}

fn traffic(traffic: &TrafficListing) -> [u64; 5] {
    let TrafficListing { connections, in_packets, out_packets, in_bytes, out_bytes } = *traffic;
    [connections, in_packets, out_packets, in_bytes, out_bytes]
}

fn rates(rates: &Rates) -> [u64; 5] {
    let Rates { connections, in_packets, out_packets, in_bytes, out_bytes } = *rates;
    [connections, in_packets, out_packets, in_bytes, out_bytes]
}

/// Nine columns. From a hundred million on a number is cut to thousands and
/// more, unless it is to be exact, when a long one still has a space before
/// it.
fn write_number(out: &mut dyn Write, number: u64, exact: bool) -> io::Result<()> {
    const UNITS: [(u64, u64, char); 3] = [
        (1_000_000_000, 1_000, 'K'),
        (100_000_000_000, 1_000_000, 'M'),
        (100_000_000_000_000, 1_000_000_000, 'G'),
    ];
    if exact {
        return write!(out, " {number:>8}");
    }
    if number < 100_000_000 {
        return write!(out, "{number:>9}");
    }
    let (_, unit, suffix) =
        UNITS.into_iter().find(|(below, ..)| number < *below).unwrap_or((0, 1_000_000_000_000, 'T'));
    write!(out, "{:>8}{suffix}", number / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(number: u64, exact: bool) -> String {
        let mut out = Vec::new();
        write_number(&mut out, number, exact).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn large_numbers_get_a_suffix() {
        for (n, text) in [
            (0, "        0"),
            (99_999_999, " 99999999"),
            (119_189_488, "  119189K"),
            (1_020_617_772, "    1020M"),
            (99_999_999_999, "   99999M"),
            (100_000_000_000, "     100G"),
            (99_999_999_999_999, "   99999G"),
            (100_000_000_000_000, "     100T"),
            (u64::MAX, "18446744T"),
        ] {
            assert_eq!(number(n, false), text);
        }
        assert_eq!(number(99_999_999, true), " 99999999");
        assert_eq!(number(119_189_488, true), " 119189488");
    }
}
