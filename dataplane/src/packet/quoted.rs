//! ICMP and ICMPv6 errors with the packet that they quote.
//!
//! An error quotes the head of the packet that it is about: the IP header and
//! at least eight bytes (RFC 792), often more (RFC 1812, section 4.3.2.3), and
//! over IPv6 as much as fits (RFC 4443, section 3). Of that the ports are enough
//! to find the connection. No length that the quoted packet names is believed:
//! it was cut off, and anybody can have made it up.

use zerocopy::FromBytes;

use super::{MALFORMED, Packet, TRUNCATED, Unparsed};
use crate::conn::Tuple;
use crate::service::{Encapsulation, Protocol};
use crate::wire::{Address, checksum, ethernet, gre, gue, icmp, icmpv6, ipv4, ipv6, udp};

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
    /// Bytes 4 to 7 of the ICMP header: the MTU, in "fragmentation needed" and
    /// "packet too big"
    pub info: [u8; 4],
    /// The quoted packet; of a tunnel's, the one within
    pub quoted: Quoted,
    /// The tunnel that the quoted packet was in
    pub tunnel: Option<QuotedTunnel>,
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
    /// Offset of its transport header, of which four bytes at least are there
    pub transport: u16,
    /// Whether it may not be fragmented
    pub dont_fragment: bool,
}

/// The outer headers of a quoted packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QuotedTunnel {
    /// Where it was sent to
    pub server: Address,
    /// What is between the IP headers
    between: Between,
    /// Bytes of the outer headers
    pub overhead: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Between {
    Nothing,
    Gre,
    /// GUE to this port
    Gue(u16),
}

impl QuotedTunnel {
    /// Whether the director makes such headers for this encapsulation.
    pub fn is(&self, encapsulation: Encapsulation) -> bool {
        match encapsulation {
            Encapsulation::Ipip => self.between == Between::Nothing,
            Encapsulation::Gre { .. } => self.between == Between::Gre,
            Encapsulation::Gue { port, .. } => self.between == Between::Gue(port),
        }
    }
}

impl Related {
    /// Parses the ICMP error whose IP header is at `network`, and was checked by
    /// [`Packet::parse`].
    ///
    /// # Errors
    /// What is no error, or does not quote enough to find a connection, is
    /// [`Unparsed::Kernel`].
    pub fn parse(frame: &[u8], network: u16) -> Result<Related, Unparsed> {
        let bytes = frame.get(usize::from(network)..).ok_or(TRUNCATED)?;
        let error = match bytes.first() {
            Some(first) if first >> 4 == 6 => Message::of_v6(bytes)?,
            _ => Message::of_v4(bytes)?,
        };
        let Message { length, start, ttl, is_v4, dont_fragment, destination, intact, .. } = error;
        let bytes = bytes.get(..length).ok_or(TRUNCATED)?;
        let message = bytes.get(start..).ok_or(MALFORMED)?;
        let [kind, code, _, _, info @ ..] = *message.first_chunk::<8>().ok_or(TRUNCATED)?;

        let outer = Quotation::at(bytes, start + icmp::LEN)?;
        // An error goes to where the packet came from, and so is of its family;
        // any other was made up.
        if outer.source != destination {
            return Err(Unparsed::Kernel);
        }
        let (inner, tunnel) = match outer.within_ip_or_gre(bytes) {
            Some((inner, tunnel)) => (inner?, Some(tunnel)),
            None => (outer, None),
        };
        let quoted = inner.quoted(bytes, network)?;
        let packet = Packet {
            tuple: quoted.tuple.reversed(),
            network,
            transport: network + start as u16,
            length: length as u16,
            flags: 0,
            ttl,
            is_v4,
            dont_fragment,
            later: false,
            partial: true,
        };
        Ok(Related { packet, kind, code, info, quoted, tunnel, intact })
    }

