//! The rules that mark packets, and how they are changed.

use std::sync::Arc;

use sluice_dataplane::service::{self, MarkCounters, MarkRules};

use super::{Rules, RulesError};
use crate::marks::{MarkListing, MarkRule};

/// All rules, in order.
#[derive(Debug, Default)]
pub(super) struct Marks {
    entries: Vec<Entry>,
    /// The same for workers
    compiled: Arc<MarkRules>,
    /// Names of the director's interfaces, in their order
    interfaces: Vec<String>,
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) rule: MarkRule,
    pub(super) counters: Arc<MarkCounters>,
}

impl Marks {
    pub(super) fn compiled(&self) -> &Arc<MarkRules> {
        &self.compiled
    }

    pub(super) fn same_rules(&self, other: &Marks) -> bool {
        let rules = |marks: &Marks| marks.entries.iter().map(|entry| entry.rule.clone()).collect::<Vec<_>>();
        rules(self) == rules(other)
    }

    pub(super) fn take_entries(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.entries)
    }

    pub(super) fn into_entries(self) -> Vec<Entry> {
        self.entries
    }

    /// Puts rules in force, or leaves those there are.
    pub(super) fn replace(&mut self, entries: Vec<Entry>) -> Result<(), RulesError> {
        let compiled = entries.iter().map(|entry| {
            let rule = entry.rule.in_data_plane(&self.interfaces)?;
            Ok((rule, Arc::clone(&entry.counters)))
        });
        let compiled = MarkRules::new(compiled.collect::<Result<_, RulesError>>()?);
        self.compiled = Arc::new(compiled.map_err(|error| RulesError::TooManyMarks(error.to_string()))?);
        self.entries = entries;
        Ok(())
    }
}

impl MarkRule {
    fn in_data_plane(&self, interfaces: &[String]) -> Result<service::MarkRule, RulesError> {
        self.check().map_err(RulesError::Mark)?;
        let bits = interfaces.iter().enumerate().filter(|(_, name)| self.is_on(name));
        let bits = match &self.interface {
            None => u64::MAX,
            Some(_) => bits.fold(0, |bits, (place, _)| bits | 1 << place),
        };
        if let (0, Some(name)) = (bits, &self.interface) {
            let those = interfaces.join(", ");
            return Err(RulesError::Mark(format!(
                "interface {name} is none of the director's ({those}); packets that come in by others \
                 are the kernel's"
            )));
        }
        Ok(service::MarkRule {
            destination: self.vip.0,
            source: self.from.map(|from| from.0),
            protocol: self.protocol.map(Into::into),
            ports: self.ports.ranges().to_vec(),
            interfaces: bits,
            value: self.set.value,
            mask: self.set.mask,
        })
    }
}

impl Rules {
    /// The director's interfaces.
    pub fn interfaces(&self) -> &[String] {
        &self.marks.interfaces
    }

    /// Names the director's interfaces, in the order in which workers have
    /// them.
    pub fn set_interfaces(&mut self, interfaces: Vec<String>) {
        self.marks.interfaces = interfaces;
    }

    /// Puts a mark rule before the one of this number, counted from 1, or
    /// behind all others.
    ///
    /// # Errors
    /// [`RulesError::MarkNumber`], [`RulesError::Mark`],
    /// [`RulesError::TooManyMarks`], [`RulesError::Unsupported`].
    pub fn add_mark(&mut self, rule: MarkRule, number: Option<usize>) -> Result<(), RulesError> {
        let mut entries = self.marks.entries.clone();
        let number = number.unwrap_or(entries.len() + 1);
        if number == 0 || number > entries.len() + 1 {
            return Err(RulesError::MarkNumber { number, most: entries.len() + 1 });
        }
        entries.insert(number - 1, self.mark_entry(rule));
        self.marks.replace(entries)
    }

    /// Removes the mark rule of this number, counted from 1.
    ///
    /// # Errors
    /// [`RulesError::MarkNumber`].
    pub fn delete_mark_number(&mut self, number: usize) -> Result<(), RulesError> {
        let mut entries = self.marks.entries.clone();
        if number == 0 || number > entries.len() {
            return Err(RulesError::MarkNumber { number, most: entries.len() });
        }
        entries.remove(number - 1);
        self.marks.replace(entries)
    }

    /// Removes the first mark rule that is the same.
    ///
    /// # Errors
    /// [`RulesError::NoSuchMark`].
    pub fn delete_mark(&mut self, rule: &MarkRule) -> Result<(), RulesError> {
        let place = self.marks.entries.iter().position(|entry| entry.rule == *rule);
        self.delete_mark_number(place.ok_or(RulesError::NoSuchMark)? + 1)
    }

    /// Removes all mark rules.
    pub fn flush_marks(&mut self) {
        self.marks.entries.clear();
        self.marks.compiled = Arc::default();
    }

    /// Replaces all mark rules. Each comes with the line that it is from.
    ///
    /// # Errors
    /// [`RulesError::MarkLine`] with what [`Rules::add_mark`] says, or
    /// [`RulesError::TooManyMarks`]; then nothing has changed.
    pub fn replace_marks(
        &mut self,
        rules: impl IntoIterator<Item = (usize, MarkRule)>,
    ) -> Result<(), RulesError> {
        let mut entries = Vec::new();
        for (line, rule) in rules {
            // Which is to blame, when all are put in force together.
            rule.in_data_plane(&self.marks.interfaces)
                .map_err(|source| RulesError::MarkLine { line, source: Box::new(source) })?;
            entries.push(self.mark_entry(rule));
        }
        self.marks.replace(entries)
    }

    /// All mark rules, in order.
    pub fn marks(&self) -> Vec<MarkListing> {
        let listing =
            |entry: &Entry| MarkListing { rule: entry.rule.clone(), connections: entry.counters.sum() };
        self.marks.entries.iter().map(listing).collect()
    }

    fn mark_entry(&self, rule: MarkRule) -> Entry {
        Entry { rule, counters: Arc::new(MarkCounters::new(self.workers)) }
    }
}
