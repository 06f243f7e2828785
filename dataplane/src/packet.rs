//! A frame with its parsed offsets, made once per packet.
//!
//! Every length in the frame is checked against the frame here; what a
//! [`Packet`] says may be relied on afterwards.

mod fragment;
mod quoted;

use zerocopy::FromBytes;

pub use fragment::{Fragment, FragmentKey};
pub use quoted::{Quoted, Related};

use crate::conn::Tuple;
use crate::service::Protocol;
use crate::stats::DropReason;
use crate::wire::sctp::{self, Chunk};
use crate::wire::{Address, checksum, ethernet, ipv4, ipv6, tcp, udp, vlan};

/// Where the headers of a TCP, UDP or SCTP packet are, and what it is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Addresses, ports and protocol
    pub tuple: Tuple,
    /// Offset of the IP header
    pub network: u16,
    /// Offset of the transport header
    pub transport: u16,
    /// Bytes of the IP packet; the frame may be longer, being padded
    pub length: u16,
    /// TCP flags, or the [`Chunk`] of SCTP that decides; 0 for UDP
    pub flags: u8,
    /// Hops left
    pub ttl: u8,
    /// Whether it is IPv4 (else IPv6)
    pub is_v4: bool,
    /// IPv4 with "do not fragment", or IPv6, which routers never fragment
    pub dont_fragment: bool,
    /// A fragment other than the first: `transport` is where its data begins
    pub later: bool,
    /// A fragment, the first or a later one: not all of the segment is there
    pub partial: bool,
}

/// Why a frame is not a [`Packet`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unparsed {
    /// It is whole as far as was looked, but not TCP, UDP or SCTP over IP: the
    /// kernel's business
    Kernel,
    /// A fragment of what may be TCP, UDP or SCTP, whose IP header is at this offset
    Fragment(u16),
    /// ICMP over IPv4 or ICMPv6 over IPv6, whose header is at this offset
    Icmp(u16),
    /// It is broken
    Drop(DropReason),
}

impl Packet {
    /// Whether it can begin a connection, and begins one anew where the old one
    /// is over (`is_new_conn` in ip_vs_core.c).
    #[inline]
    pub fn opens(&self) -> bool {
        match self.tuple.protocol {
            Protocol::Tcp => self.flags & tcp::SYN != 0,
            Protocol::Udp => false,
            Protocol::Sctp => self.flags == Chunk::Init as u8,
        }
    }

    /// Whether it ends a connection at once, and so begins none.
    #[inline]
    pub fn resets(&self) -> bool {
        match self.tuple.protocol {
            Protocol::Tcp => self.flags & tcp::RST != 0,
            Protocol::Udp => false,
            Protocol::Sctp => self.flags == Chunk::Abort as u8,
        }
    }

    /// Bytes of the segment or datagram.
    #[inline]
    pub fn transport_length(&self) -> usize {
        (self.length - (self.transport - self.network)) as usize
    }

    /// Parses a frame, with up to two VLAN tags.
    #[inline]
    pub fn parse(frame: &[u8]) -> Result<Packet, Unparsed> {
        match parse_plain(frame) {
            Some(packet) => Ok(packet),
            None => Packet::parse_any(frame),
        }
    }

    /// Parses a frame to the end of a list. Each way puts its packet there itself,
    /// since one that is put together elsewhere would have to be copied right
    /// after its small fields were written, which processors wait for.
    #[inline]
    pub fn parse_into(frame: &[u8], parsed: &mut Vec<Result<Packet, Unparsed>>) {
        match parse_plain(frame) {
            Some(packet) => parsed.push(Ok(packet)),
            None => parsed.push(Packet::parse_any(frame)),
        }
    }

    #[inline(never)]
    fn parse_any(frame: &[u8]) -> Result<Packet, Unparsed> {
        let (header, _) = ethernet::Header::ref_from_prefix(frame).map_err(|_| TRUNCATED)?;
        let mut kind = header.kind.get();
        let mut network = ethernet::LEN;
        if kind == ethernet::IPV4 {
            return parse_v4(frame, network);
        }
        for _ in 0..2 {
            if vlan::is_tag(kind) {
                let tag = frame.get(network..).and_then(|rest| vlan::Tag::ref_from_prefix(rest).ok());
                kind = tag.ok_or(TRUNCATED)?.0.kind.get();
                network += vlan::LEN;
            }
        }
        match kind {
            ethernet::IPV4 => parse_v4(frame, network),
            ethernet::IPV6 => parse_v6(frame, network),
            _ => Err(Unparsed::Kernel),
        }
    }
}

const TRUNCATED: Unparsed = Unparsed::Drop(DropReason::Truncated);
const MALFORMED: Unparsed = Unparsed::Drop(DropReason::Malformed);

