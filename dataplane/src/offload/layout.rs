//! The form that flows have in the tables; must agree with `offload.bpf.c`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::slot::{self, ADDRESSES, NEW, OWNER, SETTLED, WAY, WHAT, WORDS_V4, WORDS_V6};
use crate::conn::{EntryId, Side, Tuple};
use crate::forward::Rewrite;
use crate::neigh::NextHop;
use crate::service::{Encapsulation, ServerId};
use crate::wire::Address;
use crate::wire::checksum::Delta;

/// Workers that can have flows carried.
pub const MOST_WORKERS: usize = 256;
/// Next hops that flows can have.
pub const MOST_HOPS: usize = 65_536;

/// What a hop less adds to the sum of an IPv4 header: 0x0100 less.
const HOP: Delta = Delta::new(0x0100, 0);

/// What tells the packets of a flow from others, as they arrive.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Key {
    source: Address,
    destination: Address,
    /// Big endian
    ports: [[u8; 2]; 2],
    protocol: u8,
}

impl Key {
    /// That of packets with a tuple.
    pub fn of(tuple: &Tuple) -> Self {
        Key {
            source: tuple.source,
            destination: tuple.destination,
            ports: [tuple.source_port, tuple.destination_port].map(u16::to_be_bytes),
            protocol: tuple.protocol.number(),
        }
    }

    /// Whether the packets are of IPv4.
    pub fn is_v4(&self) -> bool {
        self.destination.is_v4()
    }

    /// What a slot has of it: ports and protocol where [`Flow::KEY`] says, and the
    /// addresses, of IPv4 in the first word.
    pub(super) fn words(&self) -> (u64, [u64; 4]) {
        let ([a, b], [c, d]) = (self.ports[0], self.ports[1]);
        let what = u64::from_ne_bytes([a, b, c, d, self.protocol, 0, 0, 0]);
        let addresses = match self.is_v4() {
            true => {
                let both: u64 = zerocopy::transmute!([self.source.v4_bytes(), self.destination.v4_bytes()]);
                [both, 0, 0, 0]
            }
            false => zerocopy::transmute!([self.source.bytes(), self.destination.bytes()]),
        };
        (what, addresses)
    }

    /// What is hashed: pairs of addresses' words, and the pair of the ports and the
    /// protocol first.
    pub(super) fn pairs(&self) -> ([u32; 2], Vec4) {
        let ports = self.ports.map(u16::from_ne_bytes);
        let first = [u32::from(ports[0]) | u32::from(ports[1]) << 16, self.protocol.into()];
        let words = |address: Address| -> [u32; 4] { zerocopy::transmute!(address.bytes()) };
        let (source, dest) = (words(self.source), words(self.destination));
        let addresses = match self.is_v4() {
            true => Vec4::One([[source[3], dest[3]]]),
            false => Vec4::All([
                [source[0], source[1]],
                [source[2], source[3]],
                [dest[0], dest[1]],
                [dest[2], dest[3]],
            ]),
        };
        (first, addresses)
    }
}

/// Pairs of words of addresses.
pub(super) enum Vec4 {
    One([[u32; 2]; 1]),
    All([[u32; 2]; 4]),
}

/// In the kind of a slot.
const REPLACE: u8 = 0x01;
const ENCAPSULATE: u8 = 0x02;
const GUE: u8 = 0x04;
const GRE: u8 = 0x08;
const COPY_DONT_FRAGMENT: u8 = 0x10;
const OUTER_IS_V6: u8 = 0x20;
/// For the worker: its packets are the server's.
const ANSWERS: u8 = 0x40;

/// Whose flow it is, to the worker that entered it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    /// The connection
    pub connection: EntryId,
    /// Its server, where packets are counted
    pub server: ServerId,
}

impl Owner {
    fn word(self) -> u64 {
        slot::word_of([self.connection, self.server.0])
    }

    pub(super) fn from_word(word: u64) -> Self {
        let [connection, server] = slot::halves(word);
        Owner { connection, server: ServerId(server) }
    }
}

/// Whose packets come by a flow of this kind.
pub(super) fn side_of(what: u64) -> Side {
    if what.to_ne_bytes()[5] & ANSWERS == 0 { Side::Client } else { Side::Server }
}

/// What is done to the packets of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow {
    hop: u16,
    kind: u8,
    /// Big endian, as are the deltas
    ports: [[u8; 2]; 2],
    ip_delta: [u8; 2],
    transport_delta: [u8; 2],
    source: Address,
    destination: Address,
}

