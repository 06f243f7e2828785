//! Traces: what is told of a packet is what becomes of it, and nothing becomes of
//! it for being told.

use sluice_dataplane::conn::{Side, Tuple};
use sluice_dataplane::service::{
    ClientMask, Engine, Family, Method, Persistence, Protocol, SchedulerKind, Thresholds,
};
use sluice_dataplane::stats::DropReason;
use sluice_dataplane::trace::{Answer, Outcome, Question, Unclaimed};

use crate::director::packets::{SYN, tcp, udp};
use crate::director::{CLIENT, DNS_VIP, Director, SERVER, VIP, mark_rule, socket};

const METHODS: [Method; 4] = [Method::Nat, Method::FullNat, Method::DirectRoute, Method::Tunnel];

fn tuple(protocol: Protocol, from: &str, to: &str) -> Tuple {
    let (from, to) = (socket(from), socket(to));
    Tuple {
        source: from.ip().into(),
        destination: to.ip().into(),
        source_port: from.port(),
        destination_port: to.port(),
        protocol,
    }
}

fn ask_as(director: &mut Director, worker: usize, tuple: Tuple, mark: Option<u32>) -> Answer {
    let question = Question::new(tuple, 0, mark);
    assert!(question.take().is_none());
    assert!(director.exchange(worker).ask(&question));
    director.settle();
    question.take().expect("an answer")
}

fn ask(director: &mut Director, tuple: Tuple) -> Outcome {
    ask_as(director, 0, tuple, None).outcome
}

fn persistent(director: &mut Director, protocol: Protocol, at: &str) -> sluice_dataplane::service::ServiceId {
    let id = director.add_service(protocol, at);
    let mask = ClientMask::v4([255; 4]);
    director.service(id).options.persistence = Some(Persistence { timeout: 60, mask });
    id
}

/// By each scheduler and method, with servers that take nothing among them.
#[test]
fn the_server_that_is_told_is_the_one_that_is_taken() {
    for kind in SchedulerKind::ALL {
        for method in METHODS {
            let mut director = Director::new();
            let id = director.add_service(Protocol::Tcp, VIP);
            director.service(id).scheduler = kind;
            let servers: Vec<_> = (1..=5u8)
                .map(|last| director.add_server(id, &format!("10.0.2.{last}:80"), method, last.into()))
                .collect();
            director.server(servers[1]).weight = 0;
            director.server(servers[3]).thresholds = Thresholds { upper: 2, lower: 0 };
            director.publish();
            for n in 0..25u16 {
                let client = format!("198.51.100.{}:{}", n % 7, 1000 + n);
                let packet = tuple(Protocol::Tcp, &client, VIP);
                let told = ask(&mut director, packet);
                let again = ask(&mut director, packet);
                assert_eq!(format!("{told:?}"), format!("{again:?}"), "{kind:?} {method:?}");
                let before = director.list().len();
                let outcome = director.arrive(0, &tcp(&client, VIP, SYN).bytes());
                let made = director.list();
                let made = made.iter().find(|record| record.client.1 == 1000 + n);
                match told {
                    Outcome::New { destination, template: None, .. } => {
                        assert_eq!(
                            made.map(|record| record.server),
                            Some(destination),
                            "{kind:?} {method:?}"
                        );
                        assert_eq!(director.list().len(), before + 1);
                    }
                    Outcome::Dropped { reason: DropReason::NoServer, .. } => {
                        assert_eq!(outcome.dropped, [DropReason::NoServer], "{kind:?} {method:?}");
                    }
                    other => panic!("{kind:?} {method:?}: {other:?}"),
                }
            }
        }
    }
}

