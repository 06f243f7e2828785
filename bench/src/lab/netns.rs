//! One network namespace.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns};

use super::link::Counters;
use super::process::{die_with_parent, run};

/// A network namespace that `ip netns` knows by name. Removed by its lab's guard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Netns {
    name: String,
}

impl Netns {
    pub(super) fn add(name: &str) -> Result<Self> {
        run(Command::new("ip").args(["netns", "add", name]))?;
        Ok(Self { name: name.to_owned() })
    }

    /// One that may not be there, for tests of texts.
    #[cfg(test)]
    pub(super) fn named(name: &str) -> Self {
        Self { name: name.to_owned() }
    }

    /// The name, as in `ip netns exec NAME`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that runs inside, with its own `/sys`, and dies with the calling thread.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command.stdin(Stdio::null());
        die_with_parent(&mut command);
        command
    }

    /// Runs lines of `ip` inside, as `ip -batch` does: each without the leading `ip`.
    ///
    /// # Errors
    /// At the first line that fails, with what `ip` said.
    pub fn ip(&self, lines: &[impl AsRef<str>]) -> Result<()> {
        ip_batch(&["-n", &self.name], lines)
    }

    /// What one `ip` command prints.
    ///
    /// # Errors
    /// When it fails.
    pub fn ip_show(&self, words: &[&str]) -> Result<String> {
        run(Command::new("ip").args(["-n", &self.name]).args(words))
    }

    /// Runs a closure on a thread of its own inside: sockets, XDP attachments and interface names are this namespace's.
    /// Sockets stay in the namespace that they were made in, so they may be returned.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    ///
    /// # Panics
    /// When the closure does.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.join_thread()?;
                Ok(work())
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread into the namespace, for good.
    ///
    /// # Errors
    /// When the namespace is gone.
    pub fn join_thread(&self) -> Result<()> {
        let path = PathBuf::from("/run/netns").join(&self.name);
        let file = File::open(&path).with_context(|| format!("no namespace {}", path.display()))?;
        setns(&file, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("cannot enter namespace {}", self.name))
    }

    /// Sets a sysctl of the namespace, for example `net.ipv4.ip_forward`.
    ///
    /// # Errors
    /// When there is none of that name, or it does not take the value.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        // /proc/sys/net is the reader's namespace's, whatever /proc is mounted.
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        self.enter(|| std::fs::write(&path, value))?
            .with_context(|| format!("cannot set {key} to {value} in {}", self.name))
    }

    /// What an interface has counted since it was made.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn counters(&self, interface: &str) -> Result<Counters> {
        let table = self.enter(|| std::fs::read_to_string("/proc/thread-self/net/dev"))??;
        Counters::parse(&table, interface).ok_or_else(|| anyhow!("no interface {interface} in {}", self.name))
    }

    /// The id of the XDP program on an interface, if there is one.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn xdp_program(&self, interface: &str) -> Result<Option<u64>> {
        let links: serde_json::Value =
            serde_json::from_str(&self.ip_show(&["-j", "-d", "link", "show", interface])?)?;
        Ok(links[0]["xdp"]["prog"]["id"].as_u64())
    }
}

/// Runs lines of `ip` in the namespace that `options` choose.
pub(super) fn ip_batch(options: &[&str], lines: &[impl AsRef<str>]) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(options).args(["-batch", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child =
        die_with_parent(&mut command).spawn().context("cannot run ip, of the Debian package iproute2")?;
    let mut stdin = child.stdin.take().expect("stdin was asked for");
    for line in lines {
        writeln!(stdin, "{}", line.as_ref())?;
    }
    drop(stdin);
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let lines: Vec<&str> = lines.iter().map(AsRef::as_ref).collect();
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("ip {}: {}, among these lines:\n  {}", options.join(" "), said.trim(), lines.join("\n  "));
    }
    Ok(())
}
