//! Looking into packets: what `sluice capture` writes is what tshark reads, and what `sluice trace` says is what happens.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use sluice_bench::lab::echo::{self, Session};
use sluice_bench::lab::site::{CLIENT, DIRECTOR, LIP, Method, VIP, server_address};
use sluice_bench::lab::{self, Director, Process, Site, SiteOptions, curl, run, sluice_binary, wait_for};

const PATIENCE: Duration = Duration::from_secs(20);

/// A capture that goes on until it is ended.
struct Capture {
    process: Process,
    file: PathBuf,
}

impl Capture {
    fn start(site: &Site, director: &Director, name: &str, options: &str) -> Result<Self> {
        let file = site.dir().join(name);
        let mut command = site.director.command(&sluice_binary()?.display().to_string());
        command.arg("capture").args(options.split_whitespace()).env("SLUICE_SOCKET", director.socket());
        if !options.contains("--print") {
            command.arg("-w").arg(&file);
        } else {
            command.stdout(File::create(&file)?);
        }
        let said = site.dir().join(format!("{name}.said"));
        command.stderr(File::create(&said)?);
        let process = Process::start(&mut command)?;
        wait_for("the capture to begin", PATIENCE, || {
            Ok(std::fs::read_to_string(&said)?.contains("capturing on eth0, eth1"))
        })?;
        Ok(Capture { process, file })
    }

    fn end(mut self) -> Result<PathBuf> {
        self.process.signal(Signal::SIGINT)?;
        let status = self.process.wait(PATIENCE)?;
        ensure!(status.success(), "{status}");
        Ok(self.file)
    }
}

/// How tshark has the directions.
const IN: &str = "0x00000001";
const OUT: &str = "0x00000002";

/// A packet as tshark has it.
#[derive(Debug)]
struct Shown {
    interface: String,
    /// One of the two below
    direction: String,
    /// From the outermost header on
    sources: Vec<String>,
    destinations: Vec<String>,
    number: String,
    comment: String,
}

fn shown(file: &PathBuf) -> Result<Vec<Shown>> {
    let mut command = Command::new("tshark");
    command.arg("-r").arg(file).args(["-T", "fields", "-E", "separator=|"]);
    for field in [
        "frame.interface_name",
        "frame.packet_flags_direction",
        "ip.src",
        "ip.dst",
        "frame.packet_id",
        "frame.comment",
    ] {
        command.args(["-e", field]);
    }
    let text = run(&mut command)?;
    let packets = text.lines().map(|line| {
        let mut fields = line.split('|').map(str::to_owned);
        let mut next = || fields.next().context("six fields");
        let list = |text: String| text.split(',').map(str::to_owned).collect();
        Ok(Shown {
            interface: next()?,
            direction: next()?,
            sources: list(next()?),
            destinations: list(next()?),
            number: next()?,
            comment: next()?,
        })
    });
    packets.collect()
}

fn has_tshark(test: &str) -> bool {
    let found = Command::new("tshark").arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        lab::skipped(test, "needs tshark (bench/deps.sh test)");
    }
    found
}

