//! Removal of a lab, whichever way its process ends.
//!
//! Each lab has one guard: a shell that waits for the other end of a pipe to close. Dropping the lab, a panic, Ctrl-C
//! and `kill -9` all close that end, so there is one way to clean up and no path that misses it. The shell sits in a
//! process group of its own, out of reach of the terminal's signals.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use anyhow::{Context, Result};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// The interface group of every link of a lab, by which the guard finds them.
pub(super) const LINK_GROUP: u32 = 5111;

// Namespaces are deleted in the background by the kernel; links are deleted here, so that they and their XDP
// programs are gone when the guard is. Processes first, since they keep a namespace alive.
const SCRIPT: &str = r#"
trap '' HUP INT TERM
cat >/dev/null
names=$(ls /run/netns 2>/dev/null | grep "^$1-")
for ns in $names; do
    tries=0
    while pids=$(ip netns pids "$ns" 2>/dev/null) && [ -n "$pids" ] && [ $tries -lt 200 ]; do
        kill -9 $pids 2>/dev/null
        sleep 0.01
        tries=$((tries + 1))
    done
done
for ns in $names; do
    ip -n "$ns" link del group "$2" 2>/dev/null
    ip netns del "$ns" 2>/dev/null
done
[ -z "$3" ] || rm -rf "$3"
"#;

/// Guards of this process that have not cleaned up yet, for the signal handler.
static GUARDS: Mutex<Vec<(String, Child, ChildStdin)>> = Mutex::new(Vec::new());

#[derive(Debug)]
pub(super) struct Guard {
    name: String,
}

impl Guard {
    pub(super) fn start(name: &str, dir: &Path) -> Result<Self> {
        let (child, pipe) = spawn(name, &dir.display().to_string())?;
        GUARDS.lock().expect("no guard operation panics").push((name.to_owned(), child, pipe));
        Ok(Self { name: name.to_owned() })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if LEAVING.load(Ordering::Acquire) {
            // What brought us here is most likely that the lab was taken away. The signal thread ends the process, with
            // the exit status that belongs to the signal.
            loop {
                std::thread::park();
            }
        }
        let mut guards = GUARDS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(i) = guards.iter().position(|(name, ..)| *name == self.name) {
            let (_, child, pipe) = guards.swap_remove(i);
            // Labs of other tests need not wait for this one.
            drop(guards);
            finish(child, pipe);
        }
    }
}

fn spawn(name: &str, dir: &str) -> Result<(Child, ChildStdin)> {
    let mut child = Command::new("sh")
        .args(["-c", SCRIPT, "lab-guard", name, &LINK_GROUP.to_string(), dir])
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start the lab's guard, a shell")?;
    let pipe = child.stdin.take().expect("stdin was asked for");
    Ok((child, pipe))
}

fn finish(mut child: Child, pipe: ChildStdin) {
    drop(pipe);
    // Nothing to do about a failure: the next lab's sweep finds the leftovers.
    let _ = child.wait();
}

/// Removes the namespaces of labs whose process is gone, which only remain if the guard was killed too.
pub fn sweep() {
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return };
    let mut dead: Vec<String> =
        entries.flatten().filter_map(|entry| dead_lab(entry.file_name().to_str()?)).collect();
    dead.sort();
    dead.dedup();
    for lab in dead {
        let dir = std::env::temp_dir().join(&lab);
        if let Ok((child, pipe)) = spawn(&lab, &dir.display().to_string()) {
            finish(child, pipe);
        }
    }
}

/// The lab's name out of `sl<pid>-<n>-<host>`, if no process has that pid.
fn dead_lab(netns: &str) -> Option<String> {
    let (pid, rest) = netns.strip_prefix("sl")?.split_once('-')?;
    let (number, _host) = rest.split_once('-')?;
    let pid: u32 = pid.parse().ok()?;
    let number: u32 = number.parse().ok()?;
    (!Path::new(&format!("/proc/{pid}")).exists()).then(|| format!("sl{pid}-{number}"))
}

/// Set when a signal has come: from then on only the signal thread cleans up.
static LEAVING: AtomicBool = AtomicBool::new(false);

static SIGNAL_PIPE: AtomicI32 = AtomicI32::new(-1);

extern "C" fn on_signal(signal: i32) {
    let byte = signal as u8;
    // SAFETY: write(2) is async-signal-safe, the buffer is one live byte, and the descriptor is never closed.
    #[allow(unsafe_code)]
    unsafe {
        libc::write(SIGNAL_PIPE.load(Ordering::Relaxed), (&raw const byte).cast(), 1);
    }
}

/// Makes SIGINT, SIGTERM and SIGHUP remove every lab of this process before it exits with 128 + the signal.
///
/// The guards would clean up anyway, but only after the process has ended; with this, whoever waits for the process
/// finds nothing left. `last` runs at the very end, to say what has happened.
///
/// # Errors
/// When the pipe or the handlers cannot be installed.
pub fn exit_cleanly_on_signals(last: impl FnOnce() + Send + 'static) -> Result<()> {
    let (reader, writer) = std::io::pipe()?;
    SIGNAL_PIPE.store(std::os::fd::IntoRawFd::into_raw_fd(writer), Ordering::Relaxed);
    let action = SigAction::new(SigHandler::Handler(on_signal), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler does nothing but write(2) to a descriptor that stays open.
        #[allow(unsafe_code)]
        unsafe {
            sigaction(signal, &action)?;
        }
    }
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let mut signal = [0];
        if std::io::Read::read_exact(&mut { reader }, &mut signal).is_err() {
            return;
        }
        LEAVING.store(true, Ordering::Release);
        let guards = std::mem::take(&mut *GUARDS.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        // All at once: each takes a moment to see its processes go.
        let (children, pipes): (Vec<_>, Vec<_>) =
            guards.into_iter().map(|(_, child, pipe)| (child, pipe)).unzip();
        drop(pipes);
        for mut child in children {
            let _ = child.wait();
        }
        last();
        std::process::exit(128 + i32::from(signal[0]));
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_labs_of_dead_processes_are_swept() {
        assert_eq!(dead_lab(&format!("sl{}-0-cl", std::process::id())), None);
        // Above the kernel's largest pid (PID_MAX_LIMIT, 4194304).
        assert_eq!(dead_lab("sl4194999-3-cl").as_deref(), Some("sl4194999-3"));
        for other in ["sl-cl", "slow-1-cl", "sl4194999", "sl4194999-x-cl", "cl", ""] {
            assert_eq!(dead_lab(other), None, "{other}");
        }
    }
}
