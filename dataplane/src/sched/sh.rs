//! Source hashing (`ip_vs_sh.c`): a client always gets the same server, by a
//! table of 256 buckets that the servers fill in turn, each as many as its
//! weight.
//!
//! A client whose server takes no connections gets none, unless
//! `sh-fallback` lets it have the next server that does. With `sh-port`, its
//! port is hashed as well.

use super::hash::{folded, multiplied};
use super::{Algorithm, Arrival, Member, Roster, Servers};

const BITS: u32 = 8;
const BUCKETS: usize = 1 << BITS;

#[derive(Debug)]
pub(super) struct SourceHashing;

/// The places of the servers of all buckets, if there are any.
pub(super) fn buckets(members: &[Member]) -> Box<[u32]> {
    // A server of weight 0 has a bucket, too.
    let shares = members.iter().map(|server| server.weight.clamp(1, BUCKETS as u32) as usize);
    let places = shares.enumerate().flat_map(|(place, share)| std::iter::repeat_n(place as u32, share));
    places.cycle().take(BUCKETS).collect()
}

impl Algorithm for SourceHashing {
    fn peek(&mut self, servers: Servers, arrival: &Arrival) -> Option<usize> {
        let Roster { flags, ref buckets, .. } = *servers.roster;
        let port = if flags.port() { u32::from(arrival.source_port) } else { 0 };
        let client = folded(arrival.source, !servers.roster.is_v6()).wrapping_add(port);
        let hash = multiplied(client, BITS);
        let taking = |bucket: usize| {
            let place = *buckets.get(bucket % BUCKETS)? as usize;
            servers.get(place)?.takes().then_some(place)
        };
        let hashed = taking(hash);
        if hashed.is_some() || !flags.fallback() {
            return hashed;
        }
        // IPVS adds the hash once more to where it begins.
        (0..BUCKETS).find_map(|offset| taking(2 * hash + offset))
    }
}
