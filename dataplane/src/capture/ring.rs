//! The way of copied packets from a worker to a reader: places that the worker
//! fills and the reader empties, in turn.
//!
//! As with a listing's pages ([`crate::worker::Slices`]), neither waits for the
//! other: who may have a place is told by its flag, so that the lock is free
//! whenever it is tried, and all memory is taken and freed by the reader's side.

use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, Mutex};

use super::{CaptureFilter, Facts, Passed, Sighting};

struct Copied {
    of: Option<Sighting>,
    bytes: Box<[u8]>,
    /// How many of them
    length: usize,
}

struct Place {
    /// Whether it waits for the reader. The worker raises it, with `Release` after
    /// the place was written; the reader lowers it, likewise after it was read.
    full: AtomicBool,
    copied: Mutex<Copied>,
}

/// What worker and reader share.
pub(crate) struct Ring {
    filter: Arc<CaptureFilter>,
    places: Box<[Place]>,
    /// By interface, packets for which there was no place; the worker writes them
    lost: Box<[AtomicU64]>,
    /// The worker looks at packets from now on
    begun: AtomicBool,
    /// Nobody reads any more
    unwanted: AtomicBool,
}

impl Ring {
    /// A ring with `places` places of `snap` bytes, for a director with so many
    /// interfaces.
    pub(crate) fn new(
        filter: Arc<CaptureFilter>,
        snap: usize,
        places: usize,
        interfaces: usize,
    ) -> Arc<Self> {
        let place = |_| Place {
            full: AtomicBool::new(false),
            copied: Mutex::new(Copied { of: None, bytes: vec![0; snap].into(), length: 0 }),
        };
        Arc::new(Ring {
            filter,
            places: (0..places.max(1)).map(place).collect(),
            lost: (0..interfaces.max(1)).map(|_| AtomicU64::new(0)).collect(),
            begun: AtomicBool::new(false),
            unwanted: AtomicBool::new(false),
        })
    }
}

/// What a worker is to copy, and where to. Made by
/// [`Exchange::capture`](crate::worker::Exchange::capture).
pub struct CaptureOrder {
    ring: Arc<Ring>,
    next: usize,
    /// Packets to be passed over before the next that is looked at
    skip: u32,
    /// Whether the packet at hand is looked at
    looks: bool,
}

impl CaptureOrder {
    pub(crate) fn new(ring: Arc<Ring>) -> Self {
        CaptureOrder { ring, next: 0, skip: 0, looks: true }
    }

    /// Says that packets are looked at from now on.
    pub(crate) fn take_up(&self) {
        self.ring.begun.store(true, Relaxed);
    }

    /// Whether nobody wants it any more.
    pub(crate) fn is_unwanted(&self) -> bool {
        self.ring.unwanted.load(Relaxed)
    }

    /// Decides whether the packet that comes now is one of the sample.
    pub(crate) fn begin(&mut self) {
        self.looks = self.skip == 0;
        self.skip = if self.looks { self.ring.filter.sample.saturating_sub(1) } else { self.skip - 1 };
    }

    /// Whether the packet at hand is wanted.
    pub(crate) fn passes(&self, facts: &Facts) -> Option<Passed> {
        if self.looks { self.ring.filter.passes(facts) } else { None }
    }

    /// Copies a packet that passed, if this sight of it is wanted and there is a
    /// place for it.
    pub(crate) fn copy(&mut self, passed: Passed, sighting: &Sighting, frame: &[u8]) {
        let Ring { filter, places, lost, .. } = &*self.ring;
        if !filter.shows(passed, sighting.sight) {
            return;
        }
        let place = &places[self.next];
        // The reader does not touch one that is empty.
        let free = if place.full.load(Acquire) { None } else { place.copied.try_lock().ok() };
        let Some(mut copied) = free else {
            if let Some(lost) = lost.get(usize::from(sighting.interface)) {
                lost.store(lost.load(Relaxed) + 1, Relaxed);
            }
            return;
        };
        let length = frame.len().min(copied.bytes.len());
        copied.bytes[..length].copy_from_slice(&frame[..length]);
        (copied.of, copied.length) = (Some(*sighting), length);
        drop(copied);
        place.full.store(true, Release);
        self.next = (self.next + 1) % places.len();
    }
}

