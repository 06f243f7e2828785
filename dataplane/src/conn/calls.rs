//! The Call-IDs of templates that a persistence engine made.
//!
//! They are apart from the templates, so that those of other services are no
//! larger. Address space for as many as there may be is taken at the start, and
//! memory as they are there.

use super::Seed;
use crate::arena::Arena;
use crate::sip::LONGEST_CALL_ID;

/// The length of a Call-ID, and its bytes.
type Place = [u8; 1 + LONGEST_CALL_ID];

/// The Call-IDs of templates.
pub(super) struct Calls {
    places: Arena<Place>,
    /// One more than the place of each template's, or 0
    of: Vec<u32>,
}

impl Calls {
    /// Of templates numbered below `capacity`.
    pub(super) fn new(capacity: usize) -> Self {
        Calls { places: Arena::new(capacity), of: vec![0; capacity] }
    }

    /// The hash of a call, from that of its template's key.
    pub(super) fn hash(seed: Seed, key: u64, id: &[u8]) -> u64 {
        seed.hash_bytes(key, id)
    }

    /// The Call-ID of a template, if it has any.
    pub(super) fn get(&self, number: u32) -> Option<&[u8]> {
        let place = self.of.get(number as usize)?.checked_sub(1)?;
        let (length, bytes) = self.places.get(place)?.split_first()?;
        bytes.get(..usize::from(*length))
    }

    /// Notes the Call-ID of a template that has none. Returns false, and notes
    /// nothing, if it is longer than they may be or there is no room.
    pub(super) fn insert(&mut self, number: u32, id: &[u8]) -> bool {
        let (Ok(length), Some(of)) = (u8::try_from(id.len()), self.of.get_mut(number as usize)) else {
            return false;
        };
        let Some(place) = self.places.take() else { return false };
        if let Some([kept, bytes @ ..]) = self.places.get_mut(place) {
            *kept = length;
            bytes[..id.len()].copy_from_slice(id);
        }
        *of = place + 1;
        true
    }

    /// Forgets the Call-ID of a template.
    pub(super) fn remove(&mut self, number: u32) {
        let Some(of) = self.of.get_mut(number as usize) else { return };
        if let Some(place) = std::mem::take(of).checked_sub(1) {
            self.places.give_back(place);
        }
    }

    /// As [`Arena::tidy`].
    pub(super) fn tidy(&mut self) {
        self.places.tidy();
    }
}
