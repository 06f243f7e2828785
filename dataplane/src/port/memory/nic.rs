//! A NIC that spreads frames over its queues.

use crate::rss::{Hashed, Settings};
use crate::wire::{ethernet, ipv6};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// The queues of an interface, as a NIC with receive-side scaling serves them.
///
/// It hashes a frame bit by bit, as Toeplitz is defined, and shares nothing
/// with [`Rss`](crate::rss::Rss), which it is to check.
#[derive(Clone, Debug)]
pub struct Nic(pub Settings);

impl Nic {
    /// The queue that a frame lands on.
    pub fn queue(&self, frame: &[u8]) -> usize {
        let table = &self.0.table;
        table[self.hash(frame).unwrap_or(0) as usize % table.len()] as usize
    }

    /// The hash of a frame; `None` for what is not hashed.
    fn hash(&self, frame: &[u8]) -> Option<u32> {
        let kind = u16::from_be_bytes([*frame.get(12)?, *frame.get(13)?]);
        let packet = &frame[ethernet::LEN..];
        let fields = &self.0.fields;
        let (addresses, length, ports, protocol, tcp, udp) = match kind {
            ethernet::IPV4 => {
                let header = usize::from(packet.first()? & 15) * 4;
                let whole = packet.get(6)? & 0x3f == 0 && *packet.get(7)? == 0;
                let ports = whole.then_some(header);
                (packet.get(12..20)?, 4, ports, packet[9], fields.tcp_v4, fields.udp_v4)
            }
            ethernet::IPV6 => {
                let ports = Some(ipv6::LEN);
                (packet.get(8..40)?, 16, ports, packet[6], fields.tcp_v6, fields.udp_v6)
            }
            _ => return None,
        };
        let hashed = match protocol {
            TCP => tcp,
            UDP => udp,
            _ => Hashed::Addresses,
        };
        let (source, destination) = addresses.split_at(length);
        let mut input = [source, destination].concat();
        match (hashed, ports.and_then(|at| packet.get(at..at + 4))) {
            (Hashed::Ports, Some(ports)) => input.extend_from_slice(ports),
            (Hashed::Unknown, _) => return None,
            _ => {}
        }
        if self.0.symmetric {
            let (addresses, ports) = input.split_at_mut(2 * length);
            make_symmetric(addresses);
            make_symmetric(ports);
        }
        Some(toeplitz(&self.0.key, &input))
    }
}

/// Replaces both halves by their exclusive or.
fn make_symmetric(both: &mut [u8]) {
    let (first, second) = both.split_at_mut(both.len() / 2);
    for (a, b) in first.iter_mut().zip(second) {
        (*a, *b) = (*a ^ *b, *a ^ *b);
    }
}

fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
    let bit = |bytes: &[u8], place: usize| bytes[place / 8] >> (7 - place % 8) & 1;
    let mut window = (0..32).fold(0u32, |window, place| window << 1 | u32::from(bit(key, place)));
    let mut hash = 0;
    for place in 0..8 * input.len() {
        if bit(input, place) == 1 {
            hash ^= window;
        }
        window = window << 1 | u32::from(key.get((place + 32) / 8).map_or(0, |_| bit(key, place + 32)));
    }
    hash
}