/// The reader's end of a capture, of one worker.
pub struct CaptureReader {
    ring: Arc<Ring>,
    next: usize,
}

impl CaptureReader {
    pub(crate) fn new(ring: Arc<Ring>) -> Self {
        CaptureReader { ring, next: 0 }
    }

    /// Whether the worker looks at packets already.
    pub fn has_begun(&self) -> bool {
        self.ring.begun.load(Relaxed)
    }

    /// The next packet, if there is one: `read` gets it, with the bytes that
    /// were copied.
    pub fn read<T>(&mut self, read: impl FnOnce(&Sighting, &[u8]) -> T) -> Option<T> {
        let place = &self.ring.places[self.next];
        if !place.full.load(Acquire) {
            return None;
        }
        let copied = place.copied.try_lock().ok()?;
        let result = copied.of.as_ref().map(|of| read(of, &copied.bytes[..copied.length]));
        drop(copied);
        place.full.store(false, Release);
        self.next = (self.next + 1) % self.ring.places.len();
        result
    }

    /// By interface, how many packets there was no place for so far.
    pub fn lost(&self) -> impl Iterator<Item = u64> {
        self.ring.lost.iter().map(|lost| lost.load(Relaxed))
    }
}

impl Drop for CaptureReader {
    fn drop(&mut self) {
        self.ring.unwanted.store(true, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::{Fate, Sight};

    fn both(places: usize, filter: CaptureFilter) -> (CaptureOrder, CaptureReader) {
        let ring = Ring::new(Arc::new(filter), 8, places, 2);
        (CaptureOrder::new(Arc::clone(&ring)), CaptureReader::new(ring))
    }

    fn arrive(order: &mut CaptureOrder, packet: u64) {
        order.begin();
        let sighting = Sighting {
            at: 1,
            packet,
            worker: 0,
            interface: 1,
            sight: Sight::Before(Fate::Sent),
            length: 10,
            parties: None,
        };
        if let Some(passed) = order.passes(&Facts::default()) {
            order.copy(passed, &sighting, &[packet as u8; 10]);
        }
    }

    fn read(reader: &mut CaptureReader) -> Option<(u64, Vec<u8>)> {
        reader.read(|sighting, bytes| (sighting.packet, bytes.to_vec()))
    }

    #[test]
    fn what_does_not_fit_is_counted_and_the_rest_comes_in_order() {
        let (mut order, mut reader) = both(3, CaptureFilter::default());
        assert_eq!(read(&mut reader), None);
        (0..5).for_each(|n| arrive(&mut order, n));
        assert_eq!(reader.lost().collect::<Vec<_>>(), [0, 2]);
        assert_eq!(read(&mut reader), Some((0, vec![0; 8])), "no more than was asked for");
        arrive(&mut order, 5);
        for n in [1, 2, 5] {
            assert_eq!(read(&mut reader).map(|(packet, _)| packet), Some(n));
        }
        assert_eq!((read(&mut reader), reader.lost().sum::<u64>()), (None, 2));
    }

    #[test]
    fn a_sample_is_one_of_so_many() {
        let (mut order, mut reader) = both(10, CaptureFilter { sample: 3, ..CaptureFilter::default() });
        (0..8).for_each(|n| arrive(&mut order, n));
        let seen: Vec<_> = std::iter::from_fn(|| read(&mut reader)).map(|(packet, _)| packet).collect();
        assert_eq!(seen, [0, 3, 6]);
    }

    #[test]
    fn whoever_reads_no_more_is_not_copied_for() {
        let (order, reader) = both(1, CaptureFilter::default());
        assert!(!order.is_unwanted());
        drop(reader);
        assert!(order.is_unwanted());
    }

    /// Whatever the other one does, even if it stops in the middle.
    #[test]
    fn neither_waits_for_the_other() {
        let (mut order, mut reader) = both(1, CaptureFilter::default());
        let ring = Arc::clone(&order.ring);
        let stopped = ring.places[0].copied.lock().unwrap();
        arrive(&mut order, 1);
        assert_eq!((read(&mut reader), reader.lost().sum::<u64>()), (None, 1));
        drop(stopped);
        arrive(&mut order, 2);
        assert_eq!(read(&mut reader).map(|(packet, _)| packet), Some(2));
    }
}
