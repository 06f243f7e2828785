//! How long connections live, by state.

use std::collections::BTreeMap;

use sluice_dataplane::conn::{State, TimeoutOverrides};
use toml::Spanned;

use super::check::{Check, or_list};
use crate::rules::MAX_TIMEOUT;

impl Check<'_> {
    /// A table of seconds by state, in the names of `ipvsadm -Lnc`.
    pub(super) fn timeouts(&mut self, table: &BTreeMap<String, Spanned<i64>>) -> TimeoutOverrides {
        let mut timeouts = TimeoutOverrides::default();
        for (name, value) in table {
            let state = State::ALL.into_iter().find(|state| key(*state) == *name);
            if state.is_none() {
                let names: Vec<String> = State::ALL.into_iter().map(key).collect();
                self.problem(
                    value.span(),
                    format!("there is no state {name:?}"),
                    format!("choose {}", or_list(&names)),
                );
            }
            let seconds = u32::try_from(*value.as_ref()).ok().filter(|s| (1..=MAX_TIMEOUT).contains(s));
            if seconds.is_none() {
                self.problem(
                    value.span(),
                    format!("{name} cannot be {} seconds", value.as_ref()),
                    format!("choose 1 to {MAX_TIMEOUT}"),
                );
            }
            if let (Some(state), Some(seconds)) = (state, seconds) {
                timeouts.set(state, seconds);
            }
        }
        timeouts
    }
}

/// What is set, by the name of its state.
pub(crate) fn named(timeouts: &TimeoutOverrides) -> BTreeMap<String, u32> {
    let mut left = *timeouts;
    State::ALL.into_iter().filter_map(|state| Some((key(state), left.take(state)?))).collect()
}

/// The same back; what is no state's name is left out.
pub(crate) fn of_names(names: &BTreeMap<String, u32>) -> TimeoutOverrides {
    let mut timeouts = TimeoutOverrides::default();
    for state in State::ALL {
        if let Some(seconds) = names.get(&key(state)) {
            timeouts.set(state, *seconds);
        }
    }
    timeouts
}

/// The name of a state in the file, where SCTP's are told from TCP's.
pub(crate) fn key(state: State) -> String {
    let name = state.name().to_ascii_lowercase().replace('-', "_");
    if state.is_of_sctp() { format!("sctp_{name}") } else { name }
}
