//! How the director's interfaces spread what they receive over their queues.

use std::sync::Arc;

use sluice_dataplane::link::{Link, Unknown};
use sluice_dataplane::rss::{HashFields, Hashed, Rss};
use tracing::{info, warn};

/// An interface's RSS, or why it is not known.
type Known = Result<Arc<Rss>, String>;

/// The RSS of each interface, as it was read last.
pub(super) struct Spread {
    interfaces: Vec<String>,
    workers: usize,
    /// What is known, or why nothing is; `None` before it was looked for
    known: Vec<Option<Known>>,
}

impl Spread {
    pub(super) fn new(interfaces: &[String], workers: usize) -> Self {
        Spread { interfaces: interfaces.to_vec(), workers, known: vec![None; interfaces.len()] }
    }

    /// Looks at all interfaces; answers with what is known now if that is not
    /// what was known before. With one worker it does not matter, and is not
    /// asked for.
    pub(super) fn read(&mut self) -> Option<Arc<[Option<Arc<Rss>>]>> {
        if self.workers < 2 {
            return None;
        }
        let mut changed = false;
        for (interface, known) in self.interfaces.iter().zip(&mut self.known) {
            let settings = Link::new(interface).map_err(Unknown::from).and_then(|link| link.rss());
            if let (Ok(settings), Some(Ok(rss))) = (&settings, &*known)
                && rss.settings() == settings
            {
                continue;
            }
            let rss = settings.map_err(|unknown| unknown.to_string()).and_then(|settings| {
                Rss::new(settings, self.workers).map(Arc::new).map_err(|error| error.to_string())
            });
            if known.as_ref() == Some(&rss) {
                continue;
            }
            report(interface, &rss, self.workers);
            changed |= rss.is_ok() || matches!(known, Some(Ok(_)));
            *known = Some(rss);
        }
        let of = |known: &Option<Known>| known.as_ref()?.as_ref().ok().cloned();
        changed.then(|| self.known.iter().map(of).collect())
    }
}

/// Says what is known of an interface now.
fn report(interface: &str, rss: &Known, workers: usize) {
    let settings = match rss {
        Ok(rss) => rss.settings(),
        Err(reason) => {
            return info!(interface, reason, "answers on another worker's queue are handed to their worker");
        }
    };
    let entries = settings.table.len();
    info!(interface, entries, hashed = describe(&settings.fields), "its RSS is known");
    let queues = settings.table.iter().max().map_or(0, |queue| *queue as usize + 1);
    if queues > workers {
        warn!(
            interface,
            "its indirection table names {queues} queues and there are {workers} workers: what arrives on the \
             others passes the director by (ethtool -X {interface} equal {workers})"
        );
    }
}

/// What is hashed, for the log.
fn describe(fields: &HashFields) -> String {
    let kinds = [
        ("TCP", fields.tcp_v4),
        ("UDP", fields.udp_v4),
        ("TCP over IPv6", fields.tcp_v6),
        ("UDP over IPv6", fields.udp_v6),
    ];
    let word = |hashed| match hashed {
        Hashed::Ports => "addresses and ports",
        Hashed::Addresses => "addresses",
        Hashed::Unknown => "unknown",
    };
    kinds.map(|(kind, hashed)| format!("{kind}: {}", word(hashed))).join(", ")
}
