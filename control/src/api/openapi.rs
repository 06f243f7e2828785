//! The OpenAPI document, made of the routes and the types that they carry.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::body::{Error, JSON, LINES};
use super::routes::{self, Call, REFUSALS, Route};
use crate::output;

/// The document (OpenAPI 3.1.1) as JSON.
pub fn text() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| format!("{:#}\n", document()));
    &TEXT
}

/// `sluice openapi`: prints the document.
pub fn main() -> ExitCode {
    output::print(text());
    ExitCode::SUCCESS
}

fn document() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    settings.meta_schema = None;
    let mut generator = settings.into_generator();
    // In every refusal.
    generator.subschema_for::<Error>();
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for route in routes::all() {
        let operation = operation(route, &mut generator);
        paths.entry(route.path).or_default().insert(route.method.as_str().to_lowercase(), operation);
    }
    let mut paths: Map<String, Value> =
        paths.into_iter().map(|(path, operations)| (path.to_owned(), operations.into())).collect();
    let content = json!({ JSON: { "schema": { "type": "object" } } });
    let get = json!({
        "operationId": "getDocument",
        "summary": "This document (sluice openapi)",
        "responses": { "200": { "description": "The document", "content": content } },
    });
    paths.insert("/openapi.json".into(), json!({ "get": get }));
    let refusals: Map<_, _> =
        by_status(REFUSALS.iter()).into_iter().map(|(status, codes)| (status, refusal(&codes))).collect();
    json!({
        "openapi": "3.1.1",
        "info": {
            "title": "Sluice",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "The API of a Sluice director",
            "description": DESCRIPTION,
            "license": { "name": "Apache 2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{
            "url": "http://sluice",
            "description": "The director's Unix socket, /run/sluice/sluice.sock unless it is configured otherwise. \
                            The name of the host counts for nothing.",
        }],
        "security": [{}],
        "paths": paths,
        "components": { "schemas": generator.take_definitions(true), "responses": refusals },
    })
}

const DESCRIPTION: &str = "\
HTTP/1.1 on a Unix socket: `curl --unix-socket /run/sluice/sluice.sock http://sluice/v1/services`.

Root, the user that the director runs as and members of the group that `api_group` names may read and change everything; \
only the first two may take its place. Everybody else gets status 403.

What may be long is answered in lines of JSON (application/x-ndjson), each of which has the schema given. Empty lines mean nothing. \
Should such an answer fail in its middle, its last line is an object with the one member `error`, which is an Error. \
An answer that does not end as HTTP wants it is not whole.

Changes are answered once every worker forwards by them. Bodies are JSON whatever their Content-Type says, and of 1 MiB at most.";

fn operation(route: &Route, generator: &mut SchemaGenerator) -> Value {
    let calls: Vec<_> = (route.examples)().iter().filter_map(|request| (route.encode)(request)).collect();
    let mut operation = Map::new();
    operation.insert("operationId".into(), route.name.into());
    operation.insert("summary".into(), route.summary.into());
    let mut parameters: Vec<_> =
        route.placeholders().enumerate().map(|(place, name)| in_path(name, place, &calls)).collect();
    if let Some(query) = route.query {
        parameters.extend(in_query(query(generator).to_value(), &calls));
    }
    if !parameters.is_empty() {
        operation.insert("parameters".into(), parameters.into());
    }
    if let Some(body) = route.body {
        let example = |(place, call): (usize, &Call)| {
            let value = serde_json::from_slice::<Value>(&call.body).unwrap_or_default();
            (format!("example{}", place + 1), json!({ "value": value }))
        };
        let examples: Map<_, _> = calls.iter().enumerate().map(example).collect();
        let content = json!({ JSON: { "schema": body(generator), "examples": examples } });
        operation.insert("requestBody".into(), json!({ "required": true, "content": content }));
    }
    operation.insert("responses".into(), responses(route, generator).into());
    operation.into()
}

/// What stands for a placeholder.
fn in_path(name: &str, place: usize, calls: &[Call]) -> Value {
    let (description, schema) = match name {
        "kind" => (
            "The protocol of a service, or that it is one of a firewall mark, for IPv4 or IPv6",
            json!({ "type": "string", "enum": ["tcp", "udp", "sctp", "mark", "mark6"] }),
        ),
        "name" => (
            "ADDRESS:PORT of a service, an IPv6 address in (percent-encoded) brackets; port 0 stands for all. \
             Of a firewall mark, its number",
            json!({ "type": "string" }),
        ),
        "server" => (
            "ADDRESS:PORT of a real server, an IPv6 address in (percent-encoded) brackets",
            json!({ "type": "string" }),
        ),
        "address" => ("An IP address", json!({ "type": "string" })),
        "role" => ("Which sync daemon", json!({ "type": "string", "enum": ["master", "backup"] })),
        "number" => ("Its number in the list, from 1", json!({ "type": "integer", "minimum": 1 })),
        _ => ("", json!({ "type": "string" })),
    };
    let example = calls.first().and_then(|call| call.values.get(place)).map(|text| typed(text, &schema));
    json!({
        "name": name,
        "in": "path",
        "required": true,
        "description": description,
        "schema": schema,
        "example": example,
    })
}

