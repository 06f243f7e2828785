//! The immutable service table and its builder.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::{
    FTP, Family, FtpPorts, MarkRules, Method, Protocol, RealServer, ServerId, ServiceId, ServiceKey,
    Tunables, VirtualService,
};
use crate::conn::{Timeouts, Tuple};
use crate::sched::{Roster, Rosters};
use crate::wire::Address;

/// Everything that a worker needs to know of services, at one instant.
#[derive(Debug, Default)]
pub struct ServiceTable {
    generation: u64,
    services: Vec<Option<VirtualService>>,
    servers: Vec<Option<RealServer>>,
    by_key: HashMap<ServiceKey, ServiceId>,
    /// Available servers by service, address and port
    by_address: HashMap<(ServiceId, Address, u16), ServerId>,
    marks: Arc<MarkRules>,
    /// Whether some server was removed and is there for its connections only
    has_removed: bool,
    /// Where packets of NAT servers come from; only if somebody will ask
    nat_servers: HashSet<(Protocol, Address, u16)>,
    /// NAT servers of UDP services with a persistence engine, by where their
    /// packets come from
    callers: HashMap<(Address, u16), ServerId>,
    timeouts: Timeouts,
    tunables: Tunables,
    /// The servers of each service as schedulers see them
    rosters: Arc<Rosters>,
}

impl ServiceTable {
    /// Number of the change that made this table; grows by at least one each.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// How long connections live (`ipvsadm --set`).
    #[inline]
    pub fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    /// How long connections to a server live.
    #[inline]
    pub fn timeouts_of<'a>(&'a self, server: &'a RealServer) -> &'a Timeouts {
        server.timeouts.as_deref().unwrap_or(&self.timeouts)
    }

    /// Whether packets from `address:port` are a NAT server's
    /// (`ip_vs_has_real_service`). A server that takes every port has none that
    /// its packets could be told by.
    pub fn is_nat_server(&self, protocol: Protocol, address: Address, port: u16) -> bool {
        self.nat_servers.contains(&(protocol, address, port))
    }

    /// The NAT server of a service with a persistence engine that datagrams from
    /// `address:port` are of, and so may begin a connection
    /// (`ip_vs_find_real_service`).
    #[inline]
    pub fn caller(&self, address: Address, port: u16) -> Option<ServerId> {
        if self.callers.is_empty() { None } else { self.callers.get(&(address, port)).copied() }
    }

    /// What schedulers go by, to make the next table with
    /// ([`ServiceTableBuilder::rosters`]).
    pub fn rosters(&self) -> &Arc<Rosters> {
        &self.rosters
    }

    /// What the scheduler of the service of a key goes by.
    pub(crate) fn roster(&self, key: &ServiceKey) -> Option<&Arc<Roster>> {
        self.rosters.of(self.id_of(key)?)
    }

    /// Settings of all services.
    #[inline]
    pub fn tunables(&self) -> &Tunables {
        &self.tunables
    }

    /// The rules that mark packets.
    #[inline]
    pub fn marks(&self) -> &Arc<MarkRules> {
        &self.marks
    }

    /// The service that begins a connection with a packet that was received
    /// on the director's interface of this number: that of its mark, else that
    /// of where it goes (`ip_vs_service_find`).
    #[inline]
    pub fn find_for(&self, tuple: &Tuple, interface: usize) -> Option<ServiceId> {
        let marked = || {
            let mark = self.marks.mark(tuple, interface);
            let family = Family::of(tuple.destination);
            (mark != 0).then(|| self.by_key.get(&ServiceKey::Mark { mark, family }).copied())?
        };
        let by_mark = if self.marks.is_empty() { None } else { marked() };
        by_mark
            .or_else(|| self.find(tuple.protocol, tuple.destination, tuple.destination_port))
            .or_else(|| self.find_ftp(tuple))
    }

    /// The service that a packet to `address:port` belongs to: that of the
    /// port, else that of all ports (`ip_vs_service_find`).
    #[inline]
    pub fn find(&self, protocol: Protocol, address: Address, port: u16) -> Option<ServiceId> {
        self.by_key
            .get(&ServiceKey::Address { protocol, address, port })
            .or_else(|| self.by_key.get(&ServiceKey::Address { protocol, address, port: 0 }))
            .copied()
    }

    /// The persistent FTP service that a data connection without a service of its
    /// own belongs to, so that its client's template decides: how DR and TUN,
    /// where nobody sees what the server says, have FTP (`ip_vs_service_find`).
    #[cold]
    pub fn find_ftp(&self, tuple: &Tuple) -> Option<ServiceId> {
        let Tuple { destination, source_port, destination_port: port, .. } = *tuple;
        let ports = &self.tunables.ftp;
        let data = port == FtpPorts::active(FTP) || ports.is_passive(port);
        // Active mode begins at the server (`ip_vs_schedule`).
        if tuple.protocol != Protocol::Tcp
            || !data
            || source_port == FtpPorts::active(FTP)
            || !ports.is_control(FTP)
        {
            return None;
        }
        let key = ServiceKey::Address { protocol: Protocol::Tcp, address: destination, port: FTP };
        let id = *self.by_key.get(&key)?;
        self.service(id).filter(|service| service.options.persistence.is_some()).map(|_| id)
    }

    /// The service of a key.
    #[inline]
    pub fn id_of(&self, key: &ServiceKey) -> Option<ServiceId> {
        self.by_key.get(key).copied()
    }

