//! `make demo`: real clients, real servers and a director between them, on this machine.
//!
//! For each forwarding method it sends HTTP and DNS through the director's virtual address, checks what came of it, and
//! shows it. The last line is `demo: PASS` or `demo: FAIL <what>`.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sluice_bench::lab::site::{self, Method, VIP};
use sluice_bench::lab::wrk::{self, WrkReport};
use sluice_bench::lab::{self, Director, Site, SiteOptions, curl};

const REQUESTS: usize = 60;
const QUESTIONS: usize = 30;
const LOAD_SECONDS: u32 = 3;
const LOAD_CONNECTIONS: u32 = 32;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

const PICTURE: &str = "
    client            router              director: sluice
    10.0.0.1 ------- 10.0.0.254 ------- eth0   192.0.2.10 (VIP)
                         |              eth1   10.0.2.200 (LIP)
                         |                |
                         +----- LAN ------+
                          |     |     |
                         rs1   rs2   rs3      nginx and dnsmasq on
                              10.0.2.1 .2 .3  three real servers
";

fn main() -> ExitCode {
    let style = Style { on: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() };
    let what = match demo(style) {
        Ok(failures) if failures.is_empty() => {
            println!("{}", style.green("demo: PASS"));
            return ExitCode::SUCCESS;
        }
        Ok(failures) => failures.join("; "),
        Err(error) => format!("{error:#}"),
    };
    // An error may end in many lines of a log; what failed is to be the last line.
    let (what, more) = what.split_once('\n').unwrap_or((&what, ""));
    if !more.is_empty() {
        eprintln!("\n{more}");
    }
    println!("{}", style.red(&format!("demo: FAIL {what}")));
    ExitCode::FAILURE
}

fn demo(style: Style) -> Result<Vec<String>> {
    lab::exit_cleanly_on_signals(|| {
        // Kept locked, so that nothing is printed after it.
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "\ndemo: FAIL interrupted");
        std::mem::forget(out);
    })?;
    println!("{}", style.bold("Sluice: one virtual address, three servers, four ways to get there"));
    println!("{PICTURE}");
    println!("Every box is a network namespace on this machine; all of it is gone when this ends.");

    let site = Site::new(SiteOptions::default())?;
    let _nginx = site.start_nginx()?;
    let _dns = site.start_dns()?;
    let mut rows = Vec::new();
    for method in Method::ALL {
        let row = try_method(&site, method, style).with_context(|| method.name())?;
        rows.push(row);
    }
    println!("\n{}", style.bold("Summary"));
    print!("{}", table(&rows));
    println!();
    Ok(rows.into_iter().flat_map(|row| row.failures).collect())
}

/// What one method came to.
#[derive(Debug)]
struct Row {
    method: Method,
    ok: u64,
    failed: u64,
    spread: String,
    seen: String,
    load: WrkReport,
    packets_per_second: f64,
    answers: usize,
    replies_crossing: f64,
    failures: Vec<String>,
}

fn try_method(site: &Site, method: Method, style: Style) -> Result<Row> {
    println!("\n{}", style.bold(&format!("{:<8} {}", method.name(), meaning(method))));
    site.prepare_servers(method)?;
    let config =
        site.config() + &site.service("tcp", 80, "rr", method) + &site.service("udp", 53, "rr", method);
    let director = site.start_director(&config)?;
    let row = exercise(site, method)?;
    println!("\n    $ ipvsadm -Ln --stats");
    for line in director.ipvsadm("-Ln --stats")?.lines() {
        println!("    {}", line.trim_end());
    }
    let row = end(site, director, row)?;
    site.restore_servers(method)?;
    for failure in &row.failures {
        println!("    {}", style.red(failure));
    }
    Ok(row)
}

fn meaning(method: Method) -> &'static str {
    match method {
        Method::Nat => "the destination becomes a server; its replies come back through the director",
        Method::FullNat => "both ends are rewritten; servers answer the director, wherever they are",
        Method::Dr => "only the MAC address changes; servers answer the client directly",
        Method::Tun => "packets travel in a tunnel (IPIP); servers answer the client directly",
    }
}

