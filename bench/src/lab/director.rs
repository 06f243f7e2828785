//! A running director.

use std::io::{BufRead, BufReader, PipeReader};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::Signal;

use super::Netns;
use super::process::{Process, run};

const START_TIMEOUT: Duration = Duration::from_secs(20);
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The `sluice` to try: `SLUICE_BIN`, else the one built beside the running program.
///
/// # Errors
/// When there is none.
pub fn sluice_binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("SLUICE_BIN").map(PathBuf::from) {
        return path
            .canonicalize()
            .with_context(|| format!("SLUICE_BIN is {}, which is not there", path.display()));
    }
    let this = std::env::current_exe()?;
    // Programs are in target/PROFILE, tests in target/PROFILE/deps.
    let candidates = this.ancestors().skip(1).take(2).map(|dir| dir.join("sluice"));
    candidates.clone().find(|path| path.is_file()).ok_or_else(|| {
        anyhow!("no sluice beside {}: run `cargo build --workspace` or set SLUICE_BIN", this.display())
    })
}

#[derive(Debug, Default)]
struct Log {
    state: Mutex<LogState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct LogState {
    text: String,
    ready: bool,
    closed: bool,
}

impl Log {
    fn collect(&self, pipe: PipeReader) {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            let mut state = self.state.lock().expect("no reader panics");
            state.ready |= line.trim() == "ready";
            state.text += &line;
            state.text.push('\n');
            self.changed.notify_all();
        }
        self.state.lock().expect("no reader panics").closed = true;
        self.changed.notify_all();
    }
}

/// A director, killed when this is dropped.
#[derive(Debug)]
pub struct Director {
    process: Process,
    netns: Netns,
    socket: PathBuf,
    config: PathBuf,
    log: Arc<Log>,
}

