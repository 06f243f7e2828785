//! What a worker has the program carry; see [`crate::offload`].
//!
//! Of each connection that has flows in the map there is a record here, by its
//! place on the board. All of them are gone through within [`PERIOD`], a portion
//! between two bursts: what was carried is counted, timers are moved, and what
//! is not to be carried any more is taken out.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Worker;
use super::flow::{Flows, View, deadline, outer_source, resolved};
use crate::conn::{EntryId, NO_TEMPLATE, Side, State};
use crate::forward;
use crate::ftp::Role;
use crate::offload::{
    Answer, Board, Carried, Flow, Key, Lane, MOST_HOPS, MOST_WORKERS, Removal, Request, Terms,
};
use crate::packet::Packet;
use crate::port::Port;
use crate::prefetch::prefetch;
use crate::service::{OffloadChoice, Protocol, ServerId};
use crate::stats::WorkerCounters;
use crate::wire::tcp;

/// In a [`Line`](crate::conn::Line): it has flows in the map.
const CARRIED: u8 = u8::MAX;
/// In a line: it never will have.
const NEVER: u8 = u8::MAX - 1;

/// All records are gone through in so many nanoseconds.
const PERIOD: u64 = 1_000_000_000;

/// Records that are looked at between two bursts.
const SLICE: usize = 128;

/// The cache is asked for the record that is so many ahead.
const AHEAD: usize = 8;

/// Answers that are read between two bursts.
const ANSWERS: usize = 256;

/// Periods without a packet after which a connection leaves the map.
const IDLE: u8 = 10;

/// Packets in a period that came to the worker and should have been carried, after
/// which a connection leaves the map, if none was.
const MISSED: u16 = 16;

/// How often a worker says that it is alive, nanoseconds.
const SIGN_OF_LIFE: u64 = 10_000_000;

/// How long a place is kept for the program to finish with a packet, nanoseconds.
const GRACE: u64 = 20_000_000;

/// How far a place is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Stage {
    /// Nobody has it
    #[default]
    Free,
    /// The carrier was asked to enter its flows
    Asked,
    /// They are in the map
    In,
    /// The carrier was asked to take them out, or will be
    Leaving,
}

/// The connection at a place.
#[derive(Clone, Copy, Default)]
struct Record {
    id: EntryId,
    server: ServerId,
    generation: u32,
    token: u32,
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
    lane: Option<Arc<Lane>>,
    /// Whether connections are entered
    on: bool,
    after: u8,
    /// By place, from the worker's first on
    records: Vec<Record>,
    free: Vec<u32>,
    /// The place of a connection, if its line says that it has one
    places: Vec<u32>,
    /// What the carrier has no room for yet
    late: VecDeque<Removal>,
    /// Places whose flows are gone, and until when they are kept
    settling: VecDeque<(u32, u64)>,
    next: usize,
    begun: u64,
    token: u32,
    signed: Option<u64>,
    /// How many connections have a place
    taken: usize,
    /// One more than the last record that was ever used
    high: usize,
    /// Packets that were carried since that was asked for last
    carried: u64,
}

impl Carrying {
    fn record(&mut self, place: u32) -> Option<&mut Record> {
        let first = self.lane.as_ref()?.places.start;
        self.records.get_mut(place.checked_sub(first)? as usize)
    }

    fn place_of(&self, id: EntryId) -> Option<u32> {
        self.places.get(id as usize).copied()
    }

    fn board(&self) -> Option<&Arc<Board>> {
        self.lane.as_ref().map(|lane| &lane.board)
    }

    /// Hands a removal to the carrier, now or later. There is room for one of each
    /// place.
    fn remove(&mut self, removal: Removal) {
        let Some(lane) = &self.lane else { return };
        if !self.late.is_empty() || lane.requests.push(Request::Remove(removal)).is_err() {
            self.late.push_back(removal);
        }
    }

    fn catch_up(&mut self) {
        let Some(lane) = &self.lane else { return };
        while let Some(removal) = self.late.pop_front() {
            if lane.requests.push(Request::Remove(removal)).is_err() {
                self.late.push_front(removal);
                return;
            }
        }
    }

    /// Keeps a place until the program is done with it.
    fn settle(&mut self, place: u32, now: u64) {
        self.settling.push_back((place, now + GRACE));
    }