/// Each packet before and after rewriting, by each method, as tshark reads it.
fn both_sides_are_shown(method: Method) -> Result<()> {
    if !lab::may_run("both_sides_are_shown") || !has_tshark("both_sides_are_shown") {
        return Ok(());
    }
    let site = Site::new(SiteOptions::default())?;
    let _nginx = site.start_nginx()?;
    site.prepare_servers(method)?;
    let director = site.start_director(&(site.config() + &site.service("tcp", 80, "rr", method)))?;
    let capture = Capture::start(&site, &director, "both.pcapng", &format!("--client {CLIENT}"))?;
    let others = Capture::start(&site, &director, "others.pcapng", "--client 10.0.0.9")?;
    // So many that each server gets some whichever worker they come to.
    let greetings = curl::greet(&site.client, &VIP.to_string(), 12)?;
    ensure!(greetings.failed == 0, "{}", director.log());
    let packets = shown(&capture.end()?)?;
    ensure!(shown(&others.end()?)?.is_empty(), "somebody else's packets");

    let find = |interface: &str, direction: &str, source: &str, destination: &str| {
        let matches = |packet: &&Shown| {
            packet.interface == interface
                && packet.direction == direction
                && packet.sources.iter().any(|found| found == source)
                && packet.destinations.iter().any(|found| found == destination)
        };
        let found = packets.iter().find(matches);
        found.with_context(|| format!("no {interface} {direction} {source} -> {destination} in {packets:#?}"))
    };
    let (client, vip, server) = (CLIENT.to_string(), VIP.to_string(), server_address(1).to_string());
    let request = find("eth0", IN, &client, &vip)?;
    ensure!(request.comment.contains("received, sent on"), "{request:?}");
    let (source, destination) = match method {
        Method::Nat => (client.clone(), server.clone()),
        Method::FullNat => (LIP.to_string(), server.clone()),
        Method::Dr => (client.clone(), vip.clone()),
        Method::Tun => (DIRECTOR.to_string().replace("10.0.1", "10.0.2"), server.clone()),
    };
    let sent = find("eth1", OUT, &source, &destination)?;
    ensure!(sent.comment.contains(&format!("{client}:")), "{sent:?}");
    ensure!(sent.comment.contains(method.name()), "{sent:?}");
    let same = packets.iter().filter(|packet| packet.number == request.number);
    let sides: Vec<_> = same.map(|packet| packet.interface.as_str()).collect();
    ensure!(sides == ["eth0", "eth1"], "one packet, on both sides: {sides:?}");
    let reply = find("eth1", IN, &server, if method == Method::FullNat { &source } else { &client });
    if method.replies_bypass() {
        ensure!(reply.is_err(), "{reply:?}");
    } else {
        reply?;
        find("eth0", OUT, &vip, &client)?;
    }
    let (status, log) = director.stop()?;
    ensure!(status.success(), "{log}");
    Ok(())
}

#[test]
fn both_sides_are_shown_of_nat() -> Result<()> {
    both_sides_are_shown(Method::Nat)
}

#[test]
fn both_sides_are_shown_of_fullnat() -> Result<()> {
    both_sides_are_shown(Method::FullNat)
}

#[test]
fn both_sides_are_shown_of_direct_routing() -> Result<()> {
    both_sides_are_shown(Method::Dr)
}

#[test]
fn both_sides_are_shown_of_a_tunnel() -> Result<()> {
    both_sides_are_shown(Method::Tun)
}

/// Dropped packets with the reason; limits; several at once, and no more.
#[test]
fn drops_have_their_reason() -> Result<()> {
    if !lab::may_run("drops_have_their_reason") || !has_tshark("drops_have_their_reason") {
        return Ok(());
    }
    let site = Site::new(SiteOptions::default())?;
    let director = site.start_director(&site.config())?;
    director.ipvsadm(&format!("-A -t {VIP}:80 -s rr"))?;
    let print = Capture::start(&site, &director, "printed", "--dropped=no_server --print")?;
    let file = Capture::start(&site, &director, "dropped.pcapng", "--dropped")?;
    let counted = Capture::start(&site, &director, "counted.pcapng", "--service 192.0.2.10:80 --count 2")?;
    let other = Capture::start(&site, &director, "other.pcapng", "--dropped=truncated")?;
    let fifth = director.sluice("capture --seconds 1 -w -").map_err(|error| format!("{error:#}"));
    ensure!(fifth.as_ref().is_err_and(|error| error.contains("4 captures are under way")), "{fifth:?}");

    let greetings = curl::greet(&site.client, &VIP.to_string(), 2)?;
    ensure!(greetings.failed == 2, "{greetings:?}");
    let mut counted_process = counted.process;
    ensure!(counted_process.wait(PATIENCE)?.success(), "it ends by itself");
    let two = shown(&counted.file)?;
    ensure!(two.len() == 2 && two[1].comment.contains("answer of the director"), "{two:?}");
    let dropped = shown(&file.end()?)?;
    let are = |packet: &Shown| packet.comment.contains("dropped (no_server)");
    ensure!(!dropped.is_empty() && dropped.iter().all(are), "{dropped:?}");
    let printed = std::fs::read_to_string(print.end()?)?;
    let line = printed.lines().next().context("a line")?;
    ensure!(line.contains(&format!("-> {VIP}:80 tcp [S]")) && line.contains("(no_server)"), "{line}");
    ensure!(shown(&other.end()?)?.is_empty(), "nothing was truncated");
    // There is room again.
    director.sluice("capture --seconds 0 -w /dev/null")?;
    let unknown =
        director.sluice("capture --dropped=bored -w /dev/null").map_err(|error| format!("{error:#}"));
    ensure!(unknown.as_ref().is_err_and(|error| error.contains("no_server, ")), "{unknown:?}");
    Ok(())
}

