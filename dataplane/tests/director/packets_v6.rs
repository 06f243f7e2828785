//! IPv6 packets as a test describes them, made into bytes by `etherparse`.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};

use etherparse::{
    EtherType, Ethernet2Header, Icmpv6Header, Icmpv6Type, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header,
    TcpHeader, UdpHeader,
};
use sluice_dataplane::service::Protocol;

use super::Mac;
use super::packets::{ACK, FIN, RST, SYN, sctp_packet, set_tos};

/// A TCP or UDP packet over IPv6 in an Ethernet frame.
#[derive(Clone, Debug)]
pub struct Datagram6 {
    pub from_mac: Mac,
    pub to_mac: Mac,
    pub source: SocketAddrV6,
    pub destination: SocketAddrV6,
    pub protocol: Protocol,
    pub flags: u8,
    pub hop_limit: u8,
    pub traffic_class: u8,
    pub flow_label: u32,
    /// Number of the first extension header and their bytes, of which the last
    /// names the protocol
    pub extensions: Option<(u8, Vec<u8>)>,
    /// UDP is sent with 0 for its checksum
    pub without_checksum: bool,
    pub payload: Vec<u8>,
}

/// A TCP segment with these flags.
pub fn tcp6(source: &str, destination: &str, flags: u8) -> Datagram6 {
    Datagram6::new(Protocol::Tcp, source, destination, flags, b"GET / HTTP/1.0\r\n\r\n")
}

/// A UDP datagram.
pub fn udp6(source: &str, destination: &str) -> Datagram6 {
    Datagram6::new(Protocol::Udp, source, destination, 0, b"what is the address of www?")
}

/// An SCTP packet with the headers of these chunks.
pub fn sctp6(source: &str, destination: &str, chunks: &[u8]) -> Datagram6 {
    let chunks: Vec<u8> = chunks.iter().flat_map(|kind| [*kind, 0, 0, 4]).collect();
    Datagram6::new(Protocol::Sctp, source, destination, 0, &chunks)
}

fn address(text: &str) -> SocketAddrV6 {
    match super::socket(text) {
        SocketAddr::V6(v6) => v6,
        SocketAddr::V4(_) => panic!("{text} is not IPv6"),
    }
}

impl Datagram6 {
    fn new(protocol: Protocol, source: &str, destination: &str, flags: u8, payload: &[u8]) -> Self {
        Datagram6 {
            from_mac: super::CLIENT_ROUTER,
            to_mac: super::OUTSIDE,
            source: address(source),
            destination: address(destination),
            protocol,
            flags,
            hop_limit: 64,
            traffic_class: 0,
            flow_label: 0x2_3456,
            extensions: None,
            without_checksum: false,
            payload: payload.to_vec(),
        }
    }

    /// The same from and to other addresses.
    pub fn between(mut self, source: &str, destination: &str) -> Self {
        (self.source, self.destination) = (address(source), address(destination));
        self
    }

    /// The same between other stations.
    pub fn link(mut self, from: Mac, to: Mac) -> Self {
        (self.from_mac, self.to_mac) = (from, to);
        self
    }

    /// The same, one hop on.
    pub fn hop(mut self) -> Self {
        self.hop_limit -= 1;
        self
    }

    pub fn hop_limit(mut self, hop_limit: u8) -> Self {
        self.hop_limit = hop_limit;
        self
    }

    pub fn traffic_class(mut self, class: u8) -> Self {
        self.traffic_class = class;
        self
    }

    pub fn payload(mut self, payload: impl Into<Vec<u8>>) -> Self {
        self.payload = payload.into();
        self
    }

    /// A payload that makes the IP packet `length` bytes long.
    pub fn length(mut self, length: usize) -> Self {
        self.payload.clear();
        let headers = self.ip_packet().len();
        self.payload = (0..length - headers).map(|i| i as u8).collect();
        self
    }

    /// The same behind extension headers.
    pub fn behind(mut self, first: u8, extensions: &[u8]) -> Self {
        self.extensions = Some((first, extensions.to_vec()));
        self
    }

    /// The frames of this packet in fragments with so many bytes of data each. Of
    /// its extension headers, so many bytes are before the fragment header.
    pub fn pieces_behind(&self, before: usize, data: usize, id: u32) -> Vec<Vec<u8>> {
        let whole = self.ip_packet();
        let (mut head, rest) = (whole[..40 + before].to_vec(), &whole[40 + before..]);
        // The field that names what comes next: of the fixed header or of the
        // last extension header, of which there is one here.
        let next = if before == 0 { 6 } else { 40 };
        let number = std::mem::replace(&mut head[next], 44);
        let chunks: Vec<&[u8]> = rest.chunks(data).collect();
        let frames = chunks.iter().enumerate().map(|(n, chunk)| {
            let offset_more = (n * data) as u16 | u16::from(n + 1 < chunks.len());
            let mut packet = head.clone();
            packet.extend([number, 0]);
            packet.extend(offset_more.to_be_bytes());
            packet.extend(id.to_be_bytes());
            packet.extend(*chunk);
            let length = (packet.len() - 40) as u16;
            packet[4..6].copy_from_slice(&length.to_be_bytes());
            ethernet(self.from_mac, self.to_mac, &packet)
        });
        frames.collect()
    }

