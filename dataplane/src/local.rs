//! LIPs and their ports for FULLNAT.
//!
//! A FULLNAT connection reaches its server from a (LIP, port) that no other
//! connection to the same server address and port uses. A port is thus
//! taken for a LIP, a server and a protocol, and each such triple has its own
//! pool: one LIP carries some 64 000 connections to every server.
//!
//! Ports are shared out among workers by their remainder, `port mod
//! workers`, so that workers never ask each other, and a port names its worker
//! ([`owner`]). Which ports are a worker's is known to [`Share`] alone.
//!
//! A freed port comes up again only after all others of its pool: servers hold
//! a closed connection in TIME_WAIT, and a port used again at once would meet
//! it there.

use hashbrown::HashMap;
use thiserror::Error;

use crate::service::Protocol;
use crate::wire::Address;

/// The lowest port that is taken for FULLNAT. The steering program sends
/// replies to a LIP's port from here upwards to the workers, and leaves
/// those below to the kernel.
pub const MIN_LOCAL_PORT: u16 = 1024;

/// Pools that a worker has at most, unless told otherwise. A pool takes 8 kB
/// divided by the number of workers.
pub const DEFAULT_POOLS: usize = 16_384;

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

/// The worker that the local port `port` belongs to, out of `workers`.
#[inline]
pub fn owner(port: u16, workers: usize) -> usize {
    usize::from(port) % workers.max(1)
}

/// The ports that one worker takes: an arithmetic progression.
#[derive(Clone, Copy, Debug)]
struct Share {
    first: u32,
    step: u32,
    count: u32,
}

impl Share {
    fn new(worker: usize, workers: usize) -> Self {
        let (step, min) = (workers as u32, u32::from(MIN_LOCAL_PORT));
        let first = min + (worker as u32 + step - min % step) % step;
        Share { first, step, count: (u32::from(u16::MAX) - first) / step + 1 }
    }

    #[inline]
    fn port(self, index: u32) -> u16 {
        (self.first + index * self.step) as u16
    }

