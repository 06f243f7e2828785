//! Taking up a new service table, a portion between two bursts.
//!
//! First it is prepared for: as long as that takes, packets go by the table
//! before, while what is to be known of services with many servers is found out
//! ([`Prepared`]). From the first burst after that on, packets go by the new table. A
//! scheduler takes note of it before its next choice, or when its turn comes,
//! whichever is first. Only then is the table adopted, and only after that another
//! one taken up: every scheduler thus sees every table that its worker takes up, as
//! if all had been told at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::flow::Flows;
use crate::sched::{Arrival, Movements, Prepared, Scheduler};
use crate::service::{RealServer, ServerId, ServiceId, ServiceTable, VirtualService};

/// Services that are gone through between two bursts, and servers that changed in
/// them: some ten microseconds if nothing is in the cache. One service may exceed
/// it.
const SLICE: usize = if cfg!(test) { 4 } else { 128 };

/// Servers that are looked at between two bursts to prepare for a table: some
/// fifty microseconds if nothing is in the cache.
const PREPARED: usize = if cfg!(test) { 4 } else { 1024 };

/// So often at most, what was prepared is brought up to date before it is used.
const REFRESHED: u32 = 8;

/// Schedulers of a chunk.
const CHUNK: usize = 64;

/// Schedulers by service slot, in chunks that stay where they are: growing
/// copies nothing.
#[derive(Default)]
pub(super) struct Schedulers {
    chunks: Vec<Box<[Option<Scheduler>; CHUNK]>>,
    /// One more than the highest slot that ever had one
    slots: usize,
    /// Slots of those that have to be looked after
    tended: Vec<u32>,
    /// Which of them is next
    turn: usize,
    /// Those of services that are gone, which remember much
    leaving: Vec<Scheduler>,
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

    /// Takes note that a service is gone; returns how many servers it had.
    fn remove(&mut self, slot: usize) -> usize {
        let Some(gone) = self.slot(slot).and_then(Option::take) else { return 0 };
        let servers = gone.servers();
        if gone.is_tended() {
            self.leaving.push(gone);
        }
        servers
    }

    /// Looks after one of those that need it.
    fn tend(&mut self, now: u32) {
        if self.leaving.last_mut().is_some_and(Scheduler::dismantle) {
            self.leaving.pop();
        }
        if self.tended.is_empty() {
            return;
        }
        self.turn = (self.turn + 1) % self.tended.len();
        let slot = self.tended[self.turn] as usize;
        match self.slot(slot).and_then(Option::as_mut) {
            Some(scheduler) if scheduler.is_tended() => scheduler.tend(now),
            other => {
                other.into_iter().for_each(|scheduler| scheduler.is_listed = false);
                self.tended.swap_remove(self.turn);
            }
        }
    }
}

/// What is made ready for a table that is to be taken up.
pub(super) struct Preparation {
    table: Arc<ServiceTable>,
    /// The next of its services with many servers
    next: usize,
    /// What is being made for the service before that
    making: Option<(ServiceId, Prepared)>,
    made: BTreeMap<ServiceId, Prepared>,
    /// How often it may be brought up to date yet
    refreshes: u32,
}

impl Preparation {
    fn new(table: Arc<ServiceTable>) -> Self {
        Preparation { table, next: 0, making: None, made: BTreeMap::new(), refreshes: REFRESHED }
    }

    /// Goes on by a portion; returns whether the table can be taken up.
    fn proceed(&mut self, schedulers: &mut Schedulers, movements: &Arc<Movements>, worker: usize) -> bool {
        let mut budget = PREPARED;
        while budget > 0 {
            if let Some((id, mut prepared)) = self.making.take() {
                if prepared.proceed(&mut budget) {
                    self.made.insert(id, prepared);
                } else {
                    self.making = Some((id, prepared));
                }
                continue;
            }
            let Some(id) = self.table.rosters().long().get(self.next).copied() else {
                self.refreshes = self.refreshes.saturating_sub(1);
                let stale = self.made.values_mut().filter_map(|one| (!one.refresh()).then_some(()));
                return stale.count() == 0 || self.refreshes == 0;
            };
            self.next += 1;
            budget -= 1;
            let scheduler = schedulers.slot(id.0 as usize).and_then(|scheduler| scheduler.as_ref());
            let service = self.table.service(id);
            let begun = service
                .and_then(|service| Prepared::begin(scheduler, service, &self.table, (movements, worker)));
            self.making = begun.map(|prepared| (id, prepared));
        }
        false
    }
}

/// A table that was taken up and that some schedulers do not know yet.
pub(super) struct Adoption {
    /// The next service slot to look after
    next: usize,
    prepared: BTreeMap<ServiceId, Prepared>,
    /// The table before. As long as schedulers go by it, it has to be there, or
    /// the last of them would free its servers' counters.
    _former: Arc<ServiceTable>,
}

