//! FULLNAT (DPVS, and the FULLNAT patch of IPVS): both addresses are replaced,
//! the source by a LIP of the director with a port of its own for each
//! connection. Servers answer the LIP and need no route to the director.
//! A server of the other address family is reached from a LIP of its own.

use super::{Plan, nat};
use crate::conn::Tuple;
use crate::wire::Address;

/// The server answers `local`, a LIP and port.
pub(super) fn plan(client: Tuple, server: (Address, u16), local: (Address, u16)) -> Plan {
    nat::replacing(client, local, server)
}
