//! What a worker is told to have connections carried.

use std::sync::Arc;

use super::board::Board;

/// The most packets after which a connection can be carried.
pub const MOST_AFTER: u8 = 250;

/// A worker's part of what is carried.
#[derive(Clone, Debug)]
pub struct Share {
    /// What all have in common
    pub board: Arc<Board>,
    /// Connections of this worker that are carried at most
    pub connections: usize,
    /// Packets after which one is
    pub after: u8,
    /// What is to be added to the time that the worker is told for `CLOCK_MONOTONIC`,
    /// nanoseconds
    pub clock: u64,
}
