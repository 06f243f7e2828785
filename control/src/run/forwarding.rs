//! The running data plane as the API sees it: workers, steering, next hops.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crossbeam::channel::{Receiver, TryRecvError};
use serde_json::{Value, json};
use sluice_dataplane::capture::CaptureFilter;
use sluice_dataplane::conn::{ConnectionFilter, ConnectionRecord, Tuple};
use sluice_dataplane::link::Link;
use sluice_dataplane::neigh::{Prefix, Resolution};
use sluice_dataplane::port::afxdp;
use sluice_dataplane::service::{Method, ServiceKey, ServiceTable};
use sluice_dataplane::stats::{DropReason, WorkerCounters};
use sluice_dataplane::steer::{Loaded, ModeChoice, Presence, Steering, SteeringRules, WithoutSocket};
use sluice_dataplane::wire::Address;
use tokio::sync::mpsc;

use super::condition::{self, Progress};
use super::exhaustion::Exhaustion;
use super::offload::Offloading;
use crate::api::DataPlane;
use crate::capture::{CapturePart, Capturing};
use crate::netlink;
use crate::observe::{InterfaceState, Observatory, PeerState, SyncState};
use crate::role::{Announcer, Role};
use crate::sync::Sync;
use crate::takeover;
use crate::trace::Asked;
use crate::workers::Workers;

use filters::Filters;

mod filters;
mod queues;

/// Workers with the XDP programs that feed them.
pub(super) struct Forwarding {
    workers: Workers,
    interfaces: Vec<String>,
    /// One for each interface, but for a process that has not the queues
    steering: RefCell<Vec<Steering>>,
    /// Whether another process has the queues
    released: Cell<bool>,
    /// Programs that were left to it, by which connections are carried until it has put
    /// its own in their place
    left: RefCell<Vec<Loaded>>,
    in_force: RefCell<SteeringRules>,
    next_hops: netlink::Handle,
    /// On NICs whose RSS is not known
    filters: RefCell<Filters>,
    mode: ModeChoice,
    without_socket: WithoutSocket,
    /// Whether a program does not redirect all that it should
    unsteered: Cell<bool>,
    /// Whether an interface was gone when it was looked for last
    gone: Cell<bool>,
    /// Answers of workers that open their interfaces anew
    reopening: RefCell<Option<Receiver<Result<(), String>>>>,
    exhaustion: RefCell<Exhaustion>,
    progress: RefCell<Progress>,
    role: Cell<Role>,
    begun: Instant,
    /// Whether it is about to stop
    leaving: Cell<bool>,
    announcer: RefCell<Announcer>,
    /// Session synchronisation with a peer
    sync: RefCell<Option<Sync>>,
    observatory: Arc<Observatory>,
    /// What carries established connections, if anything does
    offload: RefCell<Option<Offloading>>,
}

impl Forwarding {
    /// `how` is how steering was attached, and will be again; its rules are
    /// `in_force`.
    pub(super) fn new(
        workers: Workers,
        (interfaces, steering): (Vec<String>, Vec<Steering>),
        (mode, without_socket): (ModeChoice, WithoutSocket),
        in_force: SteeringRules,
        next_hops: netlink::Handle,
        observatory: Arc<Observatory>,
    ) -> Self {
        Forwarding {
            workers,
            released: Cell::new(steering.is_empty()),
            left: RefCell::default(),
            interfaces,
            steering: RefCell::new(steering),
            in_force: RefCell::new(in_force),
            next_hops,
            filters: RefCell::default(),
            mode,
            without_socket,
            unsteered: Cell::new(false),
            gone: Cell::new(false),
            reopening: RefCell::default(),
            exhaustion: RefCell::default(),
            progress: RefCell::default(),
            role: Cell::default(),
            begun: Instant::now(),
            leaving: Cell::default(),
            announcer: RefCell::default(),
            sync: RefCell::default(),
            observatory,
            offload: RefCell::default(),
        }
    }

