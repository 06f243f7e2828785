//! Packets at full rate: made in the kernel, counted in the kernel.
//!
//! [`Source`] runs a small XDP program over and over on one CPU (`BPF_PROG_TEST_RUN` with live frames, Linux 5.18),
//! which writes a packet and sends it out of an interface: more than ten million a second, which no program with a
//! socket reaches. [`Sink`] is an XDP program on the interface where they end, which counts and drops them.

mod sink;
mod source;

pub use sink::{Count, Sink};
pub use source::{Flows, Kind, Source, SourceOptions};
