//! Child processes that do not outlive their lab.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How often a condition is looked at again while waiting for it.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Has the kernel kill the child when the thread that starts it ends.
pub(super) fn die_with_parent(command: &mut Command) -> &mut Command {
    // SAFETY: the closure runs between fork and exec and makes one system call, prctl, which is async-signal-safe.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(|| {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            Ok(())
        })
    }
}

/// Runs a command to its end and returns what it printed.
///
/// # Errors
/// When it cannot be started or exits other than 0; the error has the command line and what it said on stderr.
pub fn run(command: &mut Command) -> Result<String> {
    let Output { status, stdout, stderr } =
        die_with_parent(command).output().with_context(|| format!("cannot run {}", line(command)))?;
    let stdout = String::from_utf8_lossy(&stdout).into_owned();
    if !status.success() {
        bail!("{} failed ({status}): {}{}", line(command), stdout, String::from_utf8_lossy(&stderr).trim());
    }
    Ok(stdout)
}

/// The command as one would type it, for messages.
pub(super) fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Waits until `condition` is true.
///
/// # Errors
/// After `timeout`, naming `what` was waited for.
pub fn wait_for(what: &str, timeout: Duration, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + timeout;
    while !condition()? {
        if Instant::now() > deadline {
            bail!("waited {timeout:?} for {what}");
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}

/// A running child, killed when this is dropped and when the thread that started it ends.
#[derive(Debug)]
pub struct Process {
    child: Child,
    line: String,
}

impl Process {
    /// Starts a command.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> Result<Self> {
        let line = line(command);
        let child = die_with_parent(command).spawn().with_context(|| format!("cannot start {line}"))?;
        Ok(Self { child, line })
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process has ended and was waited for.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id())?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("cannot signal {}", self.line))
    }

    /// The exit status, if the process has ended.
    ///
    /// # Errors
    /// When the process cannot be waited for.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for the process to end.
    ///
    /// # Errors
    /// When it has not ended after `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let mut status = None;
        let what = format!("the end of {}", self.line);
        wait_for(&what, timeout, || {
            status = self.child.try_wait()?;
            Ok(status.is_some())
        })?;
        Ok(status.expect("set before the wait ends"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