    /// Has established connections carried.
    pub(super) fn carry_by(&self, offload: Option<Offloading>) {
        *self.offload.borrow_mut() = offload;
        if let Some(offload) = &*self.offload.borrow() {
            offload.prepare(&self.interfaces);
        }
        for (number, steering) in self.steering.borrow_mut().iter_mut().enumerate() {
            self.join(number, steering.program());
        }
    }

    /// Leaves everything to the workers, or no longer.
    pub(super) fn rest_offload(&self, resting: bool) {
        if let Some(offload) = &*self.offload.borrow() {
            offload.rest(resting);
        }
    }

    /// Connections that are carried, and those that were and are not counted yet.
    pub(super) fn carried(&self) -> u64 {
        self.workers.counters().iter().map(|counters| counters.offloaded.get()).sum()
    }

    /// Whether no connection is carried, and all that were are counted.
    pub(super) fn carries_nothing(&self) -> bool {
        self.carried() == 0
    }

    /// Asks for next hops towards addresses that have none.
    pub(super) fn ask_ways(&self, addresses: impl Iterator<Item = Address>) {
        let hops = self.next_hops.current();
        let unknown = addresses.filter(|address| hops.resolve(*address) == Resolution::Ask);
        unknown.for_each(|address| self.next_hops.ask(address));
    }

    /// Has connections carried that come by an interface with this program, or that
    /// will have it.
    fn join(&self, number: usize, steering: &mut Loaded) {
        if let Some(offload) = &*self.offload.borrow() {
            let name = steering.interface().to_owned();
            offload.join(number, steering, self.is_zero_copy(&name));
        }
    }

    fn is_zero_copy(&self, interface: &str) -> bool {
        self.workers.ports().iter().any(|port| port.interface == interface && port.zero_copy)
    }

    /// Takes over session synchronisation, of whose state the director reports.
    pub(super) fn synchronise(&self, sync: Option<Sync>) {
        *self.sync.borrow_mut() = sync;
    }

    /// Has workers act by a role. What they had carried by another is carried no more.
    pub(super) fn stand_by(&self, role: Role) {
        let standby = role == Role::Backup;
        let before = self.workers.published().standby.swap(standby, Ordering::Relaxed);
        if let Some(offload) = self.offload.borrow().as_ref().filter(|_| before != standby) {
            offload.invalidate();
        }
    }

    pub(super) fn workers(&self) -> &Workers {
        &self.workers
    }

    /// Looks after the interfaces: follows changes of their MACs, and takes
    /// them up again after they were gone. To be called every second or so.
    pub(super) fn look_after(&self) {
        self.warn_of_exhaustion();
        self.show_sync();
        self.progress.borrow_mut().look(self.workers.counters().iter().map(|c| c.polls.get()));
        self.workers.release();
        if self.released.get() {
            return;
        }
        if self.unsteered.get() {
            self.adopted();
        }
        let mut anew = self.workers.port_failed();
        let mut gone = false;
        for (number, steering) in self.steering.borrow_mut().iter_mut().enumerate() {
            let interface = steering.interface().to_owned();
            match steering.presence() {
                Presence::Same => match steering.refresh_mac() {
                    Ok(true) => tracing::info!(event = "link", interface, "its MAC changed"),
                    Ok(false) => {}
                    Err(error) => tracing::warn!(%error, "looking after the interface"),
                },
                Presence::Gone => gone = true,
                Presence::Another => {
                    let attached = Loaded::load(&interface).and_then(|loaded| {
                        let mut loaded = loaded.numbered(number);
                        loaded.update(&self.in_force.borrow())?;
                        loaded.set_without_socket(self.without_socket)?;
                        loaded.attach(self.mode)
                    });
                    match attached {
                        Ok(new) => {
                            super::renew_rss(&interface);
                            self.filters.borrow_mut().forget(&interface);
                            tracing::info!(event = "link", interface, "it is back");
                            *steering = new;
                            self.join(number, steering.program());
                            anew = true;
                        }
                        Err(error) => tracing::warn!(%error, "the interface is back and cannot be used yet"),
                    }
                }
            }
        }
        if gone != self.gone.replace(gone) && gone {
            tracing::error!(
                event = "link",
                "an interface is gone; the director goes on without it and waits for it"
            );
        }
        self.reopen(anew && !gone);
        if let Some(offload) = &*self.offload.borrow() {
            offload.look_after(&self.interfaces);
        }
        self.filter();
        self.show_interfaces();
    }

