//! Both streams in words, for `sluice status`.

use std::fmt::Write as _;

use super::SyncStatus;

/// Two lines, and what is amiss.
pub fn show(status: &SyncStatus) -> String {
    let SyncStatus { peer, outgoing, incoming, .. } = status;
    let state = |connected, complete| match (connected, complete) {
        (true, true) => "in step",
        (true, false) => "transferring",
        (false, _) => "not connected",
    };
    let mut out = format!(
        "sync to {peer}: {}, sent {}, taken {}, behind {} records and {:.1} ms (99% below {:.1} ms)",
        state(outgoing.connected, outgoing.complete),
        outgoing.sent,
        outgoing.taken,
        outgoing.behind,
        outgoing.milliseconds,
        outgoing.milliseconds_p99,
    );
    let _ = write!(out, ", transfers {}, overflowed {}", outgoing.transfers, outgoing.overflowed);
    let error = |out: &mut String, error: &Option<String>| {
        if let Some(error) = error {
            let _ = write!(out, "\n  last broken off because: {error}");
        }
        out.push('\n');
    };
    error(&mut out, &outgoing.error);
    let _ = write!(
        out,
        "sync from {peer}: {}, received {}, taken {}, behind {} records and {:.1} ms",
        state(incoming.connected, incoming.complete),
        incoming.received,
        incoming.taken,
        incoming.behind,
        incoming.milliseconds,
    );
    let refused = [
        ("this director's own", incoming.own),
        ("without service or server here", incoming.unknown),
        ("with a local port in use", incoming.port_taken),
        ("without room", incoming.full),
    ];
    for (why, count) in refused.iter().filter(|(_, count)| *count > 0) {
        let _ = write!(out, ", {count} {why}");
    }
    error(&mut out, &incoming.error);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::{Incoming, Outgoing};

    #[test]
    fn both_streams_are_shown_and_what_is_amiss() {
        let status = SyncStatus {
            listen: "10.0.9.1:7946".into(),
            peer: "10.0.9.2:7946".into(),
            outgoing: Outgoing {
                connected: true,
                complete: true,
                sent: 12,
                taken: 10,
                behind: 2,
                milliseconds: 0.44,
                milliseconds_p99: 1.26,
                transfers: 1,
                ..Outgoing::default()
            },
            incoming: Incoming { unknown: 3, error: Some("it ended".into()), ..Incoming::default() },
        };
        let expected = "\
            sync to 10.0.9.2:7946: in step, sent 12, taken 10, behind 2 records and 0.4 ms (99% below 1.3 ms), \
            transfers 1, overflowed 0\n\
            sync from 10.0.9.2:7946: not connected, received 0, taken 0, behind 0 records and 0.0 ms, \
            3 without service or server here\n  last broken off because: it ended\n";
        assert_eq!(show(&status), expected);
    }
}
