//! One-packet scheduling and persistence of a `[[service]]`, and the tunnels to
//! its servers.

use std::net::Ipv4Addr;

use sluice_dataplane::service::{
    ClientMask, Engine, Family, Method, Persistence, Protocol, ServiceKey, ServiceOptions,
};
use toml::{Spanned, Value};

use super::check::Check;
use super::file;
use crate::rules::{Tunnel, TunnelChecksum};

/// Longest persistence timeout, in seconds: what ipvsadm takes (31 days).
const MAX_PERSISTENCE: u32 = 31 * 86_400;

impl Check<'_> {
    pub(super) fn options(&mut self, service: &file::Service, key: Option<ServiceKey>) -> ServiceOptions {
        let protocol = match key {
            Some(ServiceKey::Address { protocol, .. }) => Some(protocol),
            _ => None,
        };
        let one_packet = service.one_packet.as_ref().is_some_and(|value| *value.as_ref());
        if let (true, Some(Protocol::Tcp | Protocol::Sctp), Some(value)) =
            (one_packet, protocol, &service.one_packet)
        {
            self.problem(
                value.span(),
                "one_packet is for UDP services only",
                "remove it, or make the protocol \"udp\"",
            );
        }
        let persistence = self.persistence(service, key.map(|key| key.family()));
        ServiceOptions {
            one_packet,
            persistence,
            engine: self.engine(service, protocol),
            ..ServiceOptions::default()
        }
    }

    fn engine(&mut self, service: &file::Service, protocol: Option<Protocol>) -> Option<Engine> {
        let text = service.engine.as_ref()?;
        let engine = Engine::from_name(text.as_ref());
        if engine.is_none() {
            let message = format!("{:?} is not a persistence engine", text.as_ref());
            self.problem(text.span(), message, "choose \"sip\"");
        }
        if service.persistent.is_none() {
            self.problem(
                text.span(),
                "a persistence engine is for persistent services only",
                "remove it, or add persistent = 300",
            );
        }
        // IPVS takes it, and then drops whatever begins a connection.
        if let Some(Protocol::Tcp | Protocol::Sctp) = protocol {
            self.problem(
                text.span(),
                "the engine \"sip\" is for UDP services only",
                "remove it, or make the protocol \"udp\"",
            );
        }
        engine
    }

    /// The bits of a client's address that count.
    fn mask(&mut self, text: &Spanned<String>, family: Option<Family>) -> ClientMask {
        let v4 = || text.as_ref().parse::<Ipv4Addr>().ok().map(|mask| ClientMask::v4(mask.octets()));
        let v6 = || text.as_ref().parse().ok().filter(|bits| (1..=128).contains(bits)).map(ClientMask::v6);
        let (mask, what, hint) = match family {
            Some(Family::V6) => {
                (v6(), "the prefix length of an IPv6 network", "write it as in \"64\", from 1 to 128")
            }
            Some(Family::V4) => (v4(), "an IPv4 netmask", "write it as in \"255.255.255.0\""),
            None => (v4().or_else(v6), "a netmask", "write it as in \"255.255.255.0\", or \"64\" for IPv6"),
        };
        if mask.is_none() {
            self.problem(text.span(), format!("{:?} is not {what}", text.as_ref()), hint);
        }
        mask.unwrap_or(ClientMask::HOST)
    }

    fn persistence(&mut self, service: &file::Service, family: Option<Family>) -> Option<Persistence> {
        let mask = service.netmask.as_ref().map(|text| {
            let mask = self.mask(text, family);
            if service.persistent.is_none() {
                self.problem(
                    text.span(),
                    "a netmask is for persistent services only",
                    "remove it, or add persistent = 300",
                );
            }
            mask
        });
        let seconds = service.persistent.as_ref()?;
        let timeout = u32::try_from(*seconds.as_ref()).ok().filter(|s| (1..=MAX_PERSISTENCE).contains(s));
        if timeout.is_none() {
            self.problem(
                seconds.span(),
                format!("persistent cannot be {} seconds", seconds.as_ref()),
                format!("choose 1 to {MAX_PERSISTENCE}"),
            );
        }
        Some(Persistence { timeout: timeout?, mask: mask.unwrap_or(ClientMask::HOST) })
    }

    /// What packets of a TUN server are wrapped in.
    pub(super) fn tunnel(&mut self, server: &file::Server, method: Option<Method>) -> Tunnel {
        const KINDS: [(&str, Kind); 3] = [("ipip", Kind::Ipip), ("gue", Kind::Gue), ("gre", Kind::Gre)];
        if let (Some(kind), false) = (&server.tunnel, method == Some(Method::Tunnel)) {
            self.problem(kind.span(), "only servers of method \"tun\" have a tunnel", "remove it");
        }
        let kind = self.choice("tunnel", server.tunnel.as_ref(), &KINDS);
        if let (Some(port), false) = (&server.tunnel_port, kind == Kind::Gue) {
            self.problem(port.span(), "only a tunnel of \"gue\" has a port", "remove it");
        }
        let checksum = self.checksum(server, kind);
        match kind {
            Kind::Ipip => Tunnel::Ipip,
            Kind::Gre => Tunnel::Gre { checksum },
            Kind::Gue => {
                let port = server.tunnel_port.as_ref();
                let number =
                    port.and_then(|port| u16::try_from(*port.as_ref()).ok()).filter(|port| *port != 0);
                if number.is_none() {
                    let span = port.map(Spanned::span);
                    self.problem(
                        span.or_else(|| server.tunnel.as_ref().map(Spanned::span)).unwrap_or(0..0),
                        "a tunnel of \"gue\" needs the UDP port that the server listens on",
                        "add tunnel_port = 6080, or whatever 1 to 65535 the server has",
                    );
                }
                Tunnel::Gue { port: number.unwrap_or(1), checksum }
            }
        }
    }

    fn checksum(&mut self, server: &file::Server, kind: Kind) -> TunnelChecksum {
        let Some(value) = &server.tunnel_checksum else {
            return TunnelChecksum::None;
        };
        if kind == Kind::Ipip {
            let message = "a tunnel of \"ipip\" has no checksum";
            self.problem(value.span(), message, "remove it, or choose \"gue\" or \"gre\"");
        }
        match value.as_ref() {
            Value::Boolean(false) => TunnelChecksum::None,
            Value::Boolean(true) => TunnelChecksum::Sent,
            Value::String(text) if text == "remote" && kind == Kind::Gue => TunnelChecksum::Remote,
            other => {
                let hint = "choose true or false, or with \"gue\" \"remote\", as --tun-remcsum of ipvsadm";
                self.problem(value.span(), format!("a tunnel has no checksum {other}"), hint);
                TunnelChecksum::None
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Kind {
    #[default]
    Ipip,
    Gue,
    Gre,
}
