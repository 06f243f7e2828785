//! When to say that local ports ran out.

use std::time::{Duration, Instant};

/// Between two warnings.
const INTERVAL: Duration = Duration::from_secs(60);

/// What has been said of refused connections.
#[derive(Debug, Default)]
pub(super) struct Exhaustion {
    /// How many there were when it was said last
    reported: u64,
    last: Option<Instant>,
}

impl Exhaustion {
    /// How many connections were refused since it was said last, if it is to be
    /// said now; `total` is all that ever were.
    pub(super) fn news(&mut self, total: u64, now: Instant) -> Option<u64> {
        let due = self.last.is_none_or(|last| now.duration_since(last) >= INTERVAL);
        if total == self.reported || !due {
            return None;
        }
        self.last = Some(now);
        Some(total - std::mem::replace(&mut self.reported, total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_said_once_a_minute_and_counts_all() {
        let start = Instant::now();
        let mut exhaustion = Exhaustion::default();
        for (second, total, expected) in [
            (0, 0, None),
            (1, 5, Some(5)),
            (2, 7, None),
            (60, 9, None),
            (61, 9, Some(4)),
            (200, 9, None),
            (201, 10, Some(1)),
        ] {
            let news = exhaustion.news(total, start + Duration::from_secs(second));
            assert_eq!(news, expected, "second {second}");
        }
    }
}
