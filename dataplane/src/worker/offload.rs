//! What a worker has the program carry; see [`crate::offload`].
//!
//! Of each connection that has flows in the tables there is a record here. The slots of
//! all of them are gone through within [`PERIOD`], a portion between two bursts: what was
//! carried is counted for servers and services, and what is not to be carried any more is
//! taken out. A slot has all that this needs. The connection itself is not looked at, as
//! that would cost more than all else: its timer is [settled](Flows::settle) when it
//! is over, or when the connection leaves the tables, and who asks in between is told
//! what it will be ([`Flows::expiry`]).

use std::collections::VecDeque;
use std::sync::Arc;

use super::Worker;
use super::defense::SPARED;
use super::flow::{Flows, View, deadline, outer_source, resolved};
use crate::conn::{EntryId, NO_TEMPLATE, Side, State};
use crate::forward;
use crate::ftp::Role;
use crate::offload::{Board, Flow, Held, Holdings, Key, Last, MOST_HOPS, MOST_WORKERS, Owner, Share};
use crate::packet::Packet;
use crate::port::Port;
use crate::service::{OffloadChoice, Protocol, ServiceTable};
use crate::stats::WorkerCounters;
use crate::wire::tcp;

mod inherited;

/// In a [`Line`](crate::conn::Line): it is carried.
const CARRIED: u8 = u8::MAX;
/// In a line: it never will have.
const NEVER: u8 = u8::MAX - 1;

/// All slots are gone through in so many nanoseconds.
const PERIOD: u64 = 1_000_000_000;
/// When there are more connections than so many it takes longer, which still is within
/// two seconds.
const MANY: usize = 250_000;
const PERIOD_OF_MANY: u64 = 1_750_000_000;

/// Slots that are looked at between two bursts, or a few more.
const SLICE: usize = 256;
/// And stretches of 64 slots, of which the worker may have none.
const STRETCHES: usize = 1024;

/// The cache is asked for the slots of the stretch that is so many ahead.
const AHEAD: usize = 2;

/// Connections whose slots are given up between two bursts.
const RELEASES: usize = 256;

