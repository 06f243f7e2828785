//! Packets that leave in pieces.

use super::Worker;
use crate::forward::{self, Refused, Rewrite, Split};
use crate::neigh::HopId;
use crate::packet::Packet;
use crate::port::Port;
use crate::stats::DropReason;

impl<P: Port> Worker<P> {
    /// Fragments a packet and sends the pieces.
    pub(super) fn send_pieces(
        &mut self,
        frame: P::Frame,
        packet: &Packet,
        rewrite: &Rewrite,
        hop_id: HopId,
        room: u16,
    ) {
        let mtu = self.view.hops.hop(hop_id).map_or(0, |hop| hop.mtu);
        let mut split = match Split::new(packet, room) {
            Ok(split) => split,
            Err(reason) => return self.discard(frame, reason),
        };
        let mut pieces = 0;
        loop {
            let Some(mut piece) = self.port.allocate() else {
                self.counters.fragmented.add(pieces);
                return self.discard(frame, DropReason::NoFrame);
            };
            let cut = match split.next(&frame, &mut piece) {
                Ok(Some(cut)) => cut,
                Ok(None) => {
                    self.port.release(piece);
                    break;
                }
                Err(reason) => {
                    self.port.release(piece);
                    self.counters.fragmented.add(pieces);
                    return self.discard(frame, reason);
                }
            };
            pieces += 1;
            let id = if matches!(rewrite, Rewrite::Encapsulate { .. }) { self.flows.next_id() } else { 0 };
            let rewritten = match forward::apply(rewrite, &cut, &mut piece, mtu, id) {
                Ok(rewritten) => self.address(&mut piece, rewritten, hop_id),
                Err(Refused::Drop(reason)) => Err(reason),
                Err(Refused::TtlExceeded) => Err(DropReason::TtlExceeded),
                Err(Refused::TooBig(_) | Refused::Split(_)) => Err(DropReason::TooBig),
            };
            match rewritten {
                Ok(out) => self.send(out, piece),
                Err(reason) => self.discard(piece, reason),
            }
        }
        // The frame itself stands for one of them.
        self.counters.fragmented.add(pieces - 1);
        self.port.release(frame);
    }
}
