//! Tunnelling: the packet is put into another one to the real server, which
//! unwraps it, holds the VIP and answers the client itself (IP in IP,
//! RFC 2003; IPv6 in either, RFC 2473 and RFC 4213; GUE; GRE, RFC 2784).

use zerocopy::{FromBytes, IntoBytes};

use super::{Plan, Refused, Rewrite, Rewritten, dr};
use crate::conn::{Seed, Tuple};
use crate::packet::Packet;
use crate::port::Frame;
use crate::service::Encapsulation;
use crate::stats::DropReason;
use crate::wire::{Address, ethernet, gre, gue, ipv4, ipv6, udp};

/// Congestion experienced, in the two ECN bits (RFC 3168).
const CE: u8 = 0b11;
/// ECN-capable, in the two ECN bits.
const ECT_0: u8 = 0b10;

/// Ports that GUE is sent from: those of the kernel's default
/// `ip_local_port_range`, without the last (`udp_flow_src_port`).
const SOURCE_PORTS: std::ops::Range<u16> = 32_768..60_999;

/// What stands between the two IP headers.
#[derive(Clone, Copy)]
pub(super) struct Between {
    pub(super) encapsulation: Encapsulation,
    pub(super) source_port: u16,
}

impl Between {
    #[inline]
    fn len(encapsulation: Encapsulation) -> usize {
        match encapsulation {
            Encapsulation::Ipip => 0,
            Encapsulation::Gue { .. } => udp::LEN + gue::LEN,
            Encapsulation::Gre { checksum: false } => gre::LEN,
            Encapsulation::Gre { checksum: true } => gre::LEN + gre::CHECKSUM_LEN,
        }
    }

    /// Fills the headers in that `packet`, the payload of the outer IP packet,
    /// begins with. Returns its protocol number.
    fn fill(&self, packet: &mut [u8], inner: u8, addresses: (Address, Address)) -> u8 {
        let length = packet.len() as u16;
        match self.encapsulation {
            Encapsulation::Ipip => inner,
            Encapsulation::Gue { port, checksum } => {
                let header = udp::Header {
                    source: self.source_port.into(),
                    destination: port.into(),
                    length: length.into(),
                    checksum: 0.into(),
                };
                let gue = gue::Header { variant_length: 0, protocol: inner, flags: 0.into() };
                packet[..udp::LEN].copy_from_slice(header.as_bytes());
                packet[udp::LEN..udp::LEN + gue::LEN].copy_from_slice(gue.as_bytes());
                if checksum {
                    let (source, destination) = addresses;
                    match (source.v4(), destination.v4()) {
                        (Some(source), Some(destination)) => {
                            udp::fill_checksum_v4(packet, source, destination);
                        }
                        _ => udp::fill_checksum_v6(packet, &source.bytes(), &destination.bytes()),
                    }
                }
                udp::PROTOCOL
            }
            Encapsulation::Gre { checksum } => {
                let kind = if inner == ipv4::IPIP { ethernet::IPV4 } else { ethernet::IPV6 };
                let flags = if checksum { gre::CHECKSUM } else { 0 };
                let header = gre::Header { flags: flags.into(), kind: kind.into() };
                packet[..gre::LEN].copy_from_slice(header.as_bytes());
                if checksum {
                    gre::fill_checksum(packet);
                }
                gre::PROTOCOL
            }
        }
    }
}

/// Bytes that a packet grows by on its way to a server.
#[inline]
pub(super) fn overhead(encapsulation: Encapsulation, server: Address) -> u16 {
    (outer_length(server) + Between::len(encapsulation)) as u16
}

#[inline]
fn outer_length(server: Address) -> usize {
    if server.is_v4() { ipv4::LEN } else { ipv6::LEN }
}

pub(super) fn plan(client: Tuple, server: (Address, u16)) -> Plan {
    dr::plan(client, server)
}

#[inline]
pub(super) fn rewrite(
    client: &Tuple,
    server: Address,
    outer_source: Address,
    encapsulation: Encapsulation,
    copy_dont_fragment: bool,
) -> Rewrite {
    let source_port = match encapsulation {
        Encapsulation::Gue { .. } => source_port(client),
        Encapsulation::Ipip | Encapsulation::Gre { .. } => 0,
    };
    Rewrite::Encapsulate {
        encapsulation,
        source: outer_source,
        destination: server,
        source_port,
        copy_dont_fragment,
    }
}

