//! Directors without packets that tell each other of connections over loopback,
//! and what somebody in between can do.

mod churn;
pub(super) mod director;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use sluice_dataplane::conn::State;
use sluice_dataplane::sync::Record;
use sluice_dataplane::wire::tcp;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::*;
use director::{Director, session, wait_for, wait_for_equality};

/// How long something may take that takes milliseconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(30);

static NEXT: AtomicUsize = AtomicUsize::new(0);

/// Two loopback addresses with a port each that nobody else has: the first is
/// for one director, the second for the other.
fn ends() -> [SocketAddr; 2] {
    let number = NEXT.fetch_add(1, Relaxed);
    [1, 2].map(|last| {
        // The port is free now, and tests of this process have addresses of their own.
        let ip = [127, 77, (std::process::id() % 200) as u8, (2 * number + last) as u8];
        let listener = std::net::TcpListener::bind(SocketAddr::from((ip, 0))).unwrap();
        listener.local_addr().unwrap()
    })
}

fn key_file(byte: u8) -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    std::fs::write(&path, [byte; 32]).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    dir
}

fn start(director: &Director, listen: SocketAddr, peer: SocketAddr, key: u8) -> Sync {
    let dir = key_file(key);
    let settings = Settings { listen, peer, key: dir.path().join("key") };
    Sync::start(settings, director.plane.clone()).unwrap()
}

fn established(numbers: impl IntoIterator<Item = u32>) -> Vec<Record> {
    numbers.into_iter().map(|number| Record::Session(session(number, State::Established))).collect()
}

#[test]
fn each_tells_the_other() {
    let [one_end, other_end] = ends();
    let (one, other) = (Director::new(1), Director::new(2));
    one.take(established(0..3000));
    let first = start(&one, one_end, other_end, 1);
    let second = start(&other, other_end, one_end, 1);
    wait_for("the first", || other.connections().len() == 3000);
    other.take(established(5000..5100));
    wait_for("the others", || one.connections().len() == 3100);
    (0..1000).for_each(|number| one.packet(number, tcp::FIN | tcp::ACK));
    let left = |all: &[(_, &str)]| all.iter().filter(|(_, state)| *state == "ESTABLISHED").count();
    wait_for("the ends", || left(&one.connections()) == 2100);
    wait_for_equality(&one, &other);
    wait_for("being in step", || {
        let (here, there) = (first.status(), second.status());
        here.outgoing.behind == 0 && here.outgoing.sent == there.incoming.received && there.incoming.complete
    });
    let (here, there) = (first.status(), second.status());
    assert!(here.outgoing.connected && here.outgoing.complete && here.outgoing.sent >= 4000, "{here:?}");
    assert_eq!(here.outgoing.taken, here.outgoing.sent);
    assert!(here.outgoing.milliseconds_p99 > 0.0 && here.outgoing.transfers >= 1, "{here:?}");
    assert_eq!((there.incoming.unknown, there.incoming.full), (0, 0));
}

#[test]
fn a_peer_that_starts_again_has_everything_again() {
    let [one_end, other_end] = ends();
    let one = Director::new(1);
    let first = start(&one, one_end, other_end, 1);
    one.take(established(0..2000));
    for round in 0..4 {
        let other = Director::new(1);
        let _second = start(&other, other_end, one_end, 1);
        one.take(established(10_000 + round * 100..10_100 + round * 100));
        wait_for_equality(&one, &other);
    }
    // And back, to one that has nothing.
    let other = Director::new(1);
    let second = start(&other, other_end, one_end, 1);
    wait_for_equality(&one, &other);
    drop((first, one));
    wait_for("the end", || !second.status().incoming.connected);
    let one = Director::new(1);
    let _first = start(&one, one_end, other_end, 1);
    wait_for("equality", || one.connections().len() == 2400 && one.connections() == other.connections());
}

#[test]
fn another_key_is_refused() {
    let [one_end, other_end] = ends();
    let (one, other) = (Director::new(1), Director::new(1));
    one.take(established(0..10));
    let first = start(&one, one_end, other_end, 1);
    let second = start(&other, other_end, one_end, 2);
    let said = |error: Option<String>| error.is_some_and(|text| text.contains("key is another one"));
    wait_for("a word", || said(second.status().incoming.error) && said(first.status().outgoing.error));
    assert!(!first.status().outgoing.connected && !second.status().incoming.connected);
    assert_eq!(other.connections(), []);
}