    /// Has NICs whose RSS is not known lead answers to their worker by filters.
    fn filter(&self) {
        let (hops, in_force) = (self.next_hops.current(), self.in_force.borrow());
        let workers = self.workers.counters().len();
        for (place, interface) in self.interfaces.iter().enumerate() {
            let by_rss = hops.rss(place).is_some();
            self.filters.borrow_mut().follow(interface, &in_force.local_addresses, workers, by_rss);
        }
    }

    /// Leaves what is known of the interfaces where all can see it.
    pub(super) fn show_interfaces(&self) {
        let steering = self.steering.borrow();
        let interfaces = steering.iter().enumerate().map(|(place, steering)| {
            let name = steering.interface();
            InterfaceState {
                name: name.into(),
                xdp: steering.mode().name().into(),
                socket: if self.is_zero_copy(name) { "zero-copy" } else { "copy" }.into(),
                answers: self.answers(place).into(),
                up: Link::new(name).and_then(|link| link.is_up()).unwrap_or(false),
                missed: afxdp::missed(name),
            }
        });
        self.observatory.set_interfaces(interfaces.collect());
    }

    /// What keeps the director from forwarding.
    pub(super) fn problems(&self) -> Vec<String> {
        let interfaces: Vec<_> =
            self.steering.borrow().iter().map(|steering| steering.interface().to_owned()).collect();
        if self.released.get() {
            // For a moment: another process has the queues, or gives them back.
            return Vec::new();
        }
        let mut problems = condition::problems(&self.workers, &self.progress.borrow(), &interfaces);
        let sync = self.sync.borrow().as_ref().map(Sync::status);
        if condition::lacks_sessions(self.role.get(), sync.as_ref(), self.begun.elapsed()) {
            problems.push("the sessions of the peer are not here yet".to_owned());
        }
        if self.leaving.get() {
            problems.push("it is stopping".to_owned());
        }
        problems
    }

    /// Says from now on that another director is to have the addresses.
    pub(super) fn leave(&self) {
        self.leaving.set(true);
    }

    /// Whether every worker goes round.
    pub(super) fn moves(&self) -> bool {
        self.progress.borrow().stuck().is_empty()
    }

    /// VIPs and LIPs.
    fn service_addresses(&self) -> BTreeSet<IpAddr> {
        let table = self.workers.published().services.load();
        let mut addresses = BTreeSet::new();
        for (_, service) in table.services() {
            if let ServiceKey::Address { address, .. } = service.key {
                addresses.insert(address.into());
            }
            addresses.extend(service.local_addresses.iter().map(|address| IpAddr::from(*address)));
        }
        let marked = table.marks().rules().iter().map(|rule| rule.destination);
        let single = marked.filter(|prefix| *prefix == Prefix::host(prefix.address()));
        addresses.extend(single.map(|prefix| IpAddr::from(prefix.address())));
        addresses
    }

    /// Leaves what is known of the peer where all can see it.
    fn show_sync(&self) {
        if let Some(sync) = &*self.sync.borrow() {
            let role = self.observatory.sync().role.clone();
            let peers = vec![PeerState::from(&sync.status())];
            self.observatory.set_sync(Arc::new(SyncState { role, peers }));
        }
    }

