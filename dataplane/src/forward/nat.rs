//! NAT: the destination becomes the real server's and, on the way back, the
//! source becomes the VIP. FULLNAT rewrites in the same way with other tuples.

use zerocopy::FromBytes;

use super::{Plan, Refused, Rewrite, Rewritten};
use crate::conn::{Entry, Side, Tuple};
use crate::packet::Packet;
use crate::port::Frame;
use crate::service::Protocol;
use crate::stats::DropReason;
use crate::wire::checksum::Delta;
use crate::wire::{Address, ipv4, ipv6, sctp, tcp, udp};

/// The server answers the client's address and port.
pub(super) fn plan(client: Tuple, server: (Address, u16)) -> Plan {
    replacing(client, (client.source, client.source_port), server)
}

/// What rewriting adds to the sums of the IP header and of the transport header of
/// a client's packet that reaches `server` from `source`, all of IPv4.
#[inline]
pub(super) fn deltas_v4(client: &Tuple, source: (u32, u16), server: (u32, u16)) -> [Delta; 2] {
    let before = [client.source, client.destination].map(|address| address.words().1 as u32);
    let addresses = Delta::of_v4(before, [source.0, server.0]);
    let ports = Delta::new(client.source_port, source.1).and(Delta::new(client.destination_port, server.1));
    [addresses, addresses.and(ports)]
}

/// The plan for packets of the client that reach `server` from `source`.
pub(super) fn replacing(client: Tuple, source: (Address, u16), server: (Address, u16)) -> Plan {
    let (ip_delta, transport_delta) = deltas(
        [(client.source, client.source_port), (client.destination, client.destination_port)],
        [source, server],
    );
    Plan {
        server: Tuple {
            source: server.0,
            destination: source.0,
            source_port: server.1,
            destination_port: source.1,
            protocol: client.protocol,
        },
        ip_delta,
        transport_delta,
    }
}

/// The transport checksum covers the addresses too, by its pseudo header. What
/// makes an IPv4 address IPv4-mapped adds up to nothing, so that one sum does
/// for both families.
fn deltas(before: [(Address, u16); 2], after: [(Address, u16); 2]) -> (Delta, Delta) {
    let (mut addresses, mut ports) = (Delta::default(), Delta::default());
    for ((old, old_port), (new, new_port)) in before.into_iter().zip(after) {
        addresses = addresses.and(Delta::of_bytes(&old.bytes(), &new.bytes()));
        ports = ports.and(Delta::new(old_port, new_port));
    }
    (addresses, addresses.and(ports))
}

/// The addresses of a rewritten packet are those of the other side's packets
/// turned round.
#[inline]
pub(super) fn rewrite(entry: &Entry, side: Side) -> Rewrite {
    let (other, ip_delta, transport_delta) = match side {
        Side::Client => (&entry.server, entry.ip_delta, entry.transport_delta),
        Side::Server => (&entry.client, entry.ip_delta.reversed(), entry.transport_delta.reversed()),
    };
    Rewrite::Replace {
        source: (other.destination, other.destination_port),
        destination: (other.source, other.source_port),
        ip_delta,
        transport_delta,
    }
}

#[inline]
pub(super) fn apply<F: Frame>(
    packet: &Packet,
    frame: &mut F,
    source: (Address, u16),
    destination: (Address, u16),
    ip_delta: Delta,
    transport_delta: Delta,
) -> Result<Rewritten, Refused> {
    let truncated = Refused::Drop(DropReason::Truncated);
    let bytes = frame.bytes_mut();
    let (network, transport) = bytes.split_at_mut(packet.transport as usize);

    let offset = packet.network as usize;
    if packet.is_v4 {
        let (ip, _) = ipv4::Header::mut_from_prefix(&mut network[offset..]).map_err(|_| truncated)?;
        ip.source = source.0.v4_bytes();
        ip.destination = destination.0.v4_bytes();
        ip.checksum = ip_delta.apply(ip.checksum.get()).into();
        ip.decrement_ttl();
    } else {
        let (ip, _) = ipv6::Header::mut_from_prefix(&mut network[offset..]).map_err(|_| truncated)?;
        ip.source = source.0.bytes();
        ip.destination = destination.0.bytes();
        ip.hop_limit -= 1;
    }
    if packet.later {
        return Ok(Rewritten::new(offset, packet.length as usize));
    }
    if packet.partial && packet.tuple.protocol == Protocol::Sctp {
        let ports = (packet.tuple.source_port, packet.tuple.destination_port);
        // Its checksum depends on what is in the other fragments.
        if ports != (source.1, destination.1) {
            return Err(Refused::Drop(DropReason::SctpFragment));
        }
    }
    let end = packet.transport_length();
    let transport = transport.get_mut(..end).ok_or(truncated)?;
    rewrite_transport(transport, packet.tuple.protocol, source, destination, transport_delta)?;
    Ok(Rewritten::new(offset, packet.length as usize))
}

/// Gives a whole segment or datagram other ports, and the checksum that goes
/// with them and with the new addresses.
#[inline]
pub(super) fn rewrite_transport(
    transport: &mut [u8],
    protocol: Protocol,
    source: (Address, u16),
    destination: (Address, u16),
    delta: Delta,
) -> Result<(), Refused> {
    let truncated = Refused::Drop(DropReason::Truncated);

    match protocol {
        Protocol::Tcp => {
            let (tcp, _) = tcp::Header::mut_from_prefix(transport).map_err(|_| truncated)?;
            tcp.source = source.1.into();
            tcp.destination = destination.1.into();
            tcp.checksum = delta.apply(tcp.checksum.get()).into();
        }
        Protocol::Udp => {
            let (udp, _) = udp::Header::mut_from_prefix(transport).map_err(|_| truncated)?;
            udp.source = source.1.into();
            udp.destination = destination.1.into();
            udp.checksum = delta.apply_udp(udp.checksum.get()).into();
            // IPv6 has no datagrams without a checksum (RFC 8200, section
            // 8.1). As IPVS (udp_dnat_handler), which makes one here.
            if udp.checksum.get() == 0 && !destination.0.is_v4() {
                let length = udp.length.get();
                let datagram = transport.get_mut(..usize::from(length)).ok_or(truncated)?;
                udp::fill_checksum_v6(datagram, &source.0.bytes(), &destination.0.bytes());
            }
        }
        Protocol::Sctp => sctp::replace_ports(transport, source.1, destination.1).ok_or(truncated)?,
    }
    Ok(())
}
