//! Mark rules in the form of the BPF maps: a list of steps for each prefix of
//! destinations, gone through for every packet to one of its addresses.

use std::collections::{BTreeMap, BTreeSet};

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap as BpfHashMap, MapData, MapError};

use super::SteerError;
use super::loaded::{gone, typed_map};
use super::rules::SteeringRules;
use crate::neigh::Prefix;
use crate::service::{Family, MarkRule, MarkRules};

/// Steps that the program goes through for one packet at most: the present
/// rules, as many former ones, and the ends of both.
const MOST_STEPS_OF_ONE: usize = 2 * MarkRules::MOST_STEPS_OF_ONE + 2;

/// Steps in one half of the map; as many again are there for the next update.
/// Must agree with `steer.bpf.c`.
const HALF: usize = 2 * MarkRules::MOST_STEPS;

/// Lists of rules that are no longer in force and followed all the same.
pub(super) const MOST_FORMER: usize = 4;

/// `struct mark_step`
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub(super) struct Step {
    source: [u8; 16],
    source_mask: [u8; 16],
    value: u32,
    keep: u32,
    first_port: u16,
    last_port: u16,
    protocol: u8,
    kind: u8,
    padding: [u8; 2],
}

const KIND_RULE: u8 = 0;
const KIND_END: u8 = 1;

/// `struct mark_list`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub(super) struct List {
    first: u32,
    count: u32,
    family: u32,
}

/// `struct mark_key`
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(C)]
pub(super) struct MarkKey {
    mark: u32,
    family: u32,
}

// SAFETY: plain bytes with no padding that is not named: any bit pattern is a
// value, and every byte that the kernel reads is initialised.
#[allow(unsafe_code)]
mod pod {
    unsafe impl aya::Pod for super::Step {}
    unsafe impl aya::Pod for super::List {}
    unsafe impl aya::Pod for super::MarkKey {}
}

fn number(family: Family) -> u32 {
    match family {
        Family::V4 => 4,
        Family::V6 => 6,
    }
}

/// The maps of one interface.
pub(super) struct MarkMaps {
    lists: LpmTrie<MapData, [u8; 16], List>,
    steps: Array<MapData, Step>,
    services: BpfHashMap<MapData, MarkKey, u8>,
    in_force: Compiled,
    /// Whether the lists in force are in the upper half
    upper: bool,
}

impl MarkMaps {
    pub(super) fn take(ebpf: &mut Ebpf, interface: &str) -> Result<Self, SteerError> {
        Ok(MarkMaps {
            lists: typed_map(ebpf, interface, "mark_lists")?,
            steps: typed_map(ebpf, interface, "mark_steps")?,
            services: typed_map(ebpf, interface, "mark_services")?,
            in_force: Compiled::default(),
            upper: false,
        })
    }

    /// Whether any packet can be wanted for its mark.
    pub(super) fn is_empty(&self) -> bool {
        self.in_force.lists.is_empty()
    }

    /// Brings the maps to what `rules` say of the director's interface of this
    /// number. Each list is replaced at once by one that is written already.
    /// An error comes with the name of the map.
    pub(super) fn update(
        &mut self,
        rules: &SteeringRules,
        interface: usize,
    ) -> Result<(), (&'static str, MapError)> {
        let new = Compiled::of(rules, interface);
        if new == self.in_force {
            return Ok(());
        }
        for key in new.services.difference(&self.in_force.services) {
            self.services.insert(key, 1, 0).map_err(|error| ("mark_services", error))?;
        }
        if new.lists != self.in_force.lists {
            let mut next = if self.upper { 0 } else { HALF as u32 };
            for (prefix, steps) in &new.lists {
                let first = next;
                for step in steps {
                    self.steps.set(next, step, 0).map_err(|error| ("mark_steps", error))?;
                    next += 1;
                }
                let family = number(Family::of(prefix.address()));
                let list = List { first, count: next - first, family };
                self.lists.insert(&key(*prefix), list, 0).map_err(|error| ("mark_lists", error))?;
            }
            // Only now: after an error the same half is written again.
            self.upper = !self.upper;
            for prefix in self.in_force.lists.keys().filter(|prefix| !new.lists.contains_key(prefix)) {
                gone(self.lists.remove(&key(*prefix))).map_err(|error| ("mark_lists", error))?;
            }
        }
        for key in self.in_force.services.difference(&new.services) {
            gone(self.services.remove(key)).map_err(|error| ("mark_services", error))?;
        }
        self.in_force = new;
        Ok(())
    }
}

fn key(prefix: Prefix) -> Key<[u8; 16]> {
    Key::new(prefix.mapped_length().into(), prefix.address().bytes())
}

/// What the maps hold.
#[derive(PartialEq, Eq, Debug, Default)]
struct Compiled {
    lists: BTreeMap<Prefix, Vec<Step>>,
    services: BTreeSet<MarkKey>,
}

impl Compiled {
    /// With as many of the former rules as there is room for.
    fn of(rules: &SteeringRules, interface: usize) -> Self {
        let services =
            rules.marks.iter().map(|(mark, family)| MarkKey { mark: *mark, family: number(*family) });
        let services: BTreeSet<_> = services.collect();
        if services.is_empty() {
            return Compiled::default();
        }
        let mut considered = rules.mark_rules.as_slice();
        loop {
            let lists = lists(considered, interface);
            let fits = lists.values().all(|steps| steps.len() <= MOST_STEPS_OF_ONE)
                && lists.values().map(Vec::len).sum::<usize>() <= HALF;
            match considered {
                [rest @ .., _] if !fits && !rest.is_empty() => considered = rest,
                _ => return Compiled { lists, services },
            }
        }
    }
}

fn lists(considered: &[std::sync::Arc<MarkRules>], interface: usize) -> BTreeMap<Prefix, Vec<Step>> {
    let prefixes: BTreeSet<_> = considered.iter().flat_map(|rules| rules.destinations()).collect();
    let list = |prefix| {
        let mut steps = Vec::new();
        for rules in considered {
            let before = steps.len();
            steps.extend(rules.applying_to(prefix).filter(|rule| rule.is_on(interface)).flat_map(steps_of));
            if steps.len() > before {
                steps.push(Step { kind: KIND_END, ..Step::default() });
            }
        }
        (prefix, steps)
    };
    prefixes.into_iter().map(list).filter(|(_, steps)| !steps.is_empty()).collect()
}

fn steps_of(rule: &MarkRule) -> impl Iterator<Item = Step> {
    let (source, source_mask) = match rule.source {
        Some(source) => (source.address().bytes(), source.mapped_mask()),
        None => ([0; 16], [0; 16]),
    };
    let step = Step {
        source,
        source_mask,
        value: rule.value,
        keep: !(rule.mask | rule.value),
        first_port: 0,
        last_port: u16::MAX,
        protocol: rule.protocol.map_or(0, |protocol| protocol.number()),
        kind: KIND_RULE,
        padding: [0; 2],
    };
    let all = rule.ports.is_empty().then_some(step);
    let ranges =
        rule.ports.iter().map(move |range| Step { first_port: range.first, last_port: range.last, ..step });
    all.into_iter().chain(ranges)
}