/// What `sluice trace` says of a packet to the virtual address.
fn told(director: &Director, port: u16, options: &str) -> Result<serde_json::Value> {
    let said = director.sluice(&format!("trace {CLIENT} {VIP}:{port} --json {options}"))?;
    Ok(serde_json::from_str(&said)?)
}

/// The server that a trace names is the one that the next connection comes to, by each method, and nobody's turn is
/// taken by asking.
fn a_trace_tells_what_happens(method: Method) -> Result<()> {
    if !lab::may_run("a_trace_tells_what_happens") {
        return Ok(());
    }
    let site = Site::new(SiteOptions::default())?;
    let _nginx = site.start_nginx()?;
    site.prepare_servers(method)?;
    let director = site.start_director(&(site.config() + &site.service("tcp", 80, "rr", method)))?;
    for _ in 0..5 {
        // Asked twice, as asking takes nobody's turn.
        told(&director, 80, "")?;
        let report = told(&director, 80, "")?;
        ensure!(report["steered"] == true && report["interface"] == "eth0", "{report:#}");
        let workers = report["workers"].as_array().context("workers")?;
        let named: Vec<&str> = workers.iter().filter_map(|worker| worker["server"].as_str()).collect();
        ensure!(named.len() == workers.len(), "{report:#}");
        ensure!(workers.iter().all(|worker| worker["verdict"] == "new"), "{report:#}");
        ensure!(workers.iter().all(|worker| worker["way"]["interface"] == "eth1"), "{report:#}");
        ensure!(workers.iter().all(|worker| worker["way"]["mac"].is_string()), "{report:#}");
        let replies = workers.iter().all(|worker| worker["reply_way"].is_null() == method.replies_bypass());
        ensure!(replies, "{report:#}");
        let greetings = curl::greet(&site.client, &VIP.to_string(), 1)?;
        let answer = greetings.answers.first().context("an answer")?;
        let number: u8 = answer.server.trim_start_matches("rs").parse()?;
        let server = format!("{}:80", server_address(number));
        // With several workers the one is meant on whose queue the connection came.
        ensure!(named.contains(&server.as_str()), "{server} and not {named:?}");
    }
    Ok(())
}

#[test]
fn a_trace_tells_what_happens_by_nat() -> Result<()> {
    a_trace_tells_what_happens(Method::Nat)
}

#[test]
fn a_trace_tells_what_happens_by_fullnat() -> Result<()> {
    a_trace_tells_what_happens(Method::FullNat)
}

#[test]
fn a_trace_tells_what_happens_by_direct_routing() -> Result<()> {
    a_trace_tells_what_happens(Method::Dr)
}

#[test]
fn a_trace_tells_what_happens_by_a_tunnel() -> Result<()> {
    a_trace_tells_what_happens(Method::Tun)
}

