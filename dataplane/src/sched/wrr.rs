//! Weighted round robin (`ip_vs_wrr.c`): rounds in which only servers of at
//! least a certain weight take part. The bar is lowered by the greatest common
//! divisor of all weights from round to round, down to 1, and begins
//! again at the top.

use super::roster::Weights;
use super::{Algorithm, Arrival, Change, Servers};

/// The state of `struct ip_vs_wrr_mark`, but for what follows from the weights.
#[derive(Debug)]
pub(super) struct WeightedRoundRobin {
    /// Place after the server chosen last, 0 at the beginning of a round (`cl`)
    next: usize,
    /// The weight that a server needs in the current round (`cw`)
    current: i64,
}

impl Weights {
    /// How much the bar is lowered from round to round (`di`).
    fn step(self) -> i64 {
        self.divisor.max(1)
    }

    /// The bar of the first round: the greatest weight, less what lets the
    /// last round ask for 1 (`mw`).
    fn top(self) -> i64 {
        self.heaviest - (self.step() - 1)
    }
}

impl WeightedRoundRobin {
    /// `init_service`: put in charge of servers that are there already.
    pub(super) fn new(weights: Weights) -> Self {
        WeightedRoundRobin { next: 0, current: weights.top() }
    }

    /// Lowers the bar past the rounds in which no server can be found, as the
    /// heavy ones are overloaded: there may be as many as a weight is high. The
    /// last round is never skipped.
    fn skip_rounds(&mut self, servers: Servers) {
        let step = servers.roster.weights.step();
        let floor = i64::from(servers.greatest_weight()).max(step);
        if self.current > floor {
            self.current -= (self.current - floor + step - 1) / step * step;
        }
    }
}

/// Greatest common divisor; that of a number and 0 is the number.
pub(super) fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Algorithm for WeightedRoundRobin {
    /// At any change, a round begins anew, with about the bar that it had. This
    /// is why the order depends on how a service was built: a first server of
    /// weight 1 sets the bar to 1, and further ones do not raise it before
    /// that round is over.
    fn changed(&mut self, change: &Change) {
        for weights in &change.weights {
            self.next = 0;
            let (top, step) = (weights.top(), weights.step());
            if self.current > top || self.current == 0 {
                self.current = top;
            } else if step > 1 {
                self.current = self.current / step * step + 1;
            }
        }
    }

    fn peek(&mut self, servers: Servers, arrival: &Arrival) -> Option<usize> {
        let before = (self.next, self.current);
        let place = self.choose(servers, arrival);
        (self.next, self.current) = before;
        place
    }

    fn choose(&mut self, servers: Servers, _arrival: &Arrival) -> Option<usize> {
        let weights = servers.roster.weights;
        if weights.heaviest == 0 {
            return None;
        }
        let start = self.next;
        let (mut began_anew, mut in_last_round) = (false, false);
        // Where every server has been asked for a weight of 1; 0 as long as
        // nobody knows.
        let mut stop = 0;
        loop {
            let found = servers.next_of_weight(self.next, self.current);
            if self.next < stop && found.is_none_or(|place| place >= stop) {
                self.next = stop;
                return None;
            }
            if let Some(place) = found {
                self.next = place + 1;
                return found;
            }
            self.next = 0;
            self.current -= weights.step();
            if self.current <= 0 {
                self.current = weights.top();
                if in_last_round || start == 0 {
                    return None;
                }
                began_anew = true;
            }
            self.skip_rounds(servers);
            in_last_round = self.current <= weights.step();
            if in_last_round && began_anew && start > 0 {
                stop = start;
            }
        }
    }
}
