//! gRPC: the method `grpc.health.v1.Health/Check`, which servers have for this
//! (grpc/doc/health-checking.md).
//!
//! A request is one HTTP/2 stream: POST, then a message with five bytes before
//! it, a flag and its length, then trailers with `grpc-status`
//! (grpc/doc/PROTOCOL-HTTP2.md). Both messages have one field, so they are
//! written and read by hand.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;

use futures::future::{Either, select};
use h2::client::{Builder, ResponseFuture};
use h2::{Reason, RecvStream};
use hyper::body::Bytes;
use hyper::{HeaderMap, Request, StatusCode, Version};
use tokio::io::{AsyncRead, AsyncWrite};

use super::route::Route;
use super::tls::Tls;

/// Longest message of an answer in bytes, with all that is before it; the one
/// that is expected has seven.
const MAX_ANSWER: usize = 4096;

/// What a server may send before anything of it is looked at.
const WINDOW: u32 = 2 * MAX_ANSWER as u32;

/// Longest header, and trailer, of an answer in bytes.
const MAX_HEADER: u32 = 16 * 1024;

/// A message follows a flag, whether it is compressed, and its length.
const PREFIX: usize = 5;

/// What is asked of a gRPC server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grpc {
    /// By TLS, or not
    pub tls: Option<Tls>,
    /// The gRPC service that is asked for; the server as a whole if empty
    pub service: String,
    /// The pseudo-header `:authority`; the server's address and port without it
    pub host: Option<String>,
}

impl Grpc {
    fn request(&self, target: SocketAddr) -> Result<Request<()>, String> {
        let (scheme, standard) = if self.tls.is_some() { ("https", 443) } else { ("http", 80) };
        let authority = match &self.host {
            Some(host) => host.clone(),
            None if target.port() != standard => target.to_string(),
            None => match target.ip() {
                IpAddr::V4(v4) => v4.to_string(),
                IpAddr::V6(v6) => format!("[{v6}]"),
            },
        };
        Request::post(format!("{scheme}://{authority}/grpc.health.v1.Health/Check"))
            .version(Version::HTTP_2)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("user-agent", concat!("sluice/", env!("CARGO_PKG_VERSION")))
            .body(())
            .map_err(|error| format!("cannot ask {authority}: {error}"))
    }

    /// `HealthCheckRequest`: field 1, the service, unless it is empty.
    fn message(&self) -> Vec<u8> {
        let mut message = Vec::new();
        if !self.service.is_empty() {
            message.push(1 << 3 | 2);
            let mut length = self.service.len();
            while length > 0x7f {
                message.push(length as u8 | 0x80);
                length >>= 7;
            }
            message.push(length as u8);
            message.extend_from_slice(self.service.as_bytes());
        }
        let mut framed = vec![0];
        framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
        framed.extend_from_slice(&message);
        framed
    }
}

pub(super) async fn check(grpc: &Grpc, route: &Route<'_>, target: SocketAddr) -> Result<(), String> {
    let stream = route.connect(target).await?;
    match &grpc.tls {
        Some(tls) => {
            let stream = tls.connect(stream, grpc.host.as_deref(), target.ip()).await?;
            converse(grpc, target, stream).await
        }
        None => converse(grpc, target, stream).await,
    }
}

async fn converse<S>(grpc: &Grpc, target: SocketAddr, stream: S) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut builder = Builder::new();
    builder.enable_push(false).max_header_list_size(MAX_HEADER).initial_window_size(WINDOW);
    let (mut sender, connection) = builder.handshake::<_, Bytes>(stream).await.map_err(told)?;
    let request = grpc.request(target)?;
    let asked = async {
        sender = sender.ready().await.map_err(told)?;
        let (answer, mut body) = sender.send_request(request, false).map_err(told)?;
        body.send_data(grpc.message().into(), true).map_err(told)?;
        judge(answer).await
    };
    // The connection moves only while it is waited for, too.
    match select(pin!(asked), pin!(connection)).await {
        Either::Left((result, _)) => result,
        // What it brought before it ended may be enough.
        Either::Right((_, asked)) => asked.await,
    }
}

