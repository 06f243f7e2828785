//! Direct routing: the packet goes to the real server's MAC with the VIP still
//! its destination; the server holds the VIP and answers the client itself.

use zerocopy::FromBytes;

use super::{Plan, Refused, Rewritten};
use crate::conn::Tuple;
use crate::packet::Packet;
use crate::port::Frame;
use crate::stats::DropReason;
use crate::wire::checksum::Delta;
use crate::wire::{Address, ipv4};

/// Replies do not come by, so the server's tuple only names the server.
pub(super) fn plan(client: Tuple, server: (Address, u16)) -> Plan {
    let server = Tuple { source: server.0, source_port: server.1, ..client.reversed() };
    Plan { server, ip_delta: Delta::default(), transport_delta: Delta::default() }
}

/// Takes a hop off; the packet is the same otherwise.
#[inline]
pub(super) fn apply<F: Frame>(packet: &Packet, frame: &mut F) -> Result<Rewritten, Refused> {
    let offset = packet.network as usize;
    let (ip, _) = ipv4::Header::mut_from_prefix(&mut frame.bytes_mut()[offset..])
        .map_err(|_| Refused::Drop(DropReason::Truncated))?;
    ip.decrement_ttl();
    Ok(Rewritten { offset, length: packet.length as usize })
}
