//! Which connections are carried in the kernel.

use std::ops::RangeInclusive;

use sluice_dataplane::offload::MOST_AFTER;
use sluice_dataplane::service::OffloadChoice;
use toml::Spanned;

use super::check::Check;

/// Bounds and default of `offload_flows` and `offload_flows_v6`. Each takes four slots
/// at start: 256 and 512 bytes.
const FLOWS: RangeInclusive<u32> = 16..=64_000_000;
const DEFAULT_FLOWS: u32 = 131_072;
const DEFAULT_FLOWS_V6: u32 = 16_384;

/// The same of `offload_after`.
const DEFAULT_AFTER: u32 = 8;

/// The same of `offload_stale`, in seconds.
const STALE: RangeInclusive<u32> = 1..=60;
const DEFAULT_STALE: u32 = 1;

/// An [`OffloadChoice`] by its name.
pub(crate) mod name {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use sluice_dataplane::service::OffloadChoice;

    pub(crate) fn serialize<S: Serializer>(choice: &OffloadChoice, to: S) -> Result<S::Ok, S::Error> {
        choice.name().serialize(to)
    }

    pub(crate) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<OffloadChoice, D::Error> {
        let name = String::deserialize(from)?;
        let found = OffloadChoice::ALL.into_iter().find(|(known, _)| *known == name);
        let choice = found.map(|(_, choice)| choice);
        choice.ok_or_else(|| serde::de::Error::custom(format!("there is no offload {name:?}")))
    }
}

impl Check<'_> {
    /// Of the director or of a service.
    pub(super) fn offload(&mut self, value: Option<&Spanned<String>>) -> OffloadChoice {
        self.choice("offload", value, &OffloadChoice::ALL)
    }

    pub(super) fn offload_flows(&mut self, value: Option<&Spanned<i64>>) -> u32 {
        self.within("offload_flows", value, FLOWS, DEFAULT_FLOWS)
    }

    pub(super) fn offload_flows_v6(&mut self, value: Option<&Spanned<i64>>) -> u32 {
        self.within("offload_flows_v6", value, FLOWS, DEFAULT_FLOWS_V6)
    }

    pub(super) fn offload_after(&mut self, value: Option<&Spanned<i64>>) -> u8 {
        // The bound is one of a byte.
        self.within("offload_after", value, 1..=MOST_AFTER.into(), DEFAULT_AFTER) as u8
    }

    pub(super) fn offload_stale(&mut self, value: Option<&Spanned<i64>>) -> u32 {
        self.within("offload_stale", value, STALE, DEFAULT_STALE)
    }

    /// What a service says must go with what the director has.
    pub(super) fn offload_of_service(
        &mut self,
        value: Option<&Spanned<String>>,
        director: OffloadChoice,
    ) -> OffloadChoice {
        let choice = self.offload(value);
        if let (OffloadChoice::On, OffloadChoice::Off, Some(value)) = (choice, director, value) {
            self.problem(
                value.span(),
                "offload is \"off\" for the director",
                "remove it here, or set offload = \"auto\" or \"on\" in [director]",
            );
        }
        choice
    }

    fn within(
        &mut self,
        key: &str,
        value: Option<&Spanned<i64>>,
        range: RangeInclusive<u32>,
        otherwise: u32,
    ) -> u32 {
        let Some(value) = value else { return otherwise };
        let number = u32::try_from(*value.as_ref()).ok().filter(|number| range.contains(number));
        if number.is_none() {
            self.problem(
                value.span(),
                format!("{key} cannot be {}", value.as_ref()),
                format!("choose {} to {}", range.start(), range.end()),
            );
        }
        number.unwrap_or(otherwise)
    }
}
