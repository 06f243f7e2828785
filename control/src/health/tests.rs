//! Each kind of check against small servers, friendly and hostile.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep, timeout};

use super::check::{Check, Finding, Kind, Timing, Way, make};
use super::icmp::Pinger;
use super::vip::Passages;
use super::{Command, Dns, Grpc, Http, Tls, Udp};

/// More than any check here may take.
const LONG: Duration = Duration::from_secs(10);

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async { timeout(LONG, work).await.expect("it takes too long") })
}

/// As the thread of the checks makes it.
async fn once(kind: Kind, target: SocketAddr, limit: Duration) -> Finding {
    let check = Check { kind, way: Way::default(), timing: Timing { timeout: limit, ..Timing::default() } };
    let pinger = Pinger::default();
    timeout(limit, make(&check, target, None, &pinger, &Passages::new(Vec::new())))
        .await
        .unwrap_or_else(|_| Err("no answer".into()))
}

const LIMIT: Duration = Duration::from_secs(5);

/// A web server that answers everything with these bytes and closes.
async fn web(answer: impl Into<Vec<u8>>) -> SocketAddr {
    let answer = Arc::new(answer.into());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answer = Arc::clone(&answer);
            spawn_local(async move {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(&answer).await;
            });
        }
    });
    address
}

fn http(http: Http) -> Kind {
    Kind::Http(Box::new(http))
}

#[test]
fn tcp_is_up_where_somebody_listens() {
    block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(once(Kind::Tcp, address, LIMIT).await, Ok(None));
        drop(listener);
        let problem = once(Kind::Tcp, address, LIMIT).await.unwrap_err();
        assert_eq!(problem, "cannot connect: Connection refused");
    });
}

#[test]
fn http_wants_status_and_body() {
    let wants_text = || Http { contains: Some("OK".into()), ..Http::default() };
    let wants_pattern = || Http { matches: Some("^OK$".parse().unwrap()), ..Http::default() };
    // echo -n OK | md5sum
    let digest = 0xe0aa_021e_21dd_dbd6_d8ce_cec7_1e9c_f564_u128.to_be_bytes();
    let wants_digest = || Http { digest: Some(digest), ..Http::default() };
    let moved = "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n";
    let endless = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(200_000));
    let headers = format!("HTTP/1.1 200 OK\r\n{}", "X-Y: z\r\n".repeat(10_000));
    for (answer, wanted, expected) in [
        ("HTTP/1.1 200 OK\r\n\r\nOK", Http::default(), ""),
        ("HTTP/1.1 200 OK\r\n\r\nall OK now", wants_text(), ""),
        ("HTTP/1.1 200 OK\r\n\r\nO", wants_text(), "no \"OK\""),
        ("HTTP/1.1 200 OK\r\n\r\nOK", wants_pattern(), ""),
        ("HTTP/1.1 200 OK\r\n\r\nNOT OK", wants_pattern(), "does not match"),
        ("HTTP/1.0 200\r\nContent-Length: 2\r\n\r\nOK and more", wants_digest(), ""),
        ("HTTP/1.1 200 OK\r\n\r\nKO", wants_digest(), "digest is "),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nOK", wants_text(), "ended within its body"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\nOK", wants_text(), "longer than 65536"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nOK", wants_text(), "two lengths"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nOK\r\n", wants_text(), "chunked"),
        ("HTTP/1.1 503 Unavailable\r\n\r\nOK", wants_text(), "status 503"),
        ("HTTP/1.1 503 Unavailable\r\n\r\n", Http { status: vec![500..=599], ..Http::default() }, ""),
        (moved, Http::default(), "status 302"),
        (endless.as_str(), wants_text(), "longer than 65536"),
        (headers.as_str(), wants_text(), "header of the answer is longer"),
        ("HTTP/1.1 200 O", Http::default(), "ended within its header"),
        ("HTTP/1.1 abc OK\r\n\r\n", Http::default(), "not HTTP"),
        ("SSH-2.0-OpenSSH_9.2p1\r\n", Http::default(), "not HTTP"),
        ("", Http::default(), "ended within its header"),
    ] {
        let found = block_on(async { once(http(wanted), web(answer).await, LIMIT).await });
        let head: String = answer.chars().take(60).collect();
        match found {
            Ok(_) => assert_eq!("", expected, "{head}"),
            Err(problem) => assert!(!expected.is_empty() && problem.contains(expected), "{head}: {problem}"),
        }
    }
}

#[test]
fn a_server_that_drips_is_cut_off() {
    block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            while stream.write_all(b"HTTP/"[..1].as_ref()).await.is_ok() {
                sleep(Duration::from_millis(20)).await;
            }
        });
        let begun = Instant::now();
        let found = once(http(Http::default()), address, Duration::from_millis(300)).await;
        assert!(found.is_err() && begun.elapsed() < Duration::from_secs(3), "{found:?}");
    });
}

