//! The worker: one burst in, one burst out.
//!
//! A worker is the only owner of its connections. It takes bursts from its
//! port, in stages: parse and hash all, look up all, act on all. Between two
//! bursts it takes up new snapshots, expires connections, and goes on with
//! what control asked for, all in bounded portions.
//!
//! Packets cost no memory that is not there from the start (`no_allocation.rs` of
//! the tests watches it), but for:
//! * what schedulers know of many servers, when a new service table is taken up, and
//!   a chunk of schedulers when there are more services than ever;
//! * a destination that lblc or lblcr meets for the first time, and a server that
//!   lblcr adds to it, up to their bounds;
//! * what FTP keeps of a line that it rewrote, until that is acknowledged;
//! * lists of local ports that changed owners, while plans change
//!   ([`local`](crate::local));
//! * records for a peer, where sessions are synchronised;
//! * what a command of control brings along, such as opening the port anew.

mod adopt;
mod blame;
mod capture;
mod defense;
mod exchange;
mod express;
mod flow;
mod fragments;
mod ftp;
mod gather;
mod handoff;
mod held;
mod listing;
mod offload;
mod opening;
mod owners;
mod pages;
pub(crate) mod persist;
mod pieces;
mod plain;
mod recent;
mod related;
mod sip;
mod snapshot;
mod standby;
mod sweep;
mod sync;
mod trace;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam::channel::Sender;

use crate::capture::Sight;
use crate::conn::{Lookup, Seed, Tuple, timer::TICKS_PER_SECOND};
use crate::forward::{self, icmp};
use crate::neigh::{HopId, Resolution};
use crate::packet::{Packet, Unparsed};
use crate::port::afxdp::Left;
use crate::port::{BURST, Frame, Port};
use crate::prefetch::prefetch;
use crate::stats::{DropReason, WorkerCounters};
use crate::wire::Address;

use capture::Watch;
pub use defense::CONNECTIONS_IN_A_PAGE;
use exchange::Buffer;
pub use exchange::{Command, Event, Exchange, Handed, Published};
use flow::{Flows, Verdict, View};
use fragments::Arrival;
use gather::Gather;
use held::Held;
use listing::Listing;
pub use pages::{Order, Slice, Slices};
pub use snapshot::Snapshot;
use sweep::Sweep;

/// Connections that are expired between two bursts: more than a burst makes,
/// so that expiry keeps up with any rate of new ones.
const EXPIRE_BUDGET: usize = 4 * BURST;

/// Listings under way at once. For another one the oldest is given up, which
/// is most likely one that nobody reads.
const MOST_LISTINGS: usize = 64;

/// Frames that wait for room in a transmit ring.
const MOST_UNSENT: usize = 4 * BURST;

/// What a worker is told when it is made.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its number, from 0
    pub worker: usize,
    /// Number of workers
    pub workers: usize,
    /// Connections that it can hold
    pub connections: usize,
    /// Random bytes for the hash of its table
    pub seed: [u8; 16],
}

/// Who is to be told that interfaces are closed, or left to another process.
enum Closing {
    Closed(Sender<()>),
    Lent(Sender<Option<Left>>, Option<Left>),
}

/// One worker on its port.
pub struct Worker<P: Port> {
    port: P,
    settings: Settings,
    published: Arc<Published>,
    exchanges: Arc<[Exchange]>,
    counters: Arc<WorkerCounters>,
    view: View,
    flows: Flows,
    burst: Vec<P::Frame>,
    /// How many frames of the burst came from which interface, in order
    parts: Vec<(usize, usize)>,
    parsed: Vec<Result<Packet, Unparsed>>,
    /// What is known of the connection of each
    lookups: Vec<Lookup>,
    /// Frames to be sent, by interface
    unsent: Vec<Vec<P::Frame>>,
    held: Held<P::Frame>,
    gather: Gather<P::Frame>,
    /// Buffers for frames that are handed over, which were never used so far
    fresh: Vec<Buffer>,
    /// The oldest first
    listings: Vec<Listing>,
    /// The place of the listing that goes on first
    turn: usize,
    icmp_limit: icmp::Limit,
    watch: Watch<P::Frame>,
    /// Whether the frames at hand come from an interface, not from a worker
    receiving: bool,
    /// The address that control was last asked for, and when
    asked: Option<(Address, u32)>,
    /// Who is to be told once listeners know all
    closing: Option<Closing>,
}

