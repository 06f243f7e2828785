//! What a worker has the program carry; see [`crate::offload`].
//!
//! Of each connection that has flows in the tables there is a record here. All of them
//! are gone through within [`PERIOD`], a portion between two bursts: what was carried is
//! counted, timers are moved, and what is not to be carried any more is taken out.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Worker;
use super::flow::{Flows, View, deadline, outer_source, resolved};
use crate::conn::{EntryId, NO_TEMPLATE, Side, State};
use crate::forward;
use crate::ftp::Role;
use crate::offload::{Board, Carried, Flow, Held, Key, MOST_HOPS, MOST_WORKERS, Share};
use crate::packet::Packet;
use crate::port::Port;
use crate::service::{OffloadChoice, Protocol, ServerId};
use crate::stats::WorkerCounters;
use crate::wire::tcp;

/// In a [`Line`](crate::conn::Line): it is carried.
const CARRIED: u8 = u8::MAX;
/// In a line: it never will have.
const NEVER: u8 = u8::MAX - 1;

/// All records are gone through in so many nanoseconds.
const PERIOD: u64 = 1_000_000_000;
/// When there are more than so many it takes longer, which still is within two
/// seconds: the tallies of a million connections are two million cache lines.
const MANY: usize = 250_000;
const PERIOD_OF_MANY: u64 = 1_600_000_000;

/// Records that are looked at between two bursts.
const SLICE: usize = 128;

/// The cache is asked for the record that is so many ahead.
const AHEAD: usize = 16;

/// Connections whose slots are given up between two bursts.
const RELEASES: usize = 256;

/// Periods without a packet after which a connection is carried no more.
const IDLE: u8 = 10;

/// Packets in a period that came to the worker and should have been carried, after
/// which a connection is carried no more, if none was.
const MISSED: u16 = 16;

/// How often a worker says that it is alive, nanoseconds.
const SIGN_OF_LIFE: u64 = 10_000_000;

/// How long slots are kept for the program to finish with a packet, nanoseconds.
const GRACE: u64 = 20_000_000;

/// How far a record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Stage {
    /// It is of no connection
    #[default]
    Free,
    /// Its flows are in force, or were until control changed the generation
    In,
    /// They are out of force, and the slots kept until the program is done
    Leaving,
}

/// A connection that is carried.
#[derive(Clone, Copy, Default)]
struct Record {
    id: EntryId,
    server: ServerId,
    generation: u32,
    /// None while it is free
    held: Option<Held>,
    /// What is counted already
    seen: Carried,
    missed: u16,
    idle: u8,
    /// Whether anything was carried since it was entered
    moved: bool,
    stage: Stage,
}

/// Why a connection is not carried.
enum Not {
    /// Not now: it is tried again after some more packets
    Yet,
    /// It is not one that can be
    Ever,
}

/// A worker's share of what is carried.
#[derive(Default)]
pub(super) struct Carrying {
    share: Option<Share>,
    /// Whether connections are entered
    on: bool,
    after: u8,
    /// As many as were ever in use at a time; there is room for all
    records: Vec<Record>,
    /// Those that are of no connection
    free: Vec<u32>,
    /// The record of a connection, if its line says that it has one
    of: Vec<u32>,
    /// Records whose flows were taken out since the last round
    left: Vec<u32>,
    /// And before that, and until when their slots are kept
    settling: VecDeque<(u32, u64)>,
    next: usize,
    begun: u64,
    token: u32,
    signed: Option<u64>,
    /// How many records are in use
    taken: usize,
    /// Packets that were carried since that was asked for last
    carried: u64,
}

impl Carrying {
    fn record_of(&self, id: EntryId) -> Option<u32> {
        self.of.get(id as usize).copied()
    }

    /// A record that is of no connection, or that may be made.
    fn vacant(&self) -> Option<u32> {
        let new = || self.records.len() < self.share.as_ref().map_or(0, |share| share.connections);
        self.free.last().copied().or_else(|| new().then_some(self.records.len() as u32))
    }

    fn record(&mut self, number: u32) -> Option<&mut Record> {
        self.records.get_mut(number as usize)
    }

    fn board(&self) -> Option<&Arc<Board>> {
        self.share.as_ref().map(|share| &share.board)
    }

    /// The next token: of this worker alone, and not 0.
    fn next_token(&self, worker: usize) -> u32 {
        const OWN: u32 = (1 << 24) - 1;
        (worker as u32) << 24 | (self.token.wrapping_add(1) & OWN).max(1)
    }

