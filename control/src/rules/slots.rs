//! Slots of services and servers, and when a used one may be used again.

use sluice_dataplane::service::{ServerId, ServiceId};

/// Hands out slot numbers, the lowest freed one first.
#[derive(Debug, Default)]
pub(super) struct Slots {
    next: u32,
    free: std::collections::BTreeSet<u32>,
}

impl Slots {
    pub(super) fn take(&mut self) -> u32 {
        self.free.pop_first().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        })
    }

    pub(super) fn take_service(&mut self) -> ServiceId {
        ServiceId(self.take())
    }

    pub(super) fn take_server(&mut self) -> ServerId {
        ServerId(self.take())
    }

    pub(super) fn release(&mut self, slot: u32) {
        let fresh = self.free.insert(slot);
        debug_assert!(fresh && slot < self.next, "slot {slot} was not taken");
    }
}

/// A change that workers may not have seen yet: the generation of the first
/// table that has it, once there is one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Since(Option<u64>);

impl Since {
    /// The change is part of table `generation`.
    pub(super) fn in_table(&mut self, generation: u64) {
        self.0.get_or_insert(generation);
    }

    /// Whether workers that all adopted table `adopted` know of the change.
    pub(super) fn known_in(self, adopted: u64) -> bool {
        self.0.is_some_and(|since| since <= adopted)
    }
}