#[test]
fn https_to_a_server_without_tls_fails() {
    for answer in ["HTTP/1.1 400 Bad Request\r\n\r\n", "", "\x15\x03\x01\x00\x02\x02\x28"] {
        let tls = Some(Tls::new(Some("www.example.com".into()), None).unwrap());
        let kind = http(Http { tls, ..Http::default() });
        let problem = block_on(async { once(kind, web(answer).await, LIMIT).await }).unwrap_err();
        assert!(problem.starts_with("TLS: "), "{problem}");
    }
}

/// A gRPC server that answers each request with these headers, this message
/// and these trailers.
async fn grpc(headers: &'static [(&str, &str)], body: Vec<u8>, trailer: Option<&'static str>) -> SocketAddr {
    use hyper::body::Bytes;
    use hyper::{HeaderMap, Response};
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            assert_eq!(request.headers()["content-type"], "application/grpc");
            let mut answer = Response::builder();
            for (name, value) in headers {
                answer = answer.header(*name, *value);
            }
            let Ok(mut stream) = respond.send_response(answer.body(()).unwrap(), false) else { continue };
            let _ = stream.send_data(Bytes::from(body.clone()), trailer.is_none());
            if let Some(status) = trailer {
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", status.parse().unwrap());
                let _ = stream.send_trailers(trailers);
            }
        }
    });
    address
}

#[test]
fn a_grpc_server_says_how_it_is() {
    const KIND: &[(&str, &str)] = &[("content-type", "application/grpc+proto")];
    let says = |status: u8| vec![0, 0, 0, 0, 2, 8, status];
    for (headers, body, trailer, expected) in [
        (KIND, says(1), Some("0"), ""),
        (KIND, says(2), Some("0"), "NOT_SERVING"),
        (KIND, says(3), Some("0"), "SERVICE_UNKNOWN"),
        (KIND, vec![0; 5], Some("0"), "says UNKNOWN"),
        (KIND, says(1), Some("14"), "grpc-status 14"),
        (KIND, vec![], Some("5"), "NOT_FOUND"),
        (&[("content-type", "application/grpc"), ("grpc-status", "12")][..], vec![], None, "UNIMPLEMENTED"),
        (KIND, says(1), None, "without a grpc-status"),
        (&[("content-type", "text/plain")][..], says(1), Some("0"), "not gRPC"),
        (KIND, vec![0; 100_000], Some("0"), "longer than 4096"),
        (KIND, b"garbage".to_vec(), Some("0"), "not that of grpc.health.v1"),
    ] {
        let kind = Kind::Grpc(Box::new(Grpc { tls: None, service: "shop".into(), host: None }));
        let head = format!("{headers:?} {:?} {trailer:?}", &body[..body.len().min(9)]);
        let found = block_on(async { once(kind, grpc(headers, body, trailer).await, LIMIT).await });
        match found {
            Ok(_) => assert_eq!("", expected, "{head}"),
            Err(problem) => assert!(!expected.is_empty() && problem.contains(expected), "{head}: {problem}"),
        }
    }
}

#[test]
fn grpc_to_another_server_fails() {
    let tls = Tls::new(None, None).unwrap().for_http2();
    for (answer, tls, expected) in [
        ("HTTP/1.1 400 Bad Request\r\n\r\n", None, "HTTP/2: "),
        ("", None, "HTTP/2: "),
        ("HTTP/1.1 400 Bad Request\r\n\r\n", Some(tls), "TLS: "),
    ] {
        let kind = Kind::Grpc(Box::new(Grpc { tls, service: String::new(), host: None }));
        let problem = block_on(async { once(kind, web(answer).await, LIMIT).await }).unwrap_err();
        assert!(problem.starts_with(expected), "{problem}");
    }
}

/// A name server, or another, that answers each datagram so.
async fn datagrams(answer: impl Fn(&[u8]) -> Option<Vec<u8>> + 'static) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    spawn_local(async move {
        let mut bytes = [0; 2048];
        loop {
            let Ok((length, from)) = socket.recv_from(&mut bytes).await else { continue };
            if let Some(answer) = answer(&bytes[..length]) {
                socket.send_to(&answer, from).await.unwrap();
            }
        }
    });
    address
}

