//! One AF_XDP socket, whoever opened it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use ::afxdp::PENDING_LEN;
use ::afxdp::buf::Buf;
use ::afxdp::socket::{SocketRx, SocketTx};
use ::afxdp::umem::{UmemCompletionQueue, UmemFillQueue};
use arraydeque::{ArrayDeque, Wrapping};

use super::frames::{Buffer, Frames};
use super::rings::Rings;
use super::{AfXdpFrame, BURST, READY, RECEIVE_RING, RING};

/// Frames that the kernel takes for one wake-up in copy mode.
const COPY_BATCH: usize = 32;

/// Where the crate puts frames, and takes them from.
pub(super) type Pending = ArrayDeque<[Buffer; PENDING_LEN], Wrapping>;

/// A socket with its rings.
pub(super) struct Sockets {
    _listed: Listed,
    rings: Kind,
    fd: RawFd,
    pub(super) zero_copy: bool,
    /// Whether nothing came when it was looked for last
    idle: bool,
    /// Frames in the fill ring, and in the receive ring
    filled: usize,
    /// Frames sent and not yet completed
    in_flight: usize,
}

enum Kind {
    Opened(Opened),
    /// Another process opened it. The rings are unmapped before it is closed.
    Taken(Rings, #[expect(dead_code, reason = "held, used by its number")] OwnedFd),
}

/// One that the crate opened. Fields are dropped in this order: sockets before
/// the queues that they point into.
pub(super) struct Opened {
    pub(super) rx: SocketRx<'static, ()>,
    pub(super) tx: SocketTx<'static, ()>,
    pub(super) completion: UmemCompletionQueue<'static, ()>,
    pub(super) fill: UmemFillQueue<'static, ()>,
}

impl Sockets {
    /// One that the crate opened on a queue of an interface.
    pub(super) fn opened(interface: &str, queue: usize, opened: Opened, fd: RawFd) -> Self {
        close_on_exec(fd);
        Sockets {
            _listed: Listed::new(interface, queue, fd),
            rings: Kind::Opened(opened),
            fd,
            zero_copy: is_zero_copy(fd),
            idle: true,
            filled: 0,
            in_flight: 0,
        }
    }

    /// One that another process opened there.
    pub(super) fn taken(interface: &str, queue: usize, socket: OwnedFd) -> io::Result<Self> {
        let rings = Rings::map(socket.as_fd(), [RECEIVE_RING, RING])?;
        let fd = socket.as_raw_fd();
        Ok(Sockets {
            _listed: Listed::new(interface, queue, fd),
            rings: Kind::Taken(rings, socket),
            fd,
            zero_copy: is_zero_copy(fd),
            idle: true,
            filled: 0,
            in_flight: 0,
        })
    }

    /// The descriptor once more, for another process.
    #[allow(unsafe_code)]
    pub(super) fn share(&self) -> io::Result<OwnedFd> {
        // SAFETY: the socket is open as long as this is there.
        unsafe { BorrowedFd::borrow_raw(self.fd) }.try_clone_to_owned()
    }

    pub(super) fn fd(&self) -> RawFd {
        self.fd
    }

    /// Frames in the fill ring, and frames sent and not yet completed.
    pub(super) fn with_kernel(&self) -> [usize; 2] {
        [self.filled, self.in_flight]
    }

    /// Goes on where another process left off.
    pub(super) fn go_on(&mut self, [filled, in_flight]: [usize; 2]) {
        (self.filled, self.in_flight) = (filled, in_flight);
    }

