//! The ports of one LIP towards one server, as far as one worker knows them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::PoolKey;
use super::plan::{MOST_PLANS, Rule};
use crate::arena::Arena;
use crate::prefetch::prefetch;
use crate::rss::FIRST_WORD;
use crate::service::Protocol;
use crate::wire::Address;

/// Words of a pool's set of ports.
pub(super) const WORDS: usize = 65_536 / 64;

/// Words of a chunk.
pub(super) const WORDS_PER_CHUNK: usize = 64;

/// Chunks of a pool.
pub(super) const CHUNKS: usize = WORDS / WORDS_PER_CHUNK;

/// A bit for each of 4096 ports in use.
pub(super) type Chunk = [u64; WORDS_PER_CHUNK];

/// No pool, as a link in a list of idle pools.
pub(super) const NONE: u32 = u32::MAX;

/// The ports of one LIP towards one server. A place for their bits is taken as
/// long as one of them is in use, 512 bytes for 4096 ports; an idle pool is 512
/// bytes itself.
///
/// All of it is plain numbers, and zeroes are a pool without any port in use, so
/// that it can lie in an [`Arena`].
#[derive(Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub(super) struct Pool {
    lip: Address,
    server: Address,
    port: u16,
    protocol: u16,
    pub(super) taken: u32,
    /// Which ports of the word looked at last are the worker's
    seen_ports: u64,
    /// One more than the word looked at last, or 0
    seen: u32,
    /// Where the search begins: after the port taken last
    pub(super) cursor: u32,
    /// When the rules were worked out
    pub(super) serial: u32,
    /// The pool that ports were taken of after this one, most likely
    pub(super) then: u32,
    // Up to here is one cache line: what is looked at for every port taken.
    /// One more than the place of each chunk, or 0
    chunks: [u32; CHUNKS],
    /// Ports in use in each chunk
    counts: [u16; CHUNKS],
    /// What tells whose a port is, by each plan that counts
    pub(super) rules: [Rule; MOST_PLANS],
    /// A bit for each word that has no port to be taken
    full: [u64; WORDS / 64],
    /// Of its key
    pub(super) hash: u64,
    /// Whether answers land on the worker's queue, if the rules are of today
    pub(super) suits: u32,
    /// The place of what is known of its LIP
    pub(super) place_of_lip: u32,
    /// Neighbours in the list of its LIP's idle pools, while `taken` is 0
    pub(super) older: u32,
    pub(super) newer: u32,
    /// Neighbours in the list of all idle pools
    pub(super) elder: u32,
    pub(super) younger: u32,
    /// A page holds a whole number of pools
    _rest: [u64; 20],
}

const _: () = assert!(size_of::<Pool>() == 512);

impl Pool {
    /// Makes a pool of zeroes that of a pair.
    pub(super) fn begin(&mut self, key: PoolKey, hash: u64, cursor: u32) {
        (self.lip, self.server, self.port) = (key.lip, key.server, key.port);
        self.protocol = key.protocol.number().into();
        (self.hash, self.cursor) = (hash, cursor);
        (self.older, self.newer, self.elder, self.younger) = (NONE, NONE, NONE, NONE);
    }

    pub(super) fn is_of(&self, key: &PoolKey) -> bool {
        self.server == key.server
            && self.lip == key.lip
            && self.port == key.port
            && self.protocol == u16::from(key.protocol.number())
    }

    /// The pair that it is of, if it is of any.
    pub(super) fn key(&self) -> Option<PoolKey> {
        let protocol = u8::try_from(self.protocol).ok().and_then(Protocol::from_number)?;
        Some(PoolKey { lip: self.lip, server: self.server, port: self.port, protocol })
    }

    /// Takes up other rules for whose a port is, and whether answers land on the
    /// worker's queue.
    pub(super) fn follow(&mut self, rules: [Rule; MOST_PLANS], suits: bool, serial: u32) {
        (self.rules, self.suits, self.serial) = (rules, suits.into(), serial);
        self.full = [0; WORDS / 64];
        self.seen = 0;
    }

    /// Asks the cache for what taking a port changes.
    #[inline]
    pub(super) fn prefetch(&self, chunks: &Arena<Chunk>) {
        prefetch(&self.counts);
        let word = self.cursor as usize / 64;
        let chunk = self.chunks.get(word / WORDS_PER_CHUNK).and_then(|place| place.checked_sub(1));
        if let Some(chunk) = chunk.and_then(|place| chunks.get(place)) {
            prefetch(&chunk[word % WORDS_PER_CHUNK]);
        }
    }