    /// How FULLNAT's answers on an interface reach their worker: `rss` where
    /// local ports are chosen so that they land on its queue, `filters` where
    /// filters lead them there, `hand-off` where other workers hand them over,
    /// `one-queue` with one worker.
    fn answers(&self, interface: usize) -> &'static str {
        if self.workers.counters().len() < 2 {
            return "one-queue";
        }
        let name = self.interfaces.get(interface).map_or("", String::as_str);
        match self.next_hops.current().rss(interface) {
            Some(_) => "rss",
            None if self.filters.borrow().lead(name) => "filters",
            None => "hand-off",
        }
    }

    /// Says so, once a minute at most, when connections were refused because
    /// local ports ran out.
    fn warn_of_exhaustion(&self) {
        let refused = self.workers.counters().iter().map(|c| c.dropped(DropReason::NoLocalPort)).sum();
        if let Some(refused) = self.exhaustion.borrow_mut().news(refused, Instant::now()) {
            tracing::warn!(
                event = "exhaustion",
                refused,
                "connections were refused: no local address and port was free towards their server; add local \
                 addresses (sluice ipvsadm -P, or local_addresses in the configuration)"
            );
        }
    }

    /// Has workers open their interfaces anew if `wanted`, unless they are at
    /// it, and again if they failed.
    fn reopen(&self, wanted: bool) {
        let mut reopening = self.reopening.borrow_mut();
        let mut failed = false;
        if let Some(results) = &*reopening {
            loop {
                match results.try_recv() {
                    Ok(Ok(())) => tracing::info!("a worker opened its interfaces anew"),
                    Ok(Err(reason)) => {
                        tracing::warn!(reason, "a worker could not open its interfaces anew");
                        failed = true;
                    }
                    Err(TryRecvError::Empty) => return,
                    Err(TryRecvError::Disconnected) => break,
                }
            }
        }
        *reopening = (wanted || failed).then(|| self.workers.reopen());
    }
}

impl DataPlane for Forwarding {
    fn publish(&self, table: Arc<ServiceTable>) {
        let servers: BTreeSet<_> = table.servers().map(|(_, server)| server.address).collect();
        for address in servers {
            self.next_hops.ask(address);
        }
        self.workers.published().services.store(table);
    }

    fn adopted_generation(&self) -> u64 {
        self.workers.adopted_generation()
    }

    fn adopted(&self) {
        // The last table is of no use any more, and may be large.
        self.workers.published().release();
        let table = self.workers.published().services.load();
        if let Some(offload) = &*self.offload.borrow() {
            offload.adopted(&table);
        }
        let mut rules = SteeringRules::of(&table);
        // Connections through a LIP may outlast the service that named it, or
        // its being named there.
        let mut outlasting = table.servers().filter(|(_, server)| {
            let counters = &server.counters;
            let connections = || counters.active() + counters.inactive() > 0;
            server.method == Method::FullNat && (!server.available || connections())
        });
        if outlasting.next().is_some() {
            rules.local_addresses.extend(&self.in_force.borrow().local_addresses);
        }
        rules.keep_former(&self.in_force.borrow(), &table);
        if rules == *self.in_force.borrow() && !self.unsteered.get() {
            return;
        }
        let mut failed = false;
        for steering in self.steering.borrow_mut().iter_mut() {
            if let Err(error) = steering.update(&rules) {
                failed = true;
                if !self.unsteered.get() {
                    tracing::error!(%error, "not all packets reach the workers; this is tried again every second");
                }
            }
        }
        self.unsteered.set(failed);
        self.in_force.replace(rules);
    }

    fn connections(&self, filter: ConnectionFilter) -> mpsc::Receiver<Vec<ConnectionRecord>> {
        let lister = self.workers.lister();
        let (answer, receiver) = mpsc::channel(1);
        tokio::task::spawn_blocking(move || {
            for slice in lister.connections(filter) {
                if answer.blocking_send(slice).is_err() {
                    return;
                }
            }
        });
        receiver
    }

    fn capture(&self, filter: CaptureFilter, snap: usize) -> Option<mpsc::Receiver<CapturePart>> {
        Some(Capturing::start(&self.workers, self.interfaces.clone(), filter, snap)?.parts())
    }

