//! A worker of a director that is another one's backup.
//!
//! It goes on with the connections that it knows, so that none of their packets
//! is lost while addresses move from one director to the other, and begins none.
//! What is left must not come to the kernel: it would reset connections that the
//! other director has.

use super::Worker;
use crate::neigh::Resolution;
use crate::packet::Packet;
use crate::port::Port;

impl<P: Port> Worker<P> {
    /// Whether a packet that nobody here claims is the active director's
    /// business: one to a service or a LIP, or from a NAT server to a client. An
    /// answer to the director itself, of a health check for example, is not.
    pub(super) fn is_the_active_ones(&self, packet: &Packet, interface: usize) -> bool {
        let (tuple, services) = (&packet.tuple, &self.view.services);
        let is_lip = || services.services().any(|(_, s)| s.local_addresses.contains(&tuple.destination));
        // The director's own addresses lead nowhere (`Resolution::Foreign`).
        self.view.hops.resolve(tuple.destination) != Resolution::Foreign
            || services.find_for(tuple, interface).is_some()
            || is_lip()
    }
}
