//! The clients' side: sends in turns, and measures.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::MESSAGE;
use crate::lab::{Netns, wait_for};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);

/// Threads that make connections.
const MAKERS: usize = 4;

/// How often all connections are looked at for those that still wait.
const LOOK: Duration = Duration::from_millis(20);

/// What the thread and those who ask it share, in microseconds of its clock.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    resets: AtomicU64,
    /// The longest that a message waited, or waits, for its echo
    longest: AtomicU64,
    /// The longest that none of all had an echo
    gap: AtomicU64,
    /// Every connection has had an echo of a message sent after this
    settled: AtomicU64,
    echoes: AtomicU64,
}

/// Running conversations; dropping this closes them.
#[derive(Debug)]
pub struct Conversations {
    shared: Arc<Shared>,
    clock: Instant,
    count: usize,
    thread: Option<JoinHandle<()>>,
}

impl Conversations {
    /// Makes `count` connections from inside a namespace, of which each says
    /// something once in `interval`, spread evenly.
    ///
    /// # Errors
    /// When one of them does not come about.
    pub fn start(netns: &Netns, server: SocketAddr, count: usize, interval: Duration) -> Result<Self> {
        let mut streams = connect(netns, server, count)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for (number, stream) in streams.iter_mut().enumerate() {
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            epoll.add(&*stream, EpollEvent::new(EpollFlags::EPOLLIN, number as u64))?;
        }
        let shared = Arc::<Shared>::default();
        let clock = Instant::now();
        let mut round = Round::new(streams, Arc::clone(&shared), clock, interval);
        let thread =
            std::thread::Builder::new().name("conversations".into()).spawn(move || round.run(&epoll))?;
        let conversations = Self { shared, clock, count, thread: Some(thread) };
        conversations.settle(Instant::now(), CONNECT.max(interval * 3))?;
        Ok(conversations)
    }

    /// How many there were at the start.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// How many broke.
    #[must_use]
    pub fn resets(&self) -> u64 {
        self.shared.resets.load(Ordering::Relaxed)
    }

    /// How many echoes have come.
    #[must_use]
    pub fn echoes(&self) -> u64 {
        self.shared.echoes.load(Ordering::Relaxed)
    }

    /// The longest that an echo took since this was called last.
    #[must_use]
    pub fn take_longest(&self) -> Duration {
        Duration::from_micros(self.shared.longest.swap(0, Ordering::Relaxed))
    }

    /// The longest time without an echo on any connection since this was called last: how long nothing was forwarded,
    /// but for the time from one message to the next.
    #[must_use]
    pub fn take_gap(&self) -> Duration {
        Duration::from_micros(self.shared.gap.swap(0, Ordering::Relaxed))
    }

    /// Waits until every connection that is not broken has had an echo of what it
    /// said after `since`.
    ///
    /// # Errors
    /// After `timeout`.
    pub fn settle(&self, since: Instant, timeout: Duration) -> Result<()> {
        let since = since.saturating_duration_since(self.clock).as_micros() as u64;
        wait_for("an echo on every connection", timeout, || {
            Ok(self.shared.settled.load(Ordering::Relaxed) > since)
        })
    }
}

impl Drop for Conversations {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn connect(netns: &Netns, server: SocketAddr, count: usize) -> Result<Vec<TcpStream>> {
    std::thread::scope(|scope| {
        let makers: Vec<_> = (0..MAKERS)
            .map(|maker| {
                scope.spawn(move || -> Result<Vec<TcpStream>> {
                    netns.join_thread()?;
                    (maker..count)
                        .step_by(MAKERS)
                        .map(|_| {
                            TcpStream::connect_timeout(&server, CONNECT)
                                .with_context(|| format!("cannot connect to {server}"))
                        })
                        .collect()
                })
            })
            .collect();
        let mut streams = Vec::with_capacity(count);
        for maker in makers {
            streams.extend(maker.join().expect("a maker does not panic")?);
        }
        Ok(streams)
    })
}

struct Conversation {
    /// `None` once it broke
    stream: Option<TcpStream>,
    said: u64,
    /// When, where the echo has not come yet
    waiting_since: Option<u64>,
    /// What has come of the echo
    heard: Vec<u8>,
    /// When that was said whose echo came last
    settled: u64,
}

/// All conversations, each of which has its turn once in an interval.
struct Round {
    conversations: Vec<Conversation>,
    shared: Arc<Shared>,
    clock: Instant,
    interval: u64,
    /// Whose turn is next, counted over all rounds
    turn: u64,
    /// When the last echo came
    last_echo: Option<u64>,
}

impl Round {
    fn new(streams: Vec<TcpStream>, shared: Arc<Shared>, clock: Instant, interval: Duration) -> Self {
        let conversation = |stream| Conversation {
            stream: Some(stream),
            said: 0,
            waiting_since: None,
            heard: Vec::with_capacity(MESSAGE),
            settled: 0,
        };
        Round {
            conversations: streams.into_iter().map(conversation).collect(),
            shared,
            clock,
            interval: interval.as_micros().max(1) as u64,
            turn: 0,
            last_echo: None,
        }
    }

