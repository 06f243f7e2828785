//! What is not of one service: timeouts, sync daemons, mark rules and the role.

use hyper::Method;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Route;
use super::call::{Call, Malformed};
use crate::api::message::{Answer, Request};
use crate::marks::{MarkListing, MarkRule};
use crate::role::Role;
use crate::rules::{Daemon, DaemonRole, Timeouts};

const TIMEOUTS: &str = "/v1/timeouts";
const DAEMONS: &str = "/v1/daemons";
const MARKS: &str = "/v1/marks";
const ROLE: &str = "/v1/role";

/// A mark rule to be added.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NewMark {
    /// The rule
    rule: MarkRule,
    /// Before which rule, counted from 1; behind all without it
    #[serde(default)]
    number: Option<usize>,
}

/// Mark rules in place of those that there are.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NewMarks {
    /// In order
    rules: Vec<NumberedMark>,
}

/// One of several mark rules.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NumberedMark {
    /// The line that errors name; without it, its place from 1
    #[serde(default)]
    line: Option<usize>,
    /// The rule
    rule: MarkRule,
}

/// The role of a director.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct RoleBody {
    /// `active` or `backup`
    pub(in crate::api) role: Role,
}

impl From<Timeouts> for Answer {
    fn from(timeouts: Timeouts) -> Self {
        Answer::Timeouts(timeouts)
    }
}

impl From<Vec<Daemon>> for Answer {
    fn from(daemons: Vec<Daemon>) -> Self {
        Answer::Daemons(daemons)
    }
}

impl From<Vec<MarkListing>> for Answer {
    fn from(marks: Vec<MarkListing>) -> Self {
        Answer::Marks(marks)
    }
}

impl From<RoleBody> for Answer {
    fn from(body: RoleBody) -> Self {
        Answer::Role(body.role)
    }
}

fn rule() -> Vec<MarkRule> {
    let rule = r#"{"vip":"192.0.2.10","protocol":"tcp","ports":"80,443","set":"7"}"#;
    serde_json::from_str(rule).into_iter().collect()
}