    #[inline]
    fn index(self, port: u16) -> Option<u32> {
        let above = u32::from(port).checked_sub(self.first)?;
        (above % self.step == 0).then_some(above / self.step)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct PoolKey {
    lip: Address,
    server: Address,
    port: u16,
    protocol: Protocol,
}

/// No pool, as a link in the list of idle pools.
const NONE: u32 = u32::MAX;

/// The ports of one LIP towards one server.
#[derive(Debug)]
struct Pool {
    key: PoolKey,
    /// A bit for each port in use; those beyond the last port are set
    used: Box<[u64]>,
    /// A bit for each word of `used` that is full
    full: [u64; FULL_WORDS],
    taken: u32,
    /// Where the search begins: after the port taken last
    cursor: u32,
    /// Neighbours in the list of idle pools, while `taken` is 0
    older: u32,
    newer: u32,
}

/// Enough for 65 536 ports, so that `full` is searched in at most 16 steps.
const FULL_WORDS: usize = 65_536 / 64 / 64;

impl Pool {
    fn new(key: PoolKey, count: u32, cursor: u32) -> Self {
        let words = count.div_ceil(64) as usize;
        let mut used = vec![0u64; words].into_boxed_slice();
        if !count.is_multiple_of(64) {
            used[words - 1] = u64::MAX << (count % 64);
        }
        let mut full = [u64::MAX; FULL_WORDS];
        for word in 0..words {
            full[word / 64] &= !(1 << (word % 64));
        }
        Pool { key, used, full, taken: 0, cursor, older: NONE, newer: NONE }
    }

    /// Takes the first free port from the cursor on, around the end once.
    fn take(&mut self) -> Option<u32> {
        let index = self.free_from(self.cursor).or_else(|| self.free_from(0))?;
        let word = (index / 64) as usize;
        self.used[word] |= 1 << (index % 64);
        if self.used[word] == u64::MAX {
            self.full[word / 64] |= 1 << (word % 64);
        }
        self.taken += 1;
        self.cursor = index + 1;
        Some(index)
    }

    /// The first free port at or after `from`.
    fn free_from(&self, from: u32) -> Option<u32> {
        let word = (from / 64) as usize;
        let here = !self.used.get(word)? & (u64::MAX << (from % 64));
        if here != 0 {
            return Some(word as u32 * 64 + here.trailing_zeros());
        }
        let after = word + 1;
        let mut group = after / 64;
        let mut open = !self.full.get(group)? & (u64::MAX << (after % 64));
        while open == 0 {
            group += 1;
            open = !*self.full.get(group)?;
        }
        let word = group * 64 + open.trailing_zeros() as usize;
        Some(word as u32 * 64 + (!self.used.get(word)?).trailing_zeros())
    }

    /// Gives a port back; false when it was not taken.
    fn put_back(&mut self, index: u32) -> bool {
        let word = (index / 64) as usize;
        let bit = 1 << (index % 64);
        if index >= self.used.len() as u32 * 64 || self.used[word] & bit == 0 {
            return false;
        }
        self.used[word] &= !bit;
        self.full[word / 64] &= !(1 << (word % 64));
        self.taken -= 1;
        true
    }
}

/// The (LIP, port) pairs of one worker.
///
/// Memory grows with the pairs of LIP and server that are in use, up to a
/// fixed number of pools. A pool that fell idle keeps its memory, and the
/// order of its ports, until another pair needs it or
/// [`LocalPorts::release_idle`] is called; no packet waits for memory but the
/// first from a LIP to a server.
#[derive(Debug)]
pub struct LocalPorts {
    share: Share,
    max_pools: usize,
    by_key: HashMap<PoolKey, u32>,
    pools: Vec<Option<Pool>>,
    /// Places in `pools` that are empty
    vacant: Vec<u32>,
    oldest_idle: u32,
    newest_idle: u32,
    idle: usize,
    /// The place in the list of LIPs to begin with, by a hash of the server, so
    /// that services with connections in turn do not keep each other in step
    turn: [u32; 256],
    /// Where the next new pool begins, so that a pair which lost its idle
    /// pool does not begin anew with the ports that it used last
    next_cursor: u32,
}

impl LocalPorts {
    /// The ports of worker `worker_index` out of `workers`.
    ///
    /// # Panics
    /// Unless `worker_index < workers <= 64512`.
    pub fn new(worker_index: usize, workers: usize) -> Self {
        Self::with_max_pools(worker_index, workers, DEFAULT_POOLS)
    }

    /// The same with at most `max_pools` pairs of LIP and server in use at once.
    ///
    /// # Panics
    /// Unless `worker_index < workers <= 64512`.
    pub fn with_max_pools(worker_index: usize, workers: usize, max_pools: usize) -> Self {
        let ports = usize::from(u16::MAX - MIN_LOCAL_PORT) + 1;
        assert!(worker_index < workers && workers <= ports, "worker {worker_index} of {workers}");
        LocalPorts {
            share: Share::new(worker_index, workers),
            max_pools: max_pools.min(NONE as usize),
            by_key: HashMap::new(),
            pools: Vec::new(),
            vacant: Vec::new(),
            oldest_idle: NONE,
            newest_idle: NONE,
            idle: 0,
            turn: [0; 256],
            next_cursor: 0,
        }
    }

    /// Lets the first port be any, by a random number. After a restart, servers
    /// hold connections of the director before in TIME_WAIT, and must not meet
    /// the same ports in the same order.
    #[must_use]
    pub fn starting_at(mut self, random: u32) -> Self {
        self.next_cursor = random % self.share.count.max(1);
        self
    }

    /// Takes a port of one of `lips` for a connection to `server`. The LIPs of
    /// the server's address family have their turns; one whose ports are all
    /// in use is passed over.
    pub fn allocate(
        &mut self,
        lips: &[Address],
        server: (Address, u16),
        protocol: Protocol,
    ) -> Result<(Address, u16), Exhausted> {
        let turn = turn_of(server, protocol);
        let begin = self.turn[turn] as usize;
        let mut failure = Exhausted::NoAddress;
        for i in 0..lips.len() {
            let place = (begin % lips.len() + i) % lips.len();
            let lip = lips[place];
            if lip.is_v4() != server.0.is_v4() {
                continue;
            }
            let Some(slot) = self.pool_for(PoolKey { lip, server: server.0, port: server.1, protocol })
            else {
                failure = Exhausted::Pools;
                continue;
            };
            let Some(pool) = self.pools[slot as usize].as_mut() else { continue };
            let was_idle = pool.taken == 0;
            match pool.take() {
                Some(index) => {
                    self.next_cursor = index + 1;
                    self.turn[turn] = place as u32 + 1;
                    if was_idle {
                        self.leave_idle(slot);
                    }
                    return Ok((lip, self.share.port(index)));
                }
                None if failure == Exhausted::NoAddress => failure = Exhausted::Ports,
                None => {}
            }
        }
        Err(failure)
    }

    /// Gives back what [`LocalPorts::allocate`] handed out for the same server
    /// and protocol. Returns whether it was in use; nothing changes if not.
    pub fn free(&mut self, lip: Address, port: u16, server: (Address, u16), protocol: Protocol) -> bool {
        let key = PoolKey { lip, server: server.0, port: server.1, protocol };
        let Some(&slot) = self.by_key.get(&key) else { return false };
        let Some(pool) = self.pools[slot as usize].as_mut() else { return false };
        let Some(index) = self.share.index(port) else { return false };
        if index >= self.share.count || !pool.put_back(index) {
            return false;
        }
        if pool.taken == 0 {
            self.enter_idle(slot);
        }
        true
    }

    /// Number of ports that a pool of this worker has.
    pub fn ports_per_pool(&self) -> u32 {
        self.share.count
    }

    /// Number of pools that hold memory, idle ones included.
    pub fn pools(&self) -> usize {
        self.by_key.len()
    }

    /// Gives the memory of pools without any port in use back, but for the
    /// `keep` that fell idle last. Meant for quiet moments, such as the
    /// adoption of a new service table.
    pub fn release_idle(&mut self, keep: usize) {
        while self.idle > keep {
            let slot = self.oldest_idle;
            self.leave_idle(slot);
            if let Some(pool) = self.pools[slot as usize].take() {
                self.by_key.remove(&pool.key);
            }
            self.vacant.push(slot);
        }
    }

    /// The pool of a pair: its own, else a new one, else the one that has been
    /// idle for longest.
    fn pool_for(&mut self, key: PoolKey) -> Option<u32> {
        if let Some(&slot) = self.by_key.get(&key) {
            return Some(slot);
        }
        let cursor = self.next_cursor;
        let slot = if self.by_key.len() < self.max_pools {
            let pool = Some(Pool::new(key, self.share.count, cursor));
            match self.vacant.pop() {
                Some(slot) => {
                    self.pools[slot as usize] = pool;
                    slot
                }
                None => {
                    self.pools.push(pool);
                    (self.pools.len() - 1) as u32
                }
            }
        } else {
            let slot = self.oldest_idle;
            let pool = self.pools.get_mut(slot as usize)?.as_mut()?;
            self.by_key.remove(&pool.key);
            (pool.key, pool.cursor) = (key, cursor);
            self.leave_idle(slot);
            slot
        };
        self.by_key.insert(key, slot);
        self.enter_idle(slot);
        Some(slot)
    }

    fn enter_idle(&mut self, slot: u32) {
        let older = self.newest_idle;
        if let Some(Some(pool)) = self.pools.get_mut(slot as usize) {
            (pool.older, pool.newer) = (older, NONE);
        }
        match self.pools.get_mut(older as usize) {
            Some(Some(pool)) => pool.newer = slot,
            _ => self.oldest_idle = slot,
        }
        self.newest_idle = slot;
        self.idle += 1;
    }

    fn leave_idle(&mut self, slot: u32) {
        let Some(Some(pool)) = self.pools.get_mut(slot as usize) else { return };
        let (older, newer) = (pool.older, pool.newer);
        match self.pools.get_mut(older as usize) {
            Some(Some(pool)) => pool.newer = newer,
            _ => self.oldest_idle = newer,
        }
        match self.pools.get_mut(newer as usize) {
            Some(Some(pool)) => pool.older = older,
            _ => self.newest_idle = older,
        }
        self.idle -= 1;
    }
}

fn turn_of((address, port): (Address, u16), protocol: Protocol) -> usize {
    let (high, low) = address.words();
    let mixed = (high ^ low.rotate_left(32) ^ (u64::from(port) << 8) ^ u64::from(protocol.number()))
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn v4(last: u8) -> Address {
        Address::from_v4([10, 0, 2, last])
    }

    fn v6(last: u8) -> Address {
        Address::from_v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last])
    }

