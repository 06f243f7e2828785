//! How records are written: version 1 of the protocol.
//!
//! Numbers are in network order. A message is its kind (one byte) and the rest;
//! one of an unknown kind is passed over. Records in a message are each
//!
//! ```text
//! kind (1) | length of the rest (2) | the rest
//! ```
//!
//! and one of an unknown kind is passed over by its length, as are bytes behind
//! the ones that are known: a newer director may add both. What a field cannot
//! mean ends the connection.

use sluice_dataplane::conn::{State, TemplateKey, Tuple};
use sluice_dataplane::ftp::Role;
use sluice_dataplane::service::{Family, Method, Protocol, ServiceKey};
use sluice_dataplane::sync::{Adjustment, FtpControl, Record, Session, TemplateRecord};
use sluice_dataplane::wire::Address;
use thiserror::Error;

/// Bytes of a message at most: what Noise carries in one, less its tag.
pub const MAX_MESSAGE: usize = 65_535 - 16;

/// Bytes of a record at most.
pub const MAX_RECORD: usize = 1024;

/// Bytes of a call (`--pe sip`) at most, more than a template has.
const MAX_CALL: usize = 512;

/// What directors tell each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Everything is told from here on, by the process of this number
    Begin(u64),
    /// All that there is was told
    End,
    /// Changes
    Records {
        /// Records so far, these included
        sequence: u64,
        /// The changes
        records: Vec<Record>,
    },
    /// The sender is alive
    Heartbeat {
        /// Records so far
        sequence: u64,
        /// Of these, the ones that the receiver did not say it took
        behind: u64,
        /// How long the last took until the receiver said so, milliseconds
        milliseconds: u32,
    },
    /// Workers took all records up to this number
    Taken(u64),
    /// Some could not be taken that can be now: everything is to be told anew
    Again,
}

/// What makes no sense.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Malformed {
    /// It ends too soon
    #[error("a message ends in the middle of a field")]
    Truncated,
    /// A record is too long
    #[error("a record of {0} bytes, more than {MAX_RECORD}")]
    Oversized(usize),
    /// A field has a value that it cannot have
    #[error("a {0} that does not exist")]
    Value(&'static str),
}

const BEGIN: u8 = 1;
const END: u8 = 2;
const RECORDS: u8 = 3;
const HEARTBEAT: u8 = 4;
const TAKEN: u8 = 5;
const AGAIN: u8 = 6;

const SESSION: u8 = 1;
const SESSION_GONE: u8 = 2;
const TEMPLATE: u8 = 3;
const TEMPLATE_GONE: u8 = 4;

/// The start of a message of records, to which they are added by [`put_record`].
pub fn start_records(out: &mut Vec<u8>) {
    out.clear();
    out.push(RECORDS);
    out.extend([0; 8]);
}

/// Says in a started message how many records there were so far.
pub fn finish_records(out: &mut [u8], sequence: u64) {
    if let Some(place) = out.get_mut(1..9) {
        place.copy_from_slice(&sequence.to_be_bytes());
    }
}

/// Writes a message that has no records.
pub fn put_message(out: &mut Vec<u8>, message: &Message) {
    out.clear();
    match message {
        Message::Begin(instance) => {
            out.push(BEGIN);
            out.extend(instance.to_be_bytes());
        }
        Message::End => out.push(END),
        Message::Records { sequence, records } => {
            start_records(out);
            records.iter().for_each(|record| put_record(out, record));
            finish_records(out, *sequence);
        }
        Message::Heartbeat { sequence, behind, milliseconds } => {
            out.push(HEARTBEAT);
            out.extend(sequence.to_be_bytes());
            out.extend(behind.to_be_bytes());
            out.extend(milliseconds.to_be_bytes());
        }
        Message::Taken(sequence) => {
            out.push(TAKEN);
            out.extend(sequence.to_be_bytes());
        }
        Message::Again => out.push(AGAIN),
    }
}

/// Adds a record to a started message.
pub fn put_record(out: &mut Vec<u8>, record: &Record) {
    let start = out.len();
    out.extend([0; 3]);
    let kind = match record {
        Record::Session(session) => {
            put_session(out, session);
            SESSION
        }
        Record::SessionGone(tuple) => {
            put_tuple(out, tuple);
            SESSION_GONE
        }
        Record::Template(template) => {
            put_template(out, template);
            TEMPLATE
        }
        Record::TemplateGone(key, call) => {
            put_key(out, key);
            put_call(out, call.as_deref());
            TEMPLATE_GONE
        }
    };
    let length = (out.len() - start - 3) as u16;
    out[start] = kind;
    out[start + 1..start + 3].copy_from_slice(&length.to_be_bytes());
}

