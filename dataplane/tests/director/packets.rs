//! Packets as a test describes them, made into bytes by `etherparse`: a second
//! opinion on every header and every checksum.

use std::net::SocketAddrV4;

use etherparse::{
    EtherType, Ethernet2Header, Icmpv4Header, Icmpv4Type, IpDscp, IpEcn, IpNumber, Ipv4Header,
    SingleVlanHeader, TcpHeader, UdpHeader, VlanId,
};
use sluice_dataplane::service::Protocol;

use super::Mac;

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

/// How the checksum of a UDP datagram is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UdpChecksum {
    Right,
    None,
}

/// A TCP, UDP or SCTP packet over IPv4 in an Ethernet frame.
#[derive(Clone, Debug)]
pub struct Datagram {
    pub from_mac: Mac,
    pub to_mac: Mac,
    pub vlans: Vec<u16>,
    pub source: SocketAddrV4,
    pub destination: SocketAddrV4,
    pub protocol: Protocol,
    pub flags: u8,
    pub ttl: u8,
    pub tos: u8,
    pub dont_fragment: bool,
    pub id: u16,
    pub ip_options: Vec<u8>,
    pub tcp_options: Vec<u8>,
    pub udp_checksum: UdpChecksum,
    pub payload: Vec<u8>,
    pub padding: Vec<u8>,
}

pub fn address(text: &str) -> SocketAddrV4 {
    text.parse().unwrap_or_else(|_| panic!("{text} is not ADDRESS:PORT"))
}

/// A TCP segment with these flags.
pub fn tcp(source: &str, destination: &str, flags: u8) -> Datagram {
    Datagram::new(Protocol::Tcp, source, destination, flags, b"GET / HTTP/1.0\r\n\r\n")
}

/// A UDP datagram.
pub fn udp(source: &str, destination: &str) -> Datagram {
    Datagram::new(Protocol::Udp, source, destination, 0, b"what is the address of www?")
}

/// An SCTP packet with the headers of these chunks.
pub fn sctp(source: &str, destination: &str, chunks: &[u8]) -> Datagram {
    let chunks: Vec<u8> = chunks.iter().flat_map(|kind| [*kind, 0, 0, 4]).collect();
    Datagram::new(Protocol::Sctp, source, destination, 0, &chunks)
}

const SCTP_HEADER: usize = 12;

/// An SCTP packet, whose checksum is made bit by bit (RFC 9260, appendix A).
pub fn sctp_packet(from: u16, to: u16, chunks: &[u8]) -> Vec<u8> {
    let mut packet = [&from.to_be_bytes()[..], &to.to_be_bytes(), &[0, 0, 0, 7, 0, 0, 0, 0], chunks].concat();
    let crc = packet.iter().fold(u32::MAX, |crc, byte| {
        let shifted = |crc: u32, _| if crc & 1 == 0 { crc >> 1 } else { crc >> 1 ^ 0x82f6_3b78 };
        (0..8).fold(crc ^ u32::from(*byte), shifted)
    });
    packet[8..SCTP_HEADER].copy_from_slice(&(!crc).to_le_bytes());
    packet
}