    const TCP: Protocol = Protocol::Tcp;

    #[test]
    fn a_lip_carries_every_port_to_each_server_once() {
        for (workers, worker) in [(1, 0), (3, 0), (3, 1), (3, 2), (64_512, 7)] {
            let mut ports = LocalPorts::new(worker, workers);
            for server in [(v4(1), 80), (v4(1), 81), (v4(2), 80)] {
                let mut seen = BTreeSet::new();
                for _ in 0..ports.ports_per_pool() {
                    let (lip, port) = ports.allocate(&[v4(200)], server, TCP).unwrap();
                    assert_eq!(lip, v4(200));
                    assert!(seen.insert(port), "{port} twice");
                }
                let expected = (MIN_LOCAL_PORT..=u16::MAX).filter(|port| owner(*port, workers) == worker);
                assert!(seen.into_iter().eq(expected), "worker {worker} of {workers}");
                assert_eq!(ports.allocate(&[v4(200)], server, TCP), Err(Exhausted::Ports));
            }
            assert!(ports.free(v4(200), u16::MAX - owner_gap(worker, workers), (v4(1), 81), TCP));
            let again = ports.allocate(&[v4(200)], (v4(1), 81), TCP);
            assert_eq!(again, Ok((v4(200), u16::MAX - owner_gap(worker, workers))));
        }
    }

