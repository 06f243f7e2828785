//! What is answered, and what hostile clients get.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use super::server::{MAX_FROM_ONE, MAX_HEADER};
use super::*;
use crate::observe::sample::Sample;

/// A server on a port of its own, in a thread.
struct Running {
    sample: Sample,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn new(sample: Sample, patience: Patience) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = std::sync::mpsc::channel();
        let observatory = Arc::clone(&sample.observatory);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let address = listener.local_addr().unwrap();
                tell.send(address).unwrap();
                let hosts = vec!["d1.example".to_owned()];
                let server = Server::new(observatory, address, hosts, patience);
                tokio::select! {
                    () = server.run(listener) => {}
                    _ = stopped => {}
                }
            });
            runtime.shutdown_background();
        });
        Running { sample, address: told.recv().unwrap(), stop: Some(stop), thread: Some(thread) }
    }

    fn start() -> Self {
        Running::new(Sample::new(3, 2), Patience::default())
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// All that is answered to some bytes.
    fn say(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        // It may be closed before all was sent.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }

    fn ask(&self, method: &str, path: &str) -> String {
        self.say(
            format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes(),
        )
    }

    fn get(&self, path: &str) -> String {
        let answer = self.ask("GET", path);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{path}: {head}");
        body.to_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
}

#[test]
fn the_page_is_whole_and_needs_nothing_from_elsewhere() {
    let running = Running::start();
    let answer = running.ask("GET", "/").to_lowercase();
    for header in [
        "content-type: text/html; charset=utf-8",
        "content-security-policy: default-src 'none'; script-src 'self'",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
    ] {
        assert!(answer.contains(header), "{header}: {answer}");
    }
    let mut seen = Vec::new();
    let mut wanted = vec!["/".to_owned()];
    while let Some(path) = wanted.pop() {
        let text = running.get(&path).replace("http://www.w3.org/2000/svg", "");
        assert!(!text.contains("http:") && !text.contains("https:"), "{path} names another place");
        assert!(!text.contains("innerHTML") && !text.contains(" style="), "{path}");
        let quoted =
            text.split('"').filter(|q| q.ends_with(".js") || q.ends_with(".css") || q.ends_with(".svg"));
        wanted.extend(quoted.map(|q| format!("/{}", q.trim_start_matches("./").trim_start_matches('/'))));
        seen.push(path);
        wanted.retain(|path| !seen.contains(path));
    }
    seen.sort();
    assert_eq!(seen, ["/", "/favicon.svg", "/format.js", "/page.js", "/plot.js", "/style.css"]);
}

#[test]
fn data_is_json() {
    let running = Running::start();
    running.sample.fail();
    let json = |path: &str| serde_json::from_str::<serde_json::Value>(&running.get(path)).unwrap();
    let overview = json("/api/overview?open=tcp+192.0.2.10%3A1&sort=name&limit=2&points=5");
    assert_eq!(overview["services"]["total"], 3);
    assert_eq!(overview["services"]["list"].as_array().unwrap().len(), 2);
    assert_eq!(overview["services"]["list"][0]["list"][0]["health"]["reason"], "status 503");
    let events = json("/api/events?after=0");
    assert_eq!(events["events"][0]["kind"], "health");
    assert_eq!(json("/api/events?after=1")["events"], serde_json::json!([]));
    for path in
        ["/api/overview?limit=x", "/api/overview?colour=red", "/api/events?after=-1", "/metrics?servers=1"]
    {
        assert_eq!(status(&running.ask("GET", path)), 400, "{path}");
    }
    for path in ["/nothing", "/../etc/passwd", "//", "/metrics/"] {
        assert_eq!(status(&running.ask("GET", path)), 404, "{path}");
    }
    assert!(running.get("/metrics").contains("sluice_service_info{"));
    assert!(!running.get("/metrics?servers=no").contains("sluice_server_weight{"));
}

#[test]
fn nothing_can_be_changed() {
    let running = Running::start();
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"] {
        let answer = running.ask(method, "/api/overview");
        assert_eq!(status(&answer), 405, "{method}: {answer}");
        assert!(answer.to_lowercase().contains("allow: get, head"), "{answer}");
    }
    let head = running.ask("HEAD", "/");
    assert_eq!((status(&head), head.split_once("\r\n\r\n").unwrap().1), (200, ""));
    let body = "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\nxxxx";
    let answer = running.say(body.as_bytes());
    assert_eq!(status(&answer), 413, "{answer}");
    assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
}

/// A page of another name that is made to lead here must not read this one.
#[test]
fn browsers_have_to_mean_it() {
    let running = Running::start();
    for (host, expected) in [
        ("localhost:9180", 200),
        ("LOCALHOST", 200),
        ("127.0.0.1:9180", 200),
        ("[::1]:9180", 200),
        ("192.0.2.1", 200),
        ("d1.example:9180", 200),
        ("evil.example", 421),
        ("localhost.evil.example:9180", 421),
        ("", 421),
    ] {
        let answer =
            running.say(format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes());
        assert_eq!(status(&answer), expected, "{host}");
    }
}

#[test]
fn garbage_and_endless_headers_are_refused() {
    let running = Running::start();
    let long = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(2 * MAX_HEADER));
    let many = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "a: b\r\n".repeat(500));
    for bytes in [&b"\x16\x03\x01\x02\x00\x01\x00"[..], b"nonsense\r\n\r\n", long.as_bytes(), many.as_bytes()]
    {
        let answer = running.say(bytes);
        assert!(answer.is_empty() || (400..500).contains(&status(&answer)), "{answer}");
    }
    assert_eq!(status(&running.ask("GET", "/")), 200);
}

