//! Maglev hashing (`ip_vs_mh.c`): a client always gets the same server, and
//! keeps it as far as possible when other servers come and go, by a table that
//! every server fills in an order of its own.
//!
//! Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load
//! Balancer", NSDI 2016, section 3.4. Table size and keys are those of IPVS, so
//! that directors of both kinds agree.
//!
//! Beside the weight, [`Member::last_weight`] counts: a server that was set to
//! 0 keeps its part of the table. Its clients get no server, unless `mh-fallback`
//! lets them have another one. With `mh-port`, the client's port is hashed as
//! well.

use super::hash::{folded, siphash};
use super::wrr::gcd;
use super::{Algorithm, Arrival, Member};
use crate::service::{Family, SchedulerFlags, VirtualService};

/// The table's size, a prime (`IP_VS_MH_TAB_SIZE` with the kernel's default
/// configuration, `CONFIG_IP_VS_MH_TAB_INDEX=12`).
const SIZE: u32 = 4093;

/// Weights are shifted until they have so many bits (`IP_VS_MH_TAB_BITS`).
const WEIGHT_BITS: u32 = 6;

/// Key of the hash of clients, and of where a server's order begins.
const KEY: u64 = 2_654_435_761;

/// Key of the hash of a server's step.
const STEP_KEY: u64 = 2_654_446_892;

/// A part of the table that is nobody's.
const NONE: u16 = u16::MAX;

#[derive(Debug, Default)]
pub(super) struct MaglevHashing {
    /// Places of servers; empty if no server ever had a weight
    table: Vec<u16>,
    /// Whether a server changed since the table was filled
    stale: bool,
    flags: SchedulerFlags,
    service_is_v6: bool,
    filled: bool,
}

/// The way of a server through the table.
struct Way {
    place: u16,
    next: u32,
    step: u32,
    /// Parts that it takes before it is the next server's turn
    turns: u32,
}

impl MaglevHashing {
    /// All ways, of servers that have a part in the table.
    fn ways(&self, servers: &[Member]) -> Vec<Way> {
        let weights = servers.iter().map(|server| i64::from(server.last_weight));
        let divisor = weights.clone().fold(0, |divisor, weight| gcd(weight, divisor));
        if divisor == 0 {
            return Vec::new();
        }
        let heaviest = weights.clone().max().unwrap_or(0) / divisor;
        let shift = (i64::BITS - heaviest.leading_zeros()).saturating_sub(WEIGHT_BITS);
        // IPVS refuses to fill the table with more servers than it has parts.
        let places = 0..SIZE as u16;
        let weighted = places.zip(servers).zip(weights).filter(|(_, weight)| *weight > 0);
        weighted
            .map(|((place, server), weight)| {
                let name = folded(server.address, !self.service_is_v6).wrapping_add(u32::from(server.port));
                Way {
                    place,
                    next: siphash(name, KEY) % SIZE,
                    step: siphash(name, STEP_KEY) % (SIZE - 1) + 1,
                    turns: (((weight / divisor) >> shift) as u32).max(1),
                }
            })
            .collect()
    }

    fn fill(&mut self, servers: &[Member]) {
        let mut ways = self.ways(servers);
        self.table.clear();
        if ways.is_empty() {
            return;
        }
        self.table.resize(SIZE as usize, NONE);
        let mut left = SIZE;
        loop {
            for way in &mut ways {
                for _ in 0..way.turns {
                    while self.table[way.next as usize] != NONE {
                        way.next = (way.next + way.step) % SIZE;
                    }
                    self.table[way.next as usize] = way.place;
                    left -= 1;
                    if left == 0 {
                        return;
                    }
                }
            }
        }
    }
}

impl Algorithm for MaglevHashing {
    fn added(&mut self, _servers: &[Member]) {
        self.stale = true;
    }

    fn removed(&mut self, _place: usize, _gone: &Member) {
        self.stale = true;
    }

    fn edited(&mut self, _servers: &[Member], _place: usize, _former: u32) {
        self.stale = true;
    }

    fn settled(&mut self, servers: &[Member], service: &VirtualService) {
        self.flags = service.scheduler_flags;
        self.service_is_v6 = service.key.family() == Family::V6;
        if self.stale || !self.filled {
            self.fill(servers);
            (self.stale, self.filled) = (false, true);
        }
    }

    fn peek(&mut self, servers: &[Member], arrival: &Arrival) -> Option<usize> {
        let port = if self.flags.port() { u32::from(arrival.source_port) } else { 0 };
        let client = folded(arrival.source, !self.service_is_v6).wrapping_add(port);
        let taking = |hash: u32| {
            let place = usize::from(*self.table.get((hash % SIZE) as usize)?);
            servers.get(place)?.takes().then_some(place)
        };
        let hash = siphash(client, KEY);
        let hashed = taking(hash);
        if hashed.is_some() || !self.flags.fallback() {
            return hashed;
        }
        // Without a server that takes any, the search below is long and vain.
        if !servers.iter().any(Member::takes) {
            return None;
        }
        let first = hash % SIZE;
        (0..SIZE).find_map(|offset| taking(siphash(client.wrapping_add((first + offset) % SIZE), KEY)))
    }
}
