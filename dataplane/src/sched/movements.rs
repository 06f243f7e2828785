//! Whose connections changed in number: what an [`Index`](super::index::Index)
//! goes by, so that it need not look at every server.

use std::sync::atomic::{AtomicU32, Ordering};

use crossbeam::utils::CachePadded;

use crate::service::ServerId;

/// Servers that are told of together: those whose slots are next to each other.
const SERVERS_OF_BLOCK: u32 = 16;

/// Blocks that are told of together.
const BLOCKS_OF_GROUP: usize = 64;

const GROUPS: usize = 64;
const BLOCKS: usize = GROUPS * BLOCKS_OF_GROUP;

/// The block of a slot. Far apart, slots share one: whoever asks looks at a few
/// servers in vain then.
pub(super) fn block_of(id: ServerId) -> u16 {
    ((id.0 / SERVERS_OF_BLOCK) as usize % BLOCKS) as u16
}

/// The group of a block.
pub(super) fn group_of(block: u16) -> u16 {
    block / BLOCKS_OF_GROUP as u16
}

/// How often one worker changed something, wrapping around. That worker writes,
/// all read.
#[derive(Debug)]
struct OfWorker {
    blocks: [AtomicU32; BLOCKS],
    groups: [AtomicU32; GROUPS],
}

/// How often the connections of which servers changed, by worker.
#[derive(Debug)]
pub(crate) struct Movements(Box<[CachePadded<OfWorker>]>);

impl Movements {
    /// For so many workers.
    pub(crate) fn new(workers: usize) -> Self {
        let none = |_| {
            CachePadded::new(OfWorker {
                blocks: [const { AtomicU32::new(0) }; BLOCKS],
                groups: [const { AtomicU32::new(0) }; GROUPS],
            })
        };
        Movements((0..workers).map(none).collect())
    }

    /// To be called by `worker` after it changed a server's active or inactive
    /// connections, or its overload.
    #[inline]
    pub(crate) fn note(&self, worker: usize, id: ServerId) {
        let Some(own) = self.0.get(worker) else { return };
        let block = block_of(id);
        // Released, so that whoever sees the new number sees what it tells of.
        let add = |number: &AtomicU32| {
            number.store(number.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
        };
        add(&own.blocks[usize::from(block)]);
        add(&own.groups[usize::from(group_of(block))]);
    }

    /// A number that is another one after a change in the block.
    #[inline]
    pub(super) fn block(&self, block: u16) -> u32 {
        self.sum(|of| &of.blocks[usize::from(block)])
    }

    /// The same for a group of blocks.
    #[inline]
    pub(super) fn group(&self, group: u16) -> u32 {
        self.sum(|of| &of.groups[usize::from(group)])
    }

    #[inline]
    fn sum(&self, number: impl Fn(&OfWorker) -> &AtomicU32) -> u32 {
        self.0.iter().fold(0, |sum, of| sum.wrapping_add(number(of).load(Ordering::Acquire)))
    }
}
