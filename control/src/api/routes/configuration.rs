//! The configuration: what would have to be written, and reading it again.

use std::path::PathBuf;

use hyper::Method;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::Route;
use super::call::Call;
use crate::api::message::{Answer, Request};
use crate::marks::MarkRule;
use crate::rules::{Change, ConfiguredService, Timeouts};

/// A line of the configuration: services in the order in which they were added, then the director.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::api) enum ConfigurationLine {
    /// A service
    Service(Box<ConfiguredService>),
    /// The rest, which comes last
    Director(DirectorConfiguration),
}

/// What of a configuration is not of a service.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(in crate::api) struct DirectorConfiguration {
    /// The file that the director was started with
    pub(in crate::api) file: Option<PathBuf>,
    /// The rules that mark packets, in order
    pub(in crate::api) marks: Vec<MarkRule>,
    /// In seconds
    pub(in crate::api) timeouts: Timeouts,
}

/// How the configuration is read again.
#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct ReloadQuery {
    /// Only say what would change
    #[serde(deserialize_with = "flag", skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
}

/// A key of a query that is there or not: `?count` is the same as `?count=true`.
pub(super) fn flag<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    match String::deserialize(from)?.as_str() {
        "" | "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        other => Err(serde::de::Error::custom(format!("{other:?} is neither true nor false"))),
    }
}

impl From<ConfigurationLine> for Answer {
    fn from(line: ConfigurationLine) -> Self {
        match line {
            ConfigurationLine::Service(service) => Answer::Configured(service),
            ConfigurationLine::Director(DirectorConfiguration { file, marks, timeouts }) => {
                Answer::Configuration { file, marks, timeouts }
            }
        }
    }
}

impl From<Change> for Answer {
    fn from(change: Change) -> Self {
        Answer::Changes(vec![change])
    }
}

pub(super) const ROUTES: &[Route] = &[
    Route::new(
        Method::GET,
        "/v1/configuration",
        ("getConfiguration", "The rules of now as a configuration would have to say them (sluice save)"),
        |_| Ok(Request::Configuration),
        |request| matches!(request, Request::Configuration).then(Call::plain),
        || vec![Request::Configuration],
    )
    .lines::<ConfigurationLine>(),
    Route::new(
        Method::POST,
        "/v1/reload",
        ("reload", "Reads the configuration file again and lists what changed by it (sluice reload)"),
        |call| {
            let ReloadQuery { dry_run } = call.query()?;
            Ok(Request::Reload { dry_run })
        },
        |request| match request {
            Request::Reload { dry_run } => Some(Call::plain().with_query(&ReloadQuery { dry_run: *dry_run })),
            _ => None,
        },
        || vec![Request::Reload { dry_run: true }, Request::Reload { dry_run: false }],
    )
    .query::<ReloadQuery>()
    .lines::<Change>()
    .refusals(&[
        "no_configuration",
        "bad_configuration",
        "refused_configuration",
        "restart_needed",
        "taking_over",
    ]),
];
