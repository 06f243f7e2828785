//! A process takes the place of the one that runs, or fails to, and connections go on.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sluice_bench::conversations::{Conversations, EchoServer};
use sluice_bench::lab::site::{Method, VIP, server_address};
use sluice_bench::lab::{self, Director, Netns, Site, SiteOptions, curl, wait_for};

const PORT: u16 = 7;
const CONNECTIONS: usize = 200;
const INTERVAL: Duration = Duration::from_millis(100);
const TIMEOUT: Duration = Duration::from_secs(30);

/// What the new process says when it has the sockets of the former one, and when it has its own.
const SAME_SOCKETS: &str = "goes on with the sockets";
const OWN_SOCKETS: &str = "sockets are opened anew";

/// Kinds of frames on the connection of a takeover, with their lengths before.
const READY_FOR_SOCKETS: [u8; 6] = [0, 0, 0, 2, 2, 1];
const READY_WITHOUT: [u8; 6] = [0, 0, 0, 2, 2, 0];
const YOURS: u8 = 3;
const FORWARDS: [u8; 5] = [0, 0, 0, 1, 7];
const COUNTED: u8 = 8;

/// A site with connections that talk all the time.
struct Talk {
    // Dropped in this order: servers have descriptors of the process, by whose end it is known to be gone.
    conversations: Conversations,
    servers: Vec<EchoServer>,
    site: Site,
}

impl Talk {
    fn start(method: Method, queues: u32) -> Result<(Self, Director)> {
        Self::start_with(method, queues, |site| Ok(site.config()))
    }

    /// With connections carried in the kernel.
    fn start_carried(method: Method, queues: u32) -> Result<(Self, Director)> {
        let (talk, director) = Self::start_with(method, queues, |site| {
            site.take_redirects()?;
            Ok(site.config_carried() + &site.service("udp", PORT, "rr", method))
        })?;
        wait_for("connections to be carried", TIMEOUT, || {
            Ok(of_offload(&director, "connections")? == CONNECTIONS as u64)
        })
        .with_context(|| director.log())?;
        Ok((talk, director))
    }

    fn start_with(
        method: Method,
        queues: u32,
        config: impl Fn(&Site) -> Result<String>,
    ) -> Result<(Self, Director)> {
        let site = Site::new(SiteOptions { queues, ..SiteOptions::default() })?;
        site.prepare_servers(method)?;
        let address = |number| match method.replies_bypass() {
            true => SocketAddr::from((VIP, PORT)),
            false => SocketAddr::from((server_address(number), PORT)),
        };
        let servers = site.servers.iter().zip(1..);
        let servers = servers.map(|(netns, number)| EchoServer::start(netns, address(number)));
        let servers = servers.collect::<Result<Vec<_>>>()?;
        let director = site.start_director(&(config(&site)? + &site.service("tcp", PORT, "rr", method)))?;
        let conversations = Conversations::start(&site.client, (VIP, PORT).into(), CONNECTIONS, INTERVAL)
            .with_context(|| director.log())?;
        Ok((Self { conversations, servers, site }, director))
    }

    /// The director goes on although so many others tried to take its place.
    fn goes_on_alone(&self, director: &Director, times: usize) -> Result<()> {
        let said = || Ok(director.log().matches("this process goes on").count() == times);
        wait_for("the director to go on", TIMEOUT, said)?;
        self.goes_on(director)
    }

    /// Every connection goes on, and a new one comes about.
    fn goes_on(&self, director: &Director) -> Result<()> {
        self.conversations.settle(Instant::now(), TIMEOUT).with_context(|| director.log())?;
        let resets = self.servers.iter().map(EchoServer::resets).sum::<u64>() + self.conversations.resets();
        ensure!(resets == 0, "{resets} connections broke; the director said:\n{}", director.log());
        let new = Conversations::start(&self.site.client, (VIP, PORT).into(), 4, INTERVAL);
        new.map(drop).with_context(|| director.log())
    }
}

