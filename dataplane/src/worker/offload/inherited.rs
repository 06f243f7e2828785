//! Going on with what another process had carried.
//!
//! A process that takes another one's place is told of its connections, and of each
//! whether it is carried ([`Session::carried`]). Its workers enter those in tables of
//! their own while the other one's program still carries them by its tables: so the
//! first packet that comes by the new program is carried, too.

use super::super::flow::{Flows, View};
use super::rounds::IDLE;
use super::{CARRIED, Carrying, NEVER, may_be_carried};
use crate::conn::EntryId;
use crate::sync::Session;

impl Flows {
    /// Whether a connection is carried.
    pub(in crate::worker) fn is_carried(&self, id: EntryId) -> bool {
        self.carried(id).is_some()
    }

    /// Has a connection carried that was told of, if it is said to be. One that is about
    /// to end is carried no more.
    pub(in crate::worker) fn inherit(&mut self, view: &View, id: EntryId, told: &Session) {
        if !may_be_carried(told.state) {
            self.no_longer_carried(view, id);
        } else if told.carried && self.carrying.on && !self.standby {
            let Some(line) = self.table.line(id) else { return };
            if matches!(line.offload, CARRIED | NEVER) {
                return;
            }
            self.offer(view, id);
            if let Some(line) = self.table.get_mut(id).filter(|line| line.offload == 0) {
                // Its next hops are not known yet, for example: with its first packet.
                line.offload = self.carrying.after - 1;
            }
        }
    }
}

impl Carrying {
    /// Takes note whether another process has the interfaces.
    pub(super) fn set_waits(&mut self, waits: bool) {
        if self.waits && !waits {
            self.opened = self.periods;
        }
        self.waits = waits;
    }

    /// Whether a connection is idle when nothing of it was carried for so many rounds,
    /// which is asked in each. What waits for its turn is not; if that took longer, it is
    /// given as long again.
    #[inline]
    pub(super) fn is_idle(&self, rounds: u8) -> bool {
        let since = || self.periods.wrapping_sub(self.opened);
        !self.waits && (rounds == IDLE || rounds > IDLE && since() == u32::from(IDLE))
    }
}
