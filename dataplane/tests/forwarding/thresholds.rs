//! Connection thresholds, from SYN to expiry.

use sluice_dataplane::service::{Method, Thresholds};
use sluice_dataplane::stats::DropReason;

use crate::director::packets::{SYN, tcp};
use crate::director::{Director, SECOND, VIP};

/// Opens a connection at a worker; whether it was given a server.
fn opens(director: &mut Director, worker: usize, client: u32) -> bool {
    let client = format!("198.51.100.{}:{}", client % 200 + 1, 1024 + client);
    let outcome = director.arrive_at(worker, 0, &[&tcp(&client, VIP, SYN).payload([]).bytes()]);
    assert!(outcome.dropped.is_empty() || outcome.dropped == [DropReason::NoServer], "{outcome:?}");
    outcome.dropped.is_empty()
}

/// The threshold is about all workers together.
#[test]
fn a_full_server_gets_no_connection_until_some_are_over() {
    for workers in [1, 2] {
        let mut director = Director::with(workers, 1000);
        let (http, _) = director.both_services();
        let server = director.add_server(http, "10.0.2.1:80", Method::Nat, 1);
        director.server(server).thresholds = Thresholds { upper: 8, lower: 3 };
        director.publish();
        for client in 0..6 {
            assert!(opens(&mut director, client as usize % workers, client));
        }
        director.pass(30 * SECOND);
        assert!(opens(&mut director, 0, 6) && opens(&mut director, 0, 7));
        for worker in 0..workers {
            assert!(!opens(&mut director, worker, 8), "worker {worker} of {workers}");
        }
        // Six connections in SYN_RECV are over after 60 s, and two remain.
        director.pass(31 * SECOND);
        assert_eq!(director.list().len(), 2);
        assert!(opens(&mut director, workers - 1, 9));
        director.server(server).thresholds = Thresholds { upper: 2, lower: 0 };
        director.publish();
        assert!(!opens(&mut director, workers - 1, 10));
        director.server(server).thresholds = Thresholds::default();
        director.publish();
        assert!(opens(&mut director, 0, 11));
    }
}
