//! Both ends of [`Request::TakeOver`](super::Request::TakeOver): from HTTP to the
//! frames of [`takeover`](crate::takeover) on the same connection.
//!
//! The request is `POST /v1/takeover` with `Upgrade: sluice-takeover`; granted, it
//! is answered by status 101 and nothing else (RFC 9110, section 7.8).

use std::io;

use hyper::StatusCode;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::OwnedWriteHalf;
use tokio::time::timeout;

use super::body::{Error, JSON};
use super::message::{Answer, Request};
use super::{PATIENCE, routes};

/// What is spoken after it.
pub(super) const PROTOCOL: &str = "sluice-takeover";

/// Most bytes of the head of an answer, and of an error.
const MAX_HEAD: u64 = 8 * 1024;
const MAX_ERROR: u64 = 64 * 1024;

/// Answers a process that wants to take over: [`Answer::Done`] lets it, and the
/// connection carries frames from then on; an error ends the conversation.
pub(crate) async fn send(writer: &mut OwnedWriteHalf, answer: &Answer) -> io::Result<()> {
    let head = match answer {
        Answer::Error { code, message } => refusal(code, message),
        _ => {
            let status = StatusCode::SWITCHING_PROTOCOLS;
            format!("HTTP/1.1 {status}\r\nconnection: upgrade\r\nupgrade: {PROTOCOL}\r\n\r\n")
        }
    };
    timeout(PATIENCE, writer.write_all(head.as_bytes())).await?
}

/// A whole answer that refuses something and ends the conversation.
fn refusal(code: &str, message: &str) -> String {
    let status = routes::status(code);
    let body = serde_json::json!({ "code": code, "message": message }).to_string();
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: {JSON}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

/// Asks to take over; [`answer`] is next.
pub(crate) async fn ask(writer: &mut OwnedWriteHalf, request: &Request) -> io::Result<()> {
    let (route, call) = routes::encode(request).ok_or(io::ErrorKind::Unsupported)?;
    let (method, target, length) = (&route.method, call.target(route), call.body.len());
    let head = format!(
        "{method} {target} HTTP/1.1\r\nhost: sluice\r\nconnection: upgrade\r\nupgrade: {PROTOCOL}\r\n\
         content-type: {JSON}\r\ncontent-length: {length}\r\n\r\n"
    );
    let mut bytes = head.into_bytes();
    bytes.extend(call.body);
    timeout(PATIENCE, writer.write_all(&bytes)).await?
}

/// What is answered to [`ask`]. After [`Answer::Done`] frames can be read.
pub(crate) async fn answer<R: AsyncBufRead + Unpin>(reader: &mut R) -> io::Result<Answer> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let left = MAX_HEAD.saturating_sub(head.len() as u64);
        if (&mut *reader).take(left).read_until(b'\n', &mut head).await? == 0 {
            return Err(
                if left == 0 { io::ErrorKind::InvalidData } else { io::ErrorKind::UnexpectedEof }.into()
            );
        }
    }
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    response.parse(&head).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    if response.code == Some(StatusCode::SWITCHING_PROTOCOLS.as_u16()) {
        return Ok(Answer::Done);
    }
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|header| str::from_utf8(header.value).ok()?.parse().ok());
    let mut body = Vec::new();
    reader.take(length.unwrap_or(0).min(MAX_ERROR)).read_to_end(&mut body).await?;
    let Error { code, message } = serde_json::from_slice(&body)?;
    Ok(Answer::Error { code, message })
}
