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

use std::sync::Arc;

use hashbrown::HashMap;
use thiserror::Error;

pub use claims::Claims;
use plan::Plans;
use pool::{Chunk, NONE, Pool};

use crate::conn::Tuple;
use crate::neigh::NextHops;
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

/// Idle pools that a worker keeps for each LIP: together less than 64 KiB
/// (`tests/port_memory.rs` measures it).
pub const IDLE_POOLS: u32 = 80;

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

/// The idle pools of one LIP, from that which is idle for longest to the
/// newest.
#[derive(Clone, Copy, Debug)]
struct Idle {
    oldest: u32,
    newest: u32,
    count: u32,
}

/// The (LIP, port) pairs of one worker.
///
/// Memory grows with the pairs of LIP and server that are in use, up to a
/// fixed number of pools, and with their ports in use. A pool that fell idle
/// keeps the order of its ports until another pair needs its place, or
/// [`IDLE_POOLS`] others of its LIP fell idle after it.
#[derive(Debug)]
pub struct LocalPorts {
    plans: Plans,
    max_pools: usize,
    by_key: HashMap<PoolKey, u32>,
    pools: Vec<Option<Box<Pool>>>,
    /// Places in `pools` that are empty
    vacant: Vec<u32>,
    spare: Vec<Chunk>,
    idle: HashMap<Address, Idle>,
    /// The place in the list of LIPs to begin with, by a hash of the server, so
    /// that services with connections in turn do not keep each other in step
    turn: [u32; 256],
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
        Self::shared(worker_index, (0..workers).map(|_| Arc::default()).collect())
    }

    /// The ports of worker `worker_index` out of as many as there are `claims`,
    /// through which they agree on whose the ports are.
    ///
    /// # Panics
    /// Unless `worker_index < claims.len() <= 64512`.
    pub fn shared(worker_index: usize, claims: Vec<Arc<Claims>>) -> Self {
        let workers = claims.len();
        assert!(worker_index < workers && workers <= PORTS as usize, "worker {worker_index} of {workers}");
        LocalPorts {
            plans: Plans::new(worker_index, workers, claims),
            max_pools: DEFAULT_POOLS,
            by_key: HashMap::with_capacity(DEFAULT_POOLS),
            pools: Vec::with_capacity(DEFAULT_POOLS),
            vacant: Vec::with_capacity(DEFAULT_POOLS),
            spare: Vec::new(),
            idle: HashMap::new(),
            turn: [0; 256],
            next_cursor: MIN_LOCAL_PORT.into(),
        }
    }

    /// The same with at most `max_pools` pairs of LIP and server in use at once.
    #[must_use]
    pub fn with_max_pools(mut self, max_pools: usize) -> Self {
        self.max_pools = max_pools.min(NONE as usize);
        self
    }

    /// Lets the first port be any, by a random number. After a restart, servers
    /// hold connections of the director before in TIME_WAIT, and must not meet
    /// the same ports in the same order.
    #[must_use]
    pub fn starting_at(mut self, random: u32) -> Self {
        self.next_cursor = u32::from(MIN_LOCAL_PORT) + random % PORTS;
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
        self.plans.proceed(&self.pools);
    }

    /// The worker that has the connection of a server's `answer` to a LIP, if
    /// it has begun since the last change of RSS.
    pub fn owner_of(&self, answer: &Tuple) -> usize {
        self.plans.owner(&PoolKey::of(answer), answer.destination_port)
    }

    /// Takes a port of one of `lips` for a connection to `server`. The LIPs of
    /// the server's address family have their turns; one whose ports are all
    /// in use is passed over. Where answers land on a queue by the LIP, and
    /// not by its port, those that lead to this worker come first.
    pub fn allocate(
        &mut self,
        lips: &[Address],
        server: (Address, u16),
        protocol: Protocol,
    ) -> Result<(Address, u16), Exhausted> {
        let turn = turn_of(server, protocol);
        let begin = self.turn[turn] as usize;
        let mut failure = Exhausted::NoAddress;
        let mut unsuitable = 0;
        for i in 0..2 * lips.len() {
            let second = i >= lips.len();
            if second && unsuitable == 0 {
                break;
            }
            let place = (begin % lips.len() + i) % lips.len();
            let lip = lips[place];
            if lip.is_v4() != server.0.is_v4() {
                continue;
            }
            let key = PoolKey { lip, server: server.0, port: server.1, protocol };
            if self.plans.suits(&key) == second {
                unsuitable += 1;
                continue;
            }
            match self.take(key) {
                Ok(port) => {
                    self.next_cursor = u32::from(port) + 1;
                    self.turn[turn] = place as u32 + 1;
                    return Ok((lip, port));
                }
                Err(Exhausted::Ports) if failure != Exhausted::NoAddress => {}
                Err(error) => failure = error,
            }
        }
        Err(failure)
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
        let Some(pool) = self.pools.get_mut(slot as usize).and_then(Option::as_mut) else { return false };
        let was_idle = pool.taken == 0;
        let claimed = pool.claim(port, &mut self.spare);
        if claimed && was_idle {
            self.leave_idle(slot);
        }
        claimed
    }

    fn take(&mut self, key: PoolKey) -> Result<u16, Exhausted> {
        let slot = self.pool_for(key).ok_or(Exhausted::Pools)?;
        let Self { plans, pools, spare, .. } = self;
        let pool = pools[slot as usize].as_mut().ok_or(Exhausted::Pools)?;
        if pool.serial != plans.serial {
            pool.follow(plans.rules(&key), plans.serial);
        }
        let (was_idle, rules) = (pool.taken == 0, pool.rules);
        let port = pool
            .take(spare, |word| plans.ours(&rules, &key, word), |word| plans.others_strays(&key, word))
            .ok_or(Exhausted::Ports)?;
        if was_idle {
            self.leave_idle(slot);
        }
        Ok(port)
    }

    /// Gives back what [`LocalPorts::allocate`] handed out for the same server
    /// and protocol. Returns whether it was in use; nothing changes if not.
    pub fn free(&mut self, lip: Address, port: u16, server: (Address, u16), protocol: Protocol) -> bool {
        let key = PoolKey { lip, server: server.0, port: server.1, protocol };
        let Some(&slot) = self.by_key.get(&key) else { return false };
        let Some(pool) = self.pools[slot as usize].as_mut() else { return false };
        if !pool.put_back(port, &mut self.spare) {
            return false;
        }
        if pool.taken == 0 {
            self.enter_idle(slot);
        }
        self.plans.freed(&key, port);
        true
    }

    /// Number of pools that hold memory, idle ones included.
    pub fn pools(&self) -> usize {
        self.by_key.len()
    }

    /// Gives the memory of pools without any port in use back, but for the
    /// `keep` of each LIP that fell idle last.
    pub fn release_idle(&mut self, keep: u32) {
        let lips: Vec<Address> = self.idle.keys().copied().collect();
        for lip in lips {
            self.release_idle_of(lip, keep);
        }
    }

    fn release_idle_of(&mut self, lip: Address, keep: u32) {
        while let Some(idle) = self.idle.get(&lip).filter(|idle| idle.count > keep) {
            let slot = idle.oldest;
            self.leave_idle(slot);
            if let Some(pool) = self.pools[slot as usize].take() {
                self.by_key.remove(&pool.key);
            }
            self.vacant.push(slot);
        }
    }

    /// The pool of a pair: its own, else a new one, else one in the place of
    /// that which has been idle for longest, of the same LIP if it has one.
    fn pool_for(&mut self, key: PoolKey) -> Option<u32> {
        if let Some(&slot) = self.by_key.get(&key) {
            return Some(slot);
        }
        if self.by_key.len() >= self.max_pools {
            let idle = self.idle.get_key_value(&key.lip).or_else(|| self.idle.iter().next())?;
            let (lip, count) = (*idle.0, idle.1.count);
            self.release_idle_of(lip, count - 1);
        }
        let mut pool = Box::new(Pool::new(key, self.next_cursor));
        pool.follow(self.plans.rules(&key), self.plans.serial);
        let slot = match self.vacant.pop() {
            Some(slot) => {
                self.pools[slot as usize] = Some(pool);
                slot
            }
            None => {
                self.pools.push(Some(pool));
                (self.pools.len() - 1) as u32
            }
        };
        self.by_key.insert(key, slot);
        self.enter_idle(slot);
        Some(slot)
    }

    fn pool(&mut self, slot: u32) -> Option<&mut Pool> {
        self.pools.get_mut(slot as usize)?.as_deref_mut()
    }

    fn enter_idle(&mut self, slot: u32) {
        let Some(lip) = self.pool(slot).map(|pool| pool.key.lip) else { return };
        let none = Idle { oldest: NONE, newest: NONE, count: 0 };
        let mut idle = self.idle.get(&lip).copied().unwrap_or(none);
        if let Some(pool) = self.pool(slot) {
            (pool.older, pool.newer) = (idle.newest, NONE);
        }
        match self.pool(idle.newest) {
            Some(pool) => pool.newer = slot,
            None => idle.oldest = slot,
        }
        (idle.newest, idle.count) = (slot, idle.count + 1);
        self.idle.insert(lip, idle);
        self.release_idle_of(lip, IDLE_POOLS);
    }

    fn leave_idle(&mut self, slot: u32) {
        let Some(pool) = self.pool(slot) else { return };
        let (lip, older, newer) = (pool.key.lip, pool.older, pool.newer);
        let Some(mut idle) = self.idle.get(&lip).copied() else { return };
        match self.pool(older) {
            Some(pool) => pool.newer = newer,
            None => idle.oldest = newer,
        }
        match self.pool(newer) {
            Some(pool) => pool.older = older,
            None => idle.newest = older,
        }
        idle.count -= 1;
        match idle.count {
            0 => self.idle.remove(&lip),
            _ => self.idle.insert(lip, idle),
        };
    }
}

fn turn_of((address, port): (Address, u16), protocol: Protocol) -> usize {
    let (high, low) = address.words();
    let mixed = (high ^ low.rotate_left(32) ^ (u64::from(port) << 8) ^ u64::from(protocol.number()))
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) as usize
}

#[cfg(test)]
mod tests;
