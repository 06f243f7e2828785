//! Fragments of TCP, UDP and SCTP packets.
//!
//! Only the first has the ports. The later ones are known by what all of a
//! packet's fragments have in common (RFC 791, section 3.2; RFC 8200, section
//! 4.5).

use zerocopy::FromBytes;

use super::{MALFORMED, Packet, TRUNCATED, Unparsed};
use crate::conn::{Seed, Tuple};
use crate::service::Protocol;
use crate::wire::{Address, ipv4, ipv6, tcp, udp};

/// What all fragments of a packet have in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FragmentKey {
    /// Source address
    pub source: Address,
    /// Destination address
    pub destination: Address,
    /// Identification; of sixteen bits in IPv4
    pub id: u32,
    /// Transport protocol, over IPv4. IPv6 numbers packets whatever they carry.
    pub protocol: Option<Protocol>,
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
        let protocol = protocol.unwrap_or(Protocol::Udp);
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
    /// Parses the fragment whose IP header is at `network`, and was checked by
    /// [`Packet::parse`].
    ///
    /// # Errors
    /// [`Unparsed::Kernel`] where it is not of a protocol that services have, and a reason to drop
    /// it where its parts contradict each other.
    pub fn parse(frame: &[u8], network: u16) -> Result<Fragment, Unparsed> {
        match frame.get(usize::from(network)) {
            Some(first) if first >> 4 == 6 => Fragment::parse_v6(frame, network),
            _ => Fragment::parse_v4(frame, network),
        }
    }

    fn parse_v4(frame: &[u8], network: u16) -> Result<Fragment, Unparsed> {
        let start = network as usize;
        let (ip, _) =
            ipv4::Header::ref_from_prefix(frame.get(start..).ok_or(TRUNCATED)?).map_err(|_| TRUNCATED)?;
        let (header, length) = (ip.header_len(), ip.total_length.get() as usize);
        let data = frame.get(start + header..start + length).ok_or(TRUNCATED)?;
        let protocol = Protocol::from_number(ip.protocol).ok_or(Unparsed::Kernel)?;
        let flags_offset = ip.flags_offset.get();
        let offset = usize::from(flags_offset & ipv4::OFFSET) * 8;
        let more = flags_offset & ipv4::MORE_FRAGMENTS != 0;
        check_extent(data, offset, more)?;
        let later = offset != 0;
        let (source_port, destination_port, flags) = match later {
            true => later_ports(protocol, offset)?,
            false => first_ports(protocol, data)?,
        };
        let (source, destination) = (Address::from_v4(ip.source), Address::from_v4(ip.destination));
        let key = FragmentKey { source, destination, id: ip.id.get().into(), protocol: Some(protocol) };
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
            partial: true,
        };
        Ok(Fragment { key, packet })
    }

    fn parse_v6(frame: &[u8], network: u16) -> Result<Fragment, Unparsed> {
        let start = usize::from(network);
        let (ip, rest) =
            ipv6::Header::ref_from_prefix(frame.get(start..).ok_or(TRUNCATED)?).map_err(|_| TRUNCATED)?;
        let payload = rest.get(..usize::from(ip.payload_length.get())).ok_or(TRUNCATED)?;
        let upper = super::upper_layer_v6(ip, payload)?;
        let header = super::fragment_header(&upper, payload).ok_or(Unparsed::Kernel)?;
        let (at, offset) = (upper.fragment.unwrap_or_default(), usize::from(header.offset()));
        check_extent(&payload[at + ipv6::FRAGMENT_LEN..], at + offset, header.more())?;
        let later = offset != 0;
        let protocol = match Protocol::from_number(upper.protocol) {
            Some(protocol) => protocol,
            // Its header is behind others in the first fragment. Which protocol
            // it is will be known from that.
            None if later && ipv6::is_extension(upper.protocol) => Protocol::Udp,
            None => return Err(Unparsed::Kernel),
        };
        let (source_port, destination_port, flags) = match later {
            true => later_ports(protocol, offset)?,
            false => first_ports(protocol, &payload[upper.offset..])?,
        };
        let (source, destination) = super::addresses_v6(ip)?;
        let key = FragmentKey { source, destination, id: header.id.get(), protocol: None };
        let length = ipv6::LEN + payload.len();
        let packet = Packet {
            tuple: Tuple { source, destination, source_port, destination_port, protocol },
            network,
            transport: network + (ipv6::LEN + upper.offset) as u16,
            length: u16::try_from(length).map_err(|_| MALFORMED)?,
            flags,
            ttl: ip.hop_limit,
            is_v4: false,
            dont_fragment: true,
            later,
            partial: true,
        };
        Ok(Fragment { key, packet })
    }
}

/// Only the last piece may end anywhere, and none beyond the largest packet.
fn check_extent(data: &[u8], offset: usize, more: bool) -> Result<(), Unparsed> {
    let beyond = offset + data.len() > usize::from(u16::MAX);
    if data.is_empty() || (more && !data.len().is_multiple_of(8)) || beyond { Err(MALFORMED) } else { Ok(()) }
}

/// No ports, and no flags that would overwrite those that the first one was
/// judged by (RFC 3128).
fn later_ports(protocol: Protocol, offset: usize) -> Result<(u16, u16, u8), Unparsed> {
    if protocol == Protocol::Tcp && offset < tcp::LEN { Err(MALFORMED) } else { Ok((0, 0, 0)) }
}

/// Ports and flags of a first fragment, which has to hold the header
/// (RFC 1858, section 3; RFC 7112).
fn first_ports(protocol: Protocol, data: &[u8]) -> Result<(u16, u16, u8), Unparsed> {
    match protocol {
        Protocol::Tcp | Protocol::Sctp => super::transport(protocol, data),
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