fn exercise(site: &Site, method: Method) -> Result<Row> {
    let mut failures = Vec::new();
    let mut check = |good: bool, what: String| {
        if !good {
            failures.push(format!("{}: {what}", method.name()));
        }
    };

    let greetings = curl::greet(&site.client, &VIP.to_string(), REQUESTS)?;
    let servers: Vec<String> = greetings.answers.iter().map(|answer| answer.server.clone()).collect();
    let spread = site::spread(&servers);
    let spread_text =
        spread.iter().map(|(server, count)| format!("{server} {count}")).collect::<Vec<_>>().join("  ");
    let mut clients: Vec<IpAddr> = greetings.answers.iter().map(|answer| answer.client).collect();
    clients.sort_unstable();
    clients.dedup();
    let seen = clients.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" ");
    let (done, failed) = (greetings.answers.len(), greetings.failed);
    println!("    curl   {done} requests ok, {failed} failed, by {spread_text}; nginx saw {seen}");
    check(greetings.failed == 0, format!("{} of {REQUESTS} requests by curl failed", greetings.failed));
    let even = REQUESTS / usize::from(site::SERVERS);
    check(
        spread.len() == usize::from(site::SERVERS) && spread.values().all(|&count| count.abs_diff(even) <= 1),
        format!("requests are spread unevenly: {spread_text}"),
    );
    let expected = if method == Method::FullNat { site::LIP } else { site::CLIENT };
    check(clients == [IpAddr::from(expected)], format!("nginx saw {seen} and not {expected}"));

    let mut answers = Vec::new();
    for _ in 0..QUESTIONS {
        answers.extend(lab::ask_name(&site.client, SocketAddr::from((VIP, 53)), ANSWER_TIMEOUT).ok());
    }
    let by =
        site::spread(&answers).iter().map(|(server, count)| format!("{server} {count}")).collect::<Vec<_>>();
    println!("    dns    {} of {QUESTIONS} questions over UDP answered, by {}", answers.len(), by.join("  "));
    check(
        answers.len() == QUESTIONS,
        format!("{} of {QUESTIONS} DNS questions unanswered", QUESTIONS - answers.len()),
    );

    let (near, far) = (site.director.counters("eth0")?, site.director.counters("eth1")?);
    let started = Instant::now();
    let load = wrk::load(&site.client, &format!("http://{VIP}/"), LOAD_SECONDS, LOAD_CONNECTIONS, false)?;
    let elapsed = started.elapsed().as_secs_f64();
    let (near, far) =
        (site.director.counters("eth0")?.since(near), site.director.counters("eth1")?.since(far));
    let packets_per_second = (near.rx_packets + far.rx_packets) as f64 / elapsed;
    println!(
        "    wrk    {} requests ok, {} failed in {LOAD_SECONDS} s: {}/s, {} packets/s through the director",
        thousands(load.requests.saturating_sub(load.failed)),
        load.failed,
        thousands(load.requests_per_second as u64),
        thousands(packets_per_second as u64)
    );
    check(
        load.failed == 0 && load.requests > 0,
        format!("{} of {} requests by wrk failed", load.failed, load.requests),
    );

    // What comes from the servers' side, for each packet that comes from the clients'.
    let replies_crossing = far.rx_packets as f64 / near.rx_packets.max(1) as f64;
    println!(
        "    paths  director took {} packets from the client's side, {} from the servers': replies {}",
        thousands(near.rx_packets),
        thousands(far.rx_packets),
        if method.replies_bypass() { "bypass it" } else { "pass through it" }
    );
    if method.replies_bypass() {
        check(replies_crossing < 0.01, "replies crossed the director".into());
    } else {
        check(replies_crossing > 0.3, "replies did not cross the director".into());
    }
    Ok(Row {
        method,
        ok: done as u64 + load.requests.saturating_sub(load.failed),
        failed: failed as u64 + load.failed,
        spread: spread.values().map(usize::to_string).collect::<Vec<_>>().join("/"),
        seen,
        load,
        packets_per_second,
        answers: answers.len(),
        replies_crossing,
        failures,
    })
}

/// Stops the director, and sees that it leaves nothing on the interfaces.
fn end(site: &Site, director: Director, mut row: Row) -> Result<Row> {
    let (status, log) = director.stop()?;
    if !status.success() {
        eprintln!("{log}");
        row.failures.push(format!("{}: the director ended with {status}", row.method.name()));
    }
    for interface in ["eth0", "eth1"] {
        if site.director.xdp_program(interface)?.is_some() {
            row.failures.push(format!("{}: an XDP program is left on {interface}", row.method.name()));
        }
    }
    Ok(row)
}

fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "    {:<9}{:>11}{:>8}   {:<12}{:>12}{:>12}   {:<12}{:>6}   replies through the director",
        "method", "requests ok", "failed", "rs1/rs2/rs3", "requests/s", "packets/s", "nginx saw", "DNS"
    );
    for row in rows {
        let _ = writeln!(
            text,
            "    {:<9}{:>11}{:>8}   {:<12}{:>12}{:>12}   {:<12}{:>6}   {}",
            row.method.name(),
            thousands(row.ok),
            row.failed,
            row.spread,
            thousands(row.load.requests_per_second as u64),
            thousands(row.packets_per_second as u64),
            row.seen,
            format!("{}/{QUESTIONS}", row.answers),
            if row.replies_crossing < 0.01 { "no" } else { "yes" },
        );
    }
    text
}

/// 1234567 as `1 234 567`.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[derive(Clone, Copy, Debug)]
struct Style {
    on: bool,
}

impl Style {
    fn paint(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    fn green(self, text: &str) -> String {
        self.paint("32", text)
    }

    fn red(self, text: &str) -> String {
        self.paint("31", text)
    }
}
