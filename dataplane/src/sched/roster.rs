//! The servers of a service as schedulers see them. Control makes a roster with
//! every service table, and tables share those that are the same: to take up a
//! service that did not change, a worker looks at nothing.

use std::sync::Arc;

use super::locality::Places;
use super::maglev::{Basis, Maglev};
use super::movements::{block_of, group_of};
use super::wrr::gcd;
use super::{Watch, overhead, sh};
use crate::service::{
    Family, Method, RealServer, SchedulerFlags, SchedulerKind, ServerId, ServiceId, ServiceKey, Thresholds,
    VirtualService,
};
use crate::stats::ServerCounters;

/// From so many servers on, a service's scheduler has an
/// [`Index`](super::index::Index) if it needs one, and what a worker does to
/// take it up is done in portions.
pub(super) const MANY: usize = if cfg!(test) { 4 } else { 64 };

/// A server as schedulers see it: what they need of the table, side by side.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(super) id: ServerId,
    pub(super) weight: u32,
    pub(super) last_weight: u32,
    pub(super) method: Method,
    pub(super) thresholds: Thresholds,
    pub(super) edits: u32,
    pub(super) counters: Arc<ServerCounters>,
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

    /// Whether this is the same server as another; a slot may have been given to
    /// another one in the meantime, but counters are never shared.
    #[inline]
    pub(super) fn is(&self, other: &Member) -> bool {
        self.id == other.id && Arc::ptr_eq(&self.counters, &other.counters)
    }

    /// Whether nothing that `ipvsadm -e` can change is another than in `other`.
    #[inline]
    pub(super) fn is_as(&self, other: &Member) -> bool {
        let all = |member: &Member| {
            let Member { weight, last_weight, method, thresholds, edits, .. } = *member;
            (weight, last_weight, method, thresholds, edits)
        };
        all(self) == all(other)
    }

    /// Whether it has as many connections as it may have
    /// (`IP_VS_DEST_F_OVERLOAD`).
    #[inline]
    pub(super) fn is_overloaded(&self) -> bool {
        self.thresholds.upper != 0 && self.counters.overload().is_on()
    }

    /// Brings its overload in line with its thresholds.
    pub(super) fn limit(&self, watch: Option<&Watch>) {
        let before = self.counters.overload().is_on();
        self.thresholds.apply(&self.counters);
        if let Some(watch) = watch.filter(|_| self.counters.overload().is_on() != before) {
            watch.movements.note(watch.worker, self.id);
        }
    }

    /// Whether new connections may go to it.
    #[inline]
    pub(super) fn takes(&self) -> bool {
        self.weight > 0 && !self.is_overloaded()
    }

    /// What a server has to do for its connections: an active one counts as
    /// much as 256 others (`ip_vs_dest_conn_overhead`).
    #[inline]
    pub(super) fn overhead(&self) -> u64 {
        overhead(self.counters.active(), self.counters.inactive())
    }
}

/// Where members are by what [`Movements`](super::movements::Movements) tells of.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    /// Places, block by block
    pub(super) places: Box<[u32]>,
    /// Each block, and where its places end; in order
    pub(super) blocks: Box<[(u16, u32)]>,
    /// Each group of blocks, and where its blocks end; in order
    pub(super) groups: Box<[(u16, u32)]>,
}

impl Blocks {
    fn of(members: &[Member]) -> Self {
        let mut places: Vec<u32> = (0..members.len() as u32).collect();
        let block = |place: u32| block_of(members[place as usize].id);
        places.sort_unstable_by_key(|place| (block(*place), *place));
        let ends = |numbers: &mut dyn Iterator<Item = u16>| {
            let mut ends: Vec<(u16, u32)> = Vec::new();
            for (number, end) in numbers.zip(1..) {
                match ends.last_mut() {
                    Some(last) if last.0 == number => last.1 = end,
                    _ => ends.push((number, end)),
                }
            }
            ends.into_boxed_slice()
        };
        let blocks = ends(&mut places.iter().map(|place| block(*place)));
        let groups = ends(&mut blocks.iter().map(|(block, _)| group_of(*block)));
        Blocks { places: places.into(), blocks, groups }
    }
}

/// The servers of a service, in IPVS order, the last added first, with what
/// schedulers make of them all.
#[derive(Debug)]
pub(crate) struct Roster {
    /// That of the table which it was made for: no two of a service have the same
    pub(super) generation: u64,
    pub(super) key: ServiceKey,
    pub(super) kind: SchedulerKind,
    pub(super) flags: SchedulerFlags,
    pub(super) members: Box<[Member]>,
    /// Empty where there are few
    pub(super) blocks: Blocks,
    /// For lblc and lblcr
    pub(super) places: Places,
    /// Greatest common divisor of the weights, and the greatest; for wrr
    pub(super) weights: Weights,
    /// The place of the server of each bucket; for sh
    pub(super) buckets: Box<[u32]>,
    /// For mh
    pub(super) maglev: Option<Arc<Maglev>>,
}

/// The greatest common divisor of weights and the greatest of them, 0 if there
/// are none.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Weights {
    pub(super) divisor: i64,
    pub(super) heaviest: i64,
}

