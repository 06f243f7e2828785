//! The servers of a large service in an order that is kept up: who is next,
//! without a look at all of them.
//!
//! A tournament: servers are paired by place, the better of each pair meets the
//! better of the next, and so on up to the one that is best of all. Where one
//! server changed, only those that it meets play again. Of equals the one with
//! the lower place goes on, as in IPVS, which goes through its list and keeps
//! the first of equals.
//!
//! What is known of each server's connections is kept here, side by side, and
//! brought up to date before each choice where [`Movements`] tell that something
//! changed: so a choice is the one that a look at all servers would have led to.

use super::movements::Movements;
use super::roster::{Member, Roster};
use super::{lighter_or_equal, overhead};
use crate::service::SchedulerKind;

/// Nobody.
pub(super) const NONE: u32 = u32::MAX;

/// The last so many changes are told of.
const LOGGED: usize = if cfg!(test) { 8 } else { 1024 };

/// What servers are compared by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Contest {
    /// The least overhead
    Overhead,
    /// The least overhead for its weight
    WeightedOverhead,
    /// The shortest expected delay
    Delay,
    /// Nothing to do, else the shortest expected delay
    Idle,
    /// The greatest weight
    Weight,
    /// The same among those that have no more active connections than weight
    WeightLeft,
}

impl Contest {
    /// That by which a scheduler chooses, if it is one that may have to look at
    /// many servers.
    pub(super) fn of(roster: &Roster) -> Option<Self> {
        match roster.kind {
            SchedulerKind::Lc => Some(Contest::Overhead),
            SchedulerKind::Wlc | SchedulerKind::Lblc | SchedulerKind::Lblcr => {
                Some(Contest::WeightedOverhead)
            }
            SchedulerKind::Sed => Some(Contest::Delay),
            SchedulerKind::Nq => Some(Contest::Idle),
            SchedulerKind::Rr | SchedulerKind::Wrr | SchedulerKind::Fo => Some(Contest::Weight),
            // Whether there is any server that takes connections.
            SchedulerKind::Mh => roster.flags.fallback().then_some(Contest::Weight),
            SchedulerKind::Ovf => Some(Contest::WeightLeft),
            SchedulerKind::Sh | SchedulerKind::Dh => None,
        }
    }

    /// Whether a server takes part.
    #[inline]
    fn admits(self, member: &Member, load: &Load) -> bool {
        member.weight > 0
            && !(load.is_overloaded && member.thresholds.upper != 0)
            && (self != Contest::WeightLeft || load.active <= u64::from(member.weight))
    }

    /// Whether of two servers the second goes on, though its place is higher.
    #[inline]
    fn prefers_second(self, (one, a): (&Member, &Load), (other, b): (&Member, &Load)) -> bool {
        let delays = || ((a.active.wrapping_add(1), one.weight), (b.active.wrapping_add(1), other.weight));
        match self {
            Contest::Overhead => b.overhead() < a.overhead(),
            Contest::WeightedOverhead => {
                !lighter_or_equal((a.overhead(), one.weight), (b.overhead(), other.weight))
            }
            Contest::Idle if a.active == 0 => false,
            Contest::Idle if b.active == 0 => true,
            Contest::Delay | Contest::Idle => {
                let (first, second) = delays();
                !lighter_or_equal(first, second)
            }
            Contest::Weight | Contest::WeightLeft => other.weight > one.weight,
        }
    }
}

/// What is known of a server's connections.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Load {
    active: u64,
    inactive: u64,
    is_overloaded: bool,
}

impl Load {
    #[inline]
    fn of(member: &Member) -> Self {
        let counters = &member.counters;
        Load {
            active: counters.active(),
            inactive: counters.inactive(),
            is_overloaded: counters.overload().is_on(),
        }
    }

    #[inline]
    fn overhead(&self) -> u64 {
        overhead(self.active, self.inactive)
    }

    /// Whether it has less than half of what its weight lets it have
    /// (`is_overloaded` of lblc and lblcr).
    #[inline]
    fn is_light(&self, member: &Member) -> bool {
        self.active * 2 < u64::from(member.weight)
    }
}

/// How far an index is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// The next block to read
    Reading(usize),
    /// One more than the next node to be played
    Playing(usize),
    Made,
}

