//! Keeps the rules as checks, quorum and sorry server want them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::check::Check;
use super::overview::ServiceHealth;
use super::plan::ServicePlan;
use super::quorum::Quorum;
use super::schedule::{Checker, Order, Verdict};
use super::status::{Results, State};
use super::vip::Through;
use crate::api::{DataPlane, Director};
use crate::rules::{CheckedServer, Method, Rules, Server, ServiceName, Tunnel};

/// Between two looks whether somebody else changed the rules.
const LOOK: Duration = Duration::from_millis(250);

/// Between two times that results without consequences are shown to others.
const SHOW: Duration = Duration::from_secs(1);

/// Verdicts that are put in force together.
const BATCH: usize = 4096;

type Key = (IpAddr, u16);

/// What is checked, and what came of it; of the control thread.
#[derive(Default)]
pub struct Health {
    plans: RefCell<BTreeMap<ServiceName, ServicePlan>>,
    state: RefCell<Watch>,
    replanned: Notify,
}

#[derive(Default)]
pub(super) struct Watch {
    pub(super) services: BTreeMap<ServiceName, Watched>,
    /// Whose check has this number
    pub(super) owners: HashMap<u64, (ServiceName, Key)>,
    pub(super) next: u64,
}

pub(super) struct Watched {
    pub(super) plan: ServicePlan,
    pub(super) quorum: Quorum,
    pub(super) monitors: BTreeMap<Key, Monitor>,
}

/// One server that is checked.
pub(super) struct Monitor {
    pub(super) probes: Vec<Probe>,
    pub(super) state: State,
    pub(super) since: SystemTime,
    pub(super) reason: String,
    /// Whether it was taken out, or its weight held at 0
    pub(super) out: bool,
}

pub(super) struct Probe {
    pub(super) id: u64,
    pub(super) check: Arc<Check>,
    pub(super) target: SocketAddr,
    pub(super) through: Option<Through>,
    pub(super) results: Arc<Results>,
    pub(super) state: State,
    pub(super) weight: Option<u32>,
}

impl Health {
    /// Replaces what is to be checked, once [`supervise`] runs. Checks that stay the same go on with
    /// what they know; servers that are no longer checked are in use again.
    pub fn set_plans(&self, plans: impl IntoIterator<Item = (ServiceName, ServicePlan)>) {
        let plans = plans.into_iter().filter(|(_, plan)| !plan.is_empty());
        self.plans.replace(plans.collect());
        self.replanned.notify_one();
    }

    /// The services that are checked otherwise than by these plans.
    pub fn differing(&self, plans: &[(ServiceName, ServicePlan)]) -> Vec<ServiceName> {
        let now = self.plans.borrow();
        let wanted: BTreeMap<_, _> =
            plans.iter().filter(|(_, plan)| !plan.is_empty()).map(|(name, plan)| (*name, plan)).collect();
        let names: BTreeSet<ServiceName> = now.keys().chain(wanted.keys()).copied().collect();
        names.into_iter().filter(|name| now.get(name) != wanted.get(name).copied()).collect()
    }

    /// All services that are checked, with their servers.
    pub fn overview(&self, rules: &Rules) -> Vec<ServiceHealth> {
        self.state.borrow().overview(rules)
    }
}

