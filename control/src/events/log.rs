//! The ring of events.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use super::limit::Limit;
use super::{EventRecord, Kind, MAX_TEXT, Severity};

/// Events that are kept; the oldest go first.
pub const CAPACITY: usize = 2048;

/// The newest events. Any thread may write and read it.
///
/// Of one kind at most 64 events are taken at once, and four a second after
/// that; a further event says how many were left out.
#[derive(Debug)]
pub struct EventLog {
    ring: Mutex<Ring>,
    newest: watch::Sender<u64>,
}

#[derive(Debug)]
struct Ring {
    events: VecDeque<EventRecord>,
    number: u64,
    limits: Vec<Limit>,
    counts: Vec<[u64; Severity::ALL.len()]>,
}

impl Default for EventLog {
    fn default() -> Self {
        let now = Instant::now();
        let ring = Ring {
            events: VecDeque::new(),
            number: 0,
            limits: Kind::ALL.iter().map(|_| Limit::new(now)).collect(),
            counts: vec![[0; Severity::ALL.len()]; Kind::ALL.len()],
        };
        EventLog { ring: Mutex::new(ring), newest: watch::Sender::new(0) }
    }
}

impl EventLog {
    /// Takes an event, now.
    pub fn record(&self, kind: Kind, severity: Severity, text: impl Into<String>) {
        self.record_at(kind, severity, text.into(), Instant::now());
    }

    fn record_at(&self, kind: Kind, severity: Severity, mut text: String, now: Instant) {
        let mut ring = self.lock();
        ring.counts[kind as usize][severity as usize] += 1;
        ring.tell_left_out(now);
        if ring.limits[kind as usize].admits(now) {
            if text.len() > MAX_TEXT {
                let end = (0..=MAX_TEXT - 3).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
                text.truncate(end);
                text.push_str("...");
            }
            ring.push(kind, severity, text);
        }
        self.announce(ring);
    }

    /// The events with numbers above `after`, oldest first, at most the newest
    /// `limit` of them.
    pub fn since(&self, after: u64, limit: usize) -> Vec<EventRecord> {
        let mut ring = self.lock();
        ring.tell_left_out(Instant::now());
        let newer = ring.events.iter().rev().take_while(|event| event.number > after).take(limit);
        let mut newer: Vec<_> = newer.cloned().collect();
        self.announce(ring);
        newer.reverse();
        newer
    }

    /// The number of the newest event, and of every later one as it comes.
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// How many events there were of each kind and severity, those that were
    /// left out included.
    pub fn counts(&self) -> Vec<(Kind, Severity, u64)> {
        let ring = self.lock();
        let of = |kind: &Kind| Severity::ALL.map(|s| (*kind, s, ring.counts[*kind as usize][s as usize]));
        Kind::ALL.iter().flat_map(of).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        // What a thread that panicked left behind is a ring all the same.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn announce(&self, ring: MutexGuard<'_, Ring>) {
        let number = ring.number;
        // Those that wake must not find it locked.
        drop(ring);
        self.newest.send_if_modified(|newest| {
            let modified = number > *newest;
            *newest = number.max(*newest);
            modified
        });
    }
}

impl Ring {
    fn push(&mut self, kind: Kind, severity: Severity, text: String) {
        if self.events.len() == CAPACITY {
            self.events.pop_front();
        }
        self.number += 1;
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time_ms = since_1970.as_millis() as u64;
        self.events.push_back(EventRecord { number: self.number, time_ms, kind, severity, text });
    }

    fn tell_left_out(&mut self, now: Instant) {
        for kind in Kind::ALL {
            if let Some(number) = self.limits[*kind as usize].news(now) {
                let text = format!("{number} more events of kind {kind} came too fast and are not listed");
                self.push(*kind, Severity::Info, text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn texts(events: &[EventRecord]) -> Vec<&str> {
        events.iter().map(|event| event.text.as_str()).collect()
    }

    #[test]
    fn events_come_in_order_from_where_one_left_off() {
        let log = EventLog::default();
        for text in ["one", "two", "three"] {
            log.record(Kind::Link, Severity::Info, text);
        }
        assert_eq!(texts(&log.since(0, 10)), ["one", "two", "three"]);
        assert_eq!(texts(&log.since(1, 10)), ["two", "three"]);
        assert_eq!(texts(&log.since(0, 1)), ["three"]);
        assert_eq!(log.since(3, 10), []);
        assert_eq!(*log.follow().borrow(), 3);
    }

    #[test]
    fn a_flood_of_one_kind_leaves_room_for_others() {
        let log = EventLog::default();
        let start = Instant::now();
        log.record_at(Kind::Health, Severity::Warning, "a server failed".into(), start);
        for number in 0..100_000 {
            log.record_at(Kind::Command, Severity::Info, format!("change {number}"), start);
        }
        let events = log.since(0, usize::MAX);
        assert_eq!(events.len(), 1 + 64);
        assert_eq!(events[0].text, "a server failed");
        log.record_at(Kind::Link, Severity::Info, "up".into(), start + Duration::from_secs(1));
        let events = log.since(65, usize::MAX);
        assert_eq!(
            texts(&events),
            ["99936 more events of kind command came too fast and are not listed", "up"]
        );
        let counts = log.counts();
        assert!(counts.contains(&(Kind::Command, Severity::Info, 100_000)));
    }

    #[test]
    fn the_oldest_go_and_long_texts_are_cut() {
        let log = EventLog::default();
        let mut now = Instant::now();
        for number in 0..CAPACITY + 10 {
            now += Duration::from_secs(1);
            log.record_at(Kind::Link, Severity::Info, number.to_string(), now);
        }
        let events = log.since(0, usize::MAX);
        assert_eq!((events.len(), events[0].number), (CAPACITY, 11));
        log.record_at(Kind::Link, Severity::Info, "é".repeat(MAX_TEXT), now + Duration::from_secs(9));
        let text = &log.since(0, 1)[0].text;
        assert!(text.len() <= MAX_TEXT && text.ends_with("é..."), "{text}");
    }
}
