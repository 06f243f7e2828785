//! Service tables for benchmarks.

use std::sync::Arc;

use sluice_dataplane::service::{
    Encapsulation, Method, Protocol, RealServer, SchedulerFlags, SchedulerKind, ServerId, ServiceId,
    ServiceKey, ServiceOptions, ServiceTableBuilder, Thresholds, VirtualService,
};
use sluice_dataplane::stats::{ServerCounters, TrafficCounters};
use sluice_dataplane::wire::Address;

/// Address of the service.
pub const VIP: [u8; 4] = [192, 0, 2, 10];
/// Port of the service and of its servers.
pub const SERVICE_PORT: u16 = 53;
/// The first local address for FULLNAT.
pub(super) const LOCAL_FIRST: [u8; 4] = [10, 0, 2, 200];
const LOCAL_ADDRESSES: u8 = 16;

/// The address of a real server, counted from 0.
#[must_use]
pub const fn server_address(number: u32) -> [u8; 4] {
    let [_, a, b, c] = (number + 1).to_be_bytes();
    [10, a, 2 + b, c]
}

/// One service, whose counters are the same in each of its tables.
#[derive(Debug)]
pub struct Rules {
    method: Method,
    counters: Arc<TrafficCounters>,
    pub(super) servers: Vec<Arc<ServerCounters>>,
}

impl Rules {
    /// A service with so many servers, reached by a method.
    #[must_use]
    pub fn new(method: Method, servers: u32) -> Self {
        let counters = Arc::new(TrafficCounters::new(1));
        Rules { method, counters, servers: (0..servers).map(|_| Arc::new(ServerCounters::new(1))).collect() }
    }

    /// A table of it alone, in slot 0 and with its servers in the first slots.
    #[must_use]
    pub fn table(&self, generation: u64, scheduler: SchedulerKind) -> ServiceTableBuilder {
        let mut builder = ServiceTableBuilder::new(generation);
        self.add_to(&mut builder, ServiceId(0), ServerId(0), key(), scheduler);
        builder
    }

    /// Adds the service in a slot and its servers from a slot on.
    fn add_to(
        &self,
        builder: &mut ServiceTableBuilder,
        id: ServiceId,
        first: ServerId,
        key: ServiceKey,
        scheduler: SchedulerKind,
    ) {
        let servers: Vec<_> = (first.0..).map(ServerId).take(self.servers.len()).collect();
        for (number, (server, counters)) in servers.iter().zip(&self.servers).enumerate() {
            builder.server(*server, self.server(id, key, number as u32, Arc::clone(counters)));
        }
        builder.service(id, self.service(key, scheduler, servers));
    }

    pub(super) fn service(
        &self,
        key: ServiceKey,
        scheduler: SchedulerKind,
        servers: Vec<ServerId>,
    ) -> VirtualService {
        let [a, b, c, first] = LOCAL_FIRST;
        VirtualService {
            key,
            scheduler,
            scheduler_flags: SchedulerFlags::default(),
            servers,
            local_addresses: (0..LOCAL_ADDRESSES).map(|i| Address::from_v4([a, b, c, first + i])).collect(),
            options: ServiceOptions::default(),
            counters: Arc::clone(&self.counters),
        }
    }

    pub(super) fn server(
        &self,
        service: ServiceId,
        key: ServiceKey,
        number: u32,
        counters: Arc<ServerCounters>,
    ) -> RealServer {
        // Weights differ, for the schedulers that go by them.
        let weight = 1 + number % 4;
        RealServer {
            service,
            service_key: key,
            address: Address::from_v4(server_address(number)),
            port: SERVICE_PORT,
            method: self.method,
            encapsulation: Encapsulation::Ipip,
            weight,
            last_weight: weight,
            thresholds: Thresholds::default(),
            edits: 0,
            timeouts: None,
            available: true,
            counters,
            service_counters: Arc::clone(&self.counters),
        }
    }
}

/// What the service is known by.
pub(super) fn key() -> ServiceKey {
    ServiceKey::Address { protocol: Protocol::Udp, address: Address::from_v4(VIP), port: SERVICE_PORT }
}

/// Services of mh that are swapped, and servers of each.
const MAGLEVS: u32 = 100;
const MAGLEV_SERVERS: u32 = 16;

/// Adds services behind `count` of [`add_others`]: 100 of mh, and one that has all the servers of `crowd`, with other
/// weights in each generation.
pub(super) fn add_large(builder: &mut ServiceTableBuilder, generation: u64, count: u32, crowd: &Rules) {
    let mut first = FIRST_SERVER + 2 * count;
    for number in 0..MAGLEVS {
        let address = Address::from_v4([198, 20 + (generation % 2) as u8, 0, number as u8]);
        let key = ServiceKey::Address { protocol: Protocol::Tcp, address, port: 443 };
        let id = ServiceId(1 + count + number);
        let rules = Rules::new(Method::FullNat, MAGLEV_SERVERS);
        rules.add_to(builder, id, ServerId(first), key, SchedulerKind::Mh);
        first += MAGLEV_SERVERS;
    }
    let id = ServiceId(1 + count + MAGLEVS);
    let key = ServiceKey::Address { protocol: Protocol::Tcp, address: Address::from_v4(VIP), port: 443 };
    let servers: Vec<_> = (first..).map(ServerId).take(crowd.servers.len()).collect();
    for ((server, counters), number) in servers.iter().zip(&crowd.servers).zip(0..) {
        let mut made = crowd.server(id, key, number, Arc::clone(counters));
        made.weight = 1 + (number + generation as u32) % 4;
        made.last_weight = made.weight;
        builder.server(*server, made);
    }
    builder.service(id, crowd.service(key, SchedulerKind::Wlc, servers));
}

/// The slot of the first server of other services, behind those of the first.
const FIRST_SERVER: u32 = 1024;

/// Adds `count` services with two servers each. Those of one generation are not those of another.
pub fn add_others(builder: &mut ServiceTableBuilder, generation: u64, count: u32) {
    for number in 0..count {
        let [_, _, high, low] = number.to_be_bytes();
        let address = Address::from_v4([198, 18 + (generation % 2) as u8, high, low]);
        let key = ServiceKey::Address { protocol: Protocol::Tcp, address, port: 443 };
        let (id, first) = (ServiceId(1 + number), ServerId(FIRST_SERVER + 2 * number));
        Rules::new(Method::FullNat, 2).add_to(builder, id, first, key, SchedulerKind::Wlc);
    }
}
