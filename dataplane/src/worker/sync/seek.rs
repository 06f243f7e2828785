//! Packets whose connection another worker may have been told of.
//!
//! What goes on with a connection that began elsewhere goes round the workers
//! as any packet does that nobody claims. A packet that could begin a connection
//! would do so where it arrives, though, while another worker has the one that
//! it belongs to. So, as long as there are such, it first goes round as well,
//! and begins one where it arrived only if it comes back.

use super::super::Worker;
use super::Syncing;
use crate::port::Port;
use crate::service::Protocol;

/// Added to the number of workers that looked at a frame which goes round before
/// it may begin a connection.
pub(in crate::worker) const SEEKING: usize = 1 << 16;

/// What a packet that could begin a connection is to do first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::worker) enum Seek {
    /// Nothing
    No,
    /// It is to go round, if it is of UDP, and if it is of others
    First([bool; 2]),
    /// It is on its way round, and begins no connection here
    Looking,
}

/// Where connections of a protocol are counted.
pub(super) fn class(protocol: Protocol) -> usize {
    usize::from(protocol != Protocol::Udp)
}

impl Seek {
    /// Whether a packet of a protocol is not to begin a connection yet.
    #[inline]
    pub(in crate::worker) fn holds(self, protocol: Protocol) -> bool {
        match self {
            Seek::No => false,
            Seek::First(classes) => classes[class(protocol)],
            Seek::Looking => true,
        }
    }
}

impl Syncing {
    /// Connections that did not begin here: of UDP, and others.
    pub(in crate::worker) fn strangers(&self) -> [u64; 2] {
        self.strangers
    }
}

impl<P: Port> Worker<P> {
    /// Goes on with synchronisation, by a bounded portion; returns whether there
    /// was anything to do.
    pub(in crate::worker) fn synchronise(&mut self, now: u64) -> bool {
        let exchange = &self.exchanges[self.settings.worker];
        let took = self.flows.take_imports(&self.view, exchange, super::super::tick(now));
        self.flows.tell_changes(&self.view, now, super::super::tick(now)) || took
    }

    /// What packets that `visits` workers looked at are to do.
    pub(in crate::worker) fn seek(&self, visits: usize) -> Seek {
        let workers = self.settings.workers;
        match visits {
            0 if self.receiving => {
                let others = |(worker, _): &(usize, _)| *worker != self.settings.worker;
                let mut classes = [false; 2];
                for (_, exchange) in self.exchanges.iter().enumerate().filter(others) {
                    for (class, count) in classes.iter_mut().zip(&exchange.imported) {
                        *class |= count.get() > 0;
                    }
                }
                if classes == [false; 2] { Seek::No } else { Seek::First(classes) }
            }
            visits if visits > SEEKING && visits < SEEKING + workers => Seek::Looking,
            _ => Seek::No,
        }
    }
}