fn is_taken_over(method: Method) -> Result<()> {
    // One after the other: how connections are spread between workers is another each time.
    let (talk, mut director) = Talk::start(method, 2)?;
    for _ in 0..3 {
        director = director.taken_over()?;
        ensure!(director.log().contains(SAME_SOCKETS), "it said:\n{}", director.log());
        talk.goes_on(&director)?;
    }
    let (status, log) = director.stop()?;
    ensure!(status.success(), "{status}:\n{log}");
    for interface in ["eth0", "eth1"] {
        ensure!(talk.site.director.xdp_program(interface)?.is_none(), "{interface} has a program yet");
    }
    Ok(())
}

#[test]
fn nat_is_taken_over_with_two_workers() -> Result<()> {
    if lab::may_run("nat_is_taken_over_with_two_workers") { is_taken_over(Method::Nat) } else { Ok(()) }
}

#[test]
fn fullnat_is_taken_over_with_two_workers() -> Result<()> {
    if lab::may_run("fullnat_is_taken_over_with_two_workers") {
        is_taken_over(Method::FullNat)
    } else {
        Ok(())
    }
}

#[test]
fn dr_is_taken_over_with_two_workers() -> Result<()> {
    if lab::may_run("dr_is_taken_over_with_two_workers") { is_taken_over(Method::Dr) } else { Ok(()) }
}

#[test]
fn tun_is_taken_over_with_two_workers() -> Result<()> {
    if lab::may_run("tun_is_taken_over_with_two_workers") { is_taken_over(Method::Tun) } else { Ok(()) }
}

/// Frames of the former process would not hold what may come.
#[test]
fn with_a_larger_mtu_sockets_are_opened_anew() -> Result<()> {
    if !lab::may_run("with_a_larger_mtu_sockets_are_opened_anew") {
        return Ok(());
    }
    let (talk, director) = Talk::start(Method::FullNat, 1)?;
    talk.site.router.ip(&["link set director mtu 3000"])?;
    talk.site.director.ip(&["link set eth0 mtu 3000"])?;
    let director = director.taken_over()?;
    ensure!(director.log().contains(OWN_SOCKETS), "it said:\n{}", director.log());
    talk.goes_on(&director)?;
    let director = director.taken_over()?;
    ensure!(director.log().contains(SAME_SOCKETS), "it said:\n{}", director.log());
    talk.goes_on(&director)
}

/// A process that begins to take a director's place.
struct Beginner(BufReader<UnixStream>);

