//! Connections: the table, its entries, their states and timers.

mod record;
pub mod timer;

pub use record::ConnectionRecord;
