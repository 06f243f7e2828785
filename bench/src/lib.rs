//! Lab, traffic generator, benches and end-to-end tests of Sluice.
//!
//! - [`conversations`] are many TCP connections with data on them, to see what a failover does to them.
//! - [`failover`] takes a director from its clients, in several ways, while they talk.
//! - [`figures`] turns what was measured into medians, tables, JSON and a plot.
//! - [`lab`] builds small networks out of network namespaces and runs real programs in them.
//! - [`limit`] is the simplest forwarder on AF_XDP, which a director is measured against.
//! - [`operate`] runs the stories of operating a director.
//! - [`pipeline`] is a worker on a port in memory, to time the packet path without the kernel.
//! - [`traffic`] makes packets at line rate inside the kernel, and counts the ones that arrive.
//! - [`xdp_limit`] is the simplest forwarder in XDP, which carried connections are measured against.

pub mod conversations;
pub mod failover;
pub mod figures;
pub mod lab;
pub mod limit;
pub mod operate;
pub mod pipeline;
pub mod traffic;
pub mod xdp_limit;
