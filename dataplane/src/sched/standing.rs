//! Which of the servers that lblcr remembers for a destination is the least
//! loaded, where they are many: a tournament among them, as in
//! [`Index`], which tells whose connections changed.

use super::index::{Index, NONE};
use super::locality::Remembered;
use super::{Servers, lighter_or_equal};

/// The servers of one destination, by their numbers in its set: the last added
/// has the highest.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// The roster that places are of, by the generation of the table that it was
    /// made for; 0 for none
    roster: u64,
    /// How many changes of the index are known
    seen: u64,
    /// Places by number; [`NONE`] of servers that are gone
    places: Vec<u32>,
    /// Numbers by place; [`NONE`] of servers that are not in the set
    numbers: Vec<u32>,
    /// Winners by node, as in [`Index`]
    winners: Vec<u32>,
    leaves: usize,
}

impl Standing {
    /// Brings it up to date.
    pub(super) fn follow(&mut self, set: &[Remembered], servers: Servers, index: &Index) {
        let generation = servers.roster.generation;
        if self.roster != generation || self.places.len() != set.len() {
            self.places.clear();
            self.places
                .extend(set.iter().map(|known| known.place(servers).map_or(NONE, |place| place as u32)));
            self.numbers.clear();
            self.numbers.resize(servers.len(), NONE);
            for (place, number) in self.places.iter().zip(0..) {
                if *place != NONE {
                    self.numbers[*place as usize] = number;
                }
            }
            self.roster = generation;
            self.play_all(servers, index);
        } else if let Some(changed) = index.since(self.seen) {
            for place in changed {
                let number = self.numbers[place as usize];
                if number != NONE {
                    self.play_from(number, servers, index);
                }
            }
        } else {
            self.play_all(servers, index);
        }
        self.seen = index.logged();
    }

    /// The place of the least loaded server that takes connections, the last added
    /// of equals.
    pub(super) fn winner(&self) -> Option<usize> {
        let number = *self.winners.get(1)?;
        Some(*self.places.get(number as usize)? as usize)
    }

    /// Whether the server at a place is in the set.
    pub(super) fn has(&self, place: usize) -> bool {
        self.numbers.get(place).is_some_and(|number| *number != NONE)
    }

    /// Takes note of the server at a place, which was added to the set.
    pub(super) fn add(&mut self, place: usize, servers: Servers, index: &Index) {
        let number = self.places.len();
        self.places.push(place as u32);
        if let Some(own) = self.numbers.get_mut(place) {
            *own = number as u32;
        }
        if number < self.leaves {
            self.winners.push(NONE);
            self.play_from(number as u32, servers, index);
        } else {
            self.play_all(servers, index);
        }
    }

    fn play_all(&mut self, servers: Servers, index: &Index) {
        self.leaves = self.places.len().next_power_of_two();
        self.winners.clear();
        self.winners.resize(self.leaves + self.places.len(), NONE);
        (1..self.winners.len()).rev().for_each(|node| self.play(node, servers, index));
    }

    fn play_from(&mut self, number: u32, servers: Servers, index: &Index) {
        let mut node = self.leaves + number as usize;
        while node > 0 {
            self.play(node, servers, index);
            node /= 2;
        }
    }

    #[inline]
    fn play(&mut self, node: usize, servers: Servers, index: &Index) {
        let load = |number: u32| {
            let place = self.places[number as usize] as usize;
            (index.overhead(place), servers[place].weight)
        };
        let winner = match node.checked_sub(self.leaves) {
            Some(number) => {
                let place = self.places[number];
                let takes = place != NONE && index.admits(servers.roster, place as usize);
                if takes { number as u32 } else { NONE }
            }
            None => {
                let winner = |node: usize| self.winners.get(node).copied().unwrap_or(NONE);
                match (winner(2 * node), winner(2 * node + 1)) {
                    (first, NONE) => first,
                    (NONE, second) => second,
                    (first, second) if lighter_or_equal(load(second), load(first)) => second,
                    (first, _) => first,
                }
            }
        };
        self.winners[node] = winner;
    }
}
