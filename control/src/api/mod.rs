//! Requests and answers over the Unix socket.
//!
//! One request is one line of JSON and its answer one or more lines, the last
//! of which is [final](Answer::is_final). Only root and the director's own
//! user are answered. See [`message`] for what can be asked, [`serve`] for
//! the director's side and [`Client`] for the other.

mod client;
mod director;
pub mod fake;
mod listing;
pub mod message;
mod query;
mod server;
mod socket;
#[cfg(test)]
mod tests;

pub use client::{Client, ClientError, SOCKET_VARIABLE, Session};
pub use director::{DataPlane, Director};
pub use message::{Answer, Request};
pub use query::{ConnectionQuery, EndpointQuery, QueryError};
pub(crate) use server::send;
pub use server::serve;
pub use socket::{BindError, Listener};

/// Where the director listens when nobody says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/sluice/sluice.sock";

/// Longest request line in bytes.
pub const MAX_REQUEST: usize = 1 << 20;

/// Most clients at a time.
pub const MAX_CLIENTS: usize = 64;
