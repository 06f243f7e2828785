//! Whether a real server has as many connections as it may have.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// A real server's overload (`IP_VS_DEST_F_OVERLOAD`), which all workers share.
///
/// It begins when the connections of all workers together reach the upper
/// threshold, and lasts until so many have ended that they fall below the lower
/// one.
///
/// Every worker writes it. Two that do so at once, or by different tables, may
/// leave behind what was true a moment ago; the next connection that begins or
/// ends, or the next table that is adopted, puts it right.
#[derive(Debug, Default)]
pub struct Overload(AtomicBool);

impl Overload {
    /// Whether the server takes no new connections.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.0.load(Relaxed)
    }

    /// To be called whenever the number of connections or a threshold changed.
    /// Thresholds of 0 are none; without a lower one, it is three quarters of
    /// the upper one (`ip_vs_dest_update_overload`, Linux 6.1.192).
    #[inline]
    pub fn update(&self, connections: u64, upper: u32, lower: u32) {
        let (upper, lower) = (u64::from(upper), u64::from(lower));
        if upper > 0 && connections >= upper {
            self.set(true);
        } else if upper == 0 || connections * 4 < if lower > 0 { lower * 4 } else { upper * 3 } {
            self.set(false);
        }
    }

    /// Changes are rare, and a store would take the cache line from all others.
    #[inline]
    fn set(&self, on: bool) {
        if self.is_on() != on {
            self.0.store(on, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begins_at_the_upper_threshold_and_ends_below_the_lower_one() {
        for (upper, lower, steps) in [
            (8, 0, &[(1, false), (7, false), (8, true), (9, true), (6, true), (5, false), (6, false)][..]),
            (8, 3, &[(7, false), (8, true), (3, true), (2, false), (7, false), (8, true)]),
            (8, 8, &[(8, true), (7, false)]),
            (1, 0, &[(0, false), (1, true), (0, false)]),
            (0, 0, &[(1 << 40, false)]),
        ] {
            let overload = Overload::default();
            for (connections, on) in steps {
                overload.update(*connections, upper, lower);
                assert_eq!(overload.is_on(), *on, "-x {upper} -y {lower}: {connections}");
            }
        }
    }

    #[test]
    fn thresholds_are_changed() {
        let overload = Overload::default();
        for (upper, lower, on) in [
            (9, 0, false),
            (8, 0, true),
            (10, 0, true),
            (10, 9, false),
            (10, 0, false),
            (5, 1, true),
            (0, 0, false),
        ] {
            overload.update(8, upper, lower);
            assert_eq!(overload.is_on(), on, "-x {upper} -y {lower}");
        }
    }
}
