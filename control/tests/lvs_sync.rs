//! What Linux's IPVS sent its backup, and how the backup understood it
//! (`data/lvs_sync/README.md`), against our reading of it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use proptest::prelude::*;
use sluice_control::sync::lvs::codec::{Encoder, Engine, Entry, Fault, NoMessage, Sequence, decode};
use sluice_control::sync::lvs::translate::{KeptOut, entry_of, record_of};
use sluice_control::sync::lvs::{codec, flags};
use sluice_dataplane::ftp::Role;
use sluice_dataplane::service::{
    Encapsulation, Family, Method, Protocol, RealServer, SchedulerFlags, SchedulerKind, ServerId, ServiceId,
    ServiceKey, ServiceOptions, ServiceTable, ServiceTableBuilder, Thresholds, VirtualService,
};
use sluice_dataplane::stats::{ServerCounters, TrafficCounters};
use sluice_dataplane::sync::{Record, Session};
use sluice_dataplane::wire::Address;

const RECORDING: &str = include_str!("data/lvs_sync/kernel.hex");

struct Case {
    title: String,
    /// What the backup listed
    backup: Vec<Listed>,
    messages: Vec<Vec<u8>>,
}

/// A line of `ipvsadm -Lnc --persistent-conn`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Listed {
    protocol: String,
    state: String,
    client: String,
    service: String,
    server: String,
    engine: String,
    seconds: u32,
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect()
}

fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in RECORDING.lines().filter(|line| !line.is_empty()) {
        if let Some(listed) = line.strip_prefix("# backup: ") {
            let words: Vec<_> = listed.split(' ').map(str::to_owned).collect();
            let (minutes, seconds) = words[1].split_once(':').unwrap();
            let seconds = minutes.parse::<u32>().unwrap() * 60 + seconds.parse::<u32>().unwrap();
            let [protocol, _, state, client, service, server, engine @ ..] = &words[..] else { panic!() };
            cases.last_mut().unwrap().backup.push(Listed {
                protocol: protocol.clone(),
                state: state.clone(),
                client: client.clone(),
                service: service.clone(),
                server: server.clone(),
                engine: engine.join(" "),
                seconds,
            });
        } else if line.starts_with("# master: ") {
        } else if let Some(title) = line.strip_prefix("# ") {
            cases.push(Case { title: title.to_owned(), backup: Vec::new(), messages: Vec::new() });
        } else {
            cases.last_mut().unwrap().messages.push(bytes(line));
        }
    }
    assert!(cases.len() >= 18, "{} cases", cases.len());
    cases
}

fn shown((address, port): (Address, u16)) -> String {
    SocketAddr::new(IpAddr::from(address), port).to_string()
}

fn protocol_name(protocol: Option<Protocol>) -> String {
    match protocol {
        None => "IP",
        Some(Protocol::Tcp) => "TCP",
        Some(Protocol::Udp) => "UDP",
        Some(Protocol::Sctp) => "SCTP",
    }
    .to_owned()
}

fn listed(record: &Record) -> Listed {
    match record {
        Record::Session(s) => Listed {
            protocol: protocol_name(Some(s.client.protocol)),
            state: s.state.name().to_owned(),
            client: shown((s.client.source, s.client.source_port)),
            service: shown((s.client.destination, s.client.destination_port)),
            server: shown(s.server),
            engine: String::new(),
            seconds: s.expires,
        },
        Record::Template(t) => Listed {
            protocol: protocol_name(t.key.protocol),
            state: if t.assured { "ASSURED" } else { "NONE" }.to_owned(),
            client: shown((t.key.client, 0)),
            service: shown((t.key.service, t.key.port)),
            server: shown(t.server),
            engine: t
                .call
                .as_ref()
                .map_or(String::new(), |call| format!("sip {}", String::from_utf8_lossy(call))),
            seconds: t.expires,
        },
        other => panic!("{other:?}"),
    }
}

