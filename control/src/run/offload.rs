//! Established connections that the kernel carries: the program, what workers
//! and it have in common, and which interfaces take part.

use std::cell::{Cell, RefCell};
use std::io;
use std::sync::Arc;

use anyhow::{Context, Result};
use sluice_dataplane::link::Link;
use sluice_dataplane::offload::{Board, Offload, Room};
use sluice_dataplane::service::{OffloadChoice, ServiceTable};
use sluice_dataplane::steer;

use crate::config::Director;
use crate::workers::{Carry, random_seed};

/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;

/// The program, before there are workers.
pub(super) struct Loaded {
    program: Offload,
    settings: Carry,
    choice: OffloadChoice,
}

impl Loaded {
    /// Loads the program, if it is wanted.
    ///
    /// # Errors
    /// When the kernel refuses what the configuration insists on.
    pub(super) fn load(settings: &Director) -> Result<Option<Self>> {
        let choice = settings.offload;
        if choice == OffloadChoice::Off {
            return Ok(None);
        }
        let room = Room { v4: settings.offload_flows, v6: settings.offload_flows_v6 };
        let seed = random_seed().context("a secret for the tables of connections that are carried")?;
        let program = match Offload::load(room, seed) {
            Ok(program) => program,
            Err(error) if choice == OffloadChoice::Auto => {
                tracing::warn!(%error, "established connections stay with the workers");
                return Ok(None);
            }
            Err(error) => return Err(error).context("offload = \"on\""),
        };
        let settings = Carry {
            board: Arc::clone(program.board()),
            connections: room.all(),
            after: settings.offload_after,
            stale: u64::from(settings.offload_stale) * SECOND,
        };
        Ok(Some(Loaded { program, settings, choice }))
    }

    /// What workers and the program have in common.
    pub(super) fn board(&self) -> &Arc<Board> {
        &self.settings.board
    }

    /// What workers are told.
    pub(super) fn carry(&self) -> Carry {
        self.settings.clone()
    }

    /// Goes on with workers that were told.
    pub(super) fn start(self) -> Offloading {
        let Loaded { program, settings, choice } = self;
        Offloading {
            board: settings.board,
            program: RefCell::new(program),
            choice,
            capable: RefCell::default(),
            table: RefCell::default(),
            said: Cell::new(false),
        }
    }
}

/// What carries connections.
pub(super) struct Offloading {
    board: Arc<Board>,
    program: RefCell<Offload>,
    choice: OffloadChoice,
    /// Whether frames may be redirected to each interface, as far as that was said
    capable: RefCell<Vec<Option<bool>>>,
    /// The services that flows go by
    table: RefCell<Arc<ServiceTable>>,
    /// Whether it was said that the kernel cannot tell
    said: Cell<bool>,
}

impl Offloading {
    /// Lets packets be sent to interfaces as far as these can, so that connections can
    /// be entered.
    pub(super) fn prepare(&self, interfaces: &[String]) {
        for (number, interface) in interfaces.iter().enumerate() {
            self.look_at(number, interface);
            let index = Link::new(interface).and_then(|link| link.index());
            // One that is not there is looked for.
            if let Ok(index) = index
                && let Err(error) = self.program.borrow_mut().send_to(number, index)
            {
                tracing::warn!(%error, interface, "connections that leave by it stay with the workers");
            }
        }
    }

    /// Has packets carried that come by an interface with this program, or that will
    /// have it, if it is one for that; `zero_copy` says whether workers share frames
    /// with its driver.
    pub(super) fn join(&self, number: usize, steering: &mut steer::Loaded, zero_copy: bool) {
        let mut program = self.program.borrow_mut();
        let interface = steering.interface().to_owned();
        let joined = program.send_to(number, steering.index()).and_then(|()| {
            // There the workers are as fast.
            if self.choice == OffloadChoice::Auto && zero_copy {
                return Ok(false);
            }
            program.join(number, steering).map(|()| true)
        });
        match joined {
            Ok(true) => tracing::info!(interface, "established connections are carried in the kernel"),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "its connections stay with the workers"),
        }
    }

    /// Follows what interfaces can do. To be called every second or so.
    pub(super) fn look_after(&self, interfaces: &[String]) {
        for (number, interface) in interfaces.iter().enumerate() {
            self.look_at(number, interface);
        }
    }

    fn look_at(&self, number: usize, interface: &str) {
        let capable = match Link::new(interface).and_then(|link| link.takes_redirects()) {
            Ok(capable) => capable,
            Err(error) => {
                self.complain(&error);
                false
            }
        };
        self.board.set_capable(number, capable);
        let mut said = self.capable.borrow_mut();
        if said.len() <= number {
            said.resize(number + 1, None);
        }
        if said[number].replace(capable) == Some(capable) {
            return;
        }
        const STAYS: &str = "frames cannot be redirected to it: connections that leave by it stay with the workers (its \
                             driver lacks it, or, of a veth, the other end has neither an XDP program nor GRO: \
                             ethtool -K PEER gro on)";
        match (capable, self.choice) {
            (true, _) => tracing::info!(interface, "frames can be redirected to it"),
            // Nobody asked for it.
            (false, OffloadChoice::Auto) => tracing::info!(interface, "{STAYS}"),
            (false, _) => tracing::warn!(interface, "{STAYS}"),
        }
    }

    fn complain(&self, error: &io::Error) {
        let gone = error.raw_os_error() == Some(libc::ENODEV);
        if gone || self.said.replace(true) {
            return;
        }
        const SILENT: &str = "the kernel does not tell which interfaces take redirected frames (before 6.3)";
        match self.choice {
            OffloadChoice::Auto => tracing::info!(%error, "{SILENT}"),
            _ => tracing::warn!(%error, "{SILENT}"),
        }
    }

    /// To be called when all workers go by a table: flows that would go another
    /// way by it are carried no more.
    pub(super) fn adopted(&self, table: &Arc<ServiceTable>) {
        let former = self.table.replace(Arc::clone(table));
        if concerns(&former, table) {
            self.board.invalidate();
        }
    }

    /// Takes all flows out of force; they are entered anew.
    pub(super) fn invalidate(&self) {
        self.board.invalidate();
    }

    /// Leaves everything to the workers, or no longer.
    pub(super) fn rest(&self, resting: bool) {
        self.board.set_resting(resting);
    }

    /// "auto" or "on"
    pub(super) fn setting(&self) -> &'static str {
        self.choice.name()
    }

    /// Whether frames can be redirected to an interface.
    pub(super) fn is_capable(&self, number: usize) -> bool {
        self.board.is_capable(number)
    }
}

/// Whether connections may go another way by a new table.
fn concerns(former: &ServiceTable, table: &ServiceTable) -> bool {
    if former.tunables().pmtu_disc != table.tunables().pmtu_disc {
        return true;
    }
    let offload = |table: &ServiceTable, id| table.service(id).map(|service| service.options.offload);
    former.servers().filter(|(_, server)| server.available).any(|(id, server)| {
        table.server(id).is_none_or(|new| {
            !new.available
                || (new.address, new.port, new.method) != (server.address, server.port, server.method)
                || new.encapsulation != server.encapsulation
                // Timers of what is carried go by packets, and not by the clock.
                || former.timeouts_of(server) != table.timeouts_of(new)
                || offload(former, server.service) != offload(table, new.service)
        })
    })
}
