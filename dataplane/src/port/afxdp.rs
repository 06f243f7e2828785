//! AF_XDP sockets, through the `afxdp` crate.
//!
//! What has to be known of the crate (0.4.0) is contained here:
//! * it attaches a default program unless one with a map named `xsks_map` is
//!   there, so the steering program must be attached before a port is opened;
//! * its buffers do not keep their memory alive, so the memory of a port is
//!   never unmapped: one area per worker for the life of the process;
//! * its memory is this process's alone, so a file takes its place;
//! * a socket's rings are unmapped through pointers into the fill and
//!   completion queues, so sockets are dropped before those;
//! * its wake-up panics on an unexpected errno (an interface that is gone):
//!   the panic ends the interface's socket, not the director;
//! * file descriptors are private: they are found by looking for the AF_XDP
//!   socket that was not there before;
//! * it knows no socket that another process opened: `rings.rs` does;
//! * in copy mode the kernel sends at most 32 frames for a wake-up
//!   (`TX_BATCH_SIZE` in `net/xdp/xsk.c`), so frames are handed over in such
//!   portions.

mod frames;
mod handover;
mod rings;
mod sockets;

use std::collections::HashSet;
use std::fs;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ::afxdp::buf::Buf;
use ::afxdp::socket::{Socket, SocketNewError, SocketOptions};
use ::afxdp::umem::{Umem, UmemNewError};
use arraydeque::ArrayDeque;
use thiserror::Error;

use super::punt::Punt;
pub use super::punt::PuntError;
use super::{BURST, Frame, Port};
use crate::steer::Mode;
use frames::{Buffer, Frames, RESERVED};
pub use handover::{Layout, Left, Offered};
pub use sockets::missed;
pub(crate) use sockets::sockets_of;
use sockets::{Opened, Pending, Sockets};

/// Frames of each ring on the transmit side, and of those that a busy worker has
/// ready for what comes: few enough that all in flight stay in the second-level
/// cache.
const RING: u32 = 1024;

/// Places of each ring on the receive side.
const RECEIVE_RING: u32 = 4096;

/// Frames that a worker has ready for what comes when nothing did lately. Nothing
/// is on its way out then, so that they are there. It takes the burst of a failover
/// that way, when all that was silent speaks at once, and the worker may be on its
/// way back to the CPU.
const READY: usize = 3584;

/// Frames for each interface.
const FRAMES: usize = 4 * RING as usize;

/// A frame in the memory of an [`AfXdpPort`].
pub struct AfXdpFrame(Buffer);

impl Frame for AfXdpFrame {
    #[inline]
    fn bytes(&self) -> &[u8] {
        &self.0.get_data()[..self.0.get_len() as usize]
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        let len = self.0.get_len() as usize;
        &mut self.0.get_data_mut()[..len]
    }

    #[inline]
    fn capacity(&self) -> usize {
        self.0.get_data().len()
    }

    #[inline]
    fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity(), "a frame of {len} bytes does not fit");
        self.0.set_len(len as u16);
    }
}

/// Why a port could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The frame memory could not be had
    #[error("no memory for {0} frames of {1} bytes")]
    Memory(usize, usize),
    /// There is no way back to the kernel
    #[error(transparent)]
    Punt(#[from] PuntError),
    /// The memory could not be registered
    #[error(
        "interface {interface}, queue {queue}: frame memory could not be registered: {source} \
         (is CAP_NET_RAW there, and is the locked-memory limit high enough?)"
    )]
    Register {
        /// The interface
        interface: String,
        /// The queue
        queue: usize,
        /// Why
        source: io::Error,
    },
    /// The socket could not be opened or bound
    #[error("interface {interface}, queue {queue}: AF_XDP socket: {source}{hint}")]
    Socket {
        /// The interface
        interface: String,
        /// The queue
        queue: usize,
        /// Why
        source: io::Error,
        /// What to do about it
        hint: &'static str,
    },
}

impl OpenError {
    /// Whether another socket has the queue.
    fn is_busy(&self) -> bool {
        matches!(self, OpenError::Socket { source, .. } if source.raw_os_error() == Some(libc::EBUSY))
    }
}

/// Queue *q* of each interface, over one memory.
pub struct AfXdpPort {
    interfaces: Vec<Interface>,
    frames: Frames,
    free: Vec<Buffer>,
    /// Frames that the worker holds
    outstanding: usize,
    queue: usize,
    scratch: Box<Pending>,
    /// Whether the interfaces are those that the ways back to the kernel lead to:
    /// nothing happened but that sockets were not opened, or closed
    punts_hold: bool,
}

struct Interface {
    name: String,
    /// `None` after the socket failed
    sockets: Option<Sockets>,
    /// What another process goes on with, or did until it leaves off
    left: Option<Sockets>,
    punt: Punt,
}

