//! Lines of an FTP control connection (RFC 959, RFC 2428) that announce a data
//! connection.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::str::FromStr;

use crate::wire::Address;

/// A command of the client that matters for data connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// `PASV`: the server is to say where it listens
    Pasv,
    /// `EPSV`, with the protocol that was asked for (1 is IPv4, 2 IPv6)
    Epsv(Option<u8>),
    /// `PORT` or `EPRT`: where the client listens
    Port {
        /// Address
        address: Address,
        /// Port in host order, not 0
        port: u16,
    },
    /// `AUTH`: the connection may go on encrypted (RFC 4217)
    Auth,
}

/// A reply of the server that matters for data connections.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// 227, to `PASV`
    Passive {
        /// Where the server listens
        address: Address,
        /// Port in host order, not 0
        port: u16,
        /// Where in the line both are
        place: Range<usize>,
    },
    /// 229, to `EPSV`
    ExtendedPassive {
        /// An address, which RFC 2428 leaves out
        address: Option<Address>,
        /// Port in host order, not 0
        port: u16,
        /// What is between the parentheses
        place: Range<usize>,
    },
    /// 234, to `AUTH`: what follows is encrypted
    Encrypted,
}

impl Command {
    /// The command on a line without its end.
    pub fn parse(line: &[u8]) -> Option<Command> {
        let (name, rest) = line.split_at_checked(4)?;
        let argument = match rest.first() {
            None => None,
            Some(b' ') => Some(rest.trim_ascii()),
            Some(_) => return None,
        };
        if name.eq_ignore_ascii_case(b"PASV") {
            return argument.is_none_or(<[u8]>::is_empty).then_some(Command::Pasv);
        }
        if name.eq_ignore_ascii_case(b"EPSV") {
            return match argument {
                None | Some(b"") => Some(Command::Epsv(None)),
                Some(b"1") => Some(Command::Epsv(Some(1))),
                Some(b"2") => Some(Command::Epsv(Some(2))),
                Some(_) => None,
            };
        }
        let argument = argument?;
        if name.eq_ignore_ascii_case(b"PORT") {
            let (address, port, length) = six_numbers(argument)?;
            return (length == argument.len()).then_some(Command::Port { address, port });
        }
        if name.eq_ignore_ascii_case(b"EPRT") {
            let (address, port) = extended(argument)?;
            return Some(Command::Port { address: address?, port });
        }
        name.eq_ignore_ascii_case(b"AUTH").then_some(Command::Auth)
    }
}

impl Reply {
    /// The reply on a line without its end.
    pub fn parse(line: &[u8]) -> Option<Reply> {
        let (code, rest) = line.split_at_checked(4)?;
        match code {
            b"227 " => {
                // Some servers leave the parentheses out (RFC 1123, section
                // 4.1.2.6): the first digit counts.
                let start = 4 + rest.iter().position(u8::is_ascii_digit)?;
                let (address, port, length) = six_numbers(&line[start..])?;
                Some(Reply::Passive { address, port, place: start..start + length })
            }
            b"229 " => {
                let start = 5 + rest.iter().position(|byte| *byte == b'(')?;
                let end = start + line[start..].iter().position(|byte| *byte == b')')?;
                let (address, port) = extended(&line[start..end])?;
                Some(Reply::ExtendedPassive { address, port, place: start..end })
            }
            b"234 " => Some(Reply::Encrypted),
            _ => None,
        }
    }
}