/// Makes checks and changes the rules by them. It returns only when the checks
/// cannot go on.
///
/// # Errors
/// When the thread of the checks could not be started, or ended.
pub async fn supervise<D: DataPlane>(director: &Director<D>) -> io::Error {
    let health = director.health();
    let mut checker = match Checker::start(director.rules().interfaces().to_vec()) {
        Ok(checker) => checker,
        Err(error) => return error,
    };
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = None;
    let (mut shown, mut news) = (Instant::now(), false);
    loop {
        let mut touched = BTreeSet::new();
        let mut all = false;
        tokio::select! {
            verdict = checker.verdicts.recv() => {
                let Some(verdict) = verdict else {
                    return io::Error::other("the thread of the health checks ended");
                };
                let mut state = health.state.borrow_mut();
                touched.extend(state.take(verdict));
                for _ in 1..BATCH {
                    let Ok(verdict) = checker.verdicts.try_recv() else { break };
                    touched.extend(state.take(verdict));
                }
            }
            () = health.replanned.notified() => all = true,
            _ = look.tick() => all = seen != Some(director.generation()),
        }
        let mut orders = Vec::new();
        let before = director.generation();
        if all {
            health.state.borrow_mut().reconcile(&health.plans.borrow(), &director.rules(), &mut orders);
            touched.extend(health.state.borrow().services.keys());
        }
        if !touched.is_empty() {
            let plans = &health.plans;
            let changed = director.adjust(|rules| {
                health.state.borrow_mut().enforce(rules, &plans.borrow(), &touched, &mut orders)
            });
            changed.await;
        }
        if all || seen == Some(before) {
            // What this changed itself need not be looked at, unless others
            // changed something meanwhile.
            seen = Some(director.generation().min(before + 1));
        }
        for order in orders {
            if checker.orders.send(order).await.is_err() {
                return io::Error::other("the thread of the health checks ended");
            }
        }
        news |= !touched.is_empty();
        if shown.elapsed() >= if news { LOOK } else { SHOW } {
            director.plane().observatory().set_health(Arc::new(health.state.borrow().observed()));
            (shown, news) = (Instant::now(), false);
        }
    }
}

impl Watch {
    /// Takes a verdict; returns whose servers may have to change.
    fn take(&mut self, verdict: Verdict) -> Option<ServiceName> {
        // Of a check that was stopped meanwhile.
        let (name, key) = *self.owners.get(&verdict.id)?;
        let monitor = self.services.get_mut(&name)?.monitors.get_mut(&key)?;
        let probe = monitor.probes.iter_mut().find(|probe| probe.id == verdict.id)?;
        if verdict.weight != probe.weight {
            let weight = verdict.weight.map_or("its own".to_owned(), |weight| weight.to_string());
            tracing::info!(service = %name, server = %SocketAddr::from(key), weight, "a check sets its weight");
        }
        (probe.state, probe.weight) = (verdict.state, verdict.weight);
        let kind = probe.check.kind.name();
        let state = State::of(monitor.probes.iter().map(|probe| probe.state));
        if state != monitor.state {
            let was = std::mem::replace(&mut monitor.state, state);
            monitor.since = verdict.at;
            monitor.reason = verdict.reason;
            let (server, reason) = (SocketAddr::from(key), &monitor.reason);
            if state == State::Down {
                tracing::warn!(service = %name, %server, check = kind, reason, "a server is down");
            } else {
                let (state, was) = (state.name(), was.name());
                tracing::info!(service = %name, %server, check = kind, reason, was, "a server is {state}");
            }
        }
        Some(name)
    }

    /// Starts and stops checks so that they are those of the plans and of the
    /// servers that there are.
    fn reconcile(
        &mut self,
        plans: &BTreeMap<ServiceName, ServicePlan>,
        rules: &Rules,
        orders: &mut Vec<Order>,
    ) {
        for (name, plan) in plans {
            let Some(servers) = rules.checked_servers(name) else { continue };
            let watched = self.services.entry(*name).or_insert_with(|| Watched {
                plan: plan.clone(),
                quorum: Quorum::new(plan.quorum, plan.hysteresis),
                monitors: BTreeMap::new(),
            });
            if watched.plan != *plan {
                watched.plan = plan.clone();
                watched.quorum = watched.quorum.changed(plan.quorum, plan.hysteresis);
            }
            let mut former = std::mem::take(&mut watched.monitors);
            for CheckedServer { server, suspended, held } in servers {
                let key = (server.address, server.port);
                let mut monitor = former.remove(&key);
                // Somebody added it again: then it begins anew.
                if monitor.as_ref().is_some_and(|m| m.out && !suspended && held != Some(0)) {
                    stop(monitor.take(), &mut self.owners, orders);
                }
                let wanted = plan.checks_of(server.address, server.port);
                let through = |check: &Arc<Check>| through(check, name, &server);
                let same = |monitor: &Monitor| {
                    let now = monitor.probes.iter().map(|probe| (&probe.check, probe.through));
                    now.eq(wanted.iter().map(|check| (check, through(check))))
                };
                if monitor.as_ref().is_some_and(|monitor| !same(monitor)) {
                    let out = monitor.as_ref().is_some_and(|monitor| monitor.out);
                    let state = monitor.as_ref().map_or(State::Checking, |monitor| monitor.state);
                    stop(monitor.take(), &mut self.owners, orders);
                    // A server that is out stays so until its new checks say that it is up.
                    let mut new = start(*name, &server, wanted, &mut self.next, &mut self.owners, orders);
                    new.out = out;
                    if out && !wanted.is_empty() {
                        new.state = state;
                        new.probes.iter_mut().for_each(|probe| probe.state = state);
                    }
                    monitor = Some(new);
                }
                let monitor = monitor.unwrap_or_else(|| {
                    let new = start(*name, &server, wanted, &mut self.next, &mut self.owners, orders);
                    // Of another process, whose place this one took.
                    let out = (suspended || held == Some(0)) && !wanted.is_empty();
                    if out { new.found_out() } else { new }
                });
                watched.monitors.insert(key, monitor);
            }
            for (_, gone) in former {
                stop(Some(gone), &mut self.owners, orders);
            }
        }
        let owners = &mut self.owners;
        self.services.retain(|name, watched| {
            let there = rules.checked_servers(name).is_some();
            if !plans.contains_key(name) || !there {
                for (_, gone) in std::mem::take(&mut watched.monitors) {
                    stop(Some(gone), owners, orders);
                }
            }
            // One without a plan is there until its servers are in use again.
            there
        });
    }

