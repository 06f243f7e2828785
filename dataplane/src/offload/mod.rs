//! Established connections carried in the kernel.
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
