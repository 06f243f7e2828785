//! Whose turn it is: the LIP that a server's next connection has.
//!
//! LIPs take turns at each server, so that the pools of one server are used in a
//! fixed order, as long as none is full. Each pool remembers which one came after
//! it, and with every port that is taken, the cache is asked for the server's next
//! pool. To find it by its key, only to learn that it is the one, would be four
//! accesses to memory of which each waits for the one before.

use super::pool::NONE;
use super::{Exhausted, LocalPorts, PoolKey};
use crate::prefetch::prefetch;
use crate::service::Protocol;
use crate::wire::Address;

/// Which LIP a server's next connection has.
#[derive(Clone, Copy, Debug)]
struct Turn {
    /// The place in the list of LIPs to begin with
    place: u32,
    /// The pool that a port was taken of last
    last: u32,
    /// That which was next to it the time before, and so is most likely now
    next: u32,
}

impl Turn {
    /// The place to begin with in this list, which may be another one than before:
    /// that of the first LIP of a family, as those of the other are none for it.
    #[inline]
    fn place(&self, lips: &[Address], is_v4: bool) -> usize {
        let place = self.place as usize;
        let begin = if place < lips.len() { place } else { place.checked_rem(lips.len()).unwrap_or(0) };
        let fits = |lip: &Address| lip.is_v4() == is_v4;
        let (before, after) = lips.split_at_checked(begin).unwrap_or_default();
        match after.iter().position(fits) {
            Some(ahead) => begin + ahead,
            None => before.iter().position(fits).unwrap_or(begin),
        }
    }
}

/// By a hash of the server, so that services with connections in turn do not keep
/// each other in step.
#[derive(Debug)]
pub(super) struct Turns([Turn; 256]);

impl Turns {
    pub(super) fn new() -> Self {
        Turns([Turn { place: 0, last: NONE, next: NONE }; 256])
    }
}

impl LocalPorts {
    /// Takes a port of one of `lips` for a connection to `server`. The LIPs of
    /// the server's address family have their turns; one whose ports are all
    /// in use is passed over. Where answers land on a queue by the LIP, and
    /// not by its port, those that lead to this worker come first.
    #[inline]
    pub fn allocate(
        &mut self,
        lips: &[Address],
        server: (Address, u16),
        protocol: Protocol,
    ) -> Result<(Address, u16), Exhausted> {
        let number = turn_of(server, protocol);
        let turn = self.turns.0[number];
        let place = turn.place(lips, server.0.is_v4());
        if let Some(lip) = lips.get(place) {
            let key = PoolKey { lip: *lip, server: server.0, port: server.1, protocol };
            if let Some(port) = self.take_likely(turn.next, &key) {
                self.took(number, place, turn.next, port);
                return Ok((*lip, port));
            }
        }
        self.allocate_any(lips, server, protocol, number)
    }

    /// Takes a port of the pool that is most likely a pair's, if it is, and has one
    /// that is found at once.
    #[inline]
    fn take_likely(&mut self, slot: u32, key: &PoolKey) -> Option<u16> {
        let Self { plans, pools, chunks, .. } = self;
        let pool = pools.get_mut(slot)?;
        // An idle one would have to be taken off the list of those.
        if !pool.is_of(key) || pool.serial != plans.serial || pool.suits == 0 || pool.taken == 0 {
            return None;
        }
        pool.take_here(chunks, |word| plans.others_strays(key, word))
    }

    /// Takes note of whose turn it was, and asks the cache for what is needed when
    /// it is the server's turn again.
    #[inline]
    fn took(&mut self, number: usize, place: usize, slot: u32, port: u16) {
        self.next_cursor = u32::from(port) + 1;
        let turn = &mut self.turns.0[number];
        let last = turn.last;
        let next = self.pools.get(slot).map_or(NONE, |pool| pool.then);
        // One that was given back may be in a page that the kernel has back as well.
        if let Some(last) = self.pools.get_mut(last)
            && last.then != slot
            && last.taken > 0
        {
            last.then = slot;
        }
        if let Some(pool) = self.pools.get(next) {
            prefetch(&pool.rules);
            pool.prefetch(&self.chunks);
        }
        *turn = Turn { place: place as u32 + 1, last: slot, next };
    }

    fn allocate_any(
        &mut self,
        lips: &[Address],
        server: (Address, u16),
        protocol: Protocol,
        number: usize,
    ) -> Result<(Address, u16), Exhausted> {
        let begin = self.turns.0[number].place(lips, server.0.is_v4());
        let mut failure = Exhausted::NoAddress;
        let mut unsuitable = 0;
        for i in 0..2 * lips.len() {
            let second = i >= lips.len();
            if second && unsuitable == 0 {
                break;
            }
            let place = (begin + i) % lips.len();
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
                Ok((slot, port)) => {
                    self.took(number, place, slot, port);
                    return Ok((lip, port));
                }
                Err(Exhausted::Ports) if failure != Exhausted::NoAddress => {}
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

#[inline]
fn turn_of((address, port): (Address, u16), protocol: Protocol) -> usize {
    let (high, low) = address.words();
    let mixed = (high ^ low.rotate_left(32) ^ (u64::from(port) << 8) ^ u64::from(protocol.number()))
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) as usize
}
