//! Schedulers, one file each: which server gets a new connection.
//!
//! Orders are those of IPVS to the last connection, as users compare them. A
//! [`Scheduler`] keeps what IPVS keeps beside a service
//! (`svc->sched_data`), one for each worker and service: with several workers,
//! each has its own turn. The counters that lc and wlc go by are summed over
//! all workers.
//!
//! IPVS tells a scheduler of every server that is added, removed or edited.
//! Here a worker only sees one table replace another, so [`Scheduler::update`]
//! finds out what happened in between: removals first, then edits, then
//! additions, the oldest first. That equals IPVS wherever a table differs by
//! one command from the one before. A service that is loaded at once behaves as
//! if its servers had been added in turn, which matters to wrr. What cannot be
//! seen is an edit that changes neither weight nor forwarding method; IPVS
//! lets wrr begin its round anew for it.

mod lc;
mod rr;
mod wlc;
mod wrr;

use std::sync::Arc;

use crate::service::{Method, RealServer, SchedulerKind, ServerId, ServiceKey, ServiceTable, VirtualService};
use crate::stats::ServerCounters;

/// A server as schedulers see it: what they need of the table, side by side.
#[derive(Clone, Debug)]
struct Member {
    id: ServerId,
    weight: u32,
    method: Method,
    counters: Arc<ServerCounters>,
}

impl Member {
    fn new(id: ServerId, table: &ServiceTable) -> Option<Self> {
        let RealServer { weight, method, counters, .. } = table.server(id)?;
        Some(Member { id, weight: *weight, method: *method, counters: counters.clone() })
    }

    /// Whether this is `server` in slot `id`; the slot may have been given to
    /// another server in the meantime, but counters are never shared.
    fn is(&self, id: ServerId, server: &RealServer) -> bool {
        self.id == id && Arc::ptr_eq(&self.counters, &server.counters)
    }

    /// What a server has to do for its connections: an active one counts as
    /// much as 256 others (`ip_vs_dest_conn_overhead`).
    #[inline]
    fn overhead(&self) -> u64 {
        (self.counters.active() << 8).wrapping_add(self.counters.inactive())
    }
}

/// A way to choose among the servers of a service, with IPVS's callbacks.
///
/// Servers are given in IPVS order, the last added first, and are referred to
/// by their places in it.
trait Algorithm {
    /// A server was added in front of the others (`add_dest`).
    fn added(&mut self, _servers: &[Member]) {}

    /// The server at `place` was removed; `servers` are those that remain
    /// (`del_dest`).
    fn removed(&mut self, _servers: &[Member], _place: usize) {}

    /// A server was edited (`upd_dest`).
    fn edited(&mut self, _servers: &[Member]) {}

    /// The place of the server for the next connection, if one takes any.
    fn choose(&mut self, servers: &[Member]) -> Option<usize>;
}

#[derive(Debug)]
enum State {
    Rr(rr::RoundRobin),
    Wrr(wrr::WeightedRoundRobin),
    Lc(lc::LeastConnections),
    Wlc(wlc::WeightedLeastConnections),
}

impl State {
    /// The state of a scheduler that is put in charge of these servers, all at
    /// once (`init_service`).
    fn new(kind: SchedulerKind, servers: &[Member]) -> Self {
        match kind {
            SchedulerKind::Rr => State::Rr(rr::RoundRobin::default()),
            SchedulerKind::Wrr => State::Wrr(wrr::WeightedRoundRobin::new(servers)),
            SchedulerKind::Lc => State::Lc(lc::LeastConnections),
            SchedulerKind::Wlc => State::Wlc(wlc::WeightedLeastConnections),
        }
    }

    fn algorithm(&mut self) -> &mut dyn Algorithm {
        match self {
            State::Rr(rr) => rr,
            State::Wrr(wrr) => wrr,
            State::Lc(lc) => lc,
            State::Wlc(wlc) => wlc,
        }
    }
}

/// One worker's scheduler of one service.
#[derive(Debug)]
pub struct Scheduler {
    key: ServiceKey,
    kind: SchedulerKind,
    generation: u64,
    servers: Vec<Member>,
    state: State,
}

impl Scheduler {
    /// A scheduler for `service`, whose servers are looked up in `table`, in the
    /// state that it has in IPVS after the servers were added one by one.
    pub fn new(service: &VirtualService, table: &ServiceTable) -> Self {
        let mut scheduler = Scheduler {
            key: service.key,
            kind: service.scheduler,
            generation: table.generation(),
            servers: Vec::new(),
            state: State::new(service.scheduler, &[]),
        };
        scheduler.take_up(service, table);
        scheduler
    }

    /// Adopts a new table: does what IPVS does when servers come and go or are
    /// edited, or when another scheduler takes over the service. To be called
    /// for every service of a table that was just adopted.
    pub fn update(&mut self, service: &VirtualService, table: &ServiceTable) {
        if self.key != service.key {
            *self = Scheduler::new(service, table);
            return;
        }
        self.generation = table.generation();
        self.take_up(service, table);
        if self.kind != service.scheduler {
            self.kind = service.scheduler;
            self.state = State::new(self.kind, &self.servers);
        }
    }

    /// The server for a new connection; `None` when no server takes any.
    ///
    /// `table` is the one that was adopted last; should it be a newer one, it
    /// is adopted first.
    #[inline]
    pub fn schedule(&mut self, service: &VirtualService, table: &ServiceTable) -> Option<ServerId> {
        if table.generation() != self.generation {
            self.update(service, table);
        }
        let place = match &mut self.state {
            State::Rr(rr) => rr.choose(&self.servers),
            State::Wrr(wrr) => wrr.choose(&self.servers),
            State::Lc(lc) => lc.choose(&self.servers),
            State::Wlc(wlc) => wlc.choose(&self.servers),
        }?;
        Some(self.servers.get(place)?.id)
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
            (place + 1..unmatched).rev().for_each(|gone| self.remove(gone));
            unmatched = place;
            stayed -= 1;
        }
        (0..unmatched).rev().for_each(|gone| self.remove(gone));

        for (place, id) in service.servers[stayed..].iter().enumerate() {
            let Some(server) = table.server(*id) else { continue };
            let member = &mut self.servers[place];
            if (member.weight, member.method) != (server.weight, server.method) {
                (member.weight, member.method) = (server.weight, server.method);
                self.state.algorithm().edited(&self.servers);
            }
        }

        // All at once, as each would move all others; told of in turn.
        let members = service.servers[..stayed].iter().filter_map(|id| Member::new(*id, table));
        let added = members.clone().count();
        self.servers.splice(..0, members);
        for place in (0..added).rev() {
            self.state.algorithm().added(&self.servers[place..]);
        }
    }

    fn remove(&mut self, place: usize) {
        self.servers.remove(place);
        self.state.algorithm().removed(&self.servers, place);
    }
}

#[cfg(test)]
mod tests;