impl Datagram {
    fn new(protocol: Protocol, source: &str, destination: &str, flags: u8, payload: &[u8]) -> Self {
        Datagram {
            from_mac: super::CLIENT_ROUTER,
            to_mac: super::OUTSIDE,
            vlans: Vec::new(),
            source: address(source),
            destination: address(destination),
            protocol,
            flags,
            ttl: 64,
            tos: 0,
            dont_fragment: true,
            id: 0x1234,
            ip_options: Vec::new(),
            tcp_options: Vec::new(),
            udp_checksum: UdpChecksum::Right,
            payload: payload.to_vec(),
            padding: Vec::new(),
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
        self.ttl -= 1;
        self
    }

    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    pub fn tos(mut self, tos: u8) -> Self {
        self.tos = tos;
        self
    }

    pub fn vlans(mut self, ids: &[u16]) -> Self {
        self.vlans = ids.to_vec();
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

    pub fn may_be_fragmented(mut self) -> Self {
        self.dont_fragment = false;
        self
    }

    pub fn padding(mut self, bytes: &[u8]) -> Self {
        self.padding = bytes.to_vec();
        self
    }

    /// The IP packet.
    pub fn ip_packet(&self) -> Vec<u8> {
        let number = IpNumber(self.protocol.number());
        let mut ip =
            Ipv4Header::new(0, self.ttl, number, self.source.ip().octets(), self.destination.ip().octets())
                .expect("an empty payload");
        set_tos(&mut ip, self.tos);
        ip.dont_fragment = self.dont_fragment;
        ip.identification = self.id;
        ip.options = self.ip_options.as_slice().try_into().expect("whole words of options");
        let mut segment = Vec::new();
        match self.protocol {
            Protocol::Tcp => {
                let mut tcp = TcpHeader::new(self.source.port(), self.destination.port(), 0x0102_0304, 29200);
                tcp.acknowledgment_number = 0x0506_0708;
                tcp.set_options_raw(&self.tcp_options).expect("whole words of options");
                tcp.fin = self.flags & FIN != 0;
                tcp.syn = self.flags & SYN != 0;
                tcp.rst = self.flags & RST != 0;
                tcp.ack = self.flags & ACK != 0;
                ip.set_payload_len(tcp.header_len() + self.payload.len()).expect("a packet that fits");
                tcp.checksum = tcp.calc_checksum_ipv4(&ip, &self.payload).expect("a short payload");
                tcp.write(&mut segment).expect("memory");
            }
            Protocol::Udp => {
                let (from, to) = (self.source.port(), self.destination.port());
                ip.set_payload_len(UdpHeader::LEN + self.payload.len()).expect("a packet that fits");
                let udp = match self.udp_checksum {
                    UdpChecksum::Right => UdpHeader::with_ipv4_checksum(from, to, &ip, &self.payload),
                    UdpChecksum::None => UdpHeader::without_ipv4_checksum(from, to, self.payload.len()),
                };
                segment.extend(udp.expect("a short payload").to_bytes());
            }
            Protocol::Sctp => {
                ip.set_payload_len(SCTP_HEADER + self.payload.len()).expect("a packet that fits");
                return with_header(
                    ip,
                    &sctp_packet(self.source.port(), self.destination.port(), &self.payload),
                );
            }
        }
        segment.extend(&self.payload);
        with_header(ip, &segment)
    }

    /// The frame.
    pub fn bytes(&self) -> Vec<u8> {
        let mut frame = ethernet(self.from_mac, self.to_mac, &self.vlans, &self.ip_packet());
        frame.extend(&self.padding);
        frame
    }

    /// This packet within an outer header (RFC 2003).
    pub fn in_tunnel(&self, source: [u8; 4], destination: [u8; 4], tos: u8, id: u16) -> Vec<u8> {
        let mut outer =
            Ipv4Header::new(0, self.ttl, IpNumber::IPV4, source, destination).expect("an empty payload");
        set_tos(&mut outer, tos);
        outer.dont_fragment = self.dont_fragment;
        outer.identification = id;
        ethernet(self.from_mac, self.to_mac, &self.vlans, &with_header(outer, &self.ip_packet()))
    }
}

/// An ICMP error about an IP packet.
#[derive(Clone)]
pub struct IcmpError<'a> {
    pub from_mac: Mac,
    pub to_mac: Mac,
    pub source: [u8; 4],
    pub destination: [u8; 4],
    pub kind: Icmpv4Type,
    pub quoted: &'a [u8],
    pub id: u16,
}

impl IcmpError<'_> {
    /// The frame, of which the error's IP packet has at most 576 bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.bytes_with(64)
    }

    /// The frame with so many hops left.
    pub fn bytes_with(&self, ttl: u8) -> Vec<u8> {
        let quoted = &self.quoted[..self.quoted.len().min(576 - 28)];
        let mut message = Icmpv4Header::with_checksum(self.kind.clone(), quoted).to_bytes().to_vec();
        message.extend(quoted);
        let mut ip =
            Ipv4Header::new(0, ttl, IpNumber::ICMP, self.source, self.destination).expect("an empty payload");
        // Precedence "internetwork control".
        set_tos(&mut ip, 0xc0);
        ip.dont_fragment = false;
        ip.identification = self.id;
        ethernet(self.from_mac, self.to_mac, &[], &with_header(ip, &message))
    }
}

pub fn set_tos(ip: &mut Ipv4Header, tos: u8) {
    ip.dscp = IpDscp::try_new(tos >> 2).expect("six bits");
    ip.ecn = IpEcn::try_new(tos & 3).expect("two bits");
}

fn with_header(mut ip: Ipv4Header, payload: &[u8]) -> Vec<u8> {
    ip.set_payload_len(payload.len()).expect("a packet that fits");
    ip.header_checksum = ip.calc_header_checksum();
    let mut packet = ip.to_bytes().to_vec();
    packet.extend(payload);
    packet
}

/// A frame; of two tags the outer is a service tag.
pub fn ethernet(from: Mac, to: Mac, vlans: &[u16], packet: &[u8]) -> Vec<u8> {
    let tag_kind = |place: usize| match vlans.len() - place {
        0 => EtherType::IPV4,
        1 => EtherType::VLAN_TAGGED_FRAME,
        _ => EtherType::PROVIDER_BRIDGING,
    };
    let header = Ethernet2Header { source: from, destination: to, ether_type: tag_kind(0) };
    let mut frame = header.to_bytes().to_vec();
    for (place, id) in vlans.iter().enumerate() {
        let tag = SingleVlanHeader {
            vlan_id: VlanId::try_new(*id).expect("twelve bits"),
            ether_type: tag_kind(place + 1),
            ..SingleVlanHeader::default()
        };
        frame.extend(tag.to_bytes());
    }
    frame.extend(packet);
    frame
}
