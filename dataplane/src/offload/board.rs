//! What workers and the program have in common: memory that both reach without
//! a system call.
//!
//! - A *place* for each connection that has flows in the map. Its worker writes
//!   the token that makes them valid and so can take them out of force at any
//!   time by one store; the program counts there, and says so when a packet came
//!   by that may end the connection.
//! - The *generation*, which control changes to take all flows out of force.
//! - When each worker was *alive*: nobody's flows are carried when it is not.
//! - The *next hops*, which control keeps in step with what workers go by.
//!
//! All words are atomics. Relaxed ordering will do, but for the token, which is
//! published after what the place held before was read: a flow that is looked up
//! a moment late is carried a moment longer, as if the packet had come sooner.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::MmapRaw;

use super::layout::{Hop, MOST_HOPS, MOST_WORKERS, PLACE_WORDS, STATE_WORDS};
use crate::conn::Side;
use crate::neigh::NextHops;
use crate::stats::MAX_INTERFACES;

/// An array of words that the program reaches too, or would.
pub(super) enum Words {
    /// On the heap, for tests
    Own(Box<[AtomicU64]>),
    /// A map of the kernel's
    Shared(MmapRaw),
}

impl Words {
    /// So many words of zero.
    pub(super) fn own(count: usize) -> Self {
        Words::Own((0..count).map(|_| AtomicU64::new(0)).collect())
    }

    #[allow(unsafe_code)]
    fn all(&self) -> &[AtomicU64] {
        match self {
            Words::Own(words) => words,
            // SAFETY: the mapping is readable, writable, page-aligned and as long as
            // it says for as long as `self` is there. Others change it by atomic
            // instructions and aligned stores only, as the program does.
            Words::Shared(map) => unsafe {
                std::slice::from_raw_parts(map.as_ptr().cast::<AtomicU64>(), map.len() / 8)
            },
        }
    }

    fn load(&self, at: usize) -> u64 {
        self.all().get(at).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    fn store(&self, at: usize, value: u64) {
        if let Some(word) = self.all().get(at) {
            word.store(value, Ordering::Release);
        }
    }
}

/// Packets and bytes that were carried, of the client and of the server.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Carried {
    /// Packets by side
    pub packets: [u64; 2],
    /// Bytes of IP packets by side
    pub bytes: [u64; 2],
}

impl Carried {
    /// What was carried since an earlier reading.
    pub fn since(self, earlier: Carried) -> Carried {
        let less = |now: [u64; 2], then: [u64; 2]| [0, 1].map(|side| now[side].wrapping_sub(then[side]));
        Carried { packets: less(self.packets, earlier.packets), bytes: less(self.bytes, earlier.bytes) }
    }

    /// Whether it is nothing.
    pub fn is_none(&self) -> bool {
        self.packets == [0; 2]
    }

    /// Packets and bytes from a side.
    pub fn of(&self, side: Side) -> (u64, u64) {
        (self.packets[side as usize], self.bytes[side as usize])
    }
}

/// Memory in common; see the module.
pub struct Board {
    places: Words,
    state: Words,
    hops: Words,
    /// The generation of the next hops that `hops` has; none while they change
    hops_generation: AtomicU64,
    /// Whether no flows are to be entered
    resting: AtomicBool,
    way: Mutex<Way>,
}

/// What the next hops on the board were made of. Only control locks it.
struct Way {
    hops: Arc<NextHops>,
    /// Whether packets may be redirected to an interface
    capable: [bool; MAX_INTERFACES],
    begun: bool,
}

/// In place of the generation of next hops.
const CHANGING: u64 = u64::MAX;

impl std::fmt::Debug for Board {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Board").field("generation", &self.generation()).finish_non_exhaustive()
    }
}

impl Board {
    /// A board on the heap, for tests.
    pub fn in_memory(places: usize) -> Self {
        let words = Words::own(places * PLACE_WORDS);
        Board::on(words, Words::own(STATE_WORDS), Words::own(MOST_HOPS * Hop::WORDS))
    }

    pub(super) fn on(places: Words, state: Words, hops: Words) -> Self {
        let board = Board {
            places,
            state,
            hops,
            hops_generation: AtomicU64::new(CHANGING),
            resting: AtomicBool::new(false),
            way: Mutex::new(Way { hops: Arc::default(), capable: [false; MAX_INTERFACES], begun: false }),
        };
        // Flows of zeroes are of no generation.
        board.state.store(0, 1);
        board
    }

    /// Places that it has.
    pub fn places(&self) -> usize {
        self.places.all().len() / PLACE_WORDS
    }

    /// The generation under which flows are in force.
    pub fn generation(&self) -> u32 {
        self.state.load(0) as u32
    }

    /// Takes all flows out of force. For control.
    pub fn invalidate(&self) {
        let word = &self.state.all()[0];
        word.fetch_add(1, Ordering::SeqCst);
    }

    /// Takes all flows out of force and lets none be entered, or lets them be
    /// again. For control.
    pub fn set_resting(&self, resting: bool) {
        self.resting.store(resting, Ordering::SeqCst);
        if resting {
            self.invalidate();
        }
    }

    /// Sets after how many nanoseconds without a sign of life a worker's flows are
    /// not carried any more.
    pub fn set_stale(&self, nanoseconds: u64) {
        self.state.store(1, nanoseconds);
    }

