//! Whose a local port is, and how workers agree on it.
//!
//! By one plan, every port has one owner, so workers need not ask each other.
//! They do not take up a new plan at the same instant, though. So a worker takes
//! only ports that are its own by the new plan and by every one since the last
//! that all were seen to go by at once: any two workers then have one plan
//! in common, by which what they take is disjoint.
//!
//! A connection keeps its port when the plan changes. Each worker says which of
//! its ports in use are not its own by all those plans, its strays, before it
//! says that it goes by the newest; nobody takes them. So of the plan that two
//! workers have in common, each knows the other's ports that are its own by it.
//! They become more with a further plan only, as nobody takes another's port.
//! With plans that stay, workers read nothing of each other.

use std::sync::Arc;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::PoolKey;
use super::claims::{Claims, Strays};
use super::pool::{Chunk, Pool};
use crate::arena::Arena;
use crate::neigh::NextHops;
use crate::rss::{Hashed, numbered};

/// Plans that are kept until workers agree. Further ones have to wait.
pub(super) const MOST_PLANS: usize = 4;

/// Words of ports that are looked through for strays between two bursts: some
/// microseconds, or a tenth of a millisecond for a table of an odd size.
const SLICE: usize = if cfg!(test) { 1 } else { 1024 };

/// Whose a port of a pool is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub(super) struct Rule {
    /// The hash of answers with port 0
    base: u32,
    /// One more than the interface by whose RSS it goes; 0 where it goes by its
    /// number ([`owner`](super::owner))
    interface: u32,
}

impl Rule {
    /// The interface by the queue of which it goes, and the base of the hash.
    fn queue(self) -> Option<(usize, u32)> {
        Some((self.interface.checked_sub(1)? as usize, self.base))
    }

    pub(super) fn of(plan: &NextHops, key: &PoolKey) -> Self {
        let by_queue = || {
            let interface = plan.answers_by(key.server)?;
            let rss = plan.rss(interface)?;
            let of_ports = rss.hashed(key.protocol, key.server.is_v4()) == Hashed::Ports;
            let base = || rss.base((key.server, key.port), key.lip);
            of_ports.then(|| Rule { interface: interface as u32 + 1, base: base() })
        };
        by_queue().unwrap_or_default()
    }
}

/// Whose ports are, for one worker.
#[derive(Debug)]
pub(super) struct Plans {
    worker: usize,
    workers: usize,
    /// One for each worker; empty if there is one only
    claims: Vec<Arc<Claims>>,
    /// All since the last that all workers went by, which is the first
    plans: Vec<Arc<NextHops>>,
    /// One that there was no room for
    wanted: Option<Arc<NextHops>>,
    /// Changes with `plans`
    pub(super) serial: u32,
    /// Where the search for strays is, and what it found
    search: Option<(u32, Strays, u64)>,
    /// What was found last
    strays: Arc<Strays>,
    strays_left: u64,
    /// Those of the other workers, but for empty ones
    others: Vec<Arc<Strays>>,
}

impl Plans {
    pub(super) fn new(worker: usize, workers: usize, claims: Vec<Arc<Claims>>) -> Self {
        Plans {
            worker,
            workers,
            claims: if workers > 1 { claims } else { Vec::new() },
            plans: first_plan(),
            wanted: None,
            serial: 0,
            search: None,
            strays: Arc::default(),
            strays_left: 0,
            others: Vec::with_capacity(workers),
        }
    }

    fn newest(&self) -> &NextHops {
        self.plans.last().expect("there is always one")
    }

    /// The rules for a pool, by each plan.
    pub(super) fn rules(&self, key: &PoolKey) -> [Rule; MOST_PLANS] {
        let mut rules = [Rule::default(); MOST_PLANS];
        for (rule, plan) in rules.iter_mut().zip(&self.plans) {
            *rule = Rule::of(plan, key);
        }
        rules
    }

    /// Which ports of a word this worker may take by all plans.
    pub(super) fn ours(&self, rules: &[Rule; MOST_PLANS], key: &PoolKey, word: usize) -> u64 {
        self.plans.iter().zip(rules).fold(u64::MAX, |set, (plan, rule)| {
            set & by_rule(plan, *rule, key, self.worker, self.workers, word)
        })
    }

    /// Which ports of a word other workers use though they are not theirs.
    #[inline]
    pub(super) fn others_strays(&self, key: &PoolKey, word: usize) -> u64 {
        self.others.iter().fold(0, |set, strays| set | strays.word(key, word))
    }

    /// The owner of a port by the newest plan.
    pub(super) fn owner(&self, key: &PoolKey, port: u16) -> usize {
        owner_by(self.newest(), key, port, self.workers)
    }

    /// Whether a port is this worker's by all plans.
    pub(super) fn owns(&self, key: &PoolKey, port: u16) -> bool {
        let (word, bit) = (usize::from(port) / 64, 1 << (port % 64));
        self.ours(&self.rules(key), key, word) & !self.others_strays(key, word) & bit != 0
    }