#[test]
fn a_connection_is_told_of_from_both_sides() {
    for method in METHODS {
        let mut director = Director::serving(method);
        director.arrive(0, &tcp(CLIENT, VIP, SYN).bytes());
        let packet = tuple(Protocol::Tcp, CLIENT, VIP);
        let Outcome::Connection { record, side, refused, .. } = ask(&mut director, packet) else {
            panic!("{method:?}")
        };
        assert_eq!((side, refused, record.state), (Side::Client, None, "SYN_RECV"));
        assert_eq!((vec![record.clone()], record.expires), (director.list(), 60));
        if matches!(method, Method::Nat | Method::FullNat) {
            let to = if method == Method::Nat { CLIENT.into() } else { director.local_end().to_string() };
            let outcome = ask(&mut director, tuple(Protocol::Tcp, SERVER, &to));
            assert!(matches!(outcome, Outcome::Connection { side: Side::Server, .. }), "{outcome:?}");
        }
    }
}

#[test]
fn a_connection_whose_server_is_gone_is_told_so() {
    let mut director = Director::new();
    let (http, _) = director.both_services();
    let server = director.add_server(http, SERVER, Method::Nat, 1);
    director.publish();
    director.arrive(0, &tcp(CLIENT, VIP, SYN).bytes());
    director.remove_server(server);
    director.publish();
    let packet = tuple(Protocol::Tcp, CLIENT, VIP);
    let outcome = ask(&mut director, packet);
    assert!(
        matches!(outcome, Outcome::Connection { refused: Some(DropReason::ServerGone), .. }),
        "{outcome:?}"
    );
    // With this it is as if there were none.
    director.tunables.expire_nodest_conn = true;
    director.publish();
    let outcome = ask(&mut director, packet);
    assert!(matches!(outcome, Outcome::Dropped { reason: DropReason::NoServer, .. }), "{outcome:?}");
}

#[test]
fn a_client_keeps_to_its_template() {
    let mut director = Director::new();
    let id = persistent(&mut director, Protocol::Tcp, VIP);
    (1..=3).for_each(|last| _ = director.add_server(id, &format!("10.0.2.{last}:80"), Method::Nat, 1));
    director.publish();
    let packet = tuple(Protocol::Tcp, CLIENT, VIP);
    let outcome = ask(&mut director, packet);
    let Outcome::New { destination, template: None, makes_template: true, .. } = outcome else {
        panic!("{outcome:?}")
    };
    director.arrive(0, &tcp(CLIENT, VIP, SYN).bytes());
    let outcome = ask(&mut director, tuple(Protocol::Tcp, "198.51.100.7:40001", VIP));
    let Outcome::New { destination: kept, template: Some(template), makes_template: false, .. } = outcome
    else {
        panic!("{outcome:?}")
    };
    assert_eq!((kept, template.client.0), (destination, packet.source));
}

#[test]
fn with_several_workers_the_keeper_of_the_template_is_told() {
    let mut director = Director::with(2, 1000);
    let id = persistent(&mut director, Protocol::Tcp, VIP);
    director.add_server(id, SERVER, Method::Nat, 1);
    let other = director.add_service(Protocol::Tcp, "192.0.2.10:443");
    director.add_server(other, SERVER, Method::Nat, 1);
    director.publish();
    let packet = tuple(Protocol::Tcp, CLIENT, VIP);
    let told: Vec<_> = (0..2).map(|worker| ask_as(&mut director, worker, packet, None).outcome).collect();
    let keeper =
        told.iter().position(|outcome| matches!(outcome, Outcome::New { .. })).expect("one keeps it");
    assert!(matches!(told[1 - keeper], Outcome::Handed { keeper: to, .. } if to == keeper), "{told:?}");
    director.arrive_at(1 - keeper, 0, &[&tcp(CLIENT, VIP, SYN).bytes()]);
    assert_eq!(director.workers[keeper].connections(), 1);

    // Of a connection elsewhere the other worker knows.
    director.arrive_at(0, 0, &[&tcp(CLIENT, "192.0.2.10:443", SYN).bytes()]);
    let packet = tuple(Protocol::Tcp, CLIENT, "192.0.2.10:443");
    assert_eq!(ask_as(&mut director, 1, packet, None).elsewhere, Some(0));
    assert_eq!(ask_as(&mut director, 0, packet, None).elsewhere, None);
}