    /// The server of a service that has connections to `address:port`: that of
    /// the port, else one that takes every port, else one that a connection to
    /// another port than the service's may have (`ip_vs_find_dest`).
    pub fn server_at(&self, service: ServiceId, address: Address, port: u16) -> Option<ServerId> {
        let at = |port| self.by_address.get(&(service, address, port)).copied();
        at(port).or_else(|| at(0)).or_else(|| {
            let servers = self.service(service)?.servers.iter().copied();
            let mut of_address =
                servers.filter(|id| self.server(*id).is_some_and(|server| server.address == address));
            of_address.next()
        })
    }

    /// The service in a slot.
    #[inline]
    pub fn service(&self, id: ServiceId) -> Option<&VirtualService> {
        self.services.get(id.0 as usize)?.as_ref()
    }

    /// The real server in a slot, available or not.
    #[inline]
    pub fn server(&self, id: ServerId) -> Option<&RealServer> {
        self.servers.get(id.0 as usize)?.as_ref()
    }

    /// Every service with its slot.
    pub fn services(&self) -> impl Iterator<Item = (ServiceId, &VirtualService)> {
        self.services.iter().enumerate().filter_map(|(i, s)| Some((ServiceId(i as u32), s.as_ref()?)))
    }

    /// Every real server with its slot, removed ones that still have
    /// connections included.
    pub fn servers(&self) -> impl Iterator<Item = (ServerId, &RealServer)> {
        self.servers.iter().enumerate().filter_map(|(i, s)| Some((ServerId(i as u32), s.as_ref()?)))
    }

    /// Whether servers that were removed still have connections, or had when the
    /// table was made.
    #[inline]
    pub fn has_removed_servers(&self) -> bool {
        self.has_removed
    }

    /// One more than the highest service slot.
    pub fn service_slots(&self) -> usize {
        self.services.len()
    }
}

/// Collects services and servers into a [`ServiceTable`].
#[derive(Debug, Default)]
pub struct ServiceTableBuilder {
    table: ServiceTable,
}

impl ServiceTableBuilder {
    /// A table to be known by `generation`.
    pub fn new(generation: u64) -> Self {
        ServiceTableBuilder { table: ServiceTable { generation, ..ServiceTable::default() } }
    }

    /// Sets how long connections live.
    pub fn timeouts(&mut self, timeouts: Timeouts) -> &mut Self {
        self.table.timeouts = timeouts;
        self
    }

    /// Sets what is the same for all services. To be called before
    /// [`ServiceTableBuilder::server`].
    pub fn tunables(&mut self, tunables: Tunables) -> &mut Self {
        self.table.tunables = tunables;
        self
    }

    /// Lets schedulers go by the same as in a former service table where servers
    /// are the same: workers need not look at those, and tables of mh take some
    /// time to fill.
    pub fn rosters(&mut self, former: Arc<Rosters>) -> &mut Self {
        self.table.rosters = former;
        self
    }

    /// Sets the rules that mark packets.
    pub fn marks(&mut self, marks: Arc<MarkRules>) -> &mut Self {
        self.table.marks = marks;
        self
    }

    /// Puts a service into its slot.
    ///
    /// # Panics
    /// When the slot or the key is taken: slots are handed out by control, and
    /// two services in one would mix up connections.
    pub fn service(&mut self, id: ServiceId, service: VirtualService) -> &mut Self {
        let taken = self.table.by_key.insert(service.key, id);
        assert!(taken.is_none(), "two services for {:?}", service.key);
        put(&mut self.table.services, id.0, service);
        self
    }

    /// Puts a real server into its slot.
    ///
    /// # Panics
    /// When the slot is taken.
    pub fn server(&mut self, id: ServerId, server: RealServer) -> &mut Self {
        if self.table.tunables.nat_icmp_send && server.method == Method::Nat && server.available {
            let (address, port) = (server.address, server.port);
            let ends = server.service_key.protocols().iter().map(|protocol| (*protocol, address, port));
            self.table.nat_servers.extend(ends);
        }
        if server.available {
            self.table.by_address.insert((server.service, server.address, server.port), id);
        }
        self.table.has_removed |= !server.available;
        put(&mut self.table.servers, id.0, server);
        self
    }

    /// The finished table.
    pub fn build(mut self) -> ServiceTable {
        self.table.callers = self.callers();
        for (id, service) in self.table.services() {
            for server in &service.servers {
                assert!(
                    self.table.server(*server).is_some_and(|s| s.service == id),
                    "{id:?} lists {server:?}, which is not its own"
                );
            }
        }
        self.table.rosters = Arc::new(self.rosters_of_now());
        self.table
    }

    fn rosters_of_now(&self) -> Rosters {
        let mut rosters = Rosters::new(self.table.generation);
        for (id, service) in self.table.services() {
            let servers = service.servers.iter().filter_map(|id| Some((*id, self.table.server(*id)?)));
            rosters.enter(id, service, servers, &self.table.rosters);
        }
        rosters
    }

    fn callers(&self) -> HashMap<(Address, u16), ServerId> {
        let calls = |service: &VirtualService| {
            let is_of_one_port = matches!(service.key,
                ServiceKey::Address { protocol: Protocol::Udp, port, .. } if port != 0);
            is_of_one_port && service.options.persistence.is_some() && service.options.engine.is_some()
        };
        let services = self.table.services().filter(|(_, service)| calls(service));
        let servers = services.flat_map(|(_, service)| service.servers.iter());
        servers
            .filter_map(|id| {
                let server = self.table.server(*id)?;
                let calls = server.method == Method::Nat && server.available && server.port != 0;
                calls.then_some(((server.address, server.port), *id))
            })
            .collect()
    }
}

fn put<T>(slots: &mut Vec<Option<T>>, index: u32, value: T) {
    let index = index as usize;
    if slots.len() <= index {
        slots.resize_with(index + 1, || None);
    }
    assert!(slots[index].is_none(), "slot {index} is taken");
    slots[index] = Some(value);
}
