//! Fragments on their way: the first decides, the later ones follow.
//!
//! With several workers the fragments between two stations meet at one of
//! them, whatever queues they came by. A first fragment goes round from there
//! until a worker has its connection, the last may make it, and the later ones
//! go the same way behind it.

use super::flow::Verdict;
use super::gather::First;
use super::held::Waiting;
use super::{Settings, Worker, tick};
use crate::packet::{Fragment, Packet, Unparsed};
use crate::port::{Frame, Port};
use crate::stats::DropReason;

/// Where a fragment came from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) interface: usize,
    /// How many workers looked at it already
    pub(super) visits: usize,
    /// How long it may wait for a next hop
    pub(super) until: u64,
}

impl<P: Port> Worker<P> {
    /// Forwards a fragment with its IP header at `network`, lets it wait, or
    /// passes it on.
    pub(super) fn fragment(&mut self, frame: P::Frame, network: u16, arrival: Arrival, now: u64) {
        let fragment = match Fragment::parse(frame.bytes(), network) {
            Ok(fragment) => fragment,
            Err(Unparsed::Drop(reason)) => return self.discard(frame, reason),
            Err(_) => return self.punt(frame, arrival.interface),
        };
        let home = fragment.key.home(self.settings.workers);
        if arrival.visits == 0 && home != self.settings.worker {
            return self.hand(home, frame, arrival.interface, 0);
        }
        if fragment.packet.later {
            self.later_fragment(frame, fragment, arrival, now);
        } else {
            self.first_fragment(frame, fragment, arrival, now);
        }
    }

    fn first_fragment(&mut self, mut frame: P::Frame, fragment: Fragment, arrival: Arrival, now: u64) {
        let Fragment { key, packet } = fragment;
        let hash = self.flows.table.hash(&packet.tuple);
        let found = self.flows.table.find(&packet.tuple, hash);
        let Settings { worker, workers, .. } = self.settings;
        let keeper = match found {
            None if arrival.visits == 0 && workers > 1 => {
                self.flows.keeper_of(&self.view, &packet, arrival.interface, frame.bytes())
            }
            _ => None,
        };
        let first = if let Some(keeper) = keeper.filter(|keeper| *keeper != worker) {
            // Connections of a persistent service are where its templates are. The
            // later fragments, which go round, come by there after this one.
            self.hand(keeper, frame, arrival.interface, workers - 1);
            First::PassedOn
        } else if found.is_none() && keeper.is_none() && arrival.visits + 1 < workers {
            self.pass_on(frame, arrival.interface, arrival.visits);
            First::PassedOn
        } else {
            let interface = arrival.interface;
            let verdict = self.flows.process(&self.view, &mut frame, &packet, interface, found, tick(now));
            let first = match &verdict {
                Verdict::Send(..) | Verdict::Split(..) | Verdict::Wait(_) => First::Connection(packet.tuple),
                // The keeper is on the way round that later fragments take.
                Verdict::Hand(_) => First::PassedOn,
                Verdict::Unclaimed => First::Kernel,
                Verdict::Answer { reason, .. } | Verdict::Drop(reason) => First::Dropped(*reason),
            };
            match verdict {
                Verdict::Wait(towards) => {
                    self.wait_for_hop(frame, towards, arrival.interface, arrival.until, now)
                }
                Verdict::Hand(keeper) => self.hand(keeper, frame, arrival.interface, arrival.visits),
                verdict => {
                    self.carry_out(verdict, frame, &packet, arrival.interface, arrival.visits, now);
                }
            }
            first
        };
        self.gather.learn(key, first, now);
        while let Some(Waiting { frame, interface, .. }) = self.gather.take(&key) {
            // Its tags may be others.
            match Packet::parse(frame.bytes()) {
                Err(Unparsed::Fragment(network)) => {
                    self.fragment(frame, network, Arrival { interface, ..arrival }, now);
                }
                _ => self.discard(frame, DropReason::Malformed),
            }
        }
        self.count_held();
    }

    fn later_fragment(&mut self, mut frame: P::Frame, fragment: Fragment, arrival: Arrival, now: u64) {
        let Fragment { key, mut packet } = fragment;
        let Arrival { interface, visits, until } = arrival;
        match self.gather.first(&key) {
            Some(First::Connection(tuple)) => packet.tuple = tuple,
            Some(First::Kernel) => return self.punt(frame, interface),
            Some(First::Dropped(reason)) => return self.discard(frame, reason),
            None if visits == 0 => {
                if let Err(frame) = self.gather.wait(key, frame, interface, now) {
                    self.discard(frame, DropReason::FragmentQueueFull);
                }
                return self.count_held();
            }
            Some(First::PassedOn) | None => return self.pass_on(frame, interface, visits),
        }
        let hash = self.flows.table.hash(&packet.tuple);
        let found = self.flows.table.find(&packet.tuple, hash);
        if found.is_none() {
            // It ended meanwhile; the packet will not be whole.
            return self.punt(frame, interface);
        }
        match self.flows.process(&self.view, &mut frame, &packet, interface, found, tick(now)) {
            Verdict::Wait(towards) => self.wait_for_hop(frame, towards, interface, until, now),
            // Over IPv4 an error is about a first fragment only (RFC 1122,
            // section 3.2.2).
            Verdict::Answer { reason, .. } if packet.is_v4 => self.discard(frame, reason),
            verdict => self.carry_out(verdict, frame, &packet, interface, visits, now),
        }
    }

    /// Gives up on first fragments that did not come in time. The kernel may
    /// know of them: it had the packets that steering did not redirect yet.
    pub(super) fn expire_fragments(&mut self, now: u64) {
        self.gather.forget(now);
        while let Some(waiting) = self.gather.take_expired(now) {
            self.punt(waiting.frame, waiting.interface);
            self.count_held();
        }
    }
}
