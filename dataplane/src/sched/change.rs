//! What happened to the servers of a service from one table to another.

use super::Watch;
use super::roster::{Member, Roster, Weights};
use crate::service::SchedulerKind;

/// The difference between two rosters of a service: first servers were removed,
/// then some were edited, then others were added in front.
///
/// As servers are added in front only, those that stayed are the longest end of
/// the new roster whose members occur in the old one in the same order. All
/// before it was added, all others are gone.
#[derive(Debug)]
pub(super) struct Change {
    /// Old places of removed servers, the last first
    pub(super) removed: Vec<u32>,
    /// Places of servers that were edited, new and old, the first first
    pub(super) edited: Vec<(u32, u32)>,
    /// How many were added, which are the first now
    pub(super) added: usize,
    /// Places of those that have other thresholds
    pub(super) limited: Vec<u32>,
    /// For wrr: what weights there were after each removal, edit and addition in
    /// turn, without those that were as before
    pub(super) weights: Vec<Weights>,
    /// Places in the old roster before which nothing is matched
    unmatched: usize,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Looking for those that stayed
    Matching,
    /// Going through those that were added, of which so many are left
    Adding(usize),
    /// Adding up what wrr needs
    Weighing,
    Done,
}

impl Change {
    /// All that happened. The overload of servers is brought in line with their
    /// thresholds meanwhile.
    pub(super) fn between(old: &[Member], new: &Roster, watch: Option<&Watch>) -> Self {
        let mut change = Change::begin(old, new);
        while !change.proceed(old, new, watch, &mut usize::MAX.clone()) {}
        change
    }

    /// Begins to look; to go on with by [`Change::proceed`], with the same rosters.
    pub(super) fn begin(old: &[Member], new: &Roster) -> Self {
        Change {
            removed: Vec::new(),
            edited: Vec::new(),
            added: new.members.len(),
            limited: Vec::new(),
            weights: Vec::new(),
            unmatched: old.len(),
            stage: Stage::Matching,
        }
    }

    /// Whether all is known.
    pub(super) fn is_known(&self) -> bool {
        self.stage == Stage::Done
    }

    /// How many servers it is about.
    pub(super) fn len(&self) -> usize {
        self.removed.len() + self.edited.len() + self.added
    }

    /// Looks at about so many servers, which are taken off the budget; returns
    /// whether all is known.
    pub(super) fn proceed(
        &mut self,
        old: &[Member],
        new: &Roster,
        watch: Option<&Watch>,
        budget: &mut usize,
    ) -> bool {
        while *budget > 0 && self.stage != Stage::Done {
            let spent = match self.stage {
                Stage::Matching => match self.match_one(old, new, watch) {
                    Some(spent) => spent,
                    None => {
                        let left = self.unmatched;
                        self.remove(old, 0, new.kind);
                        self.edited.reverse();
                        self.stage = Stage::Adding(self.added);
                        left
                    }
                },
                Stage::Adding(0) if new.kind == SchedulerKind::Wrr => {
                    self.stage = Stage::Weighing;
                    0
                }
                Stage::Adding(0) => {
                    self.stage = Stage::Done;
                    0
                }
                Stage::Adding(places) => {
                    new.members[places - 1].limit(watch);
                    self.stage = Stage::Adding(places - 1);
                    1
                }
                Stage::Weighing => {
                    self.weigh(old, new);
                    self.stage = Stage::Done;
                    old.len() + new.members.len()
                }
                Stage::Done => 0,
            };
            *budget = budget.saturating_sub(spent);
        }
        self.stage == Stage::Done
    }

    /// Looks for one more that stayed; returns how many were looked at, or
    /// nothing if there is none.
    fn match_one(&mut self, old: &[Member], new: &Roster, watch: Option<&Watch>) -> Option<usize> {
        let member = &new.members[self.added.checked_sub(1)?];
        let place = old[..self.unmatched].iter().rposition(|known| known.is(member))?;
        let spent = self.unmatched - place;
        self.remove(old, place + 1, new.kind);
        self.unmatched = place;
        self.added -= 1;
        if !old[place].is_as(member) {
            self.edited.push((self.added as u32, place as u32));
            member.limit(watch);
            if old[place].thresholds != member.thresholds {
                self.limited.push(self.added as u32);
            }
        }
        Some(spent)
    }

    /// Takes note that those from a place on are gone, of which nothing is known yet.
    fn remove(&mut self, old: &[Member], first: usize, kind: SchedulerKind) {
        for place in (first..self.unmatched).rev() {
            if kind == SchedulerKind::Lblcr {
                old[place].counters.keep_weight(old[place].weight);
            }
            self.removed.push(place as u32);
        }
        self.unmatched = self.unmatched.min(first);
    }