    /// The same without extension headers.
    pub fn pieces(&self, data: usize, id: u32) -> Vec<Vec<u8>> {
        self.pieces_behind(0, data, id)
    }

    fn addresses(&self) -> ([u8; 16], [u8; 16]) {
        (self.source.ip().octets(), self.destination.ip().octets())
    }

    /// The TCP segment or UDP datagram.
    fn segment(&self) -> Vec<u8> {
        let ((source, destination), mut segment) = (self.addresses(), Vec::new());
        let (from, to) = (self.source.port(), self.destination.port());
        match self.protocol {
            Protocol::Tcp => {
                let mut tcp = TcpHeader::new(from, to, 0x0102_0304, 29200);
                tcp.acknowledgment_number = 0x0506_0708;
                tcp.fin = self.flags & FIN != 0;
                tcp.syn = self.flags & SYN != 0;
                tcp.rst = self.flags & RST != 0;
                tcp.ack = self.flags & ACK != 0;
                tcp.checksum =
                    tcp.calc_checksum_ipv6_raw(source, destination, &self.payload).expect("a short payload");
                tcp.write(&mut segment).expect("memory");
            }
            Protocol::Udp => {
                let mut udp = UdpHeader::without_ipv4_checksum(from, to, self.payload.len()).expect("short");
                if !self.without_checksum {
                    udp.checksum = udp
                        .calc_checksum_ipv6_raw(source, destination, &self.payload)
                        .expect("a short payload");
                }
                segment.extend(udp.to_bytes());
            }
            Protocol::Sctp => return sctp_packet(from, to, &self.payload),
        }
        segment.extend(&self.payload);
        segment
    }

    /// The IP packet.
    pub fn ip_packet(&self) -> Vec<u8> {
        let own = (self.protocol.number(), Vec::new());
        let (first, mut payload) = self.extensions.clone().unwrap_or(own);
        payload.extend(self.segment());
        let mut ip = header(self.addresses(), first, self.hop_limit, self.traffic_class, payload.len());
        ip.flow_label = Ipv6FlowLabel::try_new(self.flow_label).expect("twenty bits");
        [&ip.to_bytes()[..], &payload].concat()
    }

    /// The frame.
    pub fn bytes(&self) -> Vec<u8> {
        ethernet(self.from_mac, self.to_mac, &self.ip_packet())
    }

    /// This packet within an outer IPv4 header (RFC 4213).
    pub fn in_v4_tunnel(&self, source: [u8; 4], destination: [u8; 4], tos: u8, id: u16) -> Vec<u8> {
        let packet = self.ip_packet();
        let mut outer =
            Ipv4Header::new(packet.len() as u16, self.hop_limit, IpNumber::IPV6, source, destination)
                .expect("a packet that fits");
        set_tos(&mut outer, tos);
        outer.dont_fragment = false;
        outer.identification = id;
        outer.header_checksum = outer.calc_header_checksum();
        let bytes = [&outer.to_bytes()[..], &packet].concat();
        super::packets::ethernet(self.from_mac, self.to_mac, &[], &bytes)
    }
}

fn header(
    (source, destination): ([u8; 16], [u8; 16]),
    next: u8,
    hop_limit: u8,
    traffic_class: u8,
    length: usize,
) -> Ipv6Header {
    Ipv6Header {
        traffic_class,
        flow_label: Ipv6FlowLabel::ZERO,
        payload_length: length as u16,
        next_header: IpNumber(next),
        hop_limit,
        source,
        destination,
    }
}

/// A packet of a protocol number within an outer IPv6 header (RFC 2473).
pub fn in_v6_tunnel(
    packet: &[u8],
    number: u8,
    (source, destination): (Ipv6Addr, Ipv6Addr),
    hop_limit: u8,
    traffic_class: u8,
) -> Vec<u8> {
    let addresses = (source.octets(), destination.octets());
    let outer = header(addresses, number, hop_limit, traffic_class, packet.len());
    [&outer.to_bytes()[..], packet].concat()
}

/// A frame with an IPv6 packet.
pub fn ethernet(from: Mac, to: Mac, packet: &[u8]) -> Vec<u8> {
    let header = Ethernet2Header { source: from, destination: to, ether_type: EtherType::IPV6 };
    [&header.to_bytes()[..], packet].concat()
}

/// An ICMPv6 error about an IP packet, of at most 1280 bytes.
pub fn icmpv6_error(
    link: (Mac, Mac),
    ends: (Ipv6Addr, Ipv6Addr),
    kind: Icmpv6Type,
    quoted: &[u8],
) -> Vec<u8> {
    icmpv6_error_with(link, ends, kind, quoted, 64)
}

/// The same with so many hops left.
pub fn icmpv6_error_with(
    (from, to): (Mac, Mac),
    (source, destination): (Ipv6Addr, Ipv6Addr),
    kind: Icmpv6Type,
    quoted: &[u8],
    hop_limit: u8,
) -> Vec<u8> {
    let quoted = &quoted[..quoted.len().min(1280 - 48)];
    let addresses = (source.octets(), destination.octets());
    let message =
        Icmpv6Header::with_checksum(kind, addresses.0, addresses.1, quoted).expect("a short message");
    let bytes = [&message.to_bytes()[..], quoted].concat();
    let ip = header(addresses, 58, hop_limit, 0, bytes.len());
    ethernet(from, to, &[&ip.to_bytes()[..], &bytes].concat())
}
