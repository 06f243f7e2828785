//! What workers and the program have in common: memory that both reach without
//! a system call.
//!
//! - The *tables* of flows ([`table`](super::table)), in which workers enter what the
//!   program does, and take it out of force at any time by one store. The program
//!   counts there, and says so when a packet came by that may end a connection.
//! - The *generation*, which control changes to take all flows out of force.
//! - When each worker was *alive*: nobody's flows are carried when it is not.
//! - The *next hops*, which control keeps in step with what workers go by.
//!
//! All words are atomics. Relaxed ordering will do, but in the tables (see
//! [`slot`](super::slot)): a flow that is looked up a moment late is carried a moment
//! longer, as if the packet had come sooner.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::MmapRaw;

use super::layout::{
    ALIVE, Flow, GENERATION, HOMES_V4, HOMES_V6, Hop, Key, MOST_HOPS, MOST_WORKERS, Owner, SEED, STALE,
    STATE_WORDS,
};
use super::slot::{self, WORDS_V4, WORDS_V6};
use super::table::{self, Found, Last, NOWHERE, Place, Seed, Table};
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
    pub(super) fn all(&self) -> &[AtomicU64] {
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
    /// Packets and bytes from a side.
    pub fn of(&self, side: Side) -> (u64, u64) {
        (self.packets[side as usize], self.bytes[side as usize])
    }
}

/// For how many connections there is to be room, of each address family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// Those of IPv4
    pub v4: u32,
    /// Those of IPv6, and tunnels of IPv4 in IPv6
    pub v6: u32,
}

impl Room {
    /// For all connections, of either family.
    pub fn all(&self) -> u32 {
        self.v4.saturating_add(self.v6)
    }

    /// Flows of both directions.
    pub(super) fn flows(&self) -> [u32; 2] {
        [self.v4, self.v6].map(|connections| connections.saturating_mul(2))
    }
}

/// A flow with what it is found by.
pub type Entered = (Key, Flow);

/// The slots of a connection that is carried. Whoever [entered](Board::enter) it has
/// them until it [gives them up](Board::release).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    token: u32,
    is_v4: bool,
    client: Place,
    /// Of the flow of what answers
    server: Option<Place>,
    /// In the table for IPv6, with outer addresses of that
    outer: Option<Place>,
}

/// Memory in common; see the module.
pub struct Board {
    v4: Table,
    v6: Table,
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
    pub fn in_memory(room: Room, seed: [u8; 16]) -> Self {
        let [v4, v6] = room.flows().map(|flows| table::slots(flows) as usize);
        let tables = [Words::own(v4 * WORDS_V4), Words::own(v6 * WORDS_V6)];
        Board::on(tables, Words::own(STATE_WORDS), Words::own(MOST_HOPS * Hop::WORDS), room, seed)
    }

    pub(super) fn on([v4, v6]: [Words; 2], state: Words, hops: Words, room: Room, seed: [u8; 16]) -> Self {
        let seed = Seed::from_bytes(seed);
        let [homes_v4, homes_v6] = room.flows().map(table::homes);
        let board = Board {
            v4: Table::new(v4, true, homes_v4, seed),
            v6: Table::new(v6, false, homes_v6, seed),
            state,
            hops,
            hops_generation: AtomicU64::new(CHANGING),
            resting: AtomicBool::new(false),
            way: Mutex::new(Way { hops: Arc::default(), capable: [false; MAX_INTERFACES], begun: false }),
        };
        board.state.store(HOMES_V4, homes_v4.into());
        board.state.store(HOMES_V6, homes_v6.into());
        for (number, word) in seed.0.into_iter().enumerate() {
            board.state.store(SEED + number, word);
        }
        // Slots of zeroes are of no generation.
        board.state.store(GENERATION, 1);
        board
    }

    /// The generation under which flows are in force.
    pub fn generation(&self) -> u32 {
        self.state.load(GENERATION) as u32
    }

