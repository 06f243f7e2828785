//! Frames that wait until the MAC of their next hop is known.

use crate::port::Frame;

/// Frames that may wait at once.
const MOST: usize = 256;

/// How long a frame may wait, nanoseconds.
pub(super) const LONGEST: u64 = 1_000_000_000;

/// A frame as it was received.
pub(super) struct Waiting<F> {
    pub(super) frame: F,
    pub(super) interface: usize,
    pub(super) until: u64,
}

/// The frames that wait, the oldest first.
pub(super) struct Held<F> {
    waiting: Vec<Waiting<F>>,
    /// For those that wait while others are tried
    other: Vec<Waiting<F>>,
}

impl<F: Frame> Held<F> {
    pub(super) fn new() -> Self {
        Held { waiting: Vec::with_capacity(MOST), other: Vec::with_capacity(MOST) }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Lets a frame wait until then, or gives it back if too many do.
    pub(super) fn hold(&mut self, frame: F, interface: usize, until: u64) -> Result<(), F> {
        if self.waiting.len() >= MOST {
            return Err(frame);
        }
        self.waiting.push(Waiting { frame, interface, until });
        Ok(())
    }

    /// Lets a frame that was taken for another try go on waiting.
    pub(super) fn hold_again(&mut self, waiting: Waiting<F>) {
        self.waiting.push(waiting);
    }

    /// Takes all that wait, for another try. The list is to be given back.
    pub(super) fn take_all(&mut self) -> Vec<Waiting<F>> {
        std::mem::replace(&mut self.waiting, std::mem::take(&mut self.other))
    }

    /// Gives a list back whose frames were taken out.
    pub(super) fn give_back(&mut self, list: Vec<Waiting<F>>) {
        self.other = list;
    }

    /// A frame that has waited too long.
    pub(super) fn take_expired(&mut self, now: u64) -> Option<Waiting<F>> {
        let place = self.waiting.iter().position(|w| w.until <= now)?;
        Some(self.waiting.remove(place))
    }
}