/// Looks in a row at which nothing had been carried after which a connection is carried
/// no more.
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
    /// None while it is free
    held: Option<Held>,
    /// Packets of a period that came to the worker
    missed: u16,
    /// The period
    period: u32,
    /// Whether anything was carried before one came to the worker
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
    /// The slots of all records
    holdings: Holdings,
    /// The stretch of them that is next
    next: usize,
    /// When the present period began, and its number
    begun: u64,
    periods: u32,
    /// What time it is to the worker
    now: u64,
    token: u32,
    signed: Option<u64>,
    /// Whether nothing can come yet, or any more: another process has the interfaces
    waits: bool,
    /// The period since which that is not so
    opened: u32,
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

    /// How long it takes to go through all.
    fn period(&self) -> u64 {
        if self.taken > MANY { PERIOD_OF_MANY } else { PERIOD }
    }

    /// Nanoseconds since the slot with a number was looked at.
    fn looked(&self, slot: usize, now: u64) -> u64 {
        let (stretch, all) = (slot / 64, self.holdings.stretches().max(1));
        let into = u128::from(self.period()) * stretch as u128 / all as u128;
        let since = now.saturating_sub(self.begun + into as u64);
        // In this period, or in the one before.
        if stretch < self.next {
            since
        } else {
            (now + self.period()).saturating_sub(self.begun + into as u64)
        }
    }

    /// Adds the slots of a connection to those that are gone through, or takes them
    /// out.
    fn hold(&mut self, held: &Held, holds: bool) {
        let Some(share) = &self.share else { return };
        share.board.slots_of(held).for_each(|slot| self.holdings.set(slot, holds));
    }

    /// Takes note of what time it is to the worker.
    #[inline]
    pub(super) fn set_time(&mut self, now: u64) {
        self.now = now;
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
            holdings: Holdings::of(share.board.slots()),
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
        self.flows.carrying.set_waits(self.port.is_closed());
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
        let state = self.table.line(id).map(|line| line.state);
        if !plain || !matches!(state, Some(State::Established | State::Udp)) {
            self.withdraw(view, id, 0);
            return;
        }
        let Some(number) = self.carrying.record_of(id) else { return };
        let (period, board) = (self.carrying.periods, self.carrying.board().map(Arc::clone));
        let Some((record, board)) = self.carrying.record(number).zip(board) else { return };
        let Some(held) = record.held else { return };
        let (last, _) = board.last(&held);
        record.moved |= last != Last::Settled;
        if record.period != period || last <= Last::Rounds(0) {
            (record.period, record.missed) = (period, 0);
        }
        record.missed += 1;
        let (missed, moved) = (record.missed, record.moved);
        // This packet has moved the connection's timer.
        self.fold(view, number);
        if missed >= MISSED {
            // It comes by an interface where nothing is carried, or not at all.
            self.withdraw(view, id, if moved { 0 } else { NEVER });
        }
    }

    #[cold]
    fn offer(&mut self, view: &View, id: EntryId) {
        let offload = match self.try_offer(view, id) {
            Ok(()) => {
                self.sync.carried(id);
                CARRIED
            }
            Err(Not::Yet) => 0,
            Err(Not::Ever) => NEVER,
        };
        if let Some(line) = self.table.get_mut(id) {
            line.offload = offload;
        }
    }

    fn try_offer(&mut self, view: &View, id: EntryId) -> Result<(), Not> {
        let entry = self.table.get(id).ok_or(Not::Yet)?;
        if entry.ftp != Role::None || entry.one_packet || entry.client.protocol == Protocol::Sctp {
            return Err(Not::Ever);
        }
        // An answer by UDP assures the template, and is to be seen until it is.
        let template = self.templates.get(entry.template);
        let assures = entry.state == State::Udp && entry.method.has_replies();
        if assures && template.is_some_and(|template| !template.assured) {
            return Err(Not::Yet);
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
            let flow = Flow::new(&rewrite, tuple.is_v4(), number).ok_or(Not::Ever)?;
            Ok((Key::of(tuple), flow))
        };
        let client = flow(Side::Client)?;
        let server = entry.method.has_replies().then(|| flow(Side::Server)).transpose()?;
        let token = self.carrying.next_token(self.worker);
        let owner = Owner { connection: id, server: entry.server_id };
        let held = board.enter((generation, token), owner, &client, server.as_ref()).ok_or(Not::Yet)?;
        let carrying = &mut self.carrying;
        carrying.token = token;
        carrying.hold(&held, true);
        if carrying.free.pop().is_none() {
            carrying.records.push(Record::default());
        }
        carrying.taken += 1;
        if let Some(record) = carrying.record(number) {
            *record = Record { id, held: Some(held), stage: Stage::In, ..Record::default() };
        }
        if let Some(of) = carrying.of.get_mut(id as usize) {
            *of = number;
        }
        Ok(())
    }

    /// Takes the flows of a connection out of force. `offload` is what its line says
    /// from now on.
    fn withdraw(&mut self, view: &View, id: EntryId, offload: u8) {
        let Some((number, held)) = self.carried(id) else { return };
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

    /// The record and the slots of a connection that is carried.
    fn carried(&self, id: EntryId) -> Option<(u32, Held)> {
        let carrying = &self.carrying;
        if carrying.share.is_none() || self.table.line(id).is_none_or(|line| line.offload != CARRIED) {
            return None;
        }
        let number = carrying.record_of(id)?;
        Some((number, carrying.records.get(number as usize)?.held?))
    }

    /// To be called before a connection is taken out of the table.
    #[inline]
    pub(super) fn no_longer_carried(&mut self, view: &View, id: EntryId) {
        if self.carrying.share.is_some() {
            self.withdraw(view, id, 0);
        }
    }

    /// The tick at which a connection expires; `None` if it has no deadline. Packets
    /// that were carried are taken into account.
    #[inline]
    pub(super) fn expiry(&self, services: &ServiceTable, id: EntryId) -> Option<u32> {
        let deadline = self.table.deadline(id);
        match self.carried(id) {
            None => deadline,
            Some((_, held)) => self.prolonged(services, id, &held).or(deadline),
        }
    }

    /// The tick until which packets that were carried let a connection live, if there
    /// were any since that was settled.
    fn prolonged(&self, services: &ServiceTable, id: EntryId, held: &Held) -> Option<u32> {
        let (last, slot) = self.carrying.board()?.last(held);
        let now = self.carrying.now;
        let ago = match last {
            Last::Settled => return None,
            Last::Now => 0,
            Last::Rounds(rounds) => {
                self.carrying.looked(slot, now) + u64::from(rounds) * self.carrying.period()
            }
        };
        let line = self.table.line(id)?;
        let timeouts = services.server(line.server_id).map(|server| services.timeouts_of(server));
        let seconds = timeouts.unwrap_or(services.timeouts()).seconds(line.state);
        Some(deadline(super::tick(now.saturating_sub(ago)), seconds))
    }

    /// Counts what was carried, and has the timer of a connection say what it is to.
    /// Returns whether that is later than now.
    pub(super) fn settle(&mut self, view: &View, id: EntryId) -> bool {
        let Some((number, held)) = self.carried(id) else { return false };
        let until = self.prolonged(&view.services, id, &held);
        self.fold(view, number);
        let Some(until) = until else { return false };
        if let Some(line) = self.table.get_mut(id) {
            // Rounds do not tell how many there were.
            line.packets = line.packets.max(SPARED);
        }
        let lives = until > super::tick(self.carrying.now);
        if lives {
            self.table.schedule(id, until);
        }
        lives
    }

    /// Counts what was carried of a connection since the last look.
    fn fold(&mut self, view: &View, number: u32) {
        let carrying = &mut self.carrying;
        let Some((record, board)) = carrying.records.get(number as usize).zip(carrying.board()) else {
            return;
        };
        let Some(held) = record.held else { return };
        let (id, leaving) = (record.id, record.stage == Stage::Leaving);
        let (owner, new) = (board.owner(&held), board.settle(&held));
        if new.packets == [0; 2] {
            return;
        }
        for side in [Side::Client, Side::Server] {
            let (packets, bytes) = new.of(side);
            self.count_carried(view, owner, side, (packets, bytes));
        }
        if let Some(line) = self.table.get_mut(id).filter(|_| !leaving) {
            line.packets = line.packets.saturating_add(new.packets[Side::Client as usize] as u32);
        }
    }

    #[inline]
    fn count_carried(&mut self, view: &View, owner: Owner, side: Side, (packets, bytes): (u64, u64)) {
        if let Some(server) = view.services.server(owner.server) {
            server.count(self.worker, side, packets, bytes);
        }
        self.carrying.carried += packets;
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
            if let Some((held, board)) = record.held.zip(self.carrying.board().map(Arc::clone)) {
                self.carrying.hold(&held, false);
                board.release(&held);
            }
            self.carrying.free.push(number);
            self.carrying.taken -= 1;
        }
        true
    }

    /// Looks at the slots whose turn has come; returns whether there are more.
    fn go_through(&mut self, view: &View, now: u64) -> bool {
        let carrying = &mut self.carrying;
        let all = if carrying.taken == 0 { 0 } else { carrying.holdings.stretches() };
        let (elapsed, period) = (now.saturating_sub(carrying.begun), carrying.period());
        if carrying.next >= all {
            if elapsed >= period {
                (carrying.next, carrying.begun) = (0, now);
                carrying.periods = carrying.periods.wrapping_add(1);
            }
            return false;
        }
        let due = (u128::from(elapsed) * all as u128 / u128::from(period)).min(all as u128) as usize;
        let end = due.min(carrying.next + STRETCHES);
        let Some(board) = carrying.board().map(Arc::clone) else { return false };
        let generation = board.generation();
        let mut looked = 0;
        while self.carrying.next < end && looked < SLICE {
            let stretch = self.carrying.next;
            // One is asked for with each that is looked at: more at a time would have to wait.
            let mut ahead = self.carrying.holdings.stretch(stretch + AHEAD);
            for slot in self.carrying.holdings.stretch(stretch) {
                if let Some(slot) = ahead.next() {
                    board.prefetch(slot);
                }
                self.look(view, &board, slot, generation);
                looked += 1;
            }
            ahead.for_each(|slot| board.prefetch(slot));
            self.carrying.next += 1;
        }
        self.carrying.next < due
    }

    /// Looks at a slot of a connection that is carried, or was a moment ago.
    #[inline]
    fn look(&mut self, view: &View, board: &Board, slot: usize, generation: u32) {
        let found = board.look(slot);
        let id = found.owner.connection;
        if found.packets > 0 {
            self.count_carried(view, found.owner, found.side, (found.packets, found.bytes));
            if self.sync.is_on() {
                self.sync.packet(id, NO_TEMPLATE, false);
            }
        }
        let over = found.generation != generation || found.closed || !self.carrying.on || self.standby;
        if found.generation != 0 && (over || self.carrying.is_idle(found.rounds)) {
            self.look_again(view, board, id, over);
        }
    }

    /// Takes a connection out that is over for the program, or idle on either side.
    #[cold]
    fn look_again(&mut self, view: &View, board: &Board, id: EntryId, over: bool) {
        let idle = self.carried(id).is_some_and(|(_, held)| board.rounds(&held) >= IDLE);
        if over || idle {
            self.settle(view, id);
            self.withdraw(view, id, 0);
        }
    }
}