    fn sign(&mut self, worker: usize, now: u64) {
        let Some(share) = &self.share else { return };
        if self.on && self.signed.is_none_or(|signed| now - signed >= SIGN_OF_LIFE) {
            self.signed = Some(now);
            share.board.set_alive(worker, now + share.clock);
        }
    }
}

impl<P: Port> Worker<P> {
    /// Has established connections carried by the program from now on.
    pub fn carry(&mut self, share: Share) {
        if self.settings.worker >= MOST_WORKERS {
            return;
        }
        let connections = share.connections;
        self.flows.carrying = Carrying {
            on: true,
            after: share.after.clamp(1, crate::offload::MOST_AFTER),
            records: Vec::with_capacity(connections),
            free: Vec::with_capacity(connections),
            of: vec![0; self.settings.connections],
            left: Vec::with_capacity(connections),
            settling: VecDeque::with_capacity(connections),
            share: Some(share),
            ..Carrying::default()
        };
    }

    /// Leaves all packets to the worker from now on, or no longer. For when
    /// somebody wants to see every packet.
    pub fn keep_all_packets(&mut self, keep: bool) {
        let worker = self.settings.worker;
        let carrying = &mut self.flows.carrying;
        if let Some(board) = carrying.board().filter(|_| keep) {
            // The program does not carry for the dead.
            board.set_alive(worker, 0);
        }
        carrying.on = carrying.share.is_some() && !keep;
        carrying.signed = None;
    }

    /// Goes on with what is carried, by a bounded portion; returns whether there is
    /// more to be done at once.
    pub(super) fn look_after_carried(&mut self, now: u64) -> bool {
        if self.flows.carrying.share.is_none() {
            return false;
        }
        let more = self.flows.proceed(&self.view, now);
        count(&self.counters, &mut self.flows.carrying);
        more
    }
}

fn count(counters: &WorkerCounters, carrying: &mut Carrying) {
    counters.carried.add(std::mem::take(&mut carrying.carried));
    counters.offloaded.set(carrying.taken as u64);
}

impl Flows {
    /// Takes note of a packet that the worker sent on.
    #[inline(always)]
    pub(super) fn sent(&mut self, view: &View, id: EntryId, packet: &Packet) {
        if self.carrying.on {
            self.count_sent(view, id, packet);
        }
    }

    #[inline(never)]
    fn count_sent(&mut self, view: &View, id: EntryId, packet: &Packet) {
        let Some(line) = self.table.get_mut(id) else { return };
        match line.offload {
            NEVER => {}
            CARRIED => self.missed(view, id, packet),
            count => {
                if matches!(line.state, State::Established | State::Udp) && !packet.partial {
                    line.offload = count + 1;
                    if count + 1 >= self.carrying.after {
                        self.offer(view, id);
                    }
                }
            }
        }
    }

    /// A packet of a connection that is carried came to the worker.
    #[cold]
    fn missed(&mut self, view: &View, id: EntryId, packet: &Packet) {
        const DECIDING: u8 = tcp::FIN | tcp::SYN | tcp::RST | tcp::ACK;
        let plain = packet.tuple.protocol != Protocol::Tcp || packet.flags & DECIDING == tcp::ACK;
        if !plain {
            self.withdraw(view, id, 0);
            return;
        }
        let number = self.carrying.record_of(id);
        if let Some(record) = number.and_then(|number| self.carrying.record(number)) {
            record.missed = record.missed.saturating_add(1);
        }
    }

    #[cold]
    fn offer(&mut self, view: &View, id: EntryId) {
        let offload = match self.try_offer(view, id) {
            Ok(()) => CARRIED,
            Err(Not::Yet) => 0,
            Err(Not::Ever) => NEVER,
        };
        if let Some(line) = self.table.get_mut(id) {
            line.offload = offload;
        }
    }