    /// What weights there were after each step.
    fn weigh(&mut self, old: &[Member], new: &Roster) {
        let all = |weights: &mut dyn Iterator<Item = u32>| weights.fold(Weights::default(), Weights::with);
        let mut steps = Vec::new();
        let mut note = |weights: Weights| {
            if steps.last() != Some(&weights) {
                steps.push(weights);
            }
        };
        // Those that stayed as they were, and what each step leaves of the others.
        let stayed = self.added..new.members.len();
        let mut edits = self.edited.iter().map(|(place, _)| *place as usize).peekable();
        let mut unchanged = Weights::default();
        for place in stayed {
            match edits.next_if_eq(&place) {
                Some(_) => {}
                None => unchanged = unchanged.with(new.members[place].weight),
            }
        }
        let old_weight = |place: &u32| old[*place as usize].weight;
        let before = unchanged.and(all(&mut self.edited.iter().map(|(_, place)| old_weight(place))));
        // Of those that are still there after so many removals, from the end.
        let mut left = vec![before];
        left.extend(self.removed.iter().rev().scan(before, |weights, place| {
            *weights = weights.with(old_weight(place));
            Some(*weights)
        }));
        left.pop();
        if !self.removed.is_empty() {
            left.into_iter().rev().for_each(&mut note);
        }
        let mut unedited = vec![Weights::default()];
        unedited.extend(self.edited.iter().rev().scan(Weights::default(), |weights, (_, place)| {
            *weights = weights.with(old_weight(place));
            Some(*weights)
        }));
        unedited.pop();
        let mut edited = unchanged;
        for ((place, _), unedited) in self.edited.iter().zip(unedited.iter().rev()) {
            edited = edited.with(new.members[*place as usize].weight);
            note(edited.and(*unedited));
        }
        for place in (0..self.added).rev() {
            edited = edited.with(new.members[place].weight);
            note(edited);
        }
        self.weights = steps;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sched::tests::Control;

    /// The weights of servers in order.
    fn all(weights: &[u32]) -> Weights {
        weights.iter().copied().fold(Weights::default(), Weights::with)
    }

    fn servers() -> impl Strategy<Value = Vec<(u32, u32)>> {
        let server = (1u32..9, prop_oneof![Just(0u32), (1u32..7).prop_map(|n| n * 12)]);
        prop::collection::vec(server, 0..8).prop_map(|mut servers| {
            let mut known = Vec::new();
            servers.retain(|(slot, _)| !known.contains(slot) && (known.push(*slot), true).1);
            servers
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

        /// The weights are those that there are after each step, one by one; and
        /// what is found out in portions is what is found out at once.
        #[test]
        fn tells_the_weights_after_each_step(before in servers(), after in servers(), budget in 1usize..5) {
            let mut control = Control::new(SchedulerKind::Wrr);
            let rosters = [before, after].map(|servers| {
                let (service, table) = control.table(&servers);
                table.roster(&service.key).unwrap().clone()
            });
            let (old, new) = (&rosters[0].members, &rosters[1]);
            let mut change = Change::begin(old, new);
            while !change.proceed(old, new, None, &mut budget.clone()) {}
            let at_once = Change::between(old, new, None);
            prop_assert_eq!(format!("{change:?}"), format!("{at_once:?}"));

            let mut weights: Vec<u32> = old.iter().map(|member| member.weight).collect();
            let mut slots: Vec<u32> = old.iter().map(|member| member.id.0).collect();
            let mut steps: Vec<Weights> = Vec::new();
            for place in &change.removed {
                weights.remove(*place as usize);
                slots.remove(*place as usize);
                steps.push(all(&weights));
            }
            for (place, former) in &change.edited {
                let member = &new.members[*place as usize];
                prop_assert_eq!(member.id, old[*former as usize].id);
                weights[*place as usize - change.added] = member.weight;
                steps.push(all(&weights));
            }
            for member in new.members[..change.added].iter().rev() {
                weights.insert(0, member.weight);
                slots.insert(0, member.id.0);
                steps.push(all(&weights));
            }
            steps.dedup();
            prop_assert_eq!(&change.weights, &steps);
            prop_assert_eq!(slots, new.members.iter().map(|member| member.id.0).collect::<Vec<_>>());
            prop_assert_eq!(weights, new.members.iter().map(|member| member.weight).collect::<Vec<_>>());
        }
    }
}