#[test]
fn who_says_nothing_is_not_waited_for() {
    let patience = Patience { request: Duration::from_millis(200), ..Patience::default() };
    let running = Running::new(Sample::new(1, 1), patience);
    let begins = ["", "GET / HT", "GET / HTTP/1.1\r\nHost: localhost\r\nX: "];
    let mut slow: Vec<_> = begins
        .map(|begin| {
            let mut stream = running.connect();
            stream.write_all(begin.as_bytes()).unwrap();
            stream
        })
        .into();
    // After an answer there is no more patience than before it.
    let mut idle = running.connect();
    idle.write_all(b"GET /favicon.svg HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    slow.push(idle);
    for stream in &mut slow {
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
        }
    }
}

#[test]
fn one_too_many_is_closed_and_gets_a_place_later() {
    let running = Running::start();
    let mut open: Vec<_> = (0..MAX_FROM_ONE).map(|_| running.connect()).collect();
    // Each is accepted for sure once it was answered.
    for stream in &mut open {
        stream.write_all(b"GET /favicon.svg HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        assert!(stream.read(&mut [0; 64]).unwrap() > 0);
    }
    assert_eq!(running.ask("GET", "/"), "");
    drop(open);
    let deadline = Instant::now() + Duration::from_secs(10);
    while status(&running.ask("GET", "/")) != 200 {
        assert!(Instant::now() < deadline, "places do not come back");
        thread::yield_now();
    }
}

/// Neither a scrape that is not read, nor another one, keeps the page from
/// being shown; and in the end its place is free again.
#[test]
fn a_scrape_that_nobody_reads_ends() {
    let patience = Patience { write: Duration::from_millis(500), ..Patience::default() };
    let running = Running::new(Sample::new(20_000, 2), patience);
    let scrape = || {
        let mut stream = running.connect();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        assert!(stream.read(&mut [0; 64]).unwrap() > 0);
        stream
    };
    let unread = [scrape(), scrape()];
    let third = running.ask("GET", "/metrics");
    assert_eq!(status(&third), 503, "{}", &third[..third.len().min(200)]);
    assert_eq!(status(&running.ask("GET", "/api/overview")), 200);
    let deadline = Instant::now() + Duration::from_secs(20);
    while status(&running.ask("HEAD", "/metrics")) != 200 {
        assert!(Instant::now() < deadline, "scrapes that are not read do not end");
        thread::yield_now();
    }
    drop(unread);
}
