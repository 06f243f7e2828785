//! From results to a state.

use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a server is, or what one check says of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// There are not enough results yet
    #[default]
    Checking,
    /// It takes connections
    Up,
    /// It does not
    Down,
}

impl State {
    /// Its name in logs and listings.
    pub fn name(self) -> &'static str {
        match self {
            State::Checking => "checking",
            State::Up => "up",
            State::Down => "down",
        }
    }

    /// The state of a server that has these checks: down if one says so, up if
    /// all do.
    pub fn of(checks: impl Iterator<Item = State>) -> State {
        checks.fold(State::Up, |all, one| match (all, one) {
            (State::Down, _) | (_, State::Down) => State::Down,
            (State::Checking, _) | (_, State::Checking) => State::Checking,
            (State::Up, State::Up) => State::Up,
        })
    }
}

/// Counts results in a row.
#[derive(Clone, Copy, Debug)]
pub struct Streak {
    rise: u32,
    fall: u32,
    state: State,
    passed: u32,
    failed: u32,
}

impl Streak {
    /// Nothing is known yet. It takes `rise` successes in a row to be up, and
    /// `fall` failures to be down.
    pub fn new(rise: u32, fall: u32) -> Self {
        Streak { rise, fall, state: State::Checking, passed: 0, failed: 0 }
    }

    /// Takes a result; returns the state if it is another now.
    pub fn note(&mut self, passed: bool) -> Option<State> {
        let (count, other, enough, next) = if passed {
            (&mut self.passed, &mut self.failed, self.rise, State::Up)
        } else {
            (&mut self.failed, &mut self.passed, self.fall, State::Down)
        };
        *other = 0;
        *count = count.saturating_add(1);
        let changed = *count >= enough && self.state != next;
        changed.then(|| {
            self.state = next;
            next
        })
    }
}

/// What a check has found so far. The thread that makes checks writes it.
#[derive(Debug, Default)]
pub struct Results(Mutex<Latest>);

/// The results of a check so far.
#[derive(Clone, Debug, Default)]
pub struct Latest {
    /// Successes since the check began
    pub passed: u64,
    /// Failures since then
    pub failed: u64,
    /// How long the last one took
    pub latency: Option<Duration>,
    /// What was wrong in the last one; empty if nothing was
    pub problem: String,
    /// When the last one ended
    pub at: Option<SystemTime>,
}

impl Results {
    /// As they are now.
    pub fn latest(&self) -> Latest {
        self.0.lock().map(|latest| latest.clone()).unwrap_or_default()
    }

    pub(super) fn note(&self, problem: Option<&str>, latency: Duration) {
        let Ok(mut latest) = self.0.lock() else { return };
        match problem {
            None => latest.passed += 1,
            Some(_) => latest.failed += 1,
        }
        latest.problem.clear();
        latest.problem.push_str(problem.unwrap_or_default());
        latest.latency = Some(latency);
        latest.at = Some(SystemTime::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `+` for a success, `-` for a failure; then what each led to: `U`, `D`, or
    /// `.` for no change.
    #[test]
    fn a_state_needs_results_in_a_row() {
        for (rise, fall, results, expected) in [
            (1, 3, "+", "U"),
            (1, 3, "---", "..D"),
            (1, 3, "+--+---+", "U.....DU"),
            (1, 3, "+---------", "U..D......"),
            (1, 3, "+---+---", "U..DU..D"),
            (2, 3, "++---+-++", ".U..D...U"),
            (2, 1, "+-++-", ".D.UD"),
            (1, 1, "-+-+", "DUDU"),
            (3, 2, "++-++-", "......"),
        ] {
            let mut streak = Streak::new(rise, fall);
            let said: String = results
                .chars()
                .map(|result| match streak.note(result == '+') {
                    Some(State::Up) => 'U',
                    Some(State::Down) => 'D',
                    _ => '.',
                })
                .collect();
            assert_eq!(said, expected, "rise {rise}, fall {fall}: {results}");
        }
    }

    #[test]
    fn a_server_is_as_its_worst_check() {
        use State::{Checking, Down, Up};
        for (checks, expected) in [
            (vec![], Up),
            (vec![Up, Up], Up),
            (vec![Up, Checking], Checking),
            (vec![Checking, Down, Up], Down),
        ] {
            assert_eq!(State::of(checks.iter().copied()), expected, "{checks:?}");
        }
    }
}