    /// Brings the rules in line; returns whether they changed.
    fn enforce(
        &mut self,
        rules: &mut Rules,
        plans: &BTreeMap<ServiceName, ServicePlan>,
        touched: &BTreeSet<ServiceName>,
        orders: &mut Vec<Order>,
    ) -> bool {
        let mut changed = false;
        for name in touched {
            let Some(watched) = self.services.get_mut(name) else { continue };
            if plans.contains_key(name) {
                changed |= watched.enforce(name, rules, orders);
            } else {
                watched.plan = ServicePlan { quorum: 0, ..ServicePlan::default() };
                watched.quorum = Quorum::new(0, 0);
                changed |= watched.enforce(name, rules, orders);
                self.services.remove(name);
            }
        }
        changed
    }
}

/// How a server is asked for the VIP, if this check and its method have it so.
fn through(check: &Check, name: &ServiceName, server: &Server) -> Option<Through> {
    let ServiceName::Address { address: vip, .. } = *name else { return None };
    let tunnel = match (server.method, server.tunnel) {
        (Method::Dr, _) => false,
        (Method::Tun, Tunnel::Ipip) => true,
        _ => return None,
    };
    (check.way.vip && vip.is_ipv4() == server.address.is_ipv4()).then_some(Through { vip, tunnel })
}

impl Monitor {
    /// A server that was out already: it stays so until its checks say that it is up.
    fn found_out(mut self) -> Self {
        (self.out, self.state) = (true, State::Down);
        self.probes.iter_mut().for_each(|probe| probe.state = State::Down);
        "it was out when its checks began".clone_into(&mut self.reason);
        self
    }
}

fn start(
    name: ServiceName,
    server: &Server,
    checks: &[Arc<Check>],
    next: &mut u64,
    owners: &mut HashMap<u64, (ServiceName, Key)>,
    orders: &mut Vec<Order>,
) -> Monitor {
    let key = (server.address, server.port);
    let probe = |check: &Arc<Check>| {
        let id = *next;
        *next += 1;
        owners.insert(id, (name, key));
        let target = check.way.target(key.0, key.1);
        let through = through(check, &name, server);
        let results = Arc::new(Results::default());
        let order =
            Order::Start { id, check: Arc::clone(check), target, through, results: Arc::clone(&results) };
        orders.push(order);
        Probe { id, check: Arc::clone(check), target, through, results, state: State::Checking, weight: None }
    };
    let probes: Vec<Probe> = checks.iter().map(probe).collect();
    let state = State::of(probes.iter().map(|probe| probe.state));
    let reason = if probes.is_empty() { "it has no checks" } else { "its checks began" };
    Monitor { probes, state, since: SystemTime::now(), reason: reason.into(), out: false }
}

fn stop(monitor: Option<Monitor>, owners: &mut HashMap<u64, (ServiceName, Key)>, orders: &mut Vec<Order>) {
    for probe in monitor.into_iter().flat_map(|monitor| monitor.probes) {
        owners.remove(&probe.id);
        orders.push(Order::Stop { id: probe.id });
    }
}