/// The servers of one roster by what a scheduler chooses by.
#[derive(Debug)]
pub(super) struct Index {
    contest: Contest,
    loads: Vec<Load>,
    /// Winners by node: 1 is the last game, games 2n and 2n+1 lead to n, and from
    /// `leaves` on there is one for each server
    winners: Vec<u32>,
    leaves: usize,
    /// Servers that have less than half of what their weight lets them have
    light: usize,
    /// What [`Movements`] told when the members of each block were read
    seen: Vec<u32>,
    seen_groups: Vec<u32>,
    /// Places of those that changed, and have to play again
    changed: Vec<u32>,
    /// Whether so many changed that all play again
    all_changed: bool,
    /// Places of servers that changed, the last ones, and how many there were
    /// altogether; for those who follow ([`Index::since`])
    log: Box<[u32]>,
    logged: u64,
    stage: Stage,
}

impl Index {
    /// A whole one.
    pub(super) fn new(contest: Contest, roster: &Roster, movements: &Movements) -> Self {
        let mut index = Index::begin(contest, roster, movements);
        while !index.proceed(roster, movements, &mut usize::MAX.clone()) {}
        index
    }

    /// Begins to make one; to go on with by [`Index::proceed`].
    pub(super) fn begin(contest: Contest, roster: &Roster, movements: &Movements) -> Self {
        let servers = roster.members.len();
        let leaves = servers.next_power_of_two();
        Index {
            contest,
            loads: vec![Load::default(); servers],
            winners: vec![NONE; leaves + servers],
            leaves,
            light: 0,
            seen: vec![0; roster.blocks.blocks.len()],
            seen_groups: roster.blocks.groups.iter().map(|(group, _)| movements.group(*group)).collect(),
            changed: Vec::with_capacity(servers / 8),
            all_changed: false,
            log: if contest == Contest::WeightedOverhead {
                vec![NONE; LOGGED].into()
            } else {
                Box::default()
            },
            logged: 0,
            stage: Stage::Reading(0),
        }
    }

    /// Reads about so many servers and lets them play, which is taken off the
    /// budget; returns whether all did.
    pub(super) fn proceed(&mut self, roster: &Roster, movements: &Movements, budget: &mut usize) -> bool {
        while *budget > 0 && self.stage != Stage::Made {
            match self.stage {
                Stage::Reading(next) if next == self.seen.len() => {
                    self.stage = Stage::Playing(self.winners.len());
                }
                Stage::Reading(next) => {
                    let (block, places) = block_at(roster, next);
                    // Before they are read: what comes meanwhile is told of again.
                    self.seen[next] = movements.block(block);
                    for place in places {
                        let (load, member) =
                            (&mut self.loads[*place as usize], &roster.members[*place as usize]);
                        *load = Load::of(member);
                        self.light += usize::from(load.is_light(member));
                    }
                    *budget = budget.saturating_sub(places.len());
                    self.stage = Stage::Reading(next + 1);
                }
                Stage::Playing(end) => {
                    let first = end.saturating_sub(*budget).max(1);
                    (first..end).rev().for_each(|node| self.play(node, roster));
                    *budget -= (end - first).min(*budget);
                    self.stage = if first == 1 { Stage::Made } else { Stage::Playing(first) };
                }
                Stage::Made => {}
            }
        }
        self.stage == Stage::Made
    }

    /// Whether it is made.
    pub(super) fn is_made(&self) -> bool {
        self.stage == Stage::Made
    }

    /// Finds out who wins at a node.
    #[inline]
    fn play(&mut self, node: usize, roster: &Roster) {
        let at = |place: u32| (&roster.members[place as usize], &self.loads[place as usize]);
        let winner = match node.checked_sub(self.leaves) {
            Some(place) => {
                let (member, load) = at(place as u32);
                if self.contest.admits(member, load) { place as u32 } else { NONE }
            }
            None => {
                let winner = |node: usize| self.winners.get(node).copied().unwrap_or(NONE);
                match (winner(2 * node), winner(2 * node + 1)) {
                    (first, NONE) => first,
                    (NONE, second) => second,
                    (first, second) if self.contest.prefers_second(at(first), at(second)) => second,
                    (first, _) => first,
                }
            }
        };
        self.winners[node] = winner;
    }

