//! Source hashing (`ip_vs_sh.c`): a client always gets the same server, by a
//! table of 256 buckets that the servers fill in turn, each as many as its
//! weight.
//!
//! A client whose server takes no connections gets none, unless
//! `sh-fallback` lets it have the next server that does. With `sh-port`, its
//! port is hashed as well.

use super::hash::{folded, multiplied};
use super::{Algorithm, Arrival, Member};
use crate::service::{Family, SchedulerFlags, ServiceTable, VirtualService};

const BITS: u32 = 8;
const BUCKETS: usize = 1 << BITS;

#[derive(Debug)]
pub(super) struct SourceHashing {
    /// Places of servers, if there are any
    buckets: [u32; BUCKETS],
    flags: SchedulerFlags,
    service_is_v4: bool,
}

impl Default for SourceHashing {
    fn default() -> Self {
        SourceHashing { buckets: [0; BUCKETS], flags: SchedulerFlags::default(), service_is_v4: true }
    }
}

impl Algorithm for SourceHashing {
    fn settled(&mut self, servers: &[Member], service: &VirtualService, _table: &ServiceTable) {
        self.flags = service.scheduler_flags;
        self.service_is_v4 = service.key.family() == Family::V4;
        // A server of weight 0 has a bucket, too.
        let shares = servers.iter().map(|server| server.weight.clamp(1, BUCKETS as u32) as usize);
        let places = shares.enumerate().flat_map(|(place, share)| std::iter::repeat_n(place as u32, share));
        self.buckets.iter_mut().zip(places.cycle()).for_each(|(bucket, place)| *bucket = place);
    }

    fn peek(&mut self, servers: &[Member], arrival: &Arrival) -> Option<usize> {
        let port = if self.flags.port() { u32::from(arrival.source_port) } else { 0 };
        let client = folded(arrival.source, self.service_is_v4).wrapping_add(port);
        let hash = multiplied(client, BITS);
        let taking = |bucket: usize| {
            let place = self.buckets[bucket % BUCKETS] as usize;
            servers.get(place)?.takes().then_some(place)
        };
        let hashed = taking(hash);
        if hashed.is_some() || !self.flags.fallback() {
            return hashed;
        }
        // IPVS adds the hash once more to where it begins.
        (0..BUCKETS).find_map(|offset| taking(2 * hash + offset))
    }
}
