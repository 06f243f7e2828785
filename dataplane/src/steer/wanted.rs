//! What the XDP program says of a packet, told from its rules.

use std::collections::BTreeSet;

use super::{SteeringRules, Target};
use crate::conn::Tuple;
use crate::local::MIN_LOCAL_PORT;
use crate::service::{Family, Protocol};

/// Why a packet is brought to the workers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// It is for a service
    Service,
    /// It is for a VIP of FTP, or from an FTP server, and one of passive mode's
    /// ports
    Ftp,
    /// It is for a LIP
    LocalAddress,
    /// It is from a NAT server
    NatServer,
    /// It has this mark, and a service has it too
    Marked(u32),
}

impl SteeringRules {
    /// Why a whole packet that came by the director's interface of this number is
    /// redirected to its workers; `None` if it stays with the kernel. In the
    /// order of `wanted` in `steer.bpf.c`.
    pub fn wants(&self, tuple: &Tuple, interface: usize) -> Option<Wanted> {
        let Tuple { source, destination, source_port, destination_port, protocol } = *tuple;
        let known = |all: &BTreeSet<Target>, address, port| {
            all.contains(&Target { address, port, protocol })
                || all.contains(&Target { address, port: 0, protocol })
        };
        let passive = |of: &BTreeSet<Target>, address, port| {
            protocol == Protocol::Tcp
                && self.ftp.contains(&address)
                && of.iter().any(|target| target.address == address)
                && (self.passive_ports.0..=self.passive_ports.1).contains(&port)
        };
        if known(&self.services, destination, destination_port) {
            return Some(Wanted::Service);
        }
        if passive(&self.services, destination, destination_port) {
            return Some(Wanted::Ftp);
        }
        if self.local_addresses.contains(&destination)
            && protocol != Protocol::Sctp
            && destination_port >= MIN_LOCAL_PORT
        {
            return Some(Wanted::LocalAddress);
        }
        if known(&self.nat_servers, source, source_port) {
            return Some(Wanted::NatServer);
        }
        if passive(&self.nat_servers, source, source_port) {
            return Some(Wanted::Ftp);
        }
        let marks = self.mark_rules.iter().map(|rules| rules.mark(tuple, interface));
        let of = |mark: &u32| *mark != 0 && self.marks.contains(&(*mark, Family::of(destination)));
        marks.into_iter().find(of).map(Wanted::Marked)
    }
}
