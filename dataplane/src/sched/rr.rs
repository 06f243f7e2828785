//! Round robin (`ip_vs_rr.c`): the server after the last chosen one.

use super::{Algorithm, Arrival, Change, Servers};

/// Where a round continues: the place after the server chosen last, 0 when none
/// was chosen yet (in IPVS, the list head).
///
/// A server that is added in front is not met before the next round begins.
/// When the server chosen last is removed, those after it are next.
#[derive(Debug, Default)]
pub(super) struct RoundRobin {
    next: usize,
}

impl Algorithm for RoundRobin {
    fn changed(&mut self, change: &Change) {
        for place in &change.removed {
            if (*place as usize) < self.next {
                self.next -= 1;
            }
        }
        if self.next > 0 {
            self.next += change.added;
        }
    }

    #[inline]
    fn peek(&mut self, servers: Servers, _arrival: &Arrival) -> Option<usize> {
        servers.next_of_weight(self.next, 1).or_else(|| servers.next_of_weight(0, 1))
    }

    #[inline]
    fn choose(&mut self, servers: Servers, arrival: &Arrival) -> Option<usize> {
        let place = self.peek(servers, arrival)?;
        self.next = place + 1;
        Some(place)
    }
}