impl Watched {
    fn is_alive(&self, key: Key) -> bool {
        match self.monitors.get(&key).map(|monitor| monitor.state) {
            None | Some(State::Up) => true,
            Some(State::Checking) => !self.plan.alpha,
            Some(State::Down) => false,
        }
    }

    /// The weight that its checks give a server.
    fn given_weight(&self, key: Key) -> Option<u32> {
        self.monitors.get(&key)?.probes.iter().find_map(|probe| probe.weight)
    }

    fn enforce(&mut self, name: &ServiceName, rules: &mut Rules, orders: &mut Vec<Order>) -> bool {
        let Some(servers) = rules.checked_servers(name) else { return false };
        let key = |server: &CheckedServer| (server.server.address, server.server.port);
        let weight = |server: &CheckedServer| self.given_weight(key(server)).unwrap_or(server.server.weight);
        let alive = servers.iter().filter(|server| self.is_alive(key(server)));
        let alive: u64 = alive.map(|server| u64::from(weight(server))).sum();
        let news = self.quorum.note(alive);
        let reached = self.quorum.reached() != Some(false);
        if let Some(reached) = news {
            self.tell(name, reached, alive, orders);
        }
        let mut changed = false;
        let sorry = self.plan.sorry_server.clone().filter(|_| !reached);
        // A reload may name another.
        let former = rules.sorry_server(name).map(|former| (former.address, former.port));
        if let (Some(sorry), Some((address, port))) = (&sorry, former)
            && (sorry.address, sorry.port) != (address, port)
        {
            changed |= rules.delete_server(name, address, port).is_ok();
        }
        // In before the others go, and the others in before it goes, as long as
        // they fit: should one be refused, something is left.
        if let Some(sorry) = &sorry
            && rules.sorry_server(name).is_none()
        {
            match rules.add_sorry_server(name, sorry.clone()) {
                Ok(()) => {
                    tracing::warn!(service = %name, server = %sorry.address, "the sorry server takes over");
                    changed = true;
                }
                Err(error) => tracing::error!(service = %name, %error, "the sorry server cannot be added"),
            }
        }
        for server in servers {
            changed |= self.place(name, &server, sorry.is_some(), rules);
        }
        if sorry.is_none()
            && let Some(former) = rules.sorry_server(name)
        {
            let (address, port) = (former.address, former.port);
            if rules.delete_server(name, address, port).is_ok() {
                tracing::info!(service = %name, server = %address, "the sorry server is no longer needed");
                changed = true;
            }
        }
        changed
    }

    /// Puts one server in or takes it out; returns whether that changed anything.
    fn place(&mut self, name: &ServiceName, server: &CheckedServer, sorry: bool, rules: &mut Rules) -> bool {
        let (address, port) = (server.server.address, server.server.port);
        let out = sorry || !self.is_alive((address, port));
        let given = self.given_weight((address, port));
        if let Some(monitor) = self.monitors.get_mut(&(address, port)) {
            monitor.out = out;
        }
        let wanted_weight = if out { Some(0) } else { given };
        let result = if out && !self.plan.inhibit_on_failure {
            if server.suspended {
                return false;
            }
            rules.suspend_server(name, address, port)
        } else {
            let resumed = if server.suspended { rules.resume_server(name, address, port) } else { Ok(()) };
            if !server.suspended && server.held == wanted_weight {
                return false;
            }
            // Nothing to hold, and nothing held.
            if server.suspended && wanted_weight.is_none() {
                resumed
            } else {
                resumed.and_then(|()| rules.hold_weight(name, address, port, wanted_weight))
            }
        };
        if let Err(error) = &result {
            tracing::warn!(service = %name, server = %address, %error, "cannot follow its health");
        }
        result.is_ok()
    }

    fn tell(&self, name: &ServiceName, reached: bool, weight: u64, orders: &mut Vec<Order>) {
        let quorum = self.plan.quorum;
        let words = if reached { &self.plan.quorum_up } else { &self.plan.quorum_down };
        if reached {
            tracing::info!(service = %name, weight, quorum, "its quorum is reached");
        } else {
            tracing::warn!(service = %name, weight, quorum, "its quorum is lost");
        }
        if !words.is_empty() {
            orders.push(Order::Run { service: *name, words: words.clone(), reached });
        }
    }
}
