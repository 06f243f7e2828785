//! The form that flows have in the BPF maps; must agree with `offload.bpf.c`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::conn::{Side, Tuple};
use crate::forward::Rewrite;
use crate::neigh::NextHop;
use crate::service::Encapsulation;
use crate::wire::checksum::Delta;

/// Workers that can have flows carried.
pub const MOST_WORKERS: usize = 256;
/// Next hops that flows can have.
pub const MOST_HOPS: usize = 65_536;

/// What a hop less adds to the sum of an IPv4 header: 0x0100 less.
const HOP: Delta = Delta::new(0x0100, 0);

/// `struct key_v4`
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub struct KeyV4 {
    source: [u8; 4],
    destination: [u8; 4],
    /// Big endian
    ports: [[u8; 2]; 2],
    protocol: [u8; 4],
}

/// `struct key_v6`
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub struct KeyV6 {
    source: [u8; 16],
    destination: [u8; 16],
    /// Big endian
    ports: [[u8; 2]; 2],
    protocol: [u8; 4],
}

/// The packets of a flow, as they arrive.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Key {
    /// Those of IPv4
    V4(KeyV4),
    /// Those of IPv6
    V6(KeyV6),
}

impl Key {
    /// That of packets with a tuple.
    pub fn of(tuple: &Tuple) -> Self {
        let ports = [tuple.source_port, tuple.destination_port].map(u16::to_be_bytes);
        let protocol = u32::from(tuple.protocol.number()).to_ne_bytes();
        if tuple.is_v4() {
            let (source, destination) = (tuple.source.v4_bytes(), tuple.destination.v4_bytes());
            Key::V4(KeyV4 { source, destination, ports, protocol })
        } else {
            let (source, destination) = (tuple.source.bytes(), tuple.destination.bytes());
            Key::V6(KeyV6 { source, destination, ports, protocol })
        }
    }
}

const KEEP: u8 = 0;
const REPLACE: u8 = 1;
const ENCAPSULATE: u8 = 2;

const NOTHING: u8 = 0;
const GUE: u8 = 1;
const GRE: u8 = 2;

/// `struct flow`: what is done to the packets of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub struct Flow {
    generation: u32,
    token: u32,
    place: u32,
    hop: u16,
    worker: u8,
    kind: u8,
    side: u8,
    between: u8,
    copy_dont_fragment: u8,
    reserved: u8,
    /// Big endian, as is all that follows
    ports: [[u8; 2]; 2],
    ip_delta: [u8; 2],
    transport_delta: [u8; 2],
    source: [u8; 16],
    destination: [u8; 16],
}

/// Under what a flow is in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// The generation that it belongs to
    pub generation: u32,
    /// The token of its place
    pub token: u32,
    /// Where it is counted
    pub place: u32,
    /// Slot of its next hop
    pub hop: u16,
    /// The worker that entered it
    pub worker: u8,
}

impl Flow {
    /// The flow of packets from `side`, to which `rewrite` is done. `None` where
    /// that asks for more than the program does: a checksum over the whole
    /// packet, or a header of the other address family.
    pub fn new(rewrite: &Rewrite, side: Side, is_v4: bool, terms: Terms) -> Option<Self> {
        let Terms { generation, token, place, hop, worker } = terms;
        let flow = Flow {
            generation,
            token,
            place,
            hop,
            worker,
            kind: KEEP,
            side: side as u8,
            between: NOTHING,
            copy_dont_fragment: 0,
            reserved: 0,
            ports: [[0; 2]; 2],
            ip_delta: HOP.bytes(),
            transport_delta: [0; 2],
            source: [0; 16],
            destination: [0; 16],
        };
        match *rewrite {
            Rewrite::Keep => Some(flow),
            Rewrite::Replace { source, destination, ip_delta, transport_delta } => {
                (destination.0.is_v4() == is_v4).then(|| Flow {
                    kind: REPLACE,
                    ports: [source.1, destination.1].map(u16::to_be_bytes),
                    ip_delta: ip_delta.and(HOP).bytes(),
                    transport_delta: transport_delta.bytes(),
                    source: source.0.bytes(),
                    destination: destination.0.bytes(),
                    ..flow
                })
            }
            Rewrite::Encapsulate { encapsulation, source, destination, source_port, copy_dont_fragment } => {
                let (between, port) = match encapsulation {
                    Encapsulation::Ipip => (NOTHING, 0),
                    Encapsulation::Gue { port, checksum: false } => (GUE, port),
                    Encapsulation::Gre { checksum: false } => (GRE, 0),
                    Encapsulation::Gue { checksum: true, .. } | Encapsulation::Gre { checksum: true } => {
                        return None;
                    }
                };
                Some(Flow {
                    kind: ENCAPSULATE,
                    between,
                    copy_dont_fragment: copy_dont_fragment.into(),
                    ports: [source_port, port].map(u16::to_be_bytes),
                    source: source.bytes(),
                    destination: destination.bytes(),
                    ..flow
                })
            }
        }
    }

    /// The place that it is counted at.
    pub fn place(&self) -> u32 {
        self.place
    }

    /// The generation under which it is in force.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Whose packets it is of.
    pub fn side(&self) -> Side {
        if self.side == Side::Client as u8 { Side::Client } else { Side::Server }
    }

    /// The token of its place under which it is in force.
    pub fn token(&self) -> u32 {
        self.token
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

/// Words of `struct place`: the token, the one that was closed, packets and
/// bytes of the client and of the server, and two that are reserved.
pub(super) const PLACE_WORDS: usize = 8;

/// Words of `struct state`: generation, nanoseconds after which a worker is
/// taken to be dead, and when each was alive.
pub(super) const STATE_WORDS: usize = 2 + MOST_WORKERS;

const _: () = assert!(size_of::<Flow>() == 60 && size_of::<Hop>() == 24);
const _: () = assert!(size_of::<KeyV4>() == 16 && size_of::<KeyV6>() == 40);
