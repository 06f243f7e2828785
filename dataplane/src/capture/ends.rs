//! The addresses of any frame, whatever it carries.

use zerocopy::FromBytes;

use crate::conn::Tuple;
use crate::service::Protocol;
use crate::wire::{Address, ethernet, ipv4, ipv6, vlan};

/// Source and destination of an IP packet as its outermost header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ends {
    /// Address, and port in host order; 0 where there is none
    pub(crate) source: (Address, u16),
    /// The same
    pub(crate) destination: (Address, u16),
    /// What it carries, by its IP protocol number
    pub(crate) protocol: u8,
}

impl Ends {
    /// The ends of a frame's packet, if it is one of IP.
    pub(crate) fn of(frame: &[u8]) -> Option<Self> {
        let (header, _) = ethernet::Header::ref_from_prefix(frame).ok()?;
        let (mut kind, mut at) = (header.kind.get(), ethernet::LEN);
        for _ in 0..2 {
            if vlan::is_tag(kind) {
                kind = vlan::Tag::ref_from_prefix(frame.get(at..)?).ok()?.0.kind.get();
                at += vlan::LEN;
            }
        }
        let packet = frame.get(at..)?;
        match kind {
            ethernet::IPV4 => {
                let (ip, _) = ipv4::Header::ref_from_prefix(packet).ok()?;
                let later = ip.flags_offset.get() & ipv4::OFFSET != 0;
                let ports = if later { None } else { packet.get(ip.header_len()..) };
                let addresses = [Address::from_v4(ip.source), Address::from_v4(ip.destination)];
                Some(Ends::new(addresses, ip.protocol, ports))
            }
            ethernet::IPV6 => {
                let (ip, rest) = ipv6::Header::ref_from_prefix(packet).ok()?;
                let addresses = [Address::from_v6(ip.source), Address::from_v6(ip.destination)];
                Some(Ends::new(addresses, ip.next_header, Some(rest)))
            }
            _ => None,
        }
    }

    fn new([source, destination]: [Address; 2], protocol: u8, transport: Option<&[u8]>) -> Self {
        let has_ports = Protocol::from_number(protocol).is_some();
        let ports = transport.filter(|_| has_ports).and_then(|bytes| bytes.first_chunk::<4>());
        let [a, b, c, d] = ports.copied().unwrap_or_default();
        let [from, to] = [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])];
        Ends { source: (source, from), destination: (destination, to), protocol }
    }

    /// The tuple of a packet that has ports.
    pub(crate) fn tuple(&self) -> Option<Tuple> {
        let ((source, source_port), (destination, destination_port)) = (self.source, self.destination);
        let protocol = Protocol::from_number(self.protocol)?;
        Some(Tuple { source, destination, source_port, destination_port, protocol })
    }
}

impl From<Tuple> for Ends {
    fn from(tuple: Tuple) -> Self {
        let Tuple { source, destination, source_port, destination_port, protocol } = tuple;
        let (source, destination) = ((source, source_port), (destination, destination_port));
        Ends { source, destination, protocol: protocol.number() }
    }
}
