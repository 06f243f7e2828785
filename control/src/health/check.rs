//! What a check is: how it reaches a server and what it wants of it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::command::Command;
use super::dns::Dns;
use super::grpc::Grpc;
use super::http::Http;
use super::route::Route;
use super::udp::Udp;
use super::vip::{Passages, Through};
use super::{command, dns, grpc, http, icmp, tcp, udp};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// A check, to be made of any server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Check {
    /// What is asked
    pub kind: Kind,
    /// By which way
    pub way: Way,
    /// How often, and how often before it counts
    pub timing: Timing,
}

/// The kinds of checks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A TCP connection is accepted
    Tcp,
    /// An HTTP or HTTPS request is answered
    Http(Box<Http>),
    /// A gRPC server says that it serves
    Grpc(Box<Grpc>),
    /// A DNS question is answered
    Dns(Dns),
    /// A UDP datagram is answered, or at least not refused
    Udp(Udp),
    /// An ICMP or ICMPv6 echo request is answered
    Icmp,
    /// A command says so
    Command(Command),
}

impl Kind {
    /// Its name in the configuration.
    pub fn name(&self) -> &'static str {
        match self {
            Kind::Tcp => "tcp",
            Kind::Http(http) if http.tls.is_some() => "https",
            Kind::Http(_) => "http",
            Kind::Grpc(grpc) if grpc.tls.is_some() => "grpcs",
            Kind::Grpc(_) => "grpc",
            Kind::Dns(_) => "dns",
            Kind::Udp(_) => "udp",
            Kind::Icmp => "icmp",
            Kind::Command(_) => "command",
        }
    }
}

/// How a check reaches its server, where that differs from the service.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub struct Way {
    /// Another address than the server's
    pub address: Option<IpAddr>,
    /// Another port than the server's
    pub port: Option<u16>,
    /// The address to send from
    pub source: Option<IpAddr>,
    /// Mark of the packets (`SO_MARK`), for `ip rule`
    pub mark: Option<u32>,
    /// The interface to send by (`SO_BINDTODEVICE`)
    pub interface: Option<String>,
    /// Whether a server of direct routing or of a tunnel in IP is asked for the service's address, as clients ask it;
    /// others are asked for their own
    pub vip: bool,
}

impl Way {
    /// Where a server of this address and port is reached.
    pub fn target(&self, address: IpAddr, port: u16) -> SocketAddr {
        SocketAddr::new(self.address.unwrap_or(address), self.port.unwrap_or(port))
    }

    /// A socket that does not block, bound as this says.
    pub(super) fn socket(&self, target: IpAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
        let domain = if target.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, kind.nonblocking(), Some(protocol))?;
        if let Some(mark) = self.mark {
            socket.set_mark(mark)?;
        }
        if let Some(interface) = &self.interface {
            socket.bind_device(Some(interface.as_bytes()))?;
        }
        if let Some(source) = self.source {
            socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
        }
        Ok(socket)
    }
}

/// When checks are made, and how many results it takes to change a state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// From the beginning of one to that of the next
    pub interval: Duration,
    /// How long one may take in all
    pub timeout: Duration,
    /// At random, up to so much is added to the interval
    pub jitter: Duration,
    /// Successes in a row that bring a server up
    pub rise: u32,
    /// Failures in a row that take it down
    pub fall: u32,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(2),
            jitter: Duration::from_millis(200),
            rise: 1,
            fall: 3,
        }
    }
}

/// What one check of a server found: the weight that it is to have, if the
/// check says so, or what is wrong with it.
pub(super) type Finding = Result<Option<u32>, String>;

/// Makes the check once. It takes as long as the server lets it: whoever calls
/// this bounds it.
pub(super) async fn make(
    check: &Check,
    target: SocketAddr,
    through: Option<Through>,
    pinger: &icmp::Pinger,
    passages: &Passages,
) -> Finding {
    let route = &Route::new(&check.way, target.ip(), through, passages);
    let target = SocketAddr::new(through.map_or(target.ip(), |through| through.vip), target.port());
    let finding = match &check.kind {
        Kind::Tcp => tcp::check(route, target).await.map(|()| None),
        Kind::Http(http) => http::check(http, route, target).await.map(|()| None),
        Kind::Grpc(grpc) => grpc::check(grpc, route, target).await.map(|()| None),
        Kind::Dns(dns) => dns::check(dns, route, target).await.map(|()| None),
        Kind::Udp(udp) => udp::check(udp, route, target, check.timing.timeout).await.map(|()| None),
        Kind::Icmp => icmp::check(pinger, &check.way, target.ip()).await.map(|()| None),
        Kind::Command(command) => command::check(command, target).await,
    };
    route.judged(finding)
}

/// An error of the system without its number.
pub(super) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}