fn put_address(out: &mut Vec<u8>, address: Address) {
    match address.v4() {
        Some(v4) => {
            out.push(4);
            out.extend(v4);
        }
        None => {
            out.push(6);
            out.extend(address.bytes());
        }
    }
}

fn put_end(out: &mut Vec<u8>, (address, port): (Address, u16)) {
    put_address(out, address);
    out.extend(port.to_be_bytes());
}

fn put_tuple(out: &mut Vec<u8>, tuple: &Tuple) {
    out.push(tuple.protocol.number());
    put_end(out, (tuple.source, tuple.source_port));
    put_end(out, (tuple.destination, tuple.destination_port));
}

fn put_service(out: &mut Vec<u8>, service: &ServiceKey) {
    match *service {
        ServiceKey::Address { protocol, address, port } => {
            out.push(protocol.number());
            put_end(out, (address, port));
        }
        ServiceKey::Mark { mark, family } => {
            out.push(0);
            out.push(if family == Family::V4 { 4 } else { 6 });
            out.extend(mark.to_be_bytes());
        }
    }
}

fn put_method(out: &mut Vec<u8>, method: Method) {
    out.push(match method {
        Method::Nat => 1,
        Method::FullNat => 2,
        Method::DirectRoute => 3,
        Method::Tunnel => 4,
    });
}

fn put_session(out: &mut Vec<u8>, session: &Session) {
    put_tuple(out, &session.client);
    put_service(out, &session.service);
    put_end(out, session.server);
    put_method(out, session.method);
    out.push(session.state as u8);
    out.extend(session.expires.to_be_bytes());
    out.extend(session.packets.to_be_bytes());
    let ftp = match session.ftp {
        Role::None => 0,
        Role::Control => 1,
        Role::Expected => 2,
        Role::Data => 3,
    };
    let flags = u8::from(session.persistent)
        | u8::from(session.local.is_some()) << 1
        | u8::from(session.control.is_some()) << 2
        | u8::from(session.carried) << 3;
    out.extend([ftp, flags]);
    if let Some(local) = session.local {
        put_end(out, local);
    }
    if let Some(control) = &session.control {
        for Adjustment { from, delta, previous_delta } in [control.client, control.server] {
            out.extend(from.to_be_bytes());
            out.extend(delta.to_be_bytes());
            out.extend(previous_delta.to_be_bytes());
        }
        out.push(u8::from(control.encrypted));
    }
}

fn put_key(out: &mut Vec<u8>, key: &TemplateKey) {
    out.push(key.protocol.map_or(0, Protocol::number));
    put_address(out, key.client);
    put_end(out, (key.service, key.port));
}

fn put_call(out: &mut Vec<u8>, call: Option<&[u8]>) {
    // One that is longer would not be understood, and none is.
    let call = call.filter(|call| call.len() <= MAX_CALL);
    out.push(u8::from(call.is_some()));
    if let Some(call) = call {
        out.extend((call.len() as u16).to_be_bytes());
        out.extend(call);
    }
}

fn put_template(out: &mut Vec<u8>, template: &TemplateRecord) {
    put_key(out, &template.key);
    put_service(out, &template.service);
    put_end(out, template.server);
    put_method(out, template.method);
    out.extend(template.timeout.to_be_bytes());
    out.extend(template.expires.to_be_bytes());
    out.push(u8::from(template.assured));
    put_call(out, template.call.as_deref());
}

/// Reads a message; `None` for one of an unknown kind.
///
/// # Errors
/// When it makes no sense.
pub fn message(bytes: &[u8]) -> Result<Option<Message>, Malformed> {
    let mut read = Read(bytes);
    Ok(Some(match read.byte()? {
        BEGIN => Message::Begin(read.u64()?),
        END => Message::End,
        RECORDS => {
            let sequence = read.u64()?;
            let mut records = Vec::new();
            while !read.0.is_empty() {
                records.extend(record(&mut read)?);
            }
            Message::Records { sequence, records }
        }
        HEARTBEAT => {
            Message::Heartbeat { sequence: read.u64()?, behind: read.u64()?, milliseconds: read.u32()? }
        }
        TAKEN => Message::Taken(read.u64()?),
        AGAIN => Message::Again,
        _ => return Ok(None),
    }))
}

fn record(read: &mut Read) -> Result<Option<Record>, Malformed> {
    let kind = read.byte()?;
    let length = usize::from(read.u16()?);
    if length > MAX_RECORD {
        return Err(Malformed::Oversized(length));
    }
    let mut read = Read(read.take(length)?);
    Ok(Some(match kind {
        SESSION => Record::Session(read.session()?),
        SESSION_GONE => Record::SessionGone(read.tuple()?),
        TEMPLATE => Record::Template(read.template()?),
        TEMPLATE_GONE => Record::TemplateGone(read.key()?, read.call()?),
        _ => return Ok(None),
    }))
}

