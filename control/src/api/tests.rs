//! The socket, its limits, and what is answered.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use sluice_dataplane::conn::ConnectionRecord;
use sluice_dataplane::service::{Method, Protocol};
use sluice_dataplane::wire::Address;
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::fake::FakePlane;
use super::*;
use crate::role::Role;
use crate::rules::{self, Family, Rules, ServiceName, ServiceSettings};

mod document;
mod hostile;
mod http;

const FLUSH: &[u8] = b"DELETE /v1/services HTTP/1.1\r\n\r\n";

/// A director in a thread of its own, on a socket in a temporary directory.
struct Running {
    socket: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    _directory: TempDir,
}

impl Running {
    fn start(prepare: impl FnOnce(&FakePlane) + Send + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("run/sluice.sock");
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = mpsc::channel();
        let path = socket.clone();
        let thread = thread::spawn(move || {
            let plane = FakePlane::default();
            prepare(&plane);
            runtime().block_on(async {
                let director = Director::new(Rules::new(1), plane);
                let listener = Listener::bind(&path).unwrap();
                ready.send(()).unwrap();
                tokio::select! {
                    () = serve(director, listener) => {}
                    _ = stopped => {}
                }
            });
        });
        is_ready.recv().unwrap();
        Running { socket, stop: Some(stop), thread: Some(thread), _directory: directory }
    }

    fn client(&self) -> Client {
        Client::new(Some(&self.socket))
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.socket).unwrap()
    }

    fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