impl<P: Port> Worker<P> {
    /// A worker that owns `port`. `exchanges` has one element for each worker;
    /// `now` is the time in nanoseconds since any fixed instant.
    pub fn new(
        settings: Settings,
        port: P,
        published: Arc<Published>,
        exchanges: Arc<[Exchange]>,
        counters: Arc<WorkerCounters>,
        now: u64,
    ) -> Self {
        assert_eq!(exchanges.len(), settings.workers, "one exchange for each worker");
        let Settings { worker, workers, connections, seed } = settings;
        let claims = exchanges.iter().map(|exchange| Arc::clone(&exchange.claims)).collect();
        let owners = Arc::clone(&exchanges[worker].owners);
        let movements = Arc::clone(&exchanges[worker].movements);
        let interfaces = port.interfaces();
        Worker {
            flows: Flows::new(worker, claims, owners, movements, connections, Seed::new(seed), tick(now)),
            port,
            settings,
            published,
            exchanges,
            counters,
            view: View::default(),
            burst: Vec::with_capacity(2 * BURST),
            parts: Vec::with_capacity(interfaces),
            parsed: Vec::with_capacity(2 * BURST),
            lookups: Vec::with_capacity(2 * BURST),
            unsent: (0..interfaces).map(|_| Vec::with_capacity(MOST_UNSENT + BURST)).collect(),
            held: Held::new(),
            gather: Gather::new(Seed::new(seed)),
            fresh: handoff::buffers(workers),
            listings: Vec::with_capacity(MOST_LISTINGS),
            turn: 0,
            icmp_limit: icmp::Limit::new(now),
            watch: Watch::new(interfaces),
            receiving: false,
            asked: None,
            closing: None,
        }
    }

    /// The worker's port.
    pub fn port(&self) -> &P {
        &self.port
    }

    /// The worker's port, for tests that inject frames.
    pub fn port_mut(&mut self) -> &mut P {
        &mut self.port
    }

    /// Whether no interface is open, so that nothing can come but from control.
    pub fn is_closed(&self) -> bool {
        self.port.is_closed()
    }

    /// Connections in the table.
    pub fn connections(&self) -> usize {
        self.flows.table.len()
    }

    /// Goes round once at time `now`, in nanoseconds, which never goes back.
    /// Returns how many frames were handled; 0 means that there was nothing to
    /// do.
    pub fn poll(&mut self, now: u64) -> usize {
        self.flows.carrying.set_time(now);
        if self.watch.is_on() {
            self.watch_round(now);
        }
        self.take_up_snapshots(now);
        self.port.reclaim();
        let mut handled = 0;
        let (mut burst, mut parts) = (std::mem::take(&mut self.burst), std::mem::take(&mut self.parts));
        let interfaces = self.port.interfaces();
        self.receiving = self.settings.workers > 1;
        for interface in 0..interfaces {
            let received = self.port.receive(interface, &mut burst);
            if received > 0 {
                self.counters.count_received(interface, received as u64);
                parts.push((interface, received));
                handled += received;
            }
            // Short ones together, as the first steps of each wait for memory.
            if burst.len() >= BURST || interface + 1 == interfaces && !burst.is_empty() {
                self.process(&mut burst, &parts, 0, now);
                parts.clear();
            }
        }
        self.receiving = false;
        (self.burst, self.parts) = (burst, parts);
        if self.settings.workers > 1 {
            handled += self.process_handed(now);
        }
        self.transmit();
        self.expire(now);
        let behind = self.look_after_carried(now);
        let listing = self.obey(now);
        handled += usize::from(self.synchronise(now));
        match self.closing.take() {
            Some(Closing::Closed(answer)) => _ = answer.try_send(()),
            Some(Closing::Lent(answer, left)) => _ = answer.try_send(left),
            None => {}
        }
        self.counters.polls.add(1);
        handled + usize::from(listing) + usize::from(behind)
    }

    /// Gives memory that is not used any more back to the kernel, by a bounded
    /// portion. For when there was nothing else to do, as it takes system calls.
    pub fn tidy(&mut self) {
        self.flows.local_ports.tidy();
        self.flows.templates.tidy();
    }

