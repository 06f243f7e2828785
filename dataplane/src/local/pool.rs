//! The ports of one LIP towards one server, as far as one worker knows them.

use super::PoolKey;
use super::plan::{MOST_PLANS, Rule};
use crate::rss::FIRST_WORD;

/// Words of a pool's set of ports.
pub(super) const WORDS: usize = 65_536 / 64;

/// Words of a chunk.
pub(super) const WORDS_PER_CHUNK: usize = 64;

/// Chunks of a pool.
pub(super) const CHUNKS: usize = WORDS / WORDS_PER_CHUNK;

/// A bit for each of 4096 ports in use. It moves between pools and the spare
/// ones without being copied.
pub(super) type Chunk = Box<[u64; WORDS_PER_CHUNK]>;

/// Chunks without any port in use that are kept for the next that is wanted.
const SPARE_CHUNKS: usize = 32;

/// No pool, as a link in a list of idle pools.
pub(super) const NONE: u32 = u32::MAX;

/// The ports of one LIP towards one server. Memory for their bits is there as
/// long as one of them is in use, 512 bytes for 4096 ports; an idle pool is a
/// few hundred bytes.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) key: PoolKey,
    chunks: [Option<Chunk>; CHUNKS],
    /// Ports in use in each chunk
    counts: [u16; CHUNKS],
    /// A bit for each word that has no port to be taken
    full: [u64; WORDS / 64],
    pub(super) taken: u32,
    /// Where the search begins: after the port taken last
    pub(super) cursor: u32,
    /// The word looked at last, and which of its ports are the worker's
    seen: (usize, u64),
    /// What tells whose a port is, by each plan that counts
    pub(super) rules: [Rule; MOST_PLANS],
    /// When the rules were worked out
    pub(super) serial: u32,
    /// Neighbours in the list of idle pools, while `taken` is 0
    pub(super) older: u32,
    pub(super) newer: u32,
}

impl Pool {
    pub(super) fn new(key: PoolKey, cursor: u32) -> Self {
        Pool {
            key,
            chunks: [const { None }; CHUNKS],
            counts: [0; CHUNKS],
            full: [0; WORDS / 64],
            taken: 0,
            cursor,
            seen: (WORDS, 0),
            rules: [Rule::Number; MOST_PLANS],
            serial: 0,
            older: NONE,
            newer: NONE,
        }
    }

    /// Takes up other rules for whose a port is.
    pub(super) fn follow(&mut self, rules: [Rule; MOST_PLANS], serial: u32) {
        (self.rules, self.serial) = (rules, serial);
        self.full = [0; WORDS / 64];
        self.seen = (WORDS, 0);
    }

    /// Takes the first free port from the cursor on, around the end once.
    /// `ours` says which ports of a word are the worker's, `strays` which are
    /// in use by others nonetheless.
    pub(super) fn take(
        &mut self,
        spare: &mut Vec<Chunk>,
        ours: impl Fn(usize) -> u64,
        strays: impl Fn(usize) -> u64,
    ) -> Option<u16> {
        let (start, bit) = (self.cursor as usize / 64, self.cursor % 64);
        let rounds = [(start, u64::MAX << bit, start + 1), (start + 1, u64::MAX, WORDS)];
        for (first, among, end) in rounds.into_iter().chain([(FIRST_WORD, u64::MAX, start + 1)]) {
            let mut next = first;
            while let Some(word) = self.open_word(next, end.min(WORDS)) {
                if let Some(port) = self.free_in(word, among, &ours, &strays) {
                    self.mark(port, spare);
                    self.cursor = u32::from(port) + 1;
                    return Some(port);
                }
                next = word + 1;
            }
        }
        None
    }

    /// The first word from `from` to before `end` that may have a free port.
    fn open_word(&self, from: usize, end: usize) -> Option<usize> {
        let mut group = from / 64;
        let mut open = !*self.full.get(group)? & (u64::MAX << (from % 64));
        while open == 0 {
            group += 1;
            open = !*self.full.get(group)?;
        }
        let word = group * 64 + open.trailing_zeros() as usize;
        (word < end).then_some(word)
    }

    fn free_in(
        &mut self,
        word: usize,
        among: u64,
        ours: impl Fn(usize) -> u64,
        strays: impl Fn(usize) -> u64,
    ) -> Option<u16> {
        if self.seen.0 != word {
            self.seen = (word, ours(word));
        }
        let free = self.seen.1 & !self.used(word);
        if free == 0 {
            self.full[word / 64] |= 1 << (word % 64);
            return None;
        }
        let free = free & among;
        let free = if free == 0 { 0 } else { free & !strays(word) };
        (free != 0).then(|| (word * 64) as u16 + free.trailing_zeros() as u16)
    }

    /// Which ports of a word are in use.
    pub(super) fn used(&self, word: usize) -> u64 {
        let chunk = self.chunks[word / WORDS_PER_CHUNK].as_ref();
        chunk.map_or(0, |chunk| chunk[word % WORDS_PER_CHUNK])
    }

    /// The words of all chunks with a port in use.
    pub(super) fn used_words(&self) -> impl Iterator<Item = (usize, u64)> {
        let chunks = self.chunks.iter().enumerate();
        chunks.filter_map(|(place, chunk)| Some((place * WORDS_PER_CHUNK, chunk.as_deref()?))).flat_map(
            |(first, chunk)| chunk.iter().enumerate().map(move |(place, used)| (first + place, *used)),
        )
    }

    fn mark(&mut self, port: u16, spare: &mut Vec<Chunk>) {
        let word = usize::from(port) / 64;
        let place = word / WORDS_PER_CHUNK;
        let chunk = self.chunks[place]
            .get_or_insert_with(|| spare.pop().unwrap_or_else(|| Box::new([0; WORDS_PER_CHUNK])));
        chunk[word % WORDS_PER_CHUNK] |= 1 << (port % 64);
        self.counts[place] += 1;
        self.taken += 1;
    }

    /// Takes this very port; false when it is in use.
    pub(super) fn claim(&mut self, port: u16, spare: &mut Vec<Chunk>) -> bool {
        if self.used(usize::from(port) / 64) >> (port % 64) & 1 != 0 {
            return false;
        }
        self.mark(port, spare);
        true
    }

    /// Gives a port back; false when it was not taken.
    pub(super) fn put_back(&mut self, port: u16, spare: &mut Vec<Chunk>) -> bool {
        let (word, bit) = (usize::from(port) / 64, 1 << (port % 64));
        let place = word / WORDS_PER_CHUNK;
        let Some(chunk) = &mut self.chunks[place] else { return false };
        let used = &mut chunk[word % WORDS_PER_CHUNK];
        if *used & bit == 0 {
            return false;
        }
        *used &= !bit;
        self.full[word / 64] &= !(1 << (word % 64));
        self.counts[place] -= 1;
        self.taken -= 1;
        // With no port in use, all of it is zero.
        if self.counts[place] == 0
            && let Some(chunk) = self.chunks[place].take()
            && spare.len() < SPARE_CHUNKS
        {
            spare.push(chunk);
        }
        true
    }
}
