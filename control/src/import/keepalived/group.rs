//! What a `virtual_server` is known by: an address, a mark or a group of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::super::note::Notes;
use super::tree::Statement;

/// Most addresses of a group.
const MAX_ADDRESSES: u128 = 65_536;

/// One service of a `virtual_server`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum At {
    Address(IpAddr, u16),
    /// With its family where that is said
    Mark(u32, Option<bool>),
}

/// What stands behind `virtual_server`; `None` for a group.
pub(super) fn header(words: &[String]) -> Result<At, String> {
    match words {
        [word, mark] if word == "fwmark" => number(mark).map(|mark| At::Mark(mark, None)),
        [address] => Ok(At::Address(ip(address)?, 0)),
        [address, port] => Ok(At::Address(ip(address)?, self::port(port)?)),
        [] => Err("it names no address".into()),
        _ => Err(format!("{:?} is not an address and port", words.join(" "))),
    }
}

/// All services of a `virtual_server_group`.
pub(super) fn group(block: &[Statement], notes: &mut Notes) -> Vec<At> {
    let mut all = Vec::new();
    for statement in block {
        match member(&statement.words) {
            Ok(members) => all.extend(members),
            Err(problem) => {
                notes.add(&statement.place, format!("{problem}; it is left out of the group"));
            }
        }
    }
    all
}

fn member(words: &[String]) -> Result<Vec<At>, String> {
    if words.first().is_some_and(|word| word == "fwmark") {
        let family = match words.get(2).map(String::as_str) {
            None => None,
            Some("inet") => Some(false),
            Some("inet6") => Some(true),
            Some(other) => return Err(format!("{other:?} is neither inet nor inet6")),
        };
        let mark = words.get(1).ok_or("fwmark has no number")?;
        return Ok(vec![At::Mark(number(mark)?, family)]);
    }
    let (range, port) = match words {
        [range] => (range, 0),
        [range, port] => (range, self::port(port)?),
        _ => return Err(format!("{:?} is not an address and port", words.join(" "))),
    };
    Ok(addresses(range)?.into_iter().map(|ip| At::Address(ip, port)).collect())
}

/// An address, `192.168.200.1-10`, `192.168.200.250-192.168.201.10` or
/// `192.168.202.8/29`.
fn addresses(text: &str) -> Result<Vec<IpAddr>, String> {
    if let Some((first, length)) = text.split_once('/') {
        let first = ip(first)?;
        let width = if first.is_ipv4() { 32 } else { 128 };
        let length = length.parse::<u32>().ok().filter(|length| *length <= width);
        let Some(length) = length else { return Err(format!("{text:?} is not a prefix")) };
        let host = width - length;
        let last = 1u128.checked_shl(host).map_or(u128::MAX, |size| size - 1);
        let first = bits(first) & !last;
        return all_of(text, first, first | last, width == 32);
    }
    let Some((first, last)) = text.split_once('-') else {
        return Ok(vec![ip(text)?]);
    };
    let first = ip(first)?;
    let wrong = || format!("{text:?} is not a range of addresses");
    let last = match first {
        _ if last.contains(['.', ':']) => ip(last)?,
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            Ipv4Addr::new(a, b, c, last.parse().map_err(|_| wrong())?).into()
        }
        IpAddr::V6(v6) => {
            let mut segments = v6.segments();
            segments[7] = u16::from_str_radix(last, 16).map_err(|_| wrong())?;
            Ipv6Addr::from(segments).into()
        }
    };
    if first.is_ipv4() != last.is_ipv4() || first > last {
        return Err(wrong());
    }
    all_of(text, bits(first), bits(last), first.is_ipv4())
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

fn all_of(text: &str, first: u128, last: u128, v4: bool) -> Result<Vec<IpAddr>, String> {
    if last - first >= MAX_ADDRESSES {
        return Err(format!(
            "{text} is more than {MAX_ADDRESSES} addresses; use a service of a mark for them"
        ));
    }
    let address = |bits: u128| match v4 {
        true => Ipv4Addr::from(bits as u32).into(),
        false => Ipv6Addr::from(bits).into(),
    };
    Ok((first..=last).map(address).collect())
}

pub(super) fn ip(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is not an IP address"))
}

pub(super) fn port(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| format!("{text:?} is not a port; ports are numbers from 0 to 65535"))
}

fn number(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|mark| *mark != 0);
    number.ok_or_else(|| format!("{text:?} is not a mark; marks are numbers from 1 to 4294967295"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_have_all_their_addresses() {
        for (text, count, first, last) in [
            ("192.0.2.1", 1, "192.0.2.1", "192.0.2.1"),
            ("192.168.200.1-10", 10, "192.168.200.1", "192.168.200.10"),
            ("192.168.200.250-192.168.201.10", 17, "192.168.200.250", "192.168.201.10"),
            ("192.168.202.8/29", 8, "192.168.202.8", "192.168.202.15"),
            ("2001:db8::1-1f", 31, "2001:db8::1", "2001:db8::1f"),
            ("2001:db8::/126", 4, "2001:db8::", "2001:db8::3"),
        ] {
            let all = addresses(text).unwrap();
            let ends = (all[0].to_string(), all[all.len() - 1].to_string());
            assert_eq!((all.len(), ends.0.as_str(), ends.1.as_str()), (count, first, last));
        }
        for text in ["10.0.0.9-1", "10.0.0.1-300", "10.0.0.0/8", "::/0", "0.0.0.0/33", "10.0.0.1-::1", "x"] {
            assert!(addresses(text).is_err(), "{text}");
        }
    }
}