/// What is left to be read.
struct Read<'a>(&'a [u8]);

impl<'a> Read<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Malformed::Truncated)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    fn flag(&mut self) -> Result<bool, Malformed> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed::Value("yes or no")),
        }
    }

    fn address(&mut self) -> Result<Address, Malformed> {
        match self.byte()? {
            4 => self.array().map(Address::from_v4),
            6 => self.array().map(Address::from_v6),
            _ => Err(Malformed::Value("address family")),
        }
    }

    fn end(&mut self) -> Result<(Address, u16), Malformed> {
        Ok((self.address()?, self.u16()?))
    }

    fn protocol(&mut self) -> Result<Protocol, Malformed> {
        Protocol::from_number(self.byte()?).ok_or(Malformed::Value("protocol"))
    }

    fn tuple(&mut self) -> Result<Tuple, Malformed> {
        let protocol = self.protocol()?;
        let ((source, source_port), (destination, destination_port)) = (self.end()?, self.end()?);
        Ok(Tuple { source, destination, source_port, destination_port, protocol })
    }

    fn service(&mut self) -> Result<ServiceKey, Malformed> {
        let protocol = self.byte()?;
        if protocol == 0 {
            let family = match self.byte()? {
                4 => Family::V4,
                6 => Family::V6,
                _ => return Err(Malformed::Value("address family")),
            };
            return Ok(ServiceKey::Mark { mark: self.u32()?, family });
        }
        let protocol = Protocol::from_number(protocol).ok_or(Malformed::Value("protocol"))?;
        let (address, port) = self.end()?;
        Ok(ServiceKey::Address { protocol, address, port })
    }

    fn method(&mut self) -> Result<Method, Malformed> {
        Ok(match self.byte()? {
            1 => Method::Nat,
            2 => Method::FullNat,
            3 => Method::DirectRoute,
            4 => Method::Tunnel,
            _ => return Err(Malformed::Value("method")),
        })
    }

    fn adjustment(&mut self) -> Result<Adjustment, Malformed> {
        Ok(Adjustment {
            from: self.u32()?,
            delta: self.array().map(i32::from_be_bytes)?,
            previous_delta: self.array().map(i32::from_be_bytes)?,
        })
    }

    fn session(&mut self) -> Result<Session, Malformed> {
        let (client, service, server) = (self.tuple()?, self.service()?, self.end()?);
        let method = self.method()?;
        let state = *State::ALL.get(usize::from(self.byte()?)).ok_or(Malformed::Value("state"))?;
        // A state of another protocol would never end as it should.
        let fits = match client.protocol {
            Protocol::Tcp => state < State::Udp,
            Protocol::Udp => state == State::Udp,
            Protocol::Sctp => state.is_of_sctp(),
        };
        if !fits {
            return Err(Malformed::Value("state of the protocol"));
        }
        let (expires, packets) = (self.u32()?, self.u32()?);
        let ftp = match self.byte()? {
            0 => Role::None,
            1 => Role::Control,
            2 => Role::Expected,
            3 => Role::Data,
            _ => return Err(Malformed::Value("part in FTP")),
        };
        if ftp != Role::None && (client.protocol != Protocol::Tcp || !method.has_replies()) {
            return Err(Malformed::Value("part in FTP"));
        }
        let flags = self.byte()?;
        let local = if flags & 2 != 0 { Some(self.end()?) } else { None };
        let control = if flags & 4 != 0 {
            let (client, server) = (self.adjustment()?, self.adjustment()?);
            Some(FtpControl { client, server, encrypted: self.flag()? })
        } else {
            None
        };
        let persistent = flags & 1 != 0;
        let session = Session {
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
            carried: flags & 8 != 0,
        };
        Ok(session)
    }

    fn key(&mut self) -> Result<TemplateKey, Malformed> {
        let protocol = match self.byte()? {
            0 => None,
            number => Some(Protocol::from_number(number).ok_or(Malformed::Value("protocol"))?),
        };
        let client = self.address()?;
        let (service, port) = self.end()?;
        Ok(TemplateKey { protocol, client, service, port })
    }

    fn call(&mut self) -> Result<Option<Box<[u8]>>, Malformed> {
        if !self.flag()? {
            return Ok(None);
        }
        let length = usize::from(self.u16()?);
        if length > MAX_CALL {
            return Err(Malformed::Oversized(length));
        }
        Ok(Some(self.take(length)?.into()))
    }

    fn template(&mut self) -> Result<TemplateRecord, Malformed> {
        Ok(TemplateRecord {
            key: self.key()?,
            service: self.service()?,
            server: self.end()?,
            method: self.method()?,
            timeout: self.u32()?,
            expires: self.u32()?,
            assured: self.flag()?,
            call: self.call()?,
        })
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
