//! What directors tell each other of their connections, so that one can go on
//! where another stopped.
//!
//! A [`Record`] says all that a worker needs to forward a connection that it
//! never saw begin, in names that hold on another machine: addresses and
//! services, no slots and no numbers of entries. Here is what the records are;
//! how they travel is not the data plane's business.

mod record;

pub use record::{Adjustment, FtpControl, Record, Session, TemplateRecord};
