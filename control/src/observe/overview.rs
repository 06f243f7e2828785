//! The state of a director at one moment, cut to what a screen shows.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_dataplane::service::{RealServer, ServiceTable, VirtualService};
use sluice_dataplane::stats::{DropReason, Traffic};

use super::history::{History, RatePoint};
use super::state::{Health, ServerHealth, ServerState, SyncState};
use super::{InterfaceState, Observatory, POINTS};
use crate::rules::{Method, ServiceName};

/// Services of an overview, and servers of each of its services, at most.
pub const MAX_LISTED: usize = 200;

/// By what services are sorted, the greatest first but for names.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sort {
    /// Packets a second
    #[default]
    Packets,
    /// Bits a second
    Bits,
    /// New connections a second
    Connections,
    /// Drops a second
    Drops,
    /// Connections that there are
    Active,
    /// Name
    Name,
}

impl FromStr for Sort {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Ok(match text {
            "packets" => Sort::Packets,
            "bits" => Sort::Bits,
            "connections" => Sort::Connections,
            "drops" => Sort::Drops,
            "active" => Sort::Active,
            "name" => Sort::Name,
            _ => return Err(()),
        })
    }
}

/// Which part of everything is wanted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OverviewQuery {
    /// Services whose name has this in it; all for none
    pub search: String,
    /// The order of services
    pub sort: Sort,
    /// How many services to pass over
    pub offset: usize,
    /// How many to list, [`MAX_LISTED`] at most
    pub limit: usize,
    /// The service whose servers are listed
    pub open: Option<String>,
    /// How many points of plots, [`POINTS`] at most
    pub points: usize,
}

impl Default for OverviewQuery {
    fn default() -> Self {
        OverviewQuery {
            search: String::new(),
            sort: Sort::default(),
            offset: 0,
            limit: MAX_LISTED,
            open: None,
            points: 0,
        }
    }
}

/// The state of a director at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Overview {
    /// Version of the program
    pub version: String,
    /// Now: milliseconds since 1970, UTC
    pub time_ms: u64,
    /// Seconds since the director started
    pub uptime: u64,
    /// Of all services and workers
    pub rate: RatePoint,
    /// Plot of that
    pub plot: Vec<RatePoint>,
    /// Connections in all tables
    pub connections: u64,
    /// Connections that there is room for
    pub capacity: u64,
    /// Each worker
    pub workers: Vec<WorkerView>,
    /// Each interface
    pub interfaces: Vec<InterfaceView>,
    /// Drops by reason over all workers, the most frequent first, without
    /// those that never happened
    pub drops: Vec<DropView>,
    /// Services that match
    pub services: ServicePage,
    /// Servers that fail their checks
    pub servers_down: usize,
    /// How sessions are exchanged
    pub sync: SyncState,
    /// Number of the newest event
    pub newest_event: u64,
}

/// A worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerView {
    /// Rates of now
    pub rate: RatePoint,
    /// Plot of them
    pub plot: Vec<RatePoint>,
    /// Connections in its table
    pub connections: u64,
    /// Frames received since start
    pub received: u64,
    /// Frames sent since start
    pub transmitted: u64,
    /// Packets dropped since start
    pub dropped: u64,
    /// Frames left to the kernel since start
    pub punted: u64,
    /// Frames handed to other workers since start
    pub handed: u64,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct InterfaceView {
    /// What is known of it
    #[serde(flatten)]
    pub state: InterfaceState,
    /// Frames received since start
    pub received: u64,
    /// Frames sent since start
    pub transmitted: u64,
}

/// How often something was dropped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DropView {
    /// Why
    pub reason: String,
    /// How often since start
    pub count: u64,
}

/// Some services of all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServicePage {
    /// How many there are
    pub total: usize,
    /// How many match
    pub matched: usize,
    /// The part that was asked for
    pub list: Vec<ServiceView>,
}

