//! Whether a TCP connection is accepted.

use std::net::SocketAddr;

use super::route::Route;

/// Opens a connection and closes it.
pub(super) async fn check(route: &Route<'_>, target: SocketAddr) -> Result<(), String> {
    route.connect(target).await.map(drop)
}
