//! The figures of `make bench-wire`: what they are called, what they are to reach, how they are shown.

use std::fmt::Write as _;

use super::{Chart, Machine, Rounds, Series};
use crate::lab::Method;

/// What forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarder {
    /// The bare AF_XDP forwarder.
    Limit,
    /// The bare XDP forwarder.
    XdpLimit,
    /// The director.
    Sluice(Method),
    /// The director, with established connections carried in the kernel.
    Carried(Method),
    /// Somebody else's.
    Peer,
}

impl Forwarder {
    /// In figures' names.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::XdpLimit => "xdp_limit",
            Self::Sluice(method) => method.name(),
            Self::Carried(Method::Nat) => "nat_offload",
            Self::Carried(Method::FullNat) => "fullnat_offload",
            Self::Carried(Method::Dr) => "dr_offload",
            Self::Carried(Method::Tun) => "tun_offload",
            Self::Peer => "peer",
        }
    }
}

/// How many flows there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// So many, each with a connection before it is measured.
    Flows(u32),
    /// Every packet is the first of its flow.
    NewFlows,
}

/// The numbers of flows at which everything is measured.
pub const FLOWS: [u32; 3] = [1_000, 60_000, 1_000_000];

/// One thing to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figure {
    /// What forwards.
    pub forwarder: Forwarder,
    /// What it forwards.
    pub load: Load,
}

impl Figure {
    /// All figures in the order in which they are taken; with those of a peer if there is one.
    #[must_use]
    pub fn all(peer: bool) -> Vec<Self> {
        let mut all = vec![Self { forwarder: Forwarder::Limit, load: Load::Flows(FLOWS[0]) }];
        let methods = [Method::Dr, Method::Tun, Method::Nat, Method::FullNat].map(Forwarder::Sluice);
        for forwarder in methods.into_iter().chain(peer.then_some(Forwarder::Peer)) {
            all.extend(FLOWS.map(|flows| Self { forwarder, load: Load::Flows(flows) }));
        }
        all.push(Self { forwarder: Forwarder::XdpLimit, load: Load::Flows(FLOWS[0]) });
        for method in [Method::Dr, Method::Tun, Method::Nat, Method::FullNat] {
            all.extend(
                FLOWS.map(|flows| Self { forwarder: Forwarder::Carried(method), load: Load::Flows(flows) }),
            );
        }
        let new = [Forwarder::Sluice(Method::FullNat)].into_iter().chain(peer.then_some(Forwarder::Peer));
        all.extend(new.map(|forwarder| Self { forwarder, load: Load::NewFlows }));
        all
    }

    /// What it is called in JSON, in millions of packets a second.
    #[must_use]
    pub fn key(self) -> String {
        match (self.forwarder, self.load) {
            (Forwarder::Limit, _) => "limit_mpps".into(),
            (Forwarder::XdpLimit, _) => "xdp_limit_mpps".into(),
            (Forwarder::Peer, Load::NewFlows) => "peer_new_flow_mpps".into(),
            (_, Load::NewFlows) => "new_flow_mpps".into(),
            (forwarder, Load::Flows(flows)) => format!("{}_{}_mpps", forwarder.name(), short(flows)),
        }
    }

    /// What it is called in the table.
    #[must_use]
    pub fn title(self) -> String {
        match (self.forwarder, self.load) {
            (Forwarder::Limit, _) => "bare AF_XDP forwarder".into(),
            (Forwarder::XdpLimit, _) => "bare XDP forwarder".into(),
            (forwarder, Load::Flows(flows)) => format!("{}, {} flows", forwarder.name(), short(flows)),
            (forwarder, Load::NewFlows) => format!("{}, a new flow each packet", forwarder.name()),
        }
    }

    /// What it is to reach.
    #[must_use]
    pub fn goal(self) -> Option<Goal> {
        let share = match (self.forwarder, self.load) {
            (Forwarder::Sluice(Method::FullNat), Load::NewFlows) => return Some(Goal::Mpps(1.0)),
            (Forwarder::Sluice(Method::FullNat), Load::Flows(1_000)) => 0.88,
            (Forwarder::Sluice(Method::FullNat), Load::Flows(60_000)) => 0.85,
            (Forwarder::Sluice(Method::FullNat), Load::Flows(1_000_000)) => 0.80,
            (Forwarder::Carried(Method::FullNat), Load::Flows(1_000)) => 0.70,
            (Forwarder::Carried(Method::FullNat), Load::Flows(60_000)) => 0.50,
            (Forwarder::Carried(Method::FullNat), Load::Flows(1_000_000)) => 0.28,
            (Forwarder::Sluice(Method::Dr), Load::Flows(1_000)) => 0.92,
            (Forwarder::Sluice(Method::Dr), Load::Flows(1_000_000)) => 0.85,
            _ => return None,
        };
        Some(Goal::OfLimit(share))
    }
}