    /// Sleeps until a frame may have come, at most `limit`. For when there was
    /// nothing to do.
    pub fn wait(&mut self, limit: Duration) {
        self.tidy();
        // Control waits for a table to be adopted, and that takes some rounds.
        if !self.flows.is_taking_up() {
            self.port.wait(limit);
        }
    }

    fn take_up_snapshots(&mut self, now: u64) {
        self.flows.standby = self.published.standby.load(Ordering::Relaxed);
        if !self.flows.is_adopting() {
            let published = || {
                let services = self.published.services.load();
                (!Arc::ptr_eq(&services, &self.view.services)).then(|| Arc::clone(&services))
            };
            let first = self.view.services.generation() == 0;
            if let Some(services) = self.flows.prepare(first, published) {
                let former = std::mem::replace(&mut self.view.services, services);
                self.flows.begin_adoption(former);
                self.flows.sweep = Sweep::of(&self.view);
            }
        }
        if self.flows.is_adopting() && self.flows.adopt(&self.view.services, tick(now)) {
            // After the schedulers: control takes it that the old table is
            // not looked at any more.
            self.counters.generation.set(self.view.services.generation());
        }
        let hops = self.published.hops.load();
        if !Arc::ptr_eq(&hops, &self.view.hops) {
            self.view.hops = Arc::clone(&hops);
            drop(hops);
            self.flows.local_ports.follow(&self.view.hops);
            self.retry_held(now);
        }
        self.flows.local_ports.proceed();
    }

    /// Handles frames, of which so many were received on which interface.
    fn process(&mut self, burst: &mut Vec<P::Frame>, parts: &[(usize, usize)], visits: usize, now: u64) {
        if self.watch.looks() {
            return self.process_watched(burst, parts, visits, now);
        }
        // Each pass asks the cache for what the next one reads, and does little
        // else, so that the misses of many packets are under way at once.
        burst.iter().filter_map(|frame| frame.bytes().first()).for_each(prefetch);
        self.parsed.clear();
        for frame in burst.iter() {
            Packet::parse_into(frame.bytes(), &mut self.parsed);
        }
        let table = &self.flows.table;
        self.lookups.clear();
        self.lookups.extend(self.parsed.iter().map(|parsed| match parsed {
            Ok(packet) => table.begin(&packet.tuple),
            Err(_) => Lookup::NONE,
        }));
        for (parsed, lookup) in self.parsed.iter().zip(&mut self.lookups) {
            if let Ok(packet) = parsed {
                table.likely(&packet.tuple, lookup);
            }
        }
        for (parsed, lookup) in self.parsed.iter().zip(&mut self.lookups) {
            if let Ok(packet) = parsed {
                table.go_on(&packet.tuple, lookup);
            }
        }
        let parsed = std::mem::take(&mut self.parsed);
        let lookups = std::mem::take(&mut self.lookups);
        let mut parts = parts.iter();
        let (mut interface, mut left) = (0, 0);
        for ((mut frame, parsed), lookup) in burst.drain(..).zip(&parsed).zip(&lookups) {
            while left == 0 {
                let Some(part) = parts.next() else { break };
                (interface, left) = *part;
            }
            left = left.saturating_sub(1);
            let packet = match parsed {
                Ok(packet) => packet,
                Err(unparsed) => {
                    self.process_unparsed(frame, *unparsed, interface, visits, now);
                    continue;
                }
            };
            // Not before its turn: an earlier packet of this burst may have made the
            // connection, or ended it.
            let found = self.flows.table.find_likely(&packet.tuple, lookup);
            if let Some(found) = found {
                if let Some(out) = self.flows.express(&self.view, &mut frame, packet, found, tick(now)) {
                    self.flows.sent(&self.view, found.0, packet);
                    self.send(out, frame);
                    continue;
                }
            } else if let Some(opened) =
                self.flows.open(&self.view, &mut frame, packet, lookup.hash(), tick(now))
            {
                match opened {
                    Ok(out) => self.send(out, frame),
                    Err(verdict) => self.carry_out(verdict, frame, packet, interface, visits, now),
                }
                continue;
            }
            let verdict = self.flows.process(&self.view, &mut frame, packet, interface, found, tick(now));
            if let (Some((id, _)), Verdict::Send(..)) = (found, &verdict) {
                self.flows.sent(&self.view, id, packet);
            }
            self.carry_out(verdict, frame, packet, interface, visits, now);
        }
        self.parsed = parsed;
        self.lookups = lookups;
    }

