//! The web page and metrics: a read-only HTTP server on a thread of its own.
//!
//! The thread also takes the samples that rates and plots are made of. It
//! shares nothing with the control thread but the [`Observatory`], and keeps
//! off the workers' CPUs where the machine has others, so that whatever
//! clients do, packets and commands do not wait for them.
//!
//! Clients are not trusted: connections, header size, time and concurrent
//! scrapes are bounded (the constants of [`server`]), bodies are refused, and
//! there is nothing that a request could change.

mod assets;
mod respond;
mod scrape;
mod server;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::config;
use crate::observe::{Observatory, SAMPLE_INTERVAL};
use server::{Patience, Server};

/// How long to wait for an address that cannot be listened on yet.
const RETRY: Duration = Duration::from_secs(2);

/// The running thread; it ends when this is dropped.
#[derive(Debug)]
pub struct Observer {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Observer {
    /// Starts to take samples and, where there is an address to listen on, to
    /// serve; until that address can be had, it is tried again and again.
    /// `busy` are the CPUs of workers.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(observatory: Arc<Observatory>, settings: config::Web, busy: &[usize]) -> io::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(server::MAX_BLOCKING)
            .build()?;
        let busy = busy.to_vec();
        let thread = thread::Builder::new().name("observer".into()).spawn(move || {
            keep_off(&busy);
            runtime.block_on(async {
                tokio::select! {
                    () = sample(&observatory) => {}
                    () = serve(Arc::clone(&observatory), &settings) => {}
                    _ = stopped => {}
                }
            });
            // A scrape may still wait for its reader.
            runtime.shutdown_background();
        })?;
        Ok(Observer { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the web page panicked");
        }
    }
}

/// Leaves CPUs to workers, unless no other is left.
fn keep_off(busy: &[usize]) {
    let this = Pid::from_raw(0);
    let Ok(mut cpus) = sched_getaffinity(this) else { return };
    for cpu in busy {
        let _ = cpus.unset(*cpu);
    }
    if (0..CpuSet::count()).any(|cpu| cpus.is_set(cpu).unwrap_or(false)) {
        let _ = sched_setaffinity(this, &cpus);
    }
}

async fn sample(observatory: &Observatory) {
    let mut tick = interval(SAMPLE_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        observatory.sample(Instant::now());
    }
}

async fn serve(observatory: Arc<Observatory>, settings: &config::Web) {
    let Some(address) = settings.listen else { return std::future::pending().await };
    let listener = listen(address).await;
    tracing::info!(%address, "the web page and metrics can be seen");
    let server = Server::new(observatory, address, settings.hosts.clone(), Patience::default());
    server.run(listener).await;
}

/// An address may belong to another director that is about to end, or come
/// later: the director does not depend on it.
async fn listen(address: SocketAddr) -> TcpListener {
    let mut said = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) if !said => {
                tracing::warn!(
                    %address, %error,
                    "the web page and metrics cannot be shown there yet; choose another address by listen of [web], \
                     or \"off\""
                );
                said = true;
            }
            Err(_) => {}
        }
        sleep(RETRY).await;
    }
}
