//! The connection table of one worker.

use super::index::Index;
use super::{Entry, Seed, Side, Tuple};
use crate::prefetch::prefetch;

/// Number of a connection in its table.
pub type EntryId = u32;

/// Connections by either of their tuples, with a capacity that is taken once.
///
/// Entries lie in one array and are numbered; the index maps a tuple's hash to
/// an entry's number and side. Neither grows: what is reserved at the start is
/// provided by the kernel as it is used.
///
/// The index was hashbrown's `HashTable` at first. Nanoseconds a packet of
/// `cargo bench --bench pipeline` in one run, FULLNAT and DR, on two cores of
/// an EPYC of the fourth generation:
///
/// | connections | hashbrown     | own index, batches with prefetch |
/// |-------------|---------------|----------------------------------|
/// | 1 000       |  57 and  55   |  60 and  56                      |
/// | 100 000     | 130 and 136   | 108 and  90                      |
/// | 1 000 000   | 297 and 280   | 187 and 157                      |
///
/// The own index also never rehashes, which hashbrown may do when removals
/// have left marks behind.
pub struct Table {
    entries: Vec<Slot>,
    free: Vec<EntryId>,
    capacity: usize,
    index: Index,
    seed: Seed,
}

/// Room for an entry, on cache lines of its own.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Slot(Option<Entry>);

/// An entry's number and, in the lowest bit, a side of it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Reference(u32);

