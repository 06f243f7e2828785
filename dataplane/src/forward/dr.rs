//! Direct routing: the packet goes to the real server's MAC with the VIP still
//! its destination; the server holds the VIP and answers the client itself.

use zerocopy::FromBytes;

use super::{Plan, Refused, Rewritten};
use crate::conn::Tuple;
use crate::packet::Packet;
use crate::port::Frame;
use crate::stats::DropReason;
use crate::wire::checksum::Delta;
use crate::wire::{Address, ipv4, ipv6};

/// Replies do not come by, so the server's tuple only names the server.
pub(super) fn plan(client: Tuple, server: (Address, u16)) -> Plan {
    let server = Tuple { source: server.0, source_port: server.1, ..client.reversed() };
    Plan { server, ip_delta: Delta::default(), transport_delta: Delta::default() }
}

/// Takes a hop off; the packet is the same otherwise.
#[inline]
pub(super) fn apply<F: Frame>(packet: &Packet, frame: &mut F) -> Result<Rewritten, Refused> {
    let offset = packet.network as usize;
    let truncated = Refused::Drop(DropReason::Truncated);
    let bytes = &mut frame.bytes_mut()[offset..];
    if packet.is_v4 {
        let (ip, _) = ipv4::Header::mut_from_prefix(bytes).map_err(|_| truncated)?;
        ip.decrement_ttl();
    } else {
        let (ip, _) = ipv6::Header::mut_from_prefix(bytes).map_err(|_| truncated)?;
        ip.hop_limit -= 1;
    }
    Ok(Rewritten::new(offset, packet.length as usize))
}
