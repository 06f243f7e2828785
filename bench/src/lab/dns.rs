//! A real UDP server: DNS, by dnsmasq. It answers who it is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use super::Netns;
use super::process::{Process, wait_for};

/// The name whose TXT record is the server's own name.
const QUESTION: &[&str] = &["whoami", "lab"];
/// The name whose TXT record does not fit into one packet of 1500 bytes.
const BIG: &[&str] = &["big", "lab"];
/// So many strings of 250 bytes are in it.
const BIG_STRINGS: usize = 12;
/// The largest answer that is asked for, and given (EDNS, RFC 6891).
const MOST: u16 = 4096;
const V4_ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const V6_ANY: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
const TXT: u16 = 16;
const HEADER_LEN: usize = 12;

/// dnsmasq on port 53.
#[derive(Debug)]
pub struct Dns {
    _process: Process,
}

impl Dns {
    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// When it is not installed, or does not come up; then the error has its log.
    pub fn start(netns: &Netns, name: &str, lab_dir: &Path) -> Result<Self> {
        let log = lab_dir.join(format!("dns-{name}.log"));
        let mut command = netns.command("dnsmasq");
        command.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--pid-file=",
            "--user=root",
            "--group=root",
        ]);
        command.args(["--no-resolv", "--no-hosts", "--log-facility=-"]);
        command.arg(format!("--txt-record={},{name}", QUESTION.join(".")));
        command.arg(format!("--edns-packet-max={MOST}"));
        command.arg(format!("--txt-record={},{}", BIG.join("."), big_strings().join(",")));
        command.stderr(std::fs::File::create(&log)?);
        let mut process =
            Process::start(&mut command).context("dnsmasq, of the Debian package dnsmasq-base")?;
        let local = SocketAddr::from(([127, 0, 0, 1], 53));
        wait_for(&format!("dnsmasq of {name}"), Duration::from_secs(10), || {
            if let Some(status) = process.ended()? {
                bail!("dnsmasq of {name} ended ({status})");
            }
            Ok(ask_name(netns, local, Duration::from_millis(100)).is_ok())
        })
        .with_context(|| format!("dnsmasq said: {}", std::fs::read_to_string(&log).unwrap_or_default()))?;
        Ok(Self { _process: process })
    }
}

/// Asks a DNS server who it is, from a port of its own.
///
/// # Errors
/// When no answer comes in time, or another one than was asked for.
pub fn ask_name(client: &Netns, server: SocketAddr, timeout: Duration) -> Result<String> {
    let socket = connect(client, server, timeout)?;
    let id = socket.local_addr()?.port();
    let query = query(id, QUESTION);
    socket.send(&query)?;
    let mut answer = [0; 512];
    let len = socket.recv(&mut answer).with_context(|| format!("no answer from {server}"))?;
    name_in(&answer[..len], id, query.len()).ok_or_else(|| anyhow!("{server} answered something else"))
}

/// Asks a DNS server for an answer of 3 kB, which comes in fragments.
///
/// # Errors
/// When no answer comes in time, or another one than was asked for.
pub fn ask_big(client: &Netns, server: SocketAddr, timeout: Duration) -> Result<()> {
    let socket = connect(client, server, timeout)?;
    let mut query = query(socket.local_addr()?.port(), BIG);
    // One additional record: the root's OPT, whose class is the size that the asker takes.
    query[11] = 1;
    query.extend([0, 0, 41]);
    query.extend(MOST.to_be_bytes());
    query.extend([0; 6]);
    socket.send(&query)?;
    let mut answer = [0; MOST as usize];
    let len = socket.recv(&mut answer).with_context(|| format!("no answer from {server}"))?;
    let expected: Vec<u8> =
        big_strings().iter().flat_map(|text| std::iter::once(text.len() as u8).chain(text.bytes())).collect();
    if !answer[..len].windows(expected.len()).any(|part| part == expected) {
        bail!("{server} answered {len} bytes of something else");
    }
    Ok(())
}

fn connect(client: &Netns, server: SocketAddr, timeout: Duration) -> Result<UdpSocket> {
    let any = SocketAddr::new(if server.is_ipv4() { V4_ANY } else { V6_ANY }, 0);
    let socket = client.enter(|| UdpSocket::bind(any))??;
    socket.set_read_timeout(Some(timeout))?;
    // Connected: an answer from another address than was asked does not count, and ICMP errors are reported.
    socket.connect(server)?;
    Ok(socket)
}

fn big_strings() -> Vec<String> {
    (0..BIG_STRINGS).map(|n| char::from(b'a' + n as u8).to_string().repeat(250)).collect()
}

fn query(id: u16, question: &[&str]) -> Vec<u8> {
    // RFC 1035, section 4.1: recursion desired, one question.
    let mut query = Vec::with_capacity(64);
    query.extend(id.to_be_bytes());
    query.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in question {
        query.push(label.len() as u8);
        query.extend(label.bytes());
    }
    query.push(0);
    query.extend(TXT.to_be_bytes());
    query.extend([0, 1]);
    query
}

/// The text of the first answer; the question, which every answer repeats, ends at `question_end`.
fn name_in(answer: &[u8], id: u16, question_end: usize) -> Option<String> {
    let header = answer.get(..HEADER_LEN)?;
    if header[..2] != id.to_be_bytes() || header[6..8] == [0, 0] {
        return None;
    }
    // A name by reference (2 bytes), type, class, time to live, length of what follows, length of the text.
    let record = answer.get(question_end..)?;
    if *record.get(2..4)? != TXT.to_be_bytes() {
        return None;
    }
    let len = usize::from(*record.get(12)?);
    String::from_utf8(record.get(13..13 + len)?.to_vec()).ok()
}
