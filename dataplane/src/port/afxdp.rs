//! AF_XDP sockets, through the `afxdp` crate.
//!
//! What has to be known of the crate (0.4.0) is contained here:
//! * it attaches a default program unless one with a map named `xsks_map` is
//!   there, so the steering program must be attached before a port is opened;
//! * its buffers do not keep their memory alive, so the memory of a port is
//!   never unmapped: one area per worker for the life of the process;
//! * a socket's rings are unmapped through pointers into the fill and
//!   completion queues, so sockets are dropped before those;
//! * its wake-up panics on an unexpected errno (an interface that is gone):
//!   the panic ends the interface's socket, not the director;
//! * file descriptors are private: they are found by looking for the AF_XDP
//!   socket that was not there before;
//! * in copy mode the kernel sends at most 32 frames for a wake-up
//!   (`TX_BATCH_SIZE` in `net/xdp/xsk.c`), so frames are handed over in such
//!   portions.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ::afxdp::PENDING_LEN;
use ::afxdp::buf::Buf;
use ::afxdp::buf_mmap::BufMmap;
use ::afxdp::mmap_area::{MmapArea, MmapAreaOptions};
use ::afxdp::socket::{Socket, SocketNewError, SocketOptions, SocketRx, SocketTx};
use ::afxdp::umem::{Umem, UmemCompletionQueue, UmemFillQueue, UmemNewError};
use arraydeque::{ArrayDeque, Wrapping};
use thiserror::Error;

use super::punt::Punt;
pub use super::punt::PuntError;
use super::{BURST, Frame, Port};
use crate::steer::Mode;

/// Frames of each ring. Small enough that the frames in flight stay in the
/// second-level cache, large enough for what arrives while a worker is away
/// for a fraction of a millisecond.
const RING: u32 = 1024;

/// Frames that the kernel takes for one wake-up in copy mode.
const COPY_BATCH: usize = 32;

/// Bytes that the crate keeps free in front of each frame.
const RESERVED: usize = 256;

type Buffer = BufMmap<'static, ()>;

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
    area: Arc<MmapArea<'static, ()>>,
    free: Vec<Buffer>,
    /// Every frame once more, from which the free list is made anew when
    /// sockets were lost with what they held. Never used otherwise.
    all: Vec<ManuallyDrop<Buffer>>,
    /// Frames that the worker holds
    outstanding: usize,
    queue: usize,
    scratch: Box<Pending>,
    /// Whether the interfaces are those that the ways back to the kernel lead to:
    /// nothing happened but that sockets were not opened, or closed
    punts_hold: bool,
}

type Pending = ArrayDeque<[Buffer; PENDING_LEN], Wrapping>;

struct Interface {
    name: String,
    /// `None` after the socket failed
    sockets: Option<Sockets>,
    punt: Punt,
}

/// Fields are dropped in this order: sockets before the queues that they
/// point into.
struct Sockets {
    _listed: Listed,
    rx: SocketRx<'static, ()>,
    tx: SocketTx<'static, ()>,
    completion: UmemCompletionQueue<'static, ()>,
    fill: UmemFillQueue<'static, ()>,
    fd: i32,
    zero_copy: bool,
    /// Frames in the fill ring
    filled: usize,
    /// Frames sent and not yet completed
    in_flight: usize,
}

/// Descriptors of this process's sockets, by interface and queue: who attaches
/// another program has to enter them there.
static LISTED: Mutex<BTreeMap<(String, u32), RawFd>> = Mutex::new(BTreeMap::new());

/// Keeps a socket in the list.
struct Listed((String, u32));

impl Listed {
    fn new(interface: &str, queue: usize, socket: RawFd) -> Self {
        let key = (interface.to_owned(), queue as u32);
        LISTED.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), socket);
        Listed(key)
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        LISTED.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

