//! Two directors that lose each other and are both active, and a disk that has no room for what a director says.

use std::fs::OpenOptions;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use sluice_bench::lab::echo::{self, Session};
use sluice_bench::lab::site::{Method, VIP};
use sluice_bench::lab::{
    self, Director, Netns, Process, Second, Site, SiteOptions, curl, run, sluice_binary, wait_for,
};

const PORT: u16 = 7000;
const PATIENCE: Duration = Duration::from_secs(20);
/// Connections to each virtual address that begin at a time.
const SESSIONS: usize = 10;
/// What the second director gets while both are active.
const OTHER_VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);
/// Where directors tell each other of sessions.
const SYNC: u16 = 7946;

fn open(client: &Netns, vip: Ipv4Addr) -> Result<Vec<Session>> {
    (0..SESSIONS).map(|_| Session::open(client, (vip, PORT).into())).collect()
}

fn all_go_on(sessions: &mut [Session], words: &str, directors: [&Director; 2]) -> Result<()> {
    for (number, session) in sessions.iter_mut().enumerate() {
        session.say(words).with_context(|| {
            let [one, other] = directors.map(Director::log);
            format!("connection {number}, {words}; one said:\n{one}\nthe other:\n{other}")
        })?;
    }
    Ok(())
}

/// Connections of a director that are established, without what differs between directors.
fn established(director: &Director) -> Result<Vec<String>> {
    let listed = director.sluice("connections --json --state ESTABLISHED")?;
    let connection = |line: &str| {
        let connection: serde_json::Value = serde_json::from_str(line)?;
        anyhow::Ok(format!("{} to {}", connection["client"], connection["server"]))
    };
    let mut all = listed.lines().map(connection).collect::<Result<Vec<_>>>()?;
    all.sort_unstable();
    Ok(all)
}

fn wait_for_equality(directors: [&Director; 2], count: usize) -> Result<()> {
    let mut seen = [Vec::new(), Vec::new()];
    let waited = wait_for("the same connections at both", PATIENCE, || {
        seen = [established(directors[0])?, established(directors[1])?];
        Ok(seen[0].len() == count && seen[0] == seen[1])
    });
    waited.with_context(|| {
        let status = directors.map(|director| director.sluice("status").unwrap_or_default());
        format!("of {count}: {seen:#?}\n{status:?}")
    })
}