    fn trace(&self, tuple: &Tuple, interface: Option<usize>, mark: Option<u32>) -> Asked {
        let hops = self.next_hops.current();
        let interface = interface.or_else(|| hops.leaves_by(tuple.source)).unwrap_or(0);
        let workers = self.workers.counters().len();
        let queue = match workers {
            1 => Some(0),
            _ => hops.rss(interface).and_then(|rss| rss.queue(tuple)).filter(|queue| *queue < workers),
        };
        Asked {
            interfaces: self.interfaces.clone(),
            interface,
            wanted: self.in_force.borrow().wants(tuple, interface),
            queue,
            questions: self.workers.ask(*tuple, interface, mark),
        }
    }

    fn interfaces(&self) -> &[String] {
        &self.interfaces
    }

    fn status(&self) -> Value {
        let counters = self.workers.counters();
        self.show_interfaces();
        let interfaces: Vec<_> = self
            .observatory
            .interfaces()
            .iter()
            .enumerate()
            .map(|(place, state)| {
                let sum = |of: fn(&WorkerCounters, usize) -> u64| {
                    counters.iter().map(|c| of(c, place)).sum::<u64>()
                };
                json!({
                    "name": state.name,
                    "xdp": state.xdp,
                    "socket": state.socket,
                    "answers": state.answers,
                    "up": state.up,
                    "received": sum(WorkerCounters::received_on),
                    "transmitted": sum(WorkerCounters::transmitted_on),
                    "handed_off": sum(WorkerCounters::handed_off),
                    "missed": state.missed,
                })
            })
            .collect();
        let workers: Vec<_> = counters.iter().map(|c| worker_status(c)).collect();
        let sync = self.sync.borrow().as_ref().map(Sync::status);
        let offload = self.offload.borrow().as_ref().map(|offload| {
            let count = |of: fn(&WorkerCounters) -> u64| counters.iter().map(|c| of(c)).sum::<u64>();
            let names = self.interfaces.iter().enumerate();
            let to: Vec<_> =
                names.filter(|(place, _)| offload.is_capable(*place)).map(|(_, name)| name).collect();
            json!({
                "setting": offload.setting(),
                "connections": count(|c| c.offloaded.get()),
                "packets": count(|c| c.carried.get()),
                "to": to,
            })
        });
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "role": self.role.get(),
            "takeover": takeover::VERSION,
            "problems": self.problems(),
            "interfaces": interfaces,
            "workers": workers,
            "sync": sync,
            "offload": offload,
        })
    }

    fn role(&self) -> Role {
        self.role.get()
    }

    fn set_role(&self, role: Role) {
        let before = self.role.replace(role);
        self.stand_by(role);
        if before != role {
            tracing::info!(event = "role", %role, "the role changed");
        }
        let peers = self.observatory.sync().peers.clone();
        self.observatory.set_sync(Arc::new(SyncState { role: Some(role.to_string()), peers }));
        match role {
            // Again where it was active before: the addresses may have moved.
            Role::Active => {
                let interfaces = self.steering.borrow().iter().map(|s| s.interface().to_owned()).collect();
                self.announcer.borrow_mut().begin(interfaces, self.service_addresses());
            }
            Role::Backup => self.announcer.borrow_mut().stop(),
        }
    }

    fn observatory(&self) -> &Arc<Observatory> {
        &self.observatory
    }
}

fn worker_status(counters: &WorkerCounters) -> Value {
    let drops: serde_json::Map<_, _> = DropReason::ALL
        .iter()
        .map(|reason| (reason.name().to_owned(), counters.dropped(*reason).into()))
        .collect();
    json!({
        "received": counters.received.get(),
        "transmitted": counters.transmitted.get(),
        "fragmented": counters.fragmented.get(),
        "punted": counters.punted.get(),
        "handed": counters.handed.get(),
        "handed_in": counters.handed_in.get(),
        "held": counters.held.get(),
        "connections": counters.connections.get(),
        "offloaded": counters.offloaded.get(),
        "carried": counters.carried.get(),
        "expired": counters.expired.get(),
        "polls": counters.polls.get(),
        "drops": drops,
    })
}
