//! `[[mark]]`, and what a `[[service]]` is known by.

use std::ops::Range;
use std::str::FromStr;

use sluice_dataplane::service::{Family, ServiceKey};
use toml::{Spanned, Value};

use super::check::{Check, PROTOCOLS};
use super::{Director, file};
use crate::marks::{Addresses, MarkRule, Ports, Set};
use crate::rules;

impl Check<'_> {
    /// What a service is known by, and where that stands; `None` if there was
    /// a mistake.
    pub(super) fn key(&mut self, spanned: &Spanned<file::Service>) -> Option<(ServiceKey, Range<usize>)> {
        let service = spanned.as_ref();
        match (&service.mark, &service.address) {
            (Some(mark), Some(_)) => {
                self.problem(
                    mark.span(),
                    "a service has either a mark or an address",
                    "remove one of the two; a [[mark]] says which addresses and ports have the mark",
                );
                None
            }
            (Some(mark), None) => self.mark_key(service, mark),
            (None, address) => {
                if let Some(family) = &service.family {
                    self.problem(
                        family.span(),
                        "the family of a service with an address is that of the address",
                        "remove it",
                    );
                }
                let (Some(address), Some(protocol)) = (address, &service.protocol) else {
                    let missing = if address.is_none() { "address" } else { "protocol" };
                    let hint =
                        "give the service an address and a protocol, as in configs/minimal.toml, or a mark";
                    self.missing_with(spanned.span(), missing, hint);
                    return None;
                };
                let protocol = self.one_of("protocol", protocol, &PROTOCOLS);
                let at = self.virtual_address(address);
                if at.is_some_and(|(_, port)| port == 0) && service.persistent.is_none() {
                    self.problem(
                        address.span(),
                        "a service of all ports (port 0) needs persistence",
                        "add persistent = 300, or name a port from 1 to 65535",
                    );
                }
                let ((address_of, port), protocol) = (at?, protocol?);
                Some((ServiceKey::Address { protocol, address: address_of, port }, address.span()))
            }
        }
    }

    fn mark_key(
        &mut self,
        service: &file::Service,
        mark: &Spanned<i64>,
    ) -> Option<(ServiceKey, Range<usize>)> {
        if let Some(protocol) = &service.protocol {
            self.problem(
                protocol.span(),
                "a service of a mark has no protocol of its own",
                "remove it; the protocol of a [[mark]] says which packets have the mark",
            );
        }
        let families = [("ipv4", Family::V4), ("ipv6", Family::V6)];
        let family = match &service.family {
            None => Some(Family::V4),
            Some(family) => self.one_of("family", family, &families),
        };
        let number = u32::try_from(*mark.as_ref()).ok().filter(|mark| *mark != 0);
        if number.is_none() {
            self.problem(
                mark.span(),
                format!("{} cannot be the mark of a service", mark.as_ref()),
                "choose 1 to 4294967295; packets without a mark have 0",
            );
        }
        Some((ServiceKey::Mark { mark: number?, family: family? }, mark.span()))
    }

    pub(super) fn marks(
        &mut self,
        list: &[Spanned<file::Mark>],
        director: &Director,
    ) -> Vec<(usize, MarkRule)> {
        let mut rules = Vec::new();
        for spanned in list {
            let mark = spanned.as_ref();
            if mark.vip.is_none() {
                self.missing(spanned.span(), "vip");
            }
            if mark.set.is_none() {
                self.missing(spanned.span(), "set");
            }
            let vip = mark.vip.as_ref().and_then(|vip| self.parsed::<Addresses>(vip));
            let from = mark.from.as_ref().map(|from| self.parsed::<Addresses>(from));
            let protocols = [
                ("any", None),
                ("tcp", Some(rules::Protocol::Tcp)),
                ("udp", Some(rules::Protocol::Udp)),
                ("sctp", Some(rules::Protocol::Sctp)),
            ];
            let protocol = match &mark.protocol {
                None => Some(None),
                Some(protocol) => self.one_of("protocol", protocol, &protocols),
            };
            let ports = self.ports(mark, protocol);
            let set = mark.set.as_ref().and_then(|set| self.set(set));
            let (Some(vip), Some(protocol), Some(ports), Some(set)) = (vip, protocol, ports, set) else {
                continue;
            };
            let interface = mark.interface.as_ref().map(|interface| interface.as_ref().clone());
            let rule = MarkRule { vip, protocol, ports, from: from.flatten(), interface, set };
            if let (Some(from), Some(text)) = (rule.from, &mark.from)
                && from.family() != vip.family()
            {
                self.problem(
                    text.span(),
                    format!("{from} and {vip} are not of the same address family"),
                    "name a source of the family of the vip",
                );
            }
            if let Some(text) = &mark.interface
                && !director.interfaces.iter().any(|interface| rule.is_on(interface))
            {
                self.problem(
                    text.span(),
                    format!("interface {} is none of the director's", text.as_ref()),
                    format!(
                        "choose one of {}; packets that come in by others are the kernel's",
                        director.interfaces.join(", ")
                    ),
                );
            }
            rules.push((self.line(spanned.span()), rule));
        }
        rules
    }

    fn ports(&mut self, mark: &file::Mark, protocol: Option<Option<rules::Protocol>>) -> Option<Ports> {
        if let (Some(first), Some(None)) = (mark.ports.first(), protocol) {
            self.problem(
                first.span(),
                "ports are those of a protocol, and this is for any",
                "add protocol = \"tcp\" or protocol = \"udp\"",
            );
        }
        let mut ranges = Some(Vec::new());
        for value in &mark.ports {
            let text = match value.as_ref() {
                Value::Integer(port) => port.to_string(),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            match Ports::range(&text) {
                Ok(range) => ranges.iter_mut().for_each(|ranges| ranges.push(range)),
                Err(message) => {
                    self.problem(value.span(), message, "write ports as in [80, 443, \"8000-8100\"]");
                    ranges = None;
                }
            }
        }
        ranges.map(Ports::new)
    }

    fn set(&mut self, value: &Spanned<Value>) -> Option<Set> {
        let set = match value.as_ref() {
            Value::Integer(mark) => u32::try_from(*mark).ok().map(Set::whole),
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        if set.is_none() {
            self.problem(
                value.span(),
                format!("{} cannot be set as a mark", value.as_ref()),
                "write a number up to 4294967295, or \"MARK/MASK\" as in \"0x10/0xff\"",
            );
        }
        set
    }

    fn parsed<T: FromStr<Err = String>>(&mut self, text: &Spanned<String>) -> Option<T> {
        match text.as_ref().parse() {
            Ok(value) => Some(value),
            Err(message) => {
                self.problem(text.span(), format!("{:?}: {message}", text.as_ref()), "");
                None
            }
        }
    }
}
