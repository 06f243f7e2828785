//! Fragments of TCP and UDP packets.
//!
//! Only the first has the ports. The later ones are known by what all of a
//! packet's fragments have in common (RFC 791, section 3.2).

use zerocopy::FromBytes;

use super::{MALFORMED, Packet, TRUNCATED, Unparsed};
use crate::conn::{Seed, Tuple};
use crate::service::Protocol;
use crate::wire::{Address, ipv4, tcp, udp};

/// What all fragments of a packet have in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FragmentKey {
    /// Source address
    pub source: Address,
    /// Destination address
    pub destination: Address,
    /// Identification; of sixteen bits in IPv4
    pub id: u32,
    /// Transport protocol
    pub protocol: Protocol,
}

impl FragmentKey {
    /// A hash that nobody can aim at without knowing `seed`.
    pub fn hash(&self, seed: Seed) -> u64 {
        self.as_tuple((self.id >> 16) as u16, self.id as u16).hash(seed)
    }

    /// The worker that gathers the fragments of these two stations. All
    /// workers must agree, so no secret is in it.
    pub fn home(&self, workers: usize) -> usize {
        (self.as_tuple(0, 0).hash(Seed::new([0x5a; 16])) % workers.max(1) as u64) as usize
    }

    fn as_tuple(self, source_port: u16, destination_port: u16) -> Tuple {
        let FragmentKey { source, destination, protocol, .. } = self;
        Tuple { source, destination, source_port, destination_port, protocol }
    }
}

/// A fragment.
#[derive(Clone, Copy, Debug)]
pub struct Fragment {
    /// Which packet it is a part of
    pub key: FragmentKey,
    /// The fragment as a packet. Of a later one the ports are 0, and
    /// `transport` is where its data begins.
    pub packet: Packet,
}

impl Fragment {
    /// Parses the fragment whose IPv4 header is at `network`, and was checked by
    /// [`Packet::parse`].
    ///
    /// # Errors
    /// [`Unparsed::Kernel`] where it is not of TCP or UDP, and a reason to drop
    /// it where its parts contradict each other.
    pub fn parse_v4(frame: &[u8], network: u16) -> Result<Fragment, Unparsed> {
        let start = network as usize;
        let (ip, _) =
            ipv4::Header::ref_from_prefix(frame.get(start..).ok_or(TRUNCATED)?).map_err(|_| TRUNCATED)?;
        let (header, length) = (ip.header_len(), ip.total_length.get() as usize);
        let data = frame.get(start + header..start + length).ok_or(TRUNCATED)?;
        let protocol = Protocol::from_number(ip.protocol).ok_or(Unparsed::Kernel)?;
        let flags_offset = ip.flags_offset.get();
        let offset = usize::from(flags_offset & ipv4::OFFSET) * 8;
        let more = flags_offset & ipv4::MORE_FRAGMENTS != 0;
        if data.is_empty() || (more && data.len() % 8 != 0) || offset + data.len() > usize::from(u16::MAX) {
            return Err(MALFORMED);
        }
        let later = offset != 0;
        let (source_port, destination_port, flags) = match (later, protocol) {
            // It would overwrite the flags that the first one was judged by
            // (RFC 3128).
            (true, Protocol::Tcp) if offset < tcp::LEN => return Err(MALFORMED),
            (true, _) => (0, 0, 0),
            (false, _) => first_ports(protocol, data)?,
        };
        let (source, destination) = (Address::from_v4(ip.source), Address::from_v4(ip.destination));
        let key = FragmentKey { source, destination, id: ip.id.get().into(), protocol };
        let packet = Packet {
            tuple: Tuple { source, destination, source_port, destination_port, protocol },
            network,
            transport: network + header as u16,
            length: length as u16,
            flags,
            ttl: ip.ttl,
            is_v4: true,
            dont_fragment: ip.dont_fragment(),
            later,
        };
        Ok(Fragment { key, packet })
    }
}

/// Ports and TCP flags of a first fragment, which has to hold the header
/// (RFC 1858, section 3).
fn first_ports(protocol: Protocol, data: &[u8]) -> Result<(u16, u16, u8), Unparsed> {
    match protocol {
        Protocol::Tcp => super::transport(protocol, data),
        Protocol::Udp => {
            let (udp, _) = udp::Header::ref_from_prefix(data).map_err(|_| TRUNCATED)?;
            // Its length is that of the whole datagram.
            if usize::from(udp.length.get()) < data.len() {
                return Err(MALFORMED);
            }
            Ok((udp.source.get(), udp.destination.get(), 0))
        }
    }
}
