//! Lab, traffic generator, benches and end-to-end tests of Sluice.
//!
//! - [`lab`] builds small networks out of network namespaces and runs real programs in them.
//! - [`traffic`] makes packets at line rate inside the kernel, and counts the ones that arrive.

pub mod lab;
pub mod traffic;
