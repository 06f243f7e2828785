//! What a director tells a service manager, with the capabilities of its unit.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sluice_bench::lab::site::{Method, VIP};
use sluice_bench::lab::{self, Process, Site, SiteOptions, curl, sluice_binary, wait_for};

const TIMEOUT: Duration = Duration::from_secs(30);

/// Where a service manager is told.
struct Told {
    socket: UnixDatagram,
    said: Vec<String>,
}

impl Told {
    /// Waits for a line, in whatever message it comes.
    fn wait(&mut self, wanted: impl Fn(&str) -> bool, what: &str) -> Result<String> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            if let Some(place) = self.said.iter().position(|line| wanted(line)) {
                // What came before it is of no interest any more.
                return Ok(self.said.drain(..=place).next_back().expect("it is there"));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "waited {TIMEOUT:?} for {what}");
            self.socket.set_read_timeout(Some(left))?;
            let mut message = [0; 1024];
            let length = self.socket.recv(&mut message).with_context(|| format!("waiting for {what}"))?;
            self.said.extend(String::from_utf8_lossy(&message[..length]).lines().map(str::to_owned));
        }
    }

    /// Waits for the main process's number, and that it is ready.
    fn wait_ready(&mut self) -> Result<i32> {
        let line = self.wait(|line| line.starts_with("MAINPID="), "a main process")?;
        self.wait(|line| line == "READY=1", "READY")?;
        Ok(line["MAINPID=".len()..].parse()?)
    }
}

/// The capabilities of the unit, as setpriv wants them.
fn capabilities() -> Result<String> {
    let unit = include_str!("../../configs/sluice.service");
    let line = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let names = line.context("the unit has no CapabilityBoundingSet")?.split_whitespace();
    let names: Vec<_> = names.filter_map(|name| name.strip_prefix("CAP_")).map(str::to_lowercase).collect();
    ensure!(!names.is_empty(), "the unit has no capabilities");
    Ok(names.iter().fold("-all".to_owned(), |all, name| all + ",+" + name))
}

#[test]
fn a_service_manager_is_told_and_has_the_new_process() -> Result<()> {
    if !lab::may_run("a_service_manager_is_told_and_has_the_new_process") {
        return Ok(());
    }
    let site = Site::new(SiteOptions::default())?;
    let _nginx = site.start_nginx()?;
    let config = site.dir().join("unit.toml");
    std::fs::write(&config, site.config() + &site.service("tcp", 80, "rr", Method::FullNat))?;
    let (socket, notify) = (site.dir().join("unit.sock"), site.dir().join("notify.sock"));
    let mut told = Told { socket: UnixDatagram::bind(&notify)?, said: Vec::new() };

    let mut command = site.director.command("setpriv");
    command.arg("--no-new-privs").arg(format!("--bounding-set={}", capabilities()?)).arg("--");
    command.arg(sluice_binary()?).args(["run", "--config"]).arg(&config).arg("--socket").arg(&socket);
    command.env("NOTIFY_SOCKET", &notify).env("WATCHDOG_USEC", "10000000");
    let mut first = Process::start(&mut command)?;
    ensure!(told.wait_ready()? == first.id() as i32, "another process says that it is the main one");
    told.wait(|line| line == "WATCHDOG=1", "a sign of life")?;
    let greet = || -> Result<()> {
        let greetings = curl::greet(&site.client, &VIP.to_string(), 6)?;
        ensure!(greetings.failed == 0, "{} failed", greetings.failed);
        Ok(())
    };
    greet()?;

    first.signal(Signal::SIGUSR2)?;
    let second = told.wait_ready()?;
    ensure!(second != first.id() as i32, "the same process says that it is ready");
    let status = first.wait(TIMEOUT)?;
    ensure!(status.success(), "the first process: {status}");
    greet()?;

    kill(Pid::from_raw(second), Signal::SIGTERM)?;
    told.wait(|line| line == "STOPPING=1", "STOPPING")?;
    wait_for("the end of the second process", TIMEOUT, || Ok(!socket.exists()))?;
    if site.director.xdp_program("eth0")?.is_some() {
        bail!("the second process left its program");
    }
    Ok(())
}
