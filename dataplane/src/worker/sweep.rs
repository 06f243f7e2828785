//! The end of all connections of removed servers, with `expire_nodest_conn`
//! (`ip_vs_expire_nodest_conn_flush` in ip_vs_conn.c).

use super::flow::{Flows, View};
use crate::conn::EntryId;

/// Connections or templates that are looked at between two bursts.
///
/// Each may have to be ended, which takes half a microsecond among ten
/// million.
const SLICE: u32 = 64;

/// How far the search for connections of removed servers is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sweep {
    /// Nothing to look for
    Done,
    /// The next connection to look at
    Connections(EntryId),
    /// The next template to look at. They come last, as one with connections
    /// has to stay.
    Templates(u32),
}

impl Sweep {
    /// What a new service table asks for.
    pub(super) fn of(view: &View) -> Self {
        let wanted = view.services.tunables().expire_nodest_conn && view.services.has_removed_servers();
        if wanted { Sweep::Connections(0) } else { Sweep::Done }
    }
}

impl Flows {
    /// Goes on with the search; returns how many connections it ended.
    pub(super) fn sweep(&mut self, view: &View) -> usize {
        let mut ended = 0;
        self.sweep = match self.sweep {
            Sweep::Done => return 0,
            Sweep::Connections(next) => {
                let end = self.table.high_water().min(next.saturating_add(SLICE));
                for id in next..end {
                    if self.is_abandoned(view, id) {
                        self.expire(view, id);
                        ended += 1;
                    }
                }
                if end == self.table.high_water() { Sweep::Templates(0) } else { Sweep::Connections(end) }
            }
            Sweep::Templates(next) => {
                let end = self.templates.high_water().min(next.saturating_add(SLICE));
                for number in next..end {
                    let Some((id, template, _)) = self.templates.at(number) else { continue };
                    let available = view.services.server(template.server_id).is_some_and(|s| s.available);
                    if template.children > 0 || available {
                        continue;
                    }
                    self.end_template(view, id);
                }
                if end == self.templates.high_water() { Sweep::Done } else { Sweep::Templates(end) }
            }
        };
        ended
    }
}
