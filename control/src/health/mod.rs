//! Health checks: what makes the servers of a service come and go.
//!
//! A thread of its own makes the checks, so that neither TLS nor many results at a time hold
//! up the control thread; it tells that thread only what changes. There
//! [`supervise`] keeps the rules as checks, quorum and sorry server want them,
//! by what keepalived does: a server that is down is removed, or has weight 0.
//!
//! Everything is bounded: a check by its timeout and by how much it reads, all
//! of them by how many are under way, commands likewise. A command is killed
//! with all that it started when its time is up.

mod check;
mod command;
mod dns;
mod grpc;
mod http;
mod icmp;
mod list;
mod overview;
mod pattern;
mod plan;
mod quorum;
mod route;
mod schedule;
mod status;
mod supervisor;
#[cfg(test)]
mod supervisor_tests;
mod tcp;
#[cfg(test)]
mod tests;
mod tls;
mod udp;
mod vip;

pub use check::{Check, Kind, Timing, Way};
pub use command::Command;
pub use dns::{Dns, TYPES as DNS_TYPES};
pub use grpc::Grpc;
pub use http::{DEFAULT_BODY, Http};
pub use list::{Arguments, main};
pub use overview::{CheckHealth, ServerHealth, ServiceHealth};
pub use pattern::Pattern;
pub use plan::ServicePlan;
pub use status::State;
pub use supervisor::{Health, supervise};
pub use tls::{SYSTEM_AUTHORITIES, Tls};
pub use udp::Udp;