    /// Brings it up to date, by at most so many blocks; returns whether it is.
    #[inline]
    pub(super) fn refresh(&mut self, roster: &Roster, movements: &Movements, blocks: usize) -> bool {
        let mut left = blocks;
        let mut first = 0;
        let mut is_done = true;
        'all: for (number, (group, end)) in roster.blocks.groups.iter().enumerate() {
            let (begin, end) = (first, *end as usize);
            first = end;
            let version = movements.group(*group);
            if version == self.seen_groups[number] {
                continue;
            }
            for at in begin..end {
                let (block, places) = block_at(roster, at);
                let version = movements.block(block);
                if version == self.seen[at] {
                    continue;
                }
                if left == 0 {
                    is_done = false;
                    break 'all;
                }
                left -= 1;
                self.seen[at] = version;
                for place in places {
                    self.read(*place, roster);
                }
            }
            self.seen_groups[number] = version;
        }
        if self.all_changed {
            self.all_changed = false;
            (1..self.winners.len()).rev().for_each(|node| self.play(node, roster));
        } else {
            let mut changed = std::mem::take(&mut self.changed);
            for place in changed.drain(..) {
                let mut node = self.leaves + place as usize;
                while node > 0 {
                    self.play(node, roster);
                    node /= 2;
                }
            }
            self.changed = changed;
        }
        self.changed.clear();
        is_done
    }

    /// Those in whose blocks something changed.
    pub(super) fn changed_since<'a>(
        &'a self,
        roster: &'a Roster,
        movements: &'a Movements,
    ) -> impl Iterator<Item = &'a Member> {
        let blocks = (0..self.seen.len()).map(|at| (at, block_at(roster, at)));
        let changed = blocks.filter(|(at, (block, _))| movements.block(*block) != self.seen[*at]);
        changed.flat_map(|(_, (_, places))| places).map(|place| &roster.members[*place as usize])
    }

    /// Looks at a server's connections anew.
    #[inline]
    fn read(&mut self, place: u32, roster: &Roster) {
        let member = &roster.members[place as usize];
        let (load, now) = (&mut self.loads[place as usize], Load::of(member));
        if *load == now {
            return;
        }
        self.light = self.light - usize::from(load.is_light(member)) + usize::from(now.is_light(member));
        *load = now;
        if !self.log.is_empty() {
            self.log[(self.logged % LOGGED as u64) as usize] = place;
            self.logged += 1;
        }
        if self.changed.len() < self.changed.capacity() {
            self.changed.push(place);
        } else {
            self.all_changed = true;
        }
    }

    /// The best of all.
    #[inline]
    pub(super) fn winner(&self) -> Option<usize> {
        self.winners.get(1).filter(|place| **place != NONE).map(|place| *place as usize)
    }

    /// The first at a place or behind it that has a weight and takes connections,
    /// where the greatest weight wins.
    pub(super) fn next_of_weight(&self, roster: &Roster, from: usize, weight: i64) -> Option<usize> {
        let is_in = |node: usize| match self.winners.get(node) {
            Some(place) if *place != NONE => i64::from(roster.members[*place as usize].weight) >= weight,
            _ => false,
        };
        if from >= roster.members.len() {
            return None;
        }
        let mut node = self.leaves + from;
        // Up to the first game to the right of all that were passed, down to the first of its servers.
        while !is_in(node) {
            while node % 2 == 1 {
                node /= 2;
            }
            if node == 0 {
                return None;
            }
            node += 1;
        }
        while node < self.leaves {
            node = if is_in(2 * node) { 2 * node } else { 2 * node + 1 };
        }
        Some(node - self.leaves)
    }

    /// How often a server changed.
    pub(super) fn logged(&self) -> u64 {
        self.logged
    }

    /// The places of servers that changed after so many changes; nothing if there
    /// are too many to tell.
    pub(super) fn since(&self, seen: u64) -> Option<impl Iterator<Item = u32>> {
        let places = (seen..self.logged).map(|number| self.log[(number % LOGGED as u64) as usize]);
        (self.logged - seen <= self.log.len() as u64).then_some(places)
    }

    /// Whether a server takes part.
    #[inline]
    pub(super) fn admits(&self, roster: &Roster, place: usize) -> bool {
        self.contest.admits(&roster.members[place], &self.loads[place])
    }

    /// What a server has to do for its connections.
    #[inline]
    pub(super) fn overhead(&self, place: usize) -> u64 {
        self.loads[place].overhead()
    }

    /// Whether a server has less than half of what its weight lets it have.
    #[inline]
    pub(super) fn has_light(&self) -> bool {
        self.light > 0
    }
}

/// A block of a roster and the places of its members.
#[inline]
fn block_at(roster: &Roster, at: usize) -> (u16, &[u32]) {
    let blocks = &roster.blocks;
    let (block, end) = blocks.blocks[at];
    let begin = at.checked_sub(1).map_or(0, |before| blocks.blocks[before].1);
    (block, &blocks.places[begin as usize..end as usize])
}

#[cfg(test)]
mod tests;
