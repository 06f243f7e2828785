//! The new process's part of a takeover: see [`crate::takeover`].

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use sluice_dataplane::port::afxdp::Offered;
use sluice_dataplane::steer::{Mode, ModeChoice};
use sluice_dataplane::sync::{Importer, Record, Source};
use tokio::io::{AsyncReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::time::{Instant, sleep, timeout};

use super::forwarding::Forwarding;
use super::predecessor::{Predecessor, list};
use crate::api::{self, Answer, DataPlane, Director, Request};
use crate::sync::wire::{self, Message};
use crate::takeover::{self, Descriptors, Frame, TakeoverError};

/// Between two looks at workers that take sessions.
const PAUSE: Duration = Duration::from_millis(1);

/// How long the running process may be silent, and take to end.
const SILENCE: Duration = Duration::from_secs(30);
const END: Duration = Duration::from_secs(10);

impl Predecessor {
    /// Takes sessions, and then the queues. What it counted is left to be
    /// [collected](Self::collect).
    pub(super) async fn take(&self, director: &Director<Forwarding>) -> Result<Parting> {
        let failed = |error: TakeoverError| anyhow!("cannot take over: {error}");
        let plane = director.plane();
        // The kernel takes its time to look at them, in which the other one can
        // still be changed by its clients.
        let programs = plane.load()?;
        let (mut reader, mut writer) = self.begin(director).await.map_err(failed)?;
        let mut taker = Taker::new(plane);
        let (mut offered, mut left) = (Vec::new(), Vec::new());
        // Whether it is ready, and goes on with the other one's sockets
        let mut ready = None;
        let role = loop {
            let frame = timeout(SILENCE, Frame::receive(&mut reader)).await;
            match frame.map_err(|_| failed(TakeoverError::Silent("said nothing")))?.map_err(failed)? {
                Frame::Sessions(message) => taker.message(&message).await.map_err(failed)?,
                Frame::Queue(layout) if ready.is_none() => {
                    let descriptors = reader.get_mut().take(1 + layout.interfaces.len());
                    let mut sockets = descriptors.ok_or_else(|| failed(TakeoverError::Unexpected))?;
                    let memory = sockets.remove(0);
                    offered.push(Offered { layout, memory, sockets });
                }
                Frame::Left(worker, how_far) if ready == Some(true) && worker == left.len() => {
                    left.push(how_far);
                }
                Frame::Yours(role) if ready.is_some() => break role,
                _ => return Err(failed(TakeoverError::Unexpected)),
            }
            if taker.complete && ready.is_none() {
                let sockets = match plane.prepare(std::mem::take(&mut offered)).await {
                    Ok(()) => true,
                    Err(reason) => {
                        tracing::warn!("sockets are opened anew, which takes longer: {reason}");
                        false
                    }
                };
                taker.finish().await;
                Frame::Ready { sockets }.send(&mut writer).await.map_err(failed)?;
                ready = Some(sockets);
            }
        };
        let begun = Instant::now();
        taker.finish().await;
        // Before the first packet comes; the rest of it takes its time.
        plane.stand_by(role);
        match ready {
            Some(true) => plane.assume(left, programs).await,
            _ => plane.open(programs).await,
        }
        .map_err(failed)?;
        let milliseconds = begun.elapsed().as_millis() as u64;
        if self.counts_later() {
            Frame::Forwards.send(&mut writer).await.map_err(failed)?;
        }
        plane.set_role(role);
        let sessions = taker.end().await;
        let carried = plane.carried();
        tracing::info!(sessions, carried, milliseconds, "the queues are this process's");
        Ok(Parting { reader, writer })
    }

    /// Has counters go on where those of the other process are, once these count no
    /// more.
    pub(super) async fn collect(&self, director: &Director<Forwarding>, parting: &mut Parting) {
        if self.counts_later() {
            match timeout(END, Frame::receive(&mut parting.reader)).await {
                Ok(Ok(Frame::Counted)) => {}
                _ => tracing::warn!(
                    "the former process did not say that all is counted: some of it may not be"
                ),
            }
        }
        let client = self.client.clone();
        let listed = tokio::task::spawn_blocking(move || list(&client)).await;
        match listed.map_err(anyhow::Error::from).and_then(|listed| listed) {
            Ok(listed) => director.carry_traffic(&listed),
            Err(error) => tracing::warn!("counters begin at zero: {error:#}"),
        }
    }

    /// Whether it goes on carrying connections until its place is taken, and counts
    /// that after it.
    fn counts_later(&self) -> bool {
        self.version >= takeover::VERSION
    }

    async fn begin(
        &self,
        director: &Director<Forwarding>,
    ) -> Result<(BufReader<Descriptors>, OwnedWriteHalf), TakeoverError> {
        let stream = UnixStream::connect(self.client.path()).await?;
        let (reader, mut writer) = stream.into_split();
        let mut reader = Descriptors::reader(reader);
        let interfaces = director.plane().interfaces().to_vec();
        let request = Request::TakeOver { interfaces, sockets: true, version: self.version };
        api::upgrade::ask(&mut writer, &request).await?;
        let answer = timeout(SILENCE, api::upgrade::answer(&mut reader)).await;
        match answer.map_err(|_| TakeoverError::Silent("did not answer"))?? {
            Answer::Done => Ok((reader, writer)),
            Answer::Error { message, .. } => Err(TakeoverError::Refused(message)),
            _ => Err(TakeoverError::Unexpected),
        }
    }
}

/// How programs are to be attached where another one's run already.
pub(super) fn choice(modes: &[(String, Mode)]) -> ModeChoice {
    match modes.iter().all(|(_, mode)| *mode == Mode::Generic) {
        true => ModeChoice::Generic,
        false => ModeChoice::Auto,
    }
}

/// Has workers take sessions.
struct Taker<'a> {
    plane: &'a Forwarding,
    importer: Importer,
    /// Whether all that there were are here, or on the way to workers
    complete: bool,
}