    /// How far the worker's last port is from 65 535.
    fn owner_gap(worker: usize, workers: usize) -> u16 {
        (0..=u16::MAX).find(|gap| owner(u16::MAX - gap, workers) == worker).unwrap()
    }

    #[test]
    fn lips_take_turns_and_a_full_one_is_passed_over() {
        let lips = [v4(201), v6(9), v4(202), v4(203)];
        let mut ports = LocalPorts::new(0, 1);
        let server = (v4(1), 80);
        let order: Vec<_> = (0..6).map(|_| ports.allocate(&lips, server, TCP).unwrap().0).collect();
        assert_eq!(order, [v4(201), v4(202), v4(203), v4(201), v4(202), v4(203)]);
        assert_eq!(ports.allocate(&lips, (v6(1), 80), TCP).unwrap().0, v6(9));
        assert_eq!(ports.allocate(&lips[..1], (v6(1), 80), TCP), Err(Exhausted::NoAddress));
        assert_eq!(ports.allocate(&[], server, TCP), Err(Exhausted::NoAddress));

        while ports.allocate(&lips[2..3], server, TCP).is_ok() {}
        let order: Vec<_> = (0..4).map(|_| ports.allocate(&lips, server, TCP).unwrap().0).collect();
        assert_eq!(order, [v4(203), v4(201), v4(203), v4(201)]);
    }

    #[test]
    fn a_freed_port_comes_last() {
        let mut ports = LocalPorts::new(0, 1);
        let server = (v4(1), 80);
        let (lip, first) = ports.allocate(&[v4(200)], server, TCP).unwrap();
        assert!(ports.free(lip, first, server, TCP));
        assert!(!ports.free(lip, first, server, TCP), "freed twice");
        for _ in 1..ports.ports_per_pool() {
            let (_, port) = ports.allocate(&[lip], server, TCP).unwrap();
            assert_ne!(port, first);
            assert!(ports.free(lip, port, server, TCP));
        }
        assert_eq!(ports.allocate(&[lip], server, TCP), Ok((lip, first)));
    }

    #[test]
    fn an_idle_pool_gives_way_to_a_new_pair() {
        let mut ports = LocalPorts::with_max_pools(0, 1, 2);
        let lip = [v4(200)];
        let taken = |ports: &mut LocalPorts, n| ports.allocate(&lip, (v4(n), 80), TCP);
        let (_, port_1) = taken(&mut ports, 1).unwrap();
        let (_, port_2) = taken(&mut ports, 2).unwrap();
        assert_eq!(taken(&mut ports, 3), Err(Exhausted::Pools));
        assert!(ports.free(lip[0], port_2, (v4(2), 80), TCP));
        assert!(ports.free(lip[0], port_1, (v4(1), 80), TCP));
        // That of server 2 is idle for longer.
        let (_, port_3) = taken(&mut ports, 3).unwrap();
        assert_eq!(ports.pools(), 2);
        assert_ne!(port_3, port_2);
        assert_eq!(taken(&mut ports, 1).unwrap().1, port_1 + 1);
        assert_eq!(taken(&mut ports, 2), Err(Exhausted::Pools));
        assert!(!ports.free(lip[0], port_2, (v4(2), 80), TCP));
    }

