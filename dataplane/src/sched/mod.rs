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
//! finds out what happened in between ([`Change`]): removals first, then edits, then
//! additions, the oldest first. That equals IPVS wherever a table differs by
//! one command from the one before. A service that is loaded at once behaves as
//! if its servers had been added in turn, which matters to wrr. An edit that
//! changes nothing is told by [`RealServer::edits`](crate::service::RealServer::edits).
//!
//! No worker is to stall, however many servers a service has. So servers are kept
//! in rosters that control makes and tables share ([`Rosters`]); what is to be known
//! of many of them is found out in portions before a table is taken up
//! ([`Prepared`]); and where IPVS walks through all servers for a connection, many
//! of them are in an [`Index`], which knows who is next, and is held to the walk
//! by tests.

mod change;
mod dh;
mod fo;
mod hash;
mod index;
mod lblc;
mod lblcr;
mod lc;
mod locality;
mod maglev;
mod mh;
mod movements;
mod nq;
mod ovf;
mod prepared;
mod roster;
mod rr;
mod sed;
mod sh;
mod standing;
mod wlc;
mod wrr;

use std::fmt::Debug;
use std::ops::Deref;
use std::sync::Arc;

use crate::service::{SchedulerKind, ServerId, ServiceTable, Tunables, VirtualService};
use crate::wire::Address;

use change::Change;
use index::{Contest, Index};
use roster::Member;

pub(crate) use movements::Movements;
pub(crate) use prepared::Prepared;
pub(crate) use roster::Roster;
pub use roster::Rosters;

/// Blocks of servers that are looked at between two bursts, as their connections
/// changed.
const TENDED_BLOCKS: usize = 64;

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

/// What a server has to do for its connections, of so many active and inactive
/// ones.
#[inline]
fn overhead(active: u64, inactive: u64) -> u64 {
    (active << 8).wrapping_add(inactive)
}

/// The servers of a service, to choose among.
#[derive(Clone, Copy)]
struct Servers<'a> {
    roster: &'a Roster,
    /// What is known of them, where they are many
    index: Option<&'a Index>,
}

impl Deref for Servers<'_> {
    type Target = [Member];

    #[inline]
    fn deref(&self) -> &[Member] {
        &self.roster.members
    }
}

impl Servers<'_> {
    /// The best of all in what the service's scheduler goes by
    /// ([`Contest::of`]), which is `walk` where they are few.
    #[inline]
    fn best(&self, walk: impl FnOnce(&[Member]) -> Option<usize>) -> Option<usize> {
        match self.index {
            Some(index) => index.winner(),
            None => walk(self),
        }
    }

    /// The server of the least load for its weight.
    #[inline]
    fn least_loaded(&self) -> Option<usize> {
        self.best(|members| least_loaded(taking(members), Member::overhead))
    }

    /// The first server at a place or behind it that has a weight and takes
    /// connections; of schedulers that go by the weight.
    #[inline]
    fn next_of_weight(&self, from: usize, weight: i64) -> Option<usize> {
        match self.index {
            Some(index) => index.next_of_weight(self.roster, from, weight),
            None => {
                let behind = self.get(from..)?;
                let is_next = |server: &Member| i64::from(server.weight) >= weight && server.takes();
                Some(from + behind.iter().position(is_next)?)
            }
        }
    }

    /// The greatest weight of those that take connections, 0 if there are none; of
    /// schedulers that go by the weight.
    fn greatest_weight(&self) -> u32 {
        match self.index {
            Some(index) => index.winner().map_or(0, |place| self[place].weight),
            None => taking(self).map(|(_, server)| server.weight).max().unwrap_or(0),
        }
    }

    /// Whether a server has more active connections than its weight, while another
    /// one has less than half (`is_overloaded` of lblc and lblcr).
    fn is_beyond_its_weight(&self, place: usize) -> bool {
        let server = &self[place];
        server.counters.active() > u64::from(server.weight)
            && match self.index {
                Some(index) => index.has_light(),
                None => self.iter().any(|other| other.counters.active() * 2 < u64::from(other.weight)),
            }
    }
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

/// A way to choose among the servers of a service.
///
/// Servers are given in IPVS order, the last added first, and are referred to
/// by their places in it.
trait Algorithm: Debug + Send {
    /// The servers changed (`add_dest`, `del_dest` and `upd_dest`).
    fn changed(&mut self, _change: &Change) {}

    /// Settings that hold for all services; they may have changed.
    fn tune(&mut self, _tunables: &Tunables) {}

