//! SIGUSR2: the program is run again and takes this process's place.
//!
//! So a service manager that starts one process has the new one in its place, with
//! the same file descriptors, limits and control group.

use std::io;
use std::process::{Child, Command};

use tokio::signal::unix::Signal;

/// Runs the program again at every signal; does not end by itself.
pub(super) async fn upgrade_on(signal: &mut Signal) {
    while signal.recv().await.is_some() {
        match spawn() {
            Ok(mut child) => {
                tracing::info!(process = child.id(), "a new process was started, to take over");
                // It outlives this one, or fails.
                std::thread::spawn(move || match child.wait() {
                    Ok(status) => tracing::error!("the new process ended ({status}); this one goes on"),
                    Err(error) => tracing::error!(%error, "the new process cannot be waited for"),
                });
            }
            Err(error) => tracing::error!(%error, "no new process could be started"),
        }
    }
    // The stream of a signal has no end; should it have one, the rest goes on.
    std::future::pending().await
}

fn spawn() -> io::Result<Child> {
    let mut words = std::env::args_os();
    // Not /proc/self/exe: that is the file of this process, which another one has
    // replaced.
    let program = words.next().ok_or(io::ErrorKind::NotFound)?;
    Command::new(program).args(words.filter(|word| word != "--takeover")).arg("--takeover").spawn()
}
