//! When connections that are carried expire.
//!
//! Packets that are carried do not move the timer of their connection. It is settled when
//! it is over, or when the connection leaves the tables, and who asks in between is
//! told what it will be.

use super::super::defense::SPARED;
use super::super::flow::{Flows, View, deadline};
use super::super::tick;
use crate::conn::EntryId;
use crate::offload::{Held, Last};
use crate::service::ServiceTable;

impl Flows {
    /// The tick at which a connection expires; `None` if it has no deadline. Packets
    /// that were carried are taken into account.
    #[inline]
    pub(in crate::worker) fn expiry(&self, services: &ServiceTable, id: EntryId) -> Option<u32> {
        let deadline = self.table.deadline(id);
        match self.carried(id) {
            None => deadline,
            Some((_, held)) => self.prolonged(services, id, &held).or(deadline),
        }
    }

    /// The tick until which packets that were carried let a connection live, if there
    /// were any since that was settled.
    fn prolonged(&self, services: &ServiceTable, id: EntryId, held: &Held) -> Option<u32> {
        let (last, slot) = self.carrying.board()?.last(held);
        let now = self.carrying.now;
        let ago = match last {
            Last::Settled => return None,
            Last::Now => 0,
            Last::Rounds(rounds) => self.carrying.looked(slot) + u64::from(rounds) * self.carrying.period(),
        };
        let line = self.table.line(id)?;
        let timeouts = services.server(line.server_id).map(|server| services.timeouts_of(server));
        let seconds = timeouts.unwrap_or(services.timeouts()).seconds(line.state);
        Some(deadline(tick(now.saturating_sub(ago)), seconds))
    }

    /// Counts what was carried, and has the timer of a connection say what it is to.
    /// Returns whether that is later than now.
    pub(in crate::worker) fn settle(&mut self, view: &View, id: EntryId) -> bool {
        let Some((number, held)) = self.carried(id) else { return false };
        let until = self.prolonged(&view.services, id, &held);
        self.fold(view, number);
        let Some(until) = until else { return false };
        if let Some(line) = self.table.get_mut(id) {
            // Rounds do not tell how many there were.
            line.packets = line.packets.max(SPARED);
        }
        let lives = until > tick(self.carrying.now);
        if lives {
            self.table.schedule(id, until);
        }
        lives
    }
}
