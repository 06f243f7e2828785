//! Takes a director from its clients while they talk, and gives it back.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::conversations::{Conversations, EchoServer, allow_descriptors};
use crate::lab::pair::{Keepalived, now};
use crate::lab::site::{SERVERS, VIP, server_address};
use crate::lab::{Director, Method, Pair, wait_for};

const PORT: u16 = 7;

/// How much longer than VRRP takes to notice a connection may be silent.
pub const GRACE: Duration = Duration::from_millis(500);

/// How long nothing may be forwarded while one process takes another one's place.
pub const BLINK: Duration = Duration::from_millis(50);

/// How long keepalived, or getting all sessions, may take before a test gives up.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What happens to the active director.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is stopped in good order.
    Stop,
    /// It is killed.
    Kill,
    /// Its link to the clients has no carrier any more.
    Link,
    /// Nothing reaches it, and it reaches nobody, over links that are up.
    Partition,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Stop, Self::Kill, Self::Link, Self::Partition];

    /// The name that is printed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Kill => "kill",
            Self::Link => "link",
            Self::Partition => "partition",
        }
    }
}

/// What a failover, or the way back, did to the connections.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How packets get to the servers.
    pub method: Method,
    /// What happened.
    pub fault: Fault,
    /// Whether this is the way back to the first director.
    pub back: bool,
    /// Connections that there were.
    pub connections: usize,
    /// Those that broke.
    pub resets: u64,
    /// The longest that one was silent.
    pub longest_stall: Duration,
    /// From the fault until keepalived told the other director to be active.
    pub vrrp: Duration,
}

impl Outcome {
    /// Whether no connection broke, and none was silent for much longer than VRRP took.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.resets == 0 && self.longest_stall <= self.vrrp + GRACE
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, fault, back, connections, resets, longest_stall, vrrp } = self;
        let (method, fault, back) = (method.name(), fault.name(), if *back { "-back" } else { "" });
        let (stall, vrrp) = (longest_stall.as_millis(), vrrp.as_millis());
        write!(
            f,
            "ha {method} {fault}{back} connections={connections} resets={resets} longest_stall_ms={stall} \
             vrrp_ms={vrrp}"
        )
    }
}

/// What it did to the connections that another process took a director's place.
#[derive(Clone, Debug)]
pub struct Renewal {
    /// How packets get to the servers.
    pub method: Method,
    /// Connections that there were.
    pub connections: usize,
    /// Those that broke.
    pub resets: u64,
    /// The longest that one was silent.
    pub longest_stall: Duration,
    /// The longest that all were.
    pub without_forwarding: Duration,
}

impl Renewal {
    /// Whether no connection broke, and forwarding was interrupted for less than [`BLINK`].
    #[must_use]
    pub fn holds(&self) -> bool {
        self.resets == 0 && self.without_forwarding < BLINK
    }
}

impl fmt::Display for Renewal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, connections, resets, longest_stall, without_forwarding } = self;
        let (method, stall, without) =
            (method.name(), longest_stall.as_millis(), without_forwarding.as_millis());
        write!(
            f,
            "ha {method} takeover connections={connections} resets={resets} longest_stall_ms={stall} \
             without_forwarding_ms={without}"
        )
    }
}

/// Two directors, and clients that talk to servers through whichever is active.
pub struct Stand {
    // Dropped in this order: servers hold descriptors of the process, by whose end it is known to be gone.
    conversations: Conversations,
    servers: Vec<EchoServer>,
    keepalived: [Keepalived; 2],
    directors: [Option<Director>; 2],
    method: Method,
    pair: Pair,
}

impl Stand {
    /// Sets everything up, with the first director active, and `connections` that say something once in `interval`.
    ///
    /// # Errors
    /// When anything does not come up.
    pub fn new(method: Method, connections: usize, interval: Duration) -> Result<Self> {
        allow_descriptors(connections as u64 + 1024)?;
        let pair = Pair::new(method)?;
        let address = |number| match method.replies_bypass() {
            true => SocketAddr::from((VIP, PORT)),
            false => SocketAddr::from((server_address(number), PORT)),
        };
        let servers = pair.servers.iter().zip(1..=SERVERS);
        let servers = servers
            .map(|(netns, number)| EchoServer::start(netns, address(number)))
            .collect::<Result<Vec<_>>>()?;
        let directors = [0, 1].map(|number| pair.start_director(number, &pair.config(number, method, PORT)));
        let [first, second] = directors;
        let directors = [Some(first?), Some(second?)];
        let keepalived = [pair.start_keepalived(0)?, pair.start_keepalived(1)?];
        keepalived[0].wait_told("active", Duration::ZERO, TIMEOUT)?;
        keepalived[1].wait_told("backup", Duration::ZERO, TIMEOUT)?;
        let conversations = Conversations::start(&pair.client, (VIP, PORT).into(), connections, interval)
            .with_context(|| directors[0].as_ref().map_or_else(String::new, Director::log))?;
        Ok(Self { pair, method, directors, keepalived, servers, conversations })
    }