/// Most packets: a whole one of TCP or UDP over IPv4, without tags and options,
/// and sound as far as it is looked at. What is wrong with any other, and
/// whether anything is, is found out without haste.
#[inline(always)]
fn parse_plain(frame: &[u8]) -> Option<Packet> {
    const NETWORK: usize = ethernet::LEN;
    const TRANSPORT: usize = NETWORK + ipv4::LEN;
    const WITHOUT_OPTIONS: u8 = 0x45;
    let head = frame.first_chunk::<{ TRANSPORT + udp::LEN }>()?;
    let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let long = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let address = |at: usize| Address::from_v4(long(at).to_be_bytes());
    let (length, flags_offset) = (word(NETWORK + 2), word(NETWORK + 6));
    let total: u64 = (NETWORK..TRANSPORT).step_by(4).map(|at| u64::from(long(at))).sum();
    let segment = usize::from(length).checked_sub(ipv4::LEN)?;
    let sound = word(12) == ethernet::IPV4
        && head[NETWORK] == WITHOUT_OPTIONS
        && TRANSPORT + segment <= frame.len()
        && flags_offset & (ipv4::MORE_FRAGMENTS | ipv4::OFFSET) == 0
        && checksum::fold(total) == 0xffff;
    let (protocol, flags, first, last) = match head[NETWORK + 9] {
        17 => (Protocol::Udp, 0, udp::LEN, usize::from(word(TRANSPORT + 4))),
        6 => {
            let [offset, flags] = *frame.get(TRANSPORT + 12..)?.first_chunk::<2>()?;
            (Protocol::Tcp, flags, tcp::LEN, usize::from(offset >> 4) * 4)
        }
        _ => return None,
    };
    if !sound || last < first || last > segment {
        return None;
    }
    Some(Packet {
        tuple: Tuple {
            source: address(NETWORK + 12),
            destination: address(NETWORK + 16),
            source_port: word(TRANSPORT),
            destination_port: word(TRANSPORT + 2),
            protocol,
        },
        network: NETWORK as u16,
        transport: TRANSPORT as u16,
        length,
        flags,
        ttl: head[NETWORK + 8],
        is_v4: true,
        dont_fragment: flags_offset & ipv4::DONT_FRAGMENT != 0,
        later: false,
        partial: false,
    })
}

#[inline]
fn parse_v4(frame: &[u8], network: usize) -> Result<Packet, Unparsed> {
    let packet = &frame[network..];
    let (ip, _) = ipv4::Header::ref_from_prefix(packet).map_err(|_| TRUNCATED)?;
    let (header, length) = (ip.header_len(), ip.total_length.get() as usize);
    if ip.version() != 4 || header < ipv4::LEN || length < header {
        return Err(MALFORMED);
    }
    let packet = packet.get(..length).ok_or(TRUNCATED)?;
    if checksum::sum(0, &packet[..header]) != 0xffff {
        return Err(Unparsed::Drop(DropReason::BadChecksum));
    }
    if ip.is_fragment() {
        return Err(Unparsed::Fragment(network as u16));
    }
    if ip.protocol == ipv4::ICMP {
        return Err(Unparsed::Icmp(network as u16));
    }
    let protocol = Protocol::from_number(ip.protocol).ok_or(Unparsed::Kernel)?;
    let (source_port, destination_port, flags) = transport(protocol, &packet[header..])?;
    Ok(Packet {
        tuple: Tuple {
            source: Address::from_v4(ip.source),
            destination: Address::from_v4(ip.destination),
            source_port,
            destination_port,
            protocol,
        },
        network: network as u16,
        transport: (network + header) as u16,
        length: length as u16,
        flags,
        ttl: ip.ttl,
        is_v4: true,
        dont_fragment: ip.dont_fragment(),
        later: false,
        partial: false,
    })
}

fn parse_v6(frame: &[u8], network: usize) -> Result<Packet, Unparsed> {
    let packet = &frame[network..];
    let (ip, _) = ipv6::Header::ref_from_prefix(packet).map_err(|_| TRUNCATED)?;
    if ip.version() != 6 {
        return Err(MALFORMED);
    }
    let length = ipv6::LEN + ip.payload_length.get() as usize;
    let packet = packet.get(..length).ok_or(TRUNCATED)?;
    let payload = &packet[ipv6::LEN..];
    let upper = upper_layer_v6(ip, payload)?;
    if fragment_header(&upper, payload).is_some_and(|header| !header.is_atomic()) {
        return Err(Unparsed::Fragment(network as u16));
    }
    if upper.protocol == ipv6::ICMPV6 {
        return Err(Unparsed::Icmp(network as u16));
    }
    let protocol = Protocol::from_number(upper.protocol).ok_or(Unparsed::Kernel)?;
    let (source_port, destination_port, flags) = transport(protocol, &payload[upper.offset..])?;
    let (source, destination) = addresses_v6(ip)?;
    Ok(Packet {
        tuple: Tuple { source, destination, source_port, destination_port, protocol },
        network: network as u16,
        transport: (network + ipv6::LEN + upper.offset) as u16,
        length: u16::try_from(length).map_err(|_| MALFORMED)?,
        flags,
        ttl: ip.hop_limit,
        is_v4: false,
        dont_fragment: true,
        later: false,
        partial: false,
    })
}

