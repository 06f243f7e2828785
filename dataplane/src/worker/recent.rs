//! What was found out for recent connections, and most likely holds for the next:
//! the service of a VIP and port, and the next hop towards a server. Each would
//! otherwise be a few look-ups in hash tables for every new connection.

use crate::conn::Tuple;
use crate::neigh::{HopId, NextHop, NextHops, Resolution};
use crate::service::{Protocol, RealServer, ServerId, ServiceId, ServiceTable, VirtualService};
use crate::wire::Address;

/// How many of each are remembered: a service or server takes the place of another
/// one with the same last eight bits.
const ROOM: usize = 256;

#[derive(Clone, Copy, Debug)]
struct Known {
    /// Of the table that it was looked up in
    generation: u64,
    address: Address,
    port: u16,
    protocol: Protocol,
    id: ServiceId,
}

/// Services and next hops by what they were looked up by.
#[derive(Debug)]
pub(super) struct Recent {
    services: Box<[Option<Known>; ROOM]>,
    /// With the generation that the way belongs to
    hops: Box<[Option<(u64, Address, HopId)>; ROOM]>,
}

impl Recent {
    pub(super) fn new() -> Self {
        Recent { services: Box::new([None; ROOM]), hops: Box::new([None; ROOM]) }
    }

    /// The service of an address and port ([`ServiceTable::find`]).
    #[inline]
    pub(super) fn service<'a>(
        &mut self,
        services: &'a ServiceTable,
        tuple: &Tuple,
    ) -> Option<(ServiceId, &'a VirtualService)> {
        let Tuple { destination: address, destination_port: port, protocol, .. } = *tuple;
        let (_, low) = address.words();
        let place = (low as usize ^ usize::from(port)) % ROOM;
        let generation = services.generation();
        let id = match &self.services[place] {
            Some(known)
                if known.generation == generation
                    && (known.address, known.port, known.protocol) == (address, port, protocol) =>
            {
                known.id
            }
            _ => {
                let id = services.find(protocol, address, port)?;
                self.services[place] = Some(Known { generation, address, port, protocol, id });
                id
            }
        };
        Some((id, services.service(id)?))
    }

    /// The next hop towards a server, if it is known ([`NextHops::resolve`]).
    #[inline]
    pub(super) fn hop<'a>(
        &mut self,
        hops: &'a NextHops,
        id: ServerId,
        server: &RealServer,
    ) -> Option<(HopId, &'a NextHop)> {
        let place = id.0 as usize % ROOM;
        let hop = match self.hops[place] {
            Some((generation, address, hop))
                if generation == hops.generation() && address == server.address =>
            {
                hop
            }
            _ => {
                let Resolution::Hop(hop) = hops.resolve(server.address) else { return None };
                self.hops[place] = Some((hops.generation(), server.address, hop));
                hop
            }
        };
        Some((hop, hops.hop(hop)?))
    }
}
