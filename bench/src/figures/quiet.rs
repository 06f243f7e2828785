//! Whether a machine has nothing else to do.

use std::time::Instant;

/// Tells what share of a time some thread waited for a CPU that another one had.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    since: Instant,
    total: u64,
}

impl Waiting {
    /// Begins now. `None` where the kernel does not account it (pressure stall information, Linux 4.20).
    #[must_use]
    pub fn begin() -> Option<Self> {
        Some(Self { since: Instant::now(), total: total(&pressure()?)? })
    }

    /// The share since then, from 0 to 1.
    #[must_use]
    pub fn share(self) -> Option<f64> {
        let waited = total(&pressure()?)?.checked_sub(self.total)?;
        Some(waited as f64 / self.since.elapsed().as_micros().max(1) as f64)
    }
}

fn pressure() -> Option<String> {
    std::fs::read_to_string("/proc/pressure/cpu").ok()
}

/// Microseconds in which some thread waited.
fn total(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    line.split_whitespace().find_map(|word| word.strip_prefix("total="))?.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_time_is_read() {
        let text = "some avg10=68.16 avg60=65.50 avg300=54.32 total=92081\nfull avg10=0.00 total=7\n";
        assert_eq!(super::total(text), Some(92_081));
        assert_eq!(super::total(""), None);
    }
}
