//! How many events of one kind the log takes.

use std::time::{Duration, Instant};

/// Events of a kind that are taken at once, after a quiet time.
const BURST: u32 = 64;

/// One more is taken after each of these.
const REFILL: Duration = Duration::from_millis(250);

/// The budget of one kind.
#[derive(Debug)]
pub(super) struct Limit {
    left: u32,
    refilled: Instant,
    /// Events that were left out and have not been told of
    left_out: u64,
}

impl Limit {
    pub(super) fn new(now: Instant) -> Self {
        Limit { left: BURST, refilled: now, left_out: 0 }
    }

    /// Whether an event is to be taken. If not, it is counted.
    pub(super) fn admits(&mut self, now: Instant) -> bool {
        self.refill(now);
        if self.left == 0 {
            self.left_out += 1;
            return false;
        }
        self.left -= 1;
        true
    }

    /// How many were left out since this was said last, if it is to be said
    /// now: at the end of a flood, or at most as often as one event is taken.
    pub(super) fn news(&mut self, now: Instant) -> Option<u64> {
        if self.left_out == 0
            || !{
                self.refill(now);
                self.left > 0
            }
        {
            return None;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.left_out))
    }

    fn refill(&mut self, now: Instant) {
        let periods = now.duration_since(self.refilled).as_millis() / REFILL.as_millis();
        let periods = u32::try_from(periods).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(periods).min(BURST);
        self.refilled += REFILL.saturating_mul(periods);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_told_of_when_there_is_room() {
        let start = Instant::now();
        let mut limit = Limit::new(start);
        assert_eq!((0..1000).filter(|_| limit.admits(start)).count(), 64);
        assert_eq!(limit.news(start), None, "there is no room");
        let later = start + REFILL;
        assert_eq!(limit.news(later), Some(936));
        assert_eq!(limit.news(later + REFILL), None, "it was told");
        assert!(limit.admits(later + REFILL));
    }
}
