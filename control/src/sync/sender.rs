//! Telling the peer.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use sluice_dataplane::sync::{Subscription, What};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use super::noise::{Reader, SessionError, Writer, handshake};
use super::wire::{self, MAX_MESSAGE, MAX_RECORD, Message};
use super::{CAPACITY, HEARTBEAT, PAUSE, SILENCE, Shared};

/// First and longest wait before another try to connect.
const RETRIES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Between two transfers that one stream needs, at least.
const TRANSFERS: Duration = Duration::from_millis(200);

/// Messages under way at once. Of more, the peer would read none for a while.
const MOST_UNDER_WAY: usize = 1024;

/// Tells the peer for as long as it is not dropped.
pub(super) async fn run(shared: &Shared) {
    let mut wait = RETRIES.0;
    loop {
        let begun = Instant::now();
        let result = tell(shared).await;
        let outgoing = &shared.statistics.outgoing;
        let was_connected = outgoing.connected.swap(false, Relaxed);
        outgoing.complete.store(false, Relaxed);
        outgoing.behind.store(0, Relaxed);
        if let Err(error) = result
            && outgoing.trouble.note(error.to_string())
        {
            tracing::warn!(peer = %shared.settings.peer, %error, "the peer is not told of connections");
        }
        // One that held for a while may be tried again at once.
        if was_connected && begun.elapsed() > RETRIES.1 {
            wait = RETRIES.0;
        }
        sleep(wait).await;
        wait = (wait * 2).min(RETRIES.1);
    }
}

async fn connect(shared: &Shared) -> Result<TcpStream, SessionError> {
    let (listen, peer) = (shared.settings.listen, shared.settings.peer);
    let socket = if listen.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // The peer listens to this address only.
    socket.bind((listen.ip(), 0).into())?;
    let connected = timeout(SILENCE, socket.connect(peer)).await;
    let stream = connected.map_err(|_| SessionError::Silent("did not answer"))??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn tell(shared: &Shared) -> Result<(), SessionError> {
    let (reader, writer) = connect(shared).await?.into_split();
    let (reader, writer) = handshake(reader, writer, &shared.key, true).await?;
    let subscription = Subscription::new(&shared.plane.exchanges, CAPACITY).ok_or(SessionError::Worker)?;
    let outgoing = &shared.statistics.outgoing;
    outgoing.connected.store(true, Relaxed);
    tracing::info!(peer = %shared.settings.peer, "telling the peer of connections");
    let session =
        Session { shared, under_way: RefCell::default(), again: Cell::new(false), taken: Cell::new(0) };
    tokio::select! {
        result = session.write(writer, subscription) => result,
        result = session.read(reader) => result,
    }
}

/// A message that the peer has not taken.
struct UnderWay {
    sequence: u64,
    /// When its oldest change was, on the workers' clock
    since: Option<u64>,
}

struct Session<'a> {
    shared: &'a Shared,
    under_way: RefCell<VecDeque<UnderWay>>,
    /// The peer wants to be told everything
    again: Cell<bool>,
    taken: Cell<u64>,
}

impl Session<'_> {
    async fn write<W: AsyncWrite + Unpin>(
        &self,
        mut writer: Writer<W>,
        mut subscription: Subscription,
    ) -> Result<(), SessionError> {
        let outgoing = &self.shared.statistics.outgoing;
        let begin = Message::Begin(self.shared.instance);
        let (mut message, mut sequence) = (Vec::with_capacity(MAX_MESSAGE), 0);
        let (mut last_transfer, mut last_heartbeat) = (None::<Instant>, Instant::now());
        let mut lost = 0;
        let mut ended = false;
        loop {
            let due = last_transfer.is_none_or(|last| last.elapsed() >= TRANSFERS);
            let wanted = last_transfer.is_none() || subscription.is_behind() || self.again.get();
            if due && wanted && !subscription.is_transferring() && !ended {
                self.again.set(false);
                outgoing.complete.store(false, Relaxed);
                outgoing.transfers.fetch_add(1, Relaxed);
                wire::put_message(&mut message, &begin);
                send(&mut writer, &message).await?;
                subscription.transfer();
                last_transfer = Some(Instant::now());
            }
            outgoing.overflowed.fetch_add(subscription.lost() - lost, Relaxed);
            lost = subscription.lost();

            let mut records = 0;
            let mut since = None;
            wire::start_records(&mut message);
            let may_send = self.under_way.borrow().len() < MOST_UNDER_WAY;
            while may_send && !ended && message.len() + MAX_RECORD + 3 <= MAX_MESSAGE {
                let Some(change) = subscription.next_change() else { break };
                match change.what {
                    What::Record(record) => {
                        wire::put_record(&mut message, &record);
                        records += 1;
                        since = since.or(Some(change.at));
                    }
                    What::End(_) => ended = true,
                }
            }
            let behind = sequence + records - self.taken.get() + subscription.waiting() as u64;
            outgoing.behind.store(behind, Relaxed);
            if records > 0 {
                sequence += records;
                wire::finish_records(&mut message, sequence);
                self.under_way.borrow_mut().push_back(UnderWay { sequence, since });
                send(&mut writer, &message).await?;
                outgoing.sent.fetch_add(records, Relaxed);
            }
            if ended {
                ended = false;
                outgoing.complete.store(!subscription.is_behind(), Relaxed);
                wire::put_message(&mut message, &Message::End);
                send(&mut writer, &message).await?;
            }
            if last_heartbeat.elapsed() >= HEARTBEAT {
                last_heartbeat = Instant::now();
                let milliseconds = outgoing.delays().0.ceil() as u32;
                let behind = sequence - self.taken.get();
                wire::put_message(&mut message, &Message::Heartbeat { sequence, behind, milliseconds });
                send(&mut writer, &message).await?;
            }
            if records == 0 {
                sleep(PAUSE).await;
            } else {
                tokio::task::yield_now().await;
            }
        }
    }

    async fn read<R: AsyncRead + Unpin>(&self, mut reader: Reader<R>) -> Result<(), SessionError> {
        let outgoing = &self.shared.statistics.outgoing;
        loop {
            let received = timeout(SILENCE, reader.receive()).await;
            let bytes = received.map_err(|_| SessionError::Silent("said nothing"))??;
            match wire::message(bytes)? {
                Some(Message::Taken(taken)) => {
                    let now = self.shared.plane.clock.elapsed().as_nanos() as u64;
                    let mut under_way = self.under_way.borrow_mut();
                    while let Some(first) = under_way.front().filter(|first| first.sequence <= taken) {
                        if let Some(since) = first.since {
                            outgoing.arrived(now.saturating_sub(since));
                        }
                        outgoing.taken.fetch_add(first.sequence.saturating_sub(self.taken.get()), Relaxed);
                        self.taken.set(first.sequence);
                        under_way.pop_front();
                    }
                }
                Some(Message::Again) => self.again.set(true),
                Some(Message::Heartbeat { .. }) | None => {}
                Some(Message::Records { .. } | Message::Begin(_) | Message::End) => {
                    return Err(SessionError::Unexpected("records"));
                }
            }
        }
    }
}

/// Sends a message to a peer that may have stopped reading.
async fn send<W: AsyncWrite + Unpin>(writer: &mut Writer<W>, message: &[u8]) -> Result<(), SessionError> {
    timeout(SILENCE, writer.send(message)).await.unwrap_or(Err(SessionError::Silent("read nothing")))
}