fn upper_layer_v6(ip: &ipv6::Header, payload: &[u8]) -> Result<ipv6::UpperLayer, Unparsed> {
    ipv6::upper_layer(ip.next_header, payload).map_err(|error| match error {
        // Also of a first fragment: it has to hold all headers (RFC 7112).
        ipv6::NoUpperLayer::Truncated => TRUNCATED,
        ipv6::NoUpperLayer::ForHost => Unparsed::Kernel,
    })
}

fn fragment_header<'a>(upper: &ipv6::UpperLayer, payload: &'a [u8]) -> Option<&'a ipv6::Fragment> {
    let (header, _) = ipv6::Fragment::ref_from_prefix(payload.get(upper.fragment?..)?).ok()?;
    Some(header)
}

/// IPv4-mapped addresses on the wire are nobody's (RFC 4291, section 2.5.5.2),
/// and would be taken for IPv4 here.
fn addresses_v6(ip: &ipv6::Header) -> Result<(Address, Address), Unparsed> {
    let (source, destination) = (Address::from_v6(ip.source), Address::from_v6(ip.destination));
    if source.is_v4() || destination.is_v4() { Err(Unparsed::Kernel) } else { Ok((source, destination)) }
}

/// Ports and flags of a whole segment or datagram.
#[inline]
fn transport(protocol: Protocol, segment: &[u8]) -> Result<(u16, u16, u8), Unparsed> {
    match protocol {
        Protocol::Tcp => {
            let (tcp, _) = tcp::Header::ref_from_prefix(segment).map_err(|_| TRUNCATED)?;
            if tcp.header_len() < tcp::LEN || tcp.header_len() > segment.len() {
                return Err(MALFORMED);
            }
            Ok((tcp.source.get(), tcp.destination.get(), tcp.flags))
        }
        Protocol::Udp => {
            let (udp, _) = udp::Header::ref_from_prefix(segment).map_err(|_| TRUNCATED)?;
            let length = udp.length.get() as usize;
            if length < udp::LEN || length > segment.len() {
                return Err(MALFORMED);
            }
            Ok((udp.source.get(), udp.destination.get(), 0))
        }
        Protocol::Sctp => {
            let (sctp, chunks) = sctp::Header::ref_from_prefix(segment).map_err(|_| TRUNCATED)?;
            Ok((sctp.source.get(), sctp.destination.get(), Chunk::deciding(chunks) as u8))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Frames of plain packets, with some of their bytes changed and an end cut off
    /// or added, of which a good part has a right checksum all the same.
    fn a_frame() -> impl Strategy<Value = Vec<u8>> {
        let protocol = prop::sample::select(vec![6u8, 17, 132, 1]);
        let changes = prop::collection::vec((12usize..54, any::<u8>()), 0..3);
        (protocol, any::<[u8; 24]>(), changes, any::<bool>(), 30usize..80, 0u16..60).prop_map(
            |(protocol, random, changes, mend, end, length)| {
                let mut frame = vec![0; 80];
                frame[12..14].copy_from_slice(&ethernet::IPV4.to_be_bytes());
                frame[14] = 0x45;
                frame[16..18].copy_from_slice(&(20 + length).to_be_bytes());
                (frame[22], frame[23]) = (random[0], protocol);
                frame[26..38].copy_from_slice(&random[1..13]);
                frame[38..40].copy_from_slice(&length.to_be_bytes());
                if protocol == 6 {
                    (frame[46], frame[47]) = (0x50, random[13]);
                }
                changes.into_iter().for_each(|(at, byte)| frame[at] = byte);
                if mend {
                    let header = 14 + usize::from(frame[14] & 0xf) * 4;
                    ipv4::fill_checksum(&mut frame[14..header.max(34)]);
                }
                frame.truncate(end);
                frame
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        /// The short way finds what the long one does, or nothing.
        #[test]
        fn plain_packets_are_those_of_the_long_way(frame in a_frame()) {
            if let Some(packet) = parse_plain(&frame) {
                prop_assert_eq!(Packet::parse_any(&frame), Ok(packet));
            }
        }
    }

    #[test]
    fn most_packets_are_plain() {
        let mut frame = [0; 60];
        frame[12..18].copy_from_slice(&[8, 0, 0x45, 0, 0, 46]);
        (frame[22], frame[23]) = (64, 6);
        (frame[46], frame[47]) = (0x50, tcp::ACK);
        ipv4::fill_checksum(&mut frame[14..34]);
        assert!(parse_plain(&frame).is_some_and(|packet| packet.flags == tcp::ACK));
        (frame[23], frame[39]) = (17, 26);
        ipv4::fill_checksum(&mut frame[14..34]);
        assert!(parse_plain(&frame).is_some_and(|packet| packet.length == 46));
    }
}
