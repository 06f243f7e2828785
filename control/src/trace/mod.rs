//! `sluice trace`: what would become of a packet, and why.
//!
//! Workers say it of their own tables ([`sluice_dataplane::trace`]); what health
//! checks know, and the way from there on, is added here.

mod command;
mod remedy;
mod report;
mod tell;
#[cfg(test)]
mod tests;
mod text;

pub use command::{Arguments, main};
pub use report::{Server, Service, TraceQuery, TraceReport, Verdict, Way, WayState, WorkerReport};
pub use tell::{Asked, TraceError};
