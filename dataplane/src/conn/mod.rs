//! Connections: the table, its entries, their states and timers.

mod record;
mod state;
pub mod timer;

pub use record::ConnectionRecord;
pub use state::{Direction, State, Timeouts};
