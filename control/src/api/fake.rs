//! A data plane without packets, to test the API and the command line.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use sluice_dataplane::capture::CaptureFilter;
use sluice_dataplane::conn::{ConnectionFilter, ConnectionRecord, Tuple};
use sluice_dataplane::service::ServiceTable;
use tokio::sync::mpsc;

use super::DataPlane;
use crate::capture::CapturePart;
use crate::observe::Observatory;
use crate::role::Role;
use crate::rules::{Daemon, RulesError};
use crate::sync::lvs::socket;
use crate::trace::Asked;

/// Adopts tables at once, unless told not to, and lists the connections that
/// it was given.
#[derive(Debug, Default)]
pub struct FakePlane {
    /// The newest table
    pub table: RefCell<Arc<ServiceTable>>,
    /// The generation that it claims, where that is not the newest
    pub stuck_at: Cell<Option<u64>>,
    /// Slices of the listing
    pub slices: RefCell<Vec<Vec<ConnectionRecord>>>,
    /// A slice that is listed again and again in place of those, and how often
    /// it was
    pub endless: RefCell<Option<(Vec<ConnectionRecord>, Arc<AtomicUsize>)>>,
    /// The role that it was given
    pub role: Cell<Role>,
    /// What is seen of it
    pub observatory: Arc<Observatory>,
}

impl DataPlane for FakePlane {
    fn publish(&self, table: Arc<ServiceTable>) {
        *self.table.borrow_mut() = table;
    }

    fn adopted_generation(&self) -> u64 {
        self.stuck_at.get().unwrap_or_else(|| self.table.borrow().generation())
    }

    fn connections(&self, filter: ConnectionFilter) -> mpsc::Receiver<Vec<ConnectionRecord>> {
        if let Some((slice, number)) = self.endless.borrow().clone() {
            let (sender, receiver) = mpsc::channel(1);
            // As workers do it, on a thread of its own.
            thread::spawn(move || {
                while sender.blocking_send(slice.clone()).is_ok() {
                    number.fetch_add(1, Ordering::Relaxed);
                }
            });
            return receiver;
        }
        let mut slices = self.slices.borrow().clone();
        slices.iter_mut().for_each(|slice| slice.retain(|record| filter.matches(record)));
        let (sender, receiver) = mpsc::channel(slices.len().max(1));
        for slice in slices {
            // There is room for all of them.
            let _ = sender.try_send(slice);
        }
        receiver
    }

    /// There are no packets.
    fn capture(&self, _: CaptureFilter, _: usize) -> Option<mpsc::Receiver<CapturePart>> {
        let (sender, receiver) = mpsc::channel(1);
        // There is room for it.
        let _ = sender.try_send(CapturePart { interfaces: vec!["lo".into()], ..CapturePart::default() });
        Some(receiver)
    }

    /// There are no workers.
    fn trace(&self, _: &Tuple, interface: Option<usize>, _: Option<u32>) -> Asked {
        Asked {
            interfaces: self.interfaces().to_vec(),
            interface: interface.unwrap_or(0),
            wanted: None,
            queue: None,
            questions: Vec::new(),
        }
    }

    fn interfaces(&self) -> &[String] {
        static LOOPBACK: std::sync::LazyLock<[String; 1]> = std::sync::LazyLock::new(|| ["lo".into()]);
        &*LOOPBACK
    }

    fn adopted(&self) {}

    /// There is one interface, and nothing is opened.
    fn prepare_daemon(&self, daemon: Daemon) -> Result<Daemon, RulesError> {
        if daemon.interface == "lo" {
            Ok(socket::resolved(daemon, 65_536))
        } else {
            Err(RulesError::NoDevice)
        }
    }

    fn status(&self) -> serde_json::Value {
        serde_json::json!({ "generation": self.adopted_generation() })
    }

    fn role(&self) -> Role {
        self.role.get()
    }

    fn set_role(&self, role: Role) {
        self.role.set(role);
    }

    fn observatory(&self) -> &Arc<Observatory> {
        &self.observatory
    }
}
