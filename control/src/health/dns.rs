//! A DNS question by UDP (RFC 1035, section 4.1).

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};

use super::check::plain;
use super::route::Route;

/// Types of records that may be asked for (RFC 1035, section 3.2.2).
pub const TYPES: [(&str, u16); 8] =
    [("A", 1), ("NS", 2), ("CNAME", 5), ("SOA", 6), ("MX", 15), ("TXT", 16), ("AAAA", 28), ("ANY", 255)];

/// `SOA` of the root, as keepalived asks by default.
const SOA: u16 = 6;

/// Length of a message's header.
const HEADER: usize = 12;

static NEXT: AtomicU16 = AtomicU16::new(1);

/// What is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dns {
    question: Vec<u8>,
}

impl Default for Dns {
    fn default() -> Self {
        Dns { question: question(".", SOA).unwrap_or_default() }
    }
}

impl Dns {
    /// Asks for records of a type (one of [`TYPES`]) and a name.
    ///
    /// # Errors
    /// When it is not a domain name.
    pub fn new(name: &str, kind: Option<u16>) -> Result<Self, String> {
        question(name, kind.unwrap_or(SOA)).map(|question| Dns { question })
    }
}

/// Name, type and class as they are in a message.
fn question(name: &str, kind: u16) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let name = name.strip_suffix('.').unwrap_or(name);
    for label in name.split('.').filter(|_| !name.is_empty()) {
        let length =
            u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length) && label.is_ascii());
        bytes.push(length.ok_or("each part of a name has 1 to 63 ASCII characters")?);
        bytes.extend(label.as_bytes());
    }
    if bytes.len() > 254 {
        return Err("a name has at most 253 characters".into());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    Ok(bytes)
}

pub(super) async fn check(dns: &Dns, route: &Route<'_>, target: SocketAddr) -> Result<(), String> {
    let socket = route.datagrams(target).await?;
    let failed = |error: std::io::Error| plain(&error);
    let id = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    // Recursion desired; one question.
    let mut message = vec![id[0], id[1], 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    message.extend(&dns.question);
    socket.send(&message).await.map_err(failed)?;
    let mut reply = [0; 512];
    loop {
        let length = socket.recv(&mut reply).await.map_err(failed)?;
        // The answer to a question that timed out is none to this one.
        if length >= 2 && reply[..2] == id {
            return judge(&reply[..length]);
        }
    }
}

fn judge(reply: &[u8]) -> Result<(), String> {
    if reply.len() < HEADER || reply[2] & 0x80 == 0 {
        return Err("the reply is not DNS".into());
    }
    match reply[3] & 0x0f {
        0 => Ok(()),
        1 => Err("answered FORMERR".into()),
        2 => Err("answered SERVFAIL".into()),
        3 => Err("answered NXDOMAIN".into()),
        4 => Err("answered NOTIMP".into()),
        5 => Err("answered REFUSED".into()),
        code => Err(format!("answered error {code}")),
    }
}