    /// Says that a worker is alive at a time, nanoseconds of `CLOCK_MONOTONIC`; 0
    /// takes its flows out of force.
    pub fn set_alive(&self, worker: usize, now: u64) {
        if worker < MOST_WORKERS {
            self.state.store(2 + worker, now);
        }
    }

    /// When a worker was alive.
    pub fn alive(&self, worker: usize) -> u64 {
        if worker < MOST_WORKERS { self.state.load(2 + worker) } else { 0 }
    }

    /// The generation of the next hops that flows go by; none while it changes, or
    /// while no flows are to be entered.
    pub fn hops_generation(&self) -> Option<u64> {
        if self.resting.load(Ordering::SeqCst) {
            return None;
        }
        Some(self.hops_generation.load(Ordering::Acquire)).filter(|generation| *generation != CHANGING)
    }

    /// What was carried of the connection at a place, since ever.
    pub fn carried(&self, place: u32) -> Carried {
        let at = |word: usize| self.places.load(place as usize * PLACE_WORDS + word);
        Carried { packets: [at(2), at(4)], bytes: [at(3), at(5)] }
    }

    /// Makes flows with this token valid at a place, and all others not.
    pub fn set_token(&self, place: u32, token: u32) {
        self.places.store(place as usize * PLACE_WORDS, token.into());
    }

    /// The token of a place.
    pub fn token(&self, place: u32) -> u32 {
        self.places.load(place as usize * PLACE_WORDS) as u32
    }

    /// Whether a packet came by that may end the connection with this token.
    pub fn is_closed(&self, place: u32, token: u32) -> bool {
        self.places.load(place as usize * PLACE_WORDS + 1) as u32 == token
    }

    /// Does what the program does with a packet that it carries, or with one that
    /// may end its connection. For tests.
    pub fn count(&self, place: u32, side: Side, packets: u64, bytes: u64) {
        let at = place as usize * PLACE_WORDS + 2 + 2 * side as usize;
        for (word, more) in [(at, packets), (at + 1, bytes)] {
            self.places.all()[word].fetch_add(more, Ordering::Relaxed);
        }
    }

    /// As the program does with a packet that may end a connection. For tests.
    pub fn close(&self, place: u32, token: u32) {
        self.places.store(place as usize * PLACE_WORDS + 1, token.into());
    }

    /// Asks the cache for a place.
    pub(crate) fn prefetch(&self, place: u32) {
        if let Some(word) = self.places.all().get(place as usize * PLACE_WORDS) {
            crate::prefetch::prefetch(word);
        }
    }

    /// Goes by other next hops from now on. For control, to be called before
    /// workers are given them.
    pub fn set_hops(&self, hops: &Arc<NextHops>) {
        let mut way = self.way.lock().unwrap_or_else(PoisonError::into_inner);
        let way = &mut *way;
        if way.begun && hops.generation() == way.hops.generation() {
            // Slots mean what they did; a neighbour may have another MAC.
            for (id, hop) in hops.hops() {
                if way.hops.hop(id) != Some(hop) {
                    self.put(id.0 as usize, Hop::of(hop, way.can(hop.interface)));
                }
            }
        } else {
            self.hops_generation.store(CHANGING, Ordering::SeqCst);
            self.invalidate();
            let former = way.hops.hops().len();
            for (id, hop) in hops.hops() {
                self.put(id.0 as usize, Hop::of(hop, way.can(hop.interface)));
            }
            (hops.hops().len()..former).for_each(|gone| self.put(gone, Hop::default()));
            self.hops_generation.store(hops.generation(), Ordering::SeqCst);
        }
        (way.hops, way.begun) = (Arc::clone(hops), true);
    }

    /// Says whether packets may be redirected to an interface; returns whether
    /// that is another answer than before. For control.
    pub fn set_capable(&self, interface: usize, capable: bool) -> bool {
        let mut way = self.way.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(before) = way.capable.get_mut(interface) else { return false };
        if std::mem::replace(before, capable) == capable {
            return false;
        }
        for (id, hop) in way.hops.hops() {
            if usize::from(hop.interface) == interface {
                self.put(id.0 as usize, Hop::of(hop, capable));
            }
        }
        true
    }

    /// Whether packets may be redirected to an interface. For control.
    pub fn is_capable(&self, interface: usize) -> bool {
        let way = self.way.lock().unwrap_or_else(PoisonError::into_inner);
        way.capable.get(interface).copied().unwrap_or(false)
    }

    /// Whether packets can be sent to a next hop at present.
    pub fn is_usable(&self, hop: u32) -> bool {
        let words = std::array::from_fn(|word| self.hops.load(hop as usize * Hop::WORDS + word));
        Hop::from_words(words).is_usable()
    }

    /// Puts a hop into its slot. Its last word says whether it is usable: it is
    /// not while it changes, so that the program sees no mixture but for the
    /// packet that it is at.
    fn put(&self, slot: usize, hop: Hop) {
        let at = slot * Hop::WORDS;
        if slot >= MOST_HOPS {
            return;
        }
        let [first, second, third] = hop.words();
        self.hops.store(at + 2, 0);
        self.hops.store(at, first);
        self.hops.store(at + 1, second);
        self.hops.store(at + 2, third);
    }
}

impl Way {
    fn can(&self, interface: u8) -> bool {
        self.capable.get(usize::from(interface)).copied().unwrap_or(false)
    }
}
