//! The hash functions of IPVS's schedulers.

use crate::wire::Address;

/// An address in 32 bits, as the schedulers of a service hash it: IPv4 as it
/// is, IPv6 by the exclusive or of its words. The family is that of the
/// service; IPVS keeps addresses of both in one union, and of an IPv6 server of
/// an IPv4 service it takes the first word.
#[inline]
pub(super) fn folded(address: Address, service_is_v4: bool) -> u32 {
    match address.v4() {
        Some(v4) => u32::from_be_bytes(v4),
        None => {
            let bytes = address.bytes();
            let words = bytes.as_chunks::<4>().0.iter().map(|word| u32::from_be_bytes(*word));
            if service_is_v4 { words.take(1).sum() } else { words.fold(0, |fold, word| fold ^ word) }
        }
    }
}

/// The upper `bits` bits of a multiplicative hash (`hash_32` in
/// `include/linux/hash.h`).
#[inline]
pub(super) fn multiplied(value: u32, bits: u32) -> usize {
    const GOLDEN_RATIO: u32 = 0x61C8_8647;
    (value.wrapping_mul(GOLDEN_RATIO) >> (32 - bits)) as usize
}

/// SipHash-1-3 of one 32-bit value in 32 bits, with both halves of the key
/// alike (`hsiphash_1u32` in `lib/siphash.c`, on a 64-bit machine).
#[inline]
pub(super) fn siphash(value: u32, key: u64) -> u32 {
    let mut v = [
        key ^ 0x736f_6d65_7073_6575,
        key ^ 0x646f_7261_6e64_6f6d,
        key ^ 0x6c79_6765_6e65_7261,
        key ^ 0x7465_6462_7974_6573,
    ];
    // The length in bytes goes to the top.
    let block = 4 << 56 | u64::from(value);
    v[3] ^= block;
    round(&mut v);
    v[0] ^= block;
    v[2] ^= 0xff;
    (0..3).for_each(|_| round(&mut v));
    (v[0] ^ v[1] ^ v[2] ^ v[3]) as u32
}

#[inline]
fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}