impl Beginner {
    fn ask(director: &Director) -> Result<Self> {
        Self::ask_by(director, r#"{"interfaces":["eth0","eth1"],"sockets":true}"#)
    }

    fn ask_by(director: &Director, body: &str) -> Result<Self> {
        let mut stream = UnixStream::connect(director.socket())?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let head = "POST /v1/takeover HTTP/1.1\r\nhost: sluice\r\nconnection: upgrade\r\n\
                    upgrade: sluice-takeover\r\ncontent-type: application/json\r\n";
        stream.write_all(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes())?;
        let mut reader = BufReader::new(stream);
        let mut answer = String::new();
        while !answer.ends_with("\r\n\r\n") {
            ensure!(reader.read_line(&mut answer)? > 0, "it ended after {answer:?}");
        }
        ensure!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        Ok(Self(reader))
    }

    fn say(&mut self, frame: &[u8]) -> Result<()> {
        Ok(self.0.get_mut().write_all(frame)?)
    }

    /// Waits until the director has left its sockets.
    fn wait_for_queues(&mut self) -> Result<()> {
        self.wait_for(YOURS)
    }

    fn wait_for(&mut self, kind: u8) -> Result<()> {
        loop {
            let mut length = [0; 4];
            self.0.read_exact(&mut length)?;
            let mut frame = vec![0; u32::from_be_bytes(length) as usize];
            self.0.read_exact(&mut frame)?;
            if frame.first() == Some(&kind) {
                return Ok(());
            }
        }
    }
}

#[test]
fn who_fails_to_take_over_leaves_the_director_as_it_was() -> Result<()> {
    if !lab::may_run("who_fails_to_take_over_leaves_the_director_as_it_was") {
        return Ok(());
    }
    for ready in [None, Some(READY_FOR_SOCKETS), Some(READY_WITHOUT)] {
        let (talk, mut director) = Talk::start(Method::FullNat, 1)?;
        let mut beginner = Beginner::ask(&director)?;
        if let Some(ready) = ready {
            beginner.say(&ready)?;
            beginner.wait_for_queues()?;
        }
        drop(beginner);
        talk.goes_on_alone(&director, 1)?;
        // Somebody else may, and changes are allowed again.
        director.ipvsadm(&format!("-a -t {VIP}:{PORT} -r 10.0.2.9:{PORT} -b -w 0"))?;
        director = director.taken_over()?;
        talk.goes_on(&director)?;
        ensure!(director.ipvsadm("-Ln")?.contains("10.0.2.9"), "{}", director.ipvsadm("-Ln")?);
    }
    Ok(())
}

#[test]
fn a_file_that_cannot_be_used_leaves_the_director_as_it_was() -> Result<()> {
    if !lab::may_run("a_file_that_cannot_be_used_leaves_the_director_as_it_was") {
        return Ok(());
    }
    let (talk, director) = Talk::start(Method::Nat, 1)?;
    let text = std::fs::read_to_string(director.config())?;
    std::fs::write(director.config(), text.replace("\"eth1\"", "\"lo\""))?;
    let mut command = talk.site.director.command(&lab::sluice_binary()?.display().to_string());
    command.args(["run", "--takeover", "--config"]).arg(director.config());
    let output = command.arg("--socket").arg(director.socket()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && said.contains("has no interface lo"), "{}: {said}", output.status);
    talk.goes_on(&director)
}

/// Servers as `ipvsadm -Ln` has them, with their weights.
fn listed(director: &Director) -> Result<Vec<String>> {
    let text = director.ipvsadm("-L -n")?;
    let servers = text.lines().filter_map(|line| {
        let mut words = line.trim().strip_prefix("-> 10.")?.split_whitespace();
        Some(format!("{} {}", words.next()?, words.nth(1)?))
    });
    let mut servers: Vec<_> = servers.collect();
    servers.sort();
    Ok(servers)
}

#[test]
fn health_and_counters_are_taken_over() -> Result<()> {
    if !lab::may_run("health_and_counters_are_taken_over") {
        return Ok(());
    }
    let site = Site::new(SiteOptions::default())?;
    let nginx = site.start_nginx()?;
    site.prepare_servers(Method::Nat)?;
    nginx.iter().try_for_each(|nginx| nginx.set_health("OK"))?;
    let mut config = site.config() + &site.service("tcp", 80, "rr", Method::Nat);
    config = config.replace(
        "scheduler = \"rr\"\n",
        "scheduler = \"rr\"\n[[service.check]]\nkind = \"http\"\npath = \"/.health.html\"\n\
         matches = \"^OK$\"\ninterval = 0.2\njitter = 0.02\ntimeout = 1\n",
    );
    let director = site.start_director(&config)?;
    let wait_listed = |director: &Director, wanted: &[&str]| {
        wait_for(&format!("{wanted:?}"), TIMEOUT, || Ok(listed(director)? == wanted))
            .with_context(|| format!("{:?}; {}", listed(director), director.log()))
    };
    let (all, fewer) = (["0.2.1:80 1", "0.2.2:80 1", "0.2.3:80 1"], ["0.2.1:80 1", "0.2.3:80 1"]);
    wait_listed(&director, &all)?;
    let greetings = curl::greet(&site.client, &VIP.to_string(), 12)?;
    ensure!(greetings.failed == 0, "{} failed", greetings.failed);
    nginx[1].set_health("no")?;
    wait_listed(&director, &fewer)?;
    let before = director.ipvsadm("-L -n --stats --exact")?;

    let director = director.taken_over()?;
    // At once: nobody waits for its checks to fail again.
    let now = listed(&director)?;
    ensure!(now == fewer, "{now:?}; {}", director.log());
    let after = director.ipvsadm("-L -n --stats --exact")?;
    ensure!(before == after, "{before}\n{after}");
    nginx[1].set_health("OK")?;
    wait_listed(&director, &all)
}

/// A number of what the status says of the kernel's part.
fn of_offload(director: &Director, name: &str) -> Result<u64> {
    let status: serde_json::Value = serde_json::from_str(&director.sluice("status --json")?)?;
    status["offload"][name].as_u64().with_context(|| format!("no {name} in {status}"))
}

/// Packets that came to workers.
fn received(director: &Director) -> Result<u64> {
    let status: serde_json::Value = serde_json::from_str(&director.sluice("status --json")?)?;
    let workers = status["workers"].as_array().context("no workers")?;
    Ok(workers.iter().filter_map(|worker| worker["received"].as_u64()).sum())
}

/// Datagrams that go to a server and back, one after the other, by some sockets: all of them are counted here.
struct Datagrams {
    stop: Arc<AtomicBool>,
    senders: Vec<JoinHandle<Result<u64>>>,
    // Until no sender waits for them.
    _servers: Vec<Server>,
}

/// A server that sends datagrams back until this is dropped.
struct Server(Arc<AtomicBool>);

impl Server {
    fn start(netns: &Netns, address: SocketAddr) -> Result<Self> {
        let socket = bind(netns, address)?;
        let stop = Arc::<AtomicBool>::default();
        let server = Self(Arc::clone(&stop));
        std::thread::spawn(move || {
            let mut words = [0; 64];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut words) {
                    let _ = socket.send_to(&words[..length], from);
                }
            }
        });
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

const SOCKETS: usize = 4;

impl Datagrams {
    fn start(site: &Site, method: Method) -> Result<Self> {
        let servers = site.servers.iter().zip(1..).map(|(netns, number)| {
            let address = if method.replies_bypass() { VIP } else { server_address(number) };
            Server::start(netns, (address, PORT).into())
        });
        let servers = servers.collect::<Result<_>>()?;
        let stop = Arc::<AtomicBool>::default();
        let mut senders = Vec::new();
        for _ in 0..SOCKETS {
            let socket = bind(&site.client, ([0; 4], 0).into())?;
            socket.connect((VIP, PORT))?;
            let stop = Arc::clone(&stop);
            senders.push(std::thread::spawn(move || {
                let (mut words, mut sent) = ([0; 64], 0);
                while !stop.load(Ordering::Relaxed) {
                    socket.send(&[7; 20])?;
                    sent += 1;
                    socket.recv(&mut words).context("a datagram was lost")?;
                    std::thread::sleep(Duration::from_micros(500));
                }
                Ok(sent)
            }));
        }
        Ok(Self { stop, senders, _servers: servers })
    }