impl Reference {
    #[inline]
    fn new(id: EntryId, side: Side) -> Self {
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

/// The table holds as many connections as it can.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

impl Table {
    /// A table for `capacity` connections (less than 2³¹).
    pub fn new(capacity: usize, seed: Seed) -> Self {
        assert!(capacity < 1 << 31, "a reference has 31 bits for the number");
        Table {
            entries: Vec::with_capacity(capacity),
            free: Vec::with_capacity(capacity),
            capacity,
            index: Index::new(2 * capacity),
            seed,
        }
    }

    /// Connections in the table.
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One more than the highest number in use so far.
    pub fn high_water(&self) -> EntryId {
        self.entries.len() as EntryId
    }

    /// The hash that [`Table::find`] takes.
    #[inline]
    pub fn hash(&self, tuple: &Tuple) -> u64 {
        tuple.hash(self.seed)
    }

    /// The connection that a packet belongs to, and who sent the packet.
    #[inline]
    pub fn find(&self, tuple: &Tuple, hash: u64) -> Option<(EntryId, Side)> {
        let found = self.index.find(hash, |reference| self.tuple(Reference(reference)) == Some(tuple))?;
        Some((Reference(found).entry(), Reference(found).side()))
    }

    /// The first of three steps to look up a batch with the cache misses of
    /// all packets under way at once: then comes [`Table::prefetch_entry`] for
    /// each, and [`Table::find`].
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        self.index.prefetch(hash);
    }

    /// The second step. Returns the connection that is most likely meant.
    #[inline]
    pub fn prefetch_entry(&self, hash: u64) -> Option<EntryId> {
        let id = Reference(self.index.likely(hash)?).entry();
        let slot = self.entries.get(id as usize)?;
        prefetch(slot);
        Some(id)
    }

    /// The connection with a number.
    #[inline]
    pub fn get(&self, id: EntryId) -> Option<&Entry> {
        self.entries.get(id as usize)?.0.as_ref()
    }

    /// The connection with a number, to be changed. Its tuples may not be.
    #[inline]
    pub fn get_mut(&mut self, id: EntryId) -> Option<&mut Entry> {
        self.entries.get_mut(id as usize)?.0.as_mut()
    }

    /// Enters a connection under its client's tuple, and under its server's
    /// where replies come back. The client's may not be in the table yet. The
    /// server's may, since two services can reach one server from one client
    /// port by NAT: either of them is found then, until one is removed.
    pub fn insert(&mut self, entry: Entry) -> Result<EntryId, Full> {
        let id = match self.free.pop() {
            Some(id) => id,
            None if self.entries.len() < self.capacity => {
                self.entries.push(Slot::default());
                (self.entries.len() - 1) as EntryId
            }
            None => return Err(Full),
        };
        self.entries[id as usize].0 = Some(entry);
        self.index_side(id, &entry, Side::Client);
        if entry.method.has_replies() {
            self.index_side(id, &entry, Side::Server);
        }
        Ok(id)
    }

    fn index_side(&mut self, id: EntryId, entry: &Entry, side: Side) {
        let hash = self.hash(side_of(entry, side));
        let entered = self.index.insert(hash, Reference::new(id, side).0);
        debug_assert!(entered, "the index has room for two references of each entry");
    }

    /// Takes a connection out.
    pub fn remove(&mut self, id: EntryId) -> Option<Entry> {
        let entry = self.get(id).copied()?;
        for side in [Side::Client, Side::Server] {
            let reference = Reference::new(id, side);
            let hash = self.hash(side_of(&entry, side));
            self.index.remove(hash, reference.0);
        }
        self.entries[id as usize].0 = None;
        self.free.push(id);
        Some(entry)
    }

    #[inline]
    fn tuple(&self, reference: Reference) -> Option<&Tuple> {
        self.get(reference.entry()).map(|entry| side_of(entry, reference.side()))
    }
}

#[inline]
fn side_of(entry: &Entry, side: Side) -> &Tuple {
    match side {
        Side::Client => &entry.client,
        Side::Server => &entry.server,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::conn::{NO_HOP, NO_TEMPLATE, State};
    use crate::ftp::Role;
    use crate::service::{Method, Protocol, ServerId};
    use crate::wire::Address;
    use crate::wire::checksum::Delta;

    const CAPACITY: usize = 12;

    fn seed() -> Seed {
        Seed::new([5; 16])
    }

    fn entry(client: u8, vip: u8, method: Method) -> Entry {
        let client = Tuple {
            source: Address::from_v4([198, 51, 100, client]),
            destination: Address::from_v4([192, 0, 2, vip]),
            source_port: 1000,
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
                u16::from(client.source.v4_bytes()[3]) << 8 | u16::from(vip)
            } else {
                client.source_port
            },
            source_port: 80,
            protocol: Protocol::Tcp,
        };
        Entry {
            client,
            server,
            server_id: ServerId(0),
            hops: [NO_HOP; 2],
            hop_generation: 0,
            packets: 0,
            ip_delta: Delta::default(),
            transport_delta: Delta::default(),
            state: State::None,
            method,
            active: false,
            one_packet: false,
            ftp: Role::None,
            template: NO_TEMPLATE,
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Insert(Entry),
        Remove(u8),
    }

    fn an_entry() -> impl Strategy<Value = Entry> {
        let methods = [Method::Nat, Method::FullNat, Method::DirectRoute, Method::Tunnel];
        (0u8..8, 0u8..3, prop::sample::select(methods.to_vec()))
            .prop_map(|(client, vip, method)| entry(client, vip, method))
    }

    fn a_step() -> impl Strategy<Value = Step> {
        prop_oneof![3 => an_entry().prop_map(Step::Insert), 2 => (0..CAPACITY as u8 + 2).prop_map(Step::Remove)]
    }

    fn find(table: &Table, tuple: &Tuple) -> Option<(EntryId, Side)> {
        table.find(tuple, table.hash(tuple))
    }

    proptest! {
        /// Whatever is entered and removed, every tuple finds what a map of
        /// numbered entries finds.
        #[test]
        fn behaves_as_a_map(steps in prop::collection::vec(a_step(), 0..200)) {
            let mut table = Table::new(CAPACITY, seed());
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
                            prop_assert!(model.insert(id, entry).is_none(), "number {id} twice");
                        }
                        Err(Full) => prop_assert_eq!(model.len(), CAPACITY),
                    },
                    Step::Remove(id) => {
                        let removed = table.remove(id.into()).map(|entry| entry.client);
                        prop_assert_eq!(removed, model.remove(&id.into()).map(|entry| entry.client));
                    }
                }
                prop_assert_eq!(table.len(), model.len());
                prop_assert_eq!(table.is_empty(), model.is_empty());
                prop_assert!(table.high_water() <= CAPACITY as EntryId);
                prop_assert!(model.keys().all(|id| *id < table.high_water()));
                let references = model.values().map(|entry| 1 + usize::from(entry.method.has_replies()));
                prop_assert_eq!(table.index.len(), references.sum::<usize>(), "nothing stays in the index");

                for client in 0..8 {
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
                    prop_assert_eq!(table.get(*id).map(|entry| entry.client), Some(entry.client));
                    prop_assert_eq!(table.get_mut(*id).map(|entry| entry.server), Some(entry.server));
                }
            }
        }
    }

    #[test]
    fn a_table_of_nothing_is_full() {
        let mut table = Table::new(0, seed());
        assert_eq!(table.insert(entry(1, 1, Method::Nat)), Err(Full));
        assert_eq!(table.remove(0).map(|entry| entry.client), None);
        assert_eq!(find(&table, &entry(1, 1, Method::Nat).client), None);
    }

    /// The index is taken at the start for both sides of every connection.
    #[test]
    fn a_full_table_has_not_grown() {
        const MANY: usize = 20_000;
        let mut table = Table::new(MANY, seed());
        let before = (table.entries.capacity(), table.index.capacity());
        for n in 0..MANY {
            let mut entry = entry(1, 1, Method::FullNat);
            entry.client.source = Address::from_v4((n as u32).to_be_bytes());
            entry.server.destination_port = n as u16;
            assert_eq!(table.insert(entry), Ok(n as EntryId));
        }
        assert_eq!(table.insert(entry(1, 1, Method::Nat)), Err(Full));
        assert_eq!((table.entries.capacity(), table.index.capacity()), before);
        (0..MANY as EntryId).for_each(|id| assert!(table.remove(id).is_some()));
        assert_eq!((table.len(), table.index.len()), (0, 0));
        assert!(table.free.capacity() >= MANY && table.free.len() == MANY);
    }
}
