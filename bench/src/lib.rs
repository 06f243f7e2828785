//! Lab, traffic generator, benches and end-to-end tests of Sluice.

pub mod lab;
pub mod traffic;
