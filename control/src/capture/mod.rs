//! `sluice capture`: packets as they come and go, written as pcapng.
//!
//! The director's side ([`take`], [`serve`]) reads what workers copied and sends
//! it in parts; the command ([`command`]) writes these to a file.

mod command;
mod part;
mod pcapng;
mod query;
mod serve;
mod take;
mod text;

pub use command::{Arguments, main};
pub use part::{CapturePart, CapturedPacket, Ends, Seen};
pub use query::{CaptureError, CaptureQuery, Side};
pub(crate) use serve::Stream;
pub use take::Capturing;
