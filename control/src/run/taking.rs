//! The new process's part of a takeover: see [`crate::takeover`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use sluice_dataplane::steer::{Mode, ModeChoice};
use sluice_dataplane::sync::{Importer, Source};
use tokio::io::{AsyncReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, sleep, timeout};

use super::forwarding::Forwarding;
use crate::api::{self, Answer, Client, DataPlane, Director, Request};
use crate::marks::MarkRule;
use crate::rules::{Daemon, LoadError, Rules, ServiceListing, ServiceRules, Target, Timeouts};
use crate::sync::wire::{self, Message};
use crate::takeover::{Frame, TakeoverError};

/// Between two looks at workers that take sessions.
const PAUSE: Duration = Duration::from_millis(1);

/// How long the running process may be silent, and take to end.
const SILENCE: Duration = Duration::from_secs(30);
const END: Duration = Duration::from_secs(10);

/// The process whose place is to be taken, and what it said of itself.
pub(super) struct Predecessor {
    client: Client,
    services: Vec<ServiceListing>,
    marks: Vec<MarkRule>,
    timeouts: Timeouts,
    daemons: Vec<Daemon>,
    /// Each with how its program runs, and whether it has zero copy
    interfaces: Vec<(String, Mode, bool)>,
}

impl Predecessor {
    /// Asks it for its rules.
    pub(super) fn ask(client: Client) -> Result<Self> {
        let asked = |what: &'static str| move || format!("cannot take over: asking for its {what}");
        let mut services = Vec::new();
        let listed = client.call_parts(&Request::Services { service: None }, |part| {
            if let Answer::Service(service) = part {
                services.push(service);
            }
            Ok(())
        });
        listed.with_context(asked("services"))?;
        let Answer::Marks(marks) = client.call(&Request::Marks).with_context(asked("mark rules"))? else {
            bail!("cannot take over: it did not say its mark rules");
        };
        let Answer::Timeouts(timeouts) = client.call(&Request::Timeouts).with_context(asked("timeouts"))?
        else {
            bail!("cannot take over: it did not say its timeouts");
        };
        let Answer::Daemons(daemons) = client.call(&Request::Daemons).with_context(asked("sync daemons"))?
        else {
            bail!("cannot take over: it did not say its sync daemons");
        };
        let Answer::Status(status) = client.call(&Request::Status).with_context(asked("status"))? else {
            bail!("cannot take over: it did not say its status");
        };
        let interface = |value: &serde_json::Value| {
            let mode = match value["xdp"].as_str()? {
                "native" => Mode::Native,
                "generic" => Mode::Generic,
                _ => return None,
            };
            Some((value["name"].as_str()?.to_owned(), mode, value["socket"] == "zero-copy"))
        };
        let interfaces = status["interfaces"].as_array();
        let interfaces = interfaces.and_then(|all| all.iter().map(interface).collect::<Option<_>>());
        let interfaces = interfaces.context("cannot take over: it did not say its interfaces")?;
        let marks = marks.into_iter().map(|listing| listing.rule).collect();
        Ok(Predecessor { client, services, marks, timeouts, daemons, interfaces })
    }

    /// The rules that it has, with what only the configuration says.
    pub(super) fn rules(
        &self,
        workers: usize,
        interfaces: Vec<String>,
        file: Target,
    ) -> Result<Rules, LoadError> {
        let mut timeouts: HashMap<_, _> =
            file.services.iter().map(|service| (service.name, service.timeouts)).collect();
        let services = self.services.iter().map(|service| ServiceRules {
            name: service.name,
            settings: service.settings.clone(),
            timeouts: timeouts.remove(&service.name).unwrap_or_default(),
            // Listed are the newest first.
            servers: service.servers.iter().rev().map(|server| server.server.clone()).collect(),
            local_addresses: service.local_addresses.clone(),
        });
        let marks = self.marks.iter().cloned().enumerate().map(|(place, rule)| (place + 1, rule));
        let daemons = self.daemons.clone();
        let target = Target { services: services.collect(), marks: marks.collect(), daemons, ..file };
        let mut rules = Rules::configured(workers, interfaces, target)?;
        rules
            .set_timeouts(self.timeouts)
            .map_err(|source| LoadError::Director { what: "timeouts", source })?;
        Ok(rules)
    }

    /// How programs run on these interfaces, and are to run, and whether their
    /// queues are without copies.
    pub(super) fn modes(&self, interfaces: &[String]) -> Result<Vec<(String, Mode, bool)>> {
        let found =
            |name| {
                self.interfaces.iter().find(|(of, ..)| of == name).cloned().with_context(|| {
                    format!("cannot take over: the running director has no interface {name}")
                })
            };
        interfaces.iter().map(found).collect()
    }

    /// Takes sessions, and then the queues.
    pub(super) async fn take(&self, director: &Director<Forwarding>) -> Result<Parting> {
        let failed = |error: TakeoverError| anyhow!("cannot take over: {error}");
        let plane = director.plane();
        // The kernel takes its time to look at them, in which the other one can
        // still be changed by its clients.
        let programs = plane.load()?;
        let (mut reader, mut writer) = self.begin(director).await.map_err(failed)?;
        let mut taker = Taker::new(plane);
        let mut ready = false;
        let role = loop {
            let frame = timeout(SILENCE, Frame::receive(&mut reader)).await;
            match frame.map_err(|_| failed(TakeoverError::Silent("said nothing")))?.map_err(failed)? {
                Frame::Sessions(message) => taker.message(&message).await.map_err(failed)?,
                Frame::Yours(role) if ready => break role,
                _ => return Err(failed(TakeoverError::Unexpected)),
            }
            if taker.complete && !ready {
                taker.finish().await;
                Frame::Ready.send(&mut writer).await.map_err(failed)?;
                ready = true;
            }
        };
        let begun = Instant::now();
        let sessions = taker.end().await;
        // Before the first packet comes; the rest of it takes its time.
        plane.stand_by(role);
        plane.open(programs).await.map_err(failed)?;
        plane.set_role(role);
        let milliseconds = begun.elapsed().as_millis() as u64;
        tracing::info!(sessions, milliseconds, "the queues are this process's");
        Ok(Parting { reader, writer })
    }

    async fn begin(
        &self,
        director: &Director<Forwarding>,
    ) -> Result<(BufReader<OwnedReadHalf>, OwnedWriteHalf), TakeoverError> {
        let stream = UnixStream::connect(self.client.path()).await?;
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        api::upgrade::ask(&mut writer, director.plane().interfaces().to_vec()).await?;
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
    reader: BufReader<OwnedReadHalf>,
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
