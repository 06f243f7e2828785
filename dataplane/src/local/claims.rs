//! What workers let each other know of their local ports.

use std::sync::Arc;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use arc_swap::ArcSwap;
use hashbrown::HashMap;

use super::PoolKey;
use super::pool::WORDS_PER_CHUNK;

/// One worker's word on its local ports. It alone writes it, all others read.
#[derive(Debug, Default)]
pub struct Claims {
    /// The plan ([`NextHops::port_plan`](crate::neigh::NextHops::port_plan))
    /// that the worker goes by: it takes no port that is not its own by it,
    /// and `strays` names all that it has taken before. Stored with `Release`
    /// after those, loaded with `Acquire` before they are.
    plan: AtomicU64,
    /// Ports that the worker's connections use although they are another's by
    /// its plan, or by one before that others may still go by. They become only
    /// fewer until the next plan.
    strays: ArcSwap<Strays>,
}

impl Claims {
    pub(super) fn plan(&self) -> u64 {
        self.plan.load(Acquire)
    }

    pub(super) fn strays(&self) -> Arc<Strays> {
        self.strays.load_full()
    }

    /// To be called by the worker that they are of.
    pub(super) fn replace(&self, plan: u64, strays: Arc<Strays>) {
        self.strays.store(strays);
        self.plan.store(plan, Release);
    }

    /// There are none any more.
    pub(super) fn clear(&self) {
        self.strays.store(Arc::default());
    }
}

/// A pool and the number of a chunk of it.
pub(super) type ChunkKey = (PoolKey, usize);

/// Ports in use, a bit for each.
#[derive(Debug, Default)]
pub(super) struct Strays {
    chunks: HashMap<ChunkKey, Box<[AtomicU64; WORDS_PER_CHUNK]>>,
}

impl Strays {
    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Which of the 64 ports of a word are in use.
    pub(super) fn word(&self, pool: &PoolKey, word: usize) -> u64 {
        let chunk = self.chunks.get(&(*pool, word / WORDS_PER_CHUNK));
        chunk.map_or(0, |chunk| chunk[word % WORDS_PER_CHUNK].load(Relaxed))
    }

    /// Adds those of a word, before others can see it.
    pub(super) fn add(&mut self, pool: &PoolKey, word: usize, ports: u64) {
        let chunk = self.chunks.entry((*pool, word / WORDS_PER_CHUNK));
        let chunk = chunk.or_insert_with(|| Box::new(std::array::from_fn(|_| AtomicU64::new(0))));
        *chunk[word % WORDS_PER_CHUNK].get_mut() |= ports;
    }

    /// Takes a port out; answers whether it was in. To be called by the worker
    /// that they are of, which alone writes them: so no locked instruction.
    pub(super) fn remove(&self, pool: &PoolKey, port: u16) -> bool {
        let (word, bit) = (usize::from(port) / 64, 1 << (port % 64));
        let Some(chunk) = self.chunks.get(&(*pool, word / WORDS_PER_CHUNK)) else { return false };
        let ports = chunk[word % WORDS_PER_CHUNK].load(Relaxed);
        // The connection is over; whoever sees it may have the port at once.
        chunk[word % WORDS_PER_CHUNK].store(ports & !bit, Relaxed);
        ports & bit != 0
    }
}
