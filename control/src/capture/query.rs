//! Which packets are asked for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_dataplane::capture::{CaptureFilter, Drops, LONGEST_SNAP};
use sluice_dataplane::stats::DropReason;

use crate::api::{ConnectionQuery, EndpointQuery, QueryError};

/// What a packet has to be; what is not said matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CaptureQuery {
    /// What its connection has to be, or of a packet that has none, its own ends
    pub connection: ConnectionQuery,
    /// Where it is from, before or after rewriting
    pub source: Option<EndpointQuery>,
    /// Where it goes, before or after rewriting
    pub destination: Option<EndpointQuery>,
    /// One of both, or an end of its connection
    pub address: Option<EndpointQuery>,
    /// A port of any of them
    pub port: Option<u16>,
    /// Only as it is on one side of rewriting
    pub side: Option<Side>,
    /// Dropped packets only
    pub dropped: bool,
    /// Of these, those that were dropped for this reason
    pub reason: Option<String>,
    /// One of so many received packets is looked at [default: each]
    pub sample: Option<u32>,
    /// So many bytes of each [default: all]
    pub snap: Option<u32>,
}

/// A side of rewriting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Packets as they were received
    Before,
    /// Packets as they are sent
    After,
}

/// Why a query makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaptureError {
    /// Something about its connections
    #[error(transparent)]
    Query(#[from] QueryError),
    /// No reason of that name
    #[error("there is no drop reason {0:?}: there are {reasons}", reasons = reasons().join(", "))]
    NoReason(String),
    /// Nothing would be found
    #[error("a dropped packet is not sent: leave out that packets are wanted after rewriting")]
    NeverAfter,
    /// A zero
    #[error("{0} must not be 0")]
    Zero(&'static str),
}

/// The names of all drop reasons.
fn reasons() -> Vec<&'static str> {
    DropReason::ALL.iter().map(|reason| reason.name()).collect()
}

impl CaptureQuery {
    /// What workers look for.
    ///
    /// # Errors
    /// [`CaptureError`].
    pub fn filter(&self) -> Result<CaptureFilter, CaptureError> {
        let end = |end: Option<EndpointQuery>| end.map(EndpointQuery::endpoint).transpose();
        let by_name = |name: &String| {
            let found = DropReason::ALL.iter().copied().find(|reason| reason.name() == name);
            found.ok_or_else(|| CaptureError::NoReason(name.clone()))
        };
        let drops = match (&self.reason, self.dropped) {
            (Some(name), _) => Drops::For(by_name(name)?),
            (None, true) => Drops::Only,
            (None, false) => Drops::Also,
        };
        if drops != Drops::Also && self.side == Some(Side::After) {
            return Err(CaptureError::NeverAfter);
        }
        if self.sample == Some(0) {
            return Err(CaptureError::Zero("the sample"));
        }
        if self.snap == Some(0) {
            return Err(CaptureError::Zero("the length of what is copied"));
        }
        Ok(CaptureFilter {
            connection: self.connection.filter()?,
            source: end(self.source)?,
            destination: end(self.destination)?,
            address: end(self.address)?,
            port: self.port,
            before: self.side != Some(Side::After),
            after: self.side != Some(Side::Before),
            drops,
            sample: self.sample.unwrap_or(1),
        })
    }

    /// Bytes of each packet that are copied.
    pub fn snap(&self) -> usize {
        self.snap.map_or(LONGEST_SNAP, |snap| (snap as usize).min(LONGEST_SNAP))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_that_makes_no_sense_is_refused() {
        let all = CaptureQuery::default;
        assert_eq!(all().filter(), Ok(CaptureFilter::default()));
        let reason = |name: &str| CaptureQuery { reason: Some(name.into()), ..all() };
        let drops = Drops::For(DropReason::NoServer);
        assert_eq!(reason("no_server").filter().map(|filter| filter.drops), Ok(drops));
        let unknown = reason("bored").filter().unwrap_err().to_string();
        assert!(unknown.contains("no_server, "), "{unknown}");
        let after = CaptureQuery { side: Some(Side::After), dropped: true, ..all() };
        assert_eq!(after.filter(), Err(CaptureError::NeverAfter));
        let none = CaptureQuery { sample: Some(0), ..all() };
        assert_eq!(none.filter(), Err(CaptureError::Zero("the sample")));
        let before = CaptureQuery { side: Some(Side::Before), ..all() }.filter().unwrap();
        assert_eq!((before.before, before.after), (true, false));
        assert_eq!(CaptureQuery { snap: Some(1 << 30), ..all() }.snap(), LONGEST_SNAP);
    }
}
