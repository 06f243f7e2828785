//! HTTP and HTTPS: a request, and what is wanted of the answer.
//!
//! The request is of HTTP/1.0 (RFC 1945, section 5), as keepalived's: the
//! answer ends where the server closes the connection or `Content-Length`
//! says, and is never chunked. A redirect is an answer like any other, and is
//! not followed.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use md5::{Digest, Md5};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::check::plain;
use super::pattern::Pattern;
use super::route::Route;
use super::tls::Tls;

/// Longest header of an answer, in bytes.
const MAX_HEADER: usize = 16 * 1024;

/// How much of an answer's body is read, unless the check says otherwise.
pub const DEFAULT_BODY: usize = 64 * 1024;

/// What is asked of a web server, and what it has to answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Http {
    /// By TLS, or not
    pub tls: Option<Tls>,
    /// As in `GET`
    pub method: String,
    /// What follows the method, from the slash on
    pub path: String,
    /// The header `Host`; the server's address and port without it
    pub host: Option<String>,
    /// Statuses that will do
    pub status: Vec<RangeInclusive<u16>>,
    /// Text that the body has to have in it
    pub contains: Option<String>,
    /// What has to be found in the body
    pub matches: Option<Pattern>,
    /// MD5 of the body, as keepalived's `genhash` tells it
    pub digest: Option<[u8; 16]>,
    /// Longest body, in bytes, where one has to be read
    pub max_body: usize,
}

impl Default for Http {
    fn default() -> Self {
        Http {
            tls: None,
            method: "GET".into(),
            path: "/".into(),
            host: None,
            status: vec![200..=299],
            contains: None,
            matches: None,
            digest: None,
            max_body: DEFAULT_BODY,
        }
    }
}

impl Http {
    fn wants_body(&self) -> bool {
        self.contains.is_some() || self.matches.is_some() || self.digest.is_some()
    }

    fn request(&self, target: SocketAddr) -> String {
        let standard = if self.tls.is_some() { 443 } else { 80 };
        let host = match &self.host {
            Some(host) => host.clone(),
            None if target.port() != standard => target.to_string(),
            None => match target.ip() {
                IpAddr::V4(v4) => v4.to_string(),
                IpAddr::V6(v6) => format!("[{v6}]"),
            },
        };
        format!(
            "{} {} HTTP/1.0\r\nHost: {host}\r\nUser-Agent: sluice/{}\r\nAccept: */*\r\nConnection: close\r\n\r\n",
            self.method,
            self.path,
            env!("CARGO_PKG_VERSION")
        )
    }
}

pub(super) async fn check(http: &Http, route: &Route<'_>, target: SocketAddr) -> Result<(), String> {
    let stream = route.connect(target).await?;
    match &http.tls {
        Some(tls) => {
            let host = http.host.as_deref();
            converse(http, target, tls.connect(stream, host, target.ip()).await?).await
        }
        None => converse(http, target, stream).await,
    }
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    http: &Http,
    target: SocketAddr,
    mut stream: S,
) -> Result<(), String> {
    let sent = stream.write_all(http.request(target).as_bytes()).await;
    sent.map_err(|error| format!("cannot send the request: {}", plain(&error)))?;
    let mut bytes = Vec::with_capacity(1024);
    let body = loop {
        if let Some(end) = end_of_header(&bytes) {
            break end;
        }
        if bytes.len() > MAX_HEADER {
            return Err(format!("the header of the answer is longer than {MAX_HEADER} bytes"));
        }
        if bytes.len() >= 5 && !bytes.starts_with(b"HTTP/") {
            return Err("the answer is not HTTP".into());
        }
        if read(&mut stream, &mut bytes).await? == 0 {
            return Err("the answer ended within its header".into());
        }
    };
    let (status, length, chunked) = parse_header(&bytes[..body])?;
    if !http.status.iter().any(|range| range.contains(&status)) {
        return Err(format!("status {status}"));
    }
    if !http.wants_body() {
        return Ok(());
    }
    if chunked {
        return Err("the body is chunked, which HTTP/1.0 does not know".into());
    }
    let too_long = || format!("the body is longer than {} bytes", http.max_body);
    if length.is_some_and(|length| length > http.max_body as u64) {
        return Err(too_long());
    }
    // Cannot be more than `max_body`, which is a usize.
    let wanted = length.and_then(|length| usize::try_from(length).ok());
    let found = |bytes: &[u8]| bytes.len() - body;
    loop {
        if wanted.is_some_and(|wanted| found(&bytes) >= wanted) {
            bytes.truncate(body + wanted.unwrap_or_default());
            break;
        }
        if found(&bytes) > http.max_body {
            return Err(too_long());
        }
        if read(&mut stream, &mut bytes).await? == 0 {
            if wanted.is_some() {
                return Err("the answer ended within its body".into());
            }
            break;
        }
    }
    http.judge(&bytes[body..])
}

impl Http {
    fn judge(&self, body: &[u8]) -> Result<(), String> {
        if let Some(text) = &self.contains
            && !body.windows(text.len().max(1)).any(|window| window == text.as_bytes())
            && !text.is_empty()
        {
            return Err(format!("the body has no {text:?} in it"));
        }
        if let Some(pattern) = &self.matches
            && !pattern.is_in(body)
        {
            return Err(format!("the body does not match {pattern:?}"));
        }
        if let Some(digest) = self.digest {
            let actual: [u8; 16] = Md5::digest(body).into();
            if actual != digest {
                let hex: String = actual.iter().map(|byte| format!("{byte:02x}")).collect();
                return Err(format!("the body's digest is {hex}"));
            }
        }
        Ok(())
    }
}

async fn read<S: AsyncRead + Unpin>(stream: &mut S, bytes: &mut Vec<u8>) -> Result<usize, String> {
    // A TLS peer that closes without saying so is as good as one that does: the
    // length or the digest tells what is missing.
    match stream.read_buf(bytes).await {
        Ok(count) => Ok(count),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(0),
        Err(error) => Err(format!("cannot read the answer: {}", plain(&error))),
    }
}

/// Where the body begins.
fn end_of_header(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

/// Status, length of the body if it is told, and whether that is chunked.
fn parse_header(header: &[u8]) -> Result<(u16, Option<u64>, bool), String> {
    let text = String::from_utf8_lossy(header);
    let mut lines = text.split("\r\n");
    let line = lines.next().unwrap_or_default();
    let mut words = line.split(' ');
    let version = words.next().unwrap_or_default();
    let status = words.next().filter(|word| word.len() == 3).and_then(|word| word.parse().ok());
    let (true, Some(status)) = (version.starts_with("HTTP/"), status) else {
        return Err("the answer is not HTTP".into());
    };
    let (mut length, mut chunked) = (None, false);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            let value = value.trim().parse().map_err(|_| "the answer's Content-Length is no number")?;
            if length.replace(value).is_some_and(|former| former != value) {
                return Err("the answer has two lengths".into());
            }
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            chunked = value.to_ascii_lowercase().contains("chunked");
        }
    }
    Ok((status, length, chunked))
}
