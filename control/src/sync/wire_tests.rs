use proptest::prelude::*;

use super::*;

fn an_address() -> impl Strategy<Value = Address> {
    // An IPv4 address has but one form on the wire.
    prop_oneof![any::<[u8; 4]>().prop_map(Address::from_v4), any::<[u8; 16]>().prop_map(Address::from_v6)]
}

fn a_protocol() -> impl Strategy<Value = Protocol> {
    prop::sample::select(Protocol::ALL.to_vec())
}

fn a_tuple(protocol: Protocol) -> impl Strategy<Value = Tuple> {
    (an_address(), an_address(), any::<u16>(), any::<u16>()).prop_map(
        move |(source, destination, source_port, destination_port)| Tuple {
            source,
            destination,
            source_port,
            destination_port,
            protocol,
        },
    )
}

fn a_service() -> impl Strategy<Value = ServiceKey> {
    let family = prop::sample::select(vec![Family::V4, Family::V6]);
    prop_oneof![
        (a_protocol(), an_address(), any::<u16>())
            .prop_map(|(protocol, address, port)| ServiceKey::Address { protocol, address, port }),
        (any::<u32>(), family).prop_map(|(mark, family)| ServiceKey::Mark { mark, family }),
    ]
}

fn a_method() -> impl Strategy<Value = Method> {
    prop::sample::select(vec![Method::Nat, Method::FullNat, Method::DirectRoute, Method::Tunnel])
}

fn an_adjustment() -> impl Strategy<Value = Adjustment> {
    (any::<u32>(), any::<i32>(), any::<i32>()).prop_map(|(from, delta, previous_delta)| Adjustment {
        from,
        delta,
        previous_delta,
    })
}

fn a_session() -> impl Strategy<Value = Session> {
    let states = |protocol| {
        let fits = move |state: &State| match protocol {
            Protocol::Tcp => *state < State::Udp,
            Protocol::Udp => *state == State::Udp,
            Protocol::Sctp => state.is_of_sctp(),
        };
        prop::sample::select(State::ALL.into_iter().filter(fits).collect::<Vec<_>>())
    };
    let head = a_protocol().prop_flat_map(move |protocol| (a_tuple(protocol), states(protocol)));
    let roles = prop::sample::select(vec![Role::None, Role::Control, Role::Expected, Role::Data]);
    let control = (an_adjustment(), an_adjustment(), any::<bool>())
        .prop_map(|(client, server, encrypted)| FtpControl { client, server, encrypted });
    let ends = (an_address(), any::<u16>(), prop::option::of((an_address(), any::<u16>())));
    let numbers = (any::<u32>(), any::<u32>(), any::<bool>(), any::<bool>());
    (head, a_service(), ends, a_method(), numbers, roles, prop::option::of(control)).prop_map(
        |(
            (client, state),
            service,
            (address, port, local),
            method,
            (expires, packets, persistent, carried),
            ftp,
            control,
        )| {
            let ftp = if client.protocol == Protocol::Tcp && method.has_replies() { ftp } else { Role::None };
            let server = (address, port);
            Session {
                client,
                service,
                server,
                local,
                method,
                state,
                expires,
                packets,
                persistent,
                ftp,
                control,
                carried,
            }
        },
    )
}

fn a_key() -> impl Strategy<Value = TemplateKey> {
    (prop::option::of(a_protocol()), an_address(), an_address(), any::<u16>())
        .prop_map(|(protocol, client, service, port)| TemplateKey { protocol, client, service, port })
}

fn a_call() -> impl Strategy<Value = Option<Box<[u8]>>> {
    prop::option::of(prop::collection::vec(any::<u8>(), 0..=MAX_CALL).prop_map(Into::into))
}

fn a_template() -> impl Strategy<Value = TemplateRecord> {
    let numbers = (any::<u32>(), any::<u32>(), any::<bool>());
    (a_key(), a_service(), (an_address(), any::<u16>()), a_method(), numbers, a_call()).prop_map(
        |(key, service, server, method, (timeout, expires, assured), call)| TemplateRecord {
            key,
            service,
            server,
            method,
            timeout,
            expires,
            assured,
            call,
        },
    )
}

fn a_record() -> impl Strategy<Value = Record> {
    prop_oneof![
        a_session().prop_map(Record::Session),
        a_protocol().prop_flat_map(a_tuple).prop_map(Record::SessionGone),
        a_template().prop_map(Record::Template),
        (a_key(), a_call()).prop_map(|(key, call)| Record::TemplateGone(key, call)),
    ]
}

fn some_records() -> impl Strategy<Value = Message> {
    (any::<u64>(), prop::collection::vec(a_record(), 0..20))
        .prop_map(|(sequence, records)| Message::Records { sequence, records })
}

fn written(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    put_message(&mut out, message);
    out
}

