//! Entries of the protocol as this director's records, and back.
//!
//! What of a record the protocol has no place for is lost: the LIP of FULLNAT
//! (such connections are not sent at all), what a tunnel wraps packets in,
//! which connections a template made, and that an FTP connection's commands are
//! encrypted. A receiver has the first two from its own configuration.

use sluice_dataplane::conn::{State, TemplateKey, Tuple};
use sluice_dataplane::ftp::Role;
use sluice_dataplane::service::{
    Engine as KnownEngine, FTP, Family, Method, Protocol, ServiceId, ServiceKey, ServiceTable, VirtualService,
};
use sluice_dataplane::sync::{Adjustment, FtpControl, Record, Session, TemplateRecord};
use sluice_dataplane::wire::Address;
use thiserror::Error;

use super::codec::{Engine, Entry, Sequence};
use super::flags;

/// Packets that a connection is taken to have had already (the first number of
/// `sync_threshold`; the protocol does not tell).
const PACKETS: u32 = 3;

/// Seconds of a template that came without (`ip_vs_proc_conn`).
const TEMPLATE_SECONDS: u32 = 180;

/// State of a template one of whose connections was established
/// (`IP_VS_CTPL_S_ASSURED`).
const ASSURED: u16 = 1;

/// Why an entry is kept out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Error)]
pub enum KeptOut {
    /// A protocol without services
    #[error("protocol not known")]
    Protocol,
    /// A state that its protocol has not
    #[error("state not known")]
    State,
    /// The server is the other director itself, or there is none
    #[error("forwarding method not supported")]
    Method,
    /// A persistence engine that is not there
    #[error("persistence engine not known")]
    Engine,
    /// There is no such service here
    #[error("no such service")]
    NoService,
    /// The service has no such server here
    #[error("no such server")]
    NoServer,
}

impl KeptOut {
    /// All of them, in their order.
    pub const ALL: [KeptOut; 6] = [
        KeptOut::Protocol,
        KeptOut::State,
        KeptOut::Method,
        KeptOut::Engine,
        KeptOut::NoService,
        KeptOut::NoServer,
    ];
}

/// What a connection's record has no words for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Inexpressible {
    /// It has a LIP
    #[error("FULLNAT is not part of the protocol")]
    FullNat,
    /// Its end is told by nothing, and comes with time
    #[error("the protocol tells of no end")]
    Gone,
    /// An announced connection of FTP that the server opens from any port
    #[error("it waits for a port of the server's")]
    ServerPort,
}

/// The record of an entry, by the services of `table`.
///
/// # Errors
/// When it is to be kept out.
pub fn record_of(entry: &Entry, table: &ServiceTable) -> Result<Record, KeptOut> {
    let method = match entry.flags & flags::METHOD {
        flags::NAT => Method::Nat,
        flags::TUNNEL => Method::Tunnel,
        flags::DIRECT_ROUTE => Method::DirectRoute,
        _ => return Err(KeptOut::Method),
    };
    if entry.flags & flags::TEMPLATE != 0 {
        template_of(entry, method, table).map(Record::Template)
    } else {
        session_of(entry, method, table).map(Record::Session)
    }
}

