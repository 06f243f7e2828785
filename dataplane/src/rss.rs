//! Receive-side scaling: which queue of a NIC a packet lands on.
//!
//! A NIC hashes a packet's addresses, and perhaps its ports, by Toeplitz with
//! its key, and looks the hash up in its indirection table. Both can be read
//! from the kernel, and so it is known beforehand where an answer will land.
//!
//! The hash is linear: that of an exclusive or is the exclusive or of the
//! hashes. The share of a local port in it is thus the same whatever the
//! addresses are, and the ports that lead to a queue are found without trying
//! any: [`Rss::ports`] gives them 64 at a time.
//!
//! Source: "Introduction to Receive Side Scaling" and "Verifying the RSS Hash
//! Calculation" of the Windows driver documentation, and `struct ethtool_rxfh`
//! in `include/uapi/linux/ethtool.h`.

use thiserror::Error;

use crate::conn::Tuple;
use crate::local::{MIN_LOCAL_PORT, owner};
use crate::service::Protocol;
use crate::wire::Address;

/// Bytes of the longest input: two IPv6 addresses and two ports.
const LONGEST: usize = 36;

/// Bytes that a key has at least: so many that each bit of the longest input
/// has its 32 bits of it.
pub const MIN_KEY: usize = LONGEST + 4;

/// Entries of an indirection table at most. NICs have 4096 at most today.
pub const MAX_TABLE: usize = 1 << 16;

/// Sets of ports that are kept ready: beyond it, for very large tables and
/// many workers, they are worked out when they are wanted.
const MOST_READY: usize = 1 << 18;

/// Ports in a word of a set.
const WORD: usize = 64;

/// Words of a set of all ports.
const WORDS: usize = 65_536 / WORD;

/// The Toeplitz hash with one key.
#[derive(Clone)]
pub struct Toeplitz {
    /// For each byte of the input and each value, its share in the hash
    shares: Box<[[u32; 256]]>,
}

impl Toeplitz {
    /// The hash with `key`, of which the first [`MIN_KEY`] bytes matter; `None`
    /// if it is shorter.
    pub fn new(key: &[u8]) -> Option<Self> {
        let key = key.get(..MIN_KEY)?;
        let window = |bit: usize| {
            let byte = bit / 8;
            let bits = key[byte..byte + 5].iter().fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
            (bits >> (8 - bit % 8)) as u32
        };
        let share = |place: usize, value: usize| {
            (0..8).filter(|bit| value & 0x80 >> bit != 0).fold(0, |hash, bit| hash ^ window(8 * place + bit))
        };
        let shares = (0..LONGEST).map(|place| std::array::from_fn(|value| share(place, value)));
        Some(Toeplitz { shares: shares.collect() })
    }

    /// The hash of at most 36 bytes; what is longer is not looked at.
    #[inline]
    pub fn hash(&self, input: &[u8]) -> u32 {
        input.iter().zip(&self.shares).fold(0, |hash, (byte, shares)| hash ^ shares[usize::from(*byte)])
    }

    /// The share of two bytes from `place` on.
    fn share(&self, place: usize, bytes: [u8; 2]) -> u32 {
        self.shares[place][usize::from(bytes[0])] ^ self.shares[place + 1][usize::from(bytes[1])]
    }
}

impl std::fmt::Debug for Toeplitz {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Toeplitz").finish_non_exhaustive()
    }
}

/// What of a packet is hashed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Hashed {
    /// Both addresses and both ports
    Ports,
    /// Both addresses only: all packets from one server to one LIP land on
    /// one queue
    Addresses,
    /// Something else, or nothing is known of it
    #[default]
    Unknown,
}

/// What of a packet is hashed, by kind of packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HashFields {
    /// TCP over IPv4
    pub tcp_v4: Hashed,
    /// UDP over IPv4
    pub udp_v4: Hashed,
    /// TCP over IPv6
    pub tcp_v6: Hashed,
    /// UDP over IPv6
    pub udp_v6: Hashed,
}

impl HashFields {
    /// The same for every kind.
    pub fn all(hashed: Hashed) -> Self {
        HashFields { tcp_v4: hashed, udp_v4: hashed, tcp_v6: hashed, udp_v6: hashed }
    }

    /// What of packets of a protocol over IPv4, or else IPv6, is hashed.
    #[inline]
    pub fn of(&self, protocol: Protocol, is_v4: bool) -> Hashed {
        match (protocol, is_v4) {
            (Protocol::Tcp, true) => self.tcp_v4,
            (Protocol::Udp, true) => self.udp_v4,
            (Protocol::Tcp, false) => self.tcp_v6,
            (Protocol::Udp, false) => self.udp_v6,
            (Protocol::Sctp, _) => Hashed::Unknown,
        }
    }
}