    fn now(&self) -> u64 {
        self.clock.elapsed().as_micros() as u64
    }

    fn run(&mut self, epoll: &Epoll) {
        let mut events = vec![EpollEvent::empty(); 1024];
        let mut look_at = 0;
        while !self.shared.stop.load(Ordering::Relaxed) {
            self.take_turns();
            let count = epoll.wait(&mut events, EpollTimeout::from(1u8)).unwrap_or(0);
            for event in &events[..count] {
                let number = event.data() as usize;
                let now = self.now();
                let Some(conversation) = self.conversations.get_mut(number) else { continue };
                match conversation.listen(now, &self.shared) {
                    Ok(false) => {}
                    Ok(true) => {
                        let gap = self.last_echo.replace(now).map_or(0, |last| now.saturating_sub(last));
                        self.shared.gap.fetch_max(gap, Ordering::Relaxed);
                    }
                    Err(_) => {
                        conversation.stream = None;
                        self.shared.resets.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
            if self.now() >= look_at {
                self.look();
                look_at = self.now() + LOOK.as_micros() as u64;
            }
        }
    }

    /// Lets everybody speak whose turn has come.
    fn take_turns(&mut self) {
        let now = self.now();
        let count = self.conversations.len() as u64;
        // Who missed a turn for want of time has the next one.
        self.turn = self.turn.max((now.saturating_sub(self.interval) * count) / self.interval);
        while self.turn * self.interval / count <= now {
            let number = (self.turn % count) as usize;
            self.turn += 1;
            let conversation = &mut self.conversations[number];
            if conversation.say(number as u64, now).is_err() {
                conversation.stream = None;
                self.shared.resets.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Counts those that still wait.
    fn look(&self) {
        let now = self.now();
        let living = || self.conversations.iter().filter(|conversation| conversation.stream.is_some());
        let waiting = living().filter_map(|conversation| conversation.waiting_since).min();
        if let Some(since) = waiting {
            self.shared.longest.fetch_max(now - since, Ordering::Relaxed);
        }
        let settled = living().map(|conversation| conversation.settled).min().unwrap_or(u64::MAX);
        self.shared.settled.store(settled, Ordering::Relaxed);
    }
}

impl Conversation {
    /// Says something, unless it waits for an echo.
    fn say(&mut self, number: u64, now: u64) -> io::Result<()> {
        let Some(stream) = self.stream.as_mut().filter(|_| self.waiting_since.is_none()) else {
            return Ok(());
        };
        self.said += 1;
        stream.write_all(&message(number, self.said))?;
        self.waiting_since = Some(now);
        self.heard.clear();
        self.heard.reserve(MESSAGE);
        Ok(())
    }

    /// Takes what has come of the echo; whether that was all of it.
    fn listen(&mut self, now: u64, shared: &Shared) -> io::Result<bool> {
        let Some(stream) = &mut self.stream else { return Ok(false) };
        let mut buffer = [0; MESSAGE];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.heard.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        if self.heard.len() < MESSAGE {
            return Ok(false);
        }
        let number = u64::from_be_bytes(self.heard[..8].try_into().expect("eight bytes"));
        if self.heard != message(number, self.said) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if let Some(since) = self.waiting_since.take() {
            shared.longest.fetch_max(now.saturating_sub(since), Ordering::Relaxed);
            shared.echoes.fetch_add(1, Ordering::Relaxed);
            self.settled = since;
        }
        Ok(true)
    }
}

/// What connection `number` says as its message `said`.
fn message(number: u64, said: u64) -> [u8; MESSAGE] {
    let mut message = [said as u8; MESSAGE];
    message[..8].copy_from_slice(&number.to_be_bytes());
    message[8..16].copy_from_slice(&said.to_be_bytes());
    message
}
