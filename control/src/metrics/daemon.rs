//! Metrics of the sync daemons, which pair with a Linux director.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use prometheus_client::encoding::DescriptorEncoder;

use super::family::Family;
use crate::sync::lvs::counters::Counters;
use crate::sync::lvs::translate::KeptOut;

/// Nothing where no daemon ran.
pub(super) fn encode(counters: &Counters, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let (master, backup) = (&counters.master, &counters.backup);
    if !master.ran.load(Relaxed) && !backup.ran.load(Relaxed) {
        return Ok(());
    }
    let of = |counter: &AtomicU64| counter.load(Relaxed);
    let roles = |[sent, heard]: [&AtomicU64; 2]| {
        [([("role", "master")], of(sent)), ([("role", "backup")], of(heard))]
    };
    Family::new("sync_daemon_messages", "Messages that a sync daemon sent, or heard.")
        .counters(encoder, roles([&master.messages, &backup.messages]))?;
    Family::new("sync_daemon_entries", "Connections and templates in them.")
        .counters(encoder, roles([&master.entries, &backup.entries]))?;
    Family::new("sync_daemon_overflowed", "Changes, or messages, that there was no room for.")
        .counters(encoder, roles([&master.overflowed, &backup.overflowed]))?;
    Family::new("sync_daemon_taken_entries", "Entries that workers took.")
        .counters(encoder, [([("role", "backup")], of(&backup.taken))])?;
    let kept_out = KeptOut::ALL.iter().zip(&backup.kept_out);
    let kept_out = kept_out.map(|(reason, count)| (("backup", reason.to_string()), of(count)));
    let others = [
        (("master", "failed"), &master.failed),
        (("master", "left out"), &master.left_out),
        (("backup", "another sync id"), &backup.other_id),
        (("backup", "malformed"), &backup.malformed),
        (("backup", "unknown option"), &backup.unknown_option),
        (("backup", "this director's own"), &backup.own),
        (("backup", "no room"), &backup.full),
    ];
    let others = others.into_iter().map(|((role, reason), count)| ((role, reason.to_owned()), of(count)));
    let all: Vec<_> = others.chain(kept_out).collect();
    let labelled =
        all.iter().map(|((role, reason), count)| ([("role", *role), ("reason", reason.as_str())], *count));
    Family::new("sync_daemon_not_taken", "What a sync daemon did not send, or take, by reason.")
        .counters(encoder, labelled)
}