    /// As [`Pool::take`], if there is a free port in the word looked at last; that
    /// is likely, and then quick.
    #[inline]
    pub(super) fn take_here(
        &mut self,
        chunks: &mut Arena<Chunk>,
        strays: impl Fn(usize) -> u64,
    ) -> Option<u16> {
        let (word, bit) = (self.cursor as usize / 64, self.cursor % 64);
        if self.seen != word as u32 + 1 {
            return None;
        }
        let place = word / WORDS_PER_CHUNK;
        let chunk = chunks.get_mut(self.chunks.get(place)?.checked_sub(1)?)?;
        let used = &mut chunk[word % WORDS_PER_CHUNK];
        let free = self.seen_ports & !*used & (u64::MAX << bit);
        let free = if free == 0 { 0 } else { free & !strays(word) };
        if free == 0 {
            return None;
        }
        let bit = free.trailing_zeros();
        *used |= 1 << bit;
        self.counts[place] += 1;
        self.taken += 1;
        self.cursor = (word * 64) as u32 + bit + 1;
        Some((word * 64) as u16 + bit as u16)
    }

    /// Takes the first free port from the cursor on, around the end once.
    /// `ours` says which ports of a word are the worker's, `strays` which are
    /// in use by others nonetheless.
    pub(super) fn take(
        &mut self,
        chunks: &mut Arena<Chunk>,
        ours: impl Fn(usize) -> u64,
        strays: impl Fn(usize) -> u64,
    ) -> Option<u16> {
        let (start, bit) = (self.cursor as usize / 64, self.cursor % 64);
        let rounds = [(start, u64::MAX << bit, start + 1), (start + 1, u64::MAX, WORDS)];
        for (first, among, end) in rounds.into_iter().chain([(FIRST_WORD, u64::MAX, start + 1)]) {
            let mut next = first;
            while let Some(word) = self.open_word(next, end.min(WORDS)) {
                if let Some(port) = self.free_in(word, among, chunks, &ours, &strays) {
                    self.mark(port, chunks)?;
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
        chunks: &Arena<Chunk>,
        ours: impl Fn(usize) -> u64,
        strays: impl Fn(usize) -> u64,
    ) -> Option<u16> {
        if self.seen != word as u32 + 1 {
            (self.seen, self.seen_ports) = (word as u32 + 1, ours(word));
        }
        let free = self.seen_ports & !self.used(word, chunks);
        if free == 0 {
            self.full[word / 64] |= 1 << (word % 64);
            return None;
        }
        let free = free & among;
        let free = if free == 0 { 0 } else { free & !strays(word) };
        (free != 0).then(|| (word * 64) as u16 + free.trailing_zeros() as u16)
    }

    /// Which ports of a word are in use.
    pub(super) fn used(&self, word: usize, chunks: &Arena<Chunk>) -> u64 {
        let chunk = self.chunks[word / WORDS_PER_CHUNK].checked_sub(1);
        chunk.and_then(|place| chunks.get(place)).map_or(0, |chunk| chunk[word % WORDS_PER_CHUNK])
    }

    /// The words of all chunks with a port in use.
    pub(super) fn used_words<'a>(
        &'a self,
        chunks: &'a Arena<Chunk>,
    ) -> impl Iterator<Item = (usize, u64)> + use<'a> {
        let used = (0..).step_by(WORDS_PER_CHUNK).zip(&self.chunks);
        let used = used.filter_map(|(first, place)| Some((first, chunks.get(place.checked_sub(1)?)?)));
        used.flat_map(|(first, chunk)| (first..).zip(chunk.iter().copied()))
    }

    /// Takes note that a port is in use; `None` if there is no memory for that.
    fn mark(&mut self, port: u16, chunks: &mut Arena<Chunk>) -> Option<()> {
        let word = usize::from(port) / 64;
        let place = word / WORDS_PER_CHUNK;
        if self.chunks[place] == 0 {
            self.chunks[place] = chunks.take()? + 1;
        }
        let chunk = chunks.get_mut(self.chunks[place] - 1)?;
        chunk[word % WORDS_PER_CHUNK] |= 1 << (port % 64);
        self.counts[place] += 1;
        self.taken += 1;
        Some(())
    }

    /// Takes this very port; false when it is in use.
    pub(super) fn claim(&mut self, port: u16, chunks: &mut Arena<Chunk>) -> bool {
        if self.used(usize::from(port) / 64, chunks) >> (port % 64) & 1 != 0 {
            return false;
        }
        self.mark(port, chunks).is_some()
    }

    /// Gives a port back; false when it was not taken.
    pub(super) fn put_back(&mut self, port: u16, chunks: &mut Arena<Chunk>) -> bool {
        let (word, bit) = (usize::from(port) / 64, 1 << (port % 64));
        let place = word / WORDS_PER_CHUNK;
        let Some(at) = self.chunks[place].checked_sub(1) else { return false };
        let Some(chunk) = chunks.get_mut(at) else { return false };
        let used = &mut chunk[word % WORDS_PER_CHUNK];
        if *used & bit == 0 {
            return false;
        }
        *used &= !bit;
        self.full[word / 64] &= !(1 << (word % 64));
        self.counts[place] -= 1;
        self.taken -= 1;
        if self.counts[place] == 0 {
            chunks.give_back(at);
            self.chunks[place] = 0;
        }
        true
    }
}
