//! The table of Maglev hashing, which control fills: it takes a tenth of a
//! millisecond, and nothing else of a service is that long.

use std::sync::Arc;

use hashbrown::HashMap;

use super::hash::{folded, siphash};
use super::wrr::gcd;
use crate::service::ServiceId;
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
pub(crate) struct Basis {
    pub(crate) servers: Vec<(Address, u16, u32)>,
    pub(crate) service_is_v6: bool,
}

/// The table of a service.
#[derive(Debug)]
pub(crate) struct Maglev {
    basis: Basis,
    /// Places of servers; empty if no server ever had a weight
    table: Box<[u16]>,
}

/// The tables of all services that have one.
#[derive(Debug, Default)]
pub struct Maglevs(HashMap<ServiceId, Arc<Maglev>>);

impl Maglevs {
    #[inline]
    pub(crate) fn of(&self, service: ServiceId) -> Option<&Arc<Maglev>> {
        self.0.get(&service)
    }

    /// Enters a service's table: that of `former` ones if it is of the same basis.
    pub(crate) fn enter(&mut self, service: ServiceId, basis: Basis, former: &Maglevs) {
        let same = former.of(service).filter(|maglev| maglev.basis == basis);
        let maglev = same.map_or_else(|| Arc::new(Maglev::new(basis)), Arc::clone);
        self.0.insert(service, maglev);
    }
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
    fn new(basis: Basis) -> Self {
        let table = filled(basis.ways());
        Maglev { basis, table }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_filled_anew_only_where_servers_changed() {
        let basis = |weight| Basis {
            servers: (1..4).map(|n| (Address::from_v4([10, 0, 0, n]), 80, weight)).collect(),
            service_is_v6: false,
        };
        let (id, mut first) = (ServiceId(3), Maglevs::default());
        first.enter(id, basis(1), &Maglevs::default());
        for (weight, same) in [(1, true), (2, false), (0, false)] {
            let mut next = Maglevs::default();
            next.enter(id, basis(weight), &first);
            assert_eq!(Arc::ptr_eq(next.of(id).unwrap(), first.of(id).unwrap()), same, "{weight}");
            assert_eq!(next.of(id).unwrap().place(7).is_some(), weight > 0);
        }
    }
}