    /// Whether answers land on this worker's queue whatever the port is, or do
    /// so for the right port. Not so where the NIC hashes addresses only, and
    /// those lead elsewhere.
    pub(super) fn suits(&self, key: &PoolKey) -> bool {
        if self.workers == 1 {
            return true;
        }
        let plan = self.newest();
        let Some(rss) = plan.answers_by(key.server).and_then(|interface| plan.rss(interface)) else {
            return true;
        };
        rss.hashed(key.protocol, key.server.is_v4()) != Hashed::Addresses
            || rss.queue(&key.answer(0)) == Some(self.worker)
    }

    /// Takes up a snapshot, if its plan is another.
    pub(super) fn follow(&mut self, hops: &Arc<NextHops>) {
        if self.claims.is_empty() {
            return;
        }
        self.wanted = None;
        if hops.port_plan() == self.newest().port_plan() {
            return;
        }
        if self.plans.len() == MOST_PLANS {
            self.wanted = Some(Arc::clone(hops));
            return;
        }
        self.plans.push(Arc::clone(hops));
        self.serial += 1;
        self.search = Some((0, Strays::default(), 0));
    }

    /// Goes on with what a change of plans asks for.
    #[inline]
    pub(super) fn proceed(&mut self, pools: &Arena<Pool>, chunks: &Arena<Chunk>) {
        if self.plans.len() > 1 || !self.others.is_empty() {
            self.go_on(pools, chunks);
        }
    }

    #[cold]
    fn go_on(&mut self, pools: &Arena<Pool>, chunks: &Arena<Chunk>) {
        self.look_for_strays(pools, chunks);
        let plan = self.newest().port_plan();
        let agreed = self.search.is_none() && self.claims.iter().all(|claims| claims.plan() == plan);
        if agreed && self.plans.len() > 1 {
            self.plans.drain(..self.plans.len() - 1);
            self.serial += 1;
        }
        // Those of a plan that is not agreed on yet concern no port that may
        // be taken now.
        let others = self.claims.iter().enumerate().filter(|(worker, _)| *worker != self.worker);
        self.others.clear();
        self.others.extend(others.map(|(_, claims)| claims.strays()).filter(|strays| !strays.is_empty()));
        if self.plans.len() < MOST_PLANS
            && let Some(wanted) = self.wanted.take()
        {
            self.follow(&wanted);
        }
    }

    fn look_for_strays(&mut self, pools: &Arena<Pool>, chunks: &Arena<Chunk>) {
        let Some((mut next, mut found, mut count)) = self.search.take() else { return };
        let mut looked = 0;
        while next < pools.reached() {
            if looked >= SLICE {
                self.search = Some((next, found, count));
                return;
            }
            let pool = pools.get(next).filter(|pool| pool.taken > 0);
            next += 1;
            looked += 1;
            let Some((pool, key)) = pool.and_then(|pool| Some((pool, pool.key()?))) else { continue };
            let rules = self.rules(&key);
            for (word, used) in pool.used_words(chunks) {
                looked += 1;
                if used == 0 {
                    continue;
                }
                let strays = used & !self.ours(&rules, &key, word);
                if strays != 0 {
                    found.add(&key, word, strays);
                    count += u64::from(strays.count_ones());
                }
            }
        }
        (self.strays, self.strays_left) = (Arc::new(found), count);
        self.claims[self.worker].replace(plan_of(&self.plans), Arc::clone(&self.strays));
    }

    /// Whether neither this worker nor another uses ports that are not its own.
    #[cfg(test)]
    pub(super) fn has_no_strays(&self) -> bool {
        self.strays.is_empty() && self.others.is_empty() && self.plans.len() == 1
    }

    /// Notes that a port is not in use any more.
    #[inline]
    pub(super) fn freed(&mut self, key: &PoolKey, port: u16) {
        if let Some((_, found, count)) = &mut self.search
            && found.remove(key, port)
        {
            *count -= 1;
        }
        if self.strays_left > 0 && self.strays.remove(key, port) {
            self.strays_left -= 1;
            if self.strays_left == 0 {
                self.strays = Arc::default();
                self.claims[self.worker].clear();
            }
        }
    }
}

/// Room for all plans that there may be.
fn first_plan() -> Vec<Arc<NextHops>> {
    let mut plans = Vec::with_capacity(MOST_PLANS);
    plans.push(Arc::default());
    plans
}

/// The owner of a port by one plan.
pub(super) fn owner_by(plan: &NextHops, key: &PoolKey, port: u16, workers: usize) -> usize {
    let by_queue =
        Rule::of(plan, key).queue().and_then(|(interface, base)| Some((plan.rss(interface)?, base)));
    by_queue.map_or_else(
        || super::owner(port, workers),
        |(rss, base)| rss.port_owner(base, key.server.is_v4(), port),
    )
}

fn plan_of(plans: &[Arc<NextHops>]) -> u64 {
    plans.last().map_or(0, |plan| plan.port_plan())
}

fn by_rule(plan: &NextHops, rule: Rule, key: &PoolKey, worker: usize, workers: usize, word: usize) -> u64 {
    match rule.queue() {
        None => numbered(worker, workers, word),
        Some((interface, base)) => {
            plan.rss(interface).map_or(0, |rss| rss.ports(worker, base, key.server.is_v4(), word))
        }
    }
}
