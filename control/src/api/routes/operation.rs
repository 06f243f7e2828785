//! What is looked at while a director runs, and its replacement.

use hyper::Method;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Route;
use super::call::Call;
use super::configuration::flag;
use crate::api::message::{Answer, Request};
use crate::api::upgrade::PROTOCOL;
use crate::events::{EventRecord, Kind};
use crate::health::ServiceHealth;
use crate::observe::{Overview, OverviewQuery};

/// Which events are listed.
#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct EventsQuery {
    /// Those with greater numbers than this
    after: u64,
    /// The newest so many at most
    limit: Option<usize>,
    /// One kind only
    kind: Option<Kind>,
    /// Go on with new ones as they come. There is an empty line now and then, so that both sides know
    /// of each other
    #[serde(deserialize_with = "flag", skip_serializing_if = "std::ops::Not::not")]
    follow: bool,
}

/// Counters and state of the data plane: `version`, `role`, `problems`, `interfaces`, `workers`, `sync` and more.
#[derive(Deserialize, JsonSchema)]
#[serde(transparent)]
struct Status(serde_json::Map<String, serde_json::Value>);

/// A process that is to take the place of the director.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Successor {
    /// The interfaces that it has
    interfaces: Vec<String>,
    /// Whether it can go on with the director's sockets
    #[serde(default)]
    sockets: bool,
    /// How it talks: not later than the director's status has it in `takeover`
    #[serde(default = "first_version", skip_serializing_if = "is_first_version")]
    version: u32,
}

/// Directors that say no version, and know no such field.
fn first_version() -> u32 {
    1
}

fn is_first_version(version: &u32) -> bool {
    *version == first_version()
}

impl From<Status> for Answer {
    fn from(Status(status): Status) -> Self {
        Answer::Status(status.into())
    }
}

impl From<ServiceHealth> for Answer {
    fn from(health: ServiceHealth) -> Self {
        Answer::Health(health)
    }
}

impl From<Overview> for Answer {
    fn from(overview: Overview) -> Self {
        Answer::Overview(Box::new(overview))
    }
}

impl From<EventRecord> for Answer {
    fn from(event: EventRecord) -> Self {
        Answer::Events(vec![event])
    }
}

pub(super) const ROUTES: &[Route] = &[
    Route::new(
        Method::GET,
        "/v1/status",
        ("getStatus", "Counters and state of the data plane (sluice status --json)"),
        |_| Ok(Request::Status),
        |request| matches!(request, Request::Status).then(Call::plain),
        || vec![Request::Status],
    )
    .one::<Status>(),
    Route::new(
        Method::GET,
        "/v1/health",
        ("listHealth", "What health checks say of servers, by service (sluice health)"),
        |_| Ok(Request::Health),
        |request| matches!(request, Request::Health).then(Call::plain),
        || vec![Request::Health],
    )
    .lines::<ServiceHealth>(),
    Route::new(
        Method::GET,
        "/v1/overview",
        ("getOverview", "State and rates at one moment, cut to what a screen shows (sluice top)"),
        |call| Ok(Request::Overview { query: call.query()? }),
        |request| match request {
            Request::Overview { query } => Some(Call::plain().with_query(query)),
            _ => None,
        },
        || {
            let query = OverviewQuery { limit: 10, points: 60, ..OverviewQuery::default() };
            vec![Request::Overview { query: OverviewQuery::default() }, Request::Overview { query }]
        },
    )
    .query::<OverviewQuery>()
    .one::<Overview>(),
    Route::new(
        Method::GET,
        "/v1/events",
        ("listEvents", "What happened to the director, oldest first (sluice events)"),
        |call| {
            let EventsQuery { after, limit, kind, follow } = call.query()?;
            Ok(Request::Events { after, limit, kind, follow })
        },
        |request| match request {
            Request::Events { after, limit, kind, follow } => {
                let query = EventsQuery { after: *after, limit: *limit, kind: *kind, follow: *follow };
                Some(Call::plain().with_query(&query))
            }
            _ => None,
        },
        || {
            vec![
                Request::Events { after: 0, limit: None, kind: None, follow: false },
                Request::Events { after: 17, limit: Some(100), kind: Some(Kind::Health), follow: true },
            ]
        },
    )
    .query::<EventsQuery>()
    .lines::<EventRecord>(),
    Route::new(
        Method::POST,
        "/v1/takeover",
        (
            "takeOver",
            "Has another process take this one's place (sluice run --takeover). Members of api_group may not",
        ),
        |call| {
            let Successor { interfaces, sockets, version } = call.body()?;
            Ok(Request::TakeOver { interfaces, sockets, version })
        },
        |request| match request {
            Request::TakeOver { interfaces, sockets, version } => {
                let successor =
                    Successor { interfaces: interfaces.clone(), sockets: *sockets, version: *version };
                Some(Call::plain().with_body(&successor))
            }
            _ => None,
        },
        || {
            vec![Request::TakeOver {
                interfaces: vec!["eth0".into(), "eth1".into()],
                sockets: true,
                version: 2,
            }]
        },
    )
    .body::<Successor>()
    .upgrade(PROTOCOL)
    .refusals(&["upgrade_required", "other_interfaces", "not_now"]),
];