/// A table with the services and servers that entries name.
fn table(entries: &[Entry]) -> ServiceTable {
    let mut services: BTreeMap<ServiceKey, Vec<(Address, u16, Method)>> = BTreeMap::new();
    for entry in entries {
        let protocol = Protocol::from_number(entry.protocol);
        let key = match (entry.mark, protocol) {
            (0, Some(protocol)) => {
                // A data connection's service is that of FTP.
                let port = if entry.service.1 == 40000 { 21 } else { entry.service.1 };
                ServiceKey::Address { protocol, address: entry.service.0, port }
            }
            (0, None) => continue,
            (mark, _) => ServiceKey::Mark { mark, family: Family::of(entry.client.0) },
        };
        let method = match entry.flags & flags::METHOD {
            flags::TUNNEL => Method::Tunnel,
            flags::DIRECT_ROUTE => Method::DirectRoute,
            _ => Method::Nat,
        };
        let port = if entry.service.1 == 40000 { 21 } else { entry.server.1 };
        let servers = services.entry(key).or_default();
        if !servers.contains(&(entry.server.0, port, method)) {
            servers.push((entry.server.0, port, method));
        }
    }
    let mut builder = ServiceTableBuilder::new(1);
    let mut next = 0;
    for (number, (key, servers)) in services.into_iter().enumerate() {
        let id = ServiceId(number as u32);
        let mut ids = Vec::new();
        for (address, port, method) in servers {
            ids.push(ServerId(next));
            builder.server(
                ServerId(next),
                RealServer {
                    service: id,
                    service_key: key,
                    address,
                    port,
                    method,
                    encapsulation: Encapsulation::Ipip,
                    weight: 1,
                    last_weight: 1,
                    timeouts: None,
                    thresholds: Thresholds::default(),
                    edits: 0,
                    available: true,
                    counters: Arc::new(ServerCounters::new(1)),
                    service_counters: Arc::new(TrafficCounters::new(1)),
                },
            );
            next += 1;
        }
        builder.service(
            id,
            VirtualService {
                key,
                scheduler: SchedulerKind::Rr,
                scheduler_flags: SchedulerFlags::default(),
                servers: ids,
                local_addresses: Vec::new(),
                options: ServiceOptions::default(),
                counters: Arc::new(TrafficCounters::new(1)),
            },
        );
    }
    builder.build()
}

#[test]
fn what_the_kernel_sends_is_what_its_backup_lists() {
    for case in cases() {
        let mut known = BTreeMap::new();
        for datagram in &case.messages {
            let message = decode(datagram).unwrap_or_else(|error| panic!("{}: {error}", case.title));
            assert_eq!((message.fault, message.unknown, message.sync_id), (None, 0, 7), "{}", case.title);
            assert_eq!(message.version == 0, case.title.starts_with("version 0"), "{}", case.title);
            let table = table(&message.entries);
            for entry in &message.entries {
                let record = record_of(entry, &table).unwrap_or_else(|why| panic!("{}: {why}", case.title));
                let listed = listed(&record);
                let name = (
                    listed.protocol.clone(),
                    listed.client.clone(),
                    listed.service.clone(),
                    listed.engine.clone(),
                );
                known.insert(name, listed);
            }
        }
        let mut ours: Vec<_> = known.into_values().collect();
        let mut backup = case.backup;
        ours.sort();
        backup.sort();
        assert_eq!(ours.len(), backup.len(), "{}: {ours:?} {backup:?}", case.title);
        for (ours, theirs) in ours.into_iter().zip(backup) {
            // It was listed up to so long after the message.
            let late = ours.seconds.wrapping_sub(theirs.seconds);
            assert!(late <= 6, "{}: {ours:?} {theirs:?}", case.title);
            assert_eq!(ours, Listed { seconds: ours.seconds, ..theirs }, "{}", case.title);
        }
    }
}

#[test]
fn what_is_read_is_written_the_same() {
    for case in cases() {
        for datagram in case.messages {
            let message = decode(&datagram).unwrap();
            if message.version == 0 {
                continue;
            }
            let mut encoder = Encoder::new(message.sync_id, 1472);
            for entry in &message.entries {
                assert_eq!(encoder.push(entry), Ok(true), "{}", case.title);
            }
            assert_eq!(encoder.take(), datagram, "{}", case.title);
            assert!(encoder.is_empty());
        }
    }
}

