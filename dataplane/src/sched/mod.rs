//! Schedulers, one file each: which server gets a new connection.
//!
//! Orders are those of IPVS to the last connection, as users compare them, and
//! where a scheduler hashes, every client has the server that it has in IPVS. A
//! [`Scheduler`] keeps what IPVS keeps beside a service
//! (`svc->sched_data`), one for each worker and service: with several workers,
//! each has its own turn. The counters that lc, wlc, sed, nq, lblc, lblcr and
//! ovf go by are summed over all workers, and so is what thresholds limit.
//!
//! IPVS tells a scheduler of every server that is added, removed or edited.
//! Here a worker only sees one table replace another, so [`Scheduler::update`]
//! finds out what happened in between: removals first, then edits, then
//! additions, the oldest first. That equals IPVS wherever a table differs by
//! one command from the one before. A service that is loaded at once behaves as
//! if its servers had been added in turn, which matters to wrr. An edit that
//! changes nothing is told by [`RealServer::edits`].

mod dh;
mod fo;
mod hash;
mod lblc;
mod lblcr;
mod lc;
mod locality;
mod maglev;
mod mh;
mod nq;
mod ovf;
mod rr;
mod sed;
mod sh;
mod wlc;
mod wrr;

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use crate::service::{
    Method, RealServer, SchedulerKind, ServerId, ServiceKey, ServiceTable, Thresholds, Tunables,
    VirtualService,
};
use crate::stats::ServerCounters;
use crate::wire::Address;

pub use maglev::Maglevs;
pub(crate) use maglev::{Basis, Maglev};

/// What schedulers look at in the packet that begins a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arrival {
    /// The client's address
    pub source: Address,
    /// The client's port in host order; 0 where there is none
    pub source_port: u16,
    /// The address that it came to: the VIP, or whatever has the mark
    pub destination: Address,
    /// Now, in ticks of [`timer`](crate::conn::timer)
    pub now: u32,
}

/// A server as schedulers see it: what they need of the table, side by side.
#[derive(Clone, Debug)]
struct Member {
    id: ServerId,
    weight: u32,
    last_weight: u32,
    method: Method,
    thresholds: Thresholds,
    edits: u32,
    counters: Arc<ServerCounters>,
}

impl Member {
    fn new(id: ServerId, server: &RealServer) -> Self {
        Member {
            id,
            weight: server.weight,
            last_weight: server.last_weight,
            method: server.method,
            thresholds: server.thresholds,
            edits: server.edits,
            counters: server.counters.clone(),
        }
    }

    /// Whether this is `server` in slot `id`; the slot may have been given to
    /// another server in the meantime, but counters are never shared.
    fn is(&self, id: ServerId, server: &RealServer) -> bool {
        self.id == id && Arc::ptr_eq(&self.counters, &server.counters)
    }

    /// Takes over what `ipvsadm -e` can change; returns whether it did.
    fn edit(&mut self, server: &RealServer) -> bool {
        let RealServer { weight, last_weight, method, thresholds, edits, .. } = *server;
        let before = (self.weight, self.last_weight, self.method, self.thresholds, self.edits);
        (self.weight, self.last_weight, self.method, self.thresholds, self.edits) =
            (weight, last_weight, method, thresholds, edits);
        before != (weight, last_weight, method, thresholds, edits)
    }

    /// Whether it has as many connections as it may have
    /// (`IP_VS_DEST_F_OVERLOAD`).
    #[inline]
    fn is_overloaded(&self) -> bool {
        self.thresholds.upper != 0 && self.counters.overload().is_on()
    }

    /// Whether new connections may go to it.
    #[inline]
    fn takes(&self) -> bool {
        self.weight > 0 && !self.is_overloaded()
    }

    /// What a server has to do for its connections: an active one counts as
    /// much as 256 others (`ip_vs_dest_conn_overhead`).
    #[inline]
    fn overhead(&self) -> u64 {
        overhead(&self.counters)
    }
}

#[inline]
fn overhead(counters: &ServerCounters) -> u64 {
    (counters.active() << 8).wrapping_add(counters.inactive())
}

/// The servers that new connections may go to, with their places.
#[inline]
fn taking(servers: &[Member]) -> impl Iterator<Item = (usize, &Member)> {
    servers.iter().enumerate().filter(|(_, server)| server.takes())
}

