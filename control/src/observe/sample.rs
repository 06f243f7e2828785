//! A director with some traffic, to try what shows it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use sluice_dataplane::service::{
    Encapsulation, Method, Protocol, RealServer, SchedulerFlags, SchedulerKind, ServerId, ServiceId,
    ServiceKey, ServiceOptions, ServiceTableBuilder, Thresholds, VirtualService,
};
use sluice_dataplane::stats::{DropReason, ServerCounters, TrafficCounters, WorkerCounters};
use sluice_dataplane::worker::Published;

use super::{Health, InterfaceState, Observatory, PeerState, ServerHealth, ServerState, SyncState};
use crate::events::{EventLog, Kind, Severity};

/// Services of `servers` servers each, two workers, and the counters that
/// traffic is made of.
#[derive(Debug)]
pub struct Sample {
    /// What is seen of it
    pub observatory: Arc<Observatory>,
    services: Vec<Arc<TrafficCounters>>,
    servers: Vec<Vec<Arc<ServerCounters>>>,
    workers: Vec<Arc<WorkerCounters>>,
}

const WORKERS: usize = 2;

impl Sample {
    /// So many services with so many servers each, at most 65535 and 200.
    pub fn new(services: usize, servers: usize) -> Self {
        let mut table = ServiceTableBuilder::new(7);
        let mut all = Vec::new();
        let mut all_servers = Vec::new();
        for number in 0..services {
            let id = ServiceId(number as u32);
            let key = ServiceKey::Address {
                protocol: Protocol::Tcp,
                address: IpAddr::from([192, 0, 2, 10]).into(),
                port: 1 + number as u16,
            };
            let counters = Arc::new(TrafficCounters::new(WORKERS));
            let ids: Vec<_> = (0..servers).map(|s| ServerId((number * servers + s) as u32)).collect();
            let mut of_service = Vec::new();
            for (place, server) in ids.iter().enumerate() {
                let counted = Arc::new(ServerCounters::new(WORKERS));
                of_service.push(Arc::clone(&counted));
                let address = IpAddr::from([10, 0, (number % 200) as u8, 1 + place as u8]);
                table.server(
                    *server,
                    RealServer {
                        service: id,
                        service_key: key,
                        address: address.into(),
                        port: 8080,
                        method: Method::FullNat,
                        encapsulation: Encapsulation::Ipip,
                        weight: 1 + place as u32,
                        last_weight: 1,
                        timeouts: None,
                        thresholds: Thresholds::default(),
                        edits: 0,
                        available: true,
                        counters: counted,
                        service_counters: Arc::clone(&counters),
                    },
                );
            }
            table.service(
                id,
                VirtualService {
                    key,
                    scheduler: SchedulerKind::Wlc,
                    scheduler_flags: SchedulerFlags::default(),
                    servers: ids,
                    local_addresses: Vec::new(),
                    options: ServiceOptions::default(),
                    counters: Arc::clone(&counters),
                },
            );
            all.push(counters);
            all_servers.push(of_service);
        }
        let published = Arc::new(Published::default());
        published.services.store(Arc::new(table.build()));
        let workers: Vec<_> = (0..WORKERS).map(|_| Arc::new(WorkerCounters::default())).collect();
        let observatory =
            Observatory::new(published, workers.clone(), 1_000_000, Arc::new(EventLog::default()));
        observatory.set_interfaces(
            ["eth0", "eth1"]
                .map(|name| InterfaceState {
                    name: name.into(),
                    xdp: "native".into(),
                    socket: "copy".into(),
                    answers: "rss".into(),
                    up: name == "eth0",
                    missed: 0,
                })
                .to_vec(),
        );
        Sample { observatory: Arc::new(observatory), services: all, servers: all_servers, workers }
    }

    /// Traffic of a service at a worker: so many connections of ten packets of
    /// a hundred bytes each way, and as many drops as connections.
    pub fn traffic(&self, service: usize, worker: usize, connections: u64) {
        let shares = [
            Some(self.services[service].share(worker)),
            self.servers[service].first().map(|server| &server.share(worker).traffic),
        ];
        for share in shares.into_iter().flatten() {
            share.connections.add(connections);
            share.in_packets.add(connections * 10);
            share.out_packets.add(connections * 10);
            share.in_bytes.add(connections * 1000);
            share.out_bytes.add(connections * 1000);
            share.dropped.add(connections);
        }
        if let Some(server) = self.servers[service].first() {
            server.share(worker).active.add(connections);
        }
        let counters = &self.workers[worker];
        counters.connections.add(connections);
        counters.count_received(0, connections * 20);
        counters.count_transmitted(1, connections * 20);
        (0..connections).for_each(|_| counters.count_drop(DropReason::NoServer));
    }

    /// The first server of the first service fails its checks, and one that is
    /// taken out, too.
    pub fn fail(&self) {
        let table = self.observatory.services();
        let Some((_, service)) = table.services().next() else { return };
        let health = |reason: &str| ServerHealth {
            state: ServerState::Down,
            since_ms: 1_795_264_285_000,
            reason: reason.into(),
            latency: Some(0.25),
        };
        let first = SocketAddr::from(([10, 0, 0, 1], 8080));
        let gone = SocketAddr::from(([10, 0, 0, 99], 8080));
        let servers = [(first, health("status 503")), (gone, health("connection refused"))];
        let servers = servers.into_iter().map(|(end, health)| ((end.ip(), end.port()), health)).collect();
        let mut all = Health::default();
        all.services.insert(service.key.into(), servers);
        self.observatory.set_health(Arc::new(all));
        self.observatory.events().record(
            Kind::Health,
            Severity::Warning,
            "server 10.0.0.1:8080 of tcp 192.0.2.10:1 is down: status 503 <b>not bold</b>",
        );
    }

    /// There is another director.
    pub fn pair(&self) {
        self.observatory.set_sync(Arc::new(SyncState {
            role: Some("active".into()),
            peers: vec![PeerState {
                name: "192.0.2.2:8849".into(),
                connected: true,
                state: "in step".into(),
                lag: Some(0.004),
                sent: 1234,
                received: 56,
                lost: 0,
            }],
        }));
        let heard = &self.observatory.lvs().backup;
        heard.ran.store(true, Relaxed);
        for (counter, count) in [(&heard.messages, 5), (&heard.overflowed, 2), (&heard.full, 1)] {
            counter.store(count, Relaxed);
        }
    }
}
