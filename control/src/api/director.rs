//! The director's state as the API sees it: the rules and the data plane.

use std::cell::{Cell, Ref, RefCell};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sluice_dataplane::capture::{CaptureFilter, MOST_CAPTURES};
use sluice_dataplane::conn::{ConnectionFilter, ConnectionRecord, Tuple};
use sluice_dataplane::service::{Family, ServiceKey, ServiceTable};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep};

use super::message::{Answer, LocalAddressUse, Request};
use crate::capture::{self, CapturePart, CaptureQuery};
use crate::events::{self, Kind, Severity};
use crate::health::Health;
use crate::observe::Observatory;
use crate::reload::Source;
use crate::role::Role;
use crate::rules::{Daemon, DaemonRole, Rules, RulesError, ServiceListing};
use crate::sync::lvs::{counters, socket};
use crate::takeover::Takeover;
use crate::trace::{Asked, TraceError, TraceQuery};

/// What control needs of the running workers.
pub trait DataPlane {
    /// Makes `table` the one that workers take up at their next burst.
    fn publish(&self, table: Arc<ServiceTable>);

    /// The generation that every worker has taken up by now.
    fn adopted_generation(&self) -> u64;

    /// All connections that match, in slices as workers hand them over. The sender is
    /// dropped after the last slice. The channel should be short: a slow
    /// reader then holds back the next slice and never the workers' packets,
    /// and a reader that is gone ends the listing.
    fn connections(&self, filter: ConnectionFilter) -> mpsc::Receiver<Vec<ConnectionRecord>>;

    /// Called once every worker has taken up the table published last: what
    /// brings packets to the workers may follow it now.
    fn adopted(&self);

    /// Checks that a sync daemon could run here; returns it with nothing left
    /// to defaults.
    ///
    /// # Errors
    /// [`RulesError::NoDevice`], [`RulesError::DaemonSocket`].
    fn prepare_daemon(&self, daemon: Daemon) -> Result<Daemon, RulesError> {
        socket::prepared(daemon)
    }

    /// Begins to copy packets that match, at most `snap` bytes of each. Parts come
    /// until the receiver is dropped; the first names the interfaces. `None` while
    /// there are too many captures already.
    fn capture(&self, filter: CaptureFilter, snap: usize) -> Option<mpsc::Receiver<CapturePart>>;

    /// Asks every worker what would become of a packet. `interface` is the number
    /// of that which it comes by; without it, it is that of the route to its
    /// source. `mark` is the one that it is taken to have.
    fn trace(&self, tuple: &Tuple, interface: Option<usize>, mark: Option<u32>) -> Asked;

    /// The director's interfaces.
    fn interfaces(&self) -> &[String];

    /// Counters and state for `sluice status`, as a JSON object.
    fn status(&self) -> serde_json::Value;

    /// Whether it is the active director.
    fn role(&self) -> Role;

    /// Makes it the active director, or another one's backup. The workers act
    /// so at their next burst.
    fn set_role(&self, role: Role);

    /// What there is to be seen of it.
    fn observatory(&self) -> &Arc<Observatory>;
}

/// What a change is answered with while another process takes over.
pub(super) fn frozen() -> Answer {
    Answer::error("taking_over", "another process is taking this one's place: try again")
}

/// How long a change waits for the workers before it is answered anyway.
const ADOPTION_TIMEOUT: Duration = Duration::from_secs(2);

/// A busy worker takes up a table within microseconds, which is less than the
/// runtime's timer can tell: for so long the generation is looked at without
/// sleeping, but with a turn for other clients.
const ADOPTION_SPIN: Duration = Duration::from_micros(200);

/// Between two looks at the workers' generation after that.
const ADOPTION_POLL: Duration = Duration::from_millis(1);

/// The rules and the data plane that they rule, on the control thread.
pub struct Director<D> {
    rules: RefCell<Rules>,
    plane: D,
    generation: Cell<u64>,
    lvs: Arc<counters::Counters>,
    daemons_changed: Notify,
    health: Health,
    source: RefCell<Option<Source>>,
    takeovers: RefCell<Option<mpsc::Sender<Takeover>>>,
    frozen: Cell<bool>,
}

