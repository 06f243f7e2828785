//! Errors about a connection's packets, forwarded as its packets are.
//!
//! IPVS: `ip_vs_nat_icmp` and `ip_vs_in_icmp` in ip_vs_core.c,
//! `ip_vs_icmp_xmit` in ip_vs_xmit.c.

use zerocopy::FromBytes;

use super::translate_error::{self, Ends, said_in_v4, said_in_v6};
use super::{Refused, Rewrite, Rewritten};
use crate::conn::{Entry, Side};
use crate::packet::Related;
use crate::port::Frame;
use crate::service::{Method, Protocol};
use crate::stats::DropReason;
use crate::wire::checksum::Delta;
use crate::wire::{Address, icmp, icmpv6, ipv4, ipv6, tcp, udp};

/// Applies to an error the rewrite of the packets that come from the same side
/// of its connection. Where addresses are replaced they are so in the quoted
/// packet too, turned round, since that went the other way: its receiver is
/// to see the packet that it sent. Between address families the error becomes
/// one of the other.
///
/// A refused error is as it was. It is not answered by another one (RFC 1122,
/// section 3.2.2).
pub fn apply<F: Frame>(
    rewrite: &Rewrite,
    related: &Related,
    source: Option<Address>,
    frame: &mut F,
    mtu: u16,
    id: u16,
) -> Result<Rewritten, Refused> {
    let Rewrite::Replace { source: from, destination: to, ip_delta, transport_delta } = *rewrite else {
        return super::apply(rewrite, &related.packet, frame, mtu, id);
    };
    let Related { packet, quoted, .. } = related;
    if packet.ttl <= 1 {
        return Err(Refused::TtlExceeded);
    }
    if packet.is_v4 != to.0.is_v4() {
        // Of the other family, whoever sent it has no address.
        let error_source = source.unwrap_or(from.0);
        let ends = Ends { error_source, source: from, destination: to, transport_delta };
        return translate_error::apply(related, &ends, frame, mtu, id);
    }
    if packet.length > mtu {
        return Err(Refused::TooBig(mtu));
    }
    let (offset, end) = (packet.network as usize, packet.network as usize + packet.length as usize);
    let truncated = Refused::Drop(DropReason::Truncated);
    let bytes = frame.bytes_mut().get_mut(..end).ok_or(truncated)?;
    let network = quoted.network as usize;

    if packet.is_v4 {
        let (ip, _) = ipv4::Header::mut_from_prefix(&mut bytes[offset..]).map_err(|_| truncated)?;
        let source = source.map_or(ip.source, Address::v4_bytes);
        let destination = to.0.v4_bytes();
        let delta = Delta::of_bytes(&ip.source, &source).and(Delta::of_bytes(&ip.destination, &destination));
        (ip.source, ip.destination) = (source, destination);
        ip.checksum = delta.apply(ip.checksum.get()).into();
        ip.decrement_ttl();

        let (ip, _) = ipv4::Header::mut_from_prefix(&mut bytes[network..]).map_err(|_| truncated)?;
        ip.source = to.0.v4_bytes();
        ip.destination = from.0.v4_bytes();
        ip.checksum = ip_delta.apply(ip.checksum.get()).into();
    } else {
        let (ip, _) = ipv6::Header::mut_from_prefix(&mut bytes[offset..]).map_err(|_| truncated)?;
        ip.source = source.map_or(ip.source, Address::bytes);
        ip.destination = to.0.bytes();
        ip.hop_limit -= 1;

        let (ip, _) = ipv6::Header::mut_from_prefix(&mut bytes[network..]).map_err(|_| truncated)?;
        (ip.source, ip.destination) = (to.0.bytes(), from.0.bytes());
    }

    let transport = &mut bytes[quoted.transport as usize..];
    let (ports, _) = transport.split_first_chunk_mut::<4>().ok_or(truncated)?;
    ports[..2].copy_from_slice(&to.1.to_be_bytes());
    ports[2..].copy_from_slice(&from.1.to_be_bytes());
    update_checksum(quoted.tuple.protocol, transport, transport_delta);

    if packet.is_v4 {
        icmp::fill_checksum(&mut bytes[packet.transport as usize..]);
    } else {
        let (network, message) = bytes.split_at_mut(packet.transport as usize);
        let (ip, _) = ipv6::Header::ref_from_prefix(&network[offset..]).map_err(|_| truncated)?;
        icmpv6::fill_checksum(message, &ip.source, &ip.destination);
    }
    Ok(Rewritten::new(offset, packet.length as usize))
}

