//! The running process's part of a takeover: see [`crate::takeover`].

use std::time::Duration;

use sluice_dataplane::sync::{Subscription, What};
use tokio::io::BufReader;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, sleep, timeout};

use super::forwarding::Forwarding;
use crate::api::{self, Answer, DataPlane, Director};
use crate::sync::wire::{self, MAX_MESSAGE, MAX_RECORD, Message};
use crate::takeover::{self, Frame, Takeover, TakeoverError};

/// Changes that may wait at each worker.
const CAPACITY: usize = 65_536;

/// Between two looks at queues that had nothing.
const PAUSE: Duration = Duration::from_millis(1);

/// How long the new process may take to get ready with all sessions, and for each step
/// from then on until this one may end.
const READY: Duration = Duration::from_secs(60);
const RUNNING: Duration = Duration::from_secs(10);

/// How long workers may take to count what was carried for them: all is gone through
/// in less than two seconds.
const AT_REST: Duration = Duration::from_secs(3);

/// Between two attempts to have the interfaces back.
const AGAIN: Duration = Duration::from_secs(1);

/// Messages that are sent before the other side is listened to.
const TURN: usize = 64;

/// A connection whose end tells the new process that this one has ended.
pub(super) struct Given {
    _reader: BufReader<OwnedReadHalf>,
    _writer: OwnedWriteHalf,
}

/// Gives everything to a new process, if that takes it.
pub(super) async fn give(director: &Director<Forwarding>, takeover: Takeover) -> Option<Given> {
    let Takeover { stream, interfaces, sockets, version } = takeover;
    let (reader, mut writer) = stream.into_split();
    let plane = director.plane();
    if !plane.has_interfaces(&interfaces) {
        let message = "its interfaces are not those of the running director: restart it instead";
        let _ = api::send(&mut writer, &Answer::error("other_interfaces", message)).await;
        return None;
    }
    tracing::info!("another process is taking over");
    director.freeze(true);
    let counts_later = version >= takeover::VERSION;
    if !counts_later {
        // All is counted before workers say how far they are.
        plane.rest_offload(true);
    }
    match hand_over(plane, (sockets, counts_later), BufReader::new(reader), writer).await {
        Ok(given) => {
            tracing::info!("the other process has taken over");
            Some(given)
        }
        Err(error) => {
            tracing::warn!("nobody took over, this process goes on: {error}");
            // The other process may have them until it ends.
            while let Err(error) = plane.take_back().await {
                tracing::error!("its interfaces cannot be had back yet: {error}");
                sleep(AGAIN).await;
            }
            plane.rest_offload(false);
            director.freeze(false);
            None
        }
    }
}

async fn hand_over(
    plane: &Forwarding,
    (sockets, counts_later): (bool, bool),
    mut reader: BufReader<OwnedReadHalf>,
    mut writer: OwnedWriteHalf,
) -> Result<Given, TakeoverError> {
    let exchanges = plane.workers().plane().exchanges;
    let subscription = Subscription::of_successor(&exchanges, CAPACITY)
        .ok_or_else(|| TakeoverError::Workers("a worker does not obey".into()))?;
    api::send(&mut writer, &Answer::Done).await?;
    if sockets && let Some(all) = plane.offer().await? {
        for offered in all {
            takeover::offer(offered, &mut writer).await?;
        }
    }
    let mut teller = Teller { subscription, writer, records: 0, told: false };
    teller.begin().await?;
    let telling = async {
        let ready = Frame::receive(&mut reader);
        tokio::pin!(ready);
        loop {
            teller.tell(TURN).await?;
            tokio::select! {
                frame = &mut ready => break frame,
                () = sleep(PAUSE) => {}
            }
        }
    };
    let ready = timeout(READY, telling).await.map_err(|_| TakeoverError::Silent("was not ready"))??;
    let begun = Instant::now();
    while !counts_later && !plane.carries_nothing() && begun.elapsed() < AT_REST {
        teller.tell(TURN).await?;
        sleep(PAUSE).await;
    }
    let left = match ready {
        Frame::Ready { sockets: true } => plane.lend().await?,
        Frame::Ready { sockets: false } => {
            plane.release().await?;
            Vec::new()
        }
        _ => return Err(TakeoverError::Unexpected),
    };
    while teller.tell(TURN).await? || !teller.told {
        tokio::task::yield_now().await;
    }
    for (worker, left) in left.into_iter().enumerate() {
        Frame::Left(worker, left).send(&mut teller.writer).await?;
    }
    Frame::Yours(plane.role()).send(&mut teller.writer).await?;
    if counts_later {
        expect(&mut reader, &Frame::Forwards).await?;
        // Its program carries from now on, and nothing comes to this one's tables.
        plane.rest_offload(true);
        let begun = Instant::now();
        while !plane.carries_nothing() && begun.elapsed() < AT_REST {
            sleep(PAUSE).await;
        }
        Frame::Counted.send(&mut teller.writer).await?;
    }
    expect(&mut reader, &Frame::Running).await?;
    Ok(Given { _reader: reader, _writer: teller.writer })
}

async fn expect(reader: &mut BufReader<OwnedReadHalf>, expected: &Frame) -> Result<(), TakeoverError> {
    match timeout(RUNNING, Frame::receive(reader)).await {
        Ok(Ok(frame)) if frame == *expected => Ok(()),
        Ok(Ok(_)) => Err(TakeoverError::Unexpected),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(TakeoverError::Silent("did not open its sockets")),
    }
}

/// Tells the new process of sessions.
struct Teller {
    subscription: Subscription,
    writer: OwnedWriteHalf,
    /// Told so far
    records: u64,
    /// Whether all that there were were told, and nothing was lost since
    told: bool,
}

impl Teller {
    async fn begin(&mut self) -> Result<(), TakeoverError> {
        self.told = false;
        self.subscription.transfer();
        // One takeover is one process of the peer to workers.
        self.send(&Message::Begin(std::process::id().into())).await
    }

    async fn send(&mut self, message: &Message) -> Result<(), TakeoverError> {
        let mut bytes = Vec::new();
        wire::put_message(&mut bytes, message);
        Frame::Sessions(bytes).send(&mut self.writer).await
    }

    /// Sends what waits, in at most so many messages; whether there was anything.
    async fn tell(&mut self, most: usize) -> Result<bool, TakeoverError> {
        for sent in 0..most {
            if self.subscription.is_behind() && !self.subscription.is_transferring() {
                self.begin().await?;
            }
            let mut message = Vec::new();
            let (mut records, mut ended) = (0, false);
            wire::start_records(&mut message);
            while !ended && message.len() + MAX_RECORD + 3 <= MAX_MESSAGE {
                let Some(change) = self.subscription.next_change() else { break };
                match change.what {
                    What::Record(record) => {
                        wire::put_record(&mut message, &record);
                        records += 1;
                    }
                    What::End(_) => ended = true,
                }
            }
            if records > 0 {
                self.records += records;
                wire::finish_records(&mut message, self.records);
                Frame::Sessions(message).send(&mut self.writer).await?;
            }
            if ended {
                self.told = !self.subscription.is_behind();
                self.send(&Message::End).await?;
            }
            if records == 0 && !ended {
                return Ok(sent > 0);
            }
        }
        Ok(true)
    }
}
