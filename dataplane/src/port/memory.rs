//! A port in memory, for tests and benchmarks: what is injected is received,
//! what is transmitted is collected, and nothing is allocated once as many
//! frames as are needed exist.

mod nic;

use std::collections::VecDeque;
use std::time::Duration;

pub use nic::Nic;

use super::{BURST, Frame, Port};

/// Bytes of a frame, those of an AF_XDP frame with 2 KiB chunks.
const CAPACITY: usize = 1792;

/// A frame on the heap.
#[derive(Clone, Debug)]
pub struct MemoryFrame {
    data: Box<[u8; CAPACITY]>,
    len: usize,
}

impl MemoryFrame {
    fn empty() -> Self {
        MemoryFrame { data: Box::new([0; CAPACITY]), len: 0 }
    }
}

impl Frame for MemoryFrame {
    #[inline]
    fn bytes(&self) -> &[u8] {
        &self.data[..self.len]
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.data[..self.len]
    }

    #[inline]
    fn capacity(&self) -> usize {
        CAPACITY
    }

    #[inline]
    fn set_len(&mut self, len: usize) {
        assert!(len <= CAPACITY, "a frame of {len} bytes does not fit");
        self.len = len;
    }
}

#[derive(Debug, Default)]
struct Rings {
    receive: VecDeque<MemoryFrame>,
    transmit: VecDeque<MemoryFrame>,
    punted: VecDeque<MemoryFrame>,
}

/// Rings of some interfaces.
#[derive(Debug)]
pub struct MemoryPort {
    interfaces: Vec<Rings>,
    free: Vec<MemoryFrame>,
    /// Frames that may still be made
    unmade: usize,
    /// Frames that a transmit ring takes before it is full
    transmit_ring: usize,
    /// Whether sent frames are dropped rather than kept for
    /// [`MemoryPort::take_sent`]
    discard: bool,
    sent: u64,
    closed: bool,
}

impl MemoryPort {
    /// A port with `interfaces` interfaces and at most `frames` frames.
    pub fn new(interfaces: usize, frames: usize) -> Self {
        MemoryPort {
            interfaces: (0..interfaces).map(|_| Rings::default()).collect(),
            free: Vec::new(),
            unmade: frames,
            transmit_ring: usize::MAX,
            discard: false,
            sent: 0,
            closed: false,
        }
    }

    /// Lets each transmit ring take only so many frames until they are taken
    /// off it.
    pub fn limit_transmit_ring(&mut self, frames: usize) {
        self.transmit_ring = frames;
    }

    /// Counts sent frames and reuses them at once.
    pub fn discard_sent(&mut self) {
        self.discard = true;
    }

    /// Frames sent so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Frames that are with the port or unmade, and not with the worker.
    pub fn frames_at_home(&self) -> usize {
        let rings = self.interfaces.iter().map(|r| r.receive.len() + r.transmit.len() + r.punted.len());
        self.unmade + self.free.len() + rings.sum::<usize>()
    }

    /// Lets a frame arrive. Longer ones are cut off, as a NIC would drop them;
    /// without a free frame it is lost, and false returned.
    pub fn inject(&mut self, interface: usize, bytes: &[u8]) -> bool {
        let Some(mut frame) = self.allocate() else { return false };
        let len = bytes.len().min(CAPACITY);
        frame.data[..len].copy_from_slice(&bytes[..len]);
        frame.len = len;
        self.interfaces[interface].receive.push_back(frame);
        true
    }

    /// The oldest frame sent on an interface.
    pub fn take_sent(&mut self, interface: usize) -> Option<Vec<u8>> {
        let frame = self.interfaces[interface].transmit.pop_front()?;
        let bytes = frame.bytes().to_vec();
        self.free.push(frame);
        Some(bytes)
    }

    /// The oldest frame that was left to the kernel.
    pub fn take_punted(&mut self, interface: usize) -> Option<Vec<u8>> {
        let frame = self.interfaces[interface].punted.pop_front()?;
        let bytes = frame.bytes().to_vec();
        self.free.push(frame);
        Some(bytes)
    }
}

impl Port for MemoryPort {
    type Frame = MemoryFrame;

    fn interfaces(&self) -> usize {
        self.interfaces.len()
    }

    fn receive(&mut self, interface: usize, burst: &mut Vec<MemoryFrame>) -> usize {
        let ring = &mut self.interfaces[interface].receive;
        let count = if self.closed { 0 } else { ring.len().min(BURST) };
        burst.extend(ring.drain(..count));
        count
    }

    fn transmit(&mut self, interface: usize, frames: &mut Vec<MemoryFrame>) -> usize {
        let rings = &mut self.interfaces[interface];
        let room = self.transmit_ring.saturating_sub(rings.transmit.len());
        let count = if self.closed { 0 } else { frames.len().min(room) };
        self.sent += count as u64;
        if self.discard {
            self.free.extend(frames.drain(..count));
        } else {
            rings.transmit.extend(frames.drain(..count));
        }
        count
    }

    fn allocate(&mut self) -> Option<MemoryFrame> {
        self.free.pop().or_else(|| {
            self.unmade = self.unmade.checked_sub(1)?;
            Some(MemoryFrame::empty())
        })
    }

    fn release(&mut self, frame: MemoryFrame) {
        self.free.push(frame);
    }

    fn reclaim(&mut self) {}

    fn close(&mut self) {
        self.closed = true;
    }

    fn reopen(&mut self) -> Result<(), String> {
        self.closed = false;
        Ok(())
    }

    fn is_closed(&self) -> bool {
        self.closed
    }

    fn wait(&mut self, _limit: Duration) {}

    fn punt(&mut self, interface: usize, frame: MemoryFrame) -> bool {
        self.interfaces[interface].punted.push_back(frame);
        true
    }
}
