//! Values that few of the connection table's entries have.

use crate::conn::EntryId;

/// There are as many values as there may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

/// At most so many values, by the numbers of entries. Nothing is allocated or
/// moved after the beginning.
#[derive(Debug)]
pub(super) struct Slots<T> {
    /// By entry: one more than the place of its value, or 0
    places: Vec<u32>,
    values: Vec<Option<T>>,
    free: Vec<u32>,
    most: usize,
}

impl<T> Slots<T> {
    /// Of entries numbered below `entries`, `most` may have a value.
    pub(super) fn new(entries: usize, most: usize) -> Self {
        Slots {
            places: vec![0; entries],
            values: Vec::with_capacity(most),
            free: Vec::with_capacity(most),
            most,
        }
    }

    fn place(&self, id: EntryId) -> Option<usize> {
        (*self.places.get(id as usize)?).checked_sub(1).map(|place| place as usize)
    }

    pub(super) fn get(&self, id: EntryId) -> Option<&T> {
        self.values.get(self.place(id)?)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: EntryId) -> Option<&mut T> {
        let place = self.place(id)?;
        self.values.get_mut(place)?.as_mut()
    }

    /// Gives an entry a value, in the place of the one that it has.
    pub(super) fn insert(&mut self, id: EntryId, value: T) -> Result<(), Full> {
        if let Some(old) = self.get_mut(id) {
            *old = value;
            return Ok(());
        }
        let full = self.is_full();
        let place_of = self.places.get_mut(id as usize).filter(|_| !full).ok_or(Full)?;
        let place = match self.free.pop() {
            Some(place) => place,
            None => {
                self.values.push(None);
                self.values.len() as u32 - 1
            }
        };
        self.values[place as usize] = Some(value);
        *place_of = place + 1;
        Ok(())
    }

    pub(super) fn remove(&mut self, id: EntryId) {
        let Some(place) = self.place(id) else { return };
        self.places[id as usize] = 0;
        self.values[place] = None;
        self.free.push(place as u32);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.values.len() == self.free.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.values.len() - self.free.len() >= self.most
    }
}
