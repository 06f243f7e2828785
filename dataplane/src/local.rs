//! LIPs and their ports for FULLNAT.
//!
//! A FULLNAT connection reaches its server from a (LIP, port) that no other
//! connection to the same server address and port uses. A port is thus
//! taken for a LIP, a server and a protocol, and each such triple has its own
//! pool: one LIP carries 64 512 connections to every server.
//!
//! Each port of a pool belongs to one worker, so that workers never ask each
//! other. Where the server's answers come by an interface whose RSS is known,
//! it is the worker whose queue they land on ([`Rss::port_owner`]), and a
//! worker has as many ports as its queue has of the indirection table. Where
//! it is not known, or the NIC does not hash ports, the port's number tells
//! ([`owner`]), and answers on another queue are handed to their worker. All
//! workers together have all ports in either case. How they go over from one
//! way to another, connections staying as they are, is told in `plan.rs`.
//!
//! A freed port comes up again only after all others of its pool: servers hold
//! a closed connection in TIME_WAIT, and a port used again at once would meet
//! it there.
//!
//! [`Rss::port_owner`]: crate::rss::Rss::port_owner

mod claims;
mod plan;
mod pool;
mod turns;

use std::sync::Arc;

use thiserror::Error;

pub use claims::Claims;
use plan::Plans;
use pool::{CHUNKS, Chunk, NONE, Pool, WORDS};
use turns::Turns;

use crate::arena::Arena;
use crate::conn::index::Index;
use crate::conn::{Seed, Tuple};
use crate::neigh::NextHops;
use crate::rss::FIRST_WORD;
use crate::service::Protocol;
use crate::wire::Address;

/// The lowest port that is taken for FULLNAT. The steering program sends
/// replies to a LIP's port from here upwards to the workers, and leaves
/// those below to the kernel.
pub const MIN_LOCAL_PORT: u16 = 1024;

/// Ports of a LIP towards one server, all workers together.
const PORTS: u32 = u16::MAX as u32 - MIN_LOCAL_PORT as u32 + 1;

/// Pools that a worker has at most, unless told otherwise.
pub const DEFAULT_POOLS: usize = 16_384;

/// Idle pools that a worker keeps for each LIP: together less than 64 KiB, with
/// what is known of the LIP (`tests/port_memory.rs` measures it).
pub const IDLE_POOLS: u32 = 64;

/// Why no (LIP, port) could be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Exhausted {
    /// No LIP of the server's address family was offered
    #[error("no local address of the server's address family: configure one")]
    NoAddress,
    /// Every port of every LIP is in use towards the server
    #[error("every port of every local address is in use towards the server: add local addresses")]
    Ports,
    /// More pairs of LIP and server are in use than the worker keeps pools for
    #[error("too many pairs of local address and server in use: use fewer local addresses for each service")]
    Pools,
}

/// The worker that the local port `port` belongs to by its number, out of
/// `workers`.
#[inline]
pub fn owner(port: u16, workers: usize) -> usize {
    usize::from(port) % workers.max(1)
}

