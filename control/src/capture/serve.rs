//! The answer to a request for a capture, part by part.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::part::CapturePart;
use crate::api::Answer;

/// Further off than anybody waits.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// A capture under way, as answers.
pub(crate) struct Stream {
    parts: mpsc::Receiver<CapturePart>,
    /// Packets that are still wanted
    left: u64,
    until: Instant,
    over: bool,
}

impl Stream {
    /// `count` packets at most, for so many seconds at most.
    pub(crate) fn new(parts: mpsc::Receiver<CapturePart>, count: Option<u64>, seconds: Option<u64>) -> Self {
        let limit = seconds.map_or(NEVER, Duration::from_secs).min(NEVER);
        Stream { parts, left: count.unwrap_or(u64::MAX), until: Instant::now() + limit, over: false }
    }

    /// The next answer; the last one is final.
    pub(crate) async fn next(&mut self) -> Answer {
        // A timer goes off up to a millisecond late.
        if self.over || self.left == 0 || Instant::now() >= self.until {
            self.over = true;
            return Answer::Done;
        }
        let part = tokio::select! {
            biased;
            () = sleep_until(self.until) => None,
            part = self.parts.recv() => part,
        };
        let Some(mut part) = part else {
            self.over = true;
            return Answer::Done;
        };
        part.packets.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= part.packets.len() as u64;
        Answer::Captured(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::{CapturedPacket, Seen};

    fn part(packets: usize) -> CapturePart {
        let packet = CapturedPacket {
            time_ns: 1,
            packet: 1,
            worker: 0,
            interface: "eth0".into(),
            seen: Seen::Received,
            reason: None,
            length: 60,
            connection: None,
            data: String::new(),
        };
        CapturePart { packets: vec![packet; packets], ..CapturePart::default() }
    }

    async fn packets(mut stream: Stream) -> Vec<usize> {
        let mut all = Vec::new();
        while let Answer::Captured(part) = stream.next().await {
            all.push(part.packets.len());
        }
        assert_eq!(stream.next().await, Answer::Done, "and it stays so");
        all
    }

    #[tokio::test]
    async fn it_ends_when_there_is_enough() {
        let (sender, parts) = mpsc::channel(8);
        for packets in [2, 0, 3, 4] {
            sender.try_send(part(packets)).unwrap();
        }
        assert_eq!(packets(Stream::new(parts, Some(4), None)).await, [2, 0, 2]);
        assert!(sender.is_closed(), "the workers need not go on");
    }

    #[tokio::test]
    async fn it_ends_when_the_time_is_over_or_the_director_is() {
        let (sender, parts) = mpsc::channel(8);
        sender.try_send(part(1)).unwrap();
        assert_eq!(packets(Stream::new(parts, None, Some(0))).await, [0; 0]);
        let (sender, parts) = mpsc::channel(8);
        sender.try_send(part(1)).unwrap();
        drop(sender);
        assert_eq!(packets(Stream::new(parts, None, Some(u64::MAX))).await, [1]);
    }
}
