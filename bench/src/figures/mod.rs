//! What measurements become: medians of rounds, tables, JSON, a plot.

pub mod apps;
mod chart;
mod machine;
mod quiet;
pub mod wire;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

pub use chart::{Chart, Series};
pub use machine::Machine;
pub use quiet::Waiting;

/// What was measured in each round, by the name of the figure.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rounds {
    values: BTreeMap<String, Vec<f64>>,
}

impl Rounds {
    /// Adds the value of a round.
    pub fn add(&mut self, figure: impl Into<String>, value: f64) {
        self.values.entry(figure.into()).or_default().push(rounded(value));
    }

    /// The values of all figures, by their names.
    #[must_use]
    pub fn values(&self) -> &BTreeMap<String, Vec<f64>> {
        &self.values
    }

    /// The values of a figure, in the order of the rounds.
    #[must_use]
    pub fn of(&self, figure: &str) -> &[f64] {
        self.values.get(figure).map_or(&[], Vec::as_slice)
    }

    /// The median of a figure, if it was measured.
    #[must_use]
    pub fn median(&self, figure: &str) -> Option<f64> {
        median(self.of(figure)).map(rounded)
    }

    /// The medians of all figures, and under `rounds` what they are of.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Map<String, serde_json::Value> {
        let medians = self.values.keys().filter_map(|name| Some((name.clone(), self.median(name)?.into())));
        let mut object: serde_json::Map<_, _> = medians.collect();
        object.insert("rounds".into(), serde_json::json!(self.values));
        object
    }
}

/// The middle of some values, of an even number the mean of the two in the middle; of none there is none.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// To three places: more is noise.
#[must_use]
pub fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// Writes a result as JSON, to a directory that is made if need be.
///
/// # Errors
/// When it cannot be written.
pub fn write_json(path: &Path, result: &impl Serialize) -> Result<()> {
    write(path, &(serde_json::to_string_pretty(result)? + "\n"))
}

/// Writes a text, to a directory that is made if need be.
///
/// # Errors
/// When it cannot be written.
pub fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 3.0, 100.0]), Some(3.5));
    }

    #[test]
    fn json_has_medians_and_what_they_are_of() {
        let mut rounds = Rounds::default();
        for value in [0.9, 0.70049, 0.8] {
            rounds.add("dr_1k_mpps", value);
        }
        let json = serde_json::Value::from(rounds.to_json());
        let expected = serde_json::json!({ "dr_1k_mpps": 0.8, "rounds": { "dr_1k_mpps": [0.9, 0.7, 0.8] } });
        assert_eq!(json, expected);
        assert_eq!(rounds.median("limit_mpps"), None);
    }
}