/// A virtual service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceView {
    /// Its name, as in `tcp 192.0.2.10:80`
    pub name: String,
    /// IPVS name of its scheduler
    pub scheduler: String,
    /// Rates of now
    pub rate: RatePoint,
    /// Plot of them; empty for services beyond
    /// [`PLOTTED_SERVICES`](super::PLOTTED_SERVICES)
    pub plot: Vec<RatePoint>,
    /// Connections of all its servers
    pub connections: u64,
    /// Servers that take connections, and those that are down
    pub servers: usize,
    /// Servers that fail their checks
    pub down: usize,
    /// Counted since start
    pub totals: TotalView,
    /// Its servers, if they were asked for: [`MAX_LISTED`] at most
    pub list: Vec<ServerView>,
}

/// Counted since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TotalView {
    /// Connections scheduled
    pub connections: u64,
    /// Packets from and to clients
    pub packets: u64,
    /// Bytes of IP packets from and to clients
    pub bytes: u64,
    /// Packets dropped
    pub drops: u64,
}

impl TotalView {
    fn new(traffic: Traffic, drops: u64) -> Self {
        TotalView {
            connections: traffic.connections,
            packets: traffic.in_packets + traffic.out_packets,
            bytes: traffic.in_bytes + traffic.out_bytes,
            drops,
        }
    }
}

/// A real server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServerView {
    /// Address and port
    pub address: String,
    /// How packets reach it; `None` while it is taken out of its service
    pub method: Option<Method>,
    /// Its weight; 0 while it is taken out
    pub weight: u32,
    /// Active connections
    pub active: u64,
    /// All others
    pub inactive: u64,
    /// Counted since start
    pub totals: TotalView,
    /// What checks say, where it is checked
    pub health: Option<ServerHealth>,
}

impl Observatory {
    /// The state of now.
    pub fn overview(&self, query: &OverviewQuery) -> Overview {
        let table = self.services();
        let health = self.health();
        let points = query.points.min(POINTS);
        let history = self.history();
        let workers = self.workers().iter().enumerate().map(|(number, counters)| WorkerView {
            rate: history.worker(number),
            plot: history.worker_plot(number, points),
            connections: counters.connections.get(),
            received: counters.received.get(),
            transmitted: counters.transmitted.get(),
            dropped: DropReason::ALL.iter().map(|reason| counters.dropped(*reason)).sum(),
            punted: counters.punted.get(),
            handed: counters.handed.get(),
        });
        let workers: Vec<_> = workers.collect();
        let now = SystemTime::now();
        Overview {
            version: env!("CARGO_PKG_VERSION").into(),
            time_ms: now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64,
            uptime: now.duration_since(self.started()).unwrap_or_default().as_secs(),
            rate: history.total(),
            plot: history.total_plot(points),
            connections: workers.iter().map(|worker| worker.connections).sum(),
            capacity: self.capacity() * workers.len() as u64,
            workers,
            interfaces: self.interface_views(),
            drops: self.drops(),
            services: page(&table, &health, &history, query, points),
            servers_down: health
                .services
                .values()
                .flat_map(|servers| servers.values())
                .filter(is_down)
                .count(),
            sync: (*self.sync()).clone(),
            newest_event: *self.events().follow().borrow(),
        }
    }

    fn interface_views(&self) -> Vec<InterfaceView> {
        let sum = |of: &dyn Fn(&sluice_dataplane::stats::WorkerCounters) -> u64| {
            self.workers().iter().map(|counters| of(counters)).sum()
        };
        self.interfaces()
            .iter()
            .enumerate()
            .map(|(number, state)| InterfaceView {
                state: state.clone(),
                received: sum(&|counters| counters.received_on(number)),
                transmitted: sum(&|counters| counters.transmitted_on(number)),
            })
            .collect()
    }

    fn drops(&self) -> Vec<DropView> {
        let count = |reason: DropReason| self.workers().iter().map(|counters| counters.dropped(reason)).sum();
        let all = DropReason::ALL.iter().map(|r| DropView { reason: r.name().into(), count: count(*r) });
        let mut drops: Vec<_> = all.filter(|drop| drop.count > 0).collect();
        drops.sort_by_key(|drop| Reverse(drop.count));
        drops
    }
}

