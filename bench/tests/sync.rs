//! Two directors that tell each other of their connections: what one has appears at the other, and goes on there.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sluice_bench::lab::echo::{self, Session};
use sluice_bench::lab::ftp::PASSIVE_PORTS;
use sluice_bench::lab::site::{Method, VIP};
use sluice_bench::lab::{self, Director, Netns, Second, Site, SiteOptions, run, sluice_binary, wait_for};

const PLAIN: u16 = 7000;
const PERSISTENT: u16 = 7001;
const SESSIONS: usize = 40;
const PATIENCE: Duration = Duration::from_secs(20);

/// Everything that a director has, without what differs from second to second.
fn table(director: &Director) -> Result<Vec<String>> {
    let listed = director.sluice("connections --json")?;
    let connection = |line: &str| {
        let mut connection: serde_json::Value = serde_json::from_str(line)?;
        connection.as_object_mut().context("no object")?.remove("expires");
        anyhow::Ok(connection.to_string())
    };
    let mut table = listed.lines().map(connection).collect::<Result<Vec<_>>>()?;
    table.sort_unstable();
    Ok(table)
}

fn wait_for_equality(one: &Director, other: &Director, least: usize) -> Result<Vec<String>> {
    let mut equal = Vec::new();
    wait_for("the same connections at both", PATIENCE, || {
        equal = table(one)?;
        Ok(equal.len() >= least && equal == table(other)?)
    })
    .with_context(|| {
        let show = |director: &Director| {
            let (status, listed) = (director.sluice("status"), director.ipvsadm("-Lnc"));
            format!("{}\n{}", status.unwrap_or_default(), listed.unwrap_or_default())
        };
        format!("one:\n{}\nthe other:\n{}", show(one), show(other))
    })?;
    Ok(equal)
}

/// A client of FTP that stays.
struct FtpClient {
    netns: Netns,
    control: BufReader<TcpStream>,
}

impl FtpClient {
    fn log_in(netns: &Netns) -> Result<Self> {
        let control = connect(netns, SocketAddr::from((VIP, 21)))?;
        let mut client = FtpClient { netns: netns.clone(), control: BufReader::new(control) };
        client.answer("220")?;
        client.command("USER anonymous", "230")?;
        Ok(client)
    }

    fn command(&mut self, line: &str, expected: &str) -> Result<String> {
        self.control.get_mut().write_all(format!("{line}\r\n").as_bytes())?;
        self.answer(expected)
    }

    fn answer(&mut self, expected: &str) -> Result<String> {
        let mut line = String::new();
        self.control.read_line(&mut line).context("no answer")?;
        ensure!(line.starts_with(expected), "{line:?} instead of {expected}");
        Ok(line)
    }

    /// Gets a file in passive mode. Where replies pass the director, the server's address became the virtual one in
    /// what the client sees, which is of another length.
    fn get(&mut self, name: &str) -> Result<String> {
        let answer = self.command("PASV", "227")?;
        let numbers =
            answer.split_once('(').and_then(|(_, rest)| rest.split_once(')')).context("no address")?.0;
        let numbers: Vec<u8> = numbers.split(',').map(str::parse).collect::<Result<_, _>>()?;
        let [a, b, c, d, high, low] = numbers[..] else { anyhow::bail!("{answer:?}") };
        let address = SocketAddr::from((Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low])));
        ensure!(address.ip() == VIP, "{address} is not the virtual address");
        let mut data = connect(&self.netns, address)?;
        self.command(&format!("RETR {name}"), "150")?;
        let mut text = String::new();
        data.read_to_string(&mut text)?;
        self.answer("226")?;
        Ok(text)
    }
}