impl AfXdpPort {
    /// Opens queue `queue` of each interface, for packets of at most `mtu`
    /// bytes. The steering program must be attached to each, in the mode given.
    pub fn open(interfaces: &[(String, Mode)], queue: usize, mtu: usize) -> Result<Self, OpenError> {
        let mut port = AfXdpPort::closed(interfaces, queue, mtu)?;
        for index in 0..interfaces.len() {
            port.open_within(index, QUEUE_RELEASE_AT_START)?;
        }
        port.punts_hold = false;
        port.reclaim();
        Ok(port)
    }

    /// The same without its sockets, which [`Port::reopen`] opens. Another
    /// process may have the queues until then.
    pub fn closed(interfaces: &[(String, Mode)], queue: usize, mtu: usize) -> Result<Self, OpenError> {
        // Chunks of 2 KiB spread packet headers over twice as many cache sets
        // as those of 4 KiB would.
        let chunk = if mtu + 32 + super::TAIL_ROOM + RESERVED <= 2048 { 2048 } else { 4096 };
        let count = interfaces.len() * FRAMES + 2 * BURST;
        let (frames, free) = Frames::new(count, chunk).ok_or(OpenError::Memory(count, chunk))?;
        let with_punt = interfaces.iter().map(|(name, mode)| {
            let punt = Punt::open(name, *mode == Mode::Generic)?;
            Ok(Interface { name: name.clone(), sockets: None, left: None, punt })
        });
        let with_punt = with_punt.collect::<Result<_, PuntError>>()?;
        Ok(AfXdpPort {
            interfaces: with_punt,
            frames,
            free,
            outstanding: 0,
            queue,
            scratch: Box::new(ArrayDeque::new()),
            punts_hold: true,
        })
    }

    /// Opens an interface's socket. The kernel takes its time to let go of the
    /// queue of a socket that was closed, by this process or by one before it.
    fn open_within(&mut self, index: usize, limit: Duration) -> Result<(), OpenError> {
        let begun = Instant::now();
        loop {
            match self.open_interface(index) {
                Err(error) if error.is_busy() && begun.elapsed() < limit => {
                    thread::sleep(Duration::from_millis(1));
                }
                result => return result,
            }
        }
    }

    fn open_interface(&mut self, index: usize) -> Result<(), OpenError> {
        let (queue, name) = (self.queue, self.interfaces[index].name.clone());
        let _one_at_a_time = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
        let before = xdp_sockets();
        let registered = Umem::new(self.frames.area(), RING, RECEIVE_RING);
        let (umem, completion, fill) = registered.map_err(|error| OpenError::Register {
            interface: name.clone(),
            queue,
            source: match error {
                UmemNewError::Create(error) => positive(error),
                UmemNewError::RingNotPowerOfTwo => io::Error::from_raw_os_error(libc::EINVAL),
            },
        })?;
        let fd = xdp_sockets().difference(&before).next().copied();
        let (_, rx, tx) = Socket::new(umem, &name, queue, RECEIVE_RING, RING, SocketOptions::default())
            .map_err(|error| {
                let source = match error {
                    SocketNewError::Create(error) => positive(error),
                    SocketNewError::RingNotPowerOfTwo => io::Error::from_raw_os_error(libc::EINVAL),
                };
                let hint = hint(&source);
                OpenError::Socket { interface: name.clone(), queue, source, hint }
            })?;
        let fd = fd.ok_or_else(|| OpenError::Socket {
            interface: name,
            queue,
            source: io::Error::from_raw_os_error(libc::EBADF),
            hint: " (its descriptor was not found in /proc/self/fd: is /proc mounted?)",
        })?;
        let opened = Opened { rx, tx, completion, fill };
        let sockets = Sockets::opened(&self.interfaces[index].name, queue, opened, fd);
        self.interfaces[index].sockets = Some(sockets);
        Ok(())
    }

    /// Why punted frames of an interface appear on a TAP device rather than on
    /// the interface itself.
    pub fn punt_fallback(&self, interface: usize) -> Option<&str> {
        self.interfaces[interface].punt.fallback_reason()
    }

    /// Whether the socket of an interface shares its frames with the driver.
    pub fn zero_copy(&self, interface: usize) -> bool {
        self.interfaces[interface].sockets.as_ref().is_some_and(|sockets| sockets.zero_copy)
    }
}

impl Port for AfXdpPort {
    type Frame = AfXdpFrame;

    fn interfaces(&self) -> usize {
        self.interfaces.len()
    }

    fn receive(&mut self, interface: usize, burst: &mut Vec<AfXdpFrame>) -> usize {
        let Some(sockets) = &mut self.interfaces[interface].sockets else { return 0 };
        let received = sockets.receive(&self.frames, &mut self.scratch, burst);
        self.outstanding += received;
        received
    }

