//! Lab, traffic generator, benches and end-to-end tests of Sluice.
//!
//! - [`figures`] turns what was measured into medians, tables, JSON and a plot.
//! - [`lab`] builds small networks out of network namespaces and runs real programs in them.
//! - [`limit`] is the simplest forwarder on AF_XDP, which a director is measured against.
//! - [`operate`] runs the stories of operating a director.
//! - [`pipeline`] is a worker on a port in memory, to time the packet path without the kernel.
//! - [`traffic`] makes packets at line rate inside the kernel, and counts the ones that arrive.

pub mod figures;
pub mod lab;
pub mod limit;
pub mod operate;
pub mod pipeline;
pub mod traffic;
