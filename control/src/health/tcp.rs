//! Whether a TCP connection is accepted.

use std::net::SocketAddr;

use super::check::Way;

/// Opens a connection and closes it.
pub(super) async fn check(way: &Way, target: SocketAddr) -> Result<(), String> {
    way.connect(target).await.map(drop)
}