impl<D: DataPlane> Director<D> {
    /// A director whose workers have no table yet; call
    /// [`Director::publish`] for the first.
    pub fn new(rules: Rules, plane: D) -> Rc<Self> {
        Rc::new(Director {
            rules: RefCell::new(rules),
            lvs: Arc::clone(plane.observatory().lvs()),
            plane,
            generation: Cell::new(0),
            daemons_changed: Notify::new(),
            health: Health::default(),
            source: RefCell::default(),
            takeovers: RefCell::default(),
            frozen: Cell::default(),
        })
    }

    /// Where processes come that want to take this one's place; one of them is
    /// dealt with at a time. Whoever asks before is told that it cannot be.
    pub fn takeovers(&self) -> mpsc::Receiver<Takeover> {
        let (sender, receiver) = mpsc::channel(1);
        self.takeovers.replace(Some(sender));
        receiver
    }

    /// Hands somebody on who wants to take this process's place.
    pub(super) fn offer(&self, takeover: Takeover) -> Result<(), Takeover> {
        match &*self.takeovers.borrow() {
            Some(sender) if !self.frozen.get() => sender.try_send(takeover).map_err(|error| match error {
                mpsc::error::TrySendError::Full(takeover) | mpsc::error::TrySendError::Closed(takeover) => {
                    takeover
                }
            }),
            _ => Err(takeover),
        }
    }

    /// Refuses clients' changes from now on, or does so no longer: another
    /// process is taking over, and would not know of them.
    pub fn freeze(&self, frozen: bool) {
        self.frozen.set(frozen);
    }

    /// Whether clients' changes are refused.
    pub(super) fn is_frozen(&self) -> bool {
        self.frozen.get()
    }

