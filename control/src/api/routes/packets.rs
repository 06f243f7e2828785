//! Looking into packets.

use hyper::Method;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Route;
use super::call::Call;
use crate::api::message::{Answer, Request};
use crate::capture::{CapturePart, CaptureQuery};
use crate::rules::Protocol;
use crate::trace::{TraceQuery, TraceReport};

/// Which packets are captured, and how many.
#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct NewCapture {
    /// Which packets
    query: CaptureQuery,
    /// So many at most
    count: Option<u64>,
    /// For so many seconds at most
    seconds: Option<u64>,
}

impl From<CapturePart> for Answer {
    fn from(part: CapturePart) -> Self {
        Answer::Captured(part)
    }
}

impl From<TraceReport> for Answer {
    fn from(report: TraceReport) -> Self {
        Answer::Trace(Box::new(report))
    }
}

pub(super) const ROUTES: &[Route] = &[
    Route::new(
        Method::POST,
        "/v1/captures",
        (
            "capture",
            "Packets as they come, before and after rewriting, until the client has seen enough \
             (sluice capture). Now and then there is a line without any",
        ),
        |call| {
            let NewCapture { query, count, seconds } = call.body()?;
            Ok(Request::Capture { query: Box::new(query), count, seconds })
        },
        |request| match request {
            Request::Capture { query, count, seconds } => {
                let capture = NewCapture { query: (**query).clone(), count: *count, seconds: *seconds };
                Some(Call::plain().with_body(&capture))
            }
            _ => None,
        },
        || {
            let mut query = CaptureQuery { dropped: true, ..CaptureQuery::default() };
            query.connection.client = "198.51.100.0/24".parse().ok();
            vec![Request::Capture { query: Box::new(query), count: Some(100), seconds: Some(60) }]
        },
    )
    .body::<NewCapture>()
    .lines::<CapturePart>()
    .refusals(&["too_many_captures"]),
    Route::new(
        Method::POST,
        "/v1/trace",
        ("trace", "What would become of a packet, and why (sluice trace). Nothing changes by it"),
        |call| Ok(Request::Trace { query: call.body()? }),
        |request| match request {
            Request::Trace { query } => Some(Call::plain().with_body(query)),
            _ => None,
        },
        || {
            let query = TraceQuery {
                protocol: Protocol::Tcp,
                source: ([198, 51, 100, 7], 49_152).into(),
                destination: ([192, 0, 2, 10], 80).into(),
                interface: None,
                mark: None,
            };
            vec![Request::Trace { query }]
        },
    )
    .body::<TraceQuery>()
    .one::<TraceReport>(),
];
