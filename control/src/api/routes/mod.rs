//! The one place where requests and HTTP meet: each [`Request`] is a [`Route`],
//! a row of the tables here, which both the director and its clients go by, and
//! which the OpenAPI document is made of. A new request is a new row.

mod call;
mod configuration;
mod operation;
mod packets;
mod services;
mod settings;

use hyper::{Method, StatusCode};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;

use super::message::{Answer, Request};
pub(super) use call::{Call, Malformed};

/// All of them.
pub(super) fn all() -> impl Iterator<Item = &'static Route> {
    [services::ROUTES, settings::ROUTES, configuration::ROUTES, operation::ROUTES, packets::ROUTES]
        .into_iter()
        .flatten()
}

/// Makes the schema of a type.
pub(super) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// What an answer is, or each line of one.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) schema: SchemaOf,
    /// Takes the JSON of one
    pub(super) decode: fn(&[u8]) -> serde_json::Result<Answer>,
}

impl Shape {
    const fn of<T: JsonSchema + DeserializeOwned + Into<Answer>>() -> Self {
        Shape {
            schema: |generator| generator.subschema_for::<T>(),
            decode: |bytes| serde_json::from_slice::<T>(bytes).map(Into::into),
        }
    }
}

/// How one request is told.
pub(super) struct Route {
    pub(super) method: Method,
    /// With placeholders in braces
    pub(super) path: &'static str,
    /// Its name in the document
    pub(super) name: &'static str,
    /// What it does
    pub(super) summary: &'static str,
    /// The keys of its query
    pub(super) query: Option<SchemaOf>,
    /// Its body
    pub(super) body: Option<SchemaOf>,
    /// The answer, where that is one document
    pub(super) one: Option<Shape>,
    /// The answer's lines, where it has any number of them
    pub(super) lines: Option<Shape>,
    /// The protocol that is spoken after it, in place of HTTP
    pub(super) upgrade: Option<&'static str>,
    /// Codes of refusals that it has beside those of every request
    pub(super) refusals: &'static [&'static str],
    pub(super) decode: fn(&Call) -> Result<Request, Malformed>,
    /// `None` for a request that is another row's
    pub(super) encode: fn(&Request) -> Option<Call>,
    /// Requests as examples, at least one
    pub(super) examples: fn() -> Vec<Request>,
}

impl Route {
    const fn new(
        method: Method,
        path: &'static str,
        (name, summary): (&'static str, &'static str),
        decode: fn(&Call) -> Result<Request, Malformed>,
        encode: fn(&Request) -> Option<Call>,
        examples: fn() -> Vec<Request>,
    ) -> Self {
        Route {
            method,
            path,
            name,
            summary,
            query: None,
            body: None,
            one: None,
            lines: None,
            upgrade: None,
            refusals: &[],
            decode,
            encode,
            examples,
        }
    }

    const fn query<T: JsonSchema>(mut self) -> Self {
        self.query = Some(|generator| T::json_schema(generator));
        self
    }

    const fn body<T: JsonSchema>(mut self) -> Self {
        self.body = Some(|generator| generator.subschema_for::<T>());
        self
    }

    const fn one<T: JsonSchema + DeserializeOwned + Into<Answer>>(mut self) -> Self {
        self.one = Some(Shape::of::<T>());
        self
    }

    const fn lines<T: JsonSchema + DeserializeOwned + Into<Answer>>(mut self) -> Self {
        self.lines = Some(Shape::of::<T>());
        self
    }

    const fn upgrade(mut self, protocol: &'static str) -> Self {
        self.upgrade = Some(protocol);
        self
    }

    const fn refusals(mut self, codes: &'static [&'static str]) -> Self {
        self.refusals = codes;
        self
    }

    /// Names of the placeholders, in order.
    pub(super) fn placeholders(&self) -> impl Iterator<Item = &'static str> {
        self.path.split('/').filter_map(placeholder)
    }

    /// What a path has in place of the placeholders, percent-encoded, if it is
    /// one of this route.
    fn matches<'p>(&self, path: &'p str) -> Option<Vec<&'p str>> {
        let mut values = Vec::new();
        let mut parts = path.split('/');
        for part in self.path.split('/') {
            let given = parts.next()?;
            match placeholder(part) {
                Some(_) if given.is_empty() => return None,
                Some(_) => values.push(given),
                None if part == given => {}
                None => return None,
            }
        }
        parts.next().is_none().then_some(values)
    }
}

fn placeholder(part: &'static str) -> Option<&'static str> {
    part.strip_prefix('{')?.strip_suffix('}')
}

/// Why there is no route.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Astray {
    /// Nothing is there
    Nowhere,
    /// These may be used there
    Methods(Vec<Method>),
}

/// The route of a request, and what its path has in place of placeholders.
pub(super) fn find<'p>(method: &Method, path: &'p str) -> Result<(&'static Route, Vec<&'p str>), Astray> {
    let found: Vec<_> = all().filter_map(|route| Some((route, route.matches(path)?))).collect();
    // What is named in full comes before what fits a placeholder.
    let least = found.iter().map(|(_, values)| values.len()).min().ok_or(Astray::Nowhere)?;
    let (mut right, wrong): (Vec<_>, Vec<_>) = found
        .into_iter()
        .filter(|(_, values)| values.len() == least)
        .partition(|(route, _)| route.method == *method);
    let methods = || wrong.iter().map(|(route, _)| route.method.clone()).collect();
    right.pop().ok_or_else(|| Astray::Methods(methods()))
}

/// The route by which a request goes, and its parts.
pub(super) fn encode(request: &Request) -> Option<(&'static Route, Call)> {
    all().find_map(|route| Some((route, (route.encode)(request)?)))
}

/// The status that goes with the code of an error.
pub(super) fn status(code: &str) -> StatusCode {
    match code {
        "permission_denied" => StatusCode::FORBIDDEN,
        "no_such_resource"
        | "no_such_service"
        | "service_not_defined"
        | "no_such_server"
        | "no_such_local_address"
        | "no_daemon"
        | "mark_number"
        | "no_such_mark" => StatusCode::NOT_FOUND,
        "method_not_allowed" => StatusCode::METHOD_NOT_ALLOWED,
        "request_timeout" => StatusCode::REQUEST_TIMEOUT,
        "service_exists"
        | "server_exists"
        | "local_address_exists"
        | "daemon_runs"
        | "no_configuration"
        | "restart_needed"
        | "other_interfaces" => StatusCode::CONFLICT,
        "request_too_long" => StatusCode::PAYLOAD_TOO_LARGE,
        "scheduler_not_found"
        | "out_of_range"
        | "invalid"
        | "no_device"
        | "daemon_socket"
        | "mark"
        | "too_many_marks"
        | "unsupported"
        | "bad_configuration"
        | "refused_configuration" => StatusCode::UNPROCESSABLE_ENTITY,
        "upgrade_required" => StatusCode::UPGRADE_REQUIRED,
        "internal" => StatusCode::INTERNAL_SERVER_ERROR,
        "too_many_clients" | "too_many_captures" | "taking_over" | "not_now" => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        // bad_request, and whatever is not said to be anything else
        _ => StatusCode::BAD_REQUEST,
    }
}

/// What may be refused to every request.
pub(super) const REFUSALS: [&str; 6] = [
    "bad_request",
    "permission_denied",
    "request_timeout",
    "request_too_long",
    "internal",
    "too_many_clients",
];
