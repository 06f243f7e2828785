//! The program that carries flows, in the kernel. Needs root; skipped, and said
//! so, without.

#[path = "../director/mod.rs"]
#[allow(dead_code, reason = "the forwarding tests use all of it")]
mod director;

mod churn;
mod differential;
mod random;
mod room;
mod terms;

use director::kernel;