    /// The error as one about a packet in a GUE tunnel, if the quoted UDP
    /// datagram can be one: only who knows the connections can tell.
    pub fn about_gue(&self, frame: &[u8]) -> Option<Related> {
        let Related { packet, quoted, .. } = self;
        if self.tunnel.is_some() || quoted.tuple.protocol != Protocol::Udp {
            return None;
        }
        let start = usize::from(packet.network);
        let bytes = frame.get(start..start + usize::from(packet.length))?;
        let at = usize::from(quoted.transport) - start + udp::LEN;
        let (header, _) = gue::Header::ref_from_prefix(bytes.get(at..)?).ok()?;
        if header.variant_length != 0 || header.flags.get() != 0 {
            return None;
        }
        let inner = Quotation::of_family(bytes, at + gue::LEN, header.protocol)?.ok()?;
        let tunnel = QuotedTunnel {
            server: quoted.tuple.destination,
            between: Between::Gue(quoted.tuple.destination_port),
            overhead: (start + inner.at) as u16 - quoted.network,
        };
        let quoted = inner.quoted(bytes, packet.network).ok()?;
        let packet = Packet { tuple: quoted.tuple.reversed(), ..*packet };
        Some(Related { packet, quoted, tunnel: Some(tunnel), ..*self })
    }

    /// The quoted packet as far as it is there, to be quoted again.
    pub fn quoted_packet(&self) -> Packet {
        let Related { packet, quoted, .. } = self;
        Packet {
            tuple: quoted.tuple,
            network: quoted.network,
            transport: quoted.transport,
            length: packet.network + packet.length - quoted.network,
            is_v4: quoted.tuple.source.is_v4(),
            dont_fragment: quoted.dont_fragment,
            ..*packet
        }
    }
}

/// An ICMP message and what is known from the IP header before it. Offsets are
/// those in the IP packet.
struct Message {
    length: usize,
    start: usize,
    ttl: u8,
    is_v4: bool,
    dont_fragment: bool,
    destination: Address,
    intact: bool,
}

impl Message {
    fn of_v4(bytes: &[u8]) -> Result<Self, Unparsed> {
        let (ip, _) = ipv4::Header::ref_from_prefix(bytes).map_err(|_| TRUNCATED)?;
        let (start, length) = (ip.header_len(), usize::from(ip.total_length.get()));
        let message = bytes.get(start..length).ok_or(TRUNCATED)?;
        let (error, _) = icmp::Header::ref_from_prefix(message).map_err(|_| TRUNCATED)?;
        if !icmp::is_error(error.kind) {
            return Err(Unparsed::Kernel);
        }
        Ok(Message {
            length,
            start,
            ttl: ip.ttl,
            is_v4: true,
            dont_fragment: ip.dont_fragment(),
            destination: Address::from_v4(ip.destination),
            intact: checksum::sum(0, message) == 0xffff,
        })
    }

    fn of_v6(bytes: &[u8]) -> Result<Self, Unparsed> {
        let (ip, rest) = ipv6::Header::ref_from_prefix(bytes).map_err(|_| TRUNCATED)?;
        let payload = rest.get(..usize::from(ip.payload_length.get())).ok_or(TRUNCATED)?;
        let upper = super::upper_layer_v6(ip, payload)?;
        let message = &payload[upper.offset..];
        let (error, _) = icmpv6::Header::ref_from_prefix(message).map_err(|_| TRUNCATED)?;
        if !icmpv6::is_error(error.kind) {
            return Err(Unparsed::Kernel);
        }
        let (_, destination) = super::addresses_v6(ip)?;
        let length = message.len() as u32;
        let pseudo = checksum::pseudo_v6(&ip.source, &ip.destination, ipv6::ICMPV6, length);
        Ok(Message {
            length: ipv6::LEN + payload.len(),
            start: ipv6::LEN + upper.offset,
            ttl: ip.hop_limit,
            is_v4: false,
            dont_fragment: true,
            destination,
            intact: checksum::sum(pseudo, message) == 0xffff,
        })
    }
}

/// The IP headers of a quoted packet, which are whole. Offsets are those in the
/// packet that quotes it.
#[derive(Clone, Copy)]
struct Quotation {
    at: usize,
    source: Address,
    destination: Address,
    protocol: u8,
    payload: usize,
    is_v4: bool,
    dont_fragment: bool,
}

impl Quotation {
    /// A first fragment, or a packet that is none.
    fn at(bytes: &[u8], at: usize) -> Result<Self, Unparsed> {
        let rest = bytes.get(at..).ok_or(Unparsed::Kernel)?;
        match rest.first().map(|first| first >> 4) {
            Some(4) => Quotation::of_v4(rest, at),
            Some(6) => Quotation::of_v6(rest, at),
            _ => Err(Unparsed::Kernel),
        }
    }

