//! The servers' side: what comes goes back.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, unshare};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::MESSAGE;
use crate::lab::Netns;

/// A server that sends back what it gets, on one thread however many clients it
/// has.
#[derive(Debug)]
pub struct EchoServer {
    resets: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl EchoServer {
    /// Starts it inside a namespace.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub fn start(netns: &Netns, address: SocketAddr) -> Result<Self> {
        let (resets, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (listens, listening) = mpsc::channel();
        let thread = std::thread::Builder::new().name("echo-server".into()).spawn({
            let (netns, resets, stop) = (netns.clone(), Arc::clone(&resets), Arc::clone(&stop));
            move || match listen(&netns, address) {
                Ok((listener, epoll)) => {
                    let _ = listens.send(Ok(()));
                    serve(&listener, &epoll, &resets, &stop);
                }
                Err(error) => _ = listens.send(Err(error)),
            }
        })?;
        let server = Self { resets, stop, thread: Some(thread) };
        listening.recv().context("an echo server ended")??;
        Ok(server)
    }

    /// Connections that were reset.
    #[must_use]
    pub fn resets(&self) -> u64 {
        self.resets.load(Ordering::Relaxed)
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Listens inside a namespace, with descriptors of the thread's own: of those of the process there may be too few for
/// both ends of all connections.
fn listen(netns: &Netns, address: SocketAddr) -> Result<(TcpListener, Epoll)> {
    unshare(CloneFlags::CLONE_FILES).context("cannot have descriptors of its own")?;
    netns.join_thread()?;
    let listener = TcpListener::bind(address)
        .with_context(|| format!("cannot listen on {address} in {}", netns.name()))?;
    listener.set_nonblocking(true)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&listener, event(&listener))?;
    Ok((listener, epoll))
}

fn event(descriptor: &impl AsRawFd) -> EpollEvent {
    EpollEvent::new(EpollFlags::EPOLLIN, descriptor.as_raw_fd() as u64)
}

fn serve(listener: &TcpListener, epoll: &Epoll, resets: &AtomicU64, stop: &AtomicBool) {
    let mut clients: HashMap<RawFd, TcpStream> = HashMap::new();
    let mut events = [EpollEvent::empty(); 256];
    while !stop.load(Ordering::Relaxed) {
        let count = epoll.wait(&mut events, EpollTimeout::from(20u8)).unwrap_or(0);
        for event in &events[..count] {
            let descriptor = event.data() as RawFd;
            if descriptor == listener.as_raw_fd() {
                while let Ok((client, _)) = listener.accept() {
                    let ready = client.set_nonblocking(true).and_then(|()| client.set_nodelay(true));
                    if ready.is_ok() && epoll.add(&client, self::event(&client)).is_ok() {
                        clients.insert(client.as_raw_fd(), client);
                    }
                }
                continue;
            }
            let Some(client) = clients.get_mut(&descriptor) else { continue };
            match echo(client) {
                Ok(true) => {}
                // Dropping it takes it from the epoll.
                Ok(false) => drop(clients.remove(&descriptor)),
                Err(_) => {
                    resets.fetch_add(1, Ordering::Relaxed);
                    clients.remove(&descriptor);
                }
            }
        }
    }
}

/// Sends back what there is; whether the client is still there.
fn echo(client: &mut TcpStream) -> io::Result<bool> {
    let mut buffer = [0; 4 * MESSAGE];
    loop {
        match client.read(&mut buffer) {
            Ok(0) => return Ok(false),
            // A client waits for its echo, so that there is always room.
            Ok(read) => client.write_all(&buffer[..read])?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) => return Err(error),
        }
    }
}