proptest! {
    #[test]
    fn what_is_written_is_read(message in some_records()) {
        let bytes = written(&message);
        prop_assert_eq!(super::message(&bytes), Ok(Some(message)));
    }

    #[test]
    fn a_record_fits(record in a_record()) {
        let mut out = Vec::new();
        put_record(&mut out, &record);
        prop_assert!(out.len() <= MAX_RECORD + 3);
    }

    /// A cut message never gives other records than the whole one, and mostly an
    /// error.
    #[test]
    fn a_cut_message_gives_nothing_else(message in some_records(), cut in any::<prop::sample::Index>()) {
        let bytes = written(&message);
        let part = &bytes[..cut.index(bytes.len())];
        match (super::message(part), message) {
            (Err(error), _) => prop_assert_eq!(error, Malformed::Truncated),
            (Ok(Some(Message::Records { records: some, .. })), Message::Records { records: all, .. }) => {
                prop_assert!(all.starts_with(&some));
            }
            (other, _) => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0u8..8) {
        let _ = super::message(&bytes);
        let _ = super::message(&[&[kind], bytes.as_slice()].concat());
        let _ = super::message(&[&[RECORDS, 0, 0, 0, 0, 0, 0, 0, 0, kind, 0, bytes.len() as u8], bytes.as_slice()].concat());
    }

    /// What a newer director adds is passed over.
    #[test]
    fn additions_are_passed_over(record in a_record(), added in prop::collection::vec(any::<u8>(), 1..50)) {
        let mut out = Vec::new();
        start_records(&mut out);
        // A record of a kind that is not known yet.
        out.extend([200, 0, added.len() as u8]);
        out.extend(&added);
        let start = out.len();
        put_record(&mut out, &record);
        let length = out.len() - start - 3 + added.len();
        prop_assume!(length <= MAX_RECORD);
        out.extend(&added);
        out[start + 1..start + 3].copy_from_slice(&(length as u16).to_be_bytes());
        finish_records(&mut out, 2);
        let expected = Message::Records { sequence: 2, records: vec![record] };
        prop_assert_eq!(super::message(&out), Ok(Some(expected)));
    }
}

#[test]
fn other_messages_are_read() {
    let messages = [
        Message::Begin(u64::MAX),
        Message::End,
        Message::Heartbeat { sequence: 7, behind: 3, milliseconds: 12 },
        Message::Taken(9),
        Message::Again,
    ];
    for expected in messages {
        let mut bytes = written(&expected);
        assert_eq!(message(&bytes), Ok(Some(expected.clone())));
        bytes.push(1);
        assert_eq!(message(&bytes), Ok(Some(expected)), "with an addition");
    }
    assert_eq!(message(&[99, 1, 2]), Ok(None));
    assert_eq!(message(&[]), Err(Malformed::Truncated));
}

#[test]
fn an_oversized_record_is_refused() {
    let mut out = Vec::new();
    start_records(&mut out);
    out.extend([SESSION, 0x04, 0x01]);
    out.extend([0; 1025]);
    assert_eq!(message(&out), Err(Malformed::Oversized(1025)));
}

/// Version 1, byte for byte: directors of other versions of Sluice read it.
#[test]
fn the_bytes_of_a_record_stay() {
    let session = Session {
        client: Tuple {
            source: Address::from_v4([198, 51, 100, 7]),
            destination: Address::from_v4([192, 0, 2, 10]),
            source_port: 40_000,
            destination_port: 80,
            protocol: Protocol::Tcp,
        },
        service: ServiceKey::Address {
            protocol: Protocol::Tcp,
            address: Address::from_v4([192, 0, 2, 10]),
            port: 80,
        },
        server: (Address::from_v4([10, 0, 2, 1]), 8080),
        local: Some((Address::from_v4([10, 0, 2, 200]), 1024)),
        method: Method::FullNat,
        state: State::Established,
        expires: 900,
        packets: 3,
        persistent: false,
        ftp: Role::None,
        control: None,
        carried: false,
    };
    let mut out = Vec::new();
    put_record(&mut out, &Record::Session(session));
    let expected: &[&[u8]] = &[
        &[SESSION, 0, 48],
        &[6, 4, 198, 51, 100, 7, 0x9c, 0x40, 4, 192, 0, 2, 10, 0, 80],
        &[6, 4, 192, 0, 2, 10, 0, 80],
        &[4, 10, 0, 2, 1, 0x1f, 0x90],
        &[2, 1, 0, 0, 3, 0x84, 0, 0, 0, 3, 0, 2],
        &[4, 10, 0, 2, 200, 4, 0],
    ];
    assert_eq!(out[3..], expected[1..].concat());
    assert_eq!(usize::from(out[2]), out.len() - 3);

    // A bit that those pass over who do not know it.
    let mut carried = Vec::new();
    put_record(&mut carried, &Record::Session(Session { carried: true, ..session }));
    out[44] |= 8;
    assert_eq!(carried, out);
}