/// Of the flags, a record keeps what a backup heeds, and all else but what only
/// the kernel knows.
#[test]
fn records_say_what_entries_say() {
    for case in cases() {
        for datagram in &case.messages {
            let message = decode(datagram).unwrap();
            let table = table(&message.entries);
            for entry in message.entries {
                let mut back = entry_of(&record_of(&entry, &table).unwrap()).unwrap();
                let mut heeded = entry.clone();
                // Here, replies of DR and TUN did pass the director.
                heeded.flags &= flags::HEEDED & !flags::NO_OUTPUT;
                back.flags &= !flags::NO_OUTPUT;
                if message.version == 0 {
                    heeded.timeout = back.timeout;
                }
                assert_eq!(back, heeded, "{}", case.title);
            }
        }
    }
}

fn entry() -> Entry {
    Entry {
        protocol: 6,
        flags: 0,
        state: 1,
        client: (Address::from_v4([10, 0, 1, 1]), 40000),
        service: (Address::from_v4([192, 0, 2, 10]), 80),
        server: (Address::from_v4([10, 0, 2, 1]), 80),
        mark: 0,
        timeout: 900,
        sequences: None,
        engine: None,
    }
}

fn message(entries: &[Entry]) -> Vec<u8> {
    let mut encoder = Encoder::new(7, u16::MAX);
    for entry in entries {
        assert_eq!(encoder.push(entry), Ok(true));
    }
    encoder.take()
}

#[test]
fn what_is_not_a_message_is_refused() {
    assert_eq!(decode(&[]), Err(NoMessage::Short(0)));
    assert_eq!(decode(&[0, 7, 0]), Err(NoMessage::Short(3)));
    assert_eq!(decode(&[0, 7, 0, 9, 0, 1, 0, 0]), Err(NoMessage::Size { length: 8, said: 9 }));
    assert_eq!(decode(&[0, 7, 0, 8, 0, 1, 0, 0]).unwrap().entries, []);
}

#[test]
fn a_fault_ends_a_message_and_what_came_before_holds() {
    let whole = message(&[entry(), entry(), entry()]);
    let with = |at: usize, value: u8| {
        let mut bytes = whole.clone();
        bytes[at] = value;
        let message = decode(&bytes).unwrap();
        (message.entries.len(), message.fault)
    };
    let second = codec::HEADER + 36;
    assert_eq!(with(second, 2), (1, Some(Fault::Family(2, 2))));
    assert_eq!(with(second, 1), (1, Some(Fault::Short(2))), "an IPv6 entry is longer");
    assert_eq!(with(second + 2, 0x10), (1, Some(Fault::Version(2, 1))));
    assert_eq!(with(second + 3, 35), (1, Some(Fault::Short(2))));
    assert_eq!(with(second + 3, 73), (1, Some(Fault::Beyond(2))));
    assert_eq!(with(second + 3, 37), (1, Some(Fault::Option(2, 0))), "half an option");
    assert_eq!(with(4, 4), (3, Some(Fault::Beyond(4))), "more entries than there are");
    assert_eq!(with(4, 2), (2, None), "fewer");
}

#[test]
fn options_are_checked() {
    let with = |options: &[u8]| {
        let mut bytes = message(&[entry()]);
        bytes.extend(options);
        let size = bytes.len() as u8;
        (bytes[3], bytes[codec::HEADER + 3]) = (size, size - codec::HEADER as u8);
        let message = decode(&bytes).unwrap();
        (message.entries.len(), message.unknown, message.fault)
    };
    let bad = |kind| (0, 0, Some(Fault::Option(1, kind)));
    assert_eq!(with(&[9, 2, 0, 0]), (0, 1, None), "it would have to be known");
    assert_eq!(with(&[0x49, 2, 0, 0]), (1, 0, None), "it may be passed over");
    assert_eq!(with(&[0x49, 0]), bad(0x49), "empty");
    assert_eq!(with(&[0x49, 3, 0, 0]), bad(0x49), "longer than the entry");
    assert_eq!(with(&[1, 2, 0, 0]), bad(1), "too short for sequence numbers");
    assert_eq!(with(&[2, 1, b'a', 2, 1, b'b']), bad(2), "twice");
    assert_eq!(with(&[[3, 17].as_slice(), &[b'a'; 17]].concat()), bad(3), "a name too long");
    assert_eq!(with(&[2, 1, b'a']), (0, 1, None), "nobody's data");
    assert_eq!(with(&[3, 1, b'a']), (1, 0, None), "a name without data");
}

