//! Clients that mean no good: each is bounded, and others are answered meanwhile.

use std::time::Instant;

use super::*;
use crate::api::access::Access;
use crate::api::conversation::{MAX_HEAD, MAX_HEADERS, Patience, attend};

/// Others are still answered.
fn is_well(director: &Running) {
    assert_eq!(director.client().call(&Request::Role).unwrap(), Answer::Role(Role::Active));
}

/// Whether the director closes the connection, without waiting long.
fn is_closed(mut stream: &UnixStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut rest = [0; 4096];
    loop {
        match stream.read(&mut rest) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

#[test]
fn what_is_not_http_is_refused() {
    let director = Running::start(|_| {});
    for bytes in [
        &b"\"flush\"\n\r\n\r\n"[..],
        b"GET /v1/services\r\n\r\n",
        b"GET /v1/services HTTP/0.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /v1/services HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /v1/services HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"GET /v1/services HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/services HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n",
        b"\0\0\0\0\xff\xff\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ] {
        let stream = director.connect();
        let answer = ask(&stream, bytes);
        assert!(answer.status == 400 || answer.status == 0, "{:?}: {answer:?}", bytes.escape_ascii());
        assert!(is_closed(&stream), "{:?}", bytes.escape_ascii());
    }
    is_well(&director);
}

#[test]
fn heads_without_end_are_cut_off() {
    let director = Running::start(|_| {});
    let many: String = (0..=MAX_HEADERS).map(|number| format!("x-{number}: y\r\n")).collect();
    let answer = ask(&director.connect(), format!("GET /v1/role HTTP/1.1\r\n{many}\r\n").as_bytes());
    assert_eq!(answer.status, 431, "{answer:?}");
    for start in ["GET /v1/role HTTP/1.1\r\nx: ", "GET /", "G"] {
        let mut stream = director.connect();
        stream.write_all(start.as_bytes()).unwrap();
        let mut sent = 0;
        // Until the director has had enough.
        while let Ok(count) = stream.write(&[b'x'; 4096]) {
            sent += count;
            assert!(sent < 8 * MAX_HEAD + 4_000_000, "{start:?} goes on");
        }
        is_well(&director);
    }
}

#[test]
fn bodies_without_end_are_cut_off() {
    let director = Running::start(|_| {});
    let long = format!("POST /v1/services HTTP/1.1\r\ncontent-length: {}\r\n\r\n", MAX_REQUEST + 1);
    let answer = ask(&director.connect(), long.as_bytes());
    assert_eq!(answer.status, 413, "before it is sent: {answer:?}");
    assert!(answer.body.contains("request_too_long"), "{answer:?}");

    let mut stream = director.connect();
    stream.write_all(b"POST /v1/services HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
    let chunk = [&b"1000\r\n"[..], &[b' '; 4096], b"\r\n"].concat();
    let mut sent = 0;
    while stream.write_all(&chunk).is_ok() {
        sent += 4096;
        assert!(sent < 3 * MAX_REQUEST, "it goes on");
    }
    // What was answered is lost where the director closed while this was being sent.
    is_well(&director);

    for garbage in ["zzzz\r\n", "-1\r\n", "ffffffffffffffffff\r\nx", "1\r\nabc"] {
        let stream = director.connect();
        let head = "POST /v1/services HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";
        let answer = ask(&stream, format!("{head}{garbage}").as_bytes());
        assert!(answer.status == 400 || answer.status == 0, "{garbage:?}: {answer:?}");
    }
    is_well(&director);
}

#[test]
fn json_is_bounded_in_depth_and_taken_for_what_it_is() {
    let director = Running::start(|_| {});
    let deep = |open: &str, number: usize| open.repeat(number);
    for body in [deep("[", 500_000), deep("{\"service\":", 80_000), deep("{\"a\":[", 100_000)] {
        let length = body.len();
        let request = format!("POST /v1/services HTTP/1.1\r\ncontent-length: {length}\r\n\r\n{body}");
        let answer = ask(&director.connect(), request.as_bytes());
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(answer.body.len() < 1000, "{answer:?}");
    }
    is_well(&director);
}

#[test]
fn requests_in_a_row_are_answered_in_order() {
    let director = Running::start(|_| {});
    let stream = director.connect();
    const NUMBER: usize = 500;
    let requests = b"GET /v1/role HTTP/1.1\r\n\r\n".repeat(NUMBER);
    let writer = thread::spawn({
        let mut stream = stream.try_clone().unwrap();
        move || {
            stream.write_all(&requests).unwrap();
            stream.write_all(b"GET /v1/nothing HTTP/1.1\r\nconnection: close\r\n\r\n").unwrap();
        }
    });
    let mut all = String::new();
    (&stream).read_to_string(&mut all).unwrap();
    writer.join().unwrap();
    assert_eq!(all.matches("200 OK").count(), NUMBER);
    assert!(all.rfind("404 Not Found") > all.rfind("200 OK"));
}

#[test]
fn who_ends_his_own_side_is_still_answered() {
    let director = Running::start(|_| {});
    let mut stream = director.connect();
    stream.write_all(b"GET /v1/role HTTP/1.1\r\n\r\n").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(answer(&stream).status, 200);
    assert!(is_closed(&stream));
}

#[test]
fn who_leaves_in_the_middle_leaves_the_rest_undisturbed() {
    let director = Running::start(|plane| {
        *plane.slices.borrow_mut() = vec![vec![connection(1, "ESTABLISHED"); 500]; 20];
    });
    for _ in 0..3 * MAX_CLIENTS {
        let mut stream = director.connect();
        stream.write_all(b"GET /v1/connections HTTP/1.1\r\n\r\n").unwrap();
        let mut some = [0; 100];
        assert!(stream.read(&mut some).unwrap() > 0);
        drop(stream);
        let mut stream = director.connect();
        stream.write_all(b"POST /v1/services HTTP/1.1\r\ncontent-length: 100\r\n\r\n{").unwrap();
    }
    // The director notices that they left as it comes by.
    let begun = Instant::now();
    while director.client().call(&Request::Role).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(30));
        thread::yield_now();
    }
}

#[test]
fn a_listing_of_a_million_is_made_no_faster_than_it_is_read() {
    let made = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = std::sync::Arc::clone(&made);
    let director = Running::start(move |plane| {
        *plane.endless.borrow_mut() = Some((vec![connection(1, "ESTABLISHED"); 1_000], counter));
    });
    let mut stream = director.connect();
    stream.write_all(b"GET /v1/connections?limit=1000000 HTTP/1.1\r\n\r\n").unwrap();
    let mut some = [0; 100];
    assert!(stream.read(&mut some).unwrap() > 0);
    for port in 1..=50 {
        assert_eq!(director.client().call(&add(port)).unwrap(), Answer::Done);
    }
    let slices = made.load(std::sync::atomic::Ordering::Relaxed);
    assert!(slices < 30, "{slices} slices were made for a reader of none");
    is_well(&director);
}

#[test]
fn whoever_is_slow_is_let_go() {
    let short = Duration::from_millis(100);
    let patience = Patience { head: short, body: short, write: short };
    let director = Director::new(Rules::new(1), FakePlane::default());
    *director.plane().slices.borrow_mut() = vec![vec![connection(1, "ESTABLISHED"); 100]; 100];
    for (said, status) in [
        ("", ""),
        ("GET /v1/ro", ""),
        ("GET /v1/role HTTP/1.1\r\nx: ", ""),
        ("GET /v1/role HTTP/1.1\r\n\r\n", "HTTP/1.1 200"),
        ("POST /v1/services HTTP/1.1\r\ncontent-length: 100\r\n\r\n{", "HTTP/1.1 408"),
        // More than a socket holds.
        ("GET /v1/connections HTTP/1.1\r\n\r\n", "HTTP/1.1 200"),
    ] {
        let (mut client, server) = UnixStream::pair().unwrap();
        client.write_all(said.as_bytes()).unwrap();
        server.set_nonblocking(true).unwrap();
        runtime().block_on(async {
            let server = tokio::net::UnixStream::from_std(server).unwrap();
            let attended = attend(&director, server, Access::Owner, patience);
            tokio::time::timeout(Duration::from_secs(30), attended)
                .await
                .unwrap_or_else(|_| panic!("{said:?}"));
        });
        // What was sent until then.
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer);
        assert!(String::from_utf8_lossy(&answer).starts_with(status), "{said:?}");
    }
}