    fn transmit(&mut self, interface: usize, frames: &mut Vec<AfXdpFrame>) -> usize {
        let Some(sockets) = &mut self.interfaces[interface].sockets else { return 0 };
        let (sent, works) = sockets.transmit(&self.frames, &mut self.scratch, frames);
        if !works {
            self.interfaces[interface].sockets = None;
        }
        self.outstanding -= sent;
        sent
    }

    fn allocate(&mut self) -> Option<AfXdpFrame> {
        let frame = self.free.pop()?;
        self.outstanding += 1;
        Some(AfXdpFrame(frame))
    }

    fn release(&mut self, frame: AfXdpFrame) {
        self.outstanding -= 1;
        self.free.push(frame.0);
    }

    fn reclaim(&mut self) {
        for interface in &mut self.interfaces {
            if let Some(sockets) = &mut interface.sockets {
                sockets.reclaim(&self.frames, &mut self.free);
            }
        }
    }

    fn punt(&mut self, interface: usize, frame: AfXdpFrame) -> bool {
        let taken = self.interfaces[interface].punt.write(frame.bytes());
        self.release(frame);
        taken
    }

    fn failed(&self) -> Option<&str> {
        self.interfaces.iter().find(|i| i.sockets.is_none()).map(|i| i.name.as_str())
    }

    fn close(&mut self) {
        self.punts_hold = self.failed().is_none();
        // Closing one waits until no CPU uses it any more: all at once.
        thread::scope(|scope| {
            for interface in &mut self.interfaces {
                if let Some(sockets) = interface.sockets.take() {
                    scope.spawn(move || drop(sockets));
                }
            }
        });
    }

    fn reopen(&mut self) -> Result<(), String> {
        if self.outstanding > 0 {
            return Err(format!("{} frames are still in use", self.outstanding));
        }
        for interface in &mut self.interfaces {
            (interface.sockets, interface.left) = (None, None);
            // Making and taking off the device takes a while.
            if !self.punts_hold {
                interface.punt = Punt::open(&interface.name, interface.punt.generic())
                    .map_err(|e| crate::error_chain(&e))?;
            }
        }
        self.punts_hold = false;
        // No socket and no worker holds a frame now: all of them are free.
        self.free.clear();
        self.free.extend(self.frames.anew());
        for index in 0..self.interfaces.len() {
            self.open_within(index, QUEUE_RELEASE).map_err(|error| crate::error_chain(&error))?;
        }
        self.reclaim();
        Ok(())
    }

    fn is_closed(&self) -> bool {
        self.interfaces.iter().all(|interface| interface.sockets.is_none())
    }

    fn offer(&self) -> Option<Offered> {
        self.offered()
    }

    fn lend(&mut self) -> Option<Left> {
        self.leave()
    }

    fn prepare(&mut self, offered: Offered) -> Result<(), String> {
        self.map(offered)
    }

    fn assume(&mut self, left: &Left) -> Result<(), String> {
        self.go_on(left)
    }

    #[allow(unsafe_code)]
    fn wait(&mut self, limit: Duration) {
        let sockets = self.interfaces.iter().filter_map(|i| i.sockets.as_ref());
        let mut polled = [libc::pollfd { fd: -1, events: libc::POLLIN, revents: 0 }; 16];
        for (slot, sockets) in polled.iter_mut().zip(sockets) {
            slot.fd = sockets.fd();
        }
        let timeout = limit.as_millis().min(1000) as i32;
        // SAFETY: the array outlives the call; entries with fd -1 are ignored.
        unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout) };
    }
}

/// How long a closed socket's queue may stay taken while a worker waits for it.
const QUEUE_RELEASE: Duration = Duration::from_millis(200);

/// The same when a port is opened first, after a director that just ended.
const QUEUE_RELEASE_AT_START: Duration = Duration::from_secs(2);

/// Held while a socket is opened, so that the new descriptor can be told.
static OPENING: Mutex<()> = Mutex::new(());

/// Every open AF_XDP socket of this process.
#[allow(unsafe_code)]
fn xdp_sockets() -> HashSet<i32> {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return HashSet::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| {
            let (mut domain, mut len) = (0i32, size_of::<i32>() as libc::socklen_t);
            // SAFETY: writes at most `len` bytes to `domain`; a descriptor that
            // is closed or not a socket is an error, not undefined.
            let result = unsafe {
                libc::getsockopt(*fd, libc::SOL_SOCKET, libc::SO_DOMAIN, (&raw mut domain).cast(), &mut len)
            };
            result == 0 && domain == libc::AF_XDP
        })
        .collect()
}

/// The crate hands on libbpf's negated errno.
fn positive(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) if code < 0 => io::Error::from_raw_os_error(-code),
        _ => error,
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EBUSY) => " (another program has an AF_XDP socket on this queue)",
        Some(libc::EINVAL) => " (the interface may not have this queue: see ethtool -l)",
        Some(libc::EPERM) => " (CAP_NET_RAW and CAP_BPF are needed)",
        _ => "",
    }
}