/// Each goes on with what reaches it and begins more; when they see each other again, both have all of it.
#[test]
fn after_a_split_both_have_what_each_began() -> Result<()> {
    if !lab::may_run("after_a_split_both_have_what_each_began") {
        return Ok(());
    }
    let site = Site::new(SiteOptions::default())?;
    let second = Second::new(&site)?;
    let sluice = sluice_binary()?;
    run(Command::new(&sluice).arg("sync-key").arg(site.dir().join("sync.key")))?;
    second.netns.ip(&[format!("address add {OTHER_VIP}/32 dev lo")])?;
    for vip in [VIP, OTHER_VIP] {
        for server in &site.servers {
            let mut command = server.command(&sluice.display().to_string());
            command
                .args(["realserver", "up", "--method", "dr", "--dev", "eth0", "--vip"])
                .arg(vip.to_string());
            run(&mut command)?;
            echo::serve(server, SocketAddr::from((vip, PORT)))?;
        }
    }
    let services = [VIP, OTHER_VIP]
        .map(|vip| Site::service_between(vip.into(), "tcp", PORT, "rr", Method::Dr, |server| server.into()));
    let idle = if site.config().contains("idle = ") { "" } else { "idle = \"sleep\"\n" };
    let [one, other] =
        second.sync().map(|sync| format!("{}{idle}{sync}{}", site.config(), services.concat()));
    let (one, other) = (site.start_director(&one)?, second.start(&other)?);
    let both = [&one, &other];
    let mut sessions = open(&site.client, VIP)?;
    sessions.extend(open(&site.client, OTHER_VIP)?);
    all_go_on(&mut sessions, "together", both)?;
    wait_for_equality(both, 2 * SESSIONS)?;

    // Nothing of what they tell each other gets through, and each has one of the addresses.
    let nft = |commands: &str| run(site.director.command("nft").arg(commands)).map(drop);
    nft("add table inet split")?;
    nft("add chain inet split heard { type filter hook input priority 0; }")?;
    for port in ["sport", "dport"] {
        nft(&format!("add rule inet split heard tcp {port} {SYNC} drop"))?;
    }
    for director in both {
        let apart = || Ok(!director.sluice("status")?.contains("in step"));
        wait_for("them to lose each other", PATIENCE, apart).with_context(|| director.log())?;
    }
    site.router.ip(&[format!("route add {OTHER_VIP}/32 via 10.0.3.254")])?;
    all_go_on(&mut sessions, "apart", both)?;
    sessions.extend(open(&site.client, VIP)?);
    sessions.extend(open(&site.client, OTHER_VIP)?);
    all_go_on(&mut sessions, "more, apart", both)?;
    // Some end that both have: at the one that does not see it, it would live for long.
    sessions.drain(..SESSIONS / 2);
    ensure!(established(&other)?.len() >= 2 * SESSIONS, "{:?}", established(&other)?);

    nft("delete table inet split")?;
    all_go_on(&mut sessions, "together again", both)?;
    wait_for_equality(both, sessions.len())?;
    // One of them gets all again, and what the other began goes on there.
    site.router.ip(&[format!("route del {OTHER_VIP}/32 via 10.0.3.254")])?;
    all_go_on(&mut sessions, "at the first", both)?;
    site.router.ip(&["route replace 192.0.2.0/24 via 10.0.3.254"])?;
    all_go_on(&mut sessions, "at the second", both)?;
    for director in [one, other] {
        let (status, log) = director.stop()?;
        ensure!(status.success(), "{status}:\n{log}");
    }
    Ok(())
}

/// What it cannot write is lost, but for the last events, which are in memory.
#[test]
fn a_full_disk_for_logs_stops_nothing() -> Result<()> {
    if !lab::may_run("a_full_disk_for_logs_stops_nothing") {
        return Ok(());
    }
    let site = Site::new(SiteOptions::default())?;
    let _nginx = site.start_nginx()?;
    site.prepare_servers(Method::Nat)?;
    let (config, socket) = (site.dir().join("full.toml"), site.dir().join("full.sock"));
    std::fs::write(&config, site.config() + &site.service("tcp", 80, "rr", Method::Nat))?;
    // "No space left on device" for everything that is written there.
    let full = || OpenOptions::new().write(true).open("/dev/full");
    let sluice = sluice_binary()?.display().to_string();
    let mut command = site.director.command(&sluice);
    command.args(["run", "--config"]).arg(&config).arg("--socket").arg(&socket).env("SLUICE_LOG", "debug");
    let mut director = Process::start(command.stdout(full()?).stderr(full()?))?;
    let ask = |words: &[&str]| run(site.director.command(&sluice).args(words).env("SLUICE_SOCKET", &socket));
    wait_for("the director", PATIENCE, || {
        ensure!(director.ended()?.is_none(), "it ended");
        Ok(ask(&["status", "--healthy"]).is_ok())
    })?;
    // Things that it says something about.
    std::fs::write(&config, "[director]\ninterfaces = 7\n")?;
    director.signal(Signal::SIGHUP)?;
    wait_for("the reload to fail", PATIENCE, || Ok(ask(&["events", "--kind", "reload"])?.contains("not")))?;
    ask(&["role", "backup"])?;
    ask(&["role", "active"])?;
    let greetings = curl::greet(&site.client, &VIP.to_string(), 6)?;
    ensure!(greetings.failed == 0, "{} failed", greetings.failed);
    director.signal(Signal::SIGTERM)?;
    let status = director.wait(PATIENCE)?;
    ensure!(status.success(), "{status}");
    Ok(())
}