/// How an interface spreads packets over its queues.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The key, [`MIN_KEY`] bytes at least
    pub key: Vec<u8>,
    /// The queue for each hash, modulo the table's size
    pub table: Vec<u32>,
    /// What is hashed
    pub fields: HashFields,
    /// Whether source and destination are replaced by their exclusive or first
    /// (`RXH_XFRM_SYM_XOR`)
    pub symmetric: bool,
}

/// Why nothing can be told from an interface's settings.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum RssError {
    /// The key is too short
    #[error("its hash key has {0} bytes, fewer than {MIN_KEY}")]
    Key(usize),
    /// There is no table, or an absurd one
    #[error("its indirection table has {0} entries")]
    Table(usize),
}

/// Which queue packets land on, for `workers` workers that have a queue each.
#[derive(Debug)]
pub struct Rss {
    settings: Settings,
    toeplitz: Toeplitz,
    workers: usize,
    /// Workers whose queue is not in the table, if there is one
    without_entry: Option<Box<[bool]>>,
    v4: PortSets,
    v6: PortSets,
}

impl PartialEq for Rss {
    fn eq(&self, other: &Self) -> bool {
        self.workers == other.workers && self.settings == other.settings
    }
}

/// The shares of local ports in the hash, for one address family.
#[derive(Debug)]
struct PortSets {
    /// Share of the port 64 `i`
    high: Box<[u32]>,
    /// Share of the port `i`
    low: [u32; WORD],
    /// For each worker, and each hash of the first of 64 ports modulo the
    /// size of the table, which of them lead to the worker. Only where the
    /// size is a power of two; else the modulus is not linear.
    ready: Option<Box<[u64]>>,
}

impl PortSets {
    fn new(toeplitz: &Toeplitz, place: usize, settings: &Settings, workers: usize) -> Self {
        let share = |port: usize| {
            let bytes = (port as u16).to_be_bytes();
            let symmetric = if settings.symmetric { toeplitz.share(place - 2, bytes) } else { 0 };
            toeplitz.share(place, bytes) ^ symmetric
        };
        let low = std::array::from_fn(share);
        let size = settings.table.len();
        let ready = (size.is_power_of_two() && size * workers <= MOST_READY).then(|| {
            let mut ready = vec![0u64; size * workers].into_boxed_slice();
            for first in 0..size {
                for (bit, share) in low.iter().enumerate() {
                    let queue = settings.table[(first ^ *share as usize) & (size - 1)] as usize;
                    if queue < workers {
                        ready[queue * size + first] |= 1 << bit;
                    }
                }
            }
            ready
        });
        PortSets { high: (0..WORDS).map(|word| share(word * WORD)).collect(), low, ready }
    }
}

impl Rss {
    /// What follows from an interface's settings.
    ///
    /// # Errors
    /// When the key is too short, or the table empty or larger than
    /// [`MAX_TABLE`].
    pub fn new(settings: Settings, workers: usize) -> Result<Self, RssError> {
        let toeplitz = Toeplitz::new(&settings.key).ok_or(RssError::Key(settings.key.len()))?;
        if settings.table.is_empty() || settings.table.len() > MAX_TABLE {
            return Err(RssError::Table(settings.table.len()));
        }
        let without: Box<[bool]> =
            (0..workers).map(|worker| !settings.table.contains(&(worker as u32))).collect();
        Ok(Rss {
            v4: PortSets::new(&toeplitz, 10, &settings, workers),
            v6: PortSets::new(&toeplitz, 34, &settings, workers),
            without_entry: without.contains(&true).then_some(without),
            toeplitz,
            workers,
            settings,
        })
    }

    /// The settings that it follows from.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What of a packet is hashed.
    #[inline]
    pub fn hashed(&self, protocol: Protocol, is_v4: bool) -> Hashed {
        self.settings.fields.of(protocol, is_v4)
    }

    /// The queue that a packet lands on, if that can be told.
    pub fn queue(&self, packet: &Tuple) -> Option<usize> {
        let hash = match self.hashed(packet.protocol, packet.source.is_v4()) {
            Hashed::Ports => {
                let source = (packet.source, packet.source_port);
                let base = self.base(source, packet.destination);
                base ^ self.share(packet.destination.is_v4(), packet.destination_port)
            }
            Hashed::Addresses => self.of_addresses(packet.source, packet.destination),
            Hashed::Unknown => return None,
        };
        Some(self.entry(hash))
    }

