//! The director's API: HTTP/1.1 with JSON on its Unix socket.
//!
//! ```text
//! curl --unix-socket /run/sluice/sluice.sock http://sluice/v1/services
//! ```
//!
//! [`routes`] has all that can be asked, one row each, and how it is told:
//! resources below `/v1`, bodies of JSON, whatever the `Content-Type` says. What
//! may be long (services, connections, events, changes) is answered in lines of
//! JSON (`application/x-ndjson`); all else is one document, or status 204 where
//! nothing is to be said. What is refused has a status of 4xx or 5xx and the body
//! `{"code": ..., "message": ...}`, the code for programs, the message for people.
//! An answer in lines that fails in its middle ends with the line
//! `{"error": {"code": ..., "message": ...}}`. [`openapi`] says all this in an
//! OpenAPI document, which is at `/openapi.json`.
//!
//! Who may ask is decided when a client connects, by what the kernel says of its
//! process: root and the director's own user may do everything, and so may
//! members of `api_group`, both reading and changing, but for taking the
//! director's place. There is no group that may only read: whoever is to look
//! only has the web port.
//!
//! Inside, [`message`] has requests and answers without HTTP. [`serve`] is the
//! director's side and [`Client`] the other; a takeover leaves HTTP ([`upgrade`]).

mod access;
mod body;
mod client;
mod conversation;
mod director;
pub mod fake;
mod listing;
pub mod message;
pub mod openapi;
mod query;
mod routes;
mod server;
mod socket;
#[cfg(test)]
mod tests;
pub(crate) mod upgrade;

use std::time::Duration;

pub use access::group;
pub use client::{Client, ClientError, SOCKET_VARIABLE, Session};
pub use director::{DataPlane, Director};
pub use message::{Answer, Request};
pub use query::{ConnectionQuery, EndpointQuery, QueryError};
pub use server::serve;
pub use socket::{BindError, Listener};
pub(crate) use upgrade::send;

/// Where the director listens when nobody says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/sluice/sluice.sock";

/// Longest body of a request in bytes.
pub const MAX_REQUEST: usize = 1 << 20;

/// Most clients at a time.
pub const MAX_CLIENTS: usize = 64;

/// How long the body of a request may take to come, and an answer to be taken.
const PATIENCE: Duration = Duration::from_secs(10);