    fn try_offer(&mut self, view: &View, id: EntryId) -> Result<(), Not> {
        let entry = self.table.get(id).ok_or(Not::Yet)?;
        let ordinary = entry.ftp == Role::None && !entry.one_packet && entry.template == NO_TEMPLATE;
        if !ordinary || entry.client.protocol == Protocol::Sctp {
            return Err(Not::Ever);
        }
        let services = &view.services;
        let server = services.server(entry.server_id).filter(|server| server.available).ok_or(Not::Yet)?;
        let service = services.service(server.service).ok_or(Not::Yet)?;
        if service.options.offload == OffloadChoice::Off || self.standby {
            return Err(Not::Yet);
        }
        let number = self.carrying.vacant().ok_or(Not::Yet)?;
        let board = Arc::clone(self.carrying.board().ok_or(Not::Ever)?);
        let generation = board.generation();
        // A slot of other next hops is another next hop.
        if board.hops_generation() != Some(view.hops.generation()) {
            return Err(Not::Yet);
        }
        let mut flow = |side: Side| {
            let (hop_id, hop) = resolved(&mut self.table, id, side, &view.hops).map_err(|_| Not::Yet)?;
            let number = u16::try_from(hop_id.0).ok().filter(|hop| usize::from(*hop) < MOST_HOPS);
            let number = number.ok_or(Not::Ever)?;
            if !board.is_usable(hop_id.0) {
                return Err(Not::Yet);
            }
            let source = outer_source(&entry, hop).ok_or(Not::Yet)?;
            let pmtu_disc = services.tunables().pmtu_disc;
            let rewrite = forward::rewrite(&entry, side, source, server.encapsulation, pmtu_disc);
            let tuple = match side {
                Side::Client => &entry.client,
                Side::Server => &entry.server,
            };
            let flow = Flow::new(&rewrite, tuple.is_v4(), number, self.worker as u8).ok_or(Not::Ever)?;
            Ok((Key::of(tuple), flow))
        };
        let client = flow(Side::Client)?;
        let server = entry.method.has_replies().then(|| flow(Side::Server)).transpose()?;
        let token = self.carrying.next_token(self.worker);
        let entered = board.enter(generation, token, &client, server.as_ref());
        let (held, seen) = entered.ok_or(Not::Yet)?;
        let carrying = &mut self.carrying;
        carrying.token = token;
        if carrying.free.pop().is_none() {
            carrying.records.push(Record::default());
        }
        carrying.taken += 1;
        if let Some(record) = carrying.record(number) {
            let (server, held) = (entry.server_id, Some(held));
            *record = Record { id, server, generation, held, seen, stage: Stage::In, ..Record::default() };
        }
        if let Some(of) = carrying.of.get_mut(id as usize) {
            *of = number;
        }
        Ok(())
    }

    /// Takes the flows of a connection out of force. `offload` is what its line says
    /// from now on.
    fn withdraw(&mut self, view: &View, id: EntryId, offload: u8) {
        let Some(number) = self.carrying.record_of(id) else { return };
        let Some(held) = self.carrying.record(number).and_then(|record| record.held) else { return };
        let Some(board) = self.carrying.board() else { return };
        board.withdraw(&held);
        self.fold(view, number);
        if let Some(line) = self.table.get_mut(id) {
            line.offload = offload;
        }
        if let Some(record) = self.carrying.record(number) {
            record.stage = Stage::Leaving;
        }
        self.carrying.left.push(number);
    }

    /// To be called before a connection is taken out of the table.
    #[inline]
    pub(super) fn no_longer_carried(&mut self, view: &View, id: EntryId) {
        if self.carrying.share.is_some() && self.table.line(id).is_some_and(|line| line.offload == CARRIED) {
            self.withdraw(view, id, 0);
        }
    }

    /// Whether a connection whose time is over had packets that were carried, and
    /// goes on.
    #[inline]
    pub(super) fn was_carried(&mut self, view: &View, id: EntryId, now: u32) -> bool {
        if self.carrying.share.is_none() || self.table.line(id).is_none_or(|line| line.offload != CARRIED) {
            return false;
        }
        let Some(number) = self.carrying.record_of(id) else { return false };
        if self.fold(view, number).is_none() {
            return false;
        }
        let Some(line) = self.table.line(id) else { return false };
        let (state, server) = (line.state, line.server_id);
        let timeouts = view.services.server(server).map(|server| view.services.timeouts_of(server));
        let seconds = timeouts.unwrap_or(view.services.timeouts()).seconds(state);
        self.table.schedule(id, deadline(now, seconds));
        true
    }

