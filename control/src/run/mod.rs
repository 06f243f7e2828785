//! `sluice run`: a director in the foreground.

mod condition;
mod departure;
mod exhaustion;
mod forwarding;
mod giving;
mod offload;
mod predecessor;
mod taking;
mod upgrade;

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use sluice_dataplane::link::Link;
use sluice_dataplane::steer::{Loaded, ModeChoice, Steering, SteeringRules, WithoutSocket};
use sluice_dataplane::worker::{Event, Published};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use crate::api::{self, DataPlane, Director};
use crate::config::{Config, WhenGone, XdpMode};
use crate::events::EventLog;
use crate::health::supervise;
use crate::netlink;
use crate::observe::Observatory;
use crate::reload::Source;
use crate::role::Role;
use crate::rules::Rules;
use crate::sync::{Sync, lvs};
use crate::web::Observer;
use crate::workers::{Setup, Sockets, Workers};
use forwarding::Forwarding;
use predecessor::Predecessor;

/// How often workers' events are looked for. A packet that waits for its next
/// hop waits this much longer.
const EVENT_INTERVAL: Duration = Duration::from_millis(2);

/// How often interfaces and workers are looked after.
const CARE_INTERVAL: Duration = Duration::from_secs(1);

/// Runs a director until SIGTERM or SIGINT. Prints `ready` to standard output
/// once packets flow. With `takeover` it takes the place of the one that runs.
/// What happens is recorded in `events`.
///
/// # Errors
/// When it cannot start, or a worker ended: the text is for the operator.
pub fn run(config: &Path, socket: Option<PathBuf>, takeover: bool, events: Arc<EventLog>) -> Result<()> {
    let file = std::path::absolute(config)?;
    let config = Config::load(config).map_err(|error| anyhow!(error.report()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(direct(file, config, socket, takeover, events))
}

async fn direct(
    file: PathBuf,
    config: Config,
    socket: Option<PathBuf>,
    takeover: bool,
    events: Arc<EventLog>,
) -> Result<()> {
    // Dropped last of all.
    let mut given = None;
    // First of all, so that a signal during start-up ends it in good order.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut upgrade = signal(SignalKind::user_defined2())?;

    let settings = &config.director;
    let client = api::Client::new(socket.or_else(|| settings.socket.clone()).as_deref());
    let socket = client.path().to_owned();
    let api_group = settings.api_group.as_deref().map(api::group).transpose().map_err(|why| anyhow!(why))?;
    let open = |listener: api::Listener, group: Option<_>| match group {
        Some(group) => listener.open_to(group),
        None => Ok(listener),
    };
    let predecessor = match takeover {
        // Its clients wait in a thread of their own, and signals do not.
        true => Some(tokio::task::spawn_blocking(move || Predecessor::ask(client)).await??),
        false => None,
    };
    let listener = match predecessor {
        None => Some(open(api::Listener::bind(&socket)?, api_group)?),
        Some(_) => None,
    };
    let mtu = check_interfaces(settings)?;

    let (count, interfaces) = (settings.workers.len(), settings.interfaces.clone());
    let rules = match &predecessor {
        None => Rules::configured(count, interfaces, config.target()),
        Some(predecessor) => predecessor.rules(count, interfaces, config.target(), &config.plans()),
    };
    let mut rules = rules.context("the configuration")?;

    let mode = match settings.xdp_mode {
        XdpMode::Auto => ModeChoice::Auto,
        XdpMode::Native => ModeChoice::Native,
        XdpMode::Generic => ModeChoice::Generic,
    };
    // Before the programs are there, so that they know from their first packet on
    // what is the workers': the kernel would reset connections that go on.
    let wanted = SteeringRules::of(&rules.table(0));
    let (mut steering, mut zero_copy, mut mode) = (Vec::new(), Vec::new(), mode);
    let modes = match &predecessor {
        None => {
            steering = attach(settings, mode, &wanted)?;
            steering.iter().map(|s| (s.interface().to_owned(), s.mode())).collect()
        }
        Some(predecessor) => {
            let modes: Vec<_>;
            let found = predecessor.modes(&settings.interfaces)?;
            (modes, zero_copy) =
                found.into_iter().map(|(name, mode, zero_copy)| ((name, mode), zero_copy)).unzip();
            mode = taking::choice(&modes);
            modes
        }
    };
    let sockets = if predecessor.is_some() { Sockets::Later(&zero_copy) } else { Sockets::Now };
    let published = Arc::new(Published::default());
    // Before any packet comes.
    let role = predecessor.as_ref().map_or(settings.role, |predecessor| predecessor.role);
    published.standby.store(role == Role::Backup, Ordering::Relaxed);
    let offload = offload::Loaded::load(settings)?;
    let board = offload.as_ref().map(|offload| Arc::clone(offload.board()));
    let hops = Arc::clone(&published);
    let publish = move |snapshot| {
        if let Some(board) = &board {
            board.set_hops(&snapshot);
        }
        hops.hops.store(snapshot);
    };
    let next_hops = netlink::start(&settings.interfaces, settings.workers.len(), publish).await?;
    let setup = Setup {
        cpus: &settings.workers,
        connections: settings.connections_per_worker as usize,
        idle: settings.idle,
        carry: offload.as_ref().map(offload::Loaded::carry),
    };
    let workers = Workers::start(&modes, mtu, sockets, setup, Arc::clone(&published))?;
    let offload = offload.map(offload::Loaded::start);
    for port in workers.ports() {
        tracing::info!(
            interface = port.interface,
            queue = port.worker,
            cpu = settings.workers[port.worker],
            mode = if port.zero_copy { "zero-copy" } else { "copy" },
            taken_over = takeover,
            "AF_XDP socket"
        );
        if let Some(reason) = &port.punt_fallback {
            tracing::warn!(
                interface = port.interface,
                reason,
                "frames that are left to the kernel appear on a TAP device: set rp_filter to 0 or 2"
            );
        }
    }

    let observatory = Arc::new(Observatory::new(
        Arc::clone(&published),
        workers.counters().to_vec(),
        settings.connections_per_worker.into(),
        events,
    ));
    let plane = workers.plane();
    let forwarding = Forwarding::new(
        workers,
        (settings.interfaces.clone(), steering),
        (mode, without_socket(settings)),
        wanted,
        next_hops.clone(),
        Arc::clone(&observatory),
    );
    forwarding.carry_by(offload);
    let synchronise = |forwarding: &Forwarding| -> Result<()> {
        let start = |sync| Sync::start(sync, forwarding.workers().plane());
        forwarding.synchronise(config.sync.clone().map(start).transpose()?);
        Ok(())
    };
    if predecessor.is_none() {
        // With the peer's first words there are workers, and soon the services that
        // these are about; what comes sooner is told again.
        synchronise(&forwarding)?;
    }
    let director = Director::new(rules, forwarding);
    director.configured_by(Source {
        file,
        running: config.director.clone(),
        web: config.web.clone(),
        sync: config.sync.clone(),
    });
    director.publish_and_wait().await;
    if predecessor.is_none() {
        director.plane().set_role(settings.role);
    }
    director.health().set_plans(config.plans());
    resolve_servers(&config, &next_hops).await;
    let listener = match (listener, predecessor) {
        (Some(listener), _) => listener,
        (None, predecessor) => {
            let predecessor = predecessor.context("without one there is a listener")?;
            let mut parting = predecessor.take(&director).await?;
            tokio::select! {
                () = predecessor.collect(&director, &mut parting) => {}
                // Workers forward already, and have their questions.
                result = look_after(&director, &next_hops) => return result,
            }
            // Before the other ends, so that there is somebody to ask at any time.
            let listener = open(api::Listener::replace(&socket)?, api_group)?;
            parting.farewell().await?;
            synchronise(director.plane())?;
            listener
        }
    };
    director.plane().show_interfaces();
    let _observer = Observer::start(observatory, config.web.clone(), &settings.workers)
        .context("the web page's thread")?;

    crate::output::print("ready\n");
    tracing::info!(socket = %socket.display(), services = config.services.len(), "ready");
    let ready = [sd_notify::NotifyState::MainPid(std::process::id()), sd_notify::NotifyState::Ready];
    if let Err(error) = sd_notify::notify(&ready) {
        tracing::debug!(%error, "systemd was not told");
    }

    let mut takeovers = director.takeovers();
    let mut stop_asked = async || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let result = tokio::select! {
        () = api::serve(Rc::clone(&director), listener) => Ok(()),
        result = look_after(&director, &next_hops) => result,
        () = lvs::run(&director, plane) => Ok(()),
        error = supervise(&director) => Err(error).context("health checks"),
        () = reload_on(&mut hangup, &director) => Ok(()),
        () = upgrade::upgrade_on(&mut upgrade) => Ok(()),
        () = async {
            while let Some(takeover) = takeovers.recv().await {
                given = giving::give(&director, takeover).await;
                if given.is_some() {
                    return;
                }
            }
            std::future::pending().await
        } => Ok(()),
        () = async {
            stop_asked().await;
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
            if settings.when_gone == WhenGone::Drop {
                // Asked a second time, it does not wait.
                tokio::select! {
                    () = departure::hand_over(&director) => {}
                    () = stop_asked() => {}
                }
            }
        } => Ok(()),
    };
    tracing::info!("stopping");
    result
}

/// Reloads the configuration at every SIGHUP; does not end by itself.
async fn reload_on(hangup: &mut Signal, director: &Director<Forwarding>) {
    while hangup.recv().await.is_some() {
        match director.reload(false).await {
            Ok(changes) => {
                tracing::info!(event = "reload", changes = changes.len(), "the configuration was reloaded")
            }
            Err(error) => tracing::error!(event = "reload", "the configuration was not reloaded: {error}"),
        }
    }
    // The stream of a signal has no end; should it have one, the rest goes on.
    std::future::pending().await
}

/// Passes workers' questions on, and watches workers and interfaces; returns
/// only when the director cannot go on.
async fn look_after(director: &Director<Forwarding>, next_hops: &netlink::Handle) -> Result<()> {
    let mut events = interval(EVENT_INTERVAL);
    events.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut care = interval(CARE_INTERVAL);
    care.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let watched = sd_notify::watchdog_enabled().is_some();
    loop {
        tokio::select! {
            _ = events.tick() => {
                // As many as a queue holds, so that a flood has its bound.
                for _ in 0..1024 {
                    match director.plane().workers().next_event() {
                        Some(Event::Ask(address)) => next_hops.ask(address),
                        None => break,
                    }
                }
            }
            _ = care.tick() => {
                if let Some(worker) = director.plane().workers().dead() {
                    bail!("worker {worker} ended unexpectedly; see the messages above");
                }
                director.plane().look_after();
                if watched && director.plane().moves() {
                    let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
                }
            }
        }
    }
}

/// Puts right what attaching an XDP program did to an interface's RSS.
fn renew_rss(interface: &str) {
    match Link::new(interface).and_then(|link| link.renew_rss()) {
        Ok(true) => tracing::info!(interface, "its RSS was set anew, as the XDP program turned it off"),
        Ok(false) => {}
        Err(error) => tracing::warn!(interface, %error, "its RSS could not be set anew"),
    }
}

fn without_socket(settings: &crate::config::Director) -> WithoutSocket {
    match settings.when_gone {
        WhenGone::Kernel => WithoutSocket::Kernel,
        WhenGone::Drop => WithoutSocket::Drop,
    }
}

fn attach(
    settings: &crate::config::Director,
    choice: ModeChoice,
    rules: &SteeringRules,
) -> Result<Vec<Steering>> {
    let mut attached = Vec::new();
    for (number, interface) in settings.interfaces.iter().enumerate() {
        let mut loaded = Loaded::load(interface)?.numbered(number);
        loaded.update(rules)?;
        loaded.set_without_socket(without_socket(settings))?;
        let steering = loaded.attach(choice)?;
        renew_rss(interface);
        tracing::info!(interface, mode = steering.mode().name(), "XDP program attached");
        if let Some(reason) = steering.fallback_reason() {
            tracing::warn!(interface, reason, "no native XDP here; using the slower generic mode");
        }
        attached.push(steering);
    }
    Ok(attached)
}

/// Checks that the interfaces suit the workers; returns their largest MTU.
fn check_interfaces(settings: &crate::config::Director) -> Result<usize> {
    let workers = settings.workers.len() as u32;
    let mut largest = 0;
    for interface in &settings.interfaces {
        let link = Link::new(interface);
        let mtu = link.as_ref().ok().and_then(|link| link.mtu().ok());
        let Some(mtu) = mtu else {
            bail!("interface {interface}: no such interface (ip link shows those that there are)");
        };
        largest = largest.max(mtu);
        let queues = link?.receive_queues().with_context(|| format!("interface {interface}: its queues"))?;
        if queues > workers {
            bail!(
                "interface {interface} has {queues} receive queues and there are {workers} workers: what \
                 arrives on the other queues would pass the director by; give it as many as there are \
                 workers (ethtool -L {interface} combined {workers}) or add workers"
            );
        }
        if queues < workers {
            bail!(
                "interface {interface} has {queues} receive queues and there are {workers} workers, of \
                 which each needs one: name fewer workers, or give it more (ethtool -L {interface} \
                 combined {workers})"
            );
        }
    }
    Ok(largest)
}

/// Gets the next hops of all servers resolved, so that the first connections
/// need not wait. A server that does not answer is said so and waited for no
/// longer.
async fn resolve_servers(config: &Config, next_hops: &netlink::Handle) {
    let servers: std::collections::BTreeSet<_> =
        config.services.iter().flat_map(|s| &s.servers).map(|s| s.address).collect();
    let all = servers.iter().map(|address| async move {
        if !next_hops.resolved(*address).await {
            tracing::warn!(server = %address, "its next hop does not answer");
        }
    });
    futures::future::join_all(all).await;
}