impl Director {
    /// Starts `sluice run` inside and waits for its `ready`.
    ///
    /// # Errors
    /// When it ends or says nothing instead; the error has its log.
    pub fn start(netns: &Netns, dir: &Path, config: &str) -> Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!("director-{number}.toml"));
        let socket = dir.join(format!("director-{number}.sock"));
        std::fs::write(&path, config).with_context(|| format!("cannot write {}", path.display()))?;
        Self::run(netns, socket, path, &[])
    }

    fn run(netns: &Netns, socket: PathBuf, path: PathBuf, options: &[&str]) -> Result<Self> {
        let (reader, writer) = std::io::pipe()?;
        let mut command = netns.command(&sluice_binary()?.display().to_string());
        command.args(["run", "--config"]).arg(&path).arg("--socket").arg(&socket).args(options);
        command.stdout(writer.try_clone()?).stderr(writer);
        let process = Process::start(&mut command)?;
        // The command holds the pipe's writing end too, which would keep it open after the director's end.
        drop(command);
        let log = Arc::new(Log::default());
        std::thread::Builder::new().name("director-log".into()).spawn({
            let log = Arc::clone(&log);
            move || log.collect(reader)
        })?;
        let director = Self { process, netns: netns.clone(), socket, config: path, log };
        director.wait_ready()?;
        Ok(director)
    }

    /// Has another process take its place by `--takeover`, with what is in its configuration file now, and waits until
    /// this one has ended.
    ///
    /// # Errors
    /// When the other one does not become ready, or this one fails or stays; the error has their logs.
    pub fn taken_over(mut self) -> Result<Self> {
        let new = Self::run(&self.netns, self.socket.clone(), self.config.clone(), &["--takeover"])
            .with_context(|| format!("the former one said:\n{}", self.log()))?;
        let status = self.process.wait(STOP_TIMEOUT).with_context(|| format!("it said:\n{}", self.log()))?;
        if !status.success() {
            bail!("{status}:\n{}", self.log());
        }
        Ok(new)
    }

    fn wait_ready(&self) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        let mut state = self.log.state.lock().expect("no reader panics");
        while !state.ready {
            let left = deadline.saturating_duration_since(Instant::now());
            if state.closed || left.is_zero() {
                let what = if state.closed { "ended" } else { "was not ready in time" };
                bail!("the director {what}; it said:\n{}", state.text);
            }
            state = self.log.changed.wait_timeout(state, left).expect("no reader panics").0;
        }
        Ok(())
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Its API socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its configuration file.
    #[must_use]
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// What it has said so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.state.lock().expect("no reader panics").text.clone()
    }

    /// Runs `sluice ipvsadm` against it and returns what that printed.
    ///
    /// # Errors
    /// When it exits other than 0.
    pub fn ipvsadm(&self, line: &str) -> Result<String> {
        run(&mut self.ipvsadm_command(line)?).with_context(|| format!("ipvsadm {line}"))
    }

    /// Runs `sluice ipvsadm` against it, for when failing is what is expected.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn try_ipvsadm(&self, line: &str) -> Result<Output> {
        Ok(self.ipvsadm_command(line)?.stdout(Stdio::piped()).stderr(Stdio::piped()).output()?)
    }

    /// Runs any command of `sluice` against it and returns what that printed.
    ///
    /// # Errors
    /// When it exits other than 0.
    pub fn sluice(&self, line: &str) -> Result<String> {
        let mut command = self.netns.command(&sluice_binary()?.display().to_string());
        command.args(line.split_whitespace()).env("SLUICE_SOCKET", &self.socket);
        run(&mut command).with_context(|| format!("sluice {line}"))
    }

    /// Connections in the tables of all workers.
    ///
    /// # Errors
    /// When the director does not say.
    pub fn connections(&self) -> Result<u64> {
        let status: serde_json::Value = serde_json::from_str(&self.sluice("status --json")?)?;
        let workers = status["workers"].as_array().context("a status without workers")?;
        Ok(workers.iter().filter_map(|worker| worker["connections"].as_u64()).sum())
    }

    /// Connections that the kernel carries.
    ///
    /// # Errors
    /// When the director does not say.
    pub fn offloaded(&self) -> Result<u64> {
        let status: serde_json::Value = serde_json::from_str(&self.sluice("status --json")?)?;
        Ok(status["offload"]["connections"].as_u64().unwrap_or(0))
    }

    /// Packets that the kernel carried.
    ///
    /// # Errors
    /// When the director does not say.
    pub fn carried(&self) -> Result<u64> {
        let status: serde_json::Value = serde_json::from_str(&self.sluice("status --json")?)?;
        Ok(status["offload"]["packets"].as_u64().unwrap_or(0))
    }

    /// Time that its first worker had a CPU, from `/proc/PID/task/TID/stat` (proc(5)).
    ///
    /// # Errors
    /// When there is no such thread.
    pub fn worker_time(&self) -> Result<Duration> {
        const TICK: Duration = Duration::from_millis(10);
        for task in std::fs::read_dir(format!("/proc/{}/task", self.id()))? {
            let stat = std::fs::read_to_string(task?.path().join("stat"))?;
            let Some((name, fields)) = stat.rsplit_once(')') else { continue };
            if name.ends_with("(worker-0") {
                let times: Vec<u32> =
                    fields.split_whitespace().skip(11).take(2).filter_map(|time| time.parse().ok()).collect();
                return Ok(TICK * times.iter().sum::<u32>());
            }
        }
        bail!("the director has no worker")
    }

    fn ipvsadm_command(&self, line: &str) -> Result<std::process::Command> {
        let mut command = self.netns.command(&sluice_binary()?.display().to_string());
        command.arg("ipvsadm").args(line.split_whitespace()).env("SLUICE_SOCKET", &self.socket);
        Ok(command)
    }

    /// Ends it by SIGTERM and returns its exit status and log.
    ///
    /// # Errors
    /// When it is still there after ten seconds.
    pub fn stop(mut self) -> Result<(ExitStatus, String)> {
        self.process.signal(Signal::SIGTERM)?;
        let status = self.process.wait(STOP_TIMEOUT).with_context(|| format!("it said:\n{}", self.log()))?;
        let mut state = self.log.state.lock().expect("no reader panics");
        while !state.closed {
            state = self.log.changed.wait(state).expect("no reader panics");
        }
        let text = state.text.clone();
        drop(state);
        Ok((status, text))
    }

    /// Ends it by SIGKILL, and returns when it is gone.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(mut self) -> Result<()> {
        self.process.child().kill()?;
        self.process.child().wait()?;
        Ok(())
    }

    /// True while it runs.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.process.ended()?.is_none())
    }
}
