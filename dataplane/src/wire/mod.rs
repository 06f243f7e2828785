//! Headers on the wire.
mod address;

pub use address::Address;
