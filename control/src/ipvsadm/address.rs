//! Numbers, addresses and ports as ipvsadm reads them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::names::Resolver;
use crate::rules::Protocol;

/// A decimal number from `min` to `max`, with the leniency of `strtol`:
/// leading white space and a sign are taken, anything behind is not.
pub(super) fn number(text: &str, min: i64, max: i64) -> Option<i64> {
    let text = text.trim_start_matches([' ', '\t', '\n', '\u{b}', '\u{c}', '\r']);
    // Rust takes a sign as well, but not two.
    let number: i64 = text.parse().ok()?;
    (min..=max).contains(&number).then_some(number)
}

/// The number at the beginning of `text`, or 0, as C's `atoi`.
pub(super) fn leading_number(text: &str) -> i64 {
    let text = text.trim_start();
    let sign = usize::from(text.starts_with(['+', '-']));
    let digits = text[sign..].bytes().take_while(u8::is_ascii_digit).count();
    text[..sign + digits].parse().unwrap_or(0)
}

/// An IPv4 address in the notations of `inet_aton`: one to four parts, each
/// decimal, octal or hexadecimal, the last filling what is left.
pub(super) fn ipv4(text: &str) -> Option<Ipv4Addr> {
    let mut parts = Vec::new();
    for part in text.split('.') {
        parts.push(match part.strip_prefix("0x").or_else(|| part.strip_prefix("0X")) {
            Some(hex) => digits(hex, 16)?,
            None if part.len() > 1 && part.starts_with('0') => digits(part, 8)?,
            None => digits(part, 10)?,
        });
    }
    let last = parts.pop()?;
    if parts.len() > 3 || parts.iter().any(|part| *part > 255) {
        return None;
    }
    let room = 8 * (4 - parts.len() as u32);
    if u64::from(last) >= 1 << room {
        return None;
    }
    let high = parts.iter().fold(0u64, |sum, part| sum << 8 | u64::from(*part));
    Some(Ipv4Addr::from(((high << room) | u64::from(last)) as u32))
}

fn digits(text: &str, radix: u32) -> Option<u32> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if plain { u32::from_str_radix(text, radix).ok() } else { None }
}

/// An IPv4 address or the name of one.
pub(super) fn ipv4_or_name(text: &str, names: &dyn Resolver) -> Option<Ipv4Addr> {
    ipv4(text).or_else(|| names.address_of(text))
}

/// `host`, `host:port`, `[v6]:port` or `v6`, where host is an address or a
/// name and port a number or a name. IPv6 addresses have no names here, and a
/// bracketed one needs a port.
pub(super) fn endpoint(
    text: &str,
    protocol: Option<Protocol>,
    names: &dyn Resolver,
) -> Option<(IpAddr, Option<u16>)> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (host, bracketed_port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, behind) = rest.split_once(']')?;
            (host, Some(behind.strip_prefix(':')?))
        }
        None => (text, None),
    };
    let (address, port_text) = match host.parse::<Ipv6Addr>() {
        Ok(v6) => (IpAddr::V6(v6), bracketed_port),
        Err(_) => {
            // A port behind brackets without IPv6 in them is dropped there.
            let (host, port) = match host.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (host, None),
            };
            (IpAddr::V4(ipv4_or_name(host, names)?), port)
        }
    };
    let port = match port_text {
        None => None,
        Some(text) => Some(port_number(text, protocol, names)?),
    };
    Some((address, port))
}

fn port_number(text: &str, protocol: Option<Protocol>, names: &dyn Resolver) -> Option<u16> {
    match number(text, 0, 65535) {
        Some(port) => Some(port as u16),
        None => names.port_of(text, protocol?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipvsadm::names::NoNames;

    #[test]
    fn ipv4_is_read_as_by_inet_aton() {
        for (text, expected) in [
            ("10.1", Some([10, 0, 0, 1])),
            ("10", Some([0, 0, 0, 10])),
            ("010.1.1.1", Some([8, 1, 1, 1])),
            ("0x0a.1.1.1", Some([10, 1, 1, 1])),
            ("10.1.65535", Some([10, 1, 255, 255])),
            ("255.255.255.255", Some([255, 255, 255, 255])),
            ("4294967295", Some([255, 255, 255, 255])),
            ("4294967296", None),
            ("10.0.0.1.", None),
            ("1.2.3.4.5", None),
            ("256.1.1.1", None),
            ("1.256", Some([1, 0, 1, 0])),
            ("08.1.1.1", None),
            ("0x.1.1.1", None),
            ("+1.1.1.1", None),
            ("", None),
            ("any", None),
        ] {
            assert_eq!(ipv4(text), expected.map(Ipv4Addr::from), "{text}");
        }
    }

    #[test]
    fn numbers_are_read_as_by_strtol() {
        for (text, expected) in
            [(" 5", Some(5)), ("5 ", None), ("+5", Some(5)), ("05", Some(5)), ("0x5", None), ("", None)]
        {
            assert_eq!(number(text, 0, 9), expected, "{text:?}");
        }
        assert_eq!(number("-1", 0, 9), None);
        assert_eq!(number("99999999999999999999", 0, i64::MAX), None);
        assert_eq!([leading_number("64abc"), leading_number("abc"), leading_number("-3")], [64, 0, -3]);
    }

    #[test]
    fn endpoints_are_what_ipvsadm_takes_for_them() {
        let v4 = |octets: [u8; 4], port| Some((IpAddr::from(octets), port));
        let v6 = |text: &str, port| Some((text.parse().unwrap(), port));
        for (text, expected) in [
            ("10.0.0.1:80", v4([10, 0, 0, 1], Some(80))),
            ("10.0.0.1", v4([10, 0, 0, 1], None)),
            ("10:80", v4([0, 0, 0, 10], Some(80))),
            ("10", None),
            ("10.0.0.1:", None),
            ("10.0.0.1:65536", None),
            ("[2001:db8::1]:80", v6("2001:db8::1", Some(80))),
            ("[2001:db8::1]", None),
            ("2001:db8::1:80", v6("2001:db8::1:80", None)),
            ("[1.2.3.4]:80", v4([1, 2, 3, 4], None)),
            ("[::1:80", None),
            (":::80", None),
            ("fe80::1%lo", None),
            (":80", None),
            ("", None),
        ] {
            assert_eq!(endpoint(text, Some(Protocol::Tcp), &NoNames), expected, "{text}");
        }
    }
}