impl<'a> Taker<'a> {
    fn new(plane: &'a Forwarding) -> Self {
        let of = plane.workers().plane();
        let hops = Arc::clone(&of.published.hops.load());
        // As long as it tells, what it says later is true, as of a peer.
        Taker { plane, importer: Importer::new(of.exchanges, Source::Peer, hops), complete: false }
    }

    async fn message(&mut self, message: &[u8]) -> Result<(), TakeoverError> {
        match wire::message(message)? {
            Some(Message::Begin(instance)) => {
                self.complete = false;
                self.importer.begin(instance);
            }
            Some(Message::Records { records, .. }) => {
                let services = Arc::clone(&self.plane.workers().published().services.load());
                self.ask_ways(&records);
                records.into_iter().for_each(|record| self.importer.add(record, &services));
                self.importer.flush();
            }
            Some(Message::End) => {
                self.importer.end();
                self.complete = true;
            }
            _ => return Err(TakeoverError::Unexpected),
        }
        self.pump().await;
        Ok(())
    }

    /// Asks for next hops that are not known, without which nothing is carried.
    fn ask_ways(&self, records: &[Record]) {
        let carried = records.iter().filter_map(|record| match record {
            Record::Session(session) => session.carried.then_some(session.client.source),
            _ => None,
        });
        self.plane.ask_ways(carried);
    }

    /// Waits until workers have room for all: so long nothing more is read.
    async fn pump(&mut self) {
        while !self.importer.pump() {
            sleep(PAUSE).await;
        }
    }

    /// Waits until workers have taken all.
    async fn finish(&mut self) {
        self.pump().await;
        let mark = self.importer.mark();
        while !self.importer.has_done(&mark) {
            sleep(PAUSE).await;
        }
    }

    /// All sessions are this process's own from now on; returns how many records
    /// were taken.
    async fn end(mut self) -> u64 {
        self.importer.lost();
        self.finish().await;
        let taken = |report: &Arc<sluice_dataplane::sync::Report>| {
            report.taken.load(std::sync::atomic::Ordering::Relaxed)
        };
        self.importer.reports().iter().map(taken).sum()
    }
}

/// A process whose place was taken, and that has not ended yet.
pub(super) struct Parting {
    reader: BufReader<Descriptors>,
    writer: OwnedWriteHalf,
}

impl Parting {
    /// Lets it end, and waits for that: it has ports yet that are needed here.
    pub(super) async fn farewell(mut self) -> Result<()> {
        Frame::Running.send(&mut self.writer).await?;
        let mut rest = [0; 64];
        let ended = async { while self.reader.read(&mut rest).await.is_ok_and(|count| count > 0) {} };
        if timeout(END, ended).await.is_err() {
            tracing::warn!("the former process has not ended after {END:?}");
        }
        Ok(())
    }
}