fn page(
    table: &ServiceTable,
    health: &Health,
    history: &History,
    query: &OverviewQuery,
    points: usize,
) -> ServicePage {
    let search = query.search.to_lowercase();
    let mut total = 0;
    let mut matching: Vec<_> = table
        .services()
        .inspect(|_| total += 1)
        .map(|(_, service)| (ServiceName::from(service.key), service))
        .filter(|(name, _)| search.is_empty() || name.to_string().contains(&search))
        .collect();
    let matched = matching.len();
    let rank = |service: &VirtualService| -> f64 {
        let rate = history.service(&service.key);
        match query.sort {
            Sort::Packets => rate.packets.into(),
            Sort::Bits => rate.bits.into(),
            Sort::Connections => rate.connections.into(),
            Sort::Drops => rate.drops.into(),
            Sort::Active => connections(table, service) as f64,
            Sort::Name => 0.0,
        }
    };
    // The rank first, then the name, so that idle services keep their places.
    matching.sort_by_cached_key(|(name, service)| (Reverse(Rank(rank(service))), *name));
    let shown = matching.into_iter().skip(query.offset).take(query.limit.min(MAX_LISTED));
    let list =
        shown.map(|(name, service)| view(table, health, history, name, service, query, points)).collect();
    ServicePage { total, matched, list }
}

/// A number that is never NaN, in its order.
#[derive(PartialEq)]
struct Rank(f64);

impl Eq for Rank {}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

fn is_down(server: &&ServerHealth) -> bool {
    server.state == ServerState::Down
}

fn servers<'t>(table: &'t ServiceTable, service: &'t VirtualService) -> impl Iterator<Item = &'t RealServer> {
    service.servers.iter().filter_map(|id| table.server(*id))
}

fn connections(table: &ServiceTable, service: &VirtualService) -> u64 {
    servers(table, service).map(|server| server.counters.connections()).sum()
}

fn view(
    table: &ServiceTable,
    health: &Health,
    history: &History,
    name: ServiceName,
    service: &VirtualService,
    query: &OverviewQuery,
    points: usize,
) -> ServiceView {
    let text = name.to_string();
    let checked = health.services.get(&name);
    let of = |server: &RealServer| checked?.get(&(server.address.into(), server.port));
    let there: BTreeSet<(IpAddr, u16)> = match checked {
        Some(_) => servers(table, service).map(|server| (server.address.into(), server.port)).collect(),
        None => BTreeSet::new(),
    };
    let taken_out: Vec<_> =
        checked.into_iter().flatten().filter(|(server, _)| !there.contains(server)).collect();
    let down = checked.map_or(0, |servers| servers.values().filter(is_down).count());
    let mut list = Vec::new();
    if query.open.as_ref() == Some(&text) {
        list.extend(servers(table, service).take(MAX_LISTED).map(|server| ServerView {
            address: SocketAddr::new(server.address.into(), server.port).to_string(),
            method: Some(server.method.into()),
            weight: server.weight,
            active: server.counters.active(),
            inactive: server.counters.inactive(),
            totals: TotalView::new(server.counters.traffic(), server.counters.dropped()),
            health: of(server).cloned(),
        }));
        list.extend(taken_out.iter().take(MAX_LISTED - list.len()).map(|((address, port), health)| {
            ServerView {
                address: SocketAddr::new(*address, *port).to_string(),
                method: None,
                weight: 0,
                active: 0,
                inactive: 0,
                totals: TotalView::default(),
                health: Some((*health).clone()),
            }
        }));
    }
    ServiceView {
        scheduler: service.scheduler.name().into(),
        rate: history.service(&service.key),
        plot: history.service_plot(&service.key, points),
        connections: connections(table, service),
        servers: service.servers.len() + taken_out.len(),
        down,
        totals: TotalView::new(service.counters.sum(), service.counters.dropped()),
        list,
        name: text,
    }
}
