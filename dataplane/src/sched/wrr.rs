//! Weighted round robin (`ip_vs_wrr.c`): rounds in which only servers of at
//! least a certain weight take part. The bar is lowered by the greatest common
//! divisor of all weights from round to round, down to 1, and begins
//! again at the top.

use super::{Algorithm, Member};

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
}

impl WeightedRoundRobin {
    /// `init_service`: put in charge of servers that are there already.
    pub(super) fn new(servers: &[Member]) -> Self {
        let mut wrr = WeightedRoundRobin { next: 0, current: 0, divisor: 0, heaviest: 0 };
        wrr.measure(servers);
        wrr.current = wrr.top();
        wrr
    }

    fn measure(&mut self, servers: &[Member]) {
        (self.divisor, self.heaviest) = (0, 0);
        servers.iter().for_each(|server| self.include(server));
    }

    fn include(&mut self, server: &Member) {
        self.divisor = gcd(i64::from(server.weight), self.divisor);
        self.heaviest = self.heaviest.max(i64::from(server.weight));
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

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Algorithm for WeightedRoundRobin {
    fn added(&mut self, servers: &[Member]) {
        servers.first().into_iter().for_each(|server| self.include(server));
        self.changed();
    }

    fn removed(&mut self, servers: &[Member], _place: usize) {
        self.measure(servers);
        self.changed();
    }

    fn edited(&mut self, servers: &[Member]) {
        self.measure(servers);
        self.changed();
    }

    fn choose(&mut self, servers: &[Member]) -> Option<usize> {
        if self.heaviest == 0 {
            return None;
        }
        // A server of the greatest weight passes every bar, so the rest of this
        // round and one more at the most lead to one.
        for _ in 0..2 {
            let ahead = servers.get(self.next..)?;
            if let Some(i) = ahead.iter().position(|server| i64::from(server.weight) >= self.current) {
                self.next += i + 1;
                return Some(self.next - 1);
            }
            self.next = 0;
            self.current -= self.step();
            if self.current <= 0 {
                self.current = self.top();
            }
        }
        None
    }
}