impl Weights {
    pub(super) fn with(self, weight: u32) -> Self {
        let weight = i64::from(weight);
        Weights { divisor: gcd(weight, self.divisor), heaviest: self.heaviest.max(weight) }
    }

    pub(super) fn and(self, other: Self) -> Self {
        Weights { divisor: gcd(self.divisor, other.divisor), heaviest: self.heaviest.max(other.heaviest) }
    }
}

impl Roster {
    /// That of a service without servers.
    pub(super) fn empty(service: &VirtualService, generation: u64) -> Self {
        Roster::of(service, generation, Box::default())
    }

    fn of(service: &VirtualService, generation: u64, members: Box<[Member]>) -> Self {
        let VirtualService { key, scheduler: kind, scheduler_flags: flags, .. } = *service;
        let blocks = if members.len() >= MANY { Blocks::of(&members) } else { Blocks::default() };
        let places = match kind {
            SchedulerKind::Lblc | SchedulerKind::Lblcr => Places::of_all(&members),
            _ => Places::default(),
        };
        let weights = match kind {
            SchedulerKind::Wrr => {
                members.iter().fold(Weights::default(), |all, member| all.with(member.weight))
            }
            _ => Weights::default(),
        };
        let buckets = match kind {
            SchedulerKind::Sh => sh::buckets(&members),
            _ => Box::default(),
        };
        Roster { generation, key, kind, flags, members, blocks, places, weights, buckets, maglev: None }
    }

    /// Whether it has so many servers that to take it up takes long.
    pub(super) fn is_long(&self) -> bool {
        self.members.len() >= MANY
    }

    /// Whether it is of IPv6.
    pub(super) fn is_v6(&self) -> bool {
        self.key.family() == Family::V6
    }

    /// Whether it is that of a service with these members.
    fn is_of(&self, service: &VirtualService, members: &[Member]) -> bool {
        (self.key, self.kind, self.flags) == (service.key, service.scheduler, service.scheduler_flags)
            && self.members.len() == members.len()
            && self.members.iter().zip(members).all(|(one, other)| one.is(other) && one.is_as(other))
    }
}

/// The rosters of all services.
#[derive(Debug, Default)]
pub struct Rosters {
    /// That of the table
    generation: u64,
    slots: Vec<Option<Arc<Roster>>>,
    /// Those that take long to take up
    long: Vec<ServiceId>,
}

impl Rosters {
    /// Those of a table, none so far.
    pub(crate) fn new(generation: u64) -> Self {
        Rosters { generation, ..Rosters::default() }
    }

    /// That of a service.
    #[inline]
    pub(crate) fn of(&self, service: ServiceId) -> Option<&Arc<Roster>> {
        self.slots.get(service.0 as usize)?.as_ref()
    }

    /// Services with so many servers that to take them up takes long.
    pub(crate) fn long(&self) -> &[ServiceId] {
        &self.long
    }

    /// Enters a service's servers: as in `former` ones if they are the same.
    pub(crate) fn enter<'a>(
        &mut self,
        id: ServiceId,
        service: &VirtualService,
        servers: impl Iterator<Item = (ServerId, &'a RealServer)> + Clone,
        former: &Rosters,
    ) {
        let members: Box<[Member]> = servers.clone().map(|(id, server)| Member::new(id, server)).collect();
        let before = former.of(id);
        let roster = match before.filter(|before| before.is_of(service, &members)) {
            Some(same) => Arc::clone(same),
            None => {
                let mut roster = Roster::of(service, self.generation, members);
                if service.scheduler == SchedulerKind::Mh {
                    let servers =
                        servers.map(|(_, server)| (server.address, server.port, server.last_weight));
                    let basis = Basis { servers: servers.collect(), service_is_v6: roster.is_v6() };
                    let maglev = before.and_then(|before| before.maglev.as_ref());
                    let same = maglev.filter(|maglev| maglev.is_of(&basis));
                    roster.maglev = Some(same.map_or_else(|| Arc::new(Maglev::new(basis)), Arc::clone));
                }
                Arc::new(roster)
            }
        };
        if roster.is_long() {
            self.long.push(id);
        }
        let slot = id.0 as usize;
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, || None);
        }
        self.slots[slot] = Some(roster);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sched::tests::Control;

    #[test]
    fn a_table_is_filled_anew_only_where_servers_changed() {
        let mut control = Control::new(SchedulerKind::Mh);
        let (_, first) = control.table(&[(3, 1), (2, 1), (1, 1)]);
        let first = first.rosters().of(ServiceId(0)).unwrap();
        let former = Rosters { slots: vec![Some(Arc::clone(first))], ..Rosters::default() };
        for (weight, same) in [(1, true), (2, false), (0, false)] {
            let (service, table) = control.table(&[(3, weight), (2, weight), (1, weight)]);
            let mut next = Rosters::default();
            let servers = service.servers.iter().map(|id| (*id, table.server(*id).unwrap()));
            next.enter(ServiceId(0), &service, servers, &former);
            let roster = next.of(ServiceId(0)).unwrap();
            let of = |roster: &Roster| roster.maglev.clone().unwrap();
            assert_eq!((Arc::ptr_eq(roster, first), Arc::ptr_eq(&of(roster), &of(first))), (same, same));
            assert_eq!(of(roster).place(7).is_some(), weight > 0);
        }
    }
}
