//! Packets in, packets out: the forwarding half of Sluice.
//!
//! Nothing here reads a clock, a configuration file or randomness by itself:
//! `now` and seeds are arguments, so that any run can be replayed.

mod arena;
pub mod capture;
pub mod conn;
pub mod forward;
pub mod ftp;
pub mod link;
pub mod local;
mod memory;
pub mod neigh;
pub mod offload;
pub mod packet;
pub mod port;
mod prefetch;
pub mod rss;
pub mod sched;
pub mod service;
pub mod sip;
pub mod stats;
pub mod steer;
pub mod sync;
pub mod trace;
pub mod wire;
pub mod worker;

/// An error with everything that caused it, in one line: what an error says of
/// its cause already is not said again.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
