use std::sync::Arc;

use sluice_dataplane::neigh::{Egress, NextHopsBuilder};
use sluice_dataplane::service::{
    Encapsulation, Method, Protocol, RealServer, SchedulerFlags, SchedulerKind, ServerId, ServiceId,
    ServiceKey, ServiceOptions, ServiceTable, ServiceTableBuilder, Thresholds, VirtualService,
};
use sluice_dataplane::stats::{DropReason, ServerCounters, TrafficCounters};
use sluice_dataplane::steer::Wanted;
use sluice_dataplane::trace::{Answer, Outcome, Question, Unclaimed};
use sluice_dataplane::wire::Address;

use super::report::TraceQuery;
use super::tell::{Asked, TraceError};
use super::text;
use crate::health::{ServerHealth, ServiceHealth, State};
use crate::rules::ServiceName;

const KEY: ServiceKey =
    ServiceKey::Address { protocol: Protocol::Tcp, address: Address::from_v4([192, 0, 2, 10]), port: 80 };

/// Of three servers the second has no weight.
fn table(method: Method) -> Arc<ServiceTable> {
    let mut builder = ServiceTableBuilder::new(1);
    let traffic = Arc::new(TrafficCounters::new(2));
    for last in 1..=3u8 {
        let weight = u32::from(last != 2);
        let server = RealServer {
            service: ServiceId(0),
            service_key: KEY,
            address: Address::from_v4([10, 0, 2, last]),
            port: 8080,
            method,
            encapsulation: Encapsulation::Ipip,
            weight,
            last_weight: 1,
            timeouts: None,
            thresholds: Thresholds::default(),
            edits: 0,
            available: true,
            counters: Arc::new(ServerCounters::new(2)),
            service_counters: Arc::clone(&traffic),
        };
        builder.server(ServerId(last.into()), server);
    }
    builder.service(
        ServiceId(0),
        VirtualService {
            key: KEY,
            scheduler: SchedulerKind::Rr,
            scheduler_flags: SchedulerFlags::default(),
            servers: vec![ServerId(3), ServerId(2), ServerId(1)],
            local_addresses: vec![Address::from_v4([10, 0, 2, 200])],
            options: ServiceOptions::default(),
            counters: traffic,
        },
    );
    Arc::new(builder.build())
}

fn query() -> TraceQuery {
    TraceQuery {
        protocol: crate::rules::Protocol::Tcp,
        source: "198.51.100.7:40000".parse().unwrap(),
        destination: "192.0.2.10:80".parse().unwrap(),
        interface: None,
        mark: None,
    }
}

/// Two workers, of which the second does not answer.
fn told(method: Method, outcome: Outcome, health: Option<ServiceHealth>) -> String {
    let mut hops = NextHopsBuilder::new(1);
    let outside = hops.egress(Egress::new(0, [2, 0, 0, 0, 0, 10]));
    let inside = hops.egress(Egress::new(1, [2, 0, 0, 0, 0, 11]));
    hops.neighbour(inside, Address::from_v4([10, 0, 2, 3]), Some([2, 0, 0, 0, 1, 3]));
    hops.connected("10.0.2.0/24".parse().unwrap(), inside);
    hops.via("0.0.0.0/0".parse().unwrap(), outside, Address::from_v4([10, 0, 1, 253]));
    let query = query();
    let tuple = query.tuple().unwrap();
    let asked = Asked {
        interfaces: vec!["eth0".into(), "eth1".into()],
        interface: 0,
        wanted: Some(Wanted::Service),
        queue: None,
        questions: vec![Some(Question::new(tuple, 0, None)), None],
    };
    let answer = Answer {
        services: table(method),
        hops: Arc::new(hops.build()),
        elsewhere: None,
        drop_rate: 0,
        outcome,
    };
    text::text(&query, &asked.report(&tuple, None, vec![Some(answer), None], |_| health.clone()))
}

#[test]
fn a_new_connection_is_told_line_by_line() {
    let destination = (Address::from_v4([10, 0, 2, 3]), 8080);
    let new = Outcome::New {
        service: ServiceId(0),
        server: ServerId(3),
        destination,
        template: None,
        makes_template: false,
    };
    let health = ServiceHealth {
        service: ServiceName::from(KEY),
        quorum: 1,
        quorum_reached: Some(true),
        sorry_server: None,
        servers: vec![ServerHealth {
            address: [10, 0, 2, 4].into(),
            port: 8080,
            state: State::Down,
            since: 0,
            reason: "connection refused".into(),
            checks: Vec::new(),
        }],
    };
    assert_eq!(
        told(Method::FullNat, new, Some(health)),
        "\
packet     tcp 198.51.100.7:40000 -> 192.0.2.10:80, comes by eth0
steering   to the workers: it is for a service; which worker's queue it lands on cannot be told
service    tcp 192.0.2.10:80, by its address and port
scheduler  rr
local      10.0.2.200, in turn
server     10.0.2.3:8080 fullnat, weight 1, 0 active, 0 inactive
server     10.0.2.2:8080 fullnat, weight 0, 0 active, 0 inactive; passed over: its weight is 0
server     10.0.2.1:8080 fullnat, weight 1, 0 active, 0 inactive
server     10.0.2.4:8080 fullnat, weight 0, 0 active, 0 inactive, down: connection refused; passed over: health \
checks have taken it out of service
worker 0   begins a connection to 10.0.2.3:8080 (fullnat), chosen by rr
  rewriting becomes 10.0.2.200 and a free port -> 10.0.2.3:8080
  way      to 10.0.2.3 by route 10.0.2.0/24 on eth1, MAC 02:00:00:00:01:03, MTU 1500
  replies  to 198.51.100.7 by route 0.0.0.0/0 via 10.0.1.253 on eth0, MAC not known: the first packets wait for it, a \
second at most, MTU 1500
worker 1   did not answer in time
           Each worker has a scheduler of its own: which server it is depends on the worker.
"
    );
}

#[test]
fn what_gets_nowhere_is_told_with_what_helps() {
    let line = |outcome| {
        let text = told(Method::Nat, outcome, None);
        text.lines()
            .filter(|line| line.contains("worker 0") || line.contains("remedy"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    let dropped = |reason| line(Outcome::Dropped { reason, service: ServiceId(0) });
    assert!(
        dropped(DropReason::NoServer)
            .starts_with("worker 0   is dropped (no_server)\n  remedy   add a server")
    );
    assert!(dropped(DropReason::TableFull).contains("connections_per_worker"));
    assert!(line(Outcome::Kernel(Unclaimed::Standby)).contains("sluice role"));
    assert!(line(Outcome::Handed { keeper: 1, service: ServiceId(0) }).contains("hands it to worker 1"));
    assert!(line(Outcome::Expected).contains("FTP"));
}

#[test]
fn families_must_agree() {
    let query = TraceQuery { destination: "[2001:db8::1]:80".parse().unwrap(), ..query() };
    let error = TraceError::Families(query.source.ip(), query.destination.ip());
    assert_eq!(query.tuple(), Err(error));
}