/// This process's sockets on an interface, by queue. A worker may close them at
/// any time.
pub(crate) fn sockets_of(interface: &str) -> Vec<(u32, RawFd)> {
    let listed = LISTED.lock().unwrap_or_else(PoisonError::into_inner);
    listed.iter().filter(|((of, _), _)| of == interface).map(|((_, queue), fd)| (*queue, *fd)).collect()
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
        let count = interfaces.len() * 3 * RING as usize + 2 * BURST;
        let (area, free) = MmapArea::new(count, chunk, MmapAreaOptions { huge_tlb: false })
            .map_err(|_| OpenError::Memory(count, chunk))?;
        // Frames borrow the memory for 'static: it must never be unmapped.
        std::mem::forget(Arc::clone(&area));
        let with_punt = interfaces.iter().map(|(name, mode)| {
            let punt = Punt::open(name, *mode == Mode::Generic)?;
            Ok(Interface { name: name.clone(), sockets: None, punt })
        });
        let with_punt = with_punt.collect::<Result<_, PuntError>>()?;
        Ok(AfXdpPort {
            interfaces: with_punt,
            area,
            all: free.iter().map(duplicate).collect(),
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
        let registered = Umem::new(Arc::clone(&self.area), RING, RING);
        let (umem, completion, fill) = registered.map_err(|error| OpenError::Register {
            interface: name.clone(),
            queue,
            source: match error {
                UmemNewError::Create(error) => positive(error),
                UmemNewError::RingNotPowerOfTwo => io::Error::from_raw_os_error(libc::EINVAL),
            },
        })?;
        let fd = xdp_sockets().difference(&before).next().copied();
        let (_, rx, tx) =
            Socket::new(umem, &name, queue, RING, RING, SocketOptions::default()).map_err(|error| {
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
        close_on_exec(fd);
        let zero_copy = is_zero_copy(fd);
        let sockets = Sockets {
            _listed: Listed::new(&self.interfaces[index].name, queue, fd),
            rx,
            tx,
            completion,
            fill,
            fd,
            zero_copy,
            filled: 0,
            in_flight: 0,
        };
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
        self.interfaces[interface].sockets.as_ref().is_some_and(|s| s.zero_copy)
    }
}

impl Port for AfXdpPort {
    type Frame = AfXdpFrame;

    fn interfaces(&self) -> usize {
        self.interfaces.len()
    }

    fn receive(&mut self, interface: usize, burst: &mut Vec<AfXdpFrame>) -> usize {
        let Some(sockets) = &mut self.interfaces[interface].sockets else { return 0 };
        let received = sockets.rx.try_recv(&mut self.scratch, BURST, ()).unwrap_or(0);
        sockets.filled -= received.min(sockets.filled);
        burst.extend(self.scratch.drain(..).map(AfXdpFrame));
        self.outstanding += received;
        received
    }

    fn transmit(&mut self, interface: usize, frames: &mut Vec<AfXdpFrame>) -> usize {
        let Some(sockets) = &mut self.interfaces[interface].sockets else { return 0 };
        let (mut sent, offered) = (0, frames.len());
        let portion = if sockets.zero_copy { BURST } else { COPY_BATCH };
        for frame in frames.drain(..) {
            self.scratch.push_back(frame.0);
        }
        while !self.scratch.is_empty() {
            let wake = AssertUnwindSafe(|| sockets.tx.try_send(&mut self.scratch, portion).unwrap_or(0));
            match catch_unwind(wake) {
                Ok(0) => break,
                Ok(n) => sent += n,
                Err(_) => {
                    // The frames that this call had taken are with the socket.
                    sent = offered - self.scratch.len();
                    self.interfaces[interface].sockets = None;
                    break;
                }
            }
        }
        if let Some(sockets) = &mut self.interfaces[interface].sockets {
            sockets.in_flight += sent;
        }
        frames.extend(self.scratch.drain(..).map(AfXdpFrame));
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
            let Some(sockets) = &mut interface.sockets else { continue };
            if sockets.in_flight > 0 {
                let done = sockets.completion.service(&mut self.free, RING as usize).unwrap_or(0);
                sockets.in_flight -= done.min(sockets.in_flight);
                // What is in flight and not completed may be waiting in the
                // transmit ring for one more wake-up.
                if done == 0 && sockets.in_flight > 0 && sockets.tx.needs_wakeup() {
                    wake_transmit(sockets.fd);
                }
            }
            // In portions: a store to the shared index for every frame would
            // have the kernel's core fetch the line each time.
            let missing = RING as usize - sockets.filled;
            if missing >= BURST {
                let filled = sockets.fill.fill(&mut self.free, missing).unwrap_or(0);
                sockets.filled += filled;
            }
            if sockets.fill.needs_wakeup() {
                sockets.rx.wake();
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
            interface.sockets = None;
            // Making and taking off the device takes a while.
            if !self.punts_hold {
                interface.punt = Punt::open(&interface.name, interface.punt.generic())
                    .map_err(|e| crate::error_chain(&e))?;
            }
        }
        self.punts_hold = false;
        // No socket and no worker holds a frame now: all of them are free.
        self.free.clear();
        self.free.extend(self.all.iter().map(|frame| ManuallyDrop::into_inner(duplicate(frame))));
        for index in 0..self.interfaces.len() {
            self.open_within(index, QUEUE_RELEASE).map_err(|error| crate::error_chain(&error))?;
        }
        self.reclaim();
        Ok(())
    }

    #[allow(unsafe_code)]
    fn wait(&mut self, limit: Duration) {
        let sockets = self.interfaces.iter().filter_map(|i| i.sockets.as_ref());
        let mut polled = [libc::pollfd { fd: -1, events: libc::POLLIN, revents: 0 }; 16];
        for (slot, sockets) in polled.iter_mut().zip(sockets) {
            slot.fd = sockets.fd;
        }
        let timeout = limit.as_millis().min(1000) as i32;
        // SAFETY: the array outlives the call; entries with fd -1 are ignored.
        unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout) };
    }
}

/// A second handle on a frame's memory, which only the first may use until it
/// is gone.
#[allow(unsafe_code)]
fn duplicate(frame: &Buffer) -> ManuallyDrop<Buffer> {
    // SAFETY: a buffer owns nothing: it is an address, a length and a slice of
    // memory that is never unmapped. The copies are kept unused in `all`, and
    // become the free list only when all earlier handles are gone (`reopen`).
    ManuallyDrop::new(unsafe { std::ptr::read(frame) })
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

#[allow(unsafe_code)]
fn is_zero_copy(fd: i32) -> bool {
    let (mut options, mut len) = (0u32, size_of::<u32>() as libc::socklen_t);
    // SAFETY: struct xdp_options is one u32; at most `len` bytes are written.
    let result = unsafe {
        libc::getsockopt(fd, libc::SOL_XDP, libc::XDP_OPTIONS, (&raw mut options).cast(), &mut len)
    };
    result == 0 && options & libc::XDP_OPTIONS_ZEROCOPY != 0
}

/// Keeps a socket from programs that this process runs: they would keep its queue.
#[allow(unsafe_code)]
fn close_on_exec(fd: i32) {
    // SAFETY: no pointer is passed; the descriptor is ours.
    unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
}

#[allow(unsafe_code)]
fn wake_transmit(fd: i32) {
    // SAFETY: no data is passed. Errors need no answer: what was not sent is
    // still in the ring at the next wake-up.
    unsafe { libc::sendto(fd, std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0) };
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