/// The keys of a query, which are the members of an object.
fn in_query(query: Value, calls: &[Call]) -> Vec<Value> {
    let members = query["properties"].as_object().cloned().unwrap_or_default();
    let parameter = |(name, mut schema): (String, Value)| {
        let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
        let schema = without_null(schema);
        let mut parameter = json!({
            "name": name,
            "in": "query",
            "description": description,
            "schema": schema,
        });
        let given = calls.iter().find_map(|call| {
            let mut pairs = form_urlencoded::parse(call.query.as_bytes());
            pairs.find(|(key, _)| *key == name).map(|(_, value)| value.into_owned())
        });
        if let Some(text) = given {
            parameter["example"] = typed(&text, &schema);
        }
        parameter
    };
    members.into_iter().map(parameter).collect()
}

/// What is written in a path or query, as the type that it is of.
fn typed(text: &str, schema: &Value) -> Value {
    match schema["type"].as_str() {
        Some("integer" | "boolean") => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
        _ => text.into(),
    }
}

/// A key that may be left out cannot be null.
fn without_null(mut schema: Value) -> Value {
    let Some(members) = schema.as_object_mut() else { return schema };
    if let Some(any) = members.get_mut("anyOf").and_then(Value::as_array_mut) {
        any.retain(|one| one["type"] != "null");
        if let [one] = any.as_slice() {
            return one.clone();
        }
    }
    if let Some(kind) = members.get_mut("type")
        && let Some(kinds) = kind.as_array_mut()
    {
        kinds.retain(|one| one != "null");
        if let [one] = kinds.as_slice() {
            *kind = one.clone();
        }
    }
    if members.get("default").is_some_and(Value::is_null) {
        members.remove("default");
    }
    schema
}

fn responses(route: &Route, generator: &mut SchemaGenerator) -> Map<String, Value> {
    let mut content = Map::new();
    if let Some(one) = route.one {
        content.insert(JSON.into(), json!({ "schema": (one.schema)(generator) }));
    }
    if let Some(lines) = route.lines {
        content.insert(LINES.into(), json!({ "schema": (lines.schema)(generator) }));
    }
    let mut responses = Map::new();
    let (status, response) = match (route.upgrade, content.is_empty()) {
        (Some(protocol), _) => {
            let upgrade = json!({ "required": true, "schema": { "const": protocol } });
            let text = "It is granted; frames of the other protocol follow";
            ("101", json!({ "description": text, "headers": { "Upgrade": upgrade } }))
        }
        (None, true) => ("204", json!({ "description": "It is done" })),
        (None, false) => {
            let text = match route.lines {
                Some(_) if route.one.is_some() => "Any number of lines, or one document",
                Some(_) => "Any number of lines",
                None => "The document",
            };
            ("200", json!({ "description": text, "content": content }))
        }
    };
    responses.insert(status.into(), response);
    for (status, codes) in by_status(REFUSALS.iter().chain(route.refusals)) {
        let common = codes.iter().all(|code| REFUSALS.contains(code));
        let response = match common {
            true => json!({ "$ref": format!("#/components/responses/{status}") }),
            false => refusal(&codes),
        };
        responses.insert(status, response);
    }
    responses
}

fn by_status<'c>(codes: impl Iterator<Item = &'c &'static str>) -> BTreeMap<String, Vec<&'static str>> {
    let mut refusals: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for code in codes {
        refusals.entry(routes::status(code).as_str().to_owned()).or_default().push(code);
    }
    refusals
}

/// A refusal by one of these codes.
fn refusal(codes: &[&str]) -> Value {
    let schema = json!({
        "allOf": [{ "$ref": format!("#/components/schemas/{}", Error::schema_name()) }],
        "properties": { "code": { "enum": codes } },
    });
    json!({
        "description": format!("Refused, and nothing has changed: {}", codes.join(", ")),
        "content": { JSON: { "schema": schema } },
    })
}
