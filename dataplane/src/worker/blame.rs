//! Counting drops for the service that they concern.

use super::Worker;
use crate::packet::Packet;
use crate::port::Port;

impl<P: Port> Worker<P> {
    /// Counts a packet that was not forwarded for its service, and its server
    /// if it belongs to a connection. What is dropped before anybody knows whose
    /// it is, or behind the forwarding (a full ring), is counted for the worker
    /// alone.
    #[cold]
    pub(super) fn blame(&self, packet: &Packet, interface: usize) {
        let services = &self.view.services;
        let table = &self.flows.table;
        let connection = table.find(&packet.tuple, table.hash(&packet.tuple));
        let server = connection.and_then(|(id, _)| services.server(table.line(id)?.server_id));
        if let Some(server) = server {
            server.counters.share(self.settings.worker).traffic.dropped.add(1);
            server.service_counters.share(self.settings.worker).dropped.add(1);
            return;
        }
        let service = services.find_for(&packet.tuple, interface).and_then(|id| services.service(id));
        if let Some(service) = service {
            service.counters.share(self.settings.worker).dropped.add(1);
        }
    }
}
