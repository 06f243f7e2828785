use std::sync::Arc;

use super::*;
use crate::conn::Seed;
use crate::service::ServerId;
use crate::worker::owners::Owners;

fn address(last: u8) -> Address {
    Address::from_v4([10, 0, 2, last])
}

/// A control connection by FULLNAT.
fn control() -> Entry {
    let client = Tuple {
        source: Address::from_v4([198, 51, 100, 7]),
        destination: Address::from_v4([192, 0, 2, 10]),
        source_port: 40000,
        destination_port: 21,
        protocol: Protocol::Tcp,
    };
    let plan = Plan::new(Method::FullNat, client, (address(1), 21), (address(200), 5000));
    Entry {
        state: State::Established,
        active: true,
        ftp: Role::Control,
        ..Entry::new(client, plan.server, plan.deltas(), ServerId(0), Method::FullNat)
    }
}

/// As that of a data connection to a passive port.
fn data(local: (Address, u16), port: u16) -> Entry {
    let control = control();
    let client = Tuple { source_port: 0, destination_port: port, ..control.client };
    let plan = Plan::new(Method::FullNat, client, (address(1), port), local);
    Entry { client, server: plan.server, ftp: Role::Expected, ..control }
}

fn flows(worker: usize, workers: usize) -> Flows {
    let claims = (0..workers).map(|_| Arc::default()).collect();
    let seed = Seed::new([0; 16]);
    Flows::new(
        worker,
        claims,
        Arc::new(Owners::new(workers, 1000, seed)),
        Arc::new(crate::sched::Movements::new(workers)),
        1000,
        seed,
        0,
    )
}

#[test]
fn passive_ports_share_a_pool_and_come_back() {
    for (worker, workers) in [(0, 1), (1, 3)] {
        let mut flows = flows(worker, workers);
        let taken: Vec<_> = (0..200)
            .map(|n| {
                let local = flows.data_port(&control(), 50000 + n).unwrap();
                let id = flows.table.insert(data(local, 50000 + n)).unwrap();
                (id, local)
            })
            .collect();
        assert_eq!(flows.local_ports.pools(), 1);
        for (id, (lip, port)) in taken {
            assert_eq!(crate::local::owner(port, workers), worker);
            let entry = flows.table.remove(id).unwrap();
            let entry = flows.forget_ftp(id, entry);
            flows.give_back(&entry);
            assert!(
                !flows.local_ports.free(lip, port, (address(1), 0), Protocol::Tcp),
                "it was in use still"
            );
        }
    }
}

/// Another pool may have given the same port away for a service.
#[test]
fn a_port_in_use_towards_the_servers_is_passed_over() {
    let mut flows = flows(0, 1);
    let (lip, first) = flows.data_port(&control(), 50000).unwrap();
    for port in first + 1..=first + 5 {
        flows.table.insert(data((lip, port), 50000)).unwrap();
    }
    assert_eq!(flows.data_port(&control(), 50000).ok(), Some((lip, first + 6)));
    // Those passed over are free, for other ports of the server.
    for port in first + 1..=first + 5 {
        assert!(!flows.local_ports.free(lip, port, (address(1), 0), Protocol::Tcp));
    }
}
