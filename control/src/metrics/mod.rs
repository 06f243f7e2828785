//! Metrics in Prometheus' formats.
//!
//! A scrape reads the table that workers go by and their counters; it is
//! encoded as it is sent, so that ten thousand services take no memory at
//! once. Names follow Prometheus' conventions, and those of services and
//! servers are the labels `service` (as in `tcp 192.0.2.10:80` or `mark 10`)
//! and `server` (as in `10.0.2.1:8080`). Counters count since the director
//! started, whatever `ipvsadm -Z` does.

mod daemon;
mod director;
mod family;
mod service;
#[cfg(test)]
mod tests;
mod text;

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Registry;

pub use text::Format;

use crate::observe::Observatory;
use text::Chunks;

/// Which metrics are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Selection {
    /// Those of each real server, nine tenths of all
    pub servers: bool,
}

impl Default for Selection {
    fn default() -> Self {
        Selection { servers: true }
    }
}

/// Encodes all metrics of now and hands them to `send` in pieces of some tens
/// of kilobytes. It may take long: `send` is expected to wait for its reader.
///
/// # Errors
/// When `send` says that nobody wants more.
pub fn encode(
    observatory: &Arc<Observatory>,
    selection: Selection,
    format: Format,
    send: impl FnMut(Vec<u8>) -> fmt::Result,
) -> fmt::Result {
    let mut registry = Registry::with_prefix("sluice");
    registry.register_collector(Box::new(Scrape { observatory: Arc::clone(observatory), selection }));
    let mut chunks = Chunks::new(format, send);
    prometheus_client::encoding::text::encode(&mut chunks, &registry)?;
    chunks.finish()
}

#[derive(Debug)]
struct Scrape {
    observatory: Arc<Observatory>,
    selection: Selection,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        director::encode(&self.observatory, &mut encoder)?;
        service::encode(&self.observatory, self.selection, &mut encoder)
    }
}
