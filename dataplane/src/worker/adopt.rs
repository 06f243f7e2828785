//! Taking up a new service table, a portion between two bursts.
//!
//! From the first burst on, packets go by the new table. A scheduler takes note
//! of it before its next choice, or when its turn comes, whichever is first.
//! Only then is the table adopted, and only after that another one taken up:
//! every scheduler thus sees every table that its worker takes up, as if all
//! had been told at once.

use std::sync::Arc;

use super::flow::Flows;
use crate::sched::{Arrival, Scheduler};
use crate::service::{ServerId, ServiceId, ServiceTable, VirtualService};

/// Services and servers that are gone through between two bursts: some ten
/// microseconds if nothing is in the cache. One service may exceed it.
const SLICE: usize = if cfg!(test) { 4 } else { 128 };

/// Schedulers of a chunk.
const CHUNK: usize = 64;

/// Schedulers by service slot, in chunks that stay where they are: growing
/// copies nothing.
#[derive(Default)]
pub(super) struct Schedulers {
    chunks: Vec<Box<[Option<Scheduler>; CHUNK]>>,
    /// One more than the highest slot that ever had one
    slots: usize,
}

impl Schedulers {
    fn slot(&mut self, slot: usize) -> Option<&mut Option<Scheduler>> {
        self.chunks.get_mut(slot / CHUNK)?.get_mut(slot % CHUNK)
    }

    /// The place of a slot, which is made if there is none yet.
    fn made(&mut self, slot: usize) -> &mut Option<Scheduler> {
        while self.chunks.len() <= slot / CHUNK {
            self.chunks.push(Box::new([const { None }; CHUNK]));
        }
        self.slots = self.slots.max(slot + 1);
        &mut self.chunks[slot / CHUNK][slot % CHUNK]
    }
}

/// A table that was taken up and that some schedulers do not know yet.
pub(super) struct Adoption {
    /// The next service slot to look after
    next: usize,
    /// The table before. As long as schedulers go by it, it has to be there, or
    /// the last of them would free its servers' counters.
    _former: Arc<ServiceTable>,
}

impl Flows {
    /// Begins to adopt a table that takes the place of `former`. Must not be
    /// called while another one is being adopted.
    pub(super) fn begin_adoption(&mut self, former: Arc<ServiceTable>) {
        self.adoption = Some(Adoption { next: 0, _former: former });
    }

    /// Whether schedulers have yet to take note of the table.
    #[inline]
    pub(super) fn is_adopting(&self) -> bool {
        self.adoption.is_some()
    }

    /// Goes on with it; returns whether that was the end.
    pub(super) fn adopt(&mut self, table: &ServiceTable, now: u32) -> bool {
        let Some(adoption) = &mut self.adoption else { return false };
        let end = table.service_slots().max(self.schedulers.slots);
        let mut work = 0;
        while adoption.next < end && work < SLICE {
            let slot = adoption.next;
            adoption.next += 1;
            work += 1;
            match table.service(ServiceId(slot as u32)) {
                Some(service) => {
                    let scheduler = self.schedulers.made(slot);
                    let before = scheduler.as_ref().map_or(0, Scheduler::servers);
                    bring_up_to_date(scheduler, service, table, now);
                    work += before + service.servers.len();
                }
                None => {
                    let gone = self.schedulers.slot(slot).and_then(Option::take);
                    work += gone.map_or(0, |gone| gone.servers());
                }
            }
        }
        if adoption.next < end {
            return false;
        }
        self.adoption = None;
        true
    }

    /// The choice of a service's scheduler for a new connection.
    #[inline]
    pub(super) fn choose(
        &mut self,
        id: ServiceId,
        service: &VirtualService,
        table: &ServiceTable,
        arrival: &Arrival,
    ) -> Option<ServerId> {
        self.scheduler(id, service, table, arrival.now)?.schedule(service, table, arrival)
    }

