//! The connection table of one worker.

use super::index::{Guess, Index};
use super::late::Late;
use super::line::{Key, Wide};
use super::timer::{Deadlines, Wheel};
use super::{Entry, Line, Seed, Side, Tuple};
use crate::memory;
use crate::prefetch::prefetch;

/// The connection that is so many ahead in the list of free ones is asked for.
const AHEAD: usize = 8;

/// Number of a connection in its table.
pub type EntryId = u32;

/// Connections by either of their tuples, with a capacity that is taken once,
/// and the timing wheel by which they expire.
///
/// Connections lie in one array and are numbered; the index maps a tuple's hash
/// to a connection's number and side. Nothing grows: the memory is taken at the
/// start, 98 bytes a connection, and in huge pages where the kernel has any;
/// only that for addresses of IPv6, of 64 bytes, comes as it is used. A packet
/// of IPv4 touches one cache line of the index and one of its connection, one of
/// IPv6 another with the addresses.
///
/// The index was hashbrown's `HashTable` at first, and a connection took two
/// cache lines, with its deadline on a third. Nanoseconds a packet of `cargo
/// bench --bench pipeline`, FULLNAT and DR, on two cores of an EPYC of the
/// fourth generation in a virtual machine: the first two columns in one run,
/// the last two in a later one, with the short way of established connections
/// and on a machine that other work kept busy:
///
/// | connections | hashbrown   | own index, prefetch | two lines each | one, in huge pages |
/// |-------------|-------------|---------------------|----------------|--------------------|
/// | 1 000       |  57 and  55 |  60 and  56         |  51 and  45    |  44 and 37         |
/// | 100 000     | 130 and 136 | 108 and  90         | 123 and  89    |  71 and 50         |
/// | 1 000 000   | 297 and 280 | 187 and 157         | 162 and 117    |  91 and 59         |
/// | 10 000 000  |             |                     | 220 and 156    | 105 and 61         |
///
/// The own index also never rehashes, which hashbrown may do when removals
/// have left marks behind.
pub struct Table {
    wheel: Wheel<Vec<Line>>,
    /// Addresses of both sides, where some are of IPv6
    wide: Vec<[Wide; 2]>,
    free: Vec<EntryId>,
    capacity: usize,
    index: Index,
    /// References that are not in the index yet
    late: Late,
    seed: Seed,
}

impl Deadlines for Vec<Line> {
    #[inline]
    fn deadline(&self, id: u32) -> u32 {
        self.get(id as usize).map_or(0, |line| line.deadline)
    }

    #[inline]
    fn set_deadline(&mut self, id: u32, deadline: u32) {
        if let Some(line) = self.get_mut(id as usize) {
            line.deadline = deadline;
        }
    }

    #[inline]
    fn prefetch_deadline(&self, id: u32) {
        if let Some(line) = self.get(id as usize) {
            prefetch(line);
        }
    }
}

/// A connection's number and, in the lowest bit, a side of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Reference(u32);

impl Reference {
    /// None, as numbers have 31 bits and the highest ones are not used.
    pub(super) const NONE: Reference = Reference(u32::MAX);
    /// None, but there may be one behind the bucket that was looked at.
    const BEYOND: Reference = Reference(u32::MAX - 1);

    #[inline]
    pub(super) fn new(id: EntryId, side: Side) -> Self {
        Reference(id << 1 | side as u32)
    }

    #[inline]
    fn entry(self) -> EntryId {
        self.0 >> 1
    }

    #[inline]
    fn side(self) -> Side {
        if self.0 & 1 == 0 { Side::Client } else { Side::Server }
    }
}

/// A look-up that is under way. The key is worked out anew where it is needed: kept
/// here, it cost a third more at a million connections.
#[derive(Clone, Copy)]
pub struct Lookup {
    hash: u64,
    /// The connection that is most likely meant
    likely: Reference,
}

impl Lookup {
    /// One of nothing.
    pub const NONE: Lookup = Lookup { hash: 0, likely: Reference::NONE };

    /// [`Table::hash`] of what is looked up.
    #[inline]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    #[inline]
    fn take(&mut self, guess: Guess) {
        self.likely = match guess {
            Guess::Here(reference) => Reference(reference),
            Guess::Beyond => Reference::BEYOND,
            Guess::Nowhere => Reference::NONE,
        };
    }
}

/// The table holds as many connections as it can.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

