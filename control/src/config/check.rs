//! Checks a configuration file and resolves it.

use std::collections::HashSet;
use std::net::IpAddr;
use std::ops::Range;

use sluice_dataplane::service::{Method, Protocol};
use sluice_dataplane::wire::Address;
use toml::Spanned;

use super::place::Lines;
use super::read::{MISSING, Mistake, read};
use super::suggest::nearest;
use super::{Config, Director, Problem};
use crate::interface;

/// What `protocol` may be.
pub(super) const PROTOCOLS: [(&str, Protocol); 3] =
    [("tcp", Protocol::Tcp), ("udp", Protocol::Udp), ("sctp", Protocol::Sctp)];

/// What `method` of a server may be.
pub(super) const METHODS: [(&str, Method); 4] = [
    ("nat", Method::Nat),
    ("fullnat", Method::FullNat),
    ("dr", Method::DirectRoute),
    ("tun", Method::Tunnel),
];

/// What to do about a wrong name of one of this machine's interfaces.
pub(super) const INTERFACE_HINT: &str = "`ip -br link` lists the names of the interfaces of this machine";

/// Reads and resolves a text, or lists its mistakes in their order.
pub(super) fn check(text: &str) -> Result<Config, Vec<Problem>> {
    let reading = read(text);
    let mut check = Check {
        lines: Lines::of(text),
        problems: Vec::new(),
        left_out: reading.left_out,
        is_toml: reading.is_toml,
    };
    for Mistake { span, message, hint } in reading.mistakes {
        check.problem(span, message, hint);
    }
    let file = &reading.file;
    let director = match &file.director {
        Some(director) => check.director(director),
        None => {
            check.missing(0..0, "director");
            Director::default()
        }
    };
    let services = check.services(file, &director);
    let marks = check.marks(&file.mark, &director);
    let web = check.web(file.web.as_ref());
    let sync = check.sync(file.sync.as_ref());
    let daemons = check.daemons(&file.sync_daemon);
    if check.problems.is_empty() {
        Ok(Config { director, services, marks, web, sync, daemons })
    } else {
        check.problems.sort_by_key(|problem| (problem.line, problem.column));
        Err(check.problems)
    }
}

pub(super) struct Check<'a> {
    lines: Lines<'a>,
    problems: Vec<Problem>,
    left_out: HashSet<(usize, String)>,
    is_toml: bool,
}

impl Check<'_> {
    pub(super) fn problem(
        &mut self,
        span: Range<usize>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.problems.push(Problem::at(self.lines.place(span), message, hint));
    }

    /// A key that a table needs, unless it is there and has a mistake that was
    /// told already.
    pub(super) fn missing(&mut self, table: Range<usize>, key: &str) {
        self.missing_with(table, key, MISSING);
    }

    /// The same with what to do about it.
    pub(super) fn missing_with(&mut self, table: Range<usize>, key: &str, hint: &str) {
        if self.is_toml && !self.left_out.contains(&(table.start, key.to_owned())) {
            self.problem(table, format!("missing field `{key}`"), hint);
        }
    }

    /// The name of an interface; `hint` says what to write in place of a wrong one.
    pub(super) fn interface(&mut self, name: &Spanned<String>, hint: &str) -> String {
        let text = name.as_ref();
        if !interface::is_name(text) {
            self.problem(name.span(), format!("{text:?} cannot be the name of an interface"), hint);
        }
        text.clone()
    }

    pub(super) fn line(&self, span: Range<usize>) -> usize {
        self.lines.line(span.start)
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
            let known: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            let names: Vec<String> = known.iter().map(|name| format!("\"{name}\"")).collect();
            let meant = nearest(value.as_ref(), &known).map(|name| format!("did you mean \"{name}\"? "));
            self.problem(
                value.span(),
                format!("there is no {key} {:?}", value.as_ref()),
                format!("{}choose {}", meant.unwrap_or_default(), or_list(&names)),
            );
        }
        found
    }

    pub(super) fn local_addresses(&mut self, list: &[Spanned<String>]) -> Vec<Address> {
        let mut addresses: Vec<Address> = Vec::new();
        let mut seen = HashSet::new();
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
            if !seen.insert(address) {
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

    pub(super) fn unicast(&mut self, ip: IpAddr, span: Range<usize>) -> bool {
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
}

/// `a`, `b` or `c`.
pub(super) fn or_list(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [only] => only.clone(),
        [rest @ .., last] => format!("{} or {last}", rest.join(", ")),
    }
}
