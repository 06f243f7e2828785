//! ICMP errors of our own to the sender of a packet, and their rate.

use zerocopy::{FromBytes, IntoBytes};

use super::{Rewritten, icmpv6};
use crate::packet::Packet;
use crate::port::Frame;
use crate::wire::{Address, icmp, ipv4};

/// Most bytes of an error's IPv4 packet (RFC 1812, section 4.3.2.3).
const LARGEST: usize = 576;

/// TOS of an error: precedence "internetwork control" (RFC 1812, section
/// 4.3.2.5), as the kernel's `icmp_send`.
const TOS: u8 = 0xc0;

/// TTL of an error, the kernel's default.
const TTL: u8 = 64;

/// Which error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// TTL or hop limit used up
    TimeExceeded,
    /// Larger than this MTU and not to be fragmented (RFC 1191); "packet too
    /// big" for IPv6 (RFC 8201)
    FragmentationNeeded(u16),
    /// The service has no server left: IPVS answers TCP so as well
    PortUnreachable,
    /// What befell the packet on its way through a tunnel
    InTunnel {
        /// Type
        kind: u8,
        /// Code
        code: u8,
        /// Bytes 4 to 7 of the ICMP header
        info: [u8; 4],
    },
}

/// Writes the error about `packet` into `answer`, with the IP packet at
/// `offset`. `source` is an address of the director.
///
/// Returns `None` for a source of the other family, and for what must not be
/// answered (RFC 1122, section 3.2.2; RFC 4443, section 2.4): packets from or to
/// multicast, broadcast and unspecified addresses.
pub fn write<F: Frame>(
    error: Error,
    source: Address,
    packet: &Packet,
    frame: &[u8],
    answer: &mut F,
    offset: usize,
    id: u16,
) -> Option<Rewritten> {
    match (source.v4(), packet.is_v4) {
        (Some(source), true) => write_v4(error, source, packet, frame, answer, offset, id),
        (None, false) => icmpv6::write(error, source.bytes(), packet, frame, answer, offset),
        _ => None,
    }
}

fn write_v4<F: Frame>(
    error: Error,
    source: [u8; 4],
    packet: &Packet,
    frame: &[u8],
    answer: &mut F,
    offset: usize,
    id: u16,
) -> Option<Rewritten> {
    let network = packet.network as usize;
    let original = frame.get(network..network + packet.length as usize)?;
    let (ip, _) = ipv4::Header::ref_from_prefix(original).ok()?;
    if !may_be_answered(ip.source) || !may_be_answered(ip.destination) {
        return None;
    }
    let quoted = original.len().min(LARGEST - ipv4::LEN - icmp::LEN);
    let length = ipv4::LEN + icmp::LEN + quoted;
    if offset + length > answer.capacity() {
        return None;
    }
    let (kind, code, [a, b, c, d]) = match error {
        Error::TimeExceeded => (icmp::TIME_EXCEEDED, icmp::CODE_TTL, [0; 4]),
        Error::FragmentationNeeded(mtu) => {
            let [high, low] = mtu.to_be_bytes();
            (icmp::UNREACHABLE, icmp::CODE_FRAGMENTATION_NEEDED, [0, 0, high, low])
        }
        Error::PortUnreachable => (icmp::UNREACHABLE, icmp::CODE_PORT, [0; 4]),
        Error::InTunnel { kind, code, info } => (kind, code, info),
    };
    let mut header = ipv4::Header {
        version_ihl: 0x45,
        tos: ip.tos & 0x1e | TOS,
        total_length: (length as u16).into(),
        id: id.into(),
        flags_offset: 0.into(),
        ttl: TTL,
        protocol: ipv4::ICMP,
        checksum: 0.into(),
        source,
        destination: ip.source,
    };
    header.fill_checksum();
    let (unused, mtu) = (u16::from_be_bytes([a, b]).into(), u16::from_be_bytes([c, d]).into());
    let message = icmp::Header { kind, code, checksum: 0.into(), unused, mtu };

    answer.set_len(offset + length);
    let bytes = &mut answer.bytes_mut()[offset..];
    bytes[..ipv4::LEN].copy_from_slice(header.as_bytes());
    bytes[ipv4::LEN..ipv4::LEN + icmp::LEN].copy_from_slice(message.as_bytes());
    bytes[ipv4::LEN + icmp::LEN..].copy_from_slice(&original[..quoted]);
    icmp::fill_checksum(&mut bytes[ipv4::LEN..]);
    Some(Rewritten::new(offset, length))
}

fn may_be_answered(address: [u8; 4]) -> bool {
    // 0/8 is "this network", 127/8 loopback, 224/4 multicast, 240/4 reserved
    // with the limited broadcast.
    !matches!(address[0], 0 | 127 | 224..)
}

/// How many errors may be sent: a bucket that fills with time. The kernel's
/// `icmp_msgs_per_sec` and `icmp_msgs_burst` are 1000 and 50.
#[derive(Debug)]
pub struct Limit {
    /// Errors that may be sent now
    tokens: u64,
    /// When the bucket was filled last, nanoseconds
    filled: u64,
}

const PER_SECOND: u64 = 1000;
const BUCKET: u64 = 50;
const NANOS_PER_TOKEN: u64 = 1_000_000_000 / PER_SECOND;

impl Limit {
    /// A full bucket.
    pub fn new(now: u64) -> Self {
        Limit { tokens: BUCKET, filled: now }
    }

    /// Whether one more may be sent at `now` (nanoseconds), which takes it.
    pub fn take(&mut self, now: u64) -> bool {
        let new = now.saturating_sub(self.filled) / NANOS_PER_TOKEN;
        if new > 0 {
            self.tokens = (self.tokens + new).min(BUCKET);
            self.filled += new * NANOS_PER_TOKEN;
        }
        let may = self.tokens > 0;
        self.tokens -= u64::from(may);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_limited() {
        let mut limit = Limit::new(0);
        assert_eq!((0..1000).filter(|_| limit.take(0)).count(), 50);
        assert!(!limit.take(NANOS_PER_TOKEN - 1));
        assert!(limit.take(NANOS_PER_TOKEN));
        assert!(!limit.take(NANOS_PER_TOKEN));
        assert_eq!((0..1000).filter(|_| limit.take(3_600_000_000_000)).count(), 50);
    }
}