/// What does not get anywhere is told with the reason that is counted, and with what helps.
#[test]
fn a_trace_says_why_not() -> Result<()> {
    if !lab::may_run("a_trace_says_why_not") {
        return Ok(());
    }
    let site = Site::new(SiteOptions::default())?;
    let director = site.start_director(&site.config())?;
    director.ipvsadm(&format!("-A -t {VIP}:80 -s wlc"))?;
    let report = told(&director, 80, "")?;
    let worker = &report["workers"][0];
    ensure!(worker["verdict"] == "dropped" && worker["reason"] == "no_server", "{report:#}");
    ensure!(worker["remedy"].as_str().is_some_and(|remedy| remedy.contains("weight")), "{report:#}");

    let server = server_address(1);
    director.ipvsadm(&format!("-a -t {VIP}:80 -r {server}:80 -m -w 0"))?;
    let text = director.sluice(&format!("trace {CLIENT} {VIP}:80"))?;
    ensure!(text.contains("passed over: its weight is 0") && text.contains("(no_server)"), "{text}");
    director.ipvsadm(&format!("-a -t {VIP}:80 -r 198.18.0.1:80 -m"))?;
    let text = director.sluice(&format!("trace {CLIENT} {VIP}:80"))?;
    // By way of the default route, whose gateway is the router.
    ensure!(
        text.contains("via 10.0.1.253 on eth0") && text.contains("becomes 10.0.0.1:49152 -> 198.18.0.1:80"),
        "{text}"
    );
    ensure!(text.contains("chosen by wlc"), "{text}");

    let elsewhere = told(&director, 81, "")?;
    ensure!(elsewhere["steered"] == false && elsewhere["workers"][0]["verdict"] == "kernel", "{elsewhere:#}");
    director.ipvsadm("-A -f 7 -s rr")?;
    director.ipvsadm(&format!("-a -f 7 -r {server} -m"))?;
    let marked = told(&director, 81, "--mark 7")?;
    ensure!(marked["service"]["name"] == "mark 7" && marked["workers"][0]["verdict"] == "new", "{marked:#}");
    for (options, remedy) in [("--interface eth7", "it has eth0, eth1"), ("--mark x", "invalid value")] {
        let refused = told(&director, 80, options).map_err(|error| format!("{error:#}"));
        ensure!(refused.as_ref().is_err_and(|error| error.contains(remedy)), "{refused:?}");
    }
    director.sluice("role backup")?;
    ensure!(
        told(&director, 80, "")?["workers"][0]["verdict"] == "kernel",
        "the active one begins connections"
    );
    Ok(())
}

/// Sessions that the kernel carries are brought back to the workers as long as somebody looks on.
#[test]
fn carried_sessions_are_shown_too() -> Result<()> {
    const PORT: u16 = 7777;
    if !lab::may_run("carried_sessions_are_shown_too") || !has_tshark("carried_sessions_are_shown_too") {
        return Ok(());
    }
    let site = Site::new(SiteOptions::default())?;
    site.take_redirects()?;
    site.prepare_servers(Method::FullNat)?;
    for server in &site.servers {
        echo::serve(server, SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)))?;
    }
    let director =
        site.start_director(&(site.config_carried() + &site.service("tcp", PORT, "rr", Method::FullNat)))?;
    let carried = || -> Result<(u64, u64)> {
        let status: serde_json::Value = serde_json::from_str(&director.sluice("status --json")?)?;
        let number = |name: &str| status["offload"][name].as_u64().with_context(|| format!("{status}"));
        Ok((number("connections")?, number("packets")?))
    };
    let mut session = Session::open(&site.client, SocketAddr::from((VIP, PORT)))?;
    wait_for("the session to be carried", PATIENCE, || {
        session.say("hello")?;
        Ok(carried()?.1 > 0)
    })?;
    let capture = Capture::start(&site, &director, "carried.pcapng", &format!("--service {VIP}:{PORT}"))?;
    // One more than has to be seen, as the worker may take a moment to look on.
    for _ in 0..6 {
        session.say("hello")?;
    }
    let packets = shown(&capture.end()?)?;
    // What each side says, and each as it came and went.
    ensure!(packets.len() >= 20, "{packets:#?}");
    let (_, before) = carried()?;
    wait_for("the session to be carried again", PATIENCE, || {
        session.say("hello")?;
        Ok(carried()?.1 > before)
    })
}
