//! Established connections carried in the kernel: the worker decides, the XDP
//! program carries.
//!
//! Where a socket copies, AF_XDP costs some 400 ns a packet to transmit, and XDP a
//! tenth of it. So a connection that is established and has had some packets is
//! *offered*: its worker enters what it does to the packets, its
//! [`Rewrite`](crate::forward::Rewrite), in a map, for each direction that comes
//! by. Packets to which nothing happens but that go out of the other interface
//! without being seen by the worker; all others come to it as before.
//!
//! ```text
//!            sluice_steer (one for each interface)
//!   frame -> is it for our MAC? --tail call--> sluice_offload (one for all)
//!                                                |  flows_v4, flows_v6: the flow
//!                                                |  state: generation, who is alive
//!                                                |  places: token, closed, tallies
//!                                                |  next_hops: MAC, VLAN, MTU, interface
//!                                                +-- carried: rewritten, redirected by devices
//!   sluice_rest (the rest of steering) <--tail call-- not carried: as it came
//! ```
//!
//! The maps are one for all interfaces, while steering has its own for each; two
//! programs that call each other have both. Tables of programs are emptied by the
//! kernel when the process ends that made them: then steering goes on by itself, and
//! nothing is carried for the dead.
//!
//! # What is in the maps, and who writes it
//!
//! | map | key | value | written by |
//! |---|---|---|---|
//! | `flows_v4`, `flows_v6` | addresses, ports, protocol as they arrive | [`Flow`]: generation, token, place, next hop, worker, kind, new addresses and ports, deltas of both checksums, or the outer header of a tunnel | carrier |
//! | `places` | place | a cache line: token; the token that was closed; packets and bytes of either side | worker: token; program: the rest |
//! | `state` | 0 | generation; how old a sign of life may be; when each worker gave one (`CLOCK_MONOTONIC`) | control, workers |
//! | `next_hops` | [`HopId`](crate::neigh::HopId) | MACs, VLAN, MTU, interface, whether it can be used | control |
//! | `devices` | director's interface | interface | control |
//! | `numbers`, `steering` | interface; its number | its number; program | control |
//!
//! `places`, `state` and `next_hops` are mapped into memory ([`Board`]): workers
//! count what was carried, and take flows out of force, by loads and stores. What
//! needs a system call, entering flows and taking them out, goes by bounded queues
//! ([`Lane`]) to the [`Carrier`], a thread that does it in batches. The maps of flows
//! are bounded hashes without preallocation: memory is taken as it is used. There is
//! no eviction: a connection that finds no place stays with its worker.
//!
//! # When a flow is in force
//!
//! It has the generation of `state`, the token of its place, which is not the one that
//! was closed, and its worker was alive a moment ago. So
//!
//! - a packet with FIN, RST or SYN, or without ACK, closes the place in the program,
//!   both directions at once, and goes to the worker, which follows the state;
//! - a worker that ends a connection clears the token, and the map entry follows;
//! - control changes the generation for what concerns many: other routes, a server
//!   removed, a service edited, a role given up. Workers take the flows out within a
//!   second, and offer their connections anew;
//! - a neighbour that changes its MAC is one store in `next_hops`;
//! - a worker that hangs gives no sign of life, and after `offload_stale` nothing of
//!   it is carried.
//!
//! A worker enters flows only with next hops of the generation that the board has:
//! control clears that, changes the generation of flows, writes the hops, and then
//! publishes the snapshot. Tokens are never used twice in a row, and a place is given
//! to the next connection only some milliseconds after its flows left the map: a
//! program that is still at a packet counts it where it belongs.
//!
//! # What stays with the worker
//!
//! Packets: fragments, IP options and extension headers, TTL of 1, what does not fit
//! the link out, what is broken in any way, and datagrams of IPv6 without a
//! checksum that would get one. Connections: of SCTP, FTP control and data, one-packet
//! scheduling, persistence, FULLNAT between address families, tunnels with a checksum
//! (over all of the packet), and while somebody wants to see every packet
//! ([`Worker::keep_all_packets`](crate::worker::Worker::keep_all_packets)).
//!
//! # Counting
//!
//! Each worker goes through its places once a second, a portion between two bursts
//! (`worker/offload.rs`), adds what is new to the counters of service and server, and
//! moves the connection's timer. One without a packet for ten such rounds leaves the
//! map. A connection whose time is over is looked at before it ends.

mod board;
mod carrier;
mod lane;
mod layout;
pub mod memory;
mod program;

pub use board::{Board, Carried};
pub use carrier::{Carrier, CarrierThread, FlowMap};
pub use lane::{Answer, Entered, Lane, MOST_AFTER, Removal, Request, Settings};
pub use layout::{Flow, Key, KeyV4, KeyV6, MOST_HOPS, MOST_WORKERS, Terms};
pub use program::{KernelMap, Offload, OffloadError};
