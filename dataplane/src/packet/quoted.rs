//! ICMP errors with the packet that they quote.
//!
//! An error quotes the head of the packet that it is about: the IP header and
//! at least eight bytes (RFC 792), often more (RFC 1812, section 4.3.2.3). Of
//! that the ports are enough to find the connection. No length that the quoted
//! packet names is believed: it was cut off, and anybody can have made it up.

use zerocopy::FromBytes;

use super::{MALFORMED, Packet, TRUNCATED, Unparsed};
use crate::conn::Tuple;
use crate::service::Protocol;
use crate::wire::{Address, checksum, icmp, ipv4};

/// An ICMP error about a packet that the director sent.
#[derive(Clone, Copy, Debug)]
pub struct Related {
    /// The error as a packet. `transport` is the offset of the ICMP header,
    /// and the tuple is that of the connection's packets that come from where
    /// the error does: the quoted one turned round, so that the error is found
    /// and forwarded as they are.
    pub packet: Packet,
    /// Type
    pub kind: u8,
    /// Code
    pub code: u8,
    /// Bytes 4 to 7 of the ICMP header: the MTU, in "fragmentation needed"
    pub info: [u8; 4],
    /// The quoted packet; of a tunnel's, the one within
    pub quoted: Quoted,
    /// The address that the quoted tunnel packet was sent to
    pub tunnel: Option<Address>,
    /// Whether the ICMP checksum is right
    pub intact: bool,
}

/// A packet quoted by an error. What is quoted ends with the error.
#[derive(Clone, Copy, Debug)]
pub struct Quoted {
    /// Addresses, ports and protocol
    pub tuple: Tuple,
    /// Offset of its IP header in the frame
    pub network: u16,
    /// Offset of its TCP or UDP header, of which four bytes at least are there
    pub transport: u16,
    /// Whether it may not be fragmented
    pub dont_fragment: bool,
}

impl Related {
    /// Parses the ICMP error whose IPv4 header is at `network`, and was
    /// checked by [`Packet::parse`].
    ///
    /// # Errors
    /// What is no error, or does not quote enough to find a connection, is
    /// [`Unparsed::Kernel`].
    pub fn parse_v4(frame: &[u8], network: u16) -> Result<Related, Unparsed> {
        let start = network as usize;
        let (ip, _) =
            ipv4::Header::ref_from_prefix(frame.get(start..).ok_or(TRUNCATED)?).map_err(|_| TRUNCATED)?;
        let (header, length) = (ip.header_len(), ip.total_length.get() as usize);
        let bytes = frame.get(start..start + length).ok_or(TRUNCATED)?;
        let message = bytes.get(header..).ok_or(MALFORMED)?;
        let (error, _) = icmp::Header::ref_from_prefix(message).map_err(|_| TRUNCATED)?;
        if !icmp::is_error(error.kind) {
            return Err(Unparsed::Kernel);
        }
        let mut at = header + icmp::LEN;
        let mut tunnel = None;
        let outer = quoted_header(bytes, at)?;
        if outer.protocol == ipv4::IPIP {
            tunnel = Some(Address::from_v4(outer.destination));
            at += outer.header_len();
        }
        let inner = quoted_header(bytes, at)?;
        let protocol = Protocol::from_number(inner.protocol).ok_or(Unparsed::Kernel)?;
        let transport = at + inner.header_len();
        let ports = bytes.get(transport..).and_then(|rest| rest.first_chunk::<4>());
        let [a, b, c, d] = *ports.ok_or(Unparsed::Kernel)?;
        // An error goes to where the packet came from; any other was made up.
        if outer.source != ip.destination {
            return Err(Unparsed::Kernel);
        }
        let tuple = Tuple {
            source: Address::from_v4(inner.source),
            destination: Address::from_v4(inner.destination),
            source_port: u16::from_be_bytes([a, b]),
            destination_port: u16::from_be_bytes([c, d]),
            protocol,
        };
        let quoted = Quoted {
            tuple,
            network: (start + at) as u16,
            transport: (start + transport) as u16,
            dont_fragment: inner.dont_fragment(),
        };
        let packet = Packet {
            tuple: tuple.reversed(),
            network,
            transport: (start + header) as u16,
            length: length as u16,
            flags: 0,
            ttl: ip.ttl,
            is_v4: true,
            dont_fragment: ip.dont_fragment(),
            later: false,
        };
        let [_, _, _, _, info @ ..] = *message.first_chunk::<8>().ok_or(TRUNCATED)?;
        let intact = checksum::sum(0, message) == 0xffff;
        Ok(Related { packet, kind: error.kind, code: error.code, info, quoted, tunnel, intact })
    }

    /// The quoted packet as far as it is there, to be quoted again.
    pub fn quoted_packet(&self) -> Packet {
        let Related { packet, quoted, .. } = self;
        Packet {
            tuple: quoted.tuple,
            network: quoted.network,
            transport: quoted.transport,
            length: packet.network + packet.length - quoted.network,
            ..*packet
        }
    }
}

/// The header of a quoted IPv4 packet, which is whole and has ports behind it.
fn quoted_header(bytes: &[u8], at: usize) -> Result<&ipv4::Header, Unparsed> {
    let rest = bytes.get(at..).ok_or(Unparsed::Kernel)?;
    let (ip, _) = ipv4::Header::ref_from_prefix(rest).map_err(|_| Unparsed::Kernel)?;
    if ip.version() != 4 || ip.header_len() < ipv4::LEN || ip.flags_offset.get() & ipv4::OFFSET != 0 {
        return Err(Unparsed::Kernel);
    }
    Ok(ip)
}
