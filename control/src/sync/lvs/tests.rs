//! Directors without packets, one of which tells the other on loopback.

use std::net::Ipv4Addr;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use sluice_dataplane::conn::State;
use sluice_dataplane::service::Tunables;
use sluice_dataplane::sync::Record;
use sluice_dataplane::wire::tcp;

use super::counters::Counters;
use super::{backup, master};
use crate::rules::{Daemon, DaemonRole, ServiceSettings};
use crate::sync::tests::director::{Director, session, wait_for};

fn daemon(role: DaemonRole, port: u16, sync_id: u8) -> Daemon {
    super::socket::resolved_later(Daemon {
        role,
        interface: "lo".into(),
        sync_id: Some(sync_id),
        max_length: None,
        group: Some(Ipv4Addr::new(224, 0, 0, 81).into()),
        port: Some(port),
        ttl: None,
    })
}

/// A port that nobody else listens on.
fn free_port() -> u16 {
    std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Runs a master at one and a backup at the other while `what` goes on.
fn pair(one: &Director, other: &Director, ids: [u8; 2], what: impl FnOnce(&Counters)) {
    let (counters, port) = (Counters::default(), free_port());
    let [master_id, backup_id] = ids;
    let (from, to) =
        (daemon(DaemonRole::Master, port, master_id), daemon(DaemonRole::Backup, port, backup_id));
    let stop = tokio::sync::Notify::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    // The backup first, so that it misses nothing.
                    biased;
                    error = backup::run(&to, &other.plane, &counters.backup) => error.unwrap(),
                    error = master::run(&from, &one.plane, &counters.master) => error.unwrap(),
                    () = stop.notified() => {}
                }
            });
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| what(&counters)));
        stop.notify_one();
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

fn of(counter: &AtomicU64) -> u64 {
    counter.load(Relaxed)
}

fn told(numbers: std::ops::Range<u32>) -> Vec<Record> {
    numbers.map(|number| Record::Session(session(number, State::Established))).collect()
}

#[test]
fn what_there_is_and_what_changes_is_told() {
    let (one, other) = (Director::new(1), Director::new(2));
    one.take(told(0..500));
    pair(&one, &other, [7, 7], |counters| {
        wait_for("the first", || other.connections().len() == 500);
        one.packet(3, tcp::FIN | tcp::ACK);
        let state =
            |director: &Director| director.connections().iter().filter(|c| c.1 != "ESTABLISHED").count();
        wait_for("the change", || state(&other) == 1);
        assert_eq!(one.connections(), other.connections());
        wait_for("the count", || of(&counters.backup.taken) >= 501);
        assert_eq!(of(&counters.backup.other_id) + of(&counters.backup.malformed), 0);
        assert_eq!(of(&counters.master.failed) + of(&counters.master.left_out), 0);
    });
}

#[test]
fn another_sync_id_is_not_heard_and_0_hears_all() {
    let (one, other) = (Director::new(1), Director::new(1));
    one.take(told(0..10));
    pair(&one, &other, [7, 8], |counters| {
        wait_for("messages", || of(&counters.backup.other_id) > 0);
        assert_eq!(other.connections().len(), 0);
    });
    pair(&one, &other, [7, 0], |_| wait_for("all", || other.connections().len() == 10));
}

#[test]
fn what_was_heard_is_not_told_again_before_it_has_packets() {
    let (one, other, third) = (Director::new(1), Director::new(1), Director::new(1));
    one.take(told(0..10));
    pair(&one, &other, [1, 1], |_| wait_for("all", || other.connections().len() == 10));
    pair(&other, &third, [1, 1], |_| {
        other.take(told(20..21));
        wait_for("its own", || third.connections().len() == 1);
        other.packet(4, tcp::ACK);
        wait_for("that with a packet", || third.connections().len() == 2);
    });
}

#[test]
fn templates_alone_are_told_where_the_master_is_to() {
    for (only_templates, expected) in [(false, 3), (true, 0)] {
        let tunables = Tunables { sync_persist_mode: only_templates, ..Tunables::default() };
        let persistent = |settings: &mut ServiceSettings| settings.persistence = Some(300);
        let one = Director::with(1, 1, persistent, |rules| rules.set_tunables(tunables));
        let other = Director::with(1, 1, persistent, |_| {});
        for number in 0..3 {
            one.packet(number, tcp::SYN);
            one.packet(number, tcp::ACK);
        }
        wait_for("connections", || one.connections().iter().filter(|c| c.1 == "ESTABLISHED").count() == 3);
        pair(&one, &other, [1, 1], |counters| {
            wait_for("the entries", || of(&counters.backup.taken) >= 3 + expected as u64);
            let established = other.connections().iter().filter(|c| c.1 == "ESTABLISHED").count();
            assert_eq!(established, expected, "{only_templates}");
        });
    }
}

#[test]
fn what_the_socket_has_no_room_for_is_counted() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let to = daemon(DaemonRole::Backup, free_port(), 1);
        let from = Daemon { role: DaemonRole::Master, ..to.clone() };
        let receiver = super::socket::receiver(&to, 4096).unwrap();
        let sender = super::socket::sender(&from, 0).unwrap();
        assert_eq!(super::socket::lost(&receiver), 0);
        for _ in 0..64 {
            sender.send(&[0; 1400]).await.unwrap();
        }
        assert!(super::socket::lost(&receiver) > 32, "{}", super::socket::lost(&receiver));
    });
}
