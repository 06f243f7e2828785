//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! Sums here are ones-complement sums of 16-bit words read big endian. A
//! header field holds the complement of the sum.
//!
//! An update is `HC' = ~(~HC + ~m + m')` (RFC 1624, equation 3), never the
//! form of RFC 1141, which can turn a checksum into the other zero. All
//! changed words of a packet are gathered in one [`Delta`], which depends on
//! the connection and not on the packet, so that it is worked out once.

/// Adds the words of `bytes` to a folded sum. An odd last byte counts as the
/// upper half of a word.
pub fn sum(start: u16, bytes: &[u8]) -> u16 {
    let mut total = u64::from(start);
    let (words, rest) = bytes.as_chunks::<4>();
    for word in words {
        total += u64::from(u32::from_be_bytes(*word));
    }
    let (pairs, odd) = rest.as_chunks::<2>();
    for pair in pairs {
        total += u64::from(u16::from_be_bytes(*pair));
    }
    if let [last] = odd {
        total += u64::from(*last) << 8;
    }
    fold(total)
}

/// Folds carries back in until sixteen bits are left.
#[inline]
pub const fn fold(total: u64) -> u16 {
    let total = (total >> 32) + (total & 0xffff_ffff);
    let total = (total >> 16) + (total & 0xffff);
    let total = (total >> 16) + (total & 0xffff);
    let total = (total >> 16) + (total & 0xffff);
    total as u16
}

/// The same of a sum of two folded ones.
#[inline]
const fn fold_two(a: u16, b: u16) -> u16 {
    let total = a as u32 + b as u32;
    (total + (total >> 16)) as u16
}

/// Sum of the IPv4 pseudo header of TCP and UDP.
pub fn pseudo_v4(source: [u8; 4], destination: [u8; 4], protocol: u8, length: u16) -> u16 {
    let mut total = u64::from(u32::from_be_bytes(source)) + u64::from(u32::from_be_bytes(destination));
    total += u64::from(protocol) + u64::from(length);
    fold(total)
}

/// Sum of the IPv6 pseudo header (RFC 8200, section 8.1).
pub fn pseudo_v6(source: &[u8; 16], destination: &[u8; 16], protocol: u8, length: u32) -> u16 {
    let rest = fold(u64::from(length) + u64::from(protocol));
    sum(sum(rest, source), destination)
}

/// What a change of some words adds to a sum.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Delta(u16);

impl Delta {
    /// No change.
    pub const NONE: Delta = Delta(0);

    /// The change of one word.
    #[inline]
    pub const fn new(before: u16, after: u16) -> Self {
        Delta(fold_two(!before, after))
    }

    /// The change of as many bytes as both have: an even number.
    #[inline]
    pub fn of_bytes(before: &[u8], after: &[u8]) -> Self {
        debug_assert!(before.len() == after.len() && before.len().is_multiple_of(2));
        Delta(fold_two(!sum(0, before), sum(0, after)))
    }

    /// The change of the IPv4 addresses of a packet. Even where none changes this
    /// is not 0, as [`Delta::of_bytes`] of IPv4-mapped addresses.
    #[inline]
    pub fn of_v4(before: [u32; 2], after: [u32; 2]) -> Self {
        let [a, b] = before.map(|address| u64::from(!address));
        let [c, d] = after.map(u64::from);
        Delta(fold(0xffff + a + b + c + d))
    }

    /// Both changes.
    #[inline]
    pub fn and(self, other: Delta) -> Self {
        Delta(fold_two(self.0, other.0))
    }

    /// The change back.
    #[inline]
    pub fn reversed(self) -> Self {
        Delta(!self.0)
    }

    /// As it is added to sums of words that are read as they lie in a packet.
    pub const fn bytes(self) -> [u8; 2] {
        self.0.to_be_bytes()
    }

    /// The checksum field after the change.
    #[inline]
    pub fn apply(self, checksum: u16) -> u16 {
        !fold_two(!checksum, self.0)
    }

    /// The UDP checksum field after the change: 0 stays 0, since none was
    /// made, and a sum that comes out as 0 is sent as 0xffff (RFC 768).
    #[inline]
    pub fn apply_udp(self, checksum: u16) -> u16 {
        if checksum == 0 {
            return 0;
        }
        match self.apply(checksum) {
            0 => 0xffff,
            updated => updated,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn two_sums_are_folded_as_any() {
        for a in (0..=u16::MAX).step_by(255) {
            for b in [0, 1, 2, 0x7fff, 0x8000, a, !a, 0xfffe, 0xffff] {
                assert_eq!(fold_two(a, b), fold(u64::from(a) + u64::from(b)), "{a:x} {b:x}");
            }
        }
    }

    #[test]
    fn the_example_of_rfc_1071() {
        assert_eq!(sum(0, &[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }

    #[test]
    fn the_example_of_rfc_1624() {
        // A header whose checksum was DD2F has a word changed from 5555 to
        // 3285; RFC 1141 would give FFFF here.
        assert_eq!(Delta::new(0x5555, 0x3285).apply(0xdd2f), 0x0000);
    }

    proptest! {
        /// An incremental update gives the field that a full sum gives, but for
        /// the two zeros, which stand for the same value.
        #[test]
        fn incremental_is_full(
            mut bytes in proptest::collection::vec(any::<u8>(), 40..=40),
            at in (0usize..9).prop_map(|w| w * 2),
            new in proptest::collection::vec(any::<u8>(), 12..=12),
        ) {
            let before = !sum(0, &bytes);
            let delta = Delta::of_bytes(&bytes[at..at + 12], &new);
            bytes[at..at + 12].copy_from_slice(&new);
            let after = !sum(0, &bytes);
            let same = |a: u16, b: u16| a == b || (a == 0 && b == 0xffff) || (a == 0xffff && b == 0);
            prop_assert!(same(delta.apply(before), after));
            prop_assert!(same(delta.reversed().apply(delta.apply(before)), before));
        }

        #[test]
        fn a_split_sum_is_the_whole(bytes in proptest::collection::vec(any::<u8>(), 0..100), cut in 0usize..50) {
            let cut = (cut * 2).min(bytes.len() & !1);
            prop_assert_eq!(sum(sum(0, &bytes[..cut]), &bytes[cut..]), sum(0, &bytes));
        }
    }
}