pub(super) const ROUTES: &[Route] = &[
    Route::new(
        Method::GET,
        TIMEOUTS,
        ("getTimeouts", "The timeouts of connections (ipvsadm -L --timeout)"),
        |_| Ok(Request::Timeouts),
        |request| matches!(request, Request::Timeouts).then(Call::plain),
        || vec![Request::Timeouts],
    )
    .one::<Timeouts>(),
    Route::new(
        Method::PUT,
        TIMEOUTS,
        ("setTimeouts", "Sets timeouts of connections; 0 leaves one as it is (ipvsadm --set)"),
        |call| Ok(Request::SetTimeouts { timeouts: call.body()? }),
        |request| match request {
            Request::SetTimeouts { timeouts } => Some(Call::plain().with_body(timeouts)),
            _ => None,
        },
        || vec![Request::SetTimeouts { timeouts: Timeouts { tcp: 7200, tcp_fin: 0, udp: 60 } }],
    )
    .body::<Timeouts>()
    .refusals(&["invalid", "out_of_range", "taking_over"]),
    Route::new(
        Method::GET,
        DAEMONS,
        ("listDaemons", "The sync daemons that run (ipvsadm -L --daemon)"),
        |_| Ok(Request::Daemons),
        |request| matches!(request, Request::Daemons).then(Call::plain),
        || vec![Request::Daemons],
    )
    .one::<Vec<Daemon>>(),
    Route::new(
        Method::POST,
        DAEMONS,
        ("startDaemon", "Starts a sync daemon (ipvsadm --start-daemon)"),
        |call| Ok(Request::StartDaemon { daemon: call.body()? }),
        |request| match request {
            Request::StartDaemon { daemon } => Some(Call::plain().with_body(daemon)),
            _ => None,
        },
        || {
            let daemon = Daemon {
                role: DaemonRole::Master,
                interface: "eth0".into(),
                sync_id: Some(7),
                max_length: None,
                group: None,
                port: None,
                ttl: None,
            };
            vec![Request::StartDaemon { daemon }]
        },
    )
    .body::<Daemon>()
    .refusals(&["daemon_runs", "no_device", "daemon_socket", "invalid", "out_of_range", "taking_over"]),
    Route::new(
        Method::DELETE,
        "/v1/daemons/{role}",
        ("stopDaemon", "Stops a sync daemon (ipvsadm --stop-daemon)"),
        |call| match call.values.first().map(String::as_str) {
            Some("master") => Ok(Request::StopDaemon { role: DaemonRole::Master }),
            Some("backup") => Ok(Request::StopDaemon { role: DaemonRole::Backup }),
            _ => Err(Malformed("a sync daemon is either master or backup".into())),
        },
        |request| match request {
            Request::StopDaemon { role: DaemonRole::Master } => Some(Call::plain().value("master")),
            Request::StopDaemon { role: DaemonRole::Backup } => Some(Call::plain().value("backup")),
            _ => None,
        },
        || vec![Request::StopDaemon { role: DaemonRole::Master }],
    )
    .refusals(&["no_daemon", "taking_over"]),
    Route::new(
        Method::GET,
        MARKS,
        ("listMarks", "The rules that mark packets, in order (sluice mark list)"),
        |_| Ok(Request::Marks),
        |request| matches!(request, Request::Marks).then(Call::plain),
        || vec![Request::Marks],
    )
    .one::<Vec<MarkListing>>(),
    Route::new(
        Method::POST,
        MARKS,
        ("addMark", "Adds a mark rule (sluice mark add and insert)"),
        |call| {
            let NewMark { rule, number } = call.body()?;
            Ok(Request::AddMark { rule, number })
        },
        |request| match request {
            Request::AddMark { rule, number } => {
                Some(Call::plain().with_body(&NewMark { rule: rule.clone(), number: *number }))
            }
            _ => None,
        },
        || rule().into_iter().map(|rule| Request::AddMark { rule, number: Some(1) }).collect(),
    )
    .body::<NewMark>()
    .refusals(&["mark", "mark_number", "too_many_marks", "taking_over"]),
    Route::new(
        Method::PUT,
        MARKS,
        ("replaceMarks", "Puts mark rules in place of all, or changes nothing (sluice mark restore)"),
        |call| {
            let NewMarks { rules } = call.body()?;
            let numbered = |(place, rule): (usize, NumberedMark)| (rule.line.unwrap_or(place + 1), rule.rule);
            Ok(Request::ReplaceMarks { rules: rules.into_iter().enumerate().map(numbered).collect() })
        },
        |request| match request {
            Request::ReplaceMarks { rules } => {
                let numbered =
                    |(line, rule): &(usize, MarkRule)| NumberedMark { line: Some(*line), rule: rule.clone() };
                let rules = rules.iter().map(numbered).collect();
                Some(Call::plain().with_body(&NewMarks { rules }))
            }
            _ => None,
        },
        || vec![Request::ReplaceMarks { rules: rule().into_iter().map(|rule| (3, rule)).collect() }],
    )
    .body::<NewMarks>()
    .refusals(&["mark", "too_many_marks", "taking_over"]),
    Route::new(
        Method::DELETE,
        MARKS,
        ("flushMarks", "Removes all mark rules (sluice mark flush)"),
        |_| Ok(Request::FlushMarks),
        |request| matches!(request, Request::FlushMarks).then(Call::plain),
        || vec![Request::FlushMarks],
    )
    .refusals(&["taking_over"]),
    Route::new(
        Method::POST,
        "/v1/marks/remove",
        ("deleteMark", "Removes the first mark rule that is the same (sluice mark delete)"),
        |call| Ok(Request::DeleteMark { rule: call.body()? }),
        |request| match request {
            Request::DeleteMark { rule } => Some(Call::plain().with_body(rule)),
            _ => None,
        },
        || rule().into_iter().map(|rule| Request::DeleteMark { rule }).collect(),
    )
    .body::<MarkRule>()
    .refusals(&["no_such_mark", "taking_over"]),
    Route::new(
        Method::DELETE,
        "/v1/marks/{number}",
        ("deleteMarkNumber", "Removes a mark rule by its number, counted from 1 (sluice mark delete)"),
        |call| Ok(Request::DeleteMarkNumber { number: call.part(0, "the number of a mark rule")? }),
        |request| match request {
            Request::DeleteMarkNumber { number } => Some(Call::plain().value(number)),
            _ => None,
        },
        || vec![Request::DeleteMarkNumber { number: 1 }],
    )
    .refusals(&["mark_number", "taking_over"]),
    Route::new(
        Method::GET,
        ROLE,
        ("getRole", "Whether it is the active director or a backup (sluice role)"),
        |_| Ok(Request::Role),
        |request| matches!(request, Request::Role).then(Call::plain),
        || vec![Request::Role],
    )
    .one::<RoleBody>(),
    Route::new(
        Method::PUT,
        ROLE,
        ("setRole", "Makes it the active director, or a backup (sluice role)"),
        |call| {
            let RoleBody { role } = call.body()?;
            Ok(Request::SetRole { role })
        },
        |request| match request {
            Request::SetRole { role } => Some(Call::plain().with_body(&RoleBody { role: *role })),
            _ => None,
        },
        || vec![Request::SetRole { role: Role::Backup }],
    )
    .body::<RoleBody>(),
];
