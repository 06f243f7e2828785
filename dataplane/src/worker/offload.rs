//! What a worker has the program carry; see [`crate::offload`].
//!
//! Of each connection that has flows in the tables there is a record here. Their slots
//! are looked at once a second or so ([`rounds`]), and their timers when somebody asks
//! ([`timer`]).

use std::collections::VecDeque;
use std::sync::Arc;

use super::Worker;
use super::flow::{Flows, View, outer_source, resolved};
use crate::conn::{EntryId, Side, State};
use crate::forward;
use crate::ftp::Role;
use crate::offload::{Board, Flow, Held, Holdings, Key, Last, MOST_HOPS, MOST_WORKERS, Owner, Share};
use crate::packet::Packet;
use crate::port::Port;
use crate::service::{OffloadChoice, Protocol};
use crate::stats::WorkerCounters;
use crate::wire::tcp;

mod inherited;
mod rounds;
mod timer;

/// In a [`Line`](crate::conn::Line): it is carried.
const CARRIED: u8 = u8::MAX;
/// In a line: it never will have.
const NEVER: u8 = u8::MAX - 1;

/// Connections whose slots are given up between two bursts.
const RELEASES: usize = 256;

/// Packets in a period that came to the worker and should have been carried, after
/// which a connection is carried no more, if none was.
const MISSED: u16 = 16;

/// How often a worker says that it is alive, nanoseconds.
const SIGN_OF_LIFE: u64 = 10_000_000;

/// How long slots are kept for the program to finish with a packet, nanoseconds.
const GRACE: u64 = 20_000_000;

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
    /// Whether its flows are out of force, and the slots kept until the program is done
    leaving: bool,
}

/// Why a connection is not carried.
enum Not {
    /// Not now: it is tried again after some more packets
    Yet,
    /// It is not one that can be
    Ever,
}

/// Whether connections in a state may be carried: in these, their packets leave them as
/// they are.
fn may_be_carried(state: State) -> bool {
    matches!(state, State::Established | State::Udp)
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
                if may_be_carried(line.state) && !packet.partial {
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
        if !plain || !self.table.line(id).is_some_and(|line| may_be_carried(line.state)) {
            self.withdraw(view, id, 0);
            return;
        }
        let Some((number, held)) = self.carried(id) else { return };
        let Some((last, _)) = self.carrying.board().map(|board| board.last(&held)) else { return };
        let period = self.carrying.periods;
        let Some(record) = self.carrying.record(number) else { return };
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
            *record = Record { id, held: Some(held), ..Record::default() };
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
            record.leaving = true;
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

    /// Counts what was carried of a connection since the last look.
    fn fold(&mut self, view: &View, number: u32) {
        let carrying = &mut self.carrying;
        let Some((record, board)) = carrying.records.get(number as usize).zip(carrying.board()) else {
            return;
        };
        let Some(held) = record.held else { return };
        let (id, leaving) = (record.id, record.leaving);
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
}
