//! A rule as it is written, on the command line, in the configuration and in
//! JSON.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_dataplane::neigh::Prefix;
use sluice_dataplane::service::PortRange;
use sluice_dataplane::wire::Address;

use crate::interface;
use crate::rules::{Family, Protocol};

/// An address, or all of a prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct Addresses(pub Prefix);

impl Addresses {
    /// Their family.
    pub fn family(self) -> Family {
        Family::of(self.0.address().into())
    }
}

impl FromStr for Addresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let wrong = || "expected an address or a prefix, as in 192.0.2.10, 192.0.2.0/24 or 2001:db8::/32";
        let ip: IpAddr = address.parse().map_err(|_| wrong())?;
        // Workers could not tell it from the IPv4 address.
        if let IpAddr::V6(v6) = ip
            && let Some(v4) = v6.to_ipv4_mapped()
        {
            return Err(format!("{ip} is an IPv4 address in the form of an IPv6 one; write {v4}"));
        }
        let address = Address::from(ip);
        let prefix = match length {
            None => Prefix::host(address),
            Some(length) => {
                let length = length.parse().map_err(|_| wrong())?;
                let most = if ip.is_ipv4() { 32 } else { 128 };
                Prefix::new(address, length)
                    .ok_or_else(|| format!("a prefix of {ip} has a length of 0 to {most}, not {length}"))?
            }
        };
        Ok(Addresses(prefix))
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Addresses(prefix) = self;
        if *prefix == Prefix::host(prefix.address()) { prefix.address().fmt(f) } else { prefix.fmt(f) }
    }
}

/// Ports and ranges of ports, in order; none is within another.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct Ports(Vec<PortRange>);

impl Ports {
    /// Ports of some ranges, which may overlap.
    pub fn new(ranges: impl IntoIterator<Item = PortRange>) -> Self {
        let mut ranges: Vec<_> = ranges.into_iter().collect();
        ranges.sort();
        let mut apart: Vec<PortRange> = Vec::new();
        for range in ranges {
            match apart.last_mut() {
                Some(last) if range.first <= last.last => last.last = last.last.max(range.last),
                _ => apart.push(range),
            }
        }
        Ports(apart)
    }

    /// The ranges.
    pub fn ranges(&self) -> &[PortRange] {
        &self.0
    }

    /// Whether there is none, which stands for all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A port or a range, as in `80`, `8000-8100` or, as iptables has it,
    /// `8000:8100`.
    pub(crate) fn range(text: &str) -> Result<PortRange, String> {
        let (first, last) = text.split_once(['-', ':']).unwrap_or((text, text));
        let port = |text: &str| {
            let wrong = || format!("{text:?} is not a port; ports are numbers from 0 to 65535");
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|_| digits).ok_or_else(wrong)
        };
        let range = PortRange { first: port(first)?, last: port(last)? };
        if range.first > range.last {
            return Err(format!("the range {text} ends before it begins; write {last}-{first}"));
        }
        Ok(range)
    }
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ranges: Result<Vec<_>, _> = text.split(',').map(Ports::range).collect();
        Ok(Ports::new(ranges?))
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, PortRange { first, last }) in self.0.iter().enumerate() {
            let comma = if place > 0 { "," } else { "" };
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

/// What is set: as `--set-mark` of iptables, bits of the mask and of the value
/// are cleared, and those of the value are set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct Set {
    /// Bits that are set
    pub value: u32,
    /// Bits that are cleared before
    pub mask: u32,
}

impl Set {
    /// The whole mark.
    pub fn whole(value: u32) -> Self {
        Set { value, mask: u32::MAX }
    }
}

fn number(text: &str) -> Option<u32> {
    let hexadecimal = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let (digits, radix) = hexadecimal.map_or((text, 10), |digits| (digits, 16));
    let only_digits = digits.chars().all(|digit| digit.is_digit(radix));
    u32::from_str_radix(digits, radix).ok().filter(|_| only_digits)
}

impl FromStr for Set {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (value, mask) = match text.split_once('/') {
            Some((value, mask)) => (number(value), number(mask)),
            None => (number(text), Some(u32::MAX)),
        };
        match (value, mask) {
            (Some(value), Some(mask)) => Ok(Set { value, mask }),
            _ => {
                Err("expected VALUE or VALUE/MASK, numbers up to 4294967295, as in 10, 0xa or 0xa/0xff"
                    .into())
            }
        }
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Set { value, mask: u32::MAX } => value.fmt(f),
            Set { value, mask } => write!(f, "{value:#x}/{mask:#x}"),
        }
    }
}

macro_rules! as_text {
    ($($name:ident),*) => {$(
        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }

        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }
    )*};
}

as_text!(Addresses, Set);

impl From<Ports> for String {
    fn from(ports: Ports) -> String {
        ports.to_string()
    }
}

impl TryFrom<String> for Ports {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.is_empty() { Ok(Ports::default()) } else { text.parse() }
    }
}

/// A rule. What is left out of it matches anything.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MarkRule {
    /// Where packets go
    pub vip: Addresses,
    /// Their transport protocol
    #[serde(default)]
    pub protocol: Option<Protocol>,
    /// Ports that they go to, all if there is none; for a protocol only
    #[serde(default)]
    pub ports: Ports,
    /// Where they come from
    #[serde(default)]
    pub from: Option<Addresses>,
    /// The interface that they come in by; with a `+` at the end, all whose
    /// names begin so
    #[serde(default)]
    pub interface: Option<String>,
    /// What is set
    pub set: Set,
}

impl MarkRule {
    /// Whether it can match anything.
    ///
    /// # Errors
    /// What is wrong and what to do about it.
    pub fn check(&self) -> Result<(), String> {
        if !self.ports.is_empty() && self.protocol.is_none() {
            return Err("ports are those of a protocol; name it, as in --proto tcp".into());
        }
        if let Some(from) = self.from
            && from.family() != self.vip.family()
        {
            return Err(format!("{from} and {} are not of the same address family", self.vip));
        }
        self.interface.as_deref().map_or(Ok(()), check_interface)
    }

    /// Whether it is about packets that come in by an interface.
    pub fn is_on(&self, interface: &str) -> bool {
        match self.interface.as_deref() {
            None => true,
            Some(name) => match name.strip_suffix('+') {
                Some(beginning) => interface.starts_with(beginning),
                None => interface == name,
            },
        }
    }
}

/// Whether this can be the name of an interface, or begin one.
pub(super) fn check_interface(name: &str) -> Result<(), String> {
    if !interface::is_name(name) {
        return Err(format!(
            "{name:?} cannot be the name of an interface; `ip -br link` lists those there are"
        ));
    }
    Ok(())
}

/// The words of `sluice mark` that say this.
impl fmt::Display for MarkRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--vip {}", self.vip)?;
        if let Some(protocol) = self.protocol {
            write!(f, " --proto {}", protocol.name())?;
        }
        if !self.ports.is_empty() {
            write!(f, " --port {}", self.ports)?;
        }
        if let Some(from) = self.from {
            write!(f, " --from {from}")?;
        }
        if let Some(interface) = &self.interface {
            write!(f, " --in {interface}")?;
        }
        write!(f, " --set {}", self.set)
    }
}

/// A rule in a listing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct MarkListing {
    /// The rule
    pub rule: MarkRule,
    /// Connections that were begun with packets that it matched
    pub connections: u64,
}