/// Of several servers that of the least load for its weight, the first of
/// equals.
#[inline]
fn least_loaded<'a>(
    servers: impl Iterator<Item = (usize, &'a Member)>,
    load: impl Fn(&Member) -> u64,
) -> Option<usize> {
    let loads = servers.map(|(place, server)| (place, load(server), server.weight));
    let least = loads.reduce(|least, other| {
        let ((_, a, v), (_, b, w)) = (least, other);
        if lighter_or_equal((a, v), (b, w)) { least } else { other }
    });
    least.map(|(place, ..)| place)
}

/// Whether a/v <= b/w, of loads a and b and weights v and w: without dividing,
/// and wide, as weights have up to 32 bits.
#[inline]
fn lighter_or_equal((a, v): (u64, u32), (b, w): (u64, u32)) -> bool {
    u128::from(a) * u128::from(w) <= u128::from(b) * u128::from(v)
}

/// A way to choose among the servers of a service, with IPVS's callbacks.
///
/// Servers are given in IPVS order, the last added first, and are referred to
/// by their places in it.
trait Algorithm: Debug + Send {
    /// A server was added in front of the others (`add_dest`).
    fn added(&mut self, _servers: &[Member]) {}

    /// The server at `place` was removed (`del_dest`).
    fn removed(&mut self, _place: usize, _gone: &Member) {}

    /// The server at `place`, which had the weight `former`, was edited
    /// (`upd_dest`).
    fn edited(&mut self, _servers: &[Member], _place: usize, _former: u32) {}

    /// Settings that hold for all services; they may have changed.
    fn tune(&mut self, _tunables: &Tunables) {}

    /// All changes of a new table were told; the service may have changed as
    /// well. For what is too dear to be done for each change by itself.
    fn settled(&mut self, _servers: &[Member], _service: &VirtualService, _table: &ServiceTable) {}

    /// What [`Algorithm::choose`] would answer now. What it remembers for good
    /// stays as it is.
    fn peek(&mut self, servers: &[Member], arrival: &Arrival) -> Option<usize>;

    /// The place of the server for the next connection, if one takes any.
    #[inline]
    fn choose(&mut self, servers: &[Member], arrival: &Arrival) -> Option<usize> {
        self.peek(servers, arrival)
    }
}

/// The state of a scheduler that is put in charge of these servers, all at
/// once and at time `now` (`init_service`).
fn put_in_charge(kind: SchedulerKind, servers: &[Member], now: u32) -> Box<dyn Algorithm> {
    match kind {
        SchedulerKind::Rr => Box::new(rr::RoundRobin::default()),
        SchedulerKind::Wrr => Box::new(wrr::WeightedRoundRobin::new(servers)),
        SchedulerKind::Lc => Box::new(lc::LeastConnections),
        SchedulerKind::Wlc => Box::new(wlc::WeightedLeastConnections),
        SchedulerKind::Sh => Box::new(sh::SourceHashing::default()),
        SchedulerKind::Dh => Box::new(dh::DestinationHashing::default()),
        SchedulerKind::Sed => Box::new(sed::ShortestExpectedDelay),
        SchedulerKind::Nq => Box::new(nq::NeverQueue),
        SchedulerKind::Lblc => Box::new(lblc::LocalityBased::new(now)),
        SchedulerKind::Lblcr => Box::new(lblcr::Replicated::new(now)),
        SchedulerKind::Mh => Box::new(mh::MaglevHashing::default()),
        SchedulerKind::Fo => Box::new(fo::Failover),
        SchedulerKind::Ovf => Box::new(ovf::Overflow),
    }
}

/// One worker's scheduler of one service.
#[derive(Debug)]
pub struct Scheduler {
    key: ServiceKey,
    kind: SchedulerKind,
    generation: u64,
    servers: Vec<Member>,
    state: Box<dyn Algorithm>,
}

