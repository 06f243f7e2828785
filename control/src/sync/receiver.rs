//! Hearing the peer.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use sluice_dataplane::sync::{Importer, Report, Source};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use super::noise::{Reader, SessionError, Writer, handshake};
use super::wire::{self, Message};
use super::{HEARTBEAT, PAUSE, SILENCE, Shared};

/// Connections that may be shaking hands at once.
const MOST_HANDSHAKES: usize = 4;

/// Messages that workers may be at. With more, the peer has to wait.
const MOST_UNDER_WAY: usize = 256;

/// After an error of the listener.
const RETRY: Duration = Duration::from_millis(100);

/// An authenticated connection.
type Connection = (Reader<OwnedReadHalf>, Writer<OwnedWriteHalf>);

/// Hears the peer for as long as it is not dropped.
pub(super) async fn run(shared: &Shared, listener: TcpListener) {
    let incoming = &shared.statistics.incoming;
    let hops = Arc::clone(&shared.plane.published.hops.load());
    let importer = Importer::new(Arc::clone(&shared.plane.exchanges), Source::Peer, hops);
    let session = Session::new(shared, importer);
    let mut newest = None;
    let mut handshakes = FuturesUnordered::new();
    loop {
        // Until another one comes that has the key: the peer began anew, and the
        // present one says nothing any more.
        let connection = newest.take();
        let present = async {
            match connection {
                Some(connection) => session.hear(connection).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(present);
        let ended = loop {
            tokio::select! {
                result = &mut present => break result.err(),
                accepted = listener.accept(), if handshakes.len() < MOST_HANDSHAKES => match accepted {
                    Ok((stream, from)) if from.ip() == shared.settings.peer.ip() => {
                        handshakes.push(welcome(shared, stream));
                    }
                    Ok((_, from)) => complain(shared, &format!("{from} is not the peer, and was not heard")),
                    Err(error) => {
                        complain(shared, &error.to_string());
                        sleep(RETRY).await;
                    }
                },
                Some(result) = handshakes.next() => match result {
                    Ok(connection) => {
                        newest = Some(connection);
                        break None;
                    }
                    Err(error) => complain(shared, &error.to_string()),
                },
            }
        };
        if let Some(error) = ended {
            complain(shared, &error.to_string());
        }
        if incoming.connected.swap(false, Relaxed) {
            incoming.complete.store(false, Relaxed);
            session.lost().await;
        }
    }
}

fn complain(shared: &Shared, error: &str) {
    if shared.statistics.incoming.trouble.note(error.to_owned()) {
        tracing::warn!(peer = %shared.settings.peer, error, "the peer is not heard");
    }
}

async fn welcome(shared: &Shared, stream: TcpStream) -> Result<Connection, SessionError> {
    stream.set_nodelay(true)?;
    let (reader, writer) = stream.into_split();
    handshake(reader, writer, &shared.key, false).await
}

/// What is known of the peer's records.
struct Session<'a> {
    shared: &'a Shared,
    importer: RefCell<Importer>,
    /// Messages that workers are at: up to which record they go, and when workers
    /// are through
    under_way: RefCell<VecDeque<(u64, Box<[u64]>)>>,
    /// Records that were refused for the rules here, and by which, at the begin
    /// of the last transfer
    refused: RefCell<(u64, u64, u64, u64)>,
}

impl<'a> Session<'a> {
    fn new(shared: &'a Shared, importer: Importer) -> Self {
        let importer = RefCell::new(importer);
        Session { shared, importer, under_way: RefCell::default(), refused: RefCell::default() }
    }

    async fn hear(&self, (reader, writer): Connection) -> Result<(), SessionError> {
        self.under_way.borrow_mut().clear();
        self.shared.statistics.incoming.caught_up.store(false, Relaxed);
        self.shared.statistics.incoming.connected.store(true, Relaxed);
        tracing::info!(peer = %self.shared.settings.peer, "the peer tells of its connections");
        tokio::select! {
            result = self.read(reader) => result,
            result = self.answer(writer) => result,
        }
    }

    async fn read<R: AsyncRead + Unpin>(&self, mut reader: Reader<R>) -> Result<(), SessionError> {
        let incoming = &self.shared.statistics.incoming;
        // What comes before a transfer begins would not be the peer's to tell.
        let mut begun = false;
        loop {
            let received = timeout(SILENCE, reader.receive()).await;
            let bytes = received.map_err(|_| SessionError::Silent("said nothing"))??;
            match wire::message(bytes)? {
                Some(Message::Begin(instance)) => {
                    begun = true;
                    incoming.complete.store(false, Relaxed);
                    *self.refused.borrow_mut() = self.refusals();
                    let hops = Arc::clone(&self.shared.plane.published.hops.load());
                    let mut importer = self.importer.borrow_mut();
                    importer.route_by(hops);
                    importer.begin(instance);
                }
                Some(Message::Records { sequence, records }) if begun => {
                    incoming.received.fetch_add(records.len() as u64, Relaxed);
                    let services = Arc::clone(&self.shared.plane.published.services.load());
                    {
                        let mut importer = self.importer.borrow_mut();
                        records.into_iter().for_each(|record| importer.add(record, &services));
                        importer.flush();
                    }
                    self.pump().await;
                    let mark = self.importer.borrow().mark();
                    self.under_way.borrow_mut().push_back((sequence, mark));
                    while self.under_way.borrow().len() >= MOST_UNDER_WAY {
                        sleep(PAUSE).await;
                    }
                }
                Some(Message::End) if begun => {
                    self.importer.borrow_mut().end();
                    self.pump().await;
                    incoming.complete.store(true, Relaxed);
                    incoming.caught_up.store(true, Relaxed);
                }
                Some(Message::Heartbeat { behind, milliseconds, .. }) => {
                    incoming.behind.store(behind, Relaxed);
                    incoming.milliseconds.store(milliseconds.into(), Relaxed);
                }
                Some(Message::Records { .. } | Message::End) => {
                    return Err(SessionError::Unexpected("records before the begin of a transfer"));
                }
                Some(Message::Taken(_) | Message::Again) => {
                    return Err(SessionError::Unexpected("an answer"));
                }
                None => {}
            }
            self.pump().await;
        }
    }

    /// Waits until workers have room for all that was read: so long nothing more
    /// is, and the peer is held back.
    async fn pump(&self) {
        while !self.importer.borrow_mut().pump() {
            sleep(PAUSE).await;
        }
    }

    /// Says what was taken, and that somebody is there.
    async fn answer<W: AsyncWrite + Unpin>(&self, mut writer: Writer<W>) -> Result<(), SessionError> {
        let (mut said, mut last) = (0, Instant::now());
        let mut message = Vec::new();
        loop {
            let taken = self.taken().unwrap_or(said);
            if taken != said || last.elapsed() >= HEARTBEAT {
                (said, last) = (taken, Instant::now());
                wire::put_message(&mut message, &Message::Taken(taken));
                send(&mut writer, &message).await?;
                if self.is_again_due() {
                    wire::put_message(&mut message, &Message::Again);
                    send(&mut writer, &message).await?;
                }
            }
            sleep(PAUSE).await;
        }
    }

    /// The last record that workers are through with, if it is another one.
    fn taken(&self) -> Option<u64> {
        let (importer, mut under_way) = (self.importer.borrow(), self.under_way.borrow_mut());
        let mut taken = None;
        while let Some((sequence, _)) = under_way.front().filter(|(_, mark)| importer.has_done(mark)) {
            taken = Some(*sequence);
            under_way.pop_front();
        }
        drop((importer, under_way));
        self.count();
        taken
    }

    fn sum(&self, counter: impl Fn(&Report) -> u64) -> u64 {
        self.importer.borrow().reports().iter().map(|report| counter(report)).sum()
    }

    fn count(&self) {
        let incoming = &self.shared.statistics.incoming;
        incoming.taken.store(self.sum(|report| report.taken.load(Relaxed)), Relaxed);
        incoming.own.store(self.sum(|report| report.own.load(Relaxed)), Relaxed);
        incoming.unknown.store(self.sum(|report| report.unknown.load(Relaxed)), Relaxed);
        incoming.port_taken.store(self.sum(|report| report.port.load(Relaxed)), Relaxed);
        incoming.full.store(self.sum(|report| report.full.load(Relaxed)), Relaxed);
    }

    /// Records refused as unknown, and by port, and the rules and routes of now.
    fn refusals(&self) -> (u64, u64, u64, u64) {
        let published = &self.shared.plane.published;
        (
            self.sum(|report| report.unknown.load(Relaxed)),
            self.sum(|report| report.port.load(Relaxed)),
            published.services.load().generation(),
            published.hops.load().port_plan(),
        )
    }

    /// Whether records were refused that may be taken now.
    fn is_again_due(&self) -> bool {
        let (unknown, ports, generation, plan) = *self.refused.borrow();
        let now = self.refusals();
        let due = now.0 != unknown && now.2 != generation || now.1 != ports && now.3 != plan;
        if due {
            *self.refused.borrow_mut() = now;
        }
        due
    }

    /// What was heard is no longer the peer's.
    async fn lost(&self) {
        {
            let mut importer = self.importer.borrow_mut();
            importer.flush();
            importer.lost();
        }
        self.pump().await;
    }
}

/// Sends a message to a peer that may have stopped reading.
async fn send<W: AsyncWrite + Unpin>(writer: &mut Writer<W>, message: &[u8]) -> Result<(), SessionError> {
    timeout(SILENCE, writer.send(message)).await.unwrap_or(Err(SessionError::Silent("read nothing")))
}
