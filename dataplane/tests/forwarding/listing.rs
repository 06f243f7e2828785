//! Listings of some connections, and drops by service.

use sluice_dataplane::conn::{ConnectionFilter, Endpoint};
use sluice_dataplane::service::Method;
use sluice_dataplane::stats::DropReason;

use crate::director::packets::{SYN, tcp, udp};
use crate::director::{CLIENT, DNS_VIP, Director, VIP};

fn client(prefix: &str) -> ConnectionFilter {
    let end = Endpoint { prefix: prefix.parse().unwrap(), port: None };
    ConnectionFilter { client: Some(end), ..ConnectionFilter::default() }
}

/// What is not wanted is neither sent nor waited for.
#[test]
fn a_worker_lists_what_is_asked_for() {
    let mut director = Director::with(1, 20_000);
    let (http, dns) = director.both_services();
    director.add_server(http, "10.0.2.1:80", Method::Nat, 1);
    director.add_server(dns, "10.0.2.1:53", Method::DirectRoute, 1);
    director.publish();
    for n in 0..10_000 {
        let from = format!("198.51.{}.{}:4000", 100 + n / 200, 1 + n % 200);
        director.arrive(0, &udp(&from, DNS_VIP).bytes());
    }
    director.arrive(0, &tcp("198.51.100.7:5000", VIP, SYN).bytes());

    let (some, slices) = director.list_some(client("198.51.100.7/32"));
    let ports: Vec<u16> = some.iter().map(|record| record.client.1).collect();
    assert_eq!(ports, [4000, 5000]);
    assert!(slices <= 2, "{slices} slices for two connections");
    assert_eq!(director.list_some(client("198.51.100.0/24")).0.len(), 201);
    assert_eq!(director.list_some(client("203.0.113.0/24")), (Vec::new(), 0));
    let state = ConnectionFilter { state: Some("SYN_RECV".into()), ..client("198.51.0.0/16") };
    assert_eq!(director.list_some(state).0.len(), 1);
    let method = ConnectionFilter { method: Some(Method::DirectRoute), ..ConnectionFilter::default() };
    assert_eq!(director.list_some(method).0.len(), 10_000);
}

#[test]
fn a_drop_counts_for_the_service_that_it_concerns() {
    let mut director = Director::with(1, 16);
    let (http, dns) = director.both_services();
    let server = director.add_server(http, "10.0.2.1:80", Method::Nat, 1);
    director.publish();
    let table = director.table();
    let dropped = |id| table.service(id).unwrap().counters.dropped();

    // No server at all.
    assert_eq!(director.arrive(0, &udp(CLIENT, DNS_VIP).bytes()).dropped, [DropReason::NoServer]);
    assert_eq!((dropped(http), dropped(dns)), (0, 1));
    // A connection whose server is removed.
    director.arrive(0, &tcp(CLIENT, VIP, SYN).bytes());
    director.server(server).available = false;
    director.publish();
    assert_eq!(director.arrive(0, &tcp(CLIENT, VIP, SYN).bytes()).dropped, [DropReason::ServerGone]);
    assert_eq!((dropped(http), dropped(dns)), (1, 1));
    assert_eq!(table.server(server).unwrap().counters.dropped(), 1);
}
