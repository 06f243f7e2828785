//! The program that carries flows, in the kernel. Needs root; skipped, and said
//! so, without.

mod differential;
mod kernel;
mod random;
mod terms;