    #[cold]
    fn process_unparsed(
        &mut self,
        frame: P::Frame,
        unparsed: Unparsed,
        interface: usize,
        visits: usize,
        now: u64,
    ) {
        match unparsed {
            Unparsed::Kernel => self.punt(frame, interface),
            Unparsed::Fragment(network) => {
                let arrival = Arrival { interface, visits, until: now + held::LONGEST };
                self.fragment(frame, network, arrival, now);
            }
            Unparsed::Icmp(network) => self.relate(frame, network, interface, visits, now),
            Unparsed::Drop(reason) => self.discard(frame, reason),
        }
    }

    #[inline]
    fn carry_out(
        &mut self,
        verdict: Verdict,
        mut frame: P::Frame,
        packet: &Packet,
        interface: usize,
        visits: usize,
        now: u64,
    ) {
        match verdict {
            Verdict::Send(rewritten, hop) => match self.address(&mut frame, rewritten, hop) {
                Ok(out) => self.send(out, frame),
                Err(reason) => self.discard(frame, reason),
            },
            Verdict::Split(rewrite, hop, room) => self.send_pieces(frame, packet, &rewrite, hop, room),
            Verdict::Wait(towards) => {
                self.wait_for_hop(frame, towards, interface, now + held::LONGEST, now);
            }
            Verdict::Answer { error, reason, source } => {
                self.answer(error, source, packet, &frame, now);
                self.blame(packet, interface);
                self.discard(frame, reason);
            }
            Verdict::Drop(reason) => {
                self.blame(packet, interface);
                self.discard(frame, reason);
            }
            // On its way round it is looked for as any other is.
            Verdict::Hand(keeper) if visits == 0 => self.hand(keeper, frame, interface, 0),
            Verdict::Unclaimed
                if self.flows.standby
                    && visits + 1 >= self.settings.workers
                    && self.is_the_active_ones(packet, interface) =>
            {
                self.discard(frame, DropReason::Standby);
            }
            Verdict::Unclaimed if visits + 1 >= self.settings.workers && self.is_strays(packet) => {
                self.answer(icmp::Error::PortUnreachable, None, packet, &frame, now);
                self.discard(frame, DropReason::NoConnection);
            }
            Verdict::Unclaimed if self.receiving => self.aim(frame, packet, interface),
            Verdict::Hand(_) | Verdict::Unclaimed => self.pass_on(frame, interface, visits),
        }
    }

    /// Asks for the next hop towards an address and lets a frame wait for it.
    fn wait_for_hop(&mut self, frame: P::Frame, towards: Address, interface: usize, until: u64, now: u64) {
        self.ask(towards, now);
        if let Err(frame) = self.held.hold(frame, interface, until) {
            self.discard(frame, DropReason::Unresolved);
        }
        self.count_held();
    }

    fn count_held(&self) {
        self.counters.held.set((self.held.len() + self.gather.waiting()) as u64);
    }

    /// Puts the link-layer header on; returns the interface to send on.
    #[inline]
    fn address(
        &self,
        frame: &mut P::Frame,
        packet: forward::Rewritten,
        hop: HopId,
    ) -> Result<usize, DropReason> {
        let hop = self.view.hops.hop(hop).ok_or(DropReason::NoRoute)?;
        let mac = hop.mac.ok_or(DropReason::Unresolved)?;
        forward::put_link_header(frame, packet, hop, mac)?;
        Ok(hop.interface as usize)
    }

    #[inline(always)]
    fn send(&mut self, interface: usize, frame: P::Frame) {
        match self.unsent.get_mut(interface) {
            Some(unsent) if unsent.len() < MOST_UNSENT + BURST => unsent.push(frame),
            Some(_) => self.discard(frame, DropReason::TransmitFull),
            None => self.discard(frame, DropReason::ForeignInterface),
        }
    }

