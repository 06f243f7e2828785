//! Making packets.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use core_affinity::CoreId;

use crate::lab::Netns;

static PROGRAM: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/source.bpf.o"));

/// Packets that the kernel makes and sends together.
const BATCH: u32 = 64;
/// Packets of one system call: two or three milliseconds' worth, after which a stop is seen.
const SLICE: u32 = 32_768;
/// The same with a rate: no more than waits in the ring of a socket, so that a forwarder which keeps up loses none.
const PACED_SLICE: u32 = 512;

const ETHERNET_LEN: usize = 14;
const IPV4_LEN: usize = 20;

/// What kind of packet is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A datagram.
    Udp,
    /// The first segment of a connection.
    TcpSyn,
    /// A segment as of an established connection.
    TcpAck,
}

impl Kind {
    const fn protocol(self) -> u8 {
        match self {
            Self::Udp => 17,
            Self::TcpSyn | Self::TcpAck => 6,
        }
    }

    const fn tcp_flags(self) -> u8 {
        match self {
            Self::Udp => 0,
            Self::TcpSyn => 0x02,
            Self::TcpAck => 0x10,
        }
    }

    const fn header_len(self) -> usize {
        match self {
            Self::Udp => 8,
            Self::TcpSyn | Self::TcpAck => 20,
        }
    }
}

/// How many flows there are: source addresses and ports that differ. They take turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flows {
    /// So many.
    Count(NonZeroU32),
    /// A new one for each packet, until after 2^32 they repeat.
    NewEachPacket,
}

impl Flows {
    /// That many flows.
    ///
    /// # Panics
    /// When `count` is 0.
    #[must_use]
    pub const fn count(count: u32) -> Self {
        match NonZeroU32::new(count) {
            Some(count) => Self::Count(count),
            None => panic!("at least one flow"),
        }
    }
}

/// What is sent, and where.
#[derive(Clone, Debug)]
pub struct SourceOptions {
    /// Where the interface is.
    pub netns: Netns,
    /// The interface that packets leave by. If it is a veth, its peer must have an XDP program.
    pub interface: String,
    /// Their Ethernet source.
    pub source_mac: [u8; 6],
    /// Their Ethernet destination.
    pub destination_mac: [u8; 6],
    /// The first client address; each has 50 000 ports.
    pub client: Ipv4Addr,
    /// Where packets go to.
    pub destination: SocketAddrV4,
    /// What kind they are.
    pub kind: Kind,
    /// How many flows they belong to.
    pub flows: Flows,
    /// Length of a frame, in bytes, without the frame check sequence: 60 for the shortest on Ethernet.
    pub frame_len: usize,
    /// The CPU that makes them.
    pub cpu: usize,
    /// Packets a second at most, or as many as can be.
    pub rate: Option<NonZeroU32>,
    /// How many in all, or until stopped.
    pub packets: Option<u64>,
}

/// A thread that makes packets until it is stopped or dropped.
#[derive(Debug)]
pub struct Source {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Source {
    /// Starts making packets.
    ///
    /// # Errors
    /// When the interface is not there, the frame length does not fit, or the kernel is older than 5.18.
    pub fn start(options: SourceOptions) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let (ready, started) = sync_channel(1);
        let thread = std::thread::Builder::new().name("source".into()).spawn({
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            move || run(&options, &stop, &sent, &ready)
        })?;
        let mut source = Self { stop, sent, thread: Some(thread) };
        // The thread hangs up without a word when it fails before its first packet.
        if started.recv().is_err() {
            source.join()?;
        }
        Ok(source)
    }

    /// Packets made so far, whether or not anybody took them.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Stops, and returns how many packets were made.
    ///
    /// # Errors
    /// When the kernel refused to go on at some time.
    pub fn stop(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.join()?;
        Ok(self.sent())
    }

    /// Waits until as many packets were made as were asked for, and returns how many.
    ///
    /// # Errors
    /// When the kernel refused to go on at some time.
    pub fn finish(mut self) -> Result<u64> {
        self.join()?;
        Ok(self.sent())
    }

    fn join(&mut self) -> Result<()> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => bail!("the source panicked"),
            None => Ok(()),
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Whoever wants the error calls stop or finish.
        let _ = self.join();
    }
}

