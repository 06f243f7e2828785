//! The figures of `make bench-apps`: what they are called and how they are shown.

use std::fmt::Write as _;

use clap::ValueEnum;

use super::{Machine, Rounds};
use crate::lab::wrk::Distribution;

/// What is between client and servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Forwarder {
    /// Nothing but routers, to one server
    Direct,
    /// Sluice by NAT
    SluiceNat,
    /// Sluice by FULLNAT
    SluiceFullnat,
    /// Destination NAT by nftables
    Nftables,
    /// haproxy in TCP mode
    Haproxy,
    /// The stream module of nginx
    NginxStream,
}

impl Forwarder {
    /// In the order of the table.
    pub const ALL: [Self; 6] = [
        Self::Direct,
        Self::SluiceNat,
        Self::SluiceFullnat,
        Self::Nftables,
        Self::Haproxy,
        Self::NginxStream,
    ];

    /// What its figures' names begin with.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::SluiceNat => "sluice_nat",
            Self::SluiceFullnat => "sluice_fullnat",
            Self::Nftables => "nftables",
            Self::Haproxy => "haproxy",
            Self::NginxStream => "nginx_stream",
        }
    }

    /// What the table calls it.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Direct => "no director",
            Self::SluiceNat => "sluice, nat",
            Self::SluiceFullnat => "sluice, fullnat",
            Self::Nftables => "nftables, dnat",
            Self::Haproxy => "haproxy, tcp",
            Self::NginxStream => "nginx, stream",
        }
    }
}

const CONNECTIONS: &str = "connections_per_s";
const REQUESTS: &str = "requests_per_s";
const LATENCIES: [&str; 3] = ["p50_us", "p99_us", "p999_us"];
const FAILED: &str = "failed";

fn key(forwarder: Forwarder, figure: &str) -> String {
    format!("{}_{figure}", forwarder.key())
}

/// Adds a round: requests on kept connections, and requests with a connection each.
pub fn add(rounds: &mut Rounds, forwarder: Forwarder, kept: &Distribution, new: &Distribution) {
    let mut add = |figure: &str, value: f64| rounds.add(key(forwarder, figure), value);
    add(CONNECTIONS, new.requests_per_second);
    add(REQUESTS, kept.requests_per_second);
    for (name, latency) in LATENCIES.into_iter().zip(kept.latency_us) {
        add(name, latency);
    }
    add(FAILED, (kept.failed + new.failed) as f64);
}

/// The table that is printed.
#[must_use]
pub fn table(rounds: &Rounds) -> String {
    let mut text = format!(
        "{:<18}{:>15}{:>13}{:>10}{:>10}{:>10}{:>9}\n",
        "", "connections/s", "requests/s", "p50 µs", "p99 µs", "p99.9 µs", "failed"
    );
    for forwarder in Forwarder::ALL {
        let of = |figure: &str| rounds.median(&key(forwarder, figure));
        let Some(connections) = of(CONNECTIONS) else { continue };
        let show = |figure: &str| of(figure).map_or("-".to_owned(), |value| format!("{value:.0}"));
        let [p50, p99, p999] = LATENCIES.map(show);
        let _ = writeln!(
            text,
            "{:<18}{connections:>15.0}{:>13}{p50:>10}{p99:>10}{p999:>10}{:>9}",
            forwarder.title(),
            show(REQUESTS),
            show(FAILED)
        );
    }
    text
}

/// The result as it is written; `versions` are those of the other forwarders.
#[must_use]
pub fn json(rounds: &Rounds, machine: &Machine, versions: &[(&str, Option<String>)]) -> serde_json::Value {
    let mut object = rounds.to_json();
    object.insert("machine".into(), serde_json::json!(machine));
    let versions: serde_json::Map<_, _> =
        versions.iter().map(|(name, version)| ((*name).to_owned(), serde_json::json!(version))).collect();
    object.insert("versions".into(), versions.into());
    object.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_and_the_keys_are_complete() {
        let mut rounds = Rounds::default();
        for (forwarder, rate) in Forwarder::ALL.into_iter().zip([6e3, 5e3, 4e3, 3e3, 2e3, 1e3]) {
            for factor in [1.0, 3.0, 2.0] {
                let kept = Distribution {
                    requests: 1,
                    failed: 1,
                    requests_per_second: 2.0 * rate * factor,
                    latency_us: [10.0, 20.0, 30.0],
                };
                let new = Distribution { requests_per_second: rate * factor, ..kept };
                add(&mut rounds, forwarder, &kept, &new);
            }
        }
        let machine = Machine { processor: "a CPU".into(), cpus: 2, kernel: "6.1".into() };
        let json = json(&rounds, &machine, &[("haproxy", Some("2.6".into()))]);
        for forwarder in ["direct", "sluice_nat", "sluice_fullnat", "nftables", "haproxy", "nginx_stream"] {
            for figure in ["connections_per_s", "requests_per_s", "p50_us", "p99_us", "p999_us", "failed"] {
                let key = format!("{forwarder}_{figure}");
                assert!(json[&key].is_f64(), "{key} in {json}");
                assert_eq!(json["rounds"][&key].as_array().map(Vec::len), Some(3), "{key}");
            }
        }
        assert_eq!(json["haproxy_connections_per_s"], 4000.0);
        assert_eq!(json["haproxy_requests_per_s"], 8000.0);
        assert_eq!(json["versions"]["haproxy"], "2.6");
        let text = table(&rounds);
        assert_eq!(text.lines().count(), 7, "{text}");
        let haproxy: Vec<_> = text.lines().nth(5).unwrap_or_default().split_whitespace().collect();
        assert_eq!(haproxy, ["haproxy,", "tcp", "4000", "8000", "10", "20", "30", "2"]);
    }
}
