//! The OpenAPI document is valid, whole, and says what is.

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;
use crate::api::{openapi, routes};

fn document() -> Value {
    serde_json::from_str(openapi::text()).unwrap()
}

/// Validates against a schema of the document.
fn validator(document: &Value, schema: &Value) -> jsonschema::Validator {
    // References are into the document, so that it is the schema's root.
    let mut root = document.clone();
    root["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    root["allOf"] = serde_json::json!([schema]);
    jsonschema::options().build(&root).unwrap()
}

#[test]
fn the_one_that_is_checked_in_is_that_of_the_program() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(&path, openapi::text()).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(there == openapi::text(), "make it anew: UPDATE_OPENAPI=1 cargo test -p sluice-control document");
    let director = Running::start(|_| {});
    let served = ask(&director.connect(), b"GET /openapi.json HTTP/1.1\r\n\r\n");
    assert_eq!((served.status, served.body.as_str()), (200, openapi::text()));
}

#[test]
fn it_is_an_openapi_document() {
    let spec = oas3::from_json(openapi::text()).unwrap();
    assert!(spec.openapi.starts_with("3.1."));
    for (path, method, operation) in spec.operations() {
        assert!(operation.summary.is_some(), "{method} {path}");
        for parameter in operation.parameters(&spec).unwrap() {
            assert!(parameter.description.is_some_and(|text| !text.is_empty()), "{method} {path}");
        }
        assert!(!operation.responses(&spec).is_empty(), "{method} {path}");
    }
    // All that is referred to is there, and every schema is one.
    let document = document();
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(document.pointer(reference).is_some(), "{reference}");
    }
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        assert!(jsonschema::draft202012::meta::is_valid(schema), "{name}");
        validator(&document, schema);
    }
}

#[test]
fn every_route_is_in_it_and_nothing_else() {
    let document = document();
    let mut said = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        said.extend(
            operations.as_object().unwrap().keys().map(|method| (method.to_uppercase(), path.clone())),
        );
    }
    let there = routes::all().map(|route| (route.method.to_string(), route.path.to_owned()));
    let document = [("GET".to_owned(), "/openapi.json".to_owned())];
    assert_eq!(said, there.chain(document).collect());
}

#[test]
fn its_examples_are_understood_and_valid() {
    let document = document();
    let mut number = 0;
    for route in routes::all() {
        let operation = &document["paths"][route.path][route.method.as_str().to_lowercase()];
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        for parameter in parameters.iter().filter(|parameter| !parameter["example"].is_null()) {
            let example = &parameter["example"];
            assert!(
                validator(&document, &parameter["schema"]).is_valid(example),
                "{}: {parameter}",
                route.name
            );
        }
        let content = &operation["requestBody"]["content"]["application/json"];
        assert_eq!(content.is_null(), route.body.is_none(), "{}", route.name);
        if content.is_null() {
            continue;
        }
        let validator = validator(&document, &content["schema"]);
        let examples = content["examples"].as_object().cloned().unwrap_or_default();
        let calls: Vec<_> = (route.examples)().iter().filter_map(|request| (route.encode)(request)).collect();
        for (place, example) in examples.values().enumerate() {
            let body = &example["value"];
            assert!(validator.is_valid(body), "{}: {body}", route.name);
            let call = routes::Call { body: body.to_string().into_bytes(), ..calls[place].clone() };
            assert_eq!((route.decode)(&call).unwrap(), (route.examples)()[place], "{}", route.name);
            number += 1;
        }
    }
    assert!(number > 10);
}

#[test]
fn what_is_answered_is_what_it_says() {
    let director = Running::start(|plane| {
        *plane.slices.borrow_mut() = vec![vec![connection(1, "ESTABLISHED"), connection(2, "CLOSE")]];
    });
    let client = director.client();
    for request in routes::all()
        .filter(|route| route.method != hyper::Method::DELETE)
        .flat_map(|route| (route.examples)())
    {
        // Those of GET come to nothing without these.
        if !request.only_asks() && !matches!(request, Request::TakeOver { .. }) {
            let _ = client.call(&request);
        }
    }
    let document = document();
    let mut validated = 0;
    for route in routes::all() {
        let responses = &document["paths"][route.path][route.method.as_str().to_lowercase()]["responses"];
        for request in (route.examples)() {
            if matches!(request, Request::Events { follow: true, .. } | Request::TakeOver { .. }) {
                continue;
            }
            let (_, call) = routes::encode(&request).unwrap();
            let body = String::from_utf8(call.body.clone()).unwrap();
            let (method, target, length) = (&route.method, call.target(route), body.len());
            let head = format!("{method} {target} HTTP/1.0\r\ncontent-length: {length}\r\n\r\n{body}");
            let answer = ask(&director.connect(), head.as_bytes());
            let mut response = &responses[answer.status.to_string()];
            if let Some(reference) = response["$ref"].as_str() {
                response = document.pointer(&reference[1..]).unwrap();
            }
            assert!(!response.is_null(), "{method} {target} has no such status: {answer:?}");
            let Some(content) = response["content"].as_object() else { continue };
            let (kind, content) = content
                .iter()
                .find(|(kind, _)| answer.headers.contains(&format!("content-type: {kind}\r\n")))
                .unwrap_or_else(|| panic!("{method} {target}: {answer:?}"));
            let validator = validator(&document, &content["schema"]);
            let parts: Vec<&str> = match kind.as_str() {
                "application/x-ndjson" => answer.body.lines().collect(),
                _ => vec![&answer.body],
            };
            for part in parts {
                let value = serde_json::from_str(part).unwrap();
                let errors: Vec<_> = validator.iter_errors(&value).map(|error| error.to_string()).collect();
                assert!(errors.is_empty(), "{method} {target}: {part}: {errors:?}");
                validated += 1;
            }
        }
    }
    assert!(validated > 20, "{validated}");
}