    #[inline]
    pub(super) fn receive(
        &mut self,
        frames: &Frames,
        scratch: &mut Pending,
        burst: &mut Vec<AfXdpFrame>,
    ) -> usize {
        let received = match &mut self.rings {
            Kind::Opened(opened) => {
                let received = opened.rx.try_recv(scratch, BURST, ()).unwrap_or(0);
                burst.extend(scratch.drain(..).map(AfXdpFrame));
                received
            }
            Kind::Taken(rings, _) => {
                let before = burst.len();
                rings.receive.take(BURST, |descriptor| {
                    burst.extend(frames.received(descriptor.addr, descriptor.len as usize).map(AfXdpFrame));
                });
                burst.len() - before
            }
        };
        self.idle = received == 0;
        self.filled -= received.min(self.filled);
        received
    }

    /// Sends what there is room for, from the front of `unsent`; returns how many,
    /// and whether the socket still works. The frames that it had taken by then are
    /// with it.
    #[inline]
    pub(super) fn transmit(
        &mut self,
        frames: &Frames,
        scratch: &mut Pending,
        unsent: &mut Vec<AfXdpFrame>,
    ) -> (usize, bool) {
        let portion = if self.zero_copy { BURST } else { COPY_BATCH };
        let (sent, works) = match &mut self.rings {
            Kind::Opened(opened) => send_opened(&mut opened.tx, portion, scratch, unsent),
            Kind::Taken(rings, _) => send_taken(rings, self.fd, frames, portion, unsent),
        };
        self.in_flight += sent;
        (sent, works)
    }

    /// Takes sent frames back, and gives free ones to the receive side.
    #[inline]
    pub(super) fn reclaim(&mut self, frames: &Frames, free: &mut Vec<Buffer>) {
        if self.in_flight > 0 {
            let done = match &mut self.rings {
                Kind::Opened(opened) => opened.completion.service(free, RING as usize).unwrap_or(0),
                Kind::Taken(rings, _) => rings.completion.take(RING as usize, |address| {
                    free.extend(frames.handle(address as usize / frames.chunk()));
                }),
            };
            self.in_flight -= done.min(self.in_flight);
            // What is in flight and not completed may be waiting in the
            // transmit ring for one more wake-up.
            if done == 0 && self.in_flight > 0 && self.transmit_needs_wakeup() {
                let _ = wake_transmit(self.fd);
            }
        }
        // In portions: a store to the shared index for every frame would
        // have the kernel's core fetch the line each time.
        let mut missing = (RING as usize).saturating_sub(self.filled);
        if self.idle {
            // What others send, and packets of the worker's own, need some.
            let spare = free.len().saturating_sub(RING as usize / 2);
            missing = missing.max(READY.saturating_sub(self.filled).min(spare));
        }
        if missing >= BURST {
            self.filled += match &mut self.rings {
                Kind::Opened(opened) => opened.fill.fill(free, missing).unwrap_or(0),
                Kind::Taken(rings, _) => {
                    rings.fill.put(missing, || free.pop().map(|frame| frames.address(&frame)))
                }
            };
        }
        match &mut self.rings {
            Kind::Opened(opened) => {
                if opened.fill.needs_wakeup() {
                    opened.rx.wake();
                }
            }
            Kind::Taken(rings, _) => {
                if rings.fill.needs_wakeup() {
                    wake_receive(self.fd);
                }
            }
        }
    }

