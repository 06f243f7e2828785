//! Frames that landed on another worker's queue than their connection's.
//!
//! Where it can be told whose a frame is, it goes straight there: an answer to
//! a LIP to the owner of its port. Otherwise, or should that one not have it
//! (ports stay with their connections when the way changes by which they are
//! shared out), it goes round all workers until one takes it, and is left to
//! the kernel if none does.

use super::exchange::{Buffer, Handed, MOST_HANDED};
use super::{BURST, Settings, Worker};
use crate::conn::Tuple;
use crate::packet::Packet;
use crate::port::{Frame, Port};
use crate::stats::DropReason;

/// Bytes of a buffer: what the largest frame of a port has.
const BUFFER: usize = 4096;

/// Buffers for all frames of a worker that may be on their way to others, in
/// memory that the kernel provides as it is used. A single worker needs none.
pub(super) fn buffers(workers: usize) -> Vec<Buffer> {
    if workers < 2 {
        return Vec::new();
    }
    let mut memory = Buffer::zeroed(MOST_HANDED * BUFFER);
    (0..MOST_HANDED).map(|_| memory.split_to(BUFFER)).collect()
}

impl<P: Port> Worker<P> {
    /// Hands a frame that was received here, and that nobody here claims, to
    /// the worker that most likely has its connection.
    pub(super) fn aim(&mut self, frame: P::Frame, packet: &Packet, interface: usize) {
        let tuple = &packet.tuple;
        match self.flows.local_ports.owner_of(tuple) {
            // It does not count as looked at: the round begins there if need be.
            to if to != self.settings.worker
                && to < self.settings.workers
                && self.is_answer(tuple, interface) =>
            {
                self.hand(to, frame, interface, 0);
            }
            _ => self.pass_on(frame, interface, 0),
        }
    }

    /// Whether a packet can only be an answer to a LIP: it is for no service,
    /// and from no NAT server.
    fn is_answer(&self, tuple: &Tuple, interface: usize) -> bool {
        let Tuple { protocol, source, source_port, .. } = *tuple;
        let services = &self.view.services;
        services.find_for(tuple, interface).is_none()
            && !services.is_nat_server(protocol, source, source_port)
    }

    /// An unclaimed frame goes round all workers, in case it belongs to
    /// another one's connection, and then to the kernel.
    pub(super) fn pass_on(&mut self, frame: P::Frame, interface: usize, visits: usize) {
        let Settings { worker, workers, .. } = self.settings;
        if visits + 1 >= workers {
            self.punt(frame, interface);
            return;
        }
        self.hand((worker + 1) % workers, frame, interface, visits + 1);
    }

    /// Gives a frame to another worker. A frame for the keeper of a template
    /// counts as received there: should that worker go by another table and
    /// think of a third one, both will have taken up the newest by the next
    /// time that the frame comes by.
    pub(super) fn hand(&mut self, to: usize, frame: P::Frame, interface: usize, visits: usize) {
        let from = self.settings.worker;
        // Those that were used before first: they are in the cache.
        let Some(mut bytes) = self.exchange().buffers.pop().or_else(|| self.fresh.pop()) else {
            return self.discard(frame, DropReason::HandoffFull);
        };
        bytes.clear();
        if frame.bytes().len() > bytes.capacity() {
            self.fresh.push(bytes);
            return self.discard(frame, DropReason::TooBig);
        }
        bytes.extend_from_slice(frame.bytes());
        match self.exchanges[to].handed.push(Handed { bytes, from, interface, visits }) {
            Ok(()) => {
                self.counters.handed.add(1);
                if self.receiving {
                    self.counters.count_handed_off(interface);
                }
                self.port.release(frame);
            }
            Err(refused) => {
                let _ = self.exchange().buffers.push(refused.bytes);
                self.discard(frame, DropReason::HandoffFull);
            }
        }
    }

    /// Handles at most a burst of frames that other workers passed on.
    pub(super) fn process_handed(&mut self, now: u64) -> usize {
        let mut burst = std::mem::take(&mut self.burst);
        let mut handled = 0;
        let mut of_burst = (0, 0);
        while handled < BURST {
            let Some(handed) = self.exchange().handed.pop() else { break };
            handled += 1;
            let arrival = (handed.interface, handed.visits);
            let frame = self.take_over(&handed);
            // There is room for all that there are.
            let _ = self.exchanges[handed.from].buffers.push(handed.bytes);
            let Some(frame) = frame else { continue };
            if arrival != of_burst && !burst.is_empty() {
                let parts = [(of_burst.0, burst.len())];
                self.process(&mut burst, &parts, of_burst.1, now);
            }
            of_burst = arrival;
            burst.push(frame);
        }
        if !burst.is_empty() {
            let parts = [(of_burst.0, burst.len())];
            self.process(&mut burst, &parts, of_burst.1, now);
        }
        self.burst = burst;
        self.counters.handed_in.add(handled as u64);
        handled
    }

    /// A handed frame in the worker's own memory.
    fn take_over(&mut self, handed: &Handed) -> Option<P::Frame> {
        let Some(mut frame) = self.port.allocate() else {
            self.counters.count_drop(DropReason::NoFrame);
            return None;
        };
        if handed.bytes.len() > frame.capacity() {
            self.discard(frame, DropReason::TooBig);
            return None;
        }
        frame.set_len(handed.bytes.len());
        frame.bytes_mut().copy_from_slice(&handed.bytes);
        Some(frame)
    }
}
