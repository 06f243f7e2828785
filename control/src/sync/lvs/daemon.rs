//! Daemons, each on a thread of its own, as the rules have them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::sleep;

use super::counters::Counters;
use super::{backup, master};
use crate::api::{DataPlane, Director};
use crate::rules::{Daemon, DaemonRole};
use crate::sync::Plane;

/// How often the rules are looked at without being told that they changed, and
/// a daemon that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// A daemon at work; it ends when this is dropped.
struct Running {
    daemon: Daemon,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(daemon: Daemon, plane: Plane, counters: Arc<Counters>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let works = daemon.clone();
        let run = move || {
            runtime.block_on(async {
                tokio::select! {
                    () = work(&works, &plane, &counters) => {}
                    _ = stopped => {}
                }
            });
        };
        let name = format!("lvs-{}", name(daemon.role));
        let thread = thread::Builder::new().name(name).spawn(run)?;
        tracing::info!(interface = daemon.interface, "sync daemon started as {}", self::name(daemon.role));
        Ok(Running { daemon, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        let role = name(self.daemon.role);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the sync daemon panicked as {role}");
        }
        tracing::info!(interface = self.daemon.interface, "sync daemon stopped as {role}");
    }
}

fn name(role: DaemonRole) -> &'static str {
    match role {
        DaemonRole::Master => "master",
        DaemonRole::Backup => "backup",
    }
}

/// Works, and begins anew a while after whatever goes wrong.
async fn work(daemon: &Daemon, plane: &Plane, counters: &Counters) {
    let mut told = String::new();
    loop {
        let result = match daemon.role {
            DaemonRole::Master => {
                counters.master.ran.store(true, Relaxed);
                master::run(daemon, plane, &counters.master).await
            }
            DaemonRole::Backup => {
                counters.backup.ran.store(true, Relaxed);
                backup::run(daemon, plane, &counters.backup).await
            }
        };
        if let Err(error) = result {
            let error = error.to_string();
            if error != told {
                let (interface, role) = (&daemon.interface, name(daemon.role));
                tracing::warn!(
                    interface,
                    error,
                    "the sync daemon does not work as {role}; it is tried again"
                );
                told = error;
            }
        }
        sleep(RETRY).await;
    }
}

/// Runs the daemons that the rules have; never returns.
pub async fn run<D: DataPlane>(director: &Director<D>, plane: Plane) {
    let mut running: Vec<Running> = Vec::new();
    let mut failed = false;
    loop {
        let wanted = director.rules().daemons().to_vec();
        running.retain(|running| wanted.contains(&running.daemon));
        for daemon in wanted {
            if running.iter().any(|running| running.daemon == daemon) {
                continue;
            }
            match Running::start(daemon, plane.clone(), Arc::clone(director.lvs())) {
                Ok(started) => running.push(started),
                Err(error) if !std::mem::replace(&mut failed, true) => {
                    tracing::error!(%error, "a sync daemon cannot be started; this is tried again every second");
                }
                Err(_) => {}
            }
        }
        tokio::select! {
            () = director.daemons_changed() => {}
            () = sleep(RETRY) => {}
        }
    }
}
