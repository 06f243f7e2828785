//! Telling other directors of connections.

pub mod lvs;