#[test]
fn an_ipv4_mapped_address_is_a_fault() {
    let v6 = |last| Address::from_v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
    let mut bytes =
        message(&[Entry { client: (v6(1), 1), service: (v6(2), 2), server: (v6(3), 3), ..entry() }]);
    let client = codec::HEADER + 24;
    bytes[client..client + 16].copy_from_slice(&Address::from_v4([10, 0, 1, 1]).bytes());
    assert_eq!(decode(&bytes).unwrap().fault, Some(Fault::Mapped(1)));
}

#[test]
fn what_cannot_be_used_is_kept_out() {
    let table = table(&[entry()]);
    let why = |entry: Entry| record_of(&entry, &table).unwrap_err();
    assert_eq!(why(Entry { protocol: 50, ..entry() }), KeptOut::Protocol);
    assert_eq!(why(Entry { state: 11, ..entry() }), KeptOut::State);
    assert_eq!(why(Entry { protocol: 17, state: 1, ..entry() }), KeptOut::State);
    assert_eq!(why(Entry { flags: flags::LOCAL_NODE, ..entry() }), KeptOut::Method);
    assert_eq!(why(Entry { flags: flags::BYPASS, ..entry() }), KeptOut::Method);
    assert_eq!(why(Entry { service: (entry().service.0, 81), ..entry() }), KeptOut::NoService);
    assert_eq!(why(Entry { protocol: 17, state: 0, ..entry() }), KeptOut::NoService);
    assert_eq!(why(Entry { mark: 5, ..entry() }), KeptOut::NoService);
    assert_eq!(why(Entry { server: (entry().server.0, 81), ..entry() }), KeptOut::NoServer);
    assert_eq!(why(Entry { server: (entry().client.0, 80), ..entry() }), KeptOut::NoServer);
    let template = Entry { flags: flags::TEMPLATE, client: (entry().client.0, 0), ..entry() };
    assert!(matches!(record_of(&template, &table), Ok(Record::Template(_))));
    let engine = Some(Engine { name: (*b"other").into(), data: (*b"x").into() });
    assert_eq!(why(Entry { engine, ..template }), KeptOut::Engine);
}

#[test]
fn sequence_numbers_of_ftp_travel() {
    let sequences = [
        Sequence { from: 7, delta: 3, previous_delta: 1 },
        Sequence { from: 9, delta: 5u32.wrapping_neg(), previous_delta: 0 },
    ];
    let ftp = Entry {
        service: (entry().service.0, 21),
        server: (entry().server.0, 21),
        flags: flags::SEQUENCES,
        sequences: Some(sequences),
        ..entry()
    };
    let read = decode(&message(std::slice::from_ref(&ftp))).unwrap().entries.remove(0);
    assert_eq!(read, ftp);
    let record = record_of(&read, &table(std::slice::from_ref(&ftp))).unwrap();
    let Record::Session(Session { ftp: Role::Control, control: Some(control), .. }) = record else {
        panic!("{record:?}")
    };
    assert_eq!((control.server.from, control.server.delta), (9, -5));
    assert_eq!(entry_of(&record).unwrap(), ftp);
}

#[test]
fn what_has_a_local_address_is_not_sent() {
    let Ok(Record::Session(session)) = record_of(&entry(), &table(&[entry()])) else { panic!() };
    let fullnat = Session { method: Method::FullNat, local: Some((entry().client.0, 1)), ..session };
    assert!(entry_of(&Record::Session(fullnat)).is_err());
    assert!(entry_of(&Record::SessionGone(session.client)).is_err());
}

