//! Which connections a master has to tell of, and when again.
//!
//! As in IPVS, it is told of a connection that is established or beyond, of each
//! change of its state, and again before a backup would let go of it
//! (`ip_vs_sync_conn_needed`). IPVS decides at packets, by `sync_threshold` and
//! `sync_refresh_period`; here all connections are looked at every so often.

use std::collections::HashMap;

use sluice_dataplane::conn::State;
use sluice_dataplane::service::Protocol;
use sluice_dataplane::wire::Address;

use super::codec::Entry;
use super::flags;

/// What an entry is known by.
type Name = (u8, (Address, u16), (Address, u16), Option<Box<[u8]>>);

/// What a backup was told last.
#[derive(Clone, Copy, Debug)]
struct Told {
    state: u16,
    server: (Address, u16),
    /// The second from which on a backup forgets it
    until: u64,
    /// The round in which it was there last
    round: u64,
}

/// What was told so far. As large as the directors' tables, and no larger.
#[derive(Debug, Default)]
pub struct Due {
    told: HashMap<Name, Told>,
    round: u64,
}

impl Due {
    /// Whether an entry has to be told in the second `now`; it is taken to be
    /// told then.
    pub fn is_due(&mut self, entry: &Entry, now: u64) -> bool {
        if !is_told_of(entry) {
            return false;
        }
        let call = entry.engine.as_ref().map(|engine| engine.data.clone());
        let name = (entry.protocol, entry.client, entry.service, call);
        let until = now + u64::from(entry.timeout);
        let (state, server, round) = (entry.state, entry.server, self.round);
        let new = Told { state, server, until, round };
        let Some(told) = self.told.get_mut(&name) else {
            self.told.insert(name, new);
            return true;
        };
        told.round = round;
        let later = until.saturating_sub(told.until);
        let due =
            told.state != state || told.server != server || later >= u64::from(entry.timeout / 2).max(10);
        if due {
            *told = new;
        }
        due
    }

    /// After a round in which every connection was looked at: forgets those that
    /// were not there.
    pub fn end_round(&mut self) {
        let round = self.round;
        self.told.retain(|_, told| told.round == round);
        self.round += 1;
    }

    /// How many are known.
    pub fn len(&self) -> usize {
        self.told.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.told.is_empty()
    }
}

/// Whether IPVS tells of connections in this state.
fn is_told_of(entry: &Entry) -> bool {
    const TCP: [State; 5] =
        [State::Established, State::FinWait, State::TimeWait, State::Close, State::CloseWait];
    const SCTP: [State; 5] = [
        State::SctpEstablished,
        State::SctpShutdownSent,
        State::SctpShutdownReceived,
        State::SctpShutdownAckSent,
        State::SctpClosed,
    ];
    if entry.flags & flags::TEMPLATE != 0 {
        return true;
    }
    let is = |states: &[State], first: State| {
        states.iter().any(|state| *state as u16 - first as u16 == entry.state)
    };
    match Protocol::from_number(entry.protocol) {
        Some(Protocol::Tcp) => is(&TCP, State::None),
        Some(Protocol::Sctp) => is(&SCTP, State::SctpNone),
        Some(Protocol::Udp) => true,
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(state: State, timeout: u32) -> Entry {
        let end = |last| (Address::from_v4([10, 0, 0, last]), u16::from(last));
        Entry {
            protocol: 6,
            flags: 0,
            state: state as u16,
            client: end(1),
            service: end(2),
            server: end(3),
            mark: 0,
            timeout,
            sequences: None,
            engine: None,
        }
    }

    #[test]
    fn a_connection_is_told_when_it_is_new_changes_or_lives_on() {
        let mut due = Due::default();
        assert!(!due.is_due(&entry(State::SynRecv, 60), 0), "not established");
        assert!(due.is_due(&entry(State::Established, 900), 0));
        assert!(!due.is_due(&entry(State::Established, 890), 10), "nothing came since");
        assert!(!due.is_due(&entry(State::Established, 900), 449));
        assert!(due.is_due(&entry(State::Established, 900), 450));
        assert!(!due.is_due(&entry(State::Established, 900), 451));
        assert!(due.is_due(&entry(State::CloseWait, 60), 452));
        assert!(!due.is_due(&entry(State::CloseWait, 59), 453));
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let mut due = Due::default();
        assert!(due.is_due(&entry(State::Established, 900), 0));
        due.end_round();
        assert!(!due.is_due(&entry(State::Established, 899), 1));
        due.end_round();
        due.end_round();
        assert!(due.is_empty());
        assert!(due.is_due(&entry(State::Established, 900), 3), "another one of the same name");
    }

    #[test]
    fn calls_of_one_client_are_told_each() {
        let call = |data: &[u8]| {
            let engine = super::super::codec::Engine { name: (*b"sip").into(), data: data.into() };
            Entry { flags: flags::TEMPLATE, engine: Some(engine), ..entry(State::None, 300) }
        };
        let mut due = Due::default();
        assert!(due.is_due(&call(b"1"), 0) && due.is_due(&call(b"2"), 0));
        assert!(!due.is_due(&call(b"1"), 0));
        assert_eq!(due.len(), 2);
    }
}
