//! What a worker makes ready before it takes up a table, while packets still go
//! by the one before: what changed in a service of many servers, and what is
//! known of their connections.

use std::sync::Arc;

use super::change::Change;
use super::index::{Contest, Index};
use super::movements::Movements;
use super::roster::Roster;
use super::{Scheduler, TENDED_BLOCKS, Watch};
use crate::service::{ServiceTable, VirtualService};

/// What is made ready for one scheduler and the next table.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// The servers that the scheduler knows; none if there is no scheduler yet
    from: Option<Arc<Roster>>,
    to: Arc<Roster>,
    watch: Watch,
    change: Change,
    index: Option<Index>,
}

impl Prepared {
    /// Begins, if the scheduler has anything to learn of a table.
    pub(crate) fn begin(
        scheduler: Option<&Scheduler>,
        service: &VirtualService,
        table: &ServiceTable,
        (movements, worker): (&Arc<Movements>, usize),
    ) -> Option<Self> {
        let to = table.roster(&service.key)?;
        let from = scheduler.map(Scheduler::roster).filter(|from| from.key == to.key);
        if from.is_some_and(|from| Arc::ptr_eq(from, to)) {
            return None;
        }
        let old = from.map_or(&[][..], |from| &from.members);
        let index = Contest::of(to).map(|contest| Index::begin(contest, to, movements));
        Some(Prepared {
            change: Change::begin(old, to),
            from: from.cloned(),
            to: Arc::clone(to),
            watch: Watch { movements: Arc::clone(movements), worker },
            index: index.filter(|_| to.is_long()),
        })
    }

    /// Goes on by about so many servers, which are taken off the budget; returns
    /// whether that was all.
    pub(crate) fn proceed(&mut self, budget: &mut usize) -> bool {
        let old = self.from.as_ref().map_or(&[][..], |from| &from.members);
        let movements = &self.watch.movements;
        self.change.proceed(old, &self.to, Some(&self.watch), budget)
            && self.index.as_mut().is_none_or(|index| index.proceed(&self.to, movements, budget))
    }

    /// Brings what is known of connections up to date by a bounded portion; returns
    /// whether it is.
    pub(crate) fn refresh(&mut self) -> bool {
        let movements = &self.watch.movements;
        self.index.as_mut().is_none_or(|index| index.refresh(&self.to, movements, TENDED_BLOCKS))
    }

    /// What was made ready, if it was for these.
    pub(super) fn made_for(self, from: &Arc<Roster>, to: &Arc<Roster>) -> Option<(Change, Option<Index>)> {
        let is_from = match &self.from {
            Some(known) => Arc::ptr_eq(known, from),
            None => from.members.is_empty(),
        };
        let is_made = self.change.is_known() && self.index.as_ref().is_none_or(Index::is_made);
        (is_from && is_made && Arc::ptr_eq(&self.to, to)).then_some((self.change, self.index))
    }
}
