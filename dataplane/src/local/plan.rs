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

use super::PoolKey;
use super::claims::{Claims, Strays};
use super::pool::Pool;
use crate::neigh::NextHops;
use crate::rss::{Hashed, numbered};

/// Plans that are kept until workers agree. Further ones have to wait.
pub(super) const MOST_PLANS: usize = 4;

/// Words of ports that are looked through for strays between two bursts: some
/// microseconds, or a tenth of a millisecond for a table of an odd size.
const SLICE: usize = if cfg!(test) { 1 } else { 1024 };

/// Whose a port of a pool is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rule {
    /// It goes by its number ([`owner`](super::owner))
    Number,
    /// It goes by the queue that answers land on, by the RSS of the interface;
    /// their hash with port 0 is `base`
    Queue { interface: u8, base: u32 },
}

impl Rule {
    pub(super) fn of(plan: &NextHops, key: &PoolKey) -> Self {
        let by_queue = || {
            let interface = plan.answers_by(key.server)?;
            let rss = plan.rss(interface)?;
            let of_ports = rss.hashed(key.protocol, key.server.is_v4()) == Hashed::Ports;
            let interface = u8::try_from(interface).ok()?;
            of_ports.then(|| Rule::Queue { interface, base: rss.base((key.server, key.port), key.lip) })
        };
        by_queue().unwrap_or(Rule::Number)
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
    search: Option<(usize, Strays, u64)>,
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
            plans: vec![Arc::default()],
            wanted: None,
            serial: 0,
            search: None,
            strays: Arc::default(),
            strays_left: 0,
            others: Vec::new(),
        }
    }

    fn newest(&self) -> &NextHops {
        self.plans.last().expect("there is always one")
    }

    /// The rules for a pool, by each plan.
    pub(super) fn rules(&self, key: &PoolKey) -> [Rule; MOST_PLANS] {
        let mut rules = [Rule::Number; MOST_PLANS];
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
    pub(super) fn proceed(&mut self, pools: &[Option<Box<Pool>>]) {
        if self.plans.len() > 1 || !self.others.is_empty() {
            self.go_on(pools);
        }
    }

    #[cold]
    fn go_on(&mut self, pools: &[Option<Box<Pool>>]) {
        self.look_for_strays(pools);
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

    fn look_for_strays(&mut self, pools: &[Option<Box<Pool>>]) {
        let Some((mut next, mut found, mut count)) = self.search.take() else { return };
        let mut looked = 0;
        while let Some(pool) = pools.get(next) {
            if looked >= SLICE {
                self.search = Some((next, found, count));
                return;
            }
            next += 1;
            looked += 1;
            let Some(pool) = pool.as_ref().filter(|pool| pool.taken > 0) else { continue };
            let rules = self.rules(&pool.key);
            for (word, used) in pool.used_words() {
                looked += 1;
                if used == 0 {
                    continue;
                }
                let strays = used & !self.ours(&rules, &pool.key, word);
                if strays != 0 {
                    found.add(&pool.key, word, strays);
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

/// The owner of a port by one plan.
pub(super) fn owner_by(plan: &NextHops, key: &PoolKey, port: u16, workers: usize) -> usize {
    match Rule::of(plan, key) {
        Rule::Number => super::owner(port, workers),
        Rule::Queue { interface, base } => plan.rss(interface.into()).map_or_else(
            || super::owner(port, workers),
            |rss| rss.port_owner(base, key.server.is_v4(), port),
        ),
    }
}

fn plan_of(plans: &[Arc<NextHops>]) -> u64 {
    plans.last().map_or(0, |plan| plan.port_plan())
}

fn by_rule(plan: &NextHops, rule: Rule, key: &PoolKey, worker: usize, workers: usize, word: usize) -> u64 {
    match rule {
        Rule::Number => numbered(worker, workers, word),
        Rule::Queue { interface, base } => {
            plan.rss(interface.into()).map_or(0, |rss| rss.ports(worker, base, key.server.is_v4(), word))
        }
    }
}