    /// The rules, to be read.
    ///
    /// # Panics
    /// When called from within [`Director::change`].
    pub fn rules(&self) -> Ref<'_, Rules> {
        self.rules.borrow()
    }

    /// What is checked, and what came of it.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// What the sync daemons did.
    pub fn lvs(&self) -> &Arc<counters::Counters> {
        &self.lvs
    }

    /// Waits until a sync daemon came or went.
    pub async fn daemons_changed(&self) {
        self.daemons_changed.notified().await;
    }

    fn stop_daemon(&self, role: DaemonRole) -> Result<(), RulesError> {
        self.rules.borrow_mut().stop_daemon(role)?;
        self.daemons_changed.notify_one();
        Ok(())
    }

    /// Makes a sync daemon part of the rules, once its socket could be had:
    /// [`crate::sync::lvs::run`] does the rest.
    fn start_daemon(&self, daemon: Daemon) -> Result<(), RulesError> {
        let daemon = self.plane.prepare_daemon(daemon)?;
        self.rules.borrow_mut().start_daemon(daemon)?;
        self.daemons_changed.notify_one();
        Ok(())
    }

    /// Says which file the rules are from, for [`Director::reload`].
    pub fn configured_by(&self, source: Source) {
        self.source.replace(Some(source));
    }

    /// Where the rules are from, if that is a file.
    pub fn source(&self) -> Option<Source> {
        self.source.borrow().clone()
    }

    /// The data plane.
    pub fn plane(&self) -> &D {
        &self.plane
    }

    /// Publishes the rules of now and returns their generation, without
    /// waiting for the workers.
    pub fn publish(&self) -> u64 {
        let generation = self.generation.get() + 1;
        self.generation.set(generation);
        let table = self.rules.borrow_mut().table(generation);
        self.plane.publish(Arc::new(table));
        generation
    }

    /// Changes the rules and, unless the change is refused, publishes them
    /// and waits until every worker forwards by them.
    ///
    /// # Errors
    /// Those of `change`.
    pub async fn change<E>(&self, change: impl FnOnce(&mut Rules) -> Result<(), E>) -> Result<(), E> {
        // The borrow ends here: nothing is held across the waiting.
        change(&mut self.rules.borrow_mut())?;
        self.publish_and_wait().await;
        Ok(())
    }

    /// Changes the rules where `change` says that it did; then publishes them
    /// and waits until every worker forwards by them.
    pub async fn adjust(&self, change: impl FnOnce(&mut Rules) -> bool) {
        // The borrow ends here: nothing is held across the waiting.
        let changed = change(&mut self.rules.borrow_mut());
        if changed {
            self.publish_and_wait().await;
        }
    }

    /// Has the traffic of services and servers begin with what another process
    /// counted.
    pub fn carry_traffic(&self, listed: &[ServiceListing]) {
        self.rules.borrow_mut().carry_traffic(listed);
    }

    /// The number of the table published last, which every change of the
    /// rules raises.
    pub fn generation(&self) -> u64 {
        self.generation.get()
    }

    /// Publishes the rules of now and waits until every worker forwards by
    /// them.
    pub async fn publish_and_wait(&self) {
        let generation = self.publish();
        self.adopted(generation).await;
        self.follow();
    }

    /// Lets what feeds the workers follow the table published last, unless
    /// some worker has yet to take it up: whoever waits for that one does it.
    fn follow(&self) {
        if self.plane.adopted_generation() >= self.generation.get() {
            self.plane.adopted();
        }
    }

    /// Waits until the workers have table `generation`, or a bounded time.
    async fn adopted(&self, generation: u64) {
        let begun = Instant::now();
        while self.plane.adopted_generation() < generation {
            let waited = begun.elapsed();
            if waited < ADOPTION_SPIN {
                tokio::task::yield_now().await;
                continue;
            }
            if waited >= ADOPTION_TIMEOUT {
                tracing::warn!(
                    generation,
                    adopted = self.plane.adopted_generation(),
                    "workers did not take up the new service table within {ADOPTION_TIMEOUT:?}"
                );
                return;
            }
            sleep(ADOPTION_POLL).await;
        }
    }

    /// What has to be done every [`SAMPLE_INTERVAL`](crate::rules::SAMPLE_INTERVAL);
    /// [`serve`](super::serve) does it.
    pub fn tick(&self) {
        let reclaimed = {
            let mut rules = self.rules.borrow_mut();
            rules.sample_rates();
            rules.reclaim(self.plane.adopted_generation())
        };
        if reclaimed > 0 {
            self.publish();
        }
        self.follow();
    }

    /// Answers a request whose answer has one part, and records what it changed.
    pub(super) async fn answer(&self, request: Request) -> Answer {
        if self.frozen.get() && !request.only_asks() {
            return frozen();
        }
        let change = events::describe(&request);
        let answer = self.carry_out(request).await;
        if let (Some(change), Answer::Done) = (change, &answer) {
            self.plane.observatory().events().record(Kind::Command, Severity::Info, change);
        }
        answer
    }

    async fn carry_out(&self, request: Request) -> Answer {
        match request {
            Request::AddService { service, settings } => {
                self.change(|rules| rules.add_service(service, settings)).await.into()
            }
            Request::EditService { service, settings } => {
                self.change(|rules| rules.edit_service(&service, settings)).await.into()
            }
            Request::DeleteService { service } => {
                self.change(|rules| rules.delete_service(&service)).await.into()
            }
            Request::Flush => self
                .change(|rules| {
                    rules.flush();
                    Ok::<(), RulesError>(())
                })
                .await
                .into(),
            Request::AddServer { service, server } => {
                self.change(|rules| rules.add_server(&service, server)).await.into()
            }
            Request::EditServer { service, server } => {
                self.change(|rules| rules.edit_server(&service, server)).await.into()
            }
            Request::DeleteServer { service, address, port } => {
                self.change(|rules| rules.delete_server(&service, address, port)).await.into()
            }
            Request::AddLocalAddress { service, address } => {
                self.change(|rules| rules.add_local_address(&service, address)).await.into()
            }
            Request::DeleteLocalAddress { service, address } => {
                self.change(|rules| rules.delete_local_address(&service, address)).await.into()
            }
            Request::Zero { service } => self.rules.borrow_mut().zero(service.as_ref()).into(),
            Request::SetTimeouts { timeouts } => {
                self.change(|rules| rules.set_timeouts(timeouts)).await.into()
            }
            Request::StartDaemon { daemon } => self.start_daemon(daemon).into(),
            Request::StopDaemon { role } => self.stop_daemon(role).into(),
            Request::AddMark { rule, number } => {
                self.change(|rules| rules.add_mark(rule, number)).await.into()
            }
            Request::DeleteMark { rule } => self.change(|rules| rules.delete_mark(&rule)).await.into(),
            Request::DeleteMarkNumber { number } => {
                self.change(|rules| rules.delete_mark_number(number)).await.into()
            }
            Request::FlushMarks => self
                .change(|rules| {
                    rules.flush_marks();
                    Ok::<(), RulesError>(())
                })
                .await
                .into(),
            Request::ReplaceMarks { rules: new } => {
                self.change(|rules| rules.replace_marks(new)).await.into()
            }
            Request::Marks => Answer::Marks(self.rules().marks()),
            Request::Timeouts => Answer::Timeouts(self.rules().timeouts()),
            Request::Daemons => Answer::Daemons(self.rules().daemons().to_vec()),
            Request::Status => {
                let mut status = self.plane.status();
                if let Some(status) = status.as_object_mut() {
                    for daemon in self.rules().daemons() {
                        let (name, counters) = match daemon.role {
                            DaemonRole::Master => ("lvs_master", self.lvs.master.status()),
                            DaemonRole::Backup => ("lvs_backup", self.lvs.backup.status()),
                        };
                        status.insert(name.into(), counters);
                    }
                }
                Answer::Status(status)
            }
            Request::Trace { query } => self.trace(&query).await,
            Request::Role => Answer::Role(self.plane.role()),
            Request::SetRole { role } => {
                self.plane.set_role(role);
                Answer::Done
            }
            Request::LocalAddresses { service } => {
                let listed = self.rules().local_addresses(service.as_ref());
                match listed {
                    Ok(listed) => {
                        let uses = self.local_connections().await;
                        let count = |key, lip| uses.get(&(key, lip)).copied().unwrap_or(0);
                        Answer::LocalAddresses(
                            listed
                                .into_iter()
                                .map(|entry| LocalAddressUse {
                                    service: entry.service,
                                    default: entry.default,
                                    addresses: entry
                                        .addresses
                                        .into_iter()
                                        .map(|lip| (lip, count(entry.service.key(), lip)))
                                        .collect(),
                                })
                                .collect(),
                        )
                    }
                    Err(error) => error.into(),
                }
            }
            // The server sends these part by part.
            Request::TakeOver { .. }
            | Request::Services { .. }
            | Request::Health
            | Request::Configuration
            | Request::FindConnections { .. }
            | Request::Overview { .. }
            | Request::Events { .. }
            | Request::Capture { .. }
            | Request::Reload { .. } => Answer::Done,
        }
    }

    /// What would become of a packet.
    async fn trace(&self, query: &TraceQuery) -> Answer {
        let refused = |error: TraceError| Answer::error("bad_request", error.to_string());
        let tuple = match query.tuple() {
            Ok(tuple) => tuple,
            Err(error) => return refused(error),
        };
        let interfaces = self.plane.interfaces();
        let interface = match &query.interface {
            None => None,
            Some(name) => match interfaces.iter().position(|interface| interface == name) {
                Some(place) => Some(place),
                None => return refused(TraceError::NoInterface(name.clone(), interfaces.join(", "))),
            },
        };
        let asked = self.plane.trace(&tuple, interface, query.mark);
        let answers = asked.answers().await;
        let health = |name| {
            let all = self.health.overview(&self.rules());
            all.into_iter().find(|health| health.service == name)
        };
        Answer::Trace(Box::new(asked.report(&tuple, query.mark, answers, health)))
    }

    /// Begins a capture, or says why it cannot be, by a code and in words.
    pub(super) fn capture(
        &self,
        query: &CaptureQuery,
        count: Option<u64>,
        seconds: Option<u64>,
    ) -> Result<capture::Stream, (&'static str, String)> {
        let filter = query.filter().map_err(|error| ("bad_request", error.to_string()))?;
        let parts = self.plane.capture(filter, query.snap()).ok_or_else(|| {
            let message =
                format!("{MOST_CAPTURES} captures are under way, which is the most: end one of them");
            ("too_many_captures", message)
        })?;
        self.plane.observatory().events().record(Kind::Access, Severity::Info, "packets are captured");
        Ok(capture::Stream::new(parts, count, seconds))
    }

    /// Connections by service and LIP.
    async fn local_connections(&self) -> HashMap<(Option<ServiceKey>, IpAddr), u64> {
        let mut uses = HashMap::new();
        let services: HashSet<_> = self.rules().keys().collect();
        let mut slices = self.plane.connections(ConnectionFilter::default());
        while let Some(slice) = slices.recv().await {
            for record in slice {
                let Some((lip, _)) = record.local else { continue };
                let (protocol, (address, port)) = (record.protocol, record.service);
                let at = |port| ServiceKey::Address { protocol, address, port };
                let key = match record.mark {
                    Some(mark) => ServiceKey::Mark { mark, family: Family::of(address) },
                    None if services.contains(&at(port)) => at(port),
                    None => at(0),
                };
                *uses.entry((Some(key), lip.into())).or_default() += 1;
            }
        }
        uses
    }
}