fn connection(client: u8, state: &'static str) -> ConnectionRecord {
    ConnectionRecord {
        protocol: Protocol::Tcp,
        expires: 900,
        state,
        client: (Address::from_v4([198, 51, 100, client]), 40_000),
        service: (Address::from_v4([192, 0, 2, 10]), 80),
        local: None,
        server: (Address::from_v4([10, 0, 2, 1]), 80),
        method: Method::Nat,
        any_protocol: false,
        mark: None,
        engine: None,
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn service(port: u16) -> ServiceName {
    ServiceName::Address { protocol: rules::Protocol::Tcp, address: [192, 0, 2, 10].into(), port }
}

fn add(port: u16) -> Request {
    Request::AddService { service: service(port), settings: ServiceSettings::plain("rr", Family::Ipv4) }
}

/// An answer as it is on the wire.
#[derive(Debug)]
struct Raw {
    status: u16,
    headers: String,
    body: String,
}

/// Sends this and reads one answer that has a length, or as much as comes until
/// the director closes.
fn ask(mut stream: &UnixStream, request: &[u8]) -> Raw {
    // It fails when the director closes, which its answer is about.
    let _ = stream.write_all(request);
    answer(stream)
}

fn answer(stream: &UnixStream) -> Raw {
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut reader = BufReader::new(stream);
    let (mut headers, mut line) = (String::new(), String::new());
    while reader.read_line(&mut line).unwrap_or(0) > 2 {
        headers.push_str(&line.to_ascii_lowercase());
        line.clear();
    }
    let status = headers.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
    let length = headers.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let mut body = String::new();
    let _ = match length {
        Some(length) => (&mut reader).take(length).read_to_string(&mut body),
        None if status == 204 => Ok(0),
        None => reader.read_to_string(&mut body),
    };
    Raw { status, headers, body }
}

#[test]
fn changes_are_published_and_refusals_are_told_apart() {
    let director = Running::start(|_| {});
    let client = director.client();
    assert_eq!(client.call(&add(80)).unwrap(), Answer::Done);
    match client.call(&add(80)).unwrap_err() {
        ClientError::Refused { code, message } => {
            assert_eq!((code.as_str(), message.as_str()), ("service_exists", "Service already exists"));
        }
        other => panic!("{other}"),
    }
    assert_eq!(client.call(&Request::Role).unwrap(), Answer::Role(Role::Active));
    assert_eq!(client.call(&Request::SetRole { role: Role::Backup }).unwrap(), Answer::Done);
    assert_eq!(client.call(&Request::Role).unwrap(), Answer::Role(Role::Backup));

    let status = client.call(&Request::Status).unwrap();
    assert_eq!(status, Answer::Status(serde_json::json!({ "generation": 1 })), "a refusal publishes nothing");
    let mut listed = Vec::new();
    let end = client.call_parts(&Request::Services { service: None }, |part| {
        listed.push(part);
        Ok(())
    });
    assert_eq!((end.unwrap(), listed.len()), (Answer::Done, 1));
}

#[test]
fn the_socket_is_private_and_goes_at_the_end() {
    let mut director = Running::start(|_| {});
    let mode = director.socket.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    director.stop();
    assert!(!director.socket.exists());
    match director.client().call(&Request::Status) {
        Err(error @ ClientError::NoDirector { .. }) => {
            let text = error.to_string();
            assert!(
                text.contains(director.socket.to_str().unwrap()) && text.contains("sluice run"),
                "{text}"
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_live_socket_is_refused_a_stale_one_replaced_and_a_file_left_alone() {
    let director = Running::start(|_| {});
    let runtime = runtime();
    let _inside = runtime.enter();
    let bind = |path: &Path| Listener::bind(path);
    let error = bind(&director.socket).unwrap_err();
    assert!(matches!(&error, BindError::InUse(path) if *path == director.socket), "{error}");
    assert_eq!(director.client().call(&add(80)).unwrap(), Answer::Done, "it is unharmed");

    let directory = tempfile::tempdir().unwrap();
    let stale = directory.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    assert!(stale.exists());
    let listener = bind(&stale).unwrap();
    assert!(UnixStream::connect(listener.path()).is_ok());

    let file = directory.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(matches!(bind(&file), Err(BindError::NotASocket(_))));
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
}

#[test]
fn a_socket_that_was_replaced_is_not_removed() {
    let runtime = runtime();
    let _inside = runtime.enter();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sluice.sock");
    let first = Listener::bind(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let second = Listener::bind(&path).unwrap();
    drop(first);
    assert!(path.exists());
    drop(second);
    assert!(!path.exists());
}

#[test]
fn a_client_that_hangs_does_not_hold_up_others() {
    let director = Running::start(|plane| {
        *plane.slices.borrow_mut() = vec![vec![connection(1, "ESTABLISHED"); 5_000]; 20];
    });
    // One asks for megabytes and reads nothing, one stops in mid-request.
    let mut greedy = director.connect();
    greedy.write_all(b"GET /v1/connections HTTP/1.1\r\n\r\n").unwrap();
    let mut silent = director.connect();
    silent.write_all(b"DELETE /v1/ser").unwrap();
    for port in 1..=20 {
        assert_eq!(director.client().call(&add(port)).unwrap(), Answer::Done);
    }
    let mut count = 0;
    director
        .client()
        .call_parts(&Request::connections(), |part| {
            let Answer::Connections(slice) = part else { panic!("{part:?}") };
            count += slice.len();
            Ok(())
        })
        .unwrap();
    assert_eq!(count, 100_000);
}

#[test]
fn clients_above_the_limit_are_turned_away() {
    let director = Running::start(|_| {});
    let held: Vec<_> = (0..MAX_CLIENTS)
        .map(|_| {
            let stream = director.connect();
            assert_eq!(ask(&stream, FLUSH).status, 204);
            stream
        })
        .collect();
    match director.client().call(&Request::Flush) {
        Err(ClientError::Refused { code, .. }) => assert_eq!(code, "too_many_clients"),
        other => panic!("{other:?}"),
    }
    drop(held);
    // The director notices that they left as it comes by.
    while director.client().call(&Request::Flush).is_err() {
        thread::yield_now();
    }
}

#[test]
fn a_change_is_answered_once_the_workers_have_it() {
    runtime().block_on(async {
        let director = Director::new(Rules::new(1), FakePlane::default());
        director.plane().stuck_at.set(Some(0));
        let changed = Rc::new(std::cell::Cell::new(false));
        let change = async {
            director
                .change(|rules| rules.add_service(service(80), ServiceSettings::plain("rr", Family::Ipv4)))
                .await
                .unwrap();
            changed.set(true);
        };
        let release = async {
            for _ in 0..100 {
                tokio::task::yield_now().await;
                assert!(!changed.get());
            }
            director.plane().stuck_at.set(None);
        };
        tokio::join!(change, release);
        assert!(changed.get());
    });
}

#[test]
fn local_addresses_are_listed_with_their_connections() {
    let director = Running::start(|plane| {
        let record = |last, lip| ConnectionRecord {
            local: Some((Address::from_v4([10, 0, 2, lip]), 5000)),
            method: Method::FullNat,
            ..connection(last, "ESTABLISHED")
        };
        *plane.slices.borrow_mut() = vec![vec![record(1, 200), record(2, 201)], vec![record(3, 201)]];
    });
    let client = director.client();
    client.call(&add(80)).unwrap();
    for last in [200, 201, 202] {
        let address = [10, 0, 2, last].into();
        client.call(&Request::AddLocalAddress { service: service(80), address }).unwrap();
    }
    let Answer::LocalAddresses(listed) = client.call(&Request::LocalAddresses { service: None }).unwrap()
    else {
        panic!()
    };
    let counts: Vec<u64> = listed[0].addresses.iter().map(|(_, connections)| *connections).collect();
    assert_eq!((listed.len(), counts), (1, vec![1, 2, 0]));
}

#[test]
fn connections_that_are_looked_for() {
    let director = Running::start(move |plane| {
        let slice: Vec<_> =
            (0..100).map(|n| connection(n, if n < 10 { "CLOSE" } else { "ESTABLISHED" })).collect();
        *plane.slices.borrow_mut() = vec![slice; 3];
    });
    let find = |query: ConnectionQuery, limit, count| {
        let mut found = Vec::new();
        let answer =
            director.client().call_parts(&Request::FindConnections { query, limit, count }, |part| {
                let Answer::Connections(slice) = part else { panic!("{part:?}") };
                found.extend(slice);
                Ok(())
            });
        answer.map(|answer| (found.len(), answer)).map_err(|error| error.to_string())
    };
    let all = ConnectionQuery::default;
    let closing = ConnectionQuery { state: Some("CLOSE".into()), ..all() };
    let client = ConnectionQuery { client: Some("198.51.100.7".parse().unwrap()), ..all() };
    assert_eq!(find(all(), None, false), Ok((300, Answer::Done)));
    assert_eq!(find(all(), Some(120), false), Ok((120, Answer::Done)));
    assert_eq!(find(all(), Some(0), false), Ok((0, Answer::Done)));
    assert_eq!(find(closing.clone(), None, false), Ok((30, Answer::Done)));
    assert_eq!(find(closing, None, true), Ok((0, Answer::Count(30))));
    assert_eq!(find(client, None, true), Ok((0, Answer::Count(3))));
    let wrong = ConnectionQuery { state: Some("OPEN".into()), ..all() };
    assert!(find(wrong, None, true).unwrap_err().contains("there is no state"));
}

#[test]
fn what_commands_change_is_an_event_and_can_be_followed() {
    let director = Running::start(|_| {});
    director.client().call(&add(80)).unwrap();
    let refused = director.client().call(&add(80));
    assert!(matches!(refused, Err(ClientError::Refused { .. })), "{refused:?}");
    let events = |limit| {
        let mut texts = Vec::new();
        let request = Request::Events { after: 0, limit, kind: None, follow: false };
        let answer = director.client().call_parts(&request, |part| {
            let Answer::Events(events) = part else { panic!("{part:?}") };
            texts.extend(events.into_iter().map(|event| event.text));
            Ok(())
        });
        assert_eq!(answer.unwrap(), Answer::Done);
        texts
    };
    assert_eq!(events(None), ["service tcp 192.0.2.10:80 added (scheduler rr)"]);

    let mut follower = director.connect();
    follower.write_all(b"GET /v1/events?limit=0&kind=command&follow HTTP/1.1\r\n\r\n").unwrap();
    director.client().call(&add(81)).unwrap();
    let mut lines = BufReader::new(&follower).lines().map(Result::unwrap);
    let line = lines.find(|line| line.contains(":81 ")).unwrap();
    assert!(line.contains("\"kind\":\"command\"") && !line.contains(":80 "), "{line}");
    assert_eq!(events(Some(1)), ["service tcp 192.0.2.10:81 added (scheduler rr)"]);
}