    /// The queue for a hash.
    #[inline]
    fn entry(&self, hash: u32) -> usize {
        let table = &self.settings.table;
        table[hash as usize % table.len()] as usize
    }

    /// The hash of addresses only.
    fn of_addresses(&self, source: Address, destination: Address) -> u32 {
        let mut input = [0; LONGEST];
        let length = self.put_addresses(source, destination, &mut input);
        self.toeplitz.hash(&input[..length])
    }

    /// The hash of a packet to port 0 of `destination`.
    #[inline]
    pub fn base(&self, source: (Address, u16), destination: Address) -> u32 {
        let mut input = [0; LONGEST];
        let length = self.put_addresses(source.0, destination, &mut input);
        input[length..length + 2].copy_from_slice(&source.1.to_be_bytes());
        if self.settings.symmetric {
            input[length + 2..length + 4].copy_from_slice(&source.1.to_be_bytes());
        }
        self.toeplitz.hash(&input[..length + 4])
    }

    /// Writes both addresses in front; returns how many bytes they take.
    #[inline]
    fn put_addresses(&self, source: Address, destination: Address, input: &mut [u8; LONGEST]) -> usize {
        let (mut source, mut destination) = (source.bytes(), destination.bytes());
        let skipped = if Address::from_v6(source).is_v4() { 12 } else { 0 };
        if self.settings.symmetric {
            source = std::array::from_fn(|i| source[i] ^ destination[i]);
            destination = source;
        }
        let length = source.len() - skipped;
        input[..length].copy_from_slice(&source[skipped..]);
        input[length..2 * length].copy_from_slice(&destination[skipped..]);
        2 * length
    }

    /// What a destination port adds to the hash.
    #[inline]
    fn share(&self, is_v4: bool, port: u16) -> u32 {
        let sets = self.sets(is_v4);
        sets.high[usize::from(port) / WORD] ^ sets.low[usize::from(port) % WORD]
    }

    #[inline]
    fn sets(&self, is_v4: bool) -> &PortSets {
        if is_v4 { &self.v4 } else { &self.v6 }
    }

    /// The worker that local port `port` belongs to, where the hash with port
    /// 0 is `base`: the one whose queue answers to it land on. A worker
    /// whose queue is not in the table could take no port at all; it gets every
    /// port that [`owner`] gives it. The result is no worker's number
    /// where the table names more queues than there are workers.
    #[inline]
    pub fn port_owner(&self, base: u32, is_v4: bool, port: u16) -> usize {
        let by_number = owner(port, self.workers);
        match &self.without_entry {
            Some(without) if without[by_number] => by_number,
            _ => self.entry(base ^ self.share(is_v4, port)),
        }
    }

    /// Which of the ports 64 `word` to 64 `word` + 63 belong to `worker`, the
    /// lowest bit being the lowest port. Says the same as [`Rss::port_owner`].
    #[inline]
    pub fn ports(&self, worker: usize, base: u32, is_v4: bool, word: usize) -> u64 {
        let sets = self.sets(is_v4);
        let first = base ^ sets.high[word];
        let size = self.settings.table.len();
        let by_hash = match &sets.ready {
            Some(ready) => ready[worker * size + (first as usize & (size - 1))],
            None => {
                let leads = |share: &u32| self.entry(first ^ share) == worker;
                (0..).zip(&sets.low).fold(0, |set, (bit, share)| set | u64::from(leads(share)) << bit)
            }
        };
        match &self.without_entry {
            None => by_hash,
            Some(without) if without[worker] => numbered(worker, self.workers, word),
            Some(without) => (0..self.workers)
                .filter(|other| without[*other])
                .fold(by_hash, |set, other| set & !numbered(other, self.workers, word)),
        }
    }
}

/// Which of the ports 64 `word` to 64 `word` + 63 are `worker`'s by [`owner`].
pub(crate) fn numbered(worker: usize, workers: usize, word: usize) -> u64 {
    if workers <= 1 {
        return u64::MAX;
    }
    let first = (worker + workers - word * WORD % workers) % workers;
    (first..WORD).step_by(workers).fold(0, |set, bit| set | 1 << bit)
}

/// The first word of a set that has a port which may be taken.
pub(crate) const FIRST_WORD: usize = MIN_LOCAL_PORT as usize / WORD;

#[cfg(test)]
mod tests;
