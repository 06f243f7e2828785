//! What a worker asks of the carrier, and what that answers.

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use super::board::Board;
use super::layout::{Flow, Key};

/// Requests that may wait for the carrier.
const MOST_REQUESTS: usize = 4096;

/// A flow with what it is found by.
pub type Entered = (Key, Flow);

/// What a worker asks for. Requests about one place are carried out in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// Enter the flows of a connection, that of its client and that of what answers
    Install {
        /// The client's packets
        client: Entered,
        /// The server's, where they come by
        server: Option<Entered>,
    },
    /// Take them out
    Remove(Removal),
}

/// The flows of a connection that are to be taken out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Removal {
    /// Where they are counted
    pub place: u32,
    /// What the client's are found by
    pub client: Key,
    /// What the server's are found by
    pub server: Option<Key>,
}

/// What became of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The flows of the connection at this place are in the map, or are not as
    /// there was no room
    Installed(u32, bool),
    /// They are not in the map any more
    Removed(u32),
}

/// The queues between a worker and the carrier, and the board that both write.
#[derive(Debug)]
pub struct Lane {
    /// The worker writes, the carrier reads
    pub requests: ArrayQueue<Request>,
    /// The carrier writes, the worker reads
    pub answers: ArrayQueue<Answer>,
    /// What all have in common
    pub board: Arc<Board>,
    /// The worker's places
    pub places: std::ops::Range<u32>,
    /// How workers deal with flows
    pub settings: Settings,
}

/// How workers deal with flows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Connections that have flows in the map, over all workers, at most
    pub connections: u32,
    /// Packets after which a connection is carried
    pub after: u8,
    /// Nanoseconds after which a worker that shows no sign of life is taken to be
    /// dead, and its flows are not carried any more
    pub stale: u64,
    /// What is to be added to the time that workers are told for `CLOCK_MONOTONIC`
    pub clock: u64,
}

/// The most packets after which a connection can be carried.
pub const MOST_AFTER: u8 = 250;

impl Lane {
    /// One for each worker.
    pub fn of_all(workers: usize, board: &Arc<Board>, settings: Settings) -> Vec<Arc<Lane>> {
        board.set_stale(settings.stale);
        let all = settings.connections.min(board.places() as u32);
        let share = all / workers.max(1) as u32;
        let lane = |worker: u32| {
            Arc::new(Lane {
                requests: ArrayQueue::new(MOST_REQUESTS),
                answers: ArrayQueue::new(MOST_REQUESTS),
                board: Arc::clone(board),
                places: worker * share..(worker + 1) * share,
                settings,
            })
        };
        (0..workers as u32).map(lane).collect()
    }
}