    fn sign(&mut self, worker: usize, now: u64) {
        let Some(lane) = &self.lane else { return };
        if self.on && self.signed.is_none_or(|signed| now - signed >= SIGN_OF_LIFE) {
            self.signed = Some(now);
            lane.board.set_alive(worker, now + lane.settings.clock);
        }
    }
}

impl<P: Port> Worker<P> {
    /// Has established connections carried by the program from now on.
    pub fn carry(&mut self, lane: Arc<Lane>) {
        if self.settings.worker >= MOST_WORKERS {
            return;
        }
        let places = lane.places.len();
        self.flows.carrying = Carrying {
            on: true,
            after: lane.settings.after.clamp(1, crate::offload::MOST_AFTER),
            records: vec![Record::default(); places],
            free: lane.places.clone().rev().collect(),
            places: vec![0; self.settings.connections],
            late: VecDeque::with_capacity(places),
            settling: VecDeque::with_capacity(places),
            token: 0,
            lane: Some(lane),
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
        carrying.on = carrying.lane.is_some() && !keep;
        carrying.signed = None;
    }

    /// Goes on with what is carried, by a bounded portion; returns whether there is
    /// more to be done at once.
    pub(super) fn look_after_carried(&mut self, now: u64) -> bool {
        if self.flows.carrying.lane.is_none() {
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

    /// A packet of a connection with flows in the map came to the worker.
    #[cold]
    fn missed(&mut self, view: &View, id: EntryId, packet: &Packet) {
        const DECIDING: u8 = tcp::FIN | tcp::SYN | tcp::RST | tcp::ACK;
        let plain = packet.tuple.protocol != Protocol::Tcp || packet.flags & DECIDING == tcp::ACK;
        if !plain {
            self.withdraw(view, id, 0);
            return;
        }
        let place = self.carrying.place_of(id);
        if let Some(record) = place.and_then(|place| self.carrying.record(place)) {
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
        let lane = Arc::clone(self.carrying.lane.as_ref().ok_or(Not::Ever)?);
        let board = &lane.board;
        let generation = board.generation();
        // A slot of other next hops is another next hop.
        if board.hops_generation() != Some(view.hops.generation()) || lane.requests.is_full() {
            return Err(Not::Yet);
        }
        let place = *self.carrying.free.last().ok_or(Not::Yet)?;
        // Never 0, which no place has while it is in use.
        let token = self.carrying.token.wrapping_add(1).max(1);
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
            let worker = self.worker as u8;
            let terms = Terms { generation, token, place, hop: number, worker };
            let tuple = match side {
                Side::Client => &entry.client,
                Side::Server => &entry.server,
            };
            let flow = Flow::new(&rewrite, side, tuple.is_v4(), terms).ok_or(Not::Ever)?;
            Ok((Key::of(tuple), flow))
        };
        let client = flow(Side::Client)?;
        let server = entry.method.has_replies().then(|| flow(Side::Server)).transpose()?;
        let record = Record {
            id,
            server: entry.server_id,
            generation,
            token,
            seen: board.carried(place),
            stage: Stage::Asked,
            ..Record::default()
        };
        board.set_token(place, token);
        if lane.requests.push(Request::Install { client, server }).is_err() {
            board.set_token(place, 0);
            return Err(Not::Yet);
        }
        let carrying = &mut self.carrying;
        carrying.token = token;
        carrying.free.pop();
        carrying.taken += 1;
        carrying.high = carrying.high.max((place - lane.places.start) as usize + 1);
        if let Some(kept) = carrying.record(place) {
            *kept = record;
        }
        if let Some(of) = carrying.places.get_mut(id as usize) {
            *of = place;
        }
        Ok(())
    }

    /// Takes the flows of a connection out of force at once, and then out of the
    /// map. `offload` is what its line says from now on.
    fn withdraw(&mut self, view: &View, id: EntryId, offload: u8) {
        let (Some(entry), Some(place)) = (self.table.get(id), self.carrying.place_of(id)) else { return };
        let Some(board) = self.carrying.board() else { return };
        board.set_token(place, 0);
        self.fold(view, place);
        if let Some(line) = self.table.get_mut(id) {
            line.offload = offload;
        }
        if let Some(record) = self.carrying.record(place) {
            record.stage = Stage::Leaving;
        }
        let server = entry.method.has_replies().then(|| Key::of(&entry.server));
        self.carrying.remove(Removal { place, client: Key::of(&entry.client), server });
    }

    /// To be called before a connection is taken out of the table.
    #[inline]
    pub(super) fn no_longer_carried(&mut self, view: &View, id: EntryId) {
        if self.carrying.lane.is_some() && self.table.line(id).is_some_and(|line| line.offload == CARRIED) {
            self.withdraw(view, id, 0);
        }
    }

    /// Whether a connection whose time is over had packets that were carried, and
    /// goes on.
    #[inline]
    pub(super) fn was_carried(&mut self, view: &View, id: EntryId, now: u32) -> bool {
        if self.carrying.lane.is_none() || self.table.line(id).is_none_or(|line| line.offload != CARRIED) {
            return false;
        }
        let Some(place) = self.carrying.place_of(id) else { return false };
        if self.fold(view, place).is_none() {
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
    fn fold(&mut self, view: &View, place: u32) -> Carried {
        let Some(board) = self.carrying.board() else { return Carried::default() };
        let carried = board.carried(place);
        let Some(record) = self.carrying.record(place) else { return Carried::default() };
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
        self.hear(view, now);
        self.carrying.catch_up();
        while let Some((place, until)) = self.carrying.settling.front().copied() {
            if now < until {
                break;
            }
            self.carrying.settling.pop_front();
            // What the program was at when the flows were taken out.
            self.fold(view, place);
            if let Some(record) = self.carrying.record(place) {
                *record = Record::default();
            }
            self.carrying.free.push(place);
            self.carrying.taken -= 1;
        }
        self.go_through(view, now)
    }

    /// Reads what the carrier says.
    fn hear(&mut self, view: &View, now: u64) {
        let Some(lane) = self.carrying.lane.clone() else { return };
        for _ in 0..ANSWERS {
            let Some(answer) = lane.answers.pop() else { return };
            match answer {
                Answer::Installed(place, entered) => {
                    let Some(record) = self.carrying.record(place) else { continue };
                    if record.stage != Stage::Asked {
                        continue;
                    }
                    record.missed = 0;
                    if entered {
                        record.stage = Stage::In;
                        continue;
                    }
                    record.stage = Stage::Leaving;
                    let id = record.id;
                    lane.board.set_token(place, 0);
                    self.fold(view, place);
                    if let Some(line) = self.table.get_mut(id) {
                        line.offload = NEVER;
                    }
                    self.carrying.settle(place, now);
                }
                Answer::Removed(place) => self.carrying.settle(place, now),
            }
        }
    }

    /// Looks at the records whose turn has come; returns whether there are more.
    fn go_through(&mut self, view: &View, now: u64) -> bool {
        let high = self.carrying.high;
        let Some(lane) = self.carrying.lane.clone() else { return false };
        let elapsed = now.saturating_sub(self.carrying.begun);
        if self.carrying.next >= high {
            if elapsed >= PERIOD {
                (self.carrying.next, self.carrying.begun) = (0, now);
            }
            return false;
        }
        let due = (u128::from(elapsed) * high as u128 / u128::from(PERIOD)).min(high as u128) as usize;
        let end = due.min(self.carrying.next + SLICE);
        let (generation, tick) = (lane.board.generation(), super::tick(now));
        for index in self.carrying.next..end {
            if let Some(ahead) = self.carrying.records.get(index + AHEAD) {
                lane.board.prefetch(lane.places.start + (index + AHEAD) as u32);
                if let Some(line) = self.table.line(ahead.id) {
                    prefetch(line);
                }
            }
            if self.carrying.records[index].stage == Stage::In {
                self.look(view, lane.places.start + index as u32, generation, tick);
            }
        }
        self.carrying.next = self.carrying.next.max(end);
        end < due
    }

    /// Looks at a connection that is carried.
    fn look(&mut self, view: &View, place: u32, generation: u32, now: u32) {
        let new = self.fold(view, place);
        let on = self.carrying.on;
        let Some(record) = self.carrying.record(place) else { return };
        let Record { id, token, moved, .. } = *record;
        let missed = std::mem::take(&mut record.missed) >= MISSED;
        let outdated = record.generation != generation;
        if new.is_none() {
            record.idle += 1;
        }
        let idle = record.idle >= IDLE || !on;
        let Some(line) = self.table.line(id) else { return };
        let (state, server) = (line.state, line.server_id);
        let closed = self.carrying.board().is_some_and(|board| board.is_closed(place, token));
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