/// `h1,h2,h3,h4,p1,p2` at the start of `text`, and how long it is.
fn six_numbers(text: &[u8]) -> Option<(Address, u16, usize)> {
    let mut numbers = [0; 6];
    let mut at = 0;
    for (place, number) in numbers.iter_mut().enumerate() {
        if place > 0 {
            (*text.get(at)? == b',').then_some(())?;
            at += 1;
        }
        let digits = text[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        *number = decimal::<u8>(&text[at..at + digits])?;
        at += digits;
    }
    let [a, b, c, d, high, low] = numbers;
    let port = u16::from_be_bytes([high, low]);
    (port != 0).then_some((Address::from_v4([a, b, c, d]), port, at))
}

/// `|1|address|port|` with any delimiter; family and address may both be empty.
fn extended(text: &[u8]) -> Option<(Option<Address>, u16)> {
    let delimiter = *text.first().filter(|byte| (33..=126).contains(*byte) && !byte.is_ascii_digit())?;
    let mut fields = text.split(|byte| *byte == delimiter);
    let fields: [&[u8]; 5] = [fields.next()?, fields.next()?, fields.next()?, fields.next()?, fields.next()?];
    let [b"", family, address, port, b""] = fields else { return None };
    // Nothing may follow the last delimiter.
    if text.iter().filter(|byte| **byte == delimiter).count() != 4 {
        return None;
    }
    let port = decimal(port).filter(|port| *port != 0)?;
    let address = match (family, std::str::from_utf8(address).ok()?) {
        (b"", "") => None,
        (b"1", text) => Some(text.parse::<Ipv4Addr>().ok()?.into()),
        // One that is IPv4-mapped is nobody's.
        (b"2", text) => {
            let address = Address::from(text.parse::<Ipv6Addr>().ok()?);
            Some((!address.is_v4()).then_some(address)?)
        }
        _ => return None,
    };
    Some((address, port))
}

fn decimal<T: FromStr>(digits: &[u8]) -> Option<T> {
    // `parse` would take a sign.
    let digits = digits.iter().all(u8::is_ascii_digit).then_some(digits)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Most bytes of a line that is written here: `EPRT` with an IPv6 address.
pub const MOST_TEXT: usize = 64;

/// A short text in place of another.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Text {
    bytes: [u8; MOST_TEXT],
    length: u8,
}

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(self.bytes()))
    }
}

impl Text {
    /// No text.
    pub const EMPTY: Text = Text { bytes: [0; MOST_TEXT], length: 0 };

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// These bytes, cut off after [`MOST_TEXT`], which none of those below reach.
    pub fn of(text: &str) -> Text {
        let mut result = Text::EMPTY;
        let _ = result.write_str(text);
        result
    }

    fn written(arguments: std::fmt::Arguments<'_>) -> Text {
        let mut result = Text::EMPTY;
        let _ = result.write_fmt(arguments);
        result
    }

    /// Address and port as `PORT` and 227 have them.
    pub fn six_numbers(address: [u8; 4], port: u16) -> Text {
        let [a, b, c, d] = address;
        let [high, low] = port.to_be_bytes();
        Text::written(format_args!("{a},{b},{c},{d},{high},{low}"))
    }

    /// A port as 229 has it.
    pub fn only_port(port: u16) -> Text {
        Text::written(format_args!("|||{port}|"))
    }

    /// A command that tells where to connect to: `EPRT` if the client used it or
    /// the address asks for it, else `PORT`.
    pub fn announcing(address: Address, port: u16, extended: bool) -> Text {
        match IpAddr::from(address) {
            IpAddr::V4(v4) if extended => Text::written(format_args!("EPRT |1|{v4}|{port}|")),
            IpAddr::V4(v4) => {
                let numbers = Text::six_numbers(v4.octets(), port);
                Text::written(format_args!("PORT {}", String::from_utf8_lossy(numbers.bytes())))
            }
            IpAddr::V6(v6) => Text::written(format_args!("EPRT |2|{v6}|{port}|")),
        }
    }

    /// The reply to a `PASV` that was sent on as `EPSV`.
    pub fn passive_reply(address: [u8; 4], port: u16) -> Text {
        let numbers = Text::six_numbers(address, port);
        Text::written(format_args!(
            "227 Entering Passive Mode ({}).",
            String::from_utf8_lossy(numbers.bytes())
        ))
    }
}

