//! The most that AF_XDP gives: a forwarder that does nothing but forward.
//!
//! It takes every frame from one interface, writes the MAC addresses and sends it out of another: one thread, one queue,
//! one memory area for both sockets. What a director reaches on the same wires is measured against this.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use afxdp::PENDING_LEN;
use afxdp::buf::Buf;
use afxdp::buf_mmap::BufMmap;
use afxdp::mmap_area::{MmapArea, MmapAreaOptions};
use afxdp::socket::{Socket, SocketOptions, SocketRx, SocketTx};
use afxdp::umem::{Umem, UmemCompletionQueue, UmemFillQueue};
use anyhow::{Context, Result, anyhow, bail};
use arraydeque::{ArrayDeque, Wrapping};
use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, include_bytes_aligned};
use core_affinity::CoreId;

use crate::lab::{Netns, mac_of};

static PROGRAM: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/limit.bpf.o"));

const FRAMES: usize = 16_384;
const FRAME_LEN: usize = 2048;
const RING: u32 = 2048;
const BURST: usize = 64;
/// In copy mode the kernel sends at most so many packets a wake-up (`TX_BATCH_SIZE` of `net/xdp/xsk.c`).
const TRANSMIT_BURST: usize = 32;

type Frame = BufMmap<'static, ()>;
type Burst = ArrayDeque<[Frame; PENDING_LEN], Wrapping>;

/// Where frames come in and go out.
#[derive(Clone, Debug)]
pub struct LimitOptions {
    /// Where both interfaces are.
    pub netns: Netns,
    /// Frames come in here.
    pub from: String,
    /// Frames go out here.
    pub to: String,
    /// The address of the outgoing interface, which gives the Ethernet source.
    pub source: Ipv4Addr,
    /// The address of the next hop, which gives the Ethernet destination.
    pub next_hop: Ipv4Addr,
    /// The CPU that forwards.
    pub cpu: usize,
}

/// A running forwarder, stopped when this is dropped.
#[derive(Debug)]
pub struct Limit {
    stop: Arc<AtomicBool>,
    forwarded: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Limit {
    /// Starts forwarding, and returns when both sockets are open.
    ///
    /// # Errors
    /// When an interface is not there, has an XDP program already, or does not take an AF_XDP socket.
    pub fn start(options: LimitOptions) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let forwarded = Arc::new(AtomicU64::new(0));
        let (ready, started) = sync_channel(1);
        let thread = std::thread::Builder::new().name("limit".into()).spawn({
            let (stop, forwarded) = (Arc::clone(&stop), Arc::clone(&forwarded));
            move || run(&options, &stop, &forwarded, &ready)
        })?;
        let mut limit = Self { stop, forwarded, thread: Some(thread) };
        // The thread hangs up without a word when it fails before it forwards.
        if started.recv().is_err() {
            limit.join()?;
        }
        Ok(limit)
    }

    /// Packets forwarded so far.
    #[must_use]
    pub fn forwarded(&self) -> u64 {
        self.forwarded.load(Ordering::Relaxed)
    }

    /// Stops, and returns how many packets were forwarded.
    ///
    /// # Errors
    /// When forwarding failed at some time.
    pub fn stop(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.join()?;
        Ok(self.forwarded())
    }

    fn join(&mut self) -> Result<()> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => bail!("the forwarder panicked"),
            None => Ok(()),
        }
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Whoever wants the error calls stop.
        let _ = self.join();
    }
}

fn run(
    options: &LimitOptions,
    stop: &AtomicBool,
    forwarded: &AtomicU64,
    ready: &SyncSender<()>,
) -> Result<()> {
    options.netns.join_thread()?;
    if !core_affinity::set_for_current(CoreId { id: options.cpu }) {
        bail!("cannot run on CPU {}", options.cpu);
    }
    // Before the sockets: they would attach a program of their own, and never detach it.
    let _programs = [attach(&options.from)?, attach(&options.to)?];
    let (area, mut frames) = MmapArea::<()>::new(FRAMES, FRAME_LEN, MmapAreaOptions::default())
        .map_err(|error| anyhow!("no memory for frames: {error:?}"))?;
    let mut input = Half::open(&area, &options.from)?;
    let mut output = Half::open(&area, &options.to)?;
    input.fill(&mut frames, RING as usize)?;

    let mut header = [0; 12];
    header[..6].copy_from_slice(&mac_of(options.next_hop));
    header[6..].copy_from_slice(&mac_of(options.source));
    let mut burst: Box<Burst> = Box::new(ArrayDeque::new());
    let mut owed = 0;
    ready.send(()).context("nobody waits for the forwarder")?;
    while !stop.load(Ordering::Relaxed) {
        output.completion.service(&mut frames, BURST).map_err(|error| anyhow!("completion ring: {error}"))?;
        let received =
            input.rx.try_recv(&mut burst, BURST, ()).map_err(|error| anyhow!("receive ring: {error:?}"))?;
        if received == 0 && input.fill.needs_wakeup() {
            input.rx.wake();
        }
        for frame in burst.iter_mut().rev().take(received) {
            frame.get_data_mut()[..12].copy_from_slice(&header);
        }
        while !burst.is_empty() {
            let sent = output
                .tx
                .try_send(&mut burst, TRANSMIT_BURST)
                .map_err(|error| anyhow!("transmit ring: {error:?}"))?;
            if sent == 0 {
                break;
            }
        }
        forwarded.fetch_add(received as u64, Ordering::Relaxed);
        owed += received;
        if owed >= BURST {
            owed -= input.fill(&mut frames, owed)?;
        }
    }
    Ok(())
}

fn attach(interface: &str) -> Result<Ebpf> {
    let mut program = Ebpf::load(PROGRAM)?;
    let xdp: &mut Xdp =
        program.program_mut("limit").context("the object has no program limit")?.try_into()?;
    xdp.load()?;
    xdp.attach(interface, XdpMode::Driver).with_context(|| format!("cannot attach to {interface}"))?;
    Ok(program)
}

/// One interface's socket and rings.
struct Half {
    rx: SocketRx<'static, ()>,
    tx: SocketTx<'static, ()>,
    fill: UmemFillQueue<'static, ()>,
    completion: UmemCompletionQueue<'static, ()>,
    _socket: Arc<Socket<'static, ()>>,
}

impl Half {
    fn open(area: &Arc<MmapArea<'static, ()>>, interface: &str) -> Result<Self> {
        let (umem, completion, fill) = Umem::new(Arc::clone(area), RING, RING)
            .map_err(|error| anyhow!("cannot register frames: {error}"))?;
        let options = SocketOptions { copy_mode: true, ..SocketOptions::default() };
        let (socket, rx, tx) = Socket::new(umem, interface, 0, RING, RING, options)
            .map_err(|error| anyhow!("cannot open a socket on {interface}: {error}"))?;
        Ok(Self { rx, tx, fill, completion, _socket: socket })
    }

    fn fill(&mut self, frames: &mut Vec<Frame>, count: usize) -> Result<usize> {
        self.fill.fill(frames, count).map_err(|error| anyhow!("fill ring: {error}"))
    }
}