    fn transmit(&mut self) {
        let watched = self.watch.is_on();
        if watched {
            self.show_unsent(None);
        }
        for (interface, unsent) in self.unsent.iter_mut().enumerate() {
            if unsent.is_empty() {
                continue;
            }
            let sent = self.port.transmit(interface, unsent);
            self.counters.count_transmitted(interface, sent as u64);
            // What the ring did not take goes with the next burst, up to a
            // limit: beyond it the link is too slow, and the newest are lost.
            while unsent.len() > MOST_UNSENT {
                let Some(frame) = unsent.pop() else { break };
                self.counters.count_drop(DropReason::TransmitFull);
                if watched {
                    let (at, sight) =
                        ((self.settings.worker, interface), Sight::Dropped(DropReason::TransmitFull));
                    self.watch.show((&self.flows, &self.view), at, sight, None, frame.bytes());
                }
                self.port.release(frame);
            }
        }
        if watched {
            self.mark_seen();
        }
    }

    /// Sends an ICMP error about a packet to its sender. Whether that works or
    /// not, the packet itself is counted by its reason alone.
    fn answer(
        &mut self,
        error: icmp::Error,
        source: Option<Address>,
        packet: &Packet,
        frame: &P::Frame,
        now: u64,
    ) {
        if !self.icmp_limit.take(now) {
            return;
        }
        let sender = packet.tuple.source;
        let id = match self.view.hops.resolve(sender) {
            Resolution::Hop(id) => id,
            Resolution::Ask => return self.ask(sender, now),
            Resolution::Foreign | Resolution::NoRoute => return,
        };
        let Some(hop) = self.view.hops.hop(id) else { return };
        if hop.mac.is_none() {
            return self.ask(sender, now);
        }
        let Some(source) = source.or(hop.source) else { return };
        let offset = forward::link_header_len(hop);
        let Some(mut answer) = self.port.allocate() else { return };
        let packet_id = self.flows.next_id();
        let written = icmp::write(error, source, packet, frame.bytes(), &mut answer, offset, packet_id);
        match written.map(|written| self.address(&mut answer, written, id)) {
            Some(Ok(interface)) => {
                self.counters.answered.add(1);
                self.send(interface, answer);
            }
            Some(Err(_)) | None => self.port.release(answer),
        }
    }

    /// Asks control for the next hop towards an address, not more often than
    /// once a tick for the same one.
    fn ask(&mut self, towards: Address, now: u64) {
        let asked = Some((towards, tick(now)));
        if self.asked != asked {
            self.asked = asked;
            let _ = self.exchange().events.push(Event::Ask(towards));
        }
    }

    fn retry_held(&mut self, now: u64) {
        let mut all = self.held.take_all();
        for mut waiting in all.drain(..) {
            self.watch.interface = waiting.interface;
            let packet = match Packet::parse(waiting.frame.bytes()) {
                Ok(packet) => packet,
                Err(Unparsed::Fragment(network)) => {
                    let held::Waiting { frame, interface, until } = waiting;
                    let arrival = Arrival { interface, visits: self.settings.workers, until };
                    self.fragment(frame, network, arrival, now);
                    continue;
                }
                Err(_) => {
                    self.discard(waiting.frame, DropReason::Malformed);
                    continue;
                }
            };
            let hash = self.flows.table.hash(&packet.tuple);
            let found = self.flows.table.find(&packet.tuple, hash);
            let interface = waiting.interface;
            match self.flows.process(&self.view, &mut waiting.frame, &packet, interface, found, tick(now)) {
                Verdict::Wait(towards) => {
                    self.ask(towards, now);
                    self.held.hold_again(waiting);
                }
                verdict => {
                    let visits = self.settings.workers;
                    self.carry_out(verdict, waiting.frame, &packet, waiting.interface, visits, now);
                    if self.watch.is_on() {
                        self.show_unsent(Some(&packet.tuple));
                    }
                }
            }
        }
        self.held.give_back(all);
        self.count_held();
    }

    fn expire(&mut self, now: u64) {
        let mut budget = EXPIRE_BUDGET;
        while let Some(id) = self.flows.table.pop_expired(tick(now), &mut budget) {
            if self.flows.settle(&self.view, id)
                || self.flows.outlives(id, tick(now))
                || self.flows.awaits_word(id, tick(now))
            {
                continue;
            }
            self.flows.expire(&self.view, id);
            self.counters.expired.add(1);
        }
        let ended = self.flows.sweep(&self.view) + self.flows.defend(&self.view, tick(now));
        self.counters.expired.add(ended as u64);
        self.flows.expire_templates(&self.view, tick(now), EXPIRE_BUDGET);
        self.flows.tend_schedulers(tick(now));
        self.counters.connections.set(self.flows.table.len() as u64);
        while let Some(waiting) = self.held.take_expired(now) {
            self.watch.interface = waiting.interface;
            self.discard(waiting.frame, DropReason::Unresolved);
            self.count_held();
        }
        self.expire_fragments(now);
    }

