//! A backup goes on with the connections that it knows, begins none, and lets the
//! kernel answer for nothing that is the active director's.

use sluice_dataplane::service::{Method, Protocol};
use sluice_dataplane::stats::DropReason;

use crate::director::packets::{ACK, SYN, tcp};
use crate::director::{CLIENT, Director, INSIDE, Outcome, Routes, SERVER, VIP, server_mac};

const SECOND_CLIENT: &str = "198.51.100.8:40000";

#[test]
fn known_connections_go_on() {
    for method in [Method::Nat, Method::FullNat, Method::DirectRoute, Method::Tunnel] {
        let mut director = Director::serving(method);
        director.arrive(0, &tcp(CLIENT, VIP, SYN).bytes());
        director.set_standby(true);
        assert_eq!(director.arrive(0, &tcp(CLIENT, VIP, ACK).bytes()).sent.len(), 1, "{method:?}");
    }
}

#[test]
fn no_connection_begins_until_it_is_active() {
    for method in [Method::Nat, Method::FullNat, Method::DirectRoute, Method::Tunnel] {
        let mut director = Director::serving(method);
        director.set_standby(true);
        for flags in [SYN, ACK] {
            let outcome = director.arrive(0, &tcp(CLIENT, VIP, flags).bytes());
            assert_eq!(outcome, Outcome::dropped(DropReason::Standby), "{method:?}");
        }
        assert_eq!(director.list(), []);
        director.set_standby(false);
        assert_eq!(director.arrive(0, &tcp(CLIENT, VIP, SYN).bytes()).sent.len(), 1, "{method:?}");
    }
}

/// What the kernel would reset, or send on untranslated.
#[test]
fn answers_of_unknown_connections_stay_away_from_the_kernel() {
    for workers in [1, 2] {
        let mut director = Director::with(workers, 100);
        let service = director.add_service(Protocol::Tcp, VIP);
        director.add_server(service, SERVER, Method::Nat, 1);
        director.publish();
        director.set_standby(true);
        for to in [CLIENT, SECOND_CLIENT, "10.0.2.200:5000"] {
            let answer = tcp(SERVER, to, ACK).link(server_mac(1), INSIDE);
            let outcome = director.arrive(1, &answer.bytes());
            assert_eq!(outcome, Outcome::dropped(DropReason::Standby), "{to}");
        }
    }
}

/// A health check of the backup itself.
#[test]
fn answers_to_the_director_itself_are_the_kernels() {
    let mut director = Director::serving(Method::Nat);
    let mut routes = Routes::new(2).all_known();
    routes.builder.local("10.0.2.254/32".parse().expect("a prefix"));
    director.publish_hops(routes);
    director.set_standby(true);
    let answer = tcp(SERVER, "10.0.2.254:50000", ACK).link(server_mac(1), INSIDE).bytes();
    assert_eq!(director.arrive(1, &answer), Outcome::punted(1, answer.clone()));
}