#[test]
fn what_is_dropped_or_left_is_told_with_its_reason() {
    let syn = tuple(Protocol::Tcp, CLIENT, VIP);
    let reason = |director: &mut Director, tuple| match ask(director, tuple) {
        Outcome::Dropped { reason, .. } => reason,
        other => panic!("{other:?}"),
    };
    let left = |director: &mut Director, tuple| match ask(director, tuple) {
        Outcome::Kernel(unclaimed) => unclaimed,
        other => panic!("{other:?}"),
    };
    let mut director = Director::new();
    let id = director.add_service(Protocol::Tcp, VIP);
    director.publish();
    assert_eq!(reason(&mut director, syn), DropReason::NoServer);
    assert_eq!(left(&mut director, tuple(Protocol::Tcp, CLIENT, "192.0.2.10:81")), Unclaimed::NoService);
    assert_eq!(left(&mut director, tuple(Protocol::Udp, CLIENT, VIP)), Unclaimed::NoService);
    director.set_standby(true);
    assert_eq!(left(&mut director, syn), Unclaimed::Standby);
    director.set_standby(false);

    director.add_server(id, SERVER, Method::FullNat, 1);
    director.service(id).local_addresses.clear();
    director.publish();
    assert_eq!(reason(&mut director, syn), DropReason::NoLocalPort);

    let mut full = Director::with(1, 1);
    let id = full.add_service(Protocol::Tcp, VIP);
    full.add_server(id, SERVER, Method::Nat, 1);
    full.publish();
    full.arrive(0, &tcp(CLIENT, VIP, SYN).bytes());
    assert_eq!(reason(&mut full, tuple(Protocol::Tcp, "198.51.100.8:1", VIP)), DropReason::TableFull);

    let mut calls = Director::new();
    let id = persistent(&mut calls, Protocol::Udp, DNS_VIP);
    calls.service(id).options.engine = Some(Engine::Sip);
    calls.add_server(id, "10.0.2.1:53", Method::Nat, 1);
    calls.publish();
    let datagram = tuple(Protocol::Udp, CLIENT, DNS_VIP);
    assert_eq!(reason(&mut calls, datagram), DropReason::NoCallId);
    assert_eq!(calls.arrive(0, &udp(CLIENT, DNS_VIP).bytes()).dropped, [DropReason::NoCallId]);

    let mut sctp = Director::new();
    let id = sctp.add_service(Protocol::Sctp, VIP);
    sctp.add_server(id, SERVER, Method::FullNat, 1);
    sctp.publish();
    assert_eq!(left(&mut sctp, tuple(Protocol::Sctp, CLIENT, VIP)), Unclaimed::SctpByFullNat);
}

#[test]
fn a_mark_may_be_taken_for_granted() {
    let mut director = Director::new();
    let http = director.add_service(Protocol::Tcp, VIP);
    let marked = director.add_mark(7, Family::V4);
    director.add_server(http, SERVER, Method::Nat, 1);
    director.add_server(marked, "10.0.2.2:80", Method::Nat, 1);
    director.mark_by(&[mark_rule("192.0.2.10/32", &[(443, 443)], 7)]);
    director.publish();
    let service = |director: &mut Director, port: u16, mark| {
        let packet = tuple(Protocol::Tcp, CLIENT, &format!("192.0.2.10:{port}"));
        match ask_as(director, 0, packet, mark).outcome {
            Outcome::New { service, .. } => Some(service),
            _ => None,
        }
    };
    assert_eq!(service(&mut director, 80, None), Some(http));
    assert_eq!(service(&mut director, 80, Some(7)), Some(marked));
    assert_eq!(service(&mut director, 443, None), Some(marked));
    assert_eq!(service(&mut director, 443, Some(0)), None, "it is taken to have none");
    assert_eq!(service(&mut director, 80, Some(8)), Some(http), "no service has it");
}
