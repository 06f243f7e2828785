//! A UDP datagram, and what is wanted in return.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::timeout;

use super::check::plain;
use super::pattern::Pattern;
use super::route::Route;

/// How long a server may take to refuse a datagram that it need not answer: the
/// ICMP error comes from the same host.
const REFUSAL: Duration = Duration::from_millis(500);

/// Longest reply that is looked at.
const MAX_REPLY: usize = 4096;

/// What is sent, and what has to come back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Udp {
    /// The datagram
    pub send: Vec<u8>,
    /// Whether there has to be a reply; otherwise it is enough that none says
    /// that the port is closed
    pub reply: bool,
    /// What has to be found in a reply
    pub matches: Option<Pattern>,
}

pub(super) async fn check(
    udp: &Udp,
    route: &Route<'_>,
    target: SocketAddr,
    limit: Duration,
) -> Result<(), String> {
    let socket = route.datagrams(target).await?;
    let failed = |error: std::io::Error| plain(&error);
    socket.send(&udp.send).await.map_err(failed)?;
    let mut bytes = [0; MAX_REPLY];
    if !udp.reply && udp.matches.is_none() {
        // Half of the limit, so that this ends before the check is cut off.
        return match timeout(REFUSAL.min(limit / 2), socket.recv(&mut bytes)).await {
            Ok(Err(error)) => Err(failed(error)),
            Ok(Ok(_)) | Err(_) => Ok(()),
        };
    }
    let length = socket.recv(&mut bytes).await.map_err(failed)?;
    match &udp.matches {
        Some(pattern) if !pattern.is_in(&bytes[..length]) => {
            Err(format!("the reply does not match {pattern:?}"))
        }
        _ => Ok(()),
    }
}