    /// What [`Algorithm::choose`] would answer now. What it remembers for good
    /// stays as it is.
    fn peek(&mut self, servers: Servers, arrival: &Arrival) -> Option<usize>;

    /// The place of the server for the next connection, if one takes any.
    #[inline]
    fn choose(&mut self, servers: Servers, arrival: &Arrival) -> Option<usize> {
        self.peek(servers, arrival)
    }

    /// Whether it has to be looked after between bursts.
    fn is_tended(&self) -> bool {
        false
    }

    /// Goes on with what is to be done now and then, by a bounded portion.
    fn tend(&mut self, _now: u32) {}

    /// Lets go of a bounded portion of what it remembers; returns whether that was
    /// all. For one that is not asked any more.
    fn dismantle(&mut self) -> bool {
        true
    }
}

/// The state of a scheduler that is put in charge of these servers, all at
/// once and at time `now` (`init_service`).
fn put_in_charge(roster: &Roster, now: u32) -> Box<dyn Algorithm> {
    match roster.kind {
        SchedulerKind::Rr => Box::new(rr::RoundRobin::default()),
        SchedulerKind::Wrr => Box::new(wrr::WeightedRoundRobin::new(roster.weights)),
        SchedulerKind::Lc => Box::new(lc::LeastConnections),
        SchedulerKind::Wlc => Box::new(wlc::WeightedLeastConnections),
        SchedulerKind::Sh => Box::new(sh::SourceHashing),
        SchedulerKind::Dh => Box::new(dh::DestinationHashing),
        SchedulerKind::Sed => Box::new(sed::ShortestExpectedDelay),
        SchedulerKind::Nq => Box::new(nq::NeverQueue),
        SchedulerKind::Lblc => Box::new(lblc::LocalityBased::new(now)),
        SchedulerKind::Lblcr => Box::new(lblcr::Replicated::new(now)),
        SchedulerKind::Mh => Box::new(mh::MaglevHashing),
        SchedulerKind::Fo => Box::new(fo::Failover),
        SchedulerKind::Ovf => Box::new(ovf::Overflow),
    }
}

/// Where a scheduler learns of connections that came and went.
#[derive(Clone, Debug)]
struct Watch {
    movements: Arc<Movements>,
    worker: usize,
}

/// One worker's scheduler of one service.
#[derive(Debug)]
pub struct Scheduler {
    generation: u64,
    roster: Arc<Roster>,
    state: Box<dyn Algorithm>,
    watch: Option<Watch>,
    /// Where servers are many, and somebody tells what changed
    index: Option<Box<Index>>,
    /// Former states that remember much
    former: Vec<Box<dyn Algorithm>>,
    /// Whether the worker has it in its list of those to look after
    pub(crate) is_listed: bool,
}

impl Scheduler {
    /// A scheduler for `service`, whose servers are looked up in `table`, in the
    /// state that it has in IPVS after the servers were added one by one. `now`
    /// is in ticks, as in [`Arrival`].
    pub fn new(service: &VirtualService, table: &ServiceTable, now: u32) -> Self {
        Scheduler::made(None, service, table, now, None)
    }

    /// One that need not look at all of many servers, as `worker` and all others
    /// [`Movements::note`] what they change. `prepared` is what was made ready for
    /// it.
    pub(crate) fn watching(
        (movements, worker): (&Arc<Movements>, usize),
        service: &VirtualService,
        table: &ServiceTable,
        now: u32,
        prepared: Option<Prepared>,
    ) -> Self {
        let watch = Watch { movements: Arc::clone(movements), worker };
        Scheduler::made(Some(watch), service, table, now, prepared)
    }

    fn made(
        watch: Option<Watch>,
        service: &VirtualService,
        table: &ServiceTable,
        now: u32,
        prepared: Option<Prepared>,
    ) -> Self {
        let roster = Arc::new(Roster::empty(service, table.generation()));
        let mut scheduler = Scheduler {
            generation: table.generation(),
            state: put_in_charge(&roster, now),
            roster,
            watch,
            index: None,
            former: Vec::new(),
            is_listed: false,
        };
        scheduler.update_by(prepared, service, table, now);
        scheduler
    }

    /// Adopts a new table: does what IPVS does when servers come and go or are
    /// edited, or when another scheduler takes over the service. To be called
    /// for every service of a table that was just adopted.
    pub fn update(&mut self, service: &VirtualService, table: &ServiceTable, now: u32) {
        self.update_by(None, service, table, now);
    }

