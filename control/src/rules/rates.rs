//! Rates of `ipvsadm --rate`: a moving average over samples two seconds apart.
//!
//! The arithmetic is IPVS's (`net/netfilter/ipvs/ip_vs_est.c`), roundings
//! included, so that the same traffic shows the same numbers: each sample
//! moves the average a quarter of the way, connections and packets are kept
//! scaled by 2^10 and bytes by 2^5, and what is read is rounded up by half a
//! unit less one.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_dataplane::stats::Traffic;

/// Time between two samples.
pub const SAMPLE_INTERVAL: Duration = Duration::from_secs(2);

/// Rates a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Rates {
    /// Connections
    pub connections: u64,
    /// Packets from clients
    pub in_packets: u64,
    /// Packets to clients
    pub out_packets: u64,
    /// Bytes from clients
    pub in_bytes: u64,
    /// Bytes to clients
    pub out_bytes: u64,
}

const COUNT_SHIFT: u32 = 10;
const BYTE_SHIFT: u32 = 5;

#[derive(Clone, Copy, Debug, Default)]
struct Average(u64);

impl Average {
    /// `grown` is what a counter grew by since the last sample.
    fn sample(&mut self, grown: u64, shift: u32) {
        // Divided by the two seconds of the interval: one shift less.
        let rate = grown.wrapping_shl(shift - 1) as i64;
        self.0 = self.0.wrapping_add_signed(rate.wrapping_sub(self.0 as i64) >> 2);
    }

    fn read(self, shift: u32) -> u64 {
        (self.0 + ((1 << (shift - 1)) - 1)) >> shift
    }
}

/// The moving averages of one service or server.
#[derive(Clone, Copy, Debug, Default)]
pub struct Estimator {
    last: Traffic,
    connections: Average,
    in_packets: Average,
    out_packets: Average,
    in_bytes: Average,
    out_bytes: Average,
}

impl Estimator {
    /// An estimator of counters that stand at `traffic`.
    pub fn new(traffic: Traffic) -> Self {
        Estimator { last: traffic, ..Estimator::default() }
    }

    /// Takes a sample; to be called every [`SAMPLE_INTERVAL`].
    pub fn sample(&mut self, now: Traffic) {
        let last = std::mem::replace(&mut self.last, now);
        let grown = |now: u64, last: u64| now.wrapping_sub(last);
        self.connections.sample(grown(now.connections, last.connections), COUNT_SHIFT);
        self.in_packets.sample(grown(now.in_packets, last.in_packets), COUNT_SHIFT);
        self.out_packets.sample(grown(now.out_packets, last.out_packets), COUNT_SHIFT);
        self.in_bytes.sample(grown(now.in_bytes, last.in_bytes), BYTE_SHIFT);
        self.out_bytes.sample(grown(now.out_bytes, last.out_bytes), BYTE_SHIFT);
    }

    /// The rates of now.
    pub fn rates(&self) -> Rates {
        Rates {
            connections: self.connections.read(COUNT_SHIFT),
            in_packets: self.in_packets.read(COUNT_SHIFT),
            out_packets: self.out_packets.read(COUNT_SHIFT),
            in_bytes: self.in_bytes.read(BYTE_SHIFT),
            out_bytes: self.out_bytes.read(BYTE_SHIFT),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Linux 6.1 showed for a hundred datagrams of 128 bytes in one
    /// interval and then silence.
    #[test]
    fn a_burst_decays_as_in_the_kernel() {
        let burst = Traffic { connections: 100, in_packets: 100, in_bytes: 12_800, ..Traffic::default() };
        let mut estimator = Estimator::new(Traffic::default());
        let mut seen = Vec::new();
        for _ in 0..3 {
            estimator.sample(burst);
            let rates = estimator.rates();
            assert_eq!(rates.connections, rates.in_packets);
            seen.push((rates.in_packets, rates.in_bytes));
        }
        assert_eq!(seen, [(12, 1600), (9, 1200), (7, 900)]);
    }

    #[test]
    fn a_steady_rate_is_approached() {
        let mut estimator = Estimator::new(Traffic::default());
        let mut now = Traffic::default();
        for _ in 0..60 {
            now.out_packets += 2_000;
            now.out_bytes += 3_000_000;
            estimator.sample(now);
        }
        assert_eq!((estimator.rates().out_packets, estimator.rates().out_bytes), (1_000, 1_500_000));
        for _ in 0..60 {
            estimator.sample(now);
        }
        assert_eq!(estimator.rates().out_packets, 0);
    }
}