    /// What [`Flows::choose`] would answer now, with nobody's turn taken.
    pub(super) fn peek(
        &mut self,
        id: ServiceId,
        service: &VirtualService,
        table: &ServiceTable,
        arrival: &Arrival,
    ) -> Option<ServerId> {
        self.scheduler(id, service, table, arrival.now)?.peek(service, table, arrival)
    }

    /// The scheduler of a service, as of this table.
    #[inline]
    fn scheduler(
        &mut self,
        id: ServiceId,
        service: &VirtualService,
        table: &ServiceTable,
        now: u32,
    ) -> Option<&mut Scheduler> {
        let slot = id.0 as usize;
        if self.adoption.as_ref().is_some_and(|adoption| slot >= adoption.next) {
            bring_up_to_date(self.schedulers.made(slot), service, table, now);
        }
        self.schedulers.slot(slot)?.as_mut()
    }
}

/// Lets a slot's scheduler take note of a table, if it did not already.
fn bring_up_to_date(
    scheduler: &mut Option<Scheduler>,
    service: &VirtualService,
    table: &ServiceTable,
    now: u32,
) {
    match scheduler {
        Some(scheduler) => scheduler.follow(service, table, now),
        None => *scheduler = Some(Scheduler::new(service, table, now)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::conn::Seed;
    use crate::service::{
        Encapsulation, Method, Protocol, RealServer, SchedulerFlags, SchedulerKind, ServiceKey,
        ServiceOptions, ServiceTableBuilder, Thresholds,
    };
    use crate::stats::{ServerCounters, TrafficCounters};
    use crate::wire::Address;
    use crate::worker::owners::Owners;

    const SERVICES: u32 = 6;

    /// What a service is in one table: its scheduler, and the weight of each
    /// server that it has, the last added first.
    type Shape = Option<(SchedulerKind, Vec<(u8, u32)>)>;

    #[derive(Clone, Debug)]
    enum Step {
        /// Control publishes a table that differs in one service
        Publish(u32, Shape),
        /// The worker polls
        Poll,
        /// A connection to a service
        Open(u32, u8),
    }

    fn a_shape() -> impl Strategy<Value = Shape> {
        let kinds = prop::sample::select(SchedulerKind::ALL.to_vec());
        let servers = prop::collection::btree_map(0u8..5, 0u32..5, 0..5);
        let order = |servers: BTreeMap<_, _>| Just(servers.into_iter().collect::<Vec<_>>()).prop_shuffle();
        prop::option::weighted(0.8, (kinds, servers.prop_flat_map(order)))
    }

    fn a_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            2 => (0..SERVICES, a_shape()).prop_map(|(service, shape)| Step::Publish(service, shape)),
            3 => Just(Step::Poll),
            5 => (0..SERVICES, any::<u8>()).prop_map(|(service, client)| Step::Open(service, client)),
        ]
    }

    fn table(generation: u64, shapes: &[Shape], counters: &[Arc<ServerCounters>]) -> Arc<ServiceTable> {
        let mut builder = ServiceTableBuilder::new(generation);
        let traffic = Arc::new(TrafficCounters::new(1));
        for (service, shape) in (0..).zip(shapes) {
            let Some((scheduler, servers)) = shape else { continue };
            let address = Address::from_v4([192, 0, 2, service as u8]);
            let key = ServiceKey::Address { protocol: Protocol::Tcp, address, port: 80 };
            let slot = |number: u8| ServerId(service * 8 + u32::from(number));
            for (number, weight) in servers {
                let server = RealServer {
                    service: ServiceId(service),
                    service_key: key,
                    address: Address::from_v4([10, 0, service as u8, *number]),
                    port: 80,
                    method: Method::Nat,
                    encapsulation: Encapsulation::Ipip,
                    weight: *weight,
                    last_weight: *weight,
                    timeouts: None,
                    thresholds: Thresholds::default(),
                    edits: 0,
                    available: true,
                    counters: Arc::clone(&counters[slot(*number).0 as usize]),
                    service_counters: Arc::clone(&traffic),
                };
                builder.server(slot(*number), server);
            }
            let service_of_it = VirtualService {
                key,
                scheduler: *scheduler,
                scheduler_flags: SchedulerFlags::default(),
                servers: servers.iter().map(|(number, _)| slot(*number)).collect(),
                local_addresses: Vec::new(),
                options: ServiceOptions::default(),
                counters: Arc::clone(&traffic),
            };
            builder.service(ServiceId(service), service_of_it);
        }
        Arc::new(builder.build())
    }

    /// All schedulers are told of a table as soon as it is taken up.
    #[derive(Default)]
    struct AtOnce(BTreeMap<u32, Scheduler>);

    impl AtOnce {
        fn adopt(&mut self, table: &ServiceTable) {
            self.0.retain(|slot, _| table.service(ServiceId(*slot)).is_some());
            for (id, service) in table.services() {
                match self.0.get_mut(&id.0) {
                    Some(scheduler) => scheduler.update(service, table, 0),
                    None => _ = self.0.insert(id.0, Scheduler::new(service, table, 0)),
                }
            }
        }
    }

    fn alone() -> Flows {
        let seed = Seed::new([1; 16]);
        Flows::new(0, vec![Arc::default()], Arc::new(Owners::new(1, 8, seed)), 8, seed, 0)
    }

    proptest! {
        /// Whenever connections come, they get the servers that they would get
        /// if all schedulers were told of a table at once.
        #[test]
        fn schedules_as_if_all_were_told_at_once(steps in prop::collection::vec(a_step(), 1..120)) {
            let counters: Vec<_> = (0..SERVICES * 8).map(|_| Arc::new(ServerCounters::new(1))).collect();
            let mut shapes = vec![None; SERVICES as usize];
            let mut published = table(0, &shapes, &counters);
            let mut view = Arc::clone(&published);
            let mut flows = alone();
            let mut model = AtOnce::default();
            for step in steps {
                match step {
                    Step::Publish(service, shape) => {
                        shapes[service as usize] = shape;
                        published = table(published.generation() + 1, &shapes, &counters);
                    }
                    Step::Poll => {
                        if !flows.is_adopting() && !Arc::ptr_eq(&published, &view) {
                            flows.begin_adoption(std::mem::replace(&mut view, Arc::clone(&published)));
                            model.adopt(&view);
                        }
                        flows.adopt(&view, 0);
                    }
                    Step::Open(service, client) => {
                        let id = ServiceId(service);
                        let Some(service) = view.service(id) else { continue };
                        let arrival = Arrival {
                            source: Address::from_v4([198, 51, 100, client]),
                            source_port: 1000,
                            destination: Address::from_v4([203, 0, 113, client % 4]),
                            now: 0,
                        };
                        let chosen = flows.choose(id, service, &view, &arrival);
                        let scheduler = model.0.get_mut(&id.0).expect("one for each service");
                        prop_assert_eq!(chosen, scheduler.schedule(service, &view, &arrival));
                        if let Some(server) = chosen {
                            counters[server.0 as usize].share(0).active.add(1);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_table_is_adopted_once_every_scheduler_knows_it() {
        let counters: Vec<_> = (0..SERVICES * 8).map(|_| Arc::new(ServerCounters::new(1))).collect();
        let shape = Some((SchedulerKind::Rr, vec![(1, 1), (0, 1)]));
        let table = table(1, &vec![shape; SERVICES as usize], &counters);
        let mut flows = alone();
        flows.begin_adoption(Arc::default());
        let rounds = (1..).find(|_| flows.adopt(&table, 0)).expect("an end");
        // Two services with two servers each are more than a portion.
        assert_eq!((rounds, flows.is_adopting()), (SERVICES / 2, false));
        assert!(!flows.adopt(&table, 0));
    }
}