fn connect(netns: &Netns, to: SocketAddr) -> Result<TcpStream> {
    let stream = netns.enter(|| TcpStream::connect_timeout(&to, Duration::from_secs(3)))??;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

#[test]
fn connections_go_on_at_the_other_director() -> Result<()> {
    if !lab::may_run("connections_go_on_at_the_other_director") {
        return Ok(());
    }
    let site = Site::new(SiteOptions::default())?;
    site.make_blob(1000)?;
    let _ftp = site.start_ftp()?;
    for (server, number) in site.servers.iter().zip(1..) {
        for port in [PLAIN, PERSISTENT] {
            echo::serve(server, SocketAddr::from((Ipv4Addr::new(10, 0, 2, number), port)))?;
        }
    }
    let second = Second::new(&site)?;
    let sluice = sluice_binary()?;
    run(Command::new(&sluice).arg("sync-key").arg(site.dir().join("sync.key")))?;
    let method = Method::FullNat;
    let persistent = site
        .service("tcp", PERSISTENT, "rr", method)
        .replace("scheduler = \"rr\"\n", "scheduler = \"rr\"\npersistent = 300\n");
    let services = format!(
        "{}{persistent}{}",
        site.service("tcp", PLAIN, "rr", method),
        site.service("tcp", 21, "rr", method)
    );
    let idle = if site.config().contains("idle = ") { "" } else { "idle = \"sleep\"\n" };
    let configs = second.sync().map(|sync| {
        format!("{}{idle}ftp_passive_ports = \"{PASSIVE_PORTS}\"\n{sync}{services}", site.config())
    });
    let first = site.start_director(&configs[0])?;
    let other = second.start(&configs[1])?;

    let vip = |port| SocketAddr::from((VIP, port));
    let mut sessions =
        (0..SESSIONS).map(|_| Session::open(&site.client, vip(PLAIN))).collect::<Result<Vec<_>>>()?;
    sessions.push(Session::open(&site.client, vip(PERSISTENT))?);
    let mut ftp = FtpClient::log_in(&site.client)?;
    let name = ftp.get("name")?;
    for session in &mut sessions {
        session.say("by the first")?;
    }
    // The template too, and the local addresses and ports with the rest.
    let equal = wait_for_equality(&first, &other, SESSIONS + 3)?;
    ensure!(equal.iter().filter(|line| line.contains("10.0.2.200")).count() > SESSIONS, "{equal:#?}");
    ensure!(other.ipvsadm("-Lnc")?.contains("10.0.0.1:0 "), "no template in {equal:#?}");
    let status = other.sluice("status")?;
    ensure!(status.contains("sync from 10.0.2.254:7946: in step"), "{status}");

    // Some end: both take note.
    sessions.drain(..SESSIONS / 2);
    wait_for_equality(&first, &other, SESSIONS / 2)?;

    second.take_over()?;
    first.kill()?;
    for session in &mut sessions {
        session.say("by the other").with_context(|| format!("the other said:\n{}", other.log()))?;
    }
    ensure!(ftp.get("name")? == name, "another server has the connection");
    // By its template, a new connection goes to the same server.
    sessions.push(Session::open(&site.client, vip(PERSISTENT))?);
    let listed =
        other.sluice(&format!("connections --json --service {VIP}:{PERSISTENT} --state ESTABLISHED"))?;
    let servers: Vec<_> = listed
        .lines()
        .map(|line| anyhow::Ok(serde_json::from_str::<serde_json::Value>(line)?["server"].to_string()))
        .collect::<Result<_>>()?;
    ensure!(servers.len() == 2 && servers[0] == servers[1], "{listed}");

    // The first comes back with nothing, and has everything.
    second.join()?;
    let first = site.start_director(&configs[0])?;
    wait_for_equality(&other, &first, SESSIONS / 2 + 4)?;
    for session in &mut sessions {
        session.say("still")?;
    }
    for director in [first, other] {
        let (status, log) = director.stop()?;
        ensure!(status.success(), "{status}:\n{log}");
    }
    Ok(())
}

#[test]
fn a_director_with_another_key_is_told_nothing() -> Result<()> {
    if !lab::may_run("a_director_with_another_key_is_told_nothing") {
        return Ok(());
    }
    let site = Site::new(SiteOptions::default())?;
    echo::serve(&site.servers[0], SocketAddr::from((Ipv4Addr::new(10, 0, 2, 1), PLAIN)))?;
    let second = Second::new(&site)?;
    let sluice = sluice_binary()?;
    let keys = ["sync.key", "another.key"].map(|name| site.dir().join(name));
    for key in &keys {
        run(Command::new(&sluice).arg("sync-key").arg(key))?;
    }
    let service = format!(
        "\n[[service]]\naddress = \"{VIP}:{PLAIN}\"\nprotocol = \"tcp\"\nscheduler = \"rr\"\n\
         \n[[service.server]]\naddress = \"10.0.2.1:{PLAIN}\"\nmethod = \"fullnat\"\nweight = 1\n"
    );
    let idle = if site.config().contains("idle = ") { "" } else { "idle = \"sleep\"\n" };
    let [one, other] = second.sync().map(|sync| format!("{}{idle}{sync}{service}", site.config()));
    let first = site.start_director(&one)?;
    let second = second.start(&other.replace("sync.key", "another.key"))?;
    let mut session = Session::open(&site.client, SocketAddr::from((VIP, PLAIN)))?;
    session.say("to the first")?;
    for director in [&first, &second] {
        wait_for("a clear word", PATIENCE, || Ok(director.log().contains("key is another one")))
            .with_context(|| director.log())?;
        let status = director.sluice("status")?;
        ensure!(!status.contains("in step"), "{status}");
    }
    ensure!(table(&second)?.is_empty(), "{:?}", table(&second)?);
    ensure!(second.sluice("events --kind sync")?.contains("key is another one"), "no event");
    Ok(())
}