    #[test]
    fn idle_memory_can_be_given_back() {
        let mut ports = LocalPorts::new(0, 1);
        let taken: Vec<_> =
            (0..10).map(|n| ports.allocate(&[v4(200)], (v4(n), 80), TCP).unwrap().1).collect();
        for n in 0..9u8 {
            assert!(ports.free(v4(200), taken[usize::from(n)], (v4(n), 80), TCP));
        }
        ports.release_idle(4);
        assert_eq!(ports.pools(), 5);
        ports.release_idle(0);
        assert_eq!(ports.pools(), 1);
        assert!(ports.free(v4(200), taken[9], (v4(9), 80), TCP));
        for n in 0..10u8 {
            let port = ports.allocate(&[v4(200)], (v4(n), 80), TCP).unwrap().1;
            assert!(!taken.contains(&port), "{port} is used again at once");
        }
        assert_eq!(ports.pools(), 10);
    }

    #[test]
    fn what_was_never_handed_out_is_not_freed() {
        let mut ports = LocalPorts::new(1, 2);
        let server = (v4(1), 80);
        let (lip, port) = ports.allocate(&[v4(200)], server, TCP).unwrap();
        for wrong in [0, 1023, 1024, port + 1, port + 2, u16::MAX] {
            assert!(!ports.free(lip, wrong, server, TCP), "{wrong}");
        }
        assert!(!ports.free(v4(201), port, server, TCP));
        assert!(!ports.free(lip, port, (v4(2), 80), TCP));
        assert!(!ports.free(lip, port, server, Protocol::Udp));
        assert!(ports.free(lip, port, server, TCP));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Allocate(u8, Protocol),
        Free(usize),
        Release(usize),
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn agrees_with_a_set(steps in prop::collection::vec(prop_oneof![
            6 => (0..4u8, prop_oneof![Just(TCP), Just(Protocol::Udp)]).prop_map(|(n, p)| Step::Allocate(n, p)),
            5 => any::<usize>().prop_map(Step::Free),
            1 => (0..4usize).prop_map(Step::Release),
        ], 1..600)) {
            // So many workers that a pool has 12 or 13 ports, and fills up.
            const WORKERS: usize = 5000;
            let lips = [v4(200), v4(201), v6(1)];
            let mut ports = LocalPorts::with_max_pools(4321, WORKERS, 6);
            let share = ports.ports_per_pool() as usize;
            // For each pair and protocol, the ports in use.
            let mut model: BTreeMap<(Address, Address, Protocol), BTreeSet<u16>> = BTreeMap::new();
            for step in steps {
                let of_pair = |model: &BTreeMap<_, BTreeSet<u16>>, lip, server, protocol| {
                    model.get(&(lip, server, protocol)).map_or(0, BTreeSet::len)
                };
                match step {
                    Step::Allocate(n, protocol) => {
                        let server = v4(n);
                        let room = lips[..2].iter().any(|lip| of_pair(&model, *lip, server, protocol) < share);
                        let in_use = model.values().filter(|set| !set.is_empty()).count();
                        match ports.allocate(&lips, (server, 80), protocol) {
                            Ok((lip, port)) => {
                                prop_assert!(lips[..2].contains(&lip));
                                prop_assert_eq!(owner(port, WORKERS), 4321);
                                prop_assert!(port >= MIN_LOCAL_PORT);
                                let fresh = model.entry((lip, server, protocol)).or_default().insert(port);
                                prop_assert!(fresh, "{lip}:{port} twice");
                            }
                            Err(Exhausted::Ports) => prop_assert!(!room),
                            Err(Exhausted::Pools) => prop_assert!(room && in_use == 6),
                            Err(Exhausted::NoAddress) => prop_assert!(false),
                        }
                    }
                    Step::Free(n) => {
                        let taken: Vec<_> = model
                            .iter()
                            .flat_map(|(pair, set)| set.iter().map(move |port| (*pair, *port)))
                            .collect();
                        if let Some(((lip, server, protocol), port)) = taken.get(n % taken.len().max(1)) {
                            prop_assert!(ports.free(*lip, *port, (*server, 80), *protocol));
                            model.get_mut(&(*lip, *server, *protocol)).unwrap().remove(port);
                        }
                    }
                    Step::Release(keep) => ports.release_idle(keep),
                }
                let in_use = model.values().filter(|set| !set.is_empty()).count();
                prop_assert!(ports.pools() >= in_use && ports.pools() <= 6);
                prop_assert_eq!(ports.pools() - ports.idle, in_use);
            }
        }
    }
}
