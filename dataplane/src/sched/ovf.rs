//! Weighted overflow (`ip_vs_ovf.c`): the server of the greatest weight, until
//! it has more active connections than its weight; then the next one.

use super::{Algorithm, Arrival, Member, Servers, taking};

#[derive(Debug)]
pub(super) struct Overflow;

impl Algorithm for Overflow {
    fn peek(&mut self, servers: Servers, _arrival: &Arrival) -> Option<usize> {
        let has_room = |(_, server): &(usize, &Member)| server.counters.active() <= u64::from(server.weight);
        servers.best(|members| heaviest(taking(members).filter(has_room)))
    }
}

/// The server of the greatest weight, the first of equals.
#[inline]
pub(super) fn heaviest<'a>(servers: impl Iterator<Item = (usize, &'a Member)>) -> Option<usize> {
    let first = servers.reduce(|most, other| if other.1.weight > most.1.weight { other } else { most });
    first.map(|(place, _)| place)
}
