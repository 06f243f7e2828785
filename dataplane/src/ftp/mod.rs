//! FTP (RFC 959, RFC 2428) through NAT and FULLNAT: the control connection is
//! followed, and the data connections that it announces are expected.
//!
//! | file | what |
//! |------|------|
//! | `command.rs` | lines that announce data connections |
//! | `stream.rs`  | one direction whose text changes: sequence numbers both ways |
//! | `segment.rs` | a segment in a frame, its numbers, blocks, bytes and checksums |
//! | `slots.rs`   | values that few entries have |
//! | `table.rs`   | what is kept of control connections and of data connections |
//!
//! The worker's part is `worker/ftp.rs`. As in `net/netfilter/ipvs/ip_vs_ftp.c`:
//!
//! - NAT, passive: the address in 227 becomes the VIP, the port stays, and a
//!   connection of the client from any port to VIP:port is expected. 229 names
//!   no address and stays as it is.
//! - NAT, active: the server connects to the client as `PORT` says, and the
//!   client sees it come from the VIP's port 20.
//! - A command or reply that does not come in one segment is not changed.
//!
//! What IPVS does not have:
//!
//! - FULLNAT, passive: as NAT, from the LIP of the control connection, since
//!   servers refuse data connections of another address.
//! - FULLNAT, active: `PORT` is rewritten to that LIP with a port of its own.
//! - Between address families `PORT` and `EPRT`, `PASV` and `EPSV` with their
//!   replies take each other's place (RFC 6384).
//! - A `PORT` with another address than the client's own opens nothing (the
//!   bounce attack of RFC 2577), nor does a 227 with one that is neither the
//!   server's nor the VIP.
//! - A segment behind one that is missing is dropped, since what the missing one
//!   is to become decides the numbers of those that follow.

pub mod command;
pub mod segment;
mod slots;
pub mod stream;
mod table;

pub use table::{Data, Full, MOST_EXPECTED, Mode, Sessions, Streams};

/// What a connection is to FTP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Role {
    /// Nothing
    #[default]
    None,
    /// A control connection
    Control,
    /// A data connection that was announced and has not come: in its tuples,
    /// the port of the side that is to open it is 0
    Expected,
    /// A data connection
    Data,
}