/// The worker out of `workers` that gets a server's `answer` to a LIP, by what
/// `hops` says of the interfaces.
pub fn owner_by(hops: &NextHops, answer: &Tuple, workers: usize) -> usize {
    plan::owner_by(hops, &PoolKey::of(answer), answer.destination_port, workers)
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct PoolKey {
    lip: Address,
    server: Address,
    port: u16,
    protocol: Protocol,
}

impl PoolKey {
    /// The pool that a server's answer goes to.
    fn of(answer: &Tuple) -> Self {
        let Tuple { source, destination, source_port, protocol, .. } = *answer;
        PoolKey { lip: destination, server: source, port: source_port, protocol }
    }

    /// What the server answers to one of its ports.
    fn answer(&self, port: u16) -> Tuple {
        Tuple {
            source: self.server,
            destination: self.lip,
            source_port: self.port,
            destination_port: port,
            protocol: self.protocol,
        }
    }
}

/// What is known of a LIP that has pools: which of them are idle, from that which
/// is idle for longest to the newest.
#[derive(Clone, Copy, Debug)]
struct Lip {
    address: Address,
    oldest: u32,
    newest: u32,
    idle: u32,
    pools: u32,
}

/// The (LIP, port) pairs of one worker.
///
/// Memory is used for the pairs of LIP and server that are in use, up to a
/// fixed number of pools, and for their ports in use. Address space for all of
/// them is taken at the start, so that nothing is allocated for a packet. A pool
/// that fell idle keeps the order of its ports until another pair needs its
/// place, or [`IDLE_POOLS`] others of its LIP fell idle after it.
pub struct LocalPorts {
    plans: Plans,
    max_pools: usize,
    pools: Arena<Pool>,
    chunks: Arena<Chunk>,
    by_key: Index,
    by_lip: Index,
    lips: Vec<Lip>,
    vacant_lips: Vec<u32>,
    /// The first and the last of the list of all idle pools
    eldest: u32,
    youngest: u32,
    seed: Seed,
    turns: Turns,
    /// Where the next new pool begins, so that a pair which lost its idle
    /// pool does not begin anew with the ports that it used last
    next_cursor: u32,
}

impl LocalPorts {
    /// The ports of worker `worker_index` out of `workers`, of which no other
    /// is there.
    ///
    /// # Panics
    /// Unless `worker_index < workers <= 64512`.
    pub fn new(worker_index: usize, workers: usize) -> Self {
        Self::shared(worker_index, (0..workers).map(|_| Arc::default()).collect(), usize::MAX)
    }

    /// The ports of worker `worker_index` out of as many as there are `claims`,
    /// through which they agree on whose the ports are. No more than `most`
    /// ports are in use at once.
    ///
    /// # Panics
    /// Unless `worker_index < claims.len() <= 64512`.
    pub fn shared(worker_index: usize, claims: Vec<Arc<Claims>>, most: usize) -> Self {
        let workers = claims.len();
        assert!(worker_index < workers && workers <= PORTS as usize, "worker {worker_index} of {workers}");
        LocalPorts {
            plans: Plans::new(worker_index, workers, claims),
            max_pools: DEFAULT_POOLS,
            pools: Arena::new(DEFAULT_POOLS),
            // Each has a port in use.
            chunks: Arena::new(most.min(DEFAULT_POOLS * CHUNKS)),
            by_key: Index::new(DEFAULT_POOLS),
            by_lip: Index::new(DEFAULT_POOLS),
            // One more, which is to take the place of another.
            lips: Vec::with_capacity(DEFAULT_POOLS + 1),
            vacant_lips: Vec::with_capacity(DEFAULT_POOLS + 1),
            eldest: NONE,
            youngest: NONE,
            seed: Seed::new([0x3c; 16]),
            turns: Turns::new(),
            next_cursor: MIN_LOCAL_PORT.into(),
        }
    }

    /// The same with at most `max_pools` pairs of LIP and server in use at once,
    /// of [`DEFAULT_POOLS`].
    #[must_use]
    pub fn with_max_pools(mut self, max_pools: usize) -> Self {
        self.max_pools = max_pools.min(DEFAULT_POOLS);
        self
    }

    /// Lets the first port be any, by a random seed. After a restart, servers
    /// hold connections of the director before in TIME_WAIT, and must not meet
    /// the same ports in the same order.
    #[must_use]
    pub fn starting_at(mut self, random: Seed) -> Self {
        self.next_cursor = u32::from(MIN_LOCAL_PORT) + random.word() % PORTS;
        self.seed = random;
        self
    }

    /// Takes up what a snapshot says of the interfaces' RSS. Connections that
    /// there are keep their ports.
    pub fn follow(&mut self, hops: &Arc<NextHops>) {
        self.plans.follow(hops);
    }

    /// To be called between two bursts: goes on, by a bounded portion, with
    /// what a change of plans asks for.
    #[inline]
    pub fn proceed(&mut self) {
        self.plans.proceed(&self.pools, &self.chunks);
    }

    /// Gives memory that is not used any more back to the kernel, by a bounded
    /// portion. To be called when there is nothing else to do, as it takes
    /// system calls.
    pub fn tidy(&mut self) {
        self.pools.tidy();
        self.chunks.tidy();
    }

    /// The worker that has the connection of a server's `answer` to a LIP, if
    /// it has begun since the last change of RSS.
    pub fn owner_of(&self, answer: &Tuple) -> usize {
        self.plans.owner(&PoolKey::of(answer), answer.destination_port)
    }

    /// Whether [`LocalPorts::allocate`] would find a port. It goes through all of
    /// them where there is none, and so is not for packets.
    pub fn has_room(&self, lips: &[Address], server: (Address, u16), protocol: Protocol) -> bool {
        lips.iter().filter(|lip| lip.is_v4() == server.0.is_v4()).any(|lip| {
            let key = PoolKey { lip: *lip, server: server.0, port: server.1, protocol };
            match self.find(&key, self.hash(&key)).and_then(|slot| self.pools.get(slot)) {
                Some(pool) => {
                    let rules = self.plans.rules(&key);
                    (FIRST_WORD..WORDS).any(|word| {
                        let taken = pool.used(word, &self.chunks) | self.plans.others_strays(&key, word);
                        self.plans.ours(&rules, &key, word) & !taken != 0
                    })
                }
                None => self.pools() < self.max_pools || self.eldest != NONE,
            }
        })
    }

    /// Takes this very port, for a connection that another director began, to be
    /// given back as any other. Returns false, and takes nothing, where it is in
    /// use, or another worker's by a plan that some worker goes by.
    pub fn claim(&mut self, lip: Address, port: u16, server: (Address, u16), protocol: Protocol) -> bool {
        let key = PoolKey { lip, server: server.0, port: server.1, protocol };
        if port < MIN_LOCAL_PORT || !self.plans.owns(&key, port) {
            return false;
        }
        let Some(slot) = self.pool_for(key) else { return false };
        let Some(pool) = self.pools.get_mut(slot) else { return false };
        let was_idle = pool.taken == 0;
        let claimed = pool.claim(port, &mut self.chunks);
        if claimed && was_idle {
            self.leave_idle(slot);
        }
        claimed
    }

    /// A port of a pair's pool, with the pool.
    fn take(&mut self, key: PoolKey) -> Result<(u32, u16), Exhausted> {
        let slot = self.pool_for(key).ok_or(Exhausted::Pools)?;
        let Self { plans, pools, chunks, .. } = self;
        let pool = pools.get_mut(slot).ok_or(Exhausted::Pools)?;
        if pool.serial != plans.serial {
            pool.follow(plans.rules(&key), plans.suits(&key), plans.serial);
        }
        let (was_idle, rules) = (pool.taken == 0, pool.rules);
        let port = pool
            .take(chunks, |word| plans.ours(&rules, &key, word), |word| plans.others_strays(&key, word))
            .ok_or(Exhausted::Ports)?;
        if was_idle {
            self.leave_idle(slot);
        }
        Ok((slot, port))
    }

    /// Gives back what [`LocalPorts::allocate`] handed out for the same server
    /// and protocol. Returns whether it was in use; nothing changes if not.
    pub fn free(&mut self, lip: Address, port: u16, server: (Address, u16), protocol: Protocol) -> bool {
        let key = PoolKey { lip, server: server.0, port: server.1, protocol };
        let Some(slot) = self.find(&key, self.hash(&key)) else { return false };
        let Some(pool) = self.pools.get_mut(slot) else { return false };
        if !pool.put_back(port, &mut self.chunks) {
            return false;
        }
        if pool.taken == 0 {
            self.enter_idle(slot);
        }
        self.plans.freed(&key, port);
        true
    }

    /// Number of pools that there are, idle ones included.
    pub fn pools(&self) -> usize {
        self.pools.taken()
    }

    /// Lets go of pools without any port in use, but for the `keep` of each LIP
    /// that fell idle last.
    pub fn release_idle(&mut self, keep: u32) {
        for place in 0..self.lips.len() as u32 {
            self.release_idle_of(place, keep);
        }
    }

    fn release_idle_of(&mut self, place: u32, keep: u32) {
        while let Some(lip) = self.lips.get(place as usize).filter(|lip| lip.idle > keep) {
            self.release(lip.oldest);
        }
    }

    /// Lets go of an idle pool.
    fn release(&mut self, slot: u32) {
        self.leave_idle(slot);
        let Some(pool) = self.pools.get(slot) else { return };
        let place = pool.place_of_lip;
        self.by_key.remove(pool.hash, slot);
        self.pools.give_back(slot);
        let Some(lip) = self.lips.get_mut(place as usize) else { return };
        lip.pools -= 1;
        if lip.pools == 0 {
            let address = lip.address;
            self.by_lip.remove(self.hash_of(address), place);
            self.vacant_lips.push(place);
        }
    }

    fn hash(&self, key: &PoolKey) -> u64 {
        key.answer(0).hash(self.seed)
    }

    fn hash_of(&self, lip: Address) -> u64 {
        self.hash(&PoolKey { lip, server: lip, port: 0, protocol: Protocol::Tcp })
    }

    fn find(&self, key: &PoolKey, hash: u64) -> Option<u32> {
        self.by_key.find(hash, |slot| self.pools.get(slot).is_some_and(|pool| pool.is_of(key)))
    }

    /// The pool of a pair: its own, else a new one, else one in the place of
    /// that which has been idle for longest, of the same LIP if it has one.
    fn pool_for(&mut self, key: PoolKey) -> Option<u32> {
        let hash = self.hash(&key);
        if let Some(slot) = self.find(&key, hash) {
            return Some(slot);
        }
        let place = self.place_of(key.lip);
        if self.pools() >= self.max_pools {
            let of_lip = self.lips.get(place as usize).filter(|lip| lip.idle > 0).map(|lip| lip.oldest);
            let idle = of_lip.unwrap_or(self.eldest);
            if idle == NONE {
                self.forget_unused(place);
                return None;
            }
            // Not to lose what is known of the LIP with its last pool.
            self.lips[place as usize].pools += 1;
            self.release(idle);
            self.lips[place as usize].pools -= 1;
        }
        let (rules, suits, serial) = (self.plans.rules(&key), self.plans.suits(&key), self.plans.serial);
        let slot = self.pools.take()?;
        let pool = self.pools.get_mut(slot)?;
        pool.begin(key, hash, self.next_cursor);
        pool.place_of_lip = place;
        pool.then = NONE;
        pool.follow(rules, suits, serial);
        self.lips[place as usize].pools += 1;
        self.by_key.insert(hash, slot);
        self.enter_idle(slot);
        Some(slot)
    }

    /// The place of what is known of a LIP, which may be new and is to get a pool.
    fn place_of(&mut self, address: Address) -> u32 {
        let hash = self.hash_of(address);
        let lips = &self.lips;
        let known = |place: u32| lips.get(place as usize).is_some_and(|lip| lip.address == address);
        if let Some(place) = self.by_lip.find(hash, known) {
            return place;
        }
        let lip = Lip { address, oldest: NONE, newest: NONE, idle: 0, pools: 0 };
        let place = match self.vacant_lips.pop() {
            Some(place) => {
                self.lips[place as usize] = lip;
                place
            }
            None => {
                self.lips.push(lip);
                (self.lips.len() - 1) as u32
            }
        };
        self.by_lip.insert(hash, place);
        place
    }

    /// Forgets a LIP that did not get its first pool.
    fn forget_unused(&mut self, place: u32) {
        let Some(lip) = self.lips.get(place as usize).filter(|lip| lip.pools == 0) else { return };
        self.by_lip.remove(self.hash_of(lip.address), place);
        self.vacant_lips.push(place);
    }

    fn enter_idle(&mut self, slot: u32) {
        let youngest = std::mem::replace(&mut self.youngest, slot);
        let Some(pool) = self.pools.get_mut(slot) else { return };
        let place = pool.place_of_lip;
        let Some(lip) = self.lips.get_mut(place as usize) else { return };
        let newest = std::mem::replace(&mut lip.newest, slot);
        lip.idle += 1;
        (pool.older, pool.newer, pool.elder, pool.younger) = (newest, NONE, youngest, NONE);
        match self.pools.get_mut(newest) {
            Some(pool) => pool.newer = slot,
            None => lip.oldest = slot,
        }
        match self.pools.get_mut(youngest) {
            Some(pool) => pool.younger = slot,
            None => self.eldest = slot,
        }
        self.release_idle_of(place, IDLE_POOLS);
    }

    fn leave_idle(&mut self, slot: u32) {
        let Some(pool) = self.pools.get(slot) else { return };
        let Pool { older, newer, elder, younger, place_of_lip, .. } = *pool;
        let Some(lip) = self.lips.get_mut(place_of_lip as usize) else { return };
        lip.idle -= 1;
        match self.pools.get_mut(older) {
            Some(pool) => pool.newer = newer,
            None => lip.oldest = newer,
        }
        match self.pools.get_mut(newer) {
            Some(pool) => pool.older = older,
            None => lip.newest = older,
        }
        match self.pools.get_mut(elder) {
            Some(pool) => pool.younger = younger,
            None => self.eldest = younger,
        }
        match self.pools.get_mut(younger) {
            Some(pool) => pool.elder = elder,
            None => self.youngest = elder,
        }
    }
}

impl std::fmt::Debug for LocalPorts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalPorts").field("pools", &self.pools).field("chunks", &self.chunks).finish()
    }
}

#[cfg(test)]
mod tests;