    /// Counts what was carried since the last time; returns that.
    fn fold(&mut self, view: &View, number: u32) -> Carried {
        let Some(held) = self.carrying.record(number).and_then(|record| record.held) else {
            return Carried::default();
        };
        let Some(board) = self.carrying.board() else { return Carried::default() };
        let carried = board.carried(&held);
        let Some(record) = self.carrying.record(number) else { return Carried::default() };
        let new = carried.since(record.seen);
        if new.is_none() {
            return new;
        }
        (record.seen, record.idle, record.moved) = (carried, 0, true);
        let (id, leaving) = (record.id, record.stage == Stage::Leaving);
        if let Some(server) = view.services.server(record.server) {
            for side in [Side::Client, Side::Server] {
                let (packets, bytes) = new.of(side);
                server.count(self.worker, side, packets, bytes);
            }
        }
        self.carrying.carried += new.packets[0] + new.packets[1];
        if let Some(line) = self.table.get_mut(id).filter(|_| !leaving) {
            line.packets = line.packets.wrapping_add(new.packets[Side::Client as usize] as u32);
            if self.sync.is_on() {
                let template = line.template;
                self.sync.packet(id, template, false);
            }
        }
        new
    }

    fn proceed(&mut self, view: &View, now: u64) -> bool {
        self.carrying.sign(self.worker, now);
        let Carrying { left, settling, .. } = &mut self.carrying;
        settling.extend(left.drain(..).map(|number| (number, now + GRACE)));
        let more = self.give_up(view, now);
        self.go_through(view, now) || more
    }

    /// Gives up slots that the program is done with; returns whether there are more.
    fn give_up(&mut self, view: &View, now: u64) -> bool {
        for _ in 0..RELEASES {
            let Some((number, _)) =
                self.carrying.settling.front().filter(|(_, until)| *until <= now).copied()
            else {
                return false;
            };
            self.carrying.settling.pop_front();
            // What the program was at when the flows were taken out.
            self.fold(view, number);
            let Some(record) = self.carrying.record(number).map(std::mem::take) else { continue };
            if let Some((held, board)) = record.held.zip(self.carrying.board()) {
                board.release(&held);
            }
            self.carrying.free.push(number);
            self.carrying.taken -= 1;
        }
        true
    }

    /// Looks at the records whose turn has come; returns whether there are more.
    fn go_through(&mut self, view: &View, now: u64) -> bool {
        let high = self.carrying.records.len();
        let Some(board) = self.carrying.board().map(Arc::clone) else { return false };
        let elapsed = now.saturating_sub(self.carrying.begun);
        let period = if high > MANY { PERIOD_OF_MANY } else { PERIOD };
        if self.carrying.next >= high {
            if elapsed >= period {
                (self.carrying.next, self.carrying.begun) = (0, now);
            }
            return false;
        }
        let due = (u128::from(elapsed) * high as u128 / u128::from(period)).min(high as u128) as usize;
        let end = due.min(self.carrying.next + SLICE);
        let (generation, tick) = (board.generation(), super::tick(now));
        for index in self.carrying.next..end {
            if let Some(ahead) = self.carrying.records.get(index + AHEAD) {
                if let Some(held) = &ahead.held {
                    board.prefetch(held);
                }
                // To look whether there is a connection would be to wait for it.
                self.table.prefetch_entry(ahead.id);
            }
            if self.carrying.records[index].stage == Stage::In {
                self.look(view, index as u32, generation, tick);
            }
        }
        self.carrying.next = self.carrying.next.max(end);
        end < due
    }

    /// Looks at a connection that is carried.
    fn look(&mut self, view: &View, number: u32, generation: u32, now: u32) {
        let new = self.fold(view, number);
        let on = self.carrying.on;
        let Some(record) = self.carrying.record(number) else { return };
        let Record { id, held, moved, .. } = *record;
        let missed = std::mem::take(&mut record.missed) >= MISSED;
        let outdated = record.generation != generation;
        if new.is_none() {
            record.idle += 1;
        }
        let idle = record.idle >= IDLE || !on;
        let Some(line) = self.table.line(id) else { return };
        let (state, server) = (line.state, line.server_id);
        let closed = held.zip(self.carrying.board()).is_some_and(|(held, board)| board.is_closed(&held));
        if !new.is_none()
            && let Some(server) = view.services.server(server)
        {
            let seconds = view.services.timeouts_of(server).seconds(state);
            self.table.touch(id, deadline(now, seconds));
        }
        if outdated || closed || idle || !matches!(state, State::Established | State::Udp) {
            self.withdraw(view, id, 0);
        } else if missed && new.is_none() {
            // It comes by an interface where nothing is carried, or not at all.
            self.withdraw(view, id, if moved { 0 } else { NEVER });
        }
    }
}
