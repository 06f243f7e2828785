//! A map of flows in memory, for tests.

use std::collections::HashMap;

use super::carrier::FlowMap;
use super::lane::Entered;
use super::layout::{Flow, Key};

/// Flows by key, up to a number of them.
#[derive(Debug)]
pub struct MemoryMap {
    /// What is there
    pub flows: HashMap<Key, Flow>,
    /// How many there may be
    pub capacity: usize,
}

impl MemoryMap {
    /// An empty one.
    pub fn new(capacity: usize) -> Self {
        MemoryMap { flows: HashMap::new(), capacity }
    }
}

impl FlowMap for MemoryMap {
    fn enter(&mut self, flows: &[Entered]) -> Vec<usize> {
        let mut refused = Vec::new();
        for (at, (key, flow)) in flows.iter().enumerate() {
            if self.flows.len() < self.capacity || self.flows.contains_key(key) {
                self.flows.insert(*key, *flow);
            } else {
                refused.push(at);
            }
        }
        refused
    }

    fn take_out(&mut self, keys: &[Key]) {
        for key in keys {
            self.flows.remove(key);
        }
    }
}
