//! Looking at what was carried.
//!
//! All slots that a worker has are gone through within [`PERIOD`], a portion between two
//! bursts: what was carried is counted for servers and services, and what is not to be
//! carried any more is taken out. A slot has all that this needs. The connection itself is
//! not looked at, as that would cost more than all else.

use std::sync::Arc;

use super::super::flow::{Flows, View};
use super::Carrying;
use crate::conn::{EntryId, NO_TEMPLATE};
use crate::offload::Board;

/// All slots are gone through in so many nanoseconds.
pub(super) const PERIOD: u64 = 1_000_000_000;
/// When there are more connections than so many it takes longer, which still is within
/// two seconds.
const MANY: usize = 250_000;
const PERIOD_OF_MANY: u64 = 1_750_000_000;

/// Slots that are looked at between two bursts, or a few more.
const SLICE: usize = 256;
/// And stretches of 64 slots, of which the worker may have none.
const STRETCHES: usize = 1024;

/// The cache is asked for the slots of the stretch that is so many ahead.
const AHEAD: usize = 2;

/// Looks in a row at which nothing had been carried after which a connection is carried
/// no more.
pub(super) const IDLE: u8 = 10;

impl Carrying {
    /// How long it takes to go through all.
    pub(super) fn period(&self) -> u64 {
        if self.taken > MANY { PERIOD_OF_MANY } else { PERIOD }
    }

    /// Nanoseconds since the slot with a number was looked at.
    pub(super) fn looked(&self, slot: usize) -> u64 {
        let (stretch, all) = (slot / 64, self.holdings.stretches().max(1));
        let into = u128::from(self.period()) * stretch as u128 / all as u128;
        // In this period, or in the one before.
        let more = if stretch < self.next { 0 } else { self.period() };
        (self.now + more).saturating_sub(self.begun + into as u64)
    }
}

impl Flows {
    /// Looks at the slots whose turn has come; returns whether there are more.
    pub(super) fn go_through(&mut self, view: &View, now: u64) -> bool {
        let carrying = &mut self.carrying;
        let all = if carrying.taken == 0 { 0 } else { carrying.holdings.stretches() };
        let (elapsed, period) = (now.saturating_sub(carrying.begun), carrying.period());
        if carrying.next >= all {
            if elapsed >= period {
                (carrying.next, carrying.begun) = (0, now);
                carrying.periods = carrying.periods.wrapping_add(1);
            }
            return false;
        }
        let due = (u128::from(elapsed) * all as u128 / u128::from(period)).min(all as u128) as usize;
        let end = due.min(carrying.next + STRETCHES);
        let Some(board) = carrying.board().map(Arc::clone) else { return false };
        let generation = board.generation();
        let mut looked = 0;
        while self.carrying.next < end && looked < SLICE {
            let stretch = self.carrying.next;
            // One is asked for with each that is looked at: more at a time would have to wait.
            let mut ahead = self.carrying.holdings.stretch(stretch + AHEAD);
            for slot in self.carrying.holdings.stretch(stretch) {
                if let Some(slot) = ahead.next() {
                    board.prefetch(slot);
                }
                self.look(view, &board, slot, generation);
                looked += 1;
            }
            ahead.for_each(|slot| board.prefetch(slot));
            self.carrying.next += 1;
        }
        self.carrying.next < due
    }

    /// Looks at a slot of a connection that is carried, or was a moment ago.
    #[inline]
    fn look(&mut self, view: &View, board: &Board, slot: usize, generation: u32) {
        let found = board.look(slot);
        let id = found.owner.connection;
        if found.packets > 0 {
            self.count_carried(view, found.owner, found.side, (found.packets, found.bytes));
            if self.sync.is_on() {
                self.sync.packet(id, NO_TEMPLATE, false);
            }
        }
        let over = found.generation != generation || found.closed || !self.carrying.on || self.standby;
        if found.generation != 0 && (over || self.carrying.is_idle(found.rounds)) {
            self.look_again(view, board, id, over);
        }
    }

    /// Takes a connection out that is over for the program, or idle on either side.
    #[cold]
    fn look_again(&mut self, view: &View, board: &Board, id: EntryId, over: bool) {
        let idle = self.carried(id).is_some_and(|(_, held)| board.rounds(&held) >= IDLE);
        if over || idle {
            self.settle(view, id);
            self.withdraw(view, id, 0);
        }
    }
}