    /// Has a fault happen to the first director, and undoes it.
    ///
    /// # Errors
    /// When the other director does not become active, or the first one does not again.
    pub fn suffer(&mut self, fault: Fault) -> Result<[Outcome; 2]> {
        self.in_step()?;
        let there = self.change(fault, false)?;
        // Whoever comes back has to have what happened meanwhile, too.
        let back = self.change(fault, true)?;
        Ok([there, back])
    }

    /// Has another process take the place of the first director's.
    ///
    /// # Errors
    /// When it does not, or keepalived takes notice.
    pub fn renew(&mut self) -> Result<Renewal> {
        self.in_step()?;
        let resets = self.resets();
        let begun = now();
        let _ = (self.conversations.take_longest(), self.conversations.take_gap());
        let director = self.directors[0].take().context("the first director is there")?;
        self.directors[0] = Some(director.taken_over()?);
        self.conversations.settle(Instant::now(), TIMEOUT).with_context(|| self.logs())?;
        let renewal = Renewal {
            method: self.method,
            connections: self.conversations.count(),
            resets: self.resets() - resets,
            longest_stall: self.conversations.take_longest(),
            without_forwarding: self.conversations.take_gap(),
        };
        self.in_step()?;
        for (keepalived, role) in self.keepalived.iter().zip(["active", "backup"]) {
            let told = keepalived.told()?;
            let changed = told.iter().any(|told| told.at >= begun && told.role != role);
            ensure!(!changed, "keepalived changed roles: {}", self.logs());
        }
        Ok(renewal)
    }

    /// Waits until both directors have all connections.
    fn in_step(&self) -> Result<()> {
        let wanted = self.conversations.count() as u64 - self.conversations.resets();
        let mut have = [0, 0];
        let waited = wait_for("both directors to have all connections", TIMEOUT, || {
            for (have, director) in have.iter_mut().zip(&self.directors) {
                *have = director.as_ref().map_or(Ok(0), Director::connections)?;
            }
            Ok(have.iter().all(|have| *have >= wanted))
        });
        waited.with_context(|| format!("of {wanted} they have {have:?}; {}", self.logs()))
    }

    fn change(&mut self, fault: Fault, back: bool) -> Result<Outcome> {
        let resets = self.resets();
        let _ = self.conversations.take_longest();
        let begun = now();
        if back {
            self.undo(fault)?
        } else {
            self.happen(fault)?
        }
        let vrrp = self.noticed(fault, back, begun).with_context(|| self.logs())?;
        self.conversations.settle(Instant::now(), TIMEOUT).with_context(|| self.logs())?;
        Ok(Outcome {
            method: self.method,
            fault,
            back,
            connections: self.conversations.count(),
            resets: self.resets() - resets,
            longest_stall: self.conversations.take_longest(),
            vrrp,
        })
    }

    fn happen(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::Stop => {
                let (status, log) =
                    self.directors[0].take().context("the first director is there")?.stop()?;
                ensure!(status.success(), "{status}:\n{log}");
                Ok(())
            }
            Fault::Kill => self.directors[0].take().context("the first director is there")?.kill(),
            Fault::Link => self.pair.set_link(0, false),
            Fault::Partition => self.pair.set_partition(0, false),
        }
    }

    fn undo(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::Stop | Fault::Kill => {
                let config = self.pair.config(0, self.method, PORT);
                self.directors[0] = Some(self.pair.start_director(0, &config)?);
                Ok(())
            }
            Fault::Link => self.pair.set_link(0, true),
            Fault::Partition => self.pair.set_partition(0, true),
        }
    }

    /// How long VRRP took: until the other director is active, or on the way back from the moment that the second one
    /// left off.
    fn noticed(&self, fault: Fault, back: bool, begun: Duration) -> Result<Duration> {
        let [first, second] = &self.keepalived;
        if !back {
            return Ok(second.wait_told("active", begun, TIMEOUT)?.saturating_sub(begun));
        }
        let left_off = second.wait_told("backup", begun, TIMEOUT)?;
        if fault == Fault::Partition {
            // It took itself for the active one all the time.
            return Ok(left_off.saturating_sub(begun));
        }
        Ok(first.wait_told("active", begun, TIMEOUT)?.abs_diff(left_off))
    }

    fn resets(&self) -> u64 {
        // Both ends may see the same one.
        self.conversations.resets().max(self.servers.iter().map(EchoServer::resets).sum())
    }

    /// Connections of the first director that the kernel carries, and packets that it carried since that one began.
    ///
    /// # Errors
    /// When the director does not say.
    pub fn carried(&self) -> Result<(u64, u64)> {
        let director = self.directors[0].as_ref().context("the first director is there")?;
        Ok((director.offloaded()?, director.carried()?))
    }

    /// What directors and their keepalived said.
    #[must_use]
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for (number, (director, keepalived)) in self.directors.iter().zip(&self.keepalived).enumerate() {
            let director = director.as_ref().map_or_else(|| "it is gone".to_owned(), Director::log);
            let status = self.directors[number].as_ref().map(|director| director.sluice("status"));
            if let Some(Ok(status)) = status {
                text += &status;
            }
            text += &format!("director {number} said:\n{director}\nits keepalived:\n{}\n", keepalived.log());
        }
        text
    }
}