    /// How many there were; all came back.
    fn end(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.senders.drain(..).map(|sender| sender.join().expect("it does not panic")).sum()
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn bind(netns: &Netns, address: SocketAddr) -> Result<UdpSocket> {
    let socket = netns.enter(|| UdpSocket::bind(address))??;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    Ok(socket)
}

/// Packets and bytes in and out of the service of datagrams.
fn datagrams_counted(director: &Director) -> Result<[u64; 4]> {
    let text = director.ipvsadm("-Ln --stats --exact")?;
    let line = text.lines().find(|line| line.starts_with("UDP")).with_context(|| text.clone())?;
    let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [.., in_packets, out_packets, in_bytes, out_bytes] = numbers.as_slice() else {
        anyhow::bail!("{text}")
    };
    Ok([*in_packets, *out_packets, *in_bytes, *out_bytes])
}

/// Connections that the kernel carries are carried by one process's program and then by the other's, and come to no
/// worker; and each packet is counted once.
fn carries_on(method: Method) -> Result<()> {
    let (talk, mut director) = Talk::start_carried(method, 2)?;
    let datagrams = Datagrams::start(&talk.site, method)?;
    let all = (CONNECTIONS + SOCKETS) as u64;
    wait_for(
        "flows of datagrams to be carried",
        TIMEOUT,
        || Ok(of_offload(&director, "connections")? == all),
    )
    .with_context(|| director.log())?;
    for _ in 0..2 {
        director = director.taken_over()?;
        ensure!(director.log().contains(SAME_SOCKETS), "it said:\n{}", director.log());
        ensure!(director.log().contains(&format!("carried={all}")), "it said:\n{}", director.log());
        talk.conversations.settle(Instant::now(), TIMEOUT).with_context(|| director.log())?;
        let carried = || Ok(of_offload(&director, "packets")? > 10 * all);
        wait_for("packets to be carried", TIMEOUT, carried).with_context(|| director.log())?;
        // One of each would be more than that.
        let came = received(&director)?;
        ensure!(came < all / 2, "{came} packets came to workers; the director said:\n{}", director.log());
        ensure!(of_offload(&director, "connections")? == all, "it said:\n{}", director.log());
    }
    let sent = datagrams.end().with_context(|| director.log())?;
    let replies = if method.replies_bypass() { 0 } else { sent };
    // IP and UDP headers, and 20 bytes.
    let expected = [sent, replies, sent * 48, replies * 48];
    wait_for("all to be counted", TIMEOUT, || Ok(datagrams_counted(&director)? == expected))
        .with_context(|| format!("{expected:?} are {:?}", datagrams_counted(&director)))?;
    talk.goes_on(&director)
}

#[test]
fn fullnat_is_carried_on() -> Result<()> {
    if lab::may_run("fullnat_is_carried_on") { carries_on(Method::FullNat) } else { Ok(()) }
}

#[test]
fn dr_is_carried_on() -> Result<()> {
    if lab::may_run("dr_is_carried_on") { carries_on(Method::Dr) } else { Ok(()) }
}

#[test]
fn who_fails_to_take_over_leaves_connections_carried() -> Result<()> {
    if !lab::may_run("who_fails_to_take_over_leaves_connections_carried") {
        return Ok(());
    }
    let (talk, director) = Talk::start_carried(Method::FullNat, 1)?;
    let attempts = [
        (None, false),
        (Some(READY_FOR_SOCKETS), false),
        (Some(READY_WITHOUT), false),
        (Some(READY_FOR_SOCKETS), true),
    ];
    for (times, (ready, forwards)) in (1..).zip(attempts) {
        let before = received(&director)?;
        let mut beginner =
            Beginner::ask_by(&director, r#"{"interfaces":["eth0","eth1"],"sockets":true,"version":2}"#)?;
        if let Some(ready) = ready {
            beginner.say(&ready)?;
            beginner.wait_for_queues()?;
        }
        if forwards {
            beginner.say(&FORWARDS)?;
            beginner.wait_for(COUNTED)?;
        }
        drop(beginner);
        talk.goes_on_alone(&director, times)?;
        let packets = of_offload(&director, "packets")?;
        let carried = || {
            let connections = of_offload(&director, "connections")?;
            Ok(connections == CONNECTIONS as u64 && of_offload(&director, "packets")? > packets)
        };
        wait_for("connections to be carried", TIMEOUT, carried).with_context(|| director.log())?;
        // Those that open connections and end them are some.
        let came = received(&director)? - before;
        ensure!(forwards || came < CONNECTIONS as u64, "{came} packets came to the worker");
    }
    Ok(())
}
