//! The Call-IDs of templates that a persistence engine made.
//!
//! They are apart from the templates, so that those of other services are no
//! larger and are found no slower.

use hashbrown::HashTable;

use super::Seed;

/// What templates of calls are found by, beside their key.
pub(super) struct Calls {
    index: HashTable<u32>,
    /// By number of the template; as long as the highest one that has a call
    calls: Vec<Option<Call>>,
}

struct Call {
    hash: u64,
    id: Box<[u8]>,
}

impl Calls {
    pub(super) fn new() -> Self {
        Calls { index: HashTable::new(), calls: Vec::new() }
    }

    /// The hash of a call, from that of its template's key.
    pub(super) fn hash(seed: Seed, key: u64, id: &[u8]) -> u64 {
        seed.hash_bytes(key, id)
    }

    /// The Call-ID of a template, if it has any.
    pub(super) fn get(&self, number: u32) -> Option<&[u8]> {
        Some(&self.calls.get(number as usize)?.as_ref()?.id)
    }

    /// The template of a call, whose key `is_of_key` recognises.
    pub(super) fn find(&self, hash: u64, id: &[u8], is_of_key: impl Fn(u32) -> bool) -> Option<u32> {
        self.index.find(hash, |number| self.get(*number) == Some(id) && is_of_key(*number)).copied()
    }

    pub(super) fn insert(&mut self, number: u32, hash: u64, id: &[u8]) {
        let slot = number as usize;
        if self.calls.len() <= slot {
            self.calls.resize_with(slot + 1, || None);
        }
        self.calls[slot] = Some(Call { hash, id: id.into() });
        let calls = &self.calls;
        self.index.insert_unique(hash, number, |number| {
            // Every number in the index is a call's.
            calls[*number as usize].as_ref().map_or(0, |call| call.hash)
        });
    }

    /// Lets a template be found no more, but keeps its Call-ID.
    pub(super) fn hide(&mut self, number: u32) {
        let Some(Some(call)) = self.calls.get(number as usize) else { return };
        if let Ok(found) = self.index.find_entry(call.hash, |other| *other == number) {
            found.remove();
        }
    }

    /// Forgets the Call-ID of a template.
    pub(super) fn remove(&mut self, number: u32) {
        self.hide(number);
        if let Some(call) = self.calls.get_mut(number as usize) {
            *call = None;
        }
    }
}
