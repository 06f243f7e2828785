//! Packets in, packets out: a table for each feature. Every frame that is
//! expected is made by `etherparse` from a description and compared byte for
//! byte, which checks all headers and all checksums at once.

#[path = "../director/mod.rs"]
mod director;

mod capture;
mod connections;
mod dr;
mod families;
mod families_related;
mod fragments;
mod fragments_v6;
mod ftp;
mod fullnat;
mod icmp;
mod inherited;
mod ipv6;
mod link;
mod listing;
mod marks;
mod nat;
mod next_hops;
mod offload;
mod offload_model;
mod one_packet;
mod persistence;
mod recorded_states;
mod related;
mod related_v6;
mod rss;
mod sctp;
mod sip;
mod spread;
mod standby;
mod sync;
mod sync_model;
mod thresholds;
mod trace;
mod tun;
mod tunables;
mod tunnel_errors;
mod tunnel_types;
mod workers;