impl std::fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let start = usize::from(self.length);
        let length = text.len().min(MOST_TEXT - start);
        self.bytes[start..start + length].copy_from_slice(&text.as_bytes()[..length]);
        self.length += length as u8;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v4(address: [u8; 4], port: u16) -> Option<Command> {
        Some(Command::Port { address: Address::from_v4(address), port })
    }

    #[test]
    fn commands() {
        let v6 =
            |text: &str, port| Some(Command::Port { address: text.parse::<IpAddr>().unwrap().into(), port });
        for (line, expected) in [
            ("PASV", Some(Command::Pasv)),
            ("pasv ", Some(Command::Pasv)),
            ("PASVX", None),
            ("PASV x", None),
            ("EPSV", Some(Command::Epsv(None))),
            ("epsv 1", Some(Command::Epsv(Some(1)))),
            ("EPSV 2", Some(Command::Epsv(Some(2)))),
            ("EPSV ALL", None),
            ("EPSV 3", None),
            ("AUTH TLS", Some(Command::Auth)),
            ("PORT 198,51,100,7,4,1", v4([198, 51, 100, 7], 1025)),
            ("port   198,51,100,7,255,255 ", v4([198, 51, 100, 7], 65535)),
            ("PORT 198,51,100,7,0,0", None),
            ("PORT 198,51,100,256,4,1", None),
            ("PORT 198,51,100,7,4", None),
            ("PORT 198,51,100,7,4,1,1", None),
            ("PORT 198,51,100,7,4,+1", None),
            ("PORT 198,51,100,7,4,", None),
            ("PORT", None),
            ("PORT ", None),
            ("EPRT |1|198.51.100.7|1025|", v4([198, 51, 100, 7], 1025)),
            ("eprt !2!2001:db8::7!65535!", v6("2001:db8::7", 65535)),
            ("EPRT |2|::ffff:1.2.3.4|1025|", None),
            ("EPRT |3|198.51.100.7|1025|", None),
            ("EPRT |1|2001:db8::7|1025|", None),
            ("EPRT |1|198.51.100.7|65536|", None),
            ("EPRT |1|198.51.100.7|1025", None),
            ("EPRT |1|198.51.100.7|1025|x", None),
            ("EPRT |1|198.51.100.7|1025||", None),
            ("EPRT |||1025|", None),
            ("LIST", None),
            ("", None),
        ] {
            assert_eq!(Command::parse(line.as_bytes()), expected, "{line}");
        }
    }

    #[test]
    fn replies() {
        let passive =
            |place| Some(Reply::Passive { address: Address::from_v4([10, 0, 2, 1]), port: 1025, place });
        let extended = |address: Option<&str>, port, place| {
            let address = address.map(|text| text.parse::<IpAddr>().unwrap().into());
            Some(Reply::ExtendedPassive { address, port, place })
        };
        for (line, expected) in [
            ("227 Entering Passive Mode (10,0,2,1,4,1).", passive(27..39)),
            ("227 Entering Passive Mode. 10,0,2,1,4,1", passive(27..39)),
            ("227 =10,0,2,1,4,1", passive(5..17)),
            ("227-Entering Passive Mode (10,0,2,1,4,1).", None),
            ("227 Entering Passive Mode (10,0,2,1,4).", None),
            ("227 Entering Passive Mode", None),
            ("227 ", None),
            ("229 Entering Extended Passive Mode (|||1025|)", extended(None, 1025, 36..44)),
            ("229 ok (|1|10.0.2.1|1025|).", extended(Some("10.0.2.1"), 1025, 8..25)),
            ("229 ok |||1025|", None),
            ("229 ok (|||0|)", None),
            ("229 ok (|||1025|", None),
            ("234 Proceed with negotiation.", Some(Reply::Encrypted)),
            ("220 Welcome", None),
        ] {
            assert_eq!(Reply::parse(line.as_bytes()), expected, "{line}");
        }
    }

    #[test]
    fn texts_fit() {
        let address = Address::from_v6([0xff; 16]);
        let text = Text::announcing(address, 65535, true);
        assert_eq!(text.bytes(), b"EPRT |2|ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff|65535|");
        let reply = Text::passive_reply([255; 4], 65535);
        assert_eq!(reply.bytes(), b"227 Entering Passive Mode (255,255,255,255,255,255).");
        let port = Text::announcing(Address::from_v4([10, 0, 2, 200]), 1025, false);
        assert_eq!(port.bytes(), b"PORT 10,0,2,200,4,1");
    }

    proptest! {
        #[test]
        fn any_line_is_parsed_or_not(
            name in prop::sample::select(vec!["PORT ", "EPRT ", "EPSV ", "227 (", "229 (", "227 ", "PASV", ""]),
            rest in prop::collection::vec(prop::sample::select(b"0123456789,|().: abcdef\xff\r\0".to_vec()), 0..80),
        ) {
            let line = [name.as_bytes(), &rest].concat();
            let _ = Command::parse(&line);
            match Reply::parse(&line) {
                Some(Reply::Passive { place, .. } | Reply::ExtendedPassive { place, .. }) => {
                    prop_assert!(line.get(place).is_some());
                }
                Some(Reply::Encrypted) | None => {}
            }
        }

        /// What is written is what is read.
        #[test]
        fn what_is_announced_is_understood(bytes: [u8; 16], v4: bool, port in 1u16.., extended: bool) {
            let address = if v4 { Address::from_v4([bytes[0], bytes[1], bytes[2], bytes[3]]) } else { Address::from_v6(bytes) };
            prop_assume!(v4 || !address.is_v4());
            let text = Text::announcing(address, port, extended);
            prop_assert_eq!(Command::parse(text.bytes()), Some(Command::Port { address, port }));
        }
    }
}
