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
//!                                                |  state: generation, who is alive
//!                                                |  flows_v4, flows_v6: the flow, its tally
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
//! | map | at | what | written by |
//! |---|---|---|---|
//! | `flows_v4`, `flows_v6` | a hash of addresses, ports and protocol as they arrive | a slot: generation and token; the key; next hop and kind; new addresses and ports, deltas of both checksums, or the outer header of a tunnel; connection and server; whether it was closed; packets and bytes | the worker that has the slot; the program: closed, packets, bytes |
//! | `state` | 0 | generation; how old a sign of life may be; when each worker gave one (`CLOCK_MONOTONIC`); the hash's seed | control, workers |
//! | `next_hops` | [`HopId`](crate::neigh::HopId) | MACs, VLAN, MTU, interface, whether it can be used | control |
//! | `identification` | 0, of each CPU | what outer headers are told by | the program |
//! | `devices` | director's interface | interface | control |
//! | `numbers`, `steering` | interface; its number | its number; program | control |
//!
//! The first three are arrays mapped into memory ([`Board`]): workers enter flows,
//! take them out and count what was carried by loads and stores, and no system call.
//! The tables of flows are hash tables of ours in such arrays (`table.rs`), in which
//! threads and the program meet by the rules of `slot.rs`. A flow of IPv4 is a cache
//! line with all that a packet needs and changes, one of IPv6 two. Outer addresses of
//! IPv6 do not fit a slot of IPv4: such a flow has another slot in the table for IPv6,
//! which its `peer` leads to. The tables have the size that they were made with. There
//! is no eviction: a connection that finds no place stays with its worker.
//!
//! # When a flow is in force
//!
//! It has the generation of `state`, no packet closed it, and its worker was alive a
//! moment ago. So
//!
//! - a packet with FIN, RST or SYN, or without ACK, closes the flow in the program, and
//!   its peer: both directions at once, if that has the same generation and token. It
//!   goes to the worker, which follows the state;
//! - a worker that ends a connection takes the generation out of its slots;
//! - control changes the generation for what concerns many: other routes, a server
//!   removed, a service edited, a role given up. Workers take the flows out within a
//!   second, and offer their connections anew;
//! - a neighbour that changes its MAC is one store in `next_hops`;
//! - a worker that hangs gives no sign of life, and after `offload_stale` nothing of
//!   it is carried.
//!
//! A worker enters flows only with next hops of the generation that the board has:
//! control clears that, changes the generation of flows, writes the hops, and then
//! publishes the snapshot. A slot is given to another connection only some
//! milliseconds after its flow was taken out of force: a program that is still at a
//! packet counts it where it belongs.
//!
//! # What stays with the worker
//!
//! Packets: fragments, IP options and extension headers, TTL of 1, what does not fit
//! the link out, what is broken in any way, and datagrams of IPv6 without a
//! checksum that would get one. Connections: of SCTP, FTP control and data, one-packet
//! scheduling, FULLNAT between address families, tunnels with a checksum
//! (over all of the packet), and while somebody wants to see every packet
//! ([`Worker::keep_all_packets`](crate::worker::Worker::keep_all_packets)).
//!
//! # Counting
//!
//! Each worker goes through its slots once a second, or in 1.75 seconds if they are many,
//! a portion between two bursts (`worker/offload.rs`): it takes what the program counted
//! and adds it to the counters of service and server. It does so in the order of the
//! slots and not of the connections (`holdings.rs`), and looks at nothing else, as a
//! million scattered cache lines a second and a half are a tenth of a CPU. So a slot
//! says whose packets it has, and at how many looks there was nothing. A connection
//! without a packet for ten rounds leaves the table. Its timer is moved then, and when
//! it is over: until then, when it will end is worked out for who asks.
//!
//! # When another process takes over
//!
//! It has a program and maps of its own, whose layout may be another. Workers say in what
//! they tell of a connection whether it is carried
//! ([`Session::carried`](crate::sync::Session::carried)), and those of the new process
//! enter it at once (`worker/offload/inherited.rs`), while the former one's program
//! goes on carrying by its maps, and its workers go on giving signs of life. The first packet
//! by the new program is carried. From then on nothing is counted in the former maps
//! any more: all flows are taken out there, which adds up what they had, and then the new
//! process asks for the sums. One that ends a connection between the last that the
//! former workers saw and the first that the new ones do waits for these in the
//! sockets' rings.

mod board;
mod holdings;
mod layout;
mod program;
mod share;
mod slot;
mod table;

/// What `slot.rs` synchronises by, which is another thing in a test of it.
mod atomic {
    pub(super) use std::sync::atomic::{AtomicU64, Ordering, fence};
}

pub use board::{Board, Carried, Entered, Held, Room};
pub(crate) use holdings::Holdings;
pub use layout::{Flow, Key, MOST_HOPS, MOST_WORKERS, Owner};
pub use program::{Offload, OffloadError};
pub use share::{MOST_AFTER, Share};
pub(crate) use table::Last;