#[test]
fn dns_wants_an_answer_to_its_own_question() {
    let short = Duration::from_millis(300);
    let ask = |answer: fn(&[u8]) -> Option<Vec<u8>>| {
        block_on(async {
            let dns = Dns::new("example.com", Some(1)).unwrap();
            once(Kind::Dns(dns), datagrams(answer).await, short).await
        })
    };
    fn answered(question: &[u8], byte: usize, bits: u8) -> Option<Vec<u8>> {
        // Name and type as asked for, which is what begins every answer.
        assert_eq!(&question[12..], b"\x07example\x03com\x00\x00\x01\x00\x01");
        let mut answer = question.to_vec();
        answer[2] |= 0x80;
        answer[byte] ^= bits;
        Some(answer)
    }
    assert_eq!(ask(|q| answered(q, 3, 0)), Ok(None));
    assert_eq!(ask(|q| answered(q, 3, 2)), Err("answered SERVFAIL".into()));
    assert_eq!(ask(|q| answered(q, 3, 5)), Err("answered REFUSED".into()));
    assert_eq!(ask(|q| answered(q, 2, 0x80)), Err("the reply is not DNS".into()));
    assert_eq!(ask(|q| answered(q, 1, 0xff)), Err("no answer".into()), "another's answer");
    assert_eq!(ask(|q| Some(q[..2].to_vec())), Err("the reply is not DNS".into()));
    assert_eq!(ask(|_| Some(vec![1])), Err("no answer".into()));
}

#[test]
fn names_that_dns_does_not_have_are_refused() {
    for name in ["a..b", &"x".repeat(64), &"abc.".repeat(70)] {
        assert!(Dns::new(name, None).is_err(), "{name}");
    }
    assert!(Dns::new(".", None).is_ok() && Dns::new("example.com.", None).is_ok());
}

#[test]
fn udp_is_refused_silent_or_answered() {
    let udp = |reply, matches: Option<&str>| {
        let matches = matches.map(|text| text.parse().unwrap());
        Kind::Udp(Udp { send: b"ping".to_vec(), reply, matches })
    };
    let short = Duration::from_millis(300);
    block_on(async {
        let pong = datagrams(|sent| (sent == b"ping").then(|| b"pong".to_vec())).await;
        assert_eq!(once(udp(true, None), pong, LIMIT).await, Ok(None));
        assert_eq!(once(udp(true, Some("^pong$")), pong, LIMIT).await, Ok(None));
        assert!(once(udp(true, Some("^PONG")), pong, LIMIT).await.unwrap_err().contains("does not match"));
        let silent = datagrams(|_| None).await;
        assert_eq!(once(udp(false, None), silent, short).await, Ok(None));
        assert_eq!(once(udp(true, None), silent, short).await, Err("no answer".into()));
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let closed = socket.local_addr().unwrap();
        drop(socket);
        assert_eq!(once(udp(false, None), closed, LIMIT).await, Err("Connection refused".into()));
    });
}

fn command(script: &str, dynamic_weight: bool) -> Kind {
    let words = ["sh", "-c", script].map(str::to_owned).to_vec();
    Kind::Command(Command { words, dynamic_weight })
}

#[test]
fn the_status_of_a_command_counts() {
    let target = "192.0.2.1:80".parse().unwrap();
    let run = |script: &str, dynamic| block_on(once(command(script, dynamic), target, LIMIT));
    assert_eq!(run("exit 0", false), Ok(None));
    assert_eq!(run("exit 0", true), Ok(None));
    assert_eq!(run("exit 1", true), Err("the command ended with status 1".into()));
    assert_eq!(run("exit 12", false), Err("the command ended with status 12".into()));
    assert_eq!(run("exit 12", true), Ok(Some(10)));
    assert_eq!(run("exit 2", true), Ok(Some(0)));
    assert_eq!(run("exit 255", true), Ok(Some(253)));
    assert!(run("kill -9 $$", true).unwrap_err().contains("signal"));
    assert_eq!(run("test $SLUICE_SERVER_ADDRESS:$SLUICE_SERVER_PORT = 192.0.2.1:80", false), Ok(None));
    let missing = Command { words: vec!["/no/such/program".into()], dynamic_weight: false };
    let problem = block_on(once(Kind::Command(missing), target, LIMIT)).unwrap_err();
    assert_eq!(problem, "cannot run /no/such/program: No such file or directory");
}

#[test]
fn a_command_that_hangs_is_killed_with_its_children() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pid");
    let script = format!("sleep 1000 & echo $! > {}; wait", file.display());
    block_on(async {
        let target = "192.0.2.1:80".parse().unwrap();
        let found = once(command(&script, false), target, Duration::from_secs(1)).await;
        assert_eq!(found, Err("no answer".into()));
        let child: i32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        // A zombie, which nobody may be there to bury, has ended too.
        let status = || std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        while !(status().is_empty() || status().contains(") Z ")) {
            sleep(Duration::from_millis(5)).await;
        }
    });
}

#[test]
fn loopback_answers_echo_requests() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED loopback_answers_echo_requests: needs root for a raw socket");
        return;
    }
    block_on(async {
        assert_eq!(once(Kind::Icmp, "127.0.0.1:0".parse().unwrap(), LIMIT).await, Ok(None));
        // Nobody has this one (RFC 5737), and it may not even be routed.
        let silent = once(Kind::Icmp, "203.0.113.1:0".parse().unwrap(), Duration::from_millis(200)).await;
        assert!(silent.is_err(), "{silent:?}");
    });
}