    /// Takes all flows out of force. For control.
    pub fn invalidate(&self) {
        let word = &self.state.all()[GENERATION];
        // What has none is never in force.
        if (word.fetch_add(1, Ordering::SeqCst) + 1) as u32 == 0 {
            word.fetch_add(1, Ordering::SeqCst);
        }
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
        self.state.store(STALE, nanoseconds);
    }

    /// Says that a worker is alive at a time, nanoseconds of `CLOCK_MONOTONIC`; 0
    /// takes its flows out of force.
    pub fn set_alive(&self, worker: usize, now: u64) {
        if worker < MOST_WORKERS {
            self.state.store(ALIVE + worker, now);
        }
    }

    /// When a worker was alive.
    pub fn alive(&self, worker: usize) -> u64 {
        if worker < MOST_WORKERS { self.state.load(ALIVE + worker) } else { 0 }
    }

    /// The generation of the next hops that flows go by; none while it changes, or
    /// while no flows are to be entered.
    pub fn hops_generation(&self) -> Option<u64> {
        if self.resting.load(Ordering::SeqCst) {
            return None;
        }
        Some(self.hops_generation.load(Ordering::Acquire)).filter(|generation| *generation != CHANGING)
    }

    /// Enters the flows of a connection, that of its client and that of what answers
    /// where that comes by, in a generation. The token is not 0, and none that a worker
    /// used a moment ago; its highest byte is the worker. `None` where there is no place
    /// for them, or others with the same keys.
    pub fn enter(
        &self,
        (generation, token): (u32, u32),
        owner: Owner,
        client: &Entered,
        server: Option<&Entered>,
    ) -> Option<Held> {
        let is_v4 = client.0.is_v4();
        let table = self.table(is_v4);
        if std::iter::once(client).chain(server).any(|(key, _)| table.has(key, generation)) {
            return None;
        }
        let mut held =
            Held { token, is_v4, client: table.claim(&client.0, token)?, server: None, outer: None };
        let lacking = match server {
            Some((key, _)) => {
                held.server = table.claim(key, token);
                held.server.is_none()
            }
            None if is_v4 && client.1.is_long() => {
                held.outer = self.v6.claim(&client.0, token);
                held.outer.is_none()
            }
            None => false,
        };
        if lacking {
            self.release(&held);
            return None;
        }
        self.fill(&held, owner, client, server);
        let term = slot::term(generation, token);
        if let Some(outer) = held.outer {
            self.v6.publish_apart(outer, term);
        }
        for place in held.places() {
            table.publish(place, term);
        }
        Some(held)
    }

    fn fill(&self, held: &Held, owner: Owner, client: &Entered, server: Option<&Entered>) {
        let table = self.table(held.is_v4);
        let put = |place: Place, side: Side, (key, flow): &Entered, peer: u32| match held.is_v4 {
            true => table.fill(place, &flow.slot_v4(key, peer, (owner, side))),
            false => table.fill(place, &flow.slot_v6(key, peer, (owner, side))),
        };
        let peer = |place: Option<Place>| place.map_or(NOWHERE, |place| place.slot);
        put(held.client, Side::Client, client, peer(held.server.or(held.outer)));
        if let Some((place, server)) = held.server.zip(server) {
            put(place, Side::Server, server, held.client.slot);
        }
        if let Some(place) = held.outer {
            self.v6.fill(place, &client.1.slot_v6(&client.0, NOWHERE, (owner, Side::Client)));
        }
    }

    /// Takes the flows of a connection out of force. They are to be
    /// [given up](Board::release) when the program is done with its last packet.
    pub fn withdraw(&self, held: &Held) {
        for place in held.places() {
            self.table(held.is_v4).withdraw(place, held.token);
        }
        if let Some(outer) = held.outer {
            self.v6.withdraw(outer, held.token);
        }
    }

    /// Gives up the slots of a connection that was taken out of force.
    pub fn release(&self, held: &Held) {
        for place in held.places() {
            self.table(held.is_v4).release(place);
        }
        if let Some(outer) = held.outer {
            self.v6.release(outer);
        }
    }

    fn table(&self, is_v4: bool) -> &Table {
        if is_v4 { &self.v4 } else { &self.v6 }
    }

