//! Connections: the table, its entries, their states and timers.

mod calls;
pub(crate) mod chains;
mod entry;
mod filter;
pub(crate) mod index;
mod late;
mod line;
mod record;
mod sctp;
mod state;
mod table;
mod template;
pub mod timer;
mod tuple;

pub use entry::{Entry, Side};
pub use filter::{ConnectionFilter, Endpoint};
pub use line::{Begin, Ends, Line, NO_HOP};
pub use record::ConnectionRecord;
pub use state::{Direction, State, TimeoutOverrides, Timeouts};
pub use table::{EntryId, Full, Lookup, Table};
pub use template::{NO_TEMPLATE, Template, TemplateId, TemplateKey, Templates};
pub use tuple::{Seed, Tuple};