/// Corrects the checksum of a quoted TCP or UDP header where it was quoted.
pub(super) fn update_checksum(protocol: Protocol, transport: &mut [u8], delta: Delta) {
    match protocol {
        Protocol::Tcp => {
            const AT: usize = std::mem::offset_of!(tcp::Header, checksum);
            if let Some([high, low]) = transport.get_mut(AT..AT + 2) {
                [*high, *low] = delta.apply(u16::from_be_bytes([*high, *low])).to_be_bytes();
            }
        }
        Protocol::Udp => {
            if let Ok((udp, _)) = udp::Header::mut_from_prefix(transport) {
                udp.checksum = delta.apply_udp(udp.checksum.get()).into();
            }
        }
        // It depends on all of the packet, of which the end is not quoted.
        Protocol::Sctp => {}
    }
}

/// The address that an error from `side` of a connection is sent from; `None`
/// is that of whoever sent it.
///
/// As `ip_vs_nat_icmp`: what comes from the servers' network comes from the
/// VIP, whichever router it was; what comes from the clients' tells where on
/// the way it happened. Behind FULLNAT all that servers get is from a LIP
/// (DPVS), which routers with reverse path filters rely on.
pub fn source(entry: &Entry, side: Side) -> Option<Address> {
    match (entry.method, side) {
        (Method::Nat | Method::FullNat, Side::Server) => Some(entry.client.destination),
        (Method::FullNat, Side::Client) => Some(entry.server.destination),
        (Method::Nat | Method::DirectRoute | Method::Tunnel, _) => None,
    }
}

/// What a client is told of an error about the tunnel that its packet went
/// through; `None` where it needs none.
///
/// A tunnel that is too narrow is one to a client that looks for the path's
/// MTU; the packets of others are fragmented on the way, but for those in IPv6.
/// Errors between families
/// are translated, as those about connections. What is wrong with a header of
/// IPv6, or with one of the other family, is nothing that the client could mend:
/// to it the server cannot be reached (RFC 2473, section 8.3).
pub fn in_tunnel(related: &Related) -> Option<super::icmp::Error> {
    let Related { kind, code, info, quoted, .. } = *related;
    let overhead = related.tunnel.map_or(0, |tunnel| tunnel.overhead);
    let (of_v4, to_v4) = (related.packet.is_v4, quoted.tuple.source.is_v4());
    let [_, _, high, low] = info;
    let mtu = match (of_v4, kind, code) {
        (true, icmp::UNREACHABLE, icmp::CODE_FRAGMENTATION_NEEDED) => Some(u16::from_be_bytes([high, low])),
        // No packet that the director sends is larger.
        (false, icmpv6::PACKET_TOO_BIG, _) => {
            Some(u16::try_from(u32::from_be_bytes(info)).unwrap_or(u16::MAX))
        }
        _ => None,
    };
    if let Some(mtu) = mtu {
        let mtu = match to_v4 {
            true if mtu > LEAST_MTU + overhead => mtu - overhead,
            true => mtu,
            false => mtu.saturating_sub(overhead).max(ipv6::MIN_MTU),
        };
        return (quoted.dont_fragment || !of_v4).then_some(super::icmp::Error::FragmentationNeeded(mtu));
    }
    let said = (kind, code, info);
    let said = match (of_v4, to_v4) {
        (true, true) => Some(said),
        (true, false) => said_in_v6(said, 0).filter(|(kind, ..)| *kind != icmpv6::PARAMETER_PROBLEM),
        (false, true) if kind != icmpv6::PARAMETER_PROBLEM => said_in_v4(said, 0),
        (false, false) if kind != icmpv6::PARAMETER_PROBLEM => Some(said),
        _ => None,
    };
    let (kind, code, info) = said.unwrap_or(match to_v4 {
        true => (icmp::UNREACHABLE, icmp::CODE_HOST, [0; 4]),
        false => (icmpv6::UNREACHABLE, icmpv6::CODE_ADDRESS, [0; 4]),
    });
    Some(super::icmp::Error::InTunnel { kind, code, info })
}

/// Every link carries packets of this size (RFC 791).
pub(super) const LEAST_MTU: u16 = 68;
