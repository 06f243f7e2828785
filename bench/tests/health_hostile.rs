//! Servers that mean no good to whoever checks them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sluice_bench::lab::site::{Method, VIP, server_address};
use sluice_bench::lab::{self, Director, Netns, Process, Site, SiteOptions, run, wait_for};

/// Some checks, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a director may grow by, in kB, while it is treated so.
const GROWTH: u64 = 32 * 1024;

/// Serves each connection on a thread of its own, until the client has had enough.
fn serve(
    netns: &Netns,
    port: u16,
    answer: impl Fn(TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
) -> Result<()> {
    let address = SocketAddr::from(([0, 0, 0, 0], port));
    let listener = netns.enter(|| TcpListener::bind(address))?.context("cannot listen")?;
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = Arc::clone(&answer);
            std::thread::spawn(move || answer(stream));
        }
    });
    Ok(())
}

fn asked(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.read(&mut [0; 1024]).map(drop)
}

/// A certificate that nobody signed, and its key, in one directory.
fn certificate(site: &Site, name: &str) -> Result<()> {
    let mut command = std::process::Command::new("openssl");
    command.current_dir(site.dir()).args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
    ]);
    command.args(["-nodes", "-days", "2", "-subj", "/CN=www.example.com"]);
    command.args(["-addext", "subjectAltName=DNS:www.example.com"]);
    command.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    command.args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.pem")]);
    run(&mut command).map(drop)
}

fn resident(director: &Director) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", director.id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn descriptors(director: &Director) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{}/fd", director.id()))?.count())
}

/// State and reason of each server, and how many checks were made of it.
fn states(director: &Director) -> Result<Vec<(String, String, u64)>> {
    let health: serde_json::Value = serde_json::from_str(&director.sluice("health --json")?)?;
    let servers = health["servers"].as_array().context("no servers")?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let count = |value: &serde_json::Value| value.as_u64().unwrap_or(0);
    Ok(servers
        .iter()
        .map(|server| {
            let check = &server["checks"][0];
            (
                text(&server["state"]),
                text(&server["reason"]),
                count(&check["passed"]) + count(&check["failed"]),
            )
        })
        .collect())
}

#[test]
fn hostile_servers_cost_neither_time_nor_memory() -> Result<()> {
    if !lab::may_run("hostile_servers_cost_neither_time_nor_memory") {
        return Ok(());
    }
    let site = Site::new(SiteOptions::default())?;
    let bad = &site.servers[0];
    // A byte at a time, for ever.
    serve(bad, 8001, |mut stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nX-Slow: ")?;
        loop {
            stream.write_all(b"y")?;
            std::thread::sleep(Duration::from_millis(20));
        }
    })?;
    serve(bad, 8002, |mut stream| {
        asked(&mut stream)?;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
        loop {
            stream.write_all(&[b'x'; 65_536])?;
        }
    })?;
    serve(bad, 8003, |mut stream| {
        asked(&mut stream)?;
        stream.write_all(b"HTTP/1.1 200 OK\r\n")?;
        loop {
            stream.write_all(b"X-Header: of many\r\n")?;
        }
    })?;
    let trap = server_address(2);
    serve(bad, 8004, move |mut stream| {
        asked(&mut stream)?;
        stream.write_all(format!("HTTP/1.1 302 Found\r\nLocation: http://{trap}:9000/\r\n\r\n").as_bytes())
    })?;
    // Silent until the client goes.
    serve(bad, 8005, |mut stream| {
        while stream.read(&mut [0; 1024])? > 0 {}
        Ok(())
    })?;
    serve(bad, 8008, |mut stream| {
        asked(&mut stream)?;
        stream.write_all(b"HTTP/1.1 400 This is no TLS\r\n\r\n")
    })?;
    let trapped = Arc::new(AtomicUsize::new(0));
    serve(&site.servers[1], 9000, {
        let trapped = Arc::clone(&trapped);
        move |_| {
            trapped.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    })?;
    certificate(&site, "right")?;
    certificate(&site, "wrong")?;
    let tls = |port: u16| {
        let mut command = bad.command("openssl");
        command.current_dir(site.dir()).args(["s_server", "-quiet", "-www", "-cert", "right.pem"]);
        command.args(["-key", "right.key", "-accept", &port.to_string()]);
        Process::start(&mut command)
    };
    let _tls = [tls(8006)?, tls(8007)?];
    let authority = |name: &str| {
        format!(
            "kind = \"https\"\nhost = \"www.example.com\"\ntls_ca = \"{}/{name}.pem\"\n",
            site.dir().display()
        )
    };

    let http = "kind = \"http\"\ncontains = \"OK\"\n".to_owned();
    let expected = [
        (8001, http.clone(), "down", "no answer within"),
        (8002, http.clone(), "down", "the body is longer than 65536 bytes"),
        (8003, http.clone(), "down", "the header of the answer is longer"),
        (8004, http.clone(), "down", "status 302"),
        (8005, http, "down", "no answer within"),
        (8006, authority("wrong"), "down", "TLS: invalid peer certificate"),
        (8007, authority("right"), "up", "succeeded"),
        (8008, "kind = \"https\"\n".into(), "down", "TLS: "),
    ];
    let mut config = format!("{}\n[[service]]\naddress = \"{VIP}:80\"\nprotocol = \"tcp\"\n", site.config());
    for (port, check, ..) in &expected {
        let address = server_address(1);
        config += &format!("[[service.server]]\naddress = \"{address}:{port}\"\nmethod = \"nat\"\n");
        config += &format!("[[service.server.check]]\n{check}interval = 0.1\njitter = 0.05\ntimeout = 1\n");
    }
    site.prepare_servers(Method::Nat)?;
    let director = site.start_director(&config)?;
    let as_expected = |states: &[(String, String, u64)]| {
        states.len() == expected.len()
            && states
                .iter()
                .zip(&expected)
                .all(|((state, reason, _), (_, _, wanted, why))| state == wanted && reason.contains(why))
    };
    let mut seen = Vec::new();
    wait_for("each server to be known for what it is", PATIENCE, || {
        seen = states(&director)?;
        Ok(as_expected(&seen))
    })
    .with_context(|| format!("{seen:?}; the director said:\n{}", director.log()))?;

    // From here on nothing may grow, however often they are asked.
    let before = resident(&director)?;
    let made = |states: &[(String, String, u64)]| states.iter().map(|(.., checks)| checks).sum::<u64>();
    let first = made(&seen);
    wait_for("two hundred checks more", PATIENCE, || {
        // Others are not held up meanwhile.
        let begun = Instant::now();
        seen = states(&director)?;
        ensure!(begun.elapsed() < Duration::from_secs(3), "an answer took {:?}", begun.elapsed());
        ensure!(as_expected(&seen), "{seen:?}");
        Ok(made(&seen) > first + 200)
    })?;
    let (grown, open) = (resident(&director)?.saturating_sub(before), descriptors(&director)?);
    println!("figure: {} checks of hostile servers, grown by {grown} kB", made(&seen) - first);
    ensure!(grown < GROWTH, "it grew by {grown} kB");
    ensure!(open < 200, "{open} descriptors are open");
    ensure!(trapped.load(Ordering::Relaxed) == 0, "a redirect was followed");
    let (status, log) = director.stop()?;
    ensure!(status.success() && !log.contains("panicked"), "{status}:\n{log}");
    Ok(())
}
