//! Defences against overload (`update_defense_level` in ip_vs_ctl.c,
//! `ip_vs_random_dropentry` in ip_vs_conn.c, `ip_vs_todrop` in ip_vs.h).
//!
//! IPVS takes connections from the kernel's memory and looks how much of that
//! is free; here all room was taken at start, and what is left of it counts.

use super::flow::{Flows, View};
use crate::conn::timer::ticks;
use crate::conn::{Entry, EntryId, Seed, State, Table};
use crate::service::{Defense, Tunables};

/// How many connections have room in what `amemthresh` is counted in, a page of
/// 4 KiB.
pub const CONNECTIONS_IN_A_PAGE: u64 = 4096 / Table::BYTES as u64;

/// One in so many connections is looked at in a second (`CONN_TAB_SIZE >> 5`).
const SHARE: u32 = 32;

/// Connections that are looked at between two bursts.
const SLICE: u32 = 64;

/// A connection that had a packet within so many seconds is in use.
const IN_USE: u32 = 60;

/// A connection with more packets than this is not ended.
const MOST_PACKETS: usize = 8;

/// So many packets that a connection is not ended.
pub(super) const SPARED: u32 = MOST_PACKETS as u32 + 1;

/// Which defences are on, and how far they are.
#[derive(Debug)]
pub(super) struct Overload {
    /// When the room was looked at last, in ticks
    looked: u32,
    /// Connections to be looked at until the next time
    to_look_at: u32,
    /// How many more connections of so many packets are spared
    spared: [u32; MOST_PACKETS + 1],
    /// One in so many packets that begin a connection is dropped; 0 for none
    rate: u32,
    /// How many more of them pass
    passing: u32,
    secure_tcp: bool,
    random: u32,
}

impl Overload {
    pub(super) fn new(seed: Seed, now: u32) -> Self {
        Overload {
            looked: now,
            to_look_at: 0,
            spared: [0; MOST_PACKETS + 1],
            rate: 0,
            passing: 0,
            secure_tcp: false,
            random: seed.word() | 1,
        }
    }

    /// Whether TCP goes by the states of `secure_tcp`.
    #[inline]
    pub(super) fn secure_tcp(&self) -> bool {
        self.secure_tcp
    }

    /// One in so many packets that begin a connection is dropped; 0 for none.
    pub(super) fn rate(&self) -> u32 {
        self.rate
    }

    /// Whether some of the packets that begin connections are dropped.
    #[inline]
    pub(super) fn may_drop(&self) -> bool {
        self.rate != 0
    }

    /// Whether a packet that begins a connection is dropped.
    #[inline]
    pub(super) fn drops(&mut self) -> bool {
        if self.rate == 0 {
            return false;
        }
        self.passing = self.passing.saturating_sub(1);
        if self.passing > 0 {
            return false;
        }
        self.passing = self.rate;
        true
    }

    /// Brings the defences in line with the room that is left, in pages, and
    /// the room below which it is short.
    fn look(&mut self, tunables: &Tunables, left: u64, enough: u64) {
        let short = left < enough;
        self.secure_tcp = tunables.secure_tcp.is_on(short);
        self.rate = match tunables.drop_packet {
            Defense::Always => tunables.am_droprate,
            Defense::WhenShort if short => (enough / (enough - left)).max(1) as u32,
            Defense::WhenShort | Defense::Off => 0,
        };
        if tunables.drop_packet == Defense::WhenShort {
            self.passing = self.rate;
        }
    }

    /// `todrop_entry`: the more packets a connection had, the more of its like
    /// are spared, and what had more than a few is spared always.
    fn chooses(&mut self, packets: u32, idle: u32) -> bool {
        let Some(spared) = self.spared.get_mut(packets as usize) else { return false };
        if idle < ticks(IN_USE) || packets == 0 {
            return false;
        }
        *spared = spared.saturating_sub(1);
        if *spared > 0 {
            return false;
        }
        *spared = packets;
        true
    }

    /// Marsaglia's xorshift: a client who knows what comes next gains nothing.
    fn random(&mut self) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        self.random
    }
}

impl Flows {
    /// Looks once a second whether room is short, and ends connections if that
    /// is asked for; returns how many.
    pub(super) fn defend(&mut self, view: &View, now: u32) -> usize {
        let tunables = view.services.tunables();
        if now.wrapping_sub(self.overload.looked) >= ticks(1) {
            self.overload.looked = now;
            let left = self.room() as u64 / CONNECTIONS_IN_A_PAGE;
            let enough = u64::from(tunables.amemthresh) / self.workers as u64;
            self.overload.look(tunables, left, enough);
            let ends = tunables.drop_entry.is_on(left < enough);
            self.overload.to_look_at = if ends { self.table.high_water().div_ceil(SHARE) } else { 0 };
        }
        let mut ended = 0;
        let slice = self.overload.to_look_at.min(SLICE);
        self.overload.to_look_at -= slice;
        for _ in 0..slice {
            let id: EntryId = self.overload.random() % self.table.high_water().max(1);
            let Some(entry) = self.table.get(id) else { continue };
            if self.is_dispensable(view, id, &entry, now) {
                self.expire(view, id);
                ended += 1;
            }
        }
        ended
    }

    /// Whether a connection may be ended to make room.
    fn is_dispensable(&mut self, view: &View, id: EntryId, entry: &Entry, now: u32) -> bool {
        if self.ftp.children(id) > 0 {
            return false;
        }
        match entry.state {
            State::SynRecv | State::SynAck | State::SctpInit1 | State::SctpInit => true,
            State::Established | State::SctpEstablished | State::Udp => {
                let Some(deadline) = self.expiry(&view.services, id) else { return false };
                let server = view.services.server(entry.server_id);
                let timeouts = server.map_or(view.services.timeouts(), |s| view.services.timeouts_of(s));
                let timeout = ticks(timeouts.seconds(entry.state));
                let idle = now.saturating_add(timeout).saturating_sub(deadline);
                self.overload.chooses(entry.packets, idle)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overload() -> Overload {
        Overload::new(Seed::new([1; 16]), 0)
    }

    #[test]
    fn packets_are_dropped_at_the_rate() {
        let mut overload = overload();
        let dropped = |overload: &mut Overload, of: usize| (0..of).filter(|_| overload.drops()).count();
        assert_eq!(dropped(&mut overload, 100), 0);
        let always = Tunables { drop_packet: Defense::Always, ..Tunables::default() };
        overload.look(&always, 1 << 20, 1024);
        assert_eq!(dropped(&mut overload, 1000), 100);
        let when_short = Tunables { drop_packet: Defense::WhenShort, ..Tunables::default() };
        // 1024 / (1024 - left): the less is left, the more is dropped.
        for (left, expected) in [(1024, 0), (1020, 3), (768, 250), (512, 500), (0, 1000)] {
            overload.look(&when_short, left, 1024);
            assert_eq!(dropped(&mut overload, 1000), expected, "{left} pages left");
        }
    }

    #[test]
    fn what_had_few_packets_and_none_lately_goes_first() {
        let mut overload = overload();
        let idle = ticks(60);
        let chosen = |overload: &mut Overload, packets, idle| {
            (0..840).filter(|_| overload.chooses(packets, idle)).count()
        };
        assert_eq!(chosen(&mut overload, 1, idle - 1), 0);
        for (packets, expected) in [(0, 0), (1, 840), (2, 420), (7, 120), (8, 105), (9, 0), (u32::MAX, 0)] {
            let count = chosen(&mut overload, packets, idle);
            assert!(count.abs_diff(expected) <= 1, "{packets} packets: {count} of 840, not {expected}");
        }
    }
}