    fn transmit_needs_wakeup(&mut self) -> bool {
        match &mut self.rings {
            Kind::Opened(opened) => opened.tx.needs_wakeup(),
            Kind::Taken(rings, _) => rings.transmit.needs_wakeup(),
        }
    }
}

#[inline]
fn send_opened(
    tx: &mut SocketTx<'static, ()>,
    portion: usize,
    scratch: &mut Pending,
    unsent: &mut Vec<AfXdpFrame>,
) -> (usize, bool) {
    let (mut sent, mut works, offered) = (0, true, unsent.len());
    for frame in unsent.drain(..) {
        scratch.push_back(frame.0);
    }
    while !scratch.is_empty() {
        let wake = AssertUnwindSafe(|| tx.try_send(scratch, portion).unwrap_or(0));
        match catch_unwind(wake) {
            Ok(0) => break,
            Ok(n) => sent += n,
            Err(_) => {
                (sent, works) = (offered - scratch.len(), false);
                break;
            }
        }
    }
    unsent.extend(scratch.drain(..).map(AfXdpFrame));
    (sent, works)
}

#[inline]
fn send_taken(
    rings: &mut Rings,
    fd: RawFd,
    frames: &Frames,
    portion: usize,
    unsent: &mut Vec<AfXdpFrame>,
) -> (usize, bool) {
    let mut sent = 0;
    let mut works = true;
    while sent < unsent.len() && works {
        let mut rest = unsent[sent..].iter();
        let count = rings.transmit.put(portion, || {
            let AfXdpFrame(frame) = rest.next()?;
            let (addr, len) = (frames.address(frame), u32::from(frame.get_len()));
            Some(libc::xdp_desc { addr, len, options: 0 })
        });
        if rings.transmit.needs_wakeup() {
            works = wake_transmit(fd);
        }
        sent += count;
        if count == 0 {
            break;
        }
    }
    unsent.drain(..sent);
    (sent, works)
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

/// Packets that came for this process's sockets on an interface and that the kernel
/// dropped, for there was no free frame or no room in the receive ring: the worker
/// did not come round in time (`rx_dropped` and `rx_ring_full` of XDP_STATISTICS).
/// Counted since a socket was opened, whoever opened it.
#[allow(unsafe_code)]
pub fn missed(interface: &str) -> u64 {
    // A socket is taken off the list before it is closed.
    let listed = LISTED.lock().unwrap_or_else(PoisonError::into_inner);
    let of_socket = |socket: RawFd| {
        // SAFETY: all of its fields are integers.
        let mut counted: libc::xdp_statistics = unsafe { std::mem::zeroed() };
        let mut length = size_of::<libc::xdp_statistics>() as libc::socklen_t;
        let to = (&raw mut counted).cast();
        // SAFETY: at most `length` bytes are written to `counted`.
        match unsafe { libc::getsockopt(socket, libc::SOL_XDP, libc::XDP_STATISTICS, to, &mut length) } {
            0 => counted.rx_dropped + counted.rx_ring_full,
            _ => 0,
        }
    };
    listed.iter().filter(|((of, _), _)| of == interface).map(|(_, socket)| of_socket(*socket)).sum()
}

#[allow(unsafe_code)]
fn is_zero_copy(fd: RawFd) -> bool {
    let (mut options, mut len) = (0u32, size_of::<u32>() as libc::socklen_t);
    // SAFETY: struct xdp_options is one u32; at most `len` bytes are written.
    let result = unsafe {
        libc::getsockopt(fd, libc::SOL_XDP, libc::XDP_OPTIONS, (&raw mut options).cast(), &mut len)
    };
    result == 0 && options & libc::XDP_OPTIONS_ZEROCOPY != 0
}

/// Keeps a socket from programs that this process runs: they would keep its queue.
#[allow(unsafe_code)]
fn close_on_exec(fd: RawFd) {
    // SAFETY: no pointer is passed; the descriptor is ours.
    unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
}

/// Has the kernel send; returns whether the socket works. What was not sent is
/// still in the ring at the next wake-up.
#[allow(unsafe_code)]
fn wake_transmit(fd: RawFd) -> bool {
    // SAFETY: no data is passed.
    let result = unsafe { libc::sendto(fd, std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0) };
    // Those that pass are the same for the crate.
    let passes = [libc::ENOBUFS, libc::EAGAIN, libc::EBUSY, libc::ENETDOWN];
    result >= 0 || io::Error::last_os_error().raw_os_error().is_some_and(|error| passes.contains(&error))
}

/// Has the driver go on receiving.
#[allow(unsafe_code)]
fn wake_receive(fd: RawFd) {
    let mut polled = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one element, which outlives the call.
    unsafe { libc::poll(&mut polled, 1, 0) };
}
