//! What the API is to those who speak HTTP.

use super::*;
use crate::api::routes;

fn get(director: &Running, target: &str) -> Raw {
    send(director, "GET", target, "")
}

fn send(director: &Running, method: &str, target: &str, body: &str) -> Raw {
    let length = body.len();
    let head =
        format!("{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}");
    ask(&director.connect(), format!("{head}\r\n\r\n{body}").as_bytes())
}

#[test]
fn services_and_servers_come_and_go() {
    let director = Running::start(|_| {});
    let service = r#"{"service":{"address":{"protocol":"tcp","address":"192.0.2.10","port":80}},
                      "settings":{"scheduler":"rr"}}"#;
    let path = "/v1/services/tcp/192.0.2.10:80";
    let server = r#"{"address":"10.0.2.1","port":8080,"method":"nat"}"#;
    let heavy = r#"{"address":"10.0.2.1","port":8080,"method":"nat","weight":9}"#;
    let servers = format!("{path}/servers");
    let at = format!("{servers}/10.0.2.1:8080");
    for (method, target, body, status, part) in [
        ("GET", "/v1/services", "", 200, ""),
        ("POST", "/v1/services", service, 204, ""),
        ("POST", "/v1/services", service, 409, "\"service_exists\""),
        ("GET", path, "", 200, r#""scheduler":"rr""#),
        ("GET", "/v1/services/tcp/192.0.2.10:81", "", 404, "\"no_such_service\""),
        ("GET", "/v1/services/tcp/192.0.2.10", "", 400, "tcp/ADDRESS:PORT"),
        ("PUT", path, r#"{"scheduler":"no-such"}"#, 422, "\"scheduler_not_found\""),
        ("PUT", path, r#"{"scheduler":"wrr","persistence":60}"#, 204, ""),
        ("POST", &servers, server, 204, ""),
        ("POST", &servers, server, 409, "\"server_exists\""),
        ("GET", "/v1/services", "", 200, r#""weight":1"#),
        ("PUT", &at, heavy, 204, ""),
        ("PUT", &format!("{servers}/10.0.2.9:8080"), heavy, 400, "the path names server 10.0.2.9:8080"),
        ("GET", path, "", 200, r#""weight":9"#),
        ("POST", "/v1/services/tcp/192.0.2.10:80/zero", "", 204, ""),
        ("POST", "/v1/services/zero", "", 204, ""),
        ("DELETE", &at, "", 204, ""),
        ("DELETE", &at, "", 404, "\"no_such_server\""),
        ("DELETE", path, "", 204, ""),
        ("DELETE", "/v1/services", "", 204, ""),
    ] {
        let answer = send(&director, method, target, body);
        assert_eq!(answer.status, status, "{method} {target}: {answer:?}");
        assert!(answer.body.contains(part), "{method} {target}: {answer:?}");
        let kind = match (status, target) {
            (204, _) => "",
            (200, "/v1/services") => "content-type: application/x-ndjson\r\n",
            _ => "content-type: application/json\r\n",
        };
        assert!(answer.headers.contains(kind), "{method} {target}: {answer:?}");
    }
}

#[test]
fn ipv6_is_written_with_or_without_percent_signs() {
    let director = Running::start(|_| {});
    let service = r#"{"service":{"address":{"protocol":"udp","address":"2001:db8::1","port":53}},
                      "settings":{"scheduler":"rr","one_packet":true}}"#;
    assert_eq!(send(&director, "POST", "/v1/services", service).status, 204);
    let mark =
        r#"{"service":{"mark":{"mark":7,"family":"ipv6"}},"settings":{"scheduler":"rr","persistence":9}}"#;
    assert_eq!(send(&director, "POST", "/v1/services", mark).status, 204);
    for path in
        ["udp/[2001:db8::1]:53", "udp/%5B2001:db8::1%5D:53", "udp/%5b2001%3Adb8%3A%3A1%5d%3a53", "mark6/7"]
    {
        let answer = get(&director, &format!("/v1/services/{path}"));
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert!(answer.body.contains(r#""granularity":{"prefix":128}"#), "{answer:?}");
    }
    assert_eq!(get(&director, "/v1/services/mark/7").status, 404, "that is the one of IPv4");
}

#[test]
fn what_is_not_there_and_what_is_misused_is_said() {
    let director = Running::start(|_| {});
    for (method, target, body, status, part) in [
        ("GET", "/", "", 404, "/openapi.json"),
        ("GET", "/v1", "", 404, "no_such_resource"),
        ("GET", "/v1/services/", "", 404, "no_such_resource"),
        ("GET", "/v1//services", "", 404, "no_such_resource"),
        ("GET", "/v1/services/../status", "", 400, "cannot name a service"),
        ("GET", "/../../etc/passwd", "", 404, "no_such_resource"),
        ("GET", "/v1/%2e%2e/status", "", 404, "no_such_resource"),
        ("GET", "/v1/services/tcp/%ff", "", 400, "UTF-8"),
        ("PATCH", "/v1/services", "", 405, "GET, POST, DELETE"),
        ("GET", "/v1/services/zero", "", 405, "POST"),
        ("OPTIONS", "*", "", 404, "no_such_resource"),
        ("GET", "/v1/status", "{}", 400, "takes no body"),
        ("GET", "/v1/status?x=1", "", 400, "takes no query"),
        ("GET", "/v1/connections?clinet=192.0.2.1", "", 400, "unknown field `clinet`"),
        ("GET", "/v1/connections?client=nobody", "", 400, "is no address"),
        ("GET", "/v1/connections?limit=-1", "", 400, "invalid digit"),
        ("GET", "/v1/connections?state=OPEN", "", 400, "there is no state"),
        ("GET", "/v1/events?kind=weather", "", 400, "unknown variant `weather`"),
        ("POST", "/v1/services", "", 400, "needs a body"),
        ("POST", "/v1/services", "{", 400, "EOF while parsing"),
        ("POST", "/v1/services", "{\"service\":1}", 400, "the body: "),
        ("PUT", "/v1/role", r#"{"role":"active","extra":1}"#, 400, "unknown field `extra`"),
        ("DELETE", "/v1/marks/first", "", 400, "is not the number of a mark rule"),
        ("DELETE", "/v1/marks/7", "", 404, "mark_number"),
        ("DELETE", "/v1/daemons/slave", "", 400, "either master or backup"),
        ("DELETE", "/v1/daemons/master", "", 404, "no_daemon"),
        ("POST", "/v1/takeover", r#"{"interfaces":["eth0"]}"#, 426, "sluice-takeover"),
        ("POST", "/v1/reload", "", 409, "no_configuration"),
    ] {
        let answer = send(&director, method, target, body);
        assert_eq!(answer.status, status, "{method} {target}: {answer:?}");
        let error: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        assert!(error["code"].is_string() && error["message"].is_string(), "{error}");
        assert!(answer.body.contains(part), "{method} {target}: {answer:?}");
    }
}

#[test]
fn connections_are_looked_for_and_counted() {
    let director = Running::start(|plane| {
        *plane.slices.borrow_mut() = vec![vec![connection(1, "ESTABLISHED"), connection(2, "CLOSE")]; 3];
    });
    let lines = |target: &str| {
        let answer = get(&director, target);
        assert_eq!(answer.status, 200, "{answer:?}");
        // Each chunk has its length in a line before it, and an empty line after it.
        answer.body.lines().filter(|line| line.starts_with('{')).count()
    };
    assert_eq!(lines("/v1/connections"), 6);
    assert_eq!(lines("/v1/connections?state=CLOSE&limit=2"), 2);
    assert_eq!(lines("/v1/connections?client=198.51.100.1"), 3);
    assert_eq!(get(&director, "/v1/connections?count").body, "{\"count\":6}\n");
    assert_eq!(get(&director, "/v1/connections?count=true&state=CLOSE").body, "{\"count\":3}\n");
}

#[test]
fn requests_follow_one_another_on_a_connection() {
    let director = Running::start(|_| {});
    let stream = director.connect();
    for _ in 0..3 {
        assert_eq!(ask(&stream, FLUSH).status, 204);
        let answer = ask(&stream, b"GET /v1/role HTTP/1.1\r\n\r\n");
        assert_eq!((answer.status, answer.body.as_str()), (200, "{\"role\":\"active\"}\n"));
    }
}

#[test]
fn every_request_survives_its_way() {
    let mut names = Vec::new();
    for route in routes::all() {
        let examples = (route.examples)();
        assert!(!examples.is_empty(), "{}", route.name);
        for request in examples {
            let (by, call) = routes::encode(&request).unwrap();
            assert_eq!(by.name, route.name, "{request:?}");
            let target = call.target(route);
            let (path, query) = target.split_once('?').map_or((&*target, None), |(p, q)| (p, Some(q)));
            let (found, values) = routes::find(&route.method, path).unwrap();
            assert_eq!(found.name, route.name, "{target}");
            let again = routes::Call::from_parts(&values, query, call.body.clone()).unwrap();
            assert_eq!((found.decode)(&again).unwrap(), request, "{target}");
        }
        names.push(route.name);
    }
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), routes::all().count(), "names differ");
}
