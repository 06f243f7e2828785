//! A command that says how a server is (keepalived's `MISC_CHECK`).

use std::net::SocketAddr;
use std::process::Stdio;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process;

use super::check::{Finding, plain};

/// A program and its arguments. Exit status 0 says that the server is up, and
/// anything else that it is not, but see [`Command::dynamic_weight`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Command {
    /// Program and arguments, at least the program; no shell sees them
    pub words: Vec<String>,
    /// Whether exit status 2 to 255 says that the server is up and to have this
    /// weight less 2. With status 0 it has its own.
    pub dynamic_weight: bool,
}

/// Runs it as a process group, which is killed when this is dropped. It gets
/// `SLUICE_SERVER_ADDRESS` and `SLUICE_SERVER_PORT`.
pub(super) async fn check(command: &Command, target: SocketAddr) -> Finding {
    let environment = [
        ("SLUICE_SERVER_ADDRESS", target.ip().to_string()),
        ("SLUICE_SERVER_PORT", target.port().to_string()),
    ];
    let status = run(&command.words, environment).await?;
    match status {
        0 => Ok(None),
        2..=255 if command.dynamic_weight => Ok(Some(status - 2)),
        status => Err(format!("the command ended with status {status}")),
    }
}

/// Runs a command to its end; returns its exit status.
pub(super) async fn run<const N: usize>(
    words: &[String],
    environment: [(&str, String); N],
) -> Result<u32, String> {
    let (program, arguments) = words.split_first().ok_or("there is no command")?;
    let mut command = process::Command::new(program);
    command.args(arguments).envs(environment).process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| format!("cannot run {program}: {}", plain(&error)))?;
    let group = Group(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw));
    let status = child.wait().await.map_err(|error| plain(&error))?;
    // What it started may have outlived it.
    drop(group);
    match status.code() {
        Some(code) => Ok(code.unsigned_abs()),
        None => Err(format!("the command was ended by a signal ({status})")),
    }
}

/// A process group that is killed when this is dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // None of it is left, most often.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}
