//! How much weight of servers a service needs, with hysteresis.

/// Whether enough servers are alive (keepalived's `quorum` and `hysteresis`).
#[derive(Clone, Copy, Debug)]
pub struct Quorum {
    needed: u64,
    hysteresis: u64,
    reached: Option<bool>,
}

impl Quorum {
    /// Nothing is known yet.
    pub fn new(needed: u32, hysteresis: u32) -> Self {
        Quorum { needed: needed.into(), hysteresis: hysteresis.into(), reached: None }
    }

    /// Whether it is reached; `None` before anything is known.
    pub fn reached(&self) -> Option<bool> {
        self.reached
    }

    /// The same with other thresholds.
    pub fn changed(self, needed: u32, hysteresis: u32) -> Self {
        Quorum { reached: self.reached, ..Quorum::new(needed, hysteresis) }
    }

    /// Takes the weight of all servers that are alive; returns whether it is
    /// reached if that is news.
    pub fn note(&mut self, weight: u64) -> Option<bool> {
        let reached = if self.reached == Some(true) {
            weight > 0 && weight >= self.needed.saturating_sub(self.hysteresis)
        } else {
            weight >= self.needed.saturating_add(self.hysteresis)
        };
        (self.reached.replace(reached) != Some(reached)).then_some(reached)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quorum_is_as_keepalived_has_it() {
        let (yes, no) = (Some(true), Some(false));
        for (needed, hysteresis, weights) in [
            (1, 0, vec![(0, no), (1, yes), (3, None), (0, no), (0, None)]),
            (1, 0, vec![(2, yes), (0, no)]),
            (5, 2, vec![(6, no), (7, yes), (3, None), (2, no), (6, None), (7, yes)]),
            // However large the hysteresis, nothing is not enough.
            (1, 1, vec![(2, yes), (1, None), (0, no), (1, None), (2, yes)]),
        ] {
            let mut quorum = Quorum::new(needed, hysteresis);
            for (weight, expected) in weights {
                assert_eq!(quorum.note(weight), expected, "{needed}+-{hysteresis}: {weight}");
            }
        }
    }
}