    /// The same with what was made ready for it. Returns about how many servers
    /// had to be looked at.
    pub(crate) fn update_by(
        &mut self,
        prepared: Option<Prepared>,
        service: &VirtualService,
        table: &ServiceTable,
        now: u32,
    ) -> usize {
        let roster = match table.roster(&service.key) {
            Some(roster) if Arc::ptr_eq(roster, &self.roster) => {
                self.generation = table.generation();
                self.state.tune(table.tunables());
                return 0;
            }
            Some(roster) => Arc::clone(roster),
            None => Arc::new(Roster::empty(service, table.generation())),
        };
        if self.roster.key != roster.key {
            self.roster = Arc::new(Roster::empty(service, table.generation()));
            let fresh = put_in_charge(&self.roster, now);
            self.retire(fresh);
        }
        self.generation = table.generation();
        self.state.tune(table.tunables());
        let prepared = prepared.and_then(|prepared| prepared.made_for(&self.roster, &roster));
        let limited = |change: &Change| {
            let members = change.limited.iter().map(|place| &roster.members[*place as usize]);
            members.for_each(|member| member.limit(self.watch.as_ref()));
        };
        let (change, index, looked_at) = match prepared {
            Some((change, index)) => {
                if index.is_none() {
                    limited(&change);
                }
                let looked_at = change.len();
                (change, index, looked_at)
            }
            None => {
                let change = Change::between(&self.roster.members, &roster);
                limited(&change);
                let looked_at = self.roster.members.len() + roster.members.len();
                (change, self.indexed(&roster), looked_at)
            }
        };
        if self.roster.kind == roster.kind {
            self.state.changed(&change);
        } else {
            let fresh = put_in_charge(&roster, now);
            self.retire(fresh);
            self.state.tune(table.tunables());
        }
        self.roster = roster;
        self.index = index.map(Box::new);
        looked_at
    }

    /// An index of these servers, if they are many.
    fn indexed(&self, roster: &Roster) -> Option<Index> {
        let watch = self.watch.as_ref().filter(|_| roster.is_long())?;
        Some(Index::new(Contest::of(roster)?, roster, &watch.movements))
    }

    /// Puts another state in place of the present one, which is freed bit by bit if
    /// it remembers much.
    fn retire(&mut self, fresh: Box<dyn Algorithm>) {
        let former = std::mem::replace(&mut self.state, fresh);
        if former.is_tended() {
            self.former.push(former);
        }
    }

    /// How many servers it knows.
    pub(crate) fn servers(&self) -> usize {
        self.roster.members.len()
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
        let (state, servers) = self.ready();
        let place = state.choose(servers, arrival)?;
        Some(servers.get(place)?.id)
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
        let (state, servers) = self.ready();
        let place = state.peek(servers, arrival)?;
        Some(servers.get(place)?.id)
    }

    /// The state and the servers, of which all is known that there is to know.
    #[inline]
    fn ready(&mut self) -> (&mut dyn Algorithm, Servers<'_>) {
        self.refresh(usize::MAX);
        (&mut *self.state, Servers { roster: &self.roster, index: self.index.as_deref() })
    }

    #[inline]
    fn refresh(&mut self, blocks: usize) {
        if let (Some(index), Some(watch)) = (&mut self.index, &self.watch) {
            index.refresh(&self.roster, &watch.movements, blocks);
        }
    }

    /// Adopts a table, if it is not the one that was adopted last.
    #[inline]
    pub(crate) fn follow(&mut self, service: &VirtualService, table: &ServiceTable, now: u32) {
        if table.generation() != self.generation {
            self.update(service, table, now);
        }
    }

    /// The generation of the table that was adopted last.
    #[inline]
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Its servers, as of the table that was adopted last.
    pub(crate) fn roster(&self) -> &Arc<Roster> {
        &self.roster
    }

    /// Whether it has to be looked after between bursts.
    pub(crate) fn is_tended(&self) -> bool {
        self.index.is_some() || self.state.is_tended() || !self.former.is_empty()
    }

    /// Goes on with what is to be done now and then, by a bounded portion.
    pub(crate) fn tend(&mut self, now: u32) {
        self.refresh(TENDED_BLOCKS);
        self.state.tend(now);
        if self.former.last_mut().is_some_and(|former| former.dismantle()) {
            self.former.pop();
        }
    }

    /// Lets go of a bounded portion of what it remembers; returns whether that was
    /// all. For one that is not asked any more.
    pub(crate) fn dismantle(&mut self) -> bool {
        match self.former.last_mut() {
            Some(former) => {
                if former.dismantle() {
                    self.former.pop();
                }
                false
            }
            None => self.state.dismantle(),
        }
    }
}

#[cfg(test)]
mod tests;
