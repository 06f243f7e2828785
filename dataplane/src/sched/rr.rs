//! Round robin (`ip_vs_rr.c`): the server after the last chosen one.

use super::{Algorithm, Arrival, Member};

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
    fn added(&mut self, _servers: &[Member]) {
        if self.next > 0 {
            self.next += 1;
        }
    }

    fn removed(&mut self, place: usize, _gone: &Member) {
        if place < self.next {
            self.next -= 1;
        }
    }

    #[inline]
    fn peek(&mut self, servers: &[Member], _arrival: &Arrival) -> Option<usize> {
        let (behind, ahead) = servers.split_at_checked(self.next)?;
        match ahead.iter().position(Member::takes) {
            Some(i) => Some(self.next + i),
            None => behind.iter().position(Member::takes),
        }
    }

    #[inline]
    fn choose(&mut self, servers: &[Member], arrival: &Arrival) -> Option<usize> {
        let place = self.peek(servers, arrival)?;
        self.next = place + 1;
        Some(place)
    }
}
