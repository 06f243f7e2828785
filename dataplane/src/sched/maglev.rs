//! The table of Maglev hashing, which control fills: it takes a tenth of a
//! millisecond, and nothing else of a service is that long.

use super::hash::{folded, siphash};
use super::wrr::gcd;
use crate::wire::Address;

/// The table's size, a prime (`IP_VS_MH_TAB_SIZE` with the kernel's default
/// configuration, `CONFIG_IP_VS_MH_TAB_INDEX=12`).
pub(super) const SIZE: u32 = 4093;

/// Weights are shifted until they have so many bits (`IP_VS_MH_TAB_BITS`).
const WEIGHT_BITS: u32 = 6;

/// Key of the hash of clients, and of where a server's order begins.
pub(super) const KEY: u64 = 2_654_435_761;

/// Key of the hash of a server's step.
const STEP_KEY: u64 = 2_654_446_892;

/// A part of the table that is nobody's.
const NONE: u16 = u16::MAX;

/// What a table is made of: each server's address, port and last weight, in the
/// order of the service, and whether that is of IPv6.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Basis {
    pub(super) servers: Vec<(Address, u16, u32)>,
    pub(super) service_is_v6: bool,
}

/// The table of a service.
#[derive(Debug)]
pub(super) struct Maglev {
    basis: Basis,
    /// Places of servers; empty if no server ever had a weight
    table: Box<[u16]>,
}

/// The way of a server through the table.
struct Way {
    place: u16,
    next: u32,
    step: u32,
    /// Parts that it takes before it is the next server's turn
    turns: u32,
}

impl Basis {
    /// All ways, of servers that have a part in the table.
    fn ways(&self) -> Vec<Way> {
        let weights = self.servers.iter().map(|(.., weight)| i64::from(*weight));
        let divisor = weights.clone().fold(0, |divisor, weight| gcd(weight, divisor));
        if divisor == 0 {
            return Vec::new();
        }
        let heaviest = weights.clone().max().unwrap_or(0) / divisor;
        let shift = (i64::BITS - heaviest.leading_zeros()).saturating_sub(WEIGHT_BITS);
        // IPVS refuses to fill the table with more servers than it has parts.
        let places = 0..SIZE as u16;
        let weighted = places.zip(&self.servers).zip(weights).filter(|(_, weight)| *weight > 0);
        weighted
            .map(|((place, (address, port, _)), weight)| {
                let name = folded(*address, !self.service_is_v6).wrapping_add(u32::from(*port));
                Way {
                    place,
                    next: siphash(name, KEY) % SIZE,
                    step: siphash(name, STEP_KEY) % (SIZE - 1) + 1,
                    turns: (((weight / divisor) >> shift) as u32).max(1),
                }
            })
            .collect()
    }
}

impl Maglev {
    pub(super) fn new(basis: Basis) -> Self {
        let table = filled(basis.ways());
        Maglev { basis, table }
    }

    /// Whether it is made of this.
    pub(super) fn is_of(&self, basis: &Basis) -> bool {
        self.basis == *basis
    }

    /// The place of the server that has the part of a hash.
    #[inline]
    pub(super) fn place(&self, hash: u32) -> Option<usize> {
        self.table.get((hash % SIZE) as usize).map(|place| usize::from(*place))
    }
}

fn filled(mut ways: Vec<Way>) -> Box<[u16]> {
    if ways.is_empty() {
        return Box::default();
    }
    let mut table = vec![NONE; SIZE as usize].into_boxed_slice();
    let mut left = SIZE;
    loop {
        for way in &mut ways {
            for _ in 0..way.turns {
                while table[way.next as usize] != NONE {
                    way.next = (way.next + way.step) % SIZE;
                }
                table[way.next as usize] = way.place;
                left -= 1;
                if left == 0 {
                    return table;
                }
            }
        }
    }
}
