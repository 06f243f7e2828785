//! What a packet is recognised by.

use crate::service::Protocol;
use crate::wire::Address;

/// Source and destination of a packet with its transport protocol.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tuple {
    /// Source address
    pub source: Address,
    /// Destination address
    pub destination: Address,
    /// Source port in host order
    pub source_port: u16,
    /// Destination port in host order
    pub destination_port: u16,
    /// Transport protocol
    pub protocol: Protocol,
}

impl Tuple {
    /// The tuple of the packets that answer.
    pub fn reversed(self) -> Self {
        Tuple {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol: self.protocol,
        }
    }

    /// Whether both addresses are of IPv4.
    #[inline]
    pub fn is_v4(&self) -> bool {
        self.source.is_v4() && self.destination.is_v4()
    }

    /// A hash that nobody can aim at without knowing `seed`: products of
    /// 64 x 64 bits whose halves are folded, with the seed in every factor.
    #[inline]
    pub fn hash(&self, seed: Seed) -> u64 {
        let (source_high, source_low) = self.source.words();
        let (destination_high, destination_low) = self.destination.words();
        let rest = rest([self.source_port, self.destination_port], self.protocol);
        if self.is_v4() {
            return seed.hash_v4(source_low << 32 | u64::from(destination_low as u32), rest);
        }
        let a = folded(source_high ^ seed.0, source_low ^ seed.1);
        let b = folded(destination_high ^ seed.1.rotate_left(32), destination_low ^ seed.0.rotate_left(32));
        folded(a ^ rest ^ seed.1, b.rotate_left(17) ^ seed.0)
    }
}

/// The secret of a hash. Without it, a client could choose ports that all fall
/// into one chain of the table.
#[derive(Clone, Copy, Debug)]
pub struct Seed(u64, u64);

impl Seed {
    /// Some of its randomness, for what need not be secret.
    pub fn word(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// [`Tuple::hash`] of two IPv4 addresses, side by side, and the [`rest`].
    #[inline]
    pub(super) fn hash_v4(self, addresses: u64, rest: u64) -> u64 {
        let mixed = folded(addresses ^ self.0, rest ^ self.1);
        folded(mixed ^ self.1, SPREAD ^ self.0)
    }

    /// A hash of bytes, that goes on from another one. As a tuple's, it cannot be
    /// aimed at without knowing the seed.
    pub fn hash_bytes(self, hash: u64, bytes: &[u8]) -> u64 {
        let word = |chunk: &[u8]| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(word)
        };
        let start = folded(hash ^ self.0, bytes.len() as u64 ^ self.1);
        let hash = bytes.chunks(16).fold(start, |hash, chunk| {
            let (low, high) = chunk.split_at(chunk.len().min(8));
            folded(word(low) ^ self.0 ^ hash, word(high) ^ self.1 ^ SPREAD)
        });
        folded(hash ^ self.1, self.0 ^ SPREAD)
    }

    /// A seed of sixteen random bytes.
    pub fn new(random: [u8; 16]) -> Self {
        let (words, _) = random.as_chunks::<8>();
        // Odd, so that neither half can be zero.
        Seed(u64::from_le_bytes(words[0]) | 1, u64::from_le_bytes(words[1]) | 1)
    }
}

/// Bits without a pattern, for seeds that have one: the golden ratio's.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// What a hash is of beside addresses.
#[inline]
pub(super) fn rest([source, destination]: [u16; 2], protocol: Protocol) -> u64 {
    u64::from(source) << 32 | u64::from(destination) << 16 | u64::from(protocol.number())
}

#[inline]
fn folded(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn bytes_that_differ_little_spread() {
        let seed = Seed::new([7; 16]);
        let mut buckets: HashMap<u64, u32> = HashMap::new();
        for number in 0..65_536 {
            *buckets
                .entry(seed.hash_bytes(1, format!("{number:x}@10.0.0.1").as_bytes()) % 4096)
                .or_default() += 1;
        }
        assert!(buckets.len() > 4090, "{}", buckets.len());
        assert!(*buckets.values().max().unwrap() < 48, "{:?}", buckets.values().max());
        let hash = |bytes: &[u8]| seed.hash_bytes(1, bytes);
        assert_ne!(hash(b"a"), hash(b"a\0"), "padding is not a byte");
        assert_ne!(hash(b"a"), seed.hash_bytes(2, b"a"));
    }

    #[test]
    fn neighbouring_clients_spread() {
        let seed = Seed::new([7; 16]);
        let mut buckets: HashMap<u64, u32> = HashMap::new();
        for host in 0..=255u8 {
            for port in 40_000..40_256 {
                let tuple = Tuple {
                    source: Address::from_v4([10, 0, 0, host]),
                    destination: Address::from_v4([192, 0, 2, 1]),
                    source_port: port,
                    destination_port: 80,
                    protocol: Protocol::Tcp,
                };
                *buckets.entry(tuple.hash(seed) % 4096).or_default() += 1;
            }
        }
        // 65 536 tuples in 4 096 buckets: 16 each, and some spread.
        assert!(buckets.len() > 4090);
        assert!(*buckets.values().max().unwrap() < 48, "{:?}", buckets.values().max());
    }
}
