//! Answers in parts: connections and events.

use std::io;
use std::time::Duration;

use sluice_dataplane::conn::ConnectionRecord;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::body::{Writer, send};
use super::message::Answer;
use crate::events::{EventLog, Kind};

/// Events of one part.
const PART: usize = 256;

/// A follower hears something after so long, even if nothing happens: well
/// before its patience is at an end.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// Sends connections as workers hand them over, `limit` of them at most.
pub(super) async fn connections(
    mut slices: mpsc::Receiver<Vec<ConnectionRecord>>,
    limit: Option<u64>,
    writer: &mut Writer,
) -> io::Result<()> {
    let mut left = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    while left > 0
        && let Some(slice) = slices.recv().await
    {
        let part: Vec<_> = slice.into_iter().take(left).map(Into::into).collect();
        left -= part.len();
        send(writer, &Answer::Connections(part)).await?;
    }
    // Dropping the channel ends the listing in the workers.
    drop(slices);
    send(writer, &Answer::Done).await
}

/// How many connections workers hand over.
pub(super) async fn count(mut slices: mpsc::Receiver<Vec<ConnectionRecord>>) -> u64 {
    let mut number = 0;
    while let Some(slice) = slices.recv().await {
        number += slice.len() as u64;
    }
    number
}

/// Sends the events after a number, the newest `limit` of them, and goes on
/// with new ones if they are followed.
pub(super) async fn events(
    log: &EventLog,
    mut after: u64,
    limit: Option<usize>,
    kind: Option<Kind>,
    follow: bool,
    writer: &mut Writer,
) -> io::Result<()> {
    let mut newest = log.follow();
    let mut limit = limit.unwrap_or(usize::MAX);
    loop {
        newest.mark_unchanged();
        let mut events = log.since(after, usize::MAX);
        after = events.last().map_or(after, |event| event.number);
        events.retain(|event| kind.is_none_or(|kind| event.kind == kind));
        let passed_over = events.len().saturating_sub(limit);
        for part in events[passed_over..].chunks(PART) {
            send(writer, &Answer::Events(part.to_vec())).await?;
        }
        // It is about what there was.
        limit = usize::MAX;
        if !follow {
            return send(writer, &Answer::Done).await;
        }
        while timeout(SIGN_OF_LIFE, newest.changed()).await.is_err() {
            send(writer, &Answer::Events(Vec::new())).await?;
        }
    }
}