async fn judge(answer: ResponseFuture) -> Result<(), String> {
    let answer = answer.await.map_err(told)?;
    if answer.status() != StatusCode::OK {
        return Err(format!("status {}", answer.status().as_u16()));
    }
    let kind = answer.headers().get("content-type").map(|value| value.as_bytes());
    if !kind.is_some_and(|kind| kind.starts_with(b"application/grpc")) {
        return Err("the answer is not gRPC".into());
    }
    // An error comes without a message, as the only header.
    succeeded(answer.headers(), false)?;
    let mut body: RecvStream = answer.into_body();
    let mut bytes = Vec::new();
    while let Some(part) = body.data().await {
        let part = part.map_err(told)?;
        if bytes.len() + part.len() > MAX_ANSWER {
            return Err(format!("the answer is longer than {MAX_ANSWER} bytes"));
        }
        bytes.extend_from_slice(&part);
    }
    let trailers = body.trailers().await.map_err(told)?.unwrap_or_default();
    succeeded(&trailers, true)?;
    match serving_status(&bytes) {
        Some(1) => Ok(()),
        Some(0) => Err("it says UNKNOWN".into()),
        Some(2) => Err("it says NOT_SERVING".into()),
        Some(3) => Err("it says SERVICE_UNKNOWN".into()),
        Some(other) => Err(format!("it says {other}, which is no status")),
        None => Err("the answer is not that of grpc.health.v1".into()),
    }
}

/// Judges by `grpc-status`, which has to be there at the end.
fn succeeded(headers: &HeaderMap, end: bool) -> Result<(), String> {
    let Some(status) = headers.get("grpc-status") else {
        return if end { Err("the answer ended without a grpc-status".into()) } else { Ok(()) };
    };
    match status.as_bytes() {
        b"0" => Ok(()),
        b"5" => Err("it does not know this service (NOT_FOUND)".into()),
        b"12" => Err("it has no health service (UNIMPLEMENTED)".into()),
        status => Err(format!("grpc-status {}", String::from_utf8_lossy(status).escape_debug())),
    }
}

/// The field `status`, number 1, of a framed `HealthCheckResponse`; 0, which is
/// not sent, where it is missing.
fn serving_status(framed: &[u8]) -> Option<u64> {
    let (prefix, mut message) = framed.split_at_checked(PREFIX)?;
    let length = u32::from_be_bytes(prefix[1..].try_into().ok()?);
    if prefix[0] != 0 || usize::try_from(length).ok()? != message.len() {
        return None;
    }
    let mut status = 0;
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        match tag & 7 {
            0 => {
                let value = varint(&mut message)?;
                if tag >> 3 == 1 {
                    status = value;
                }
            }
            1 => message = message.get(8..)?,
            2 => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            5 => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn told(error: h2::Error) -> String {
    match error.reason() {
        Some(Reason::NO_ERROR) => "the server closed the connection".into(),
        _ => format!("HTTP/2: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_asked_for_by_its_name() {
        let grpc = |service: &str| Grpc { tls: None, service: service.into(), host: None };
        assert_eq!(grpc("").message(), [0, 0, 0, 0, 0]);
        assert_eq!(grpc("a.B").message(), b"\0\0\0\0\x05\x0a\x03a.B");
        let long = grpc(&"x".repeat(300)).message();
        assert_eq!(&long[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 0x02]);
    }

    #[test]
    fn a_status_is_found_between_other_fields() {
        for (message, status) in [
            (&b"\x08\x01"[..], Some(1)),
            (b"\x08\x02", Some(2)),
            (b"", Some(0)),
            (b"\x12\x02hi\x08\x01\x1d1234\x219ABCDEFG", Some(1)),
            (b"\x08", None),
            (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"\x12\x7f", None),
            (b"\x0b", None),
        ] {
            let mut framed = vec![0, 0, 0, 0, message.len() as u8];
            framed.extend_from_slice(message);
            assert_eq!(serving_status(&framed), status, "{message:?}");
            framed.push(0);
            assert_eq!(serving_status(&framed), None, "one byte too many");
        }
        assert_eq!(serving_status(b"\0\0\0"), None);
        assert_eq!(serving_status(b"\x01\0\0\0\x02\x08\x01"), None, "compressed");
    }
}