fn session_of(entry: &Entry, method: Method, table: &ServiceTable) -> Result<Session, KeptOut> {
    let protocol = Protocol::from_number(entry.protocol).ok_or(KeptOut::Protocol)?;
    let state = state(protocol, entry.state).ok_or(KeptOut::State)?;
    let client = Tuple {
        source: entry.client.0,
        destination: entry.service.0,
        source_port: entry.client.1,
        destination_port: entry.service.1,
        protocol,
    };
    let by_key = || match entry.mark {
        0 => table.find(protocol, client.destination, client.destination_port),
        mark => with_key(table, ServiceKey::Mark { mark, family: Family::of(client.destination) }),
    };
    let is_data = |port| port == FTP - 1 || port >= 1024;
    let (id, is_data) = match by_key() {
        Some(id) => (id, false),
        // A data connection of FTP belongs to the control connection's service.
        None if protocol == Protocol::Tcp && is_data(client.destination_port) => {
            let key = ServiceKey::Address { protocol, address: client.destination, port: FTP };
            (with_key(table, key).ok_or(KeptOut::NoService)?, true)
        }
        None => return Err(KeptOut::NoService),
    };
    let service = table.service(id).ok_or(KeptOut::NoService)?;
    check_server(table, service, entry.server, is_data)?;
    let ftp = if entry.flags & flags::NO_CLIENT_PORT != 0 {
        Role::Expected
    } else if is_data {
        Role::Data
    } else if protocol == Protocol::Tcp && client.destination_port == FTP {
        Role::Control
    } else {
        Role::None
    };
    let control = entry.sequences.filter(|_| ftp == Role::Control).map(|[client, server]| FtpControl {
        client: adjustment(client),
        server: adjustment(server),
        encrypted: false,
    });
    Ok(Session {
        client,
        service: service.key,
        server: entry.server,
        local: None,
        method,
        state,
        expires: if entry.timeout != 0 { entry.timeout } else { table.timeouts().seconds(state) },
        packets: PACKETS,
        persistent: service.options.persistence.is_some(),
        ftp,
        control,
        carried: false,
    })
}

fn template_of(entry: &Entry, method: Method, table: &ServiceTable) -> Result<TemplateRecord, KeptOut> {
    let protocol = match entry.protocol {
        0 => None,
        number => Some(Protocol::from_number(number).ok_or(KeptOut::Protocol)?),
    };
    let call = match &entry.engine {
        None => None,
        Some(engine) if *engine.name == *KnownEngine::Sip.name().as_bytes() => Some(engine.data.clone()),
        Some(_) => return Err(KeptOut::Engine),
    };
    let (address, port) = entry.service;
    let id = match (entry.mark, protocol) {
        (0, None) => None,
        (0, Some(protocol)) => table.find(protocol, address, port).or_else(|| {
            // Templates of FTP stand for all ports.
            with_key(table, ServiceKey::Address { protocol, address, port: FTP }).filter(|_| port == 0)
        }),
        (mark, _) => with_key(table, ServiceKey::Mark { mark, family: Family::of(entry.client.0) }),
    };
    let service = id.and_then(|id| table.service(id)).ok_or(KeptOut::NoService)?;
    check_server(table, service, entry.server, entry.server.1 == 0)?;
    let timeout = if entry.timeout != 0 { entry.timeout } else { TEMPLATE_SECONDS };
    Ok(TemplateRecord {
        key: TemplateKey { protocol, client: entry.client.0, service: address, port },
        service: service.key,
        server: entry.server,
        method,
        timeout,
        expires: timeout,
        assured: entry.state == ASSURED,
        call,
    })
}

fn with_key(table: &ServiceTable, key: ServiceKey) -> Option<ServiceId> {
    match key {
        ServiceKey::Address { protocol, address, port } => {
            table.find(protocol, address, port).filter(|id| table.service(*id).is_some_and(|s| s.key == key))
        }
        ServiceKey::Mark { .. } => table.services().find(|(_, service)| service.key == key).map(|(id, _)| id),
    }
}

/// Whether the service has the server: by address and port, or where that is
/// every port's or `any_port`, by its address (`ip_vs_find_dest`).
fn check_server(
    table: &ServiceTable,
    service: &VirtualService,
    (address, port): (Address, u16),
    any_port: bool,
) -> Result<(), KeptOut> {
    let mut servers = service.servers.iter().filter_map(|id| table.server(*id));
    let has = servers.any(|s| s.address == address && (s.port == port || s.port == 0 || any_port));
    if has { Ok(()) } else { Err(KeptOut::NoServer) }
}

/// The state with this number among the protocol's.
fn state(protocol: Protocol, number: u16) -> Option<State> {
    let states = states(protocol);
    states.get(usize::from(number)).copied()
}