    /// Does a bounded portion of what control asked for; returns whether there
    /// is more of it to do at once.
    fn obey(&mut self, now: u64) -> bool {
        while let Some(command) = self.exchange().commands.pop() {
            match command {
                Command::List(order) => {
                    if self.listings.len() >= MOST_LISTINGS {
                        self.listings.remove(0);
                    }
                    self.listings.push(Listing::new(order));
                }
                Command::Reopen(answer) => {
                    let _ = answer.try_send(self.reopen());
                }
                Command::Close(answer) => {
                    self.port.close();
                    self.closing = Some(Closing::Closed(answer));
                }
                Command::Offer(answer) => _ = answer.try_send(self.port.offer()),
                Command::Lend(answer) => {
                    self.let_go();
                    self.port.reclaim();
                    self.closing = Some(Closing::Lent(answer, self.port.lend()));
                }
                Command::Prepare(offered, answer) => _ = answer.try_send(self.port.prepare(offered)),
                Command::Assume(left, answer) => _ = answer.try_send(self.port.assume(&left)),
                Command::Tell(tap) => self.flows.sync.follow(tap),
                Command::Trace(question) => self.flows.answer(&self.view, &question, tick(now)),
                Command::Capture(order) => self.watch(order),
            }
        }
        self.counters.port_failed.set(u64::from(self.port.failed().is_some()));
        if self.listings.is_empty() {
            return false;
        }
        // Each has its turn to look at entries, one between two bursts.
        let (flows, services, count) = (&self.flows, &self.view.services, self.listings.len());
        self.turn = (self.turn + 1) % count;
        let mut may_look = true;
        for place in (self.turn..count).chain(0..self.turn) {
            self.listings[place].proceed(flows, services, tick(now), &mut may_look);
        }
        self.listings.retain(|listing| !listing.is_over());
        self.listings.iter().any(Listing::is_ready)
    }

    /// Whether a packet that nobody claims is a NAT server's that is to be told
    /// so (`nat_icmp_send`, `ip_vs_out_hook` in ip_vs_core.c). A reset is not
    /// answered.
    fn is_strays(&self, packet: &Packet) -> bool {
        let Tuple { protocol, source, source_port, .. } = packet.tuple;
        self.view.services.tunables().nat_icmp_send
            && !packet.resets()
            && self.view.services.is_nat_server(protocol, source, source_port)
    }

    /// Lets go of all frames and opens the port anew.
    fn reopen(&mut self) -> Result<(), String> {
        self.let_go();
        self.port.reopen()
    }

    /// Lets go of all frames.
    fn let_go(&mut self) {
        let mut all = self.held.take_all();
        for waiting in all.drain(..) {
            self.discard(waiting.frame, DropReason::Unresolved);
        }
        self.held.give_back(all);
        while let Some(waiting) = self.gather.take_any() {
            self.discard(waiting.frame, DropReason::FragmentQueueFull);
        }
        self.count_held();
        for unsent in &mut self.unsent {
            for frame in unsent.drain(..) {
                self.counters.count_drop(DropReason::TransmitFull);
                self.port.release(frame);
            }
        }
    }

    fn punt(&mut self, frame: P::Frame, interface: usize) {
        if self.port.punt(interface, frame) {
            self.counters.punted.add(1);
        } else {
            self.counters.count_drop(DropReason::PuntFailed);
            self.watch.note(DropReason::PuntFailed);
        }
    }

    // Not where packets are sent on, for all that is done with one would be there too.
    #[inline(never)]
    fn discard(&mut self, frame: P::Frame, reason: DropReason) {
        self.counters.count_drop(reason);
        if self.watch.is_on() {
            self.show_drop(&frame, reason);
        }
        self.port.release(frame);
    }

    #[inline]
    fn exchange(&self) -> &Exchange {
        &self.exchanges[self.settings.worker]
    }
}

/// The tick of a time in nanoseconds.
#[inline]
fn tick(now: u64) -> u32 {
    (now / (1_000_000_000 / u64::from(TICKS_PER_SECOND))) as u32
}
