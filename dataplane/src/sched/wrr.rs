//! Weighted round robin (`ip_vs_wrr.c`): rounds in which only servers of at
//! least a certain weight take part. The bar is lowered by the greatest common
//! divisor of all weights from round to round, down to 1, and begins
//! again at the top.

use std::collections::BTreeMap;

use super::{Algorithm, Arrival, Member};

/// The state of `struct ip_vs_wrr_mark`.
#[derive(Debug)]
pub(super) struct WeightedRoundRobin {
    /// Place after the server chosen last, 0 at the beginning of a round (`cl`)
    next: usize,
    /// The weight that a server needs in the current round (`cw`)
    current: i64,
    /// Greatest common divisor of the weights, 0 if there are none
    divisor: i64,
    /// The greatest weight
    heaviest: i64,
    /// How many servers have each weight: they are told of one by one, and to go
    /// through all of ten thousand for each would take long
    weights: BTreeMap<u32, u32>,
}

impl WeightedRoundRobin {
    /// `init_service`: put in charge of servers that are there already.
    pub(super) fn new(servers: &[Member]) -> Self {
        let mut wrr =
            WeightedRoundRobin { next: 0, current: 0, divisor: 0, heaviest: 0, weights: BTreeMap::new() };
        servers.iter().for_each(|server| wrr.include(server.weight));
        wrr.current = wrr.top();
        wrr
    }

    fn include(&mut self, weight: u32) {
        *self.weights.entry(weight).or_default() += 1;
        self.divisor = gcd(i64::from(weight), self.divisor);
        self.heaviest = self.heaviest.max(i64::from(weight));
    }

    fn exclude(&mut self, weight: u32) {
        let Some(count) = self.weights.get_mut(&weight) else { return };
        *count -= 1;
        // Both are those of the weights that there are, however many have them.
        if *count == 0 {
            self.weights.remove(&weight);
            let weights = self.weights.keys().map(|weight| i64::from(*weight));
            self.divisor = weights.clone().fold(0, |divisor, weight| gcd(weight, divisor));
            self.heaviest = weights.max().unwrap_or(0);
        }
    }

    /// How much the bar is lowered from round to round (`di`).
    fn step(&self) -> i64 {
        self.divisor.max(1)
    }

    /// The bar of the first round: the greatest weight, less what lets the
    /// last round ask for 1 (`mw`).
    fn top(&self) -> i64 {
        self.heaviest - (self.step() - 1)
    }

    /// Lowers the bar past the rounds in which no server can be found, as the
    /// heavy ones are overloaded: there may be as many as a weight is high. The
    /// last round is never skipped.
    fn skip_rounds(&mut self, servers: &[Member]) {
        let free = servers.iter().filter(|server| !server.is_overloaded());
        let reachable = free.map(|server| i64::from(server.weight)).max().unwrap_or(0);
        let (step, floor) = (self.step(), reachable.max(self.step()));
        if self.current > floor {
            self.current -= (self.current - floor + step - 1) / step * step;
        }
    }

    /// Any change: a round begins anew, with about the bar that it had. This
    /// is why the order depends on how a service was built: a first server of
    /// weight 1 sets the bar to 1, and further ones do not raise it before
    /// that round is over.
    fn changed(&mut self) {
        self.next = 0;
        let (top, step) = (self.top(), self.step());
        if self.current > top || self.current == 0 {
            self.current = top;
        } else if step > 1 {
            self.current = self.current / step * step + 1;
        }
    }
}

/// Greatest common divisor; that of a number and 0 is the number.
pub(super) fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Algorithm for WeightedRoundRobin {
    fn added(&mut self, servers: &[Member]) {
        servers.first().into_iter().for_each(|server| self.include(server.weight));
        self.changed();
    }

    fn removed(&mut self, _place: usize, gone: &Member) {
        self.exclude(gone.weight);
        self.changed();
    }

    fn edited(&mut self, servers: &[Member], place: usize, former: u32) {
        if let Some(server) = servers.get(place).filter(|server| server.weight != former) {
            self.include(server.weight);
            self.exclude(former);
        }
        self.changed();
    }

    fn peek(&mut self, servers: &[Member], arrival: &Arrival) -> Option<usize> {
        let before = (self.next, self.current);
        let place = self.choose(servers, arrival);
        (self.next, self.current) = before;
        place
    }

    fn choose(&mut self, servers: &[Member], _arrival: &Arrival) -> Option<usize> {
        if self.heaviest == 0 {
            return None;
        }
        let start = self.next;
        let (mut began_anew, mut in_last_round) = (false, false);
        // Where every server has been asked for a weight of 1; 0 as long as
        // nobody knows.
        let mut stop = 0;
        loop {
            while let Some(server) = servers.get(self.next) {
                self.next += 1;
                if i64::from(server.weight) >= self.current && !server.is_overloaded() {
                    return Some(self.next - 1);
                }
                if self.next == stop {
                    return None;
                }
            }
            self.next = 0;
            self.current -= self.step();
            if self.current <= 0 {
                self.current = self.top();
                if in_last_round || start == 0 {
                    return None;
                }
                began_anew = true;
            }
            self.skip_rounds(servers);
            in_last_round = self.current <= self.step();
            if in_last_round && began_anew && start > 0 {
                stop = start;
            }
        }
    }
}