#[test]
fn messages_are_no_longer_than_said_and_have_room_for_one_entry() {
    let mut encoder = Encoder::new(7, 100);
    assert_eq!([(); 3].map(|()| encoder.push(&entry())), [Ok(true), Ok(true), Ok(false)]);
    assert_eq!(encoder.take().len(), codec::HEADER + 72);
    let mut encoder = Encoder::new(7, 1);
    assert_eq!([(); 2].map(|()| encoder.push(&entry())), [Ok(true), Ok(false)]);
    let mut encoder = Encoder::new(7, u16::MAX);
    assert_eq!((0..300).filter(|_| encoder.push(&entry()) == Ok(true)).count(), 255, "a byte counts them");
    assert_eq!(decode(&encoder.take()).unwrap().entries.len(), 255);
}

fn an_entry() -> impl Strategy<Value = Entry> {
    let address = |v4: bool| {
        any::<[u8; 16]>().prop_map(move |mut bytes| {
            bytes[0] |= 1;
            if v4 {
                Address::from_v4([bytes[0], bytes[1], bytes[2], bytes[3]])
            } else {
                Address::from_v6(bytes)
            }
        })
    };
    let ends = any::<bool>().prop_flat_map(move |v4| {
        [(address(v4), any::<u16>()), (address(v4), any::<u16>()), (address(v4), any::<u16>())]
    });
    let sequence =
        any::<[u32; 3]>().prop_map(|[from, delta, previous_delta]| Sequence { from, delta, previous_delta });
    let some = |most| prop::collection::vec(any::<u8>(), 1..=most).prop_map(Vec::into_boxed_slice);
    let engine = (some(codec::LONGEST_ENGINE_NAME), some(codec::LONGEST_ENGINE_DATA))
        .prop_map(|(name, data)| Engine { name, data });
    (
        (any::<u8>(), any::<u32>(), any::<u16>(), any::<u32>(), any::<u32>()),
        ends,
        prop::option::of([sequence.clone(), sequence]),
        prop::option::of(engine),
    )
        .prop_map(
            |((protocol, flags, state, mark, timeout), [client, service, server], sequences, engine)| Entry {
                protocol,
                flags,
                state,
                client,
                service,
                server,
                mark,
                timeout,
                sequences,
                engine,
            },
        )
}

proptest! {
    #[test]
    fn any_entries_survive(entries in prop::collection::vec(an_entry(), 0..20)) {
        prop_assert_eq!(decode(&message(&entries)).unwrap().entries, entries);
    }

    #[test]
    fn no_datagram_does_harm(mut datagram in prop::collection::vec(any::<u8>(), 0..400), version in any::<bool>()) {
        // Most would end at the header.
        if let [first, _, high, low, rest @ ..] = &mut datagram[..] {
            [*high, *low] = ((rest.len() + 4) as u16).to_be_bytes();
            if let ([_, one, spare @ ..], true) = (&mut rest[..], version) {
                *first = 0;
                *one = 1;
                spare.iter_mut().take(2).for_each(|byte| *byte = 0);
            }
        }
        if let Ok(message) = decode(&datagram) {
            prop_assert!(message.entries.len() <= datagram.len() / 24);
            for entry in message.entries {
                let _ = record_of(&entry, &ServiceTableBuilder::new(1).build());
            }
        }
    }

    #[test]
    fn no_changed_message_does_harm(
        entries in prop::collection::vec(an_entry(), 1..4),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut datagram = message(&entries);
        for (at, value) in changes {
            let at = at.index(datagram.len());
            datagram[at] = value;
        }
        datagram.truncate(cut.index(datagram.len()) + 1);
        let length = (datagram.len() as u16).to_be_bytes();
        if datagram.len() >= 4 {
            datagram[2..4].copy_from_slice(&length);
        }
        if let Ok(message) = decode(&datagram) {
            let table = table(&message.entries);
            for entry in message.entries {
                let _ = record_of(&entry, &table).map(|record| entry_of(&record));
            }
        }
    }
}