/// What a figure is to reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// Millions of packets a second.
    Mpps(f64),
    /// A share of what the bare forwarder of its kind does in the same run.
    OfLimit(f64),
}

/// 1000 as `1k`, 1000000 as `1m`.
fn short(number: u32) -> String {
    match number {
        n if n >= 1_000_000 && n.is_multiple_of(1_000_000) => format!("{}m", n / 1_000_000),
        n if n >= 1_000 && n.is_multiple_of(1_000) => format!("{}k", n / 1_000),
        n => n.to_string(),
    }
}

/// The share of the rate of the bare forwarder of its kind.
fn share(rounds: &Rounds, figure: Figure) -> Option<f64> {
    let limit = match figure.forwarder {
        Forwarder::XdpLimit | Forwarder::Carried(_) => "xdp_limit_mpps",
        Forwarder::Limit | Forwarder::Sluice(_) | Forwarder::Peer => "limit_mpps",
    };
    Some(rounds.median(&figure.key())? / rounds.median(limit).filter(|limit| *limit > 0.0)?)
}

/// The table that is printed.
#[must_use]
pub fn table(rounds: &Rounds) -> String {
    let mut text = format!("{:<34}{:>8}{:>10}{:>10}\n", "", "Mpps", "of limit", "goal");
    for figure in Figure::all(true) {
        let key = figure.key();
        let Some(rate) = rounds.median(&key) else { continue };
        let share = share(rounds, figure);
        let reached = |reached: bool| if reached { "reached" } else { "MISSED" };
        let goal = match (figure.goal(), share) {
            (Some(Goal::Mpps(goal)), _) => format!("{goal:>6.2} Mpps {}", reached(rate >= goal)),
            (Some(Goal::OfLimit(goal)), Some(share)) => format!("{goal:>6.2} {}", reached(share >= goal)),
            _ => String::new(),
        };
        let share = share.map_or("-".to_owned(), |share| format!("{share:.2}"));
        let _ = writeln!(
            text,
            "{}",
            format!("{:<34}{rate:>8.3}{share:>10}    {goal}", figure.title()).trim_end()
        );
    }
    text
}

/// The result as it is written: each figure's median, its share of the limit, what each round gave, and where.
#[must_use]
pub fn json(rounds: &Rounds, machine: &Machine, frame_len: usize, seconds: f64) -> serde_json::Value {
    let mut object = rounds.to_json();
    let shares: serde_json::Map<_, _> = Figure::all(true)
        .into_iter()
        .filter(|figure| !matches!(figure.forwarder, Forwarder::Limit | Forwarder::XdpLimit))
        .filter_map(|figure| {
            let key = figure.key();
            let share = super::rounded(share(rounds, figure)?);
            Some((key.trim_end_matches("_mpps").to_owned(), share.into()))
        })
        .collect();
    object.insert("of_limit".into(), shares.into());
    object.insert("machine".into(), serde_json::json!(machine));
    object.insert("frame_len".into(), frame_len.into());
    object.insert("seconds".into(), seconds.into());
    object.into()
}

