//! The connection table of one worker.

use hashbrown::HashTable;

use super::{Entry, Seed, Side, Tuple};

/// Number of a connection in its table.
pub type EntryId = u32;

/// Connections by either of their tuples, with a capacity that is taken once.
///
/// Entries lie in one array and are numbered; the index maps a tuple's hash to
/// an entry's number and side. Neither grows: what is reserved at the start is
/// provided by the kernel as it is used.
pub struct Table {
    entries: Vec<Option<Entry>>,
    free: Vec<EntryId>,
    capacity: usize,
    index: HashTable<Reference>,
    seed: Seed,
}

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
            index: HashTable::with_capacity(2 * capacity),
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
        let found = self.index.find(hash, |reference| self.tuple(*reference) == Some(tuple))?;
        Some((found.entry(), found.side()))
    }

    /// The connection with a number.
    #[inline]
    pub fn get(&self, id: EntryId) -> Option<&Entry> {
        self.entries.get(id as usize)?.as_ref()
    }

    /// The connection with a number, to be changed. Its tuples may not be.
    #[inline]
    pub fn get_mut(&mut self, id: EntryId) -> Option<&mut Entry> {
        self.entries.get_mut(id as usize)?.as_mut()
    }

    /// Enters a connection under its client's tuple, and under its server's
    /// where replies come back. Neither may be in the table for this side.
    pub fn insert(&mut self, entry: Entry) -> Result<EntryId, Full> {
        let id = match self.free.pop() {
            Some(id) => id,
            None if self.entries.len() < self.capacity => {
                self.entries.push(None);
                (self.entries.len() - 1) as EntryId
            }
            None => return Err(Full),
        };
        self.entries[id as usize] = Some(entry);
        self.index_side(id, &entry, Side::Client);
        if entry.method.has_replies() {
            self.index_side(id, &entry, Side::Server);
        }
        Ok(id)
    }

    fn index_side(&mut self, id: EntryId, entry: &Entry, side: Side) {
        let hash = self.hash(side_of(entry, side));
        let (entries, seed) = (&self.entries, self.seed);
        self.index.insert_unique(hash, Reference::new(id, side), |reference| {
            // Every reference in the index belongs to an entry.
            entries[reference.entry() as usize]
                .as_ref()
                .map_or(0, |e| side_of(e, reference.side()).hash(seed))
        });
    }

    /// Takes a connection out.
    pub fn remove(&mut self, id: EntryId) -> Option<Entry> {
        let entry = self.get(id).copied()?;
        for side in [Side::Client, Side::Server] {
            let reference = Reference::new(id, side);
            let hash = self.hash(side_of(&entry, side));
            if let Ok(found) = self.index.find_entry(hash, |r| *r == reference) {
                found.remove();
            }
        }
        self.entries[id as usize] = None;
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
