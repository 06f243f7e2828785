//! The sync protocol of Linux IPVS (`net/netfilter/ipvs/ip_vs_sync.c`), by which
//! a director pairs with one that is a Linux kernel.
//!
//! A master tells of connections in datagrams to a multicast group and hears
//! nothing back: nothing is acknowledged, asked for or encrypted, and whoever
//! can send to the group can make entries. It belongs on a link of its own.

mod backup;
pub mod codec;
pub mod counters;
mod daemon;
pub mod flags;
mod master;
pub mod socket;
#[cfg(test)]
mod tests;
pub mod translate;

pub use daemon::run;