/// The plot.
#[must_use]
pub fn chart(rounds: &Rounds, machine: &Machine) -> Chart {
    let mut forwarders: Vec<Forwarder> = Vec::new();
    for figure in Figure::all(true) {
        // Those in the kernel would leave the others in the lowest tenth.
        let left_out =
            matches!(figure.forwarder, Forwarder::Limit | Forwarder::XdpLimit | Forwarder::Carried(_));
        let known = forwarders.contains(&figure.forwarder) || left_out;
        if !known && rounds.median(&figure.key()).is_some() {
            forwarders.push(figure.forwarder);
        }
    }
    let loads: Vec<Load> = FLOWS.into_iter().map(Load::Flows).chain([Load::NewFlows]).collect();
    let series = |forwarder: Forwarder| Series {
        name: forwarder.name().into(),
        values: loads
            .iter()
            .map(|&load| {
                let figure = Figure { forwarder, load };
                // The key of new flows does not name the method: it is there for one only.
                Figure::all(true).contains(&figure).then(|| rounds.median(&figure.key())).flatten()
            })
            .collect(),
    };
    Chart {
        title: format!("Packets a second on a wire ({machine})"),
        axis: "Mpps".into(),
        groups: loads
            .iter()
            .map(|load| match load {
                Load::Flows(flows) => format!("{} flows", short(*flows)),
                Load::NewFlows => "new flow each packet".into(),
            })
            .collect(),
        series: forwarders.into_iter().map(series).collect(),
        limit: rounds.median("limit_mpps").map(|limit| ("bare forwarder".into(), limit)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine { processor: "a CPU".into(), cpus: 2, kernel: "6.1".into() }
    }

    fn full(peer: bool) -> Rounds {
        let mut rounds = Rounds::default();
        for figure in Figure::all(peer) {
            for value in [0.5, 0.7, 0.6] {
                let is_limit = matches!(figure.forwarder, Forwarder::Limit | Forwarder::XdpLimit);
                let value = if is_limit { value + 0.2 } else { value };
                rounds.add(figure.key(), value);
            }
        }
        rounds
    }

    #[test]
    fn json_has_the_keys_that_are_promised() {
        let json = json(&full(false), &machine(), 60, 2.0);
        let methods = ["dr", "tun", "nat", "fullnat"];
        let methods = methods.into_iter().flat_map(|m| [m.to_owned(), format!("{m}_offload")]);
        let flows = ["1k", "60k", "1m"];
        let mut keys: Vec<String> = methods.flat_map(|m| flows.map(|f| format!("{m}_{f}_mpps"))).collect();
        keys.extend(["limit_mpps".into(), "xdp_limit_mpps".into(), "new_flow_mpps".into()]);
        for key in &keys {
            assert!(json[key].is_f64(), "{key} in {json}");
            assert_eq!(json["rounds"][key].as_array().map(Vec::len), Some(3), "{key}");
        }
        assert_eq!(json["rounds"].as_object().map(serde_json::Map::len), Some(keys.len()));
        assert_eq!(json["fullnat_1m_mpps"], 0.6);
        assert_eq!(json["of_limit"]["fullnat_1m"], 0.75);
    }

    #[test]
    fn goals_are_told_reached_or_missed() {
        let text = table(&full(true));
        let line = |title: &str| text.lines().find(|line| line.starts_with(title)).unwrap_or_default();
        assert!(line("fullnat, 1m flows").contains("0.75      0.80 MISSED"), "{text}");
        assert!(line("fullnat, a new flow").contains("1.00 Mpps MISSED"), "{text}");
        assert!(line("peer, 60k flows").ends_with("0.75"), "{text}");
        assert_eq!(text.lines().count(), 1 + Figure::all(true).len());
        let mut rounds = full(false);
        (0..9).for_each(|_| rounds.add("fullnat_1m_mpps", 0.7));
        assert!(table(&rounds).contains("0.80 reached"), "{}", table(&rounds));
    }

    #[test]
    fn what_was_not_measured_is_left_out() {
        let mut rounds = Rounds::default();
        rounds.add("tun_1k_mpps", 0.5);
        assert_eq!(table(&rounds).lines().count(), 2);
        assert_eq!(json(&rounds, &machine(), 60, 2.0)["of_limit"], serde_json::json!({}));
        let chart = chart(&rounds, &machine());
        assert_eq!((chart.series.len(), &chart.limit), (1, &None));
        assert_eq!(chart.series[0].values, [Some(0.5), None, None, None]);
    }

    #[test]
    fn the_plot_has_new_flows_once() {
        let chart = chart(&full(true), &machine());
        let names: Vec<_> = chart.series.iter().map(|series| series.name.as_str()).collect();
        assert_eq!(names, ["dr", "tun", "nat", "fullnat", "peer"]);
        let new: Vec<_> = chart.series.iter().map(|series| series.values[3]).collect();
        assert_eq!(new, [None, None, None, Some(0.6), Some(0.6)]);
    }
}