#[test]
fn only_the_peer_is_heard() {
    let [one_end, other_end] = ends();
    let one = Director::new(1);
    let sync = start(&one, one_end, other_end, 1);
    // From another address of this machine than the peer's.
    let mut stranger = std::net::TcpStream::connect(one_end).unwrap();
    let mut nothing = [0; 1];
    let _ = std::io::Read::read(&mut stranger, &mut nothing);
    wait_for("a word", || sync.status().incoming.error.is_some_and(|text| text.contains("is not the peer")));
}

/// Runs what is async in a test.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

async fn connect_from(ip: std::net::IpAddr, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((ip, 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

/// Tells a director something as its peer would, and returns why it hung up.
fn told(messages: &[Vec<u8>]) -> (String, usize) {
    let [one_end, other_end] = ends();
    let one = Director::new(1);
    let sync = start(&one, one_end, other_end, 9);
    block_on(async {
        let (reader, writer) = connect_from(other_end.ip(), one_end).await.into_split();
        let (_reader, mut writer) = noise::handshake(reader, writer, &Key([9; 32]), true).await.unwrap();
        for message in messages {
            let _ = writer.send(message).await;
        }
        let deadline = Instant::now() + PATIENCE;
        while sync.status().incoming.error.is_none() {
            assert!(Instant::now() < deadline, "{messages:?}");
            tokio::time::sleep(PAUSE).await;
        }
    });
    (sync.status().incoming.error.unwrap(), one.connections().len())
}

fn written(message: &wire::Message) -> Vec<u8> {
    let mut out = Vec::new();
    wire::put_message(&mut out, message);
    out
}

#[test]
fn what_makes_no_sense_ends_the_connection() {
    let begin = written(&wire::Message::Begin(1));
    let good = written(&wire::Message::Records { sequence: 1, records: established([1]) });
    let mut oversized = Vec::new();
    wire::start_records(&mut oversized);
    oversized.extend([1, 0xff, 0xff]);
    oversized.extend(vec![0; 0xffff - 100]);
    oversized.truncate(wire::MAX_MESSAGE);
    let cut = good[..good.len() - 1].to_vec();
    for (messages, expected) in [
        (vec![begin.clone(), oversized], "a record of 65535 bytes"),
        (vec![begin.clone(), cut], "in the middle of a field"),
        (vec![good], "before the begin of a transfer"),
        (vec![begin, written(&wire::Message::Taken(3))], "not its part"),
    ] {
        let (error, connections) = told(&messages);
        assert!(error.contains(expected), "{error} instead of {expected}");
        assert_eq!(connections, 0, "{expected}");
    }
}

#[test]
fn another_version_and_another_protocol_are_named() {
    for (bytes, expected) in
        [(&b"SLUICE\x09\x0a"[..], "versions 9 to 10"), (b"GET / HTTP/1.0\r\n", "no Sluice director")]
    {
        let [one_end, other_end] = ends();
        let one = Director::new(1);
        let sync = start(&one, one_end, other_end, 1);
        block_on(async {
            let mut stream = connect_from(other_end.ip(), one_end).await;
            stream.write_all(bytes).await.unwrap();
            let mut nothing = Vec::new();
            let _ = stream.read_to_end(&mut nothing).await;
        });
        wait_for("a word", || sync.status().incoming.error.is_some_and(|text| text.contains(expected)));
    }
}

/// More bytes than a heartbeat has, and fewer than two connections.
const HEARTBEAT_MOST: usize = 100;

/// What somebody between two directors does to the message of this number from
/// the one that tells, after the handshake.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Mischief {
    Alter,
    Repeat,
    LeaveOut,
    Swap,
}

/// Passes messages on; returns after the first connection, with its mischief
/// done, has ended.
async fn between(listener: TcpListener, from: std::net::IpAddr, to: SocketAddr, mischief: Mischief) {
    let (mut teller, _) = listener.accept().await.unwrap();
    let mut hearer = connect_from(from, to).await;
    let (mut from_teller, mut to_teller) = teller.split();
    let (mut from_hearer, mut to_hearer) = hearer.split();
    let back = tokio::io::copy(&mut from_hearer, &mut to_teller);
    let forth = async {
        let mut versions = [0; 8];
        from_teller.read_exact(&mut versions).await?;
        to_hearer.write_all(&versions).await?;
        let mut kept = Vec::new();
        for number in 0.. {
            let mut message = vec![0; 2];
            from_teller.read_exact(&mut message).await?;
            message.resize(2 + usize::from(u16::from_be_bytes([message[0], message[1]])), 0);
            from_teller.read_exact(&mut message[2..]).await?;
            // The first is the handshake's, the second begins a transfer.
            match (number, mischief) {
                (2, Mischief::Alter) => message[40] ^= 1,
                // Not a heartbeat, which may come first on a busy machine.
                (2.., Mischief::Repeat) if message.len() > HEARTBEAT_MOST => {
                    to_hearer.write_all(&message).await?;
                }
                (2, Mischief::LeaveOut) => continue,
                (2, Mischief::Swap) => {
                    kept = message;
                    continue;
                }
                _ => {}
            }
            to_hearer.write_all(&message).await?;
            to_hearer.write_all(&std::mem::take(&mut kept)).await?;
        }
        std::io::Result::Ok(())
    };
    tokio::select! {
        _ = back => {}
        _ = forth => {}
    }
}

#[test]
fn nobody_in_between_can_change_anything() {
    for mischief in [Mischief::Alter, Mischief::Repeat, Mischief::LeaveOut, Mischief::Swap] {
        let [one_end, other_end] = ends();
        let (one, other) = (Director::new(1), Director::new(1));
        one.take(established(0..100));
        let second = start(&other, other_end, one_end, 1);
        block_on(async {
            let listener = TcpListener::bind((other_end.ip(), 0)).await.unwrap();
            let in_between = listener.local_addr().unwrap();
            let first = start(&one, one_end, in_between, 1);
            between(listener, one_end.ip(), other_end, mischief).await;
            drop(first);
        });
        wait_for("a word", || second.status().incoming.error.is_some());
        let error = second.status().incoming.error.unwrap();
        assert!(error.contains("altered, repeated, left out or moved"), "{mischief:?}: {error}");
        // What was sent twice was taken once; of the rest nothing got through.
        if mischief == Mischief::Repeat {
            wait_for("what came first", || !other.connections().is_empty());
        } else {
            assert_eq!(other.connections().len(), 0, "{mischief:?}");
        }
    }
}

/// It is disconnected, and nothing piles up for it.
#[test]
fn a_peer_that_stops_reading_is_left() {
    let [one_end, other_end] = ends();
    let one = Director::new(1);
    block_on(async {
        let listener = TcpListener::bind(other_end).await.unwrap();
        let first = start(&one, one_end, other_end, 4);
        let (stream, _) = listener.accept().await.unwrap();
        let (reader, writer) = stream.into_split();
        let kept = noise::handshake(reader, writer, &Key([4; 32]), false).await.unwrap();
        one.take(established(0..10_000));
        let deadline = Instant::now() + PATIENCE;
        while first.status().outgoing.error.is_none() {
            assert!(Instant::now() < deadline, "it is still waited for");
            tokio::time::sleep(PAUSE).await;
        }
        let error = first.status().outgoing.error.unwrap();
        assert!(error.contains("for too long"), "{error}");
        drop(kept);
    });
}

#[test]
fn an_address_that_is_not_here_is_refused() {
    let one = Director::new(1);
    let dir = key_file(1);
    let settings = Settings {
        listen: "192.0.2.77:7946".parse().unwrap(),
        peer: "192.0.2.78:7946".parse().unwrap(),
        key: dir.path().join("key"),
    };
    let error = Sync::start(settings, one.plane.clone()).err().unwrap().to_string();
    assert!(error.contains("192.0.2.77:7946") && error.contains("address of this machine"), "{error}");
}
