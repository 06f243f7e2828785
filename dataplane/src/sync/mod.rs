//! What directors tell each other of their connections, so that one can go on
//! where another stopped.
//!
//! A [`Record`] says all that a worker needs to forward a connection that it
//! never saw begin, in names that hold on another machine: addresses and
//! services, no slots and no numbers of entries. How records travel is not the
//! data plane's business; here is what they are, and the queues that they come
//! and go by:
//!
//! - A [`Tap`] is what a worker tells one listener of its own connections:
//!   changes as they happen, and all that there are whenever the listener asks
//!   for that. A [`Subscription`] has one of each worker.
//! - An [`Importer`] gives workers what others told.
//!
//! The worker never waits. What a tap has no room for is counted, and the
//! listener asks for everything anew.

mod import;
mod record;
mod route;
mod tap;

pub use import::{Import, Importer, Report, Source, Step};
pub use record::{Adjustment, FtpControl, Record, Session, TemplateRecord};
pub use route::{Router, Way};
pub use tap::{Change, Subscription, Tap, What};