/// The protocol's states in IPVS's order, which is this one's.
fn states(protocol: Protocol) -> &'static [State] {
    let tcp = State::Udp as usize;
    match protocol {
        Protocol::Tcp => &State::ALL[..tcp],
        Protocol::Udp => &State::ALL[tcp..=tcp],
        Protocol::Sctp => &State::ALL[tcp + 1..],
    }
}

fn adjustment(sequence: Sequence) -> Adjustment {
    Adjustment {
        from: sequence.from,
        delta: sequence.delta.cast_signed(),
        previous_delta: sequence.previous_delta.cast_signed(),
    }
}

fn sequence(adjustment: Adjustment) -> Sequence {
    Sequence {
        from: adjustment.from,
        delta: adjustment.delta.cast_unsigned(),
        previous_delta: adjustment.previous_delta.cast_unsigned(),
    }
}

/// The entry that tells of a record.
///
/// # Errors
/// When no entry can.
pub fn entry_of(record: &Record) -> Result<Entry, Inexpressible> {
    match record {
        Record::Session(session) => entry_of_session(session),
        Record::Template(template) => entry_of_template(template),
        Record::SessionGone(_) | Record::TemplateGone(..) => Err(Inexpressible::Gone),
    }
}

fn entry_of_session(session: &Session) -> Result<Entry, Inexpressible> {
    let Session { client, server, state, .. } = *session;
    let mut flags = method_flags(session.method)? | inactive(state);
    if session.ftp == Role::Expected {
        if server.1 == 0 || client.destination_port == 0 {
            return Err(Inexpressible::ServerPort);
        }
        flags |= flags::NO_CLIENT_PORT;
    }
    let sequences = session.control.map(|control| [sequence(control.client), sequence(control.server)]);
    for (direction, flag) in [flags::IN_SEQUENCE, flags::OUT_SEQUENCE].into_iter().enumerate() {
        if sequences.is_some_and(|both| both[direction] != Sequence::default()) {
            flags |= flag;
        }
    }
    Ok(Entry {
        protocol: client.protocol.number(),
        flags,
        state: number(state),
        client: (client.source, client.source_port),
        service: (client.destination, client.destination_port),
        server,
        mark: mark(&session.service),
        // 0 would leave it to the backup.
        timeout: session.expires.max(1),
        sequences: sequences.filter(|_| flags & flags::SEQUENCES != 0),
        engine: None,
    })
}

fn entry_of_template(template: &TemplateRecord) -> Result<Entry, Inexpressible> {
    let TemplateKey { protocol, client, service, port } = template.key;
    Ok(Entry {
        protocol: protocol.map_or(0, Protocol::number),
        flags: method_flags(template.method)? | flags::TEMPLATE | flags::INACTIVE,
        state: if template.assured { ASSURED } else { 0 },
        client: (client, 0),
        service: (service, port),
        server: template.server,
        mark: mark(&template.service),
        timeout: template.timeout,
        sequences: None,
        engine: template.call.clone().map(sip),
    })
}

fn sip(call: Box<[u8]>) -> Engine {
    Engine { name: KnownEngine::Sip.name().as_bytes().into(), data: call }
}

fn method_flags(method: Method) -> Result<u32, Inexpressible> {
    match method {
        Method::Nat => Ok(flags::NAT),
        Method::Tunnel => Ok(flags::TUNNEL | flags::NO_OUTPUT),
        Method::DirectRoute => Ok(flags::DIRECT_ROUTE | flags::NO_OUTPUT),
        Method::FullNat => Err(Inexpressible::FullNat),
    }
}

fn inactive(state: State) -> u32 {
    if state.is_active() { 0 } else { flags::INACTIVE }
}

/// Number of a state among its protocol's.
fn number(state: State) -> u16 {
    let protocol = match state {
        State::Udp => Protocol::Udp,
        _ if state.is_of_sctp() => Protocol::Sctp,
        _ => Protocol::Tcp,
    };
    states(protocol).iter().position(|other| *other == state).unwrap_or(0) as u16
}

fn mark(service: &ServiceKey) -> u32 {
    match *service {
        ServiceKey::Mark { mark, .. } => mark,
        ServiceKey::Address { .. } => 0,
    }
}