impl Flows {
    /// Whether a table is being prepared for or adopted.
    #[inline]
    pub(super) fn is_taking_up(&self) -> bool {
        self.preparation.is_some() || self.adoption.is_some()
    }

    /// Prepares for a table, by a portion; `published` is the newest one, for when
    /// none is prepared for yet. Returns the table once it can be taken up: if it is
    /// the `first`, at once, as no packet can be forwarded before. Must not be
    /// called while another one is being adopted.
    pub(super) fn prepare(
        &mut self,
        first: bool,
        published: impl FnOnce() -> Option<Arc<ServiceTable>>,
    ) -> Option<Arc<ServiceTable>> {
        if self.preparation.is_none() {
            self.preparation = published().map(Preparation::new);
        }
        let preparation = self.preparation.as_mut()?;
        let mut is_ready = preparation.proceed(&mut self.schedulers, &self.movements, self.worker);
        while first && !is_ready {
            is_ready = preparation.proceed(&mut self.schedulers, &self.movements, self.worker);
        }
        is_ready.then(|| Arc::clone(&preparation.table))
    }

    /// Begins to adopt a table that takes the place of `former`. Must not be
    /// called while another one is being adopted.
    pub(super) fn begin_adoption(&mut self, former: Arc<ServiceTable>) {
        let prepared = self.preparation.take().map_or_else(BTreeMap::new, |preparation| preparation.made);
        self.adoption = Some(Adoption { next: 0, prepared, _former: former });
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
            let id = ServiceId(slot as u32);
            work += match table.service(id) {
                Some(service) => {
                    let prepared = adoption.prepared.remove(&id);
                    let told = Told { id, service, table, prepared, now };
                    self.schedulers.bring_up_to_date(told, &self.movements, self.worker)
                }
                None => self.schedulers.remove(slot),
            };
        }
        if adoption.next < end {
            return false;
        }
        self.adoption = None;
        true
    }

    /// Looks after schedulers that need it, by a portion.
    pub(super) fn tend_schedulers(&mut self, now: u32) {
        self.schedulers.tend(now);
    }

    /// To be called after the connections of a server, active or inactive, became
    /// more or fewer.
    #[inline]
    pub(super) fn connections_changed(&self, id: ServerId, server: &RealServer) {
        server.connections_changed();
        self.movements.note(self.worker, id);
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
        if let Some(adoption) = self.adoption.as_mut().filter(|adoption| slot >= adoption.next) {
            let prepared = adoption.prepared.remove(&id);
            let told = Told { id, service, table, prepared, now };
            self.schedulers.bring_up_to_date(told, &self.movements, self.worker);
        }
        self.schedulers.slot(slot)?.as_mut()
    }
}

/// What a scheduler is told of a table.
struct Told<'a> {
    id: ServiceId,
    service: &'a VirtualService,
    table: &'a ServiceTable,
    prepared: Option<Prepared>,
    now: u32,
}

impl Schedulers {
    /// Lets a slot's scheduler take note of a table, if it did not already.
    /// Returns about how many servers had to be looked at.
    fn bring_up_to_date(&mut self, told: Told, movements: &Arc<Movements>, worker: usize) -> usize {
        let Told { id, service, table, prepared, now } = told;
        let slot = self.made(id.0 as usize);
        let looked_at = match slot {
            Some(scheduler) if scheduler.generation() == table.generation() => 0,
            Some(scheduler) => scheduler.update_by(prepared, service, table, now),
            None => {
                let is_prepared = prepared.is_some();
                let fresh = Scheduler::watching((movements, worker), service, table, now, prepared);
                let servers = if is_prepared { 0 } else { fresh.servers() };
                *slot = Some(fresh);
                servers
            }
        };
        if let Some(scheduler) =
            slot.as_mut().filter(|scheduler| scheduler.is_tended() && !scheduler.is_listed)
        {
            scheduler.is_listed = true;
            self.tended.push(id.0);
        }
        looked_at
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
        Flows::new(
            0,
            vec![Arc::default()],
            Arc::new(Owners::new(1, 8, seed)),
            Arc::new(Movements::new(1)),
            8,
            seed,
            0,
        )
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
                        if !flows.is_adopting() {
                            let newest = || (!Arc::ptr_eq(&published, &view)).then(|| Arc::clone(&published));
                            if let Some(next) = flows.prepare(false, newest) {
                                flows.begin_adoption(std::mem::replace(&mut view, next));
                                model.adopt(&view);
                            }
                        }
                        flows.tend_schedulers(0);
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
                            flows.movements.note(0, server);
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