impl Flow {
    /// The flow of packets to which `rewrite` is done, and which leave by a next hop.
    /// `None` where that asks for more than the program does: a checksum over the whole
    /// packet, or a header of the other address family.
    pub fn new(rewrite: &Rewrite, is_v4: bool, hop: u16) -> Option<Self> {
        let flow = Flow {
            hop,
            kind: 0,
            ports: [[0; 2]; 2],
            ip_delta: HOP.bytes(),
            transport_delta: [0; 2],
            source: Address::default(),
            destination: Address::default(),
        };
        match *rewrite {
            Rewrite::Keep => Some(flow),
            Rewrite::Replace { source, destination, ip_delta, transport_delta } => {
                (destination.0.is_v4() == is_v4).then(|| Flow {
                    kind: REPLACE,
                    ports: [source.1, destination.1].map(u16::to_be_bytes),
                    ip_delta: ip_delta.and(HOP).bytes(),
                    transport_delta: transport_delta.bytes(),
                    source: source.0,
                    destination: destination.0,
                    ..flow
                })
            }
            Rewrite::Encapsulate { encapsulation, source, destination, source_port, copy_dont_fragment } => {
                let (between, port) = match encapsulation {
                    Encapsulation::Ipip => (0, 0),
                    Encapsulation::Gue { port, checksum: false } => (GUE, port),
                    Encapsulation::Gre { checksum: false } => (GRE, 0),
                    Encapsulation::Gue { checksum: true, .. } | Encapsulation::Gre { checksum: true } => {
                        return None;
                    }
                };
                let copies = if copy_dont_fragment { COPY_DONT_FRAGMENT } else { 0 };
                let outer = if destination.is_v4() { 0 } else { OUTER_IS_V6 };
                Some(Flow {
                    kind: ENCAPSULATE | between | copies | outer,
                    ports: [source_port, port].map(u16::to_be_bytes),
                    source,
                    destination,
                    ..flow
                })
            }
        }
    }

    /// Whether its new addresses are too long for a slot of IPv4.
    pub(super) fn is_long(&self) -> bool {
        self.kind & OUTER_IS_V6 != 0
    }

    /// In the word of a slot that says what it is: the key's part.
    pub(super) const KEY: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0]);

    /// A slot of IPv4 with this flow, of packets from a side of a connection.
    pub(super) fn slot_v4(&self, key: &Key, peer: u32, (owner, side): (Owner, Side)) -> [u64; WORDS_V4] {
        let mut words = [0; WORDS_V4];
        self.put_head(key, peer, (owner, side), &mut words);
        words[ADDRESSES] = key.words().1[0];
        words[ADDRESSES + 1] = zerocopy::transmute!([self.source.v4_bytes(), self.destination.v4_bytes()]);
        words
    }

    /// One of IPv6, which may have new addresses of IPv4.
    pub(super) fn slot_v6(&self, key: &Key, peer: u32, (owner, side): (Owner, Side)) -> [u64; WORDS_V6] {
        let mut words = [0; WORDS_V6];
        self.put_head(key, peer, (owner, side), &mut words);
        words[ADDRESSES..ADDRESSES + 4].copy_from_slice(&key.words().1);
        let new: [u64; 4] = zerocopy::transmute!([self.source.bytes(), self.destination.bytes()]);
        words[ADDRESSES + 4..ADDRESSES + 8].copy_from_slice(&new);
        words
    }

    fn put_head(&self, key: &Key, peer: u32, (owner, side): (Owner, Side), words: &mut [u64]) {
        let kind = self.kind | if side == Side::Server { ANSWERS } else { 0 };
        let what = u64::from_ne_bytes([0, 0, 0, 0, 0, kind, SETTLED, 0]);
        words[WHAT] = key.words().0 | what;
        words[OWNER] = owner.word();
        let ([a, b, c, d], [e, f]) = (peer.to_ne_bytes(), self.hop.to_ne_bytes());
        words[WAY] = u64::from_ne_bytes([a, b, c, d, e, f, 0, 0]);
        words[NEW] =
            zerocopy::transmute!([self.ports[0], self.ports[1], self.ip_delta, self.transport_delta]);
    }
}

/// `struct next_hop`
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, IntoBytes, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Hop {
    mac: [u8; 6],
    source_mac: [u8; 6],
    mtu: u16,
    /// Big endian
    vlan: [u8; 2],
    /// In the last word, as `usable`
    interface: u16,
    reserved: u16,
    usable: u32,
}

impl Hop {
    /// Words of a hop in the map.
    pub(super) const WORDS: usize = size_of::<Hop>() / 8;

    /// That of a next hop, whose interface may be sent on if `capable`.
    pub(super) fn of(hop: &NextHop, capable: bool) -> Self {
        Hop {
            mac: hop.mac.unwrap_or_default(),
            source_mac: hop.source_mac,
            mtu: hop.mtu,
            vlan: hop.vlan.unwrap_or(0).to_be_bytes(),
            interface: hop.interface.into(),
            reserved: 0,
            usable: u32::from(capable && hop.mac.is_some()),
        }
    }

    pub(super) fn from_words(words: [u64; Hop::WORDS]) -> Self {
        zerocopy::transmute!(words)
    }

    pub(super) fn is_usable(self) -> bool {
        self.usable != 0
    }

    pub(super) fn words(self) -> [u64; Hop::WORDS] {
        zerocopy::transmute!(self)
    }
}

/// Words of `struct state`: the generation; nanoseconds after which a worker is
/// taken to be dead; homes in the tables; what keys are hashed with; and when each
/// worker was alive.
pub(super) const STATE_WORDS: usize = ALIVE + MOST_WORKERS;
pub(super) const GENERATION: usize = 0;
pub(super) const STALE: usize = 1;
pub(super) const HOMES_V4: usize = 2;
pub(super) const HOMES_V6: usize = 3;
pub(super) const SEED: usize = 4;
pub(super) const SEEDS: usize = 10;
pub(super) const ALIVE: usize = SEED + SEEDS;

const _: () = assert!(size_of::<Hop>() == 24);