    fn of_v4(rest: &[u8], at: usize) -> Result<Self, Unparsed> {
        let (ip, _) = ipv4::Header::ref_from_prefix(rest).map_err(|_| Unparsed::Kernel)?;
        if ip.header_len() < ipv4::LEN || ip.flags_offset.get() & ipv4::OFFSET != 0 {
            return Err(Unparsed::Kernel);
        }
        Ok(Quotation {
            at,
            source: Address::from_v4(ip.source),
            destination: Address::from_v4(ip.destination),
            protocol: ip.protocol,
            payload: at + ip.header_len(),
            is_v4: true,
            dont_fragment: ip.dont_fragment(),
        })
    }

    fn of_v6(rest: &[u8], at: usize) -> Result<Self, Unparsed> {
        let (ip, rest) = ipv6::Header::ref_from_prefix(rest).map_err(|_| Unparsed::Kernel)?;
        let upper = ipv6::upper_layer(ip.next_header, rest).map_err(|_| Unparsed::Kernel)?;
        if super::fragment_header(&upper, rest).is_some_and(|header| header.offset() != 0) {
            return Err(Unparsed::Kernel);
        }
        let (source, destination) = super::addresses_v6(ip)?;
        Ok(Quotation {
            at,
            source,
            destination,
            protocol: upper.protocol,
            payload: at + ipv6::LEN + upper.offset,
            is_v4: false,
            dont_fragment: true,
        })
    }

    /// The packet of the family that a protocol number announces; `None` where
    /// it announces another protocol.
    fn of_family(bytes: &[u8], at: usize, protocol: u8) -> Option<Result<Self, Unparsed>> {
        let is_v4 = match protocol {
            ipv4::IPIP => true,
            ipv6::IPV6 => false,
            _ => return None,
        };
        let checked = |inner: Self| if inner.is_v4 == is_v4 { Ok(inner) } else { Err(Unparsed::Kernel) };
        Some(Quotation::at(bytes, at).and_then(checked))
    }

    /// The packet in this one, if this is IP in IP or GRE.
    fn within_ip_or_gre(&self, bytes: &[u8]) -> Option<(Result<Self, Unparsed>, QuotedTunnel)> {
        let tunnel =
            |between, at| QuotedTunnel { server: self.destination, between, overhead: (at - self.at) as u16 };
        if self.protocol != gre::PROTOCOL {
            let inner = Quotation::of_family(bytes, self.payload, self.protocol)?;
            return Some((inner, tunnel(Between::Nothing, self.payload)));
        }
        let header = bytes.get(self.payload..).and_then(|rest| gre::Header::ref_from_prefix(rest).ok());
        let (flags, kind) = header.map(|(header, _)| (header.flags.get(), header.kind.get()))?;
        let length = match flags {
            0 => gre::LEN,
            gre::CHECKSUM => gre::LEN + gre::CHECKSUM_LEN,
            // The director sends no such packets.
            _ => return None,
        };
        let protocol = match kind {
            ethernet::IPV4 => ipv4::IPIP,
            ethernet::IPV6 => ipv6::IPV6,
            _ => return None,
        };
        let at = self.payload + length;
        Some((Quotation::of_family(bytes, at, protocol)?, tunnel(Between::Gre, at)))
    }

    /// The packet of a connection that this is. The frame has the quoting packet at
    /// `network`.
    fn quoted(&self, bytes: &[u8], network: u16) -> Result<Quoted, Unparsed> {
        let protocol = Protocol::from_number(self.protocol).ok_or(Unparsed::Kernel)?;
        let ports = bytes.get(self.payload..).and_then(|rest| rest.first_chunk::<4>());
        let [a, b, c, d] = *ports.ok_or(Unparsed::Kernel)?;
        let tuple = Tuple {
            source: self.source,
            destination: self.destination,
            source_port: u16::from_be_bytes([a, b]),
            destination_port: u16::from_be_bytes([c, d]),
            protocol,
        };
        Ok(Quoted {
            tuple,
            network: network + self.at as u16,
            transport: network + self.payload as u16,
            dont_fragment: self.dont_fragment,
        })
    }
}