fn run(options: &SourceOptions, stop: &AtomicBool, sent: &AtomicU64, ready: &SyncSender<()>) -> Result<()> {
    // The kernel looks for the interface in the namespace of the thread that runs the program.
    options.netns.join_thread()?;
    if !core_affinity::set_for_current(CoreId { id: options.cpu }) {
        bail!("cannot run on CPU {}", options.cpu);
    }
    let frame = frame(options)?;
    let mut program = load(options, &frame)?;
    let xdp: &mut Xdp =
        program.program_mut("source").context("the object has no program source")?.try_into()?;
    xdp.load()?;
    // Without an attachment somewhere, each run would patch the kernel's XDP dispatcher before and after, which takes
    // milliseconds. Nothing passes the loopback of a source's namespace.
    xdp.attach("lo", XdpMode::Skb).context("cannot attach the source to lo")?;

    let slice = options.rate.map_or(SLICE, |rate| (rate.get() / 200).clamp(1, PACED_SLICE));
    let mut due = Instant::now();
    let mut total: u64 = 0;
    while !stop.load(Ordering::Relaxed) {
        let left = options.packets.map_or(u64::MAX, |packets| packets.saturating_sub(total));
        let repeat = slice.min(u32::try_from(left).unwrap_or(u32::MAX));
        if repeat == 0 {
            break;
        }
        let run = TestRunOptions {
            data_in: Some(&frame),
            repeat,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH.min(repeat)),
            ..TestRunOptions::default()
        };
        xdp.test_run(run).context("the kernel does not send live frames; Linux 5.18 is needed")?;
        total += u64::from(repeat);
        sent.store(total, Ordering::Relaxed);
        // Fails when this was said before; the caller waits for the first only.
        let _ = ready.try_send(());
        if let Some(rate) = options.rate {
            // Time that was lost is not made up for: that would be at full rate.
            due =
                Instant::now().max(due + Duration::from_secs_f64(f64::from(repeat) / f64::from(rate.get())));
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    }
    Ok(())
}

/// A frame of the right length; the program fills in the headers.
fn frame(options: &SourceOptions) -> Result<Vec<u8>> {
    // The program checks that TCP would fit, whatever the kind.
    let least = ETHERNET_LEN + IPV4_LEN + Kind::TcpAck.header_len();
    if !(least..=1514).contains(&options.frame_len) {
        bail!("a frame of {} bytes: {least} to 1514 can be made", options.frame_len);
    }
    let headers = ETHERNET_LEN + IPV4_LEN + options.kind.header_len();
    let payload = (0..options.frame_len - headers).map(|i| i as u8);
    Ok(vec![0; headers].into_iter().chain(payload).collect())
}

fn load(options: &SourceOptions, frame: &[u8]) -> Result<Ebpf> {
    let interface = nix::net::if_::if_nametoindex(options.interface.as_str())
        .with_context(|| format!("no interface {} in {}", options.interface, options.netns.name()))?;
    let payload = &frame[ETHERNET_LEN + IPV4_LEN + options.kind.header_len()..];
    let payload_len = u16::try_from(payload.len()).map_err(|_| anyhow!("the payload is too long"))?;
    let payload_sum: u32 = payload
        .chunks(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)])))
        .sum();
    let flows = match options.flows {
        Flows::Count(count) => count.get(),
        Flows::NewEachPacket => 0,
    };
    let program = EbpfLoader::new()
        .override_global("out_interface", &interface, true)
        .override_global("source_mac", &options.source_mac, true)
        .override_global("destination_mac", &options.destination_mac, true)
        .override_global("client", &options.client.to_bits(), true)
        .override_global("virtual_address", &options.destination.ip().to_bits(), true)
        .override_global("virtual_port", &options.destination.port(), true)
        .override_global("protocol", &options.kind.protocol(), true)
        .override_global("tcp_flags", &options.kind.tcp_flags(), true)
        .override_global("flows", &flows, true)
        .override_global("payload_sum", &payload_sum, true)
        .override_global("payload_len", &payload_len, true)
        .load(PROGRAM)?;
    Ok(program)
}