impl Scheduler {
    /// A scheduler for `service`, whose servers are looked up in `table`, in the
    /// state that it has in IPVS after the servers were added one by one. `now`
    /// is in ticks, as in [`Arrival`].
    pub fn new(service: &VirtualService, table: &ServiceTable, now: u32) -> Self {
        let mut state = put_in_charge(service.scheduler, &[], now);
        state.tune(table.tunables());
        let mut scheduler = Scheduler {
            key: service.key,
            kind: service.scheduler,
            generation: table.generation(),
            servers: Vec::new(),
            state,
        };
        scheduler.take_up(service, table);
        scheduler
    }

    /// Adopts a new table: does what IPVS does when servers come and go or are
    /// edited, or when another scheduler takes over the service. To be called
    /// for every service of a table that was just adopted.
    pub fn update(&mut self, service: &VirtualService, table: &ServiceTable, now: u32) {
        if self.key != service.key {
            *self = Scheduler::new(service, table, now);
            return;
        }
        self.generation = table.generation();
        self.state.tune(table.tunables());
        self.take_up(service, table);
        if self.kind != service.scheduler {
            self.kind = service.scheduler;
            self.state = put_in_charge(self.kind, &self.servers, now);
            self.state.tune(table.tunables());
            self.state.settled(&self.servers, service, table);
        }
    }

    /// How many servers it knows.
    pub(crate) fn servers(&self) -> usize {
        self.servers.len()
    }

    /// The server for a new connection; `None` when no server takes any.
    ///
    /// `table` is the one that was adopted last; should it be a newer one, it
    /// is adopted first.
    #[inline]
    pub fn schedule(
        &mut self,
        service: &VirtualService,
        table: &ServiceTable,
        arrival: &Arrival,
    ) -> Option<ServerId> {
        self.follow(service, table, arrival.now);
        let place = self.state.choose(&self.servers, arrival)?;
        Some(self.servers.get(place)?.id)
    }

    /// What [`Scheduler::schedule`] would answer now, which it will not answer
    /// otherwise for having been asked.
    pub fn peek(
        &mut self,
        service: &VirtualService,
        table: &ServiceTable,
        arrival: &Arrival,
    ) -> Option<ServerId> {
        self.follow(service, table, arrival.now);
        let place = self.state.peek(&self.servers, arrival)?;
        Some(self.servers.get(place)?.id)
    }

    /// Adopts a table, if it is not the one that was adopted last.
    #[inline]
    pub(crate) fn follow(&mut self, service: &VirtualService, table: &ServiceTable, now: u32) {
        if table.generation() != self.generation {
            self.update(service, table, now);
        }
    }

    /// Takes the servers of the table over, with a callback for each change.
    ///
    /// As servers are added in front only, those that stayed are the longest
    /// end of the new list whose members occur in the old one in the same
    /// order. All before it was added, all others are gone.
    fn take_up(&mut self, service: &VirtualService, table: &ServiceTable) {
        let mut stayed = service.servers.len();
        let mut unmatched = self.servers.len();
        while let Some(id) = stayed.checked_sub(1).map(|i| service.servers[i]) {
            let Some(server) = table.server(id) else { break };
            let known = &self.servers[..unmatched];
            let Some(place) = known.iter().rposition(|member| member.is(id, server)) else { break };
            self.remove(place + 1..unmatched);
            unmatched = place;
            stayed -= 1;
        }
        self.remove(0..unmatched);

        for (place, id) in service.servers[stayed..].iter().enumerate() {
            let Some(server) = table.server(*id) else { continue };
            let member = &mut self.servers[place];
            let former = member.weight;
            if member.edit(server) {
                member.thresholds.apply(&member.counters);
                self.state.edited(&self.servers, place, former);
            }
        }

        // All at once, as each would move all others; told of in turn.
        let ids = service.servers[..stayed].iter();
        let members = ids.filter_map(|id| Some(Member::new(*id, table.server(*id)?)));
        let added = members.clone().count();
        self.servers.splice(..0, members);
        for place in (0..added).rev() {
            let member = &self.servers[place];
            member.thresholds.apply(&member.counters);
            self.state.added(&self.servers[place..]);
        }
        self.state.settled(&self.servers, service, table);
    }

    /// Removes servers that are next to each other, the last first. All at once,
    /// as each would move all behind it.
    fn remove(&mut self, places: Range<usize>) {
        for place in places.clone().rev() {
            self.state.removed(place, &self.servers[place]);
        }
        self.servers.drain(places);
    }
}

#[cfg(test)]
mod tests;