impl Table {
    /// Bytes that a connection takes, those for addresses of IPv6 apart.
    pub const BYTES: usize =
        size_of::<Line>() + size_of::<EntryId>() + Wheel::<Vec<Line>>::BYTES + 2 * Index::BYTES;

    /// A table for `capacity` connections (less than 2³¹ - 1) from tick `now` on.
    pub fn new(capacity: usize, seed: Seed, now: u32) -> Self {
        assert!(capacity < (1 << 31) - 1, "a reference has 31 bits for the number");
        let (lines, free) = (Vec::with_capacity(capacity), Vec::with_capacity(capacity));
        memory::provide(&lines);
        memory::provide(&free);
        let wheel = Wheel::of(lines, capacity, now);
        wheel.provide();
        Table {
            wheel,
            wide: vec![[[[0; 2]; 2]; 2]; capacity],
            free,
            capacity,
            index: Index::new(2 * capacity),
            late: Late::new(),
            seed,
        }
    }

    /// Connections in the table.
    pub fn len(&self) -> usize {
        self.lines().len() - self.free.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One more than the highest number in use so far.
    pub fn high_water(&self) -> EntryId {
        self.lines().len() as EntryId
    }

    #[inline]
    fn lines(&self) -> &Vec<Line> {
        self.wheel.entries()
    }

    /// The hash that [`Table::find`] takes.
    #[inline]
    pub fn hash(&self, tuple: &Tuple) -> u64 {
        tuple.hash(self.seed)
    }

    /// The connection that a packet belongs to, and who sent the packet.
    #[inline]
    pub fn find(&self, tuple: &Tuple, hash: u64) -> Option<(EntryId, Side)> {
        self.find_by(Key::of(tuple), tuple, hash)
    }

    #[inline(never)]
    fn find_by(&self, key: Key, tuple: &Tuple, hash: u64) -> Option<(EntryId, Side)> {
        let is_it = |reference| self.is(Reference(reference), key, tuple);
        let found = self.index.find(hash, is_it).map(Reference);
        let found = found.or_else(|| self.late.find(hash, |reference| is_it(reference.0)))?;
        Some((found.entry(), found.side()))
    }

    /// The first of three steps to look up a batch with the cache misses of
    /// all packets under way at once: then comes [`Table::likely`] for each (and
    /// [`Table::go_on`]), and [`Table::find_likely`].
    #[inline]
    pub fn begin(&self, tuple: &Tuple) -> Lookup {
        let key = Key::of(tuple);
        let hash = if key.is_wide() { self.hash(tuple) } else { key.narrow_hash(self.seed) };
        self.index.prefetch(hash);
        Lookup { hash, likely: Reference::NONE }
    }

    /// The second step: finds the connection that is most likely meant, which the
    /// cache is asked for.
    #[inline]
    pub fn likely(&self, tuple: &Tuple, lookup: &mut Lookup) {
        let wide = !tuple.is_v4();
        let ask = |reference| self.prefetch_line(wide, Reference(reference));
        lookup.take(self.index.likely(lookup.hash, ask));
    }

    /// Goes on with the second step, where it did not come to an end.
    #[inline]
    pub fn go_on(&self, tuple: &Tuple, lookup: &mut Lookup) {
        if lookup.likely == Reference::BEYOND {
            let wide = !tuple.is_v4();
            let ask = |reference| self.prefetch_line(wide, Reference(reference));
            lookup.take(self.index.likely_beyond(lookup.hash, ask));
        }
    }

    #[inline]
    fn prefetch_line(&self, wide: bool, reference: Reference) {
        if let Some(line) = self.lines().get(reference.entry() as usize) {
            prefetch(line);
        }
        if wide && let Some(wide) = self.wide.get(reference.entry() as usize) {
            prefetch(wide);
        }
    }

    /// The third step: as [`Table::find`], which it is quicker than if the likely
    /// one is it.
    #[inline]
    pub fn find_likely(&self, tuple: &Tuple, lookup: &Lookup) -> Option<(EntryId, Side)> {
        let key = Key::of(tuple);
        if self.is(lookup.likely, key, tuple) {
            return Some((lookup.likely.entry(), lookup.likely.side()));
        }
        self.find_by(key, tuple, lookup.hash)
    }

    /// Whether a reference is to a tuple, of which this is the key.
    #[inline]
    fn is(&self, reference: Reference, key: Key, tuple: &Tuple) -> bool {
        let Some(line) = self.lines().get(reference.entry() as usize) else { return false };
        let addresses = || wide_addresses(tuple) == self.wide_of(reference.entry(), reference.side());
        line.is(reference.side(), key) && (!key.is_wide() || addresses())
    }

    #[inline]
    fn wide_of(&self, id: EntryId, side: Side) -> Wide {
        self.wide.get(id as usize).map_or_else(Wide::default, |wide| wide[side as usize])
    }

    /// The connection with a number.
    #[inline]
    pub fn get(&self, id: EntryId) -> Option<Entry> {
        Some(self.line(id)?.entry(|side| self.wide_of(id, side)))
    }

    /// What is kept of the connection with a number.
    #[inline]
    pub fn line(&self, id: EntryId) -> Option<&Line> {
        self.lines().get(id as usize).filter(|line| line.is_some())
    }

    /// Asks the cache for what is kept of a connection.
    #[inline]
    pub fn prefetch_entry(&self, id: EntryId) {
        if let Some(line) = self.lines().get(id as usize) {
            prefetch(line);
        }
    }

    /// What is kept of the connection with a number, to be changed.
    #[inline]
    pub fn get_mut(&mut self, id: EntryId) -> Option<&mut Line> {
        self.wheel.entries_mut().get_mut(id as usize).filter(|line| line.is_some())
    }

    /// Enters a connection under its client's tuple, and under its server's
    /// where replies come back. It does not expire until it is scheduled. The
    /// client's may not be in the table yet. The server's may, since two services
    /// can reach one server from one client port by NAT: either of them is found
    /// then, until one is removed.
    pub fn insert(&mut self, entry: Entry) -> Result<EntryId, Full> {
        let id = self.place(Line::of(&entry))?;
        if !(entry.client.is_v4() && entry.server.is_v4()) {
            self.wide[id as usize] = [&entry.client, &entry.server].map(wide_addresses);
        }
        self.index(self.hash(&entry.client), Reference::new(id, Side::Client));
        if entry.method.has_replies() {
            self.index_late(self.hash(&entry.server), Reference::new(id, Side::Server));
        }
        Ok(id)
    }

    /// The same for a connection of which no address is of IPv6, by its line and
    /// the hash of its client's tuple.
    #[inline]
    pub fn insert_line(&mut self, line: Line, client_hash: u64) -> Result<EntryId, Full> {
        let replies = line.method.has_replies().then(|| line.hash_of_replies(self.seed));
        let id = self.place(line)?;
        self.index(client_hash, Reference::new(id, Side::Client));
        if let Some(hash) = replies {
            self.index_late(hash, Reference::new(id, Side::Server));
        }
        Ok(id)
    }

    /// Gives a line a number.
    #[inline]
    fn place(&mut self, line: Line) -> Result<EntryId, Full> {
        let capacity = self.capacity;
        let free = self.free.pop();
        if let Some(later) = self.free.len().checked_sub(AHEAD) {
            self.wheel.prefetch(self.free[later]);
        }
        let lines = self.wheel.entries_mut();
        match free {
            Some(id) => {
                lines[id as usize] = line;
                Ok(id)
            }
            None if lines.len() < capacity => {
                lines.push(line);
                Ok((lines.len() - 1) as EntryId)
            }
            None => Err(Full),
        }
    }

    #[inline]
    fn index(&mut self, hash: u64, reference: Reference) {
        let entered = self.index.insert(hash, reference.0);
        debug_assert!(entered, "the index has room for two references of each entry");
    }

    /// Enters a reference once its bucket has come into the cache.
    #[inline]
    fn index_late(&mut self, hash: u64, reference: Reference) {
        self.index.prefetch(hash);
        if let Some((hash, reference)) = self.late.push(hash, reference) {
            self.index(hash, reference);
        }
    }

    fn unindex_side(&mut self, id: EntryId, entry: &Entry, side: Side) {
        let hash = self.hash(side_of(entry, side));
        self.index.remove(hash, Reference::new(id, side).0);
    }

    /// Takes a connection out, with its deadline.
    pub fn remove(&mut self, id: EntryId) -> Option<Entry> {
        let entry = self.get(id)?;
        while let Some((hash, reference)) = self.late.pop() {
            self.index(hash, reference);
        }
        self.wheel.cancel(id);
        self.unindex_side(id, &entry, Side::Client);
        if entry.method.has_replies() {
            self.unindex_side(id, &entry, Side::Server);
        }
        self.wheel.entries_mut()[id as usize] = Line::NONE;
        self.free.push(id);
        Some(entry)
    }

    /// Lets a connection expire at a tick ([`Wheel::schedule`]).
    #[inline]
    pub fn schedule(&mut self, id: EntryId, deadline: u32) {
        self.wheel.schedule(id, deadline);
    }

    /// Moves the deadline of a connection that has one ([`Wheel::touch`]).
    #[inline]
    pub fn touch(&mut self, id: EntryId, deadline: u32) {
        self.wheel.touch(id, deadline);
    }

    /// The tick at which a connection expires; `None` if it has no deadline.
    #[inline]
    pub fn deadline(&self, id: EntryId) -> Option<u32> {
        self.wheel.deadline(id)
    }

    /// The next connection whose deadline has come, with its deadline taken off
    /// ([`Wheel::pop`]).
    pub fn pop_expired(&mut self, now: u32, budget: &mut usize) -> Option<EntryId> {
        self.wheel.pop(now, budget)
    }
}

#[inline]
fn side_of(entry: &Entry, side: Side) -> &Tuple {
    match side {
        Side::Client => &entry.client,
        Side::Server => &entry.server,
    }
}

#[inline]
fn wide_addresses(tuple: &Tuple) -> Wide {
    [tuple.source, tuple.destination].map(|address| {
        let (high, low) = address.words();
        [high, low]
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::service::{Method, Protocol, ServerId};
    use crate::wire::Address;
    use crate::wire::checksum::Delta;

    const CAPACITY: usize = 12;

    fn seed() -> Seed {
        Seed::new([5; 16])
    }

    /// Of clients 0 to 7 by IPv4, and of 8 to 15 by IPv6, whose addresses end in
    /// the same bytes as those of the former and as each other's.
    fn entry(number: u8, vip: u8, method: Method) -> Entry {
        let address = |v4: [u8; 4]| match number / 4 {
            0 | 1 => Address::from_v4(v4),
            network => {
                let mut v6 = [0x20, 1, 0xd, 0xb8, network, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                v6[12..].copy_from_slice(&v4);
                Address::from_v6(v6)
            }
        };
        let client = Tuple {
            source: address([198, 51, 100, number % 4]),
            destination: address([192, 0, 2, vip]),
            source_port: 1000 + u16::from(number / 4 == 1),
            destination_port: 80,
            protocol: Protocol::Tcp,
        };
        // One server, so that two VIPs have the same replies under NAT, while
        // FULLNAT tells all connections apart by the local port.
        let server = Tuple {
            source: Address::from_v4([10, 0, 2, 1]),
            destination: if method == Method::FullNat {
                Address::from_v4([10, 0, 2, 200])
            } else {
                client.source
            },
            destination_port: if method == Method::FullNat {
                u16::from(number) << 8 | u16::from(vip)
            } else {
                client.source_port
            },
            source_port: 80,
            protocol: Protocol::Tcp,
        };
        Entry::new(client, server, [Delta::NONE; 2], ServerId(0), method)
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Insert(Entry),
        Remove(u8),
    }

    fn an_entry() -> impl Strategy<Value = Entry> {
        let methods = [Method::Nat, Method::FullNat, Method::DirectRoute, Method::Tunnel];
        (0u8..16, 0u8..3, prop::sample::select(methods.to_vec()))
            .prop_map(|(client, vip, method)| entry(client, vip, method))
    }

    fn a_step() -> impl Strategy<Value = Step> {
        prop_oneof![3 => an_entry().prop_map(Step::Insert), 2 => (0..CAPACITY as u8 + 2).prop_map(Step::Remove)]
    }

    fn find(table: &Table, tuple: &Tuple) -> Option<(EntryId, Side)> {
        let found = table.find(tuple, table.hash(tuple));
        let mut lookup = table.begin(tuple);
        assert_eq!(lookup.hash(), table.hash(tuple));
        assert_eq!(table.find_likely(tuple, &lookup).is_some(), found.is_some());
        table.likely(tuple, &mut lookup);
        table.go_on(tuple, &mut lookup);
        let likely = table.find_likely(tuple, &lookup);
        assert_eq!(likely.is_some(), found.is_some());
        likely
    }

    proptest! {
        /// Whatever is entered and removed, every tuple finds what a map of
        /// numbered entries finds.
        #[test]
        fn behaves_as_a_map(steps in prop::collection::vec(a_step(), 0..200)) {
            let mut table = Table::new(CAPACITY, seed(), 0);
            let mut model: BTreeMap<EntryId, Entry> = BTreeMap::new();
            for step in steps {
                match step {
                    // A worker looks the client's tuple up before it inserts.
                    Step::Insert(entry) if find(&table, &entry.client).is_some() => {
                        prop_assert!(model.values().any(|known| known.client == entry.client));
                    }
                    Step::Insert(entry) => match table.insert(entry) {
                        Ok(id) => {
                            prop_assert!(model.len() < CAPACITY);
                            prop_assert_eq!(table.deadline(id), None);
                            table.schedule(id, 1000 + id);
                            prop_assert!(model.insert(id, entry).is_none(), "number {id} twice");
                        }
                        Err(Full) => prop_assert_eq!(model.len(), CAPACITY),
                    },
                    Step::Remove(id) => {
                        prop_assert_eq!(table.remove(id.into()), model.remove(&id.into()));
                        prop_assert_eq!(table.deadline(id.into()), None);
                    }
                }
                prop_assert_eq!(table.len(), model.len());
                prop_assert_eq!(table.is_empty(), model.is_empty());
                prop_assert!(table.high_water() <= CAPACITY as EntryId);
                prop_assert!(model.keys().all(|id| *id < table.high_water()));
                let references = model.values().map(|entry| 1 + usize::from(entry.method.has_replies()));
                let indexed = table.index.len() + table.late.len();
                prop_assert_eq!(indexed, references.sum::<usize>(), "nothing stays in the index");

                for client in 0..16 {
                    for vip in 0..3 {
                        for method in [Method::Nat, Method::FullNat, Method::DirectRoute] {
                            let Entry { client, server, .. } = entry(client, vip, method);
                            let known = model.iter().find(|(_, known)| known.client == client);
                            let expected = known.map(|(id, _)| (*id, Side::Client));
                            prop_assert_eq!(find(&table, &client), expected);

                            // Under NAT several may have the tuple: one of them is found.
                            let owners: Vec<_> = model
                                .iter()
                                .filter(|(_, known)| known.method.has_replies() && known.server == server)
                                .map(|(id, _)| (*id, Side::Server))
                                .collect();
                            match find(&table, &server) {
                                Some(found) => prop_assert!(owners.contains(&found), "{found:?} of {owners:?}"),
                                None => prop_assert!(owners.is_empty(), "none of {owners:?}"),
                            }
                        }
                    }
                }
                for (id, entry) in &model {
                    prop_assert_eq!(table.get(*id), Some(*entry));
                    prop_assert_eq!(table.deadline(*id), Some(1000 + id));
                }
            }
            let (mut budget, mut over) = (usize::MAX, Vec::new());
            while let Some(id) = table.pop_expired(1000 + CAPACITY as u32, &mut budget) {
                over.push(id);
            }
            over.sort_unstable();
            prop_assert_eq!(over, model.into_keys().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_table_of_nothing_is_full() {
        let mut table = Table::new(0, seed(), 0);
        assert_eq!(table.insert(entry(1, 1, Method::Nat)), Err(Full));
        assert_eq!(table.remove(0).map(|entry| entry.client), None);
        assert_eq!(find(&table, &entry(1, 1, Method::Nat).client), None);
    }

    /// The index is taken at the start for both sides of every connection.
    #[test]
    fn a_full_table_has_not_grown() {
        const MANY: usize = 20_000;
        let mut table = Table::new(MANY, seed(), 0);
        let before = (table.lines().capacity(), table.index.capacity());
        for n in 0..MANY {
            let mut entry = entry(1, 1, Method::FullNat);
            entry.client.source = Address::from_v4((n as u32).to_be_bytes());
            entry.server.destination_port = n as u16;
            assert_eq!(table.insert(entry), Ok(n as EntryId));
        }
        assert_eq!(table.insert(entry(1, 1, Method::Nat)), Err(Full));
        assert_eq!((table.lines().capacity(), table.index.capacity()), before);
        (0..MANY as EntryId).for_each(|id| assert!(table.remove(id).is_some()));
        assert_eq!((table.len(), table.index.len()), (0, 0));
        assert!(table.free.capacity() >= MANY && table.free.len() == MANY);
    }
}
