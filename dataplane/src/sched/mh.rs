//! Maglev hashing (`ip_vs_mh.c`): a client always gets the same server, and
//! keeps it as far as possible when other servers come and go, by a table that
//! every server fills in an order of its own.
//!
//! Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load
//! Balancer", NSDI 2016, section 3.4. Table size and keys are those of IPVS, so
//! that directors of both kinds agree.
//!
//! Beside the weight, [`Member::last_weight`] counts: a server that was set to
//! 0 keeps its part of the table. Its clients get no server, unless `mh-fallback`
//! lets them have another one. With `mh-port`, the client's port is hashed as
//! well.

use super::hash::{folded, siphash};
use super::maglev::{KEY, SIZE};
use super::{Algorithm, Arrival, Roster, Servers};

#[derive(Debug)]
pub(super) struct MaglevHashing;

impl Algorithm for MaglevHashing {
    fn peek(&mut self, servers: Servers, arrival: &Arrival) -> Option<usize> {
        let Roster { flags, ref maglev, .. } = *servers.roster;
        let port = if flags.port() { u32::from(arrival.source_port) } else { 0 };
        let client = folded(arrival.source, !servers.roster.is_v6()).wrapping_add(port);
        let taking = |hash: u32| {
            let place = maglev.as_ref()?.place(hash)?;
            servers.get(place)?.takes().then_some(place)
        };
        let hash = siphash(client, KEY);
        let hashed = taking(hash);
        if hashed.is_some() || !flags.fallback() {
            return hashed;
        }
        // Without a server that takes any, the search below is long and vain.
        servers.next_of_weight(0, 1)?;
        let first = hash % SIZE;
        (0..SIZE).find_map(|offset| taking(siphash(client.wrapping_add((first + offset) % SIZE), KEY)))
    }
}