/// A port for each connection, so that what spreads packets over queues and
/// links by their ports spreads connections (`udp_flow_src_port`).
#[inline]
fn source_port(client: &Tuple) -> u16 {
    // Not the worker's seed: packets of a connection look the same from any.
    let hash = client.hash(Seed::new([0; 16])) >> 32;
    let ports = u64::from(SOURCE_PORTS.end - SOURCE_PORTS.start);
    SOURCE_PORTS.start + ((hash * ports) >> 32) as u16
}

/// What an outer header has that does not come from the packet in it.
#[derive(Clone, Copy)]
pub(super) struct Outer {
    pub(super) source: Address,
    pub(super) destination: Address,
    pub(super) id: u16,
    pub(super) copy_dont_fragment: bool,
}

/// What an outer header takes over from the packet in it.
struct Inner {
    tos: u8,
    ttl: u8,
    dont_fragment: u16,
    protocol: u8,
}

impl Inner {
    fn of(packet: &[u8], is_v4: bool) -> Option<Self> {
        if is_v4 {
            let (ip, _) = ipv4::Header::ref_from_prefix(packet).ok()?;
            let dont_fragment = ip.flags_offset.get() & ipv4::DONT_FRAGMENT;
            Some(Inner { tos: ip.tos, ttl: ip.ttl, dont_fragment, protocol: ipv4::IPIP })
        } else {
            let (ip, _) = ipv6::Header::ref_from_prefix(packet).ok()?;
            let (tos, ttl) = (ip.traffic_class(), ip.hop_limit);
            Some(Inner { tos, ttl, dont_fragment: 0, protocol: ipv6::IPV6 })
        }
    }
}

/// Moves the packet back and puts the outer header before it.
///
/// As in the kernel's `ip_vs_tunnel_xmit` and `ip_vs_tunnel_xmit_v6`: the outer
/// TTL is the inner one after it was decremented, the outer TOS is the inner
/// one but that "congestion experienced" becomes "ECN-capable" (RFC 6040,
/// section 4.1), "do not fragment" is copied from IPv4, where it is to be, and
/// not set for IPv6,
/// and the flow label is 0.
#[inline]
pub(super) fn apply<F: Frame>(
    packet: &Packet,
    frame: &mut F,
    outer: Outer,
    between: Between,
) -> Result<Rewritten, Refused> {
    let Outer { source, destination, id, copy_dont_fragment } = outer;
    let (offset, length) = (packet.network as usize, packet.length as usize);
    let header = outer_length(destination);
    let start = header + Between::len(between.encapsulation);
    let total = start + length;
    if offset + total > frame.capacity() {
        return Err(Refused::Drop(DropReason::TooBig));
    }
    dr::apply(packet, frame)?;
    frame.set_len(offset + total);
    let bytes = &mut frame.bytes_mut()[offset..];
    bytes.copy_within(..length, start);
    let inner = Inner::of(&bytes[start..], packet.is_v4).ok_or(Refused::Drop(DropReason::Truncated))?;
    let (outer, payload) = bytes.split_at_mut(header);
    let protocol = between.fill(&mut payload[..total - header], inner.protocol, (source, destination));
    let tos = if inner.tos & CE == CE { inner.tos & !CE | ECT_0 } else { inner.tos };
    if destination.is_v4() {
        let mut ip = ipv4::Header {
            version_ihl: 0x45,
            tos,
            total_length: (total as u16).into(),
            id: id.into(),
            flags_offset: if copy_dont_fragment { inner.dont_fragment } else { 0 }.into(),
            ttl: inner.ttl,
            protocol,
            checksum: 0.into(),
            source: source.v4_bytes(),
            destination: destination.v4_bytes(),
        };
        ip.fill_checksum();
        outer.copy_from_slice(ip.as_bytes());
    } else {
        let (source, destination) = (source.bytes(), destination.bytes());
        let ip = ipv6::Header::new(tos, (total - header) as u16, protocol, inner.ttl, source, destination);
        outer.copy_from_slice(ip.as_bytes());
    }
    Ok(Rewritten::new(offset, total))
}