    /// Slots of both tables, of which each has a number below that.
    pub(crate) fn slots(&self) -> usize {
        self.v4.slots() + self.v6.slots()
    }

    /// Numbers of the slots that a connection has and that packets come by.
    pub(crate) fn slots_of(&self, held: &Held) -> impl Iterator<Item = usize> {
        let first = if held.is_v4 { 0 } else { self.v4.slots() };
        held.places().map(move |place| first + place.slot as usize)
    }

    fn by_number(&self, number: usize) -> (&Table, u32) {
        match number.checked_sub(self.v4.slots()) {
            None => (&self.v4, number as u32),
            Some(number) => (&self.v6, number as u32),
        }
    }

    /// Looks at the slot with a number, and takes what was carried. For who has it,
    /// once a round.
    #[inline]
    pub(crate) fn look(&self, number: usize) -> Found {
        let (table, slot) = self.by_number(number);
        table.look(slot)
    }

    /// Asks the cache for the slot with a number.
    #[inline]
    pub(crate) fn prefetch(&self, number: usize) {
        let (table, slot) = self.by_number(number);
        table.prefetch(slot);
    }

    /// Takes what was carried at the slots of a connection since somebody looked. Its
    /// timer has to be moved for what was carried so far, since the slots do not tell of
    /// it from now on. For who has them.
    pub fn settle(&self, held: &Held) -> Carried {
        let settle =
            |place: Option<Place>| place.map_or((0, 0), |place| self.table(held.is_v4).settle(place.slot));
        let (client, server) = (settle(Some(held.client)), settle(held.server));
        Carried { packets: [client.0, server.0], bytes: [client.1, server.1] }
    }

    /// Whose slots they are. For who has them.
    pub(crate) fn owner(&self, held: &Held) -> Owner {
        self.table(held.is_v4).owner(held.client.slot)
    }

    /// When packets of a connection were carried last, and the number of the slot
    /// by whose looks that is told.
    pub(crate) fn last(&self, held: &Held) -> (Last, usize) {
        let table = self.table(held.is_v4);
        let last =
            held.places().zip(self.slots_of(held)).map(|(place, number)| (table.last(place.slot), number));
        last.min().unwrap_or((Last::Settled, 0))
    }

    /// Looks in a row at which nothing of a connection had been carried.
    pub(crate) fn rounds(&self, held: &Held) -> u8 {
        held.places().map(|place| self.table(held.is_v4).rounds(place.slot)).min().unwrap_or(0)
    }

    /// Whether a packet came by that may end the connection.
    pub fn is_closed(&self, held: &Held) -> bool {
        held.places().any(|place| self.table(held.is_v4).is_closed(place.slot))
    }

    /// Does what the program does with a packet: counts it and returns `true`, or
    /// leaves it to the worker. `plain` says whether it leaves its connection as it
    /// is. For tests.
    pub fn meet(&self, key: &Key, plain: bool, bytes: u64) -> bool {
        let table = self.table(key.is_v4());
        let Some((slot, term)) = table.find(key, self.generation()) else { return false };
        if !plain {
            table.close(slot, term);
        }
        let carries = plain && !table.is_closed(slot);
        if carries {
            table.count(slot, 1, bytes);
        }
        carries
    }

    /// Whether there is a flow with a key in force. For tests.
    pub fn has(&self, key: &Key) -> bool {
        self.table(key.is_v4()).has(key, self.generation())
    }

    /// Slots that somebody has, and those of them whose flows are not taken out. Goes
    /// through all, for tests and to be shown.
    pub fn taken(&self) -> (usize, usize) {
        let ((v4, standing_v4), (v6, standing_v6)) = (self.v4.taken(), self.v6.taken());
        (v4 + v6, standing_v4 + standing_v6)
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

impl Held {
    /// Slots with a key
    fn places(&self) -> impl Iterator<Item = Place> {
        [Some(self.client), self.server].into_iter().flatten()
    }
}

impl Way {
    fn can(&self, interface: u8) -> bool {
        self.capable.get(usize::from(interface)).copied().unwrap_or(false)
    }
}
