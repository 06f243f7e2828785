//! Rules that mark packets, for services of marks (`ipvsadm -f`).
//!
//! They stand in for `iptables -t mangle -A PREROUTING ... -j MARK`, which
//! packets that bypass the kernel do not pass, and are gone through as those
//! are: in order, all of them, each changing what the ones before it set.
//! [`MarkRule`] is a rule as it is written; `sluice_dataplane::service`
//! has what becomes of it.

mod command;
mod model;
mod print;
mod restore;
#[cfg(test)]
mod tests;

pub use command::{Arguments, World, main, run};
pub use model::{Addresses, MarkListing, MarkRule, Ports, Set};
