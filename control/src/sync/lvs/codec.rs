//! Messages of the protocol, of both versions.
//!
//! Version 1, all in network order (`struct ip_vs_sync_mesg`, `ip_vs_sync_v4`,
//! `ip_vs_sync_v6`):
//!
//! ```text
//!  0        1         2           4            5         6         8
//!  | 0      | sync id | size      | number     | 1       | 0       | entries
//!
//!  entry, at a multiple of four bytes:
//!  0        1         2           4            8         10        12
//!  | family | protocol| size      | flags      | state   | client port
//!  12         14          16      20           24
//!  | VIP port | RIP port  | mark  | seconds    | client, VIP, RIP | options
//! ```
//!
//! An entry's family is 0 for IPv4 and 1 for IPv6; four bits of its size are a
//! version, which is 0. An option has a type, a length and so many bytes.
//!
//! Version 0 begins with the number of entries, has IPv4 only and neither marks
//! nor times (`struct ip_vs_sync_mesg_v0`, `ip_vs_sync_conn_v0`). Sequence
//! numbers are in the sender's byte order there, taken to be this machine's.

use sluice_dataplane::wire::Address;
use thiserror::Error;

use super::flags;

/// Bytes before the first entry (version 1).
pub const HEADER: usize = 8;
/// Bytes before the first entry (version 0).
const HEADER_0: usize = 4;
/// Bytes of an IPv4 entry without options.
const ENTRY_V4: usize = 36;
/// Bytes of an IPv6 entry without options.
const ENTRY_V6: usize = 72;
/// Bytes of an entry of version 0 without sequence numbers.
const ENTRY_0: usize = 24;
/// Bytes of the sequence numbers of both directions.
const SEQUENCES: usize = 24;

/// `IPVS_OPT_SEQ_DATA`
const OPTION_SEQUENCES: u8 = 1;
/// `IPVS_OPT_PE_DATA`
const OPTION_ENGINE_DATA: u8 = 2;
/// `IPVS_OPT_PE_NAME`
const OPTION_ENGINE_NAME: u8 = 3;
/// Set in the type of an option that who does not know it may pass over
/// (`IPVS_OPT_F_PARAM`).
const OPTION_MAY_BE_SKIPPED: u8 = 0x40;

/// Longest data of a persistence engine (`IP_VS_PEDATA_MAXLEN`).
pub const LONGEST_ENGINE_DATA: usize = 255;
/// Longest name of one (`IP_VS_PENAME_MAXLEN`).
pub const LONGEST_ENGINE_NAME: usize = 16;

/// Most entries of a message: their number is a byte.
const MOST_ENTRIES: u8 = u8::MAX;

/// A connection, or a persistence template, as it is on the wire.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// IP protocol number; 0 for the template of a mark
    pub protocol: u8,
    /// [`flags`]
    pub flags: u32,
    /// Number of the state among the protocol's
    pub state: u16,
    /// Client and its port in host order
    pub client: (Address, u16),
    /// VIP and port in host order, or the mark in place of the VIP
    pub service: (Address, u16),
    /// RIP and port in host order
    pub server: (Address, u16),
    /// Mark of the service, or 0
    pub mark: u32,
    /// Seconds that it lives without packets, or 0 where the message does not
    /// say
    pub timeout: u32,
    /// How sequence numbers change: of what the client sends, and the server
    pub sequences: Option<[Sequence; 2]>,
    /// What its persistence engine goes by
    pub engine: Option<Engine>,
}

/// How sequence numbers of one direction change (`struct ip_vs_seq`).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Sequence {
    /// From which on `delta` holds
    pub from: u32,
    /// What is added from there on
    pub delta: u32,
    /// What is added before
    pub previous_delta: u32,
}

/// A persistence engine and its data.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Engine {
    /// Its name
    pub name: Box<[u8]>,
    /// What it goes by
    pub data: Box<[u8]>,
}

/// A message that was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// Version of the protocol: 0 or 1
    pub version: u8,
    /// Which directors belong together
    pub sync_id: u8,
    /// What it tells of, as far as it could be read
    pub entries: Vec<Entry>,
    /// Entries that have an option which must be known and is not
    pub unknown: usize,
    /// Why no more entries could be read; those before hold
    pub fault: Option<Fault>,
}

/// Why a datagram is no message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum NoMessage {
    /// There is no header
    #[error("{0} bytes are too few for a message")]
    Short(usize),
    /// It is not as long as it says
    #[error("a message of {length} bytes says that it has {said}")]
    Size {
        /// Its bytes
        length: usize,
        /// What its header says
        said: usize,
    },
}

/// What is wrong with an entry, so that the rest of its message has no meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Fault {
    /// It goes on after the end of the message
    #[error("entry {0} goes beyond the end")]
    Beyond(usize),
    /// It is of another version
    #[error("entry {0} is of version {1}")]
    Version(usize, u8),
    /// It is of neither family
    #[error("entry {0} is of family {1}")]
    Family(usize, u8),
    /// Its size is less than it takes
    #[error("entry {0} is too short")]
    Short(usize),
    /// An IPv6 address in it is an IPv4-mapped one
    #[error("entry {0} has an IPv4-mapped address")]
    Mapped(usize),
    /// An option ends after the entry, is empty, comes twice or has a length that
    /// it cannot have
    #[error("entry {0} has a bad option of type {1}")]
    Option(usize, u8),
}

/// Reads a datagram.
///
/// # Errors
/// When it is no message at all. What is wrong with a later part is in
/// [`Message::fault`], as IPVS takes what came before.
pub fn decode(datagram: &[u8]) -> Result<Message, NoMessage> {
    let Some(&[first, sync_id, size_high, size_low]) = datagram.first_chunk() else {
        return Err(NoMessage::Short(datagram.len()));
    };
    let said = usize::from(u16::from_be_bytes([size_high, size_low]));
    if said != datagram.len() {
        return Err(NoMessage::Size { length: datagram.len(), said });
    }
    match datagram.get(4..HEADER) {
        Some(&[number, 1, 0, 0]) if first == 0 => Ok(decode_1(datagram, sync_id, number)),
        _ => Ok(decode_0(datagram, sync_id, first)),
    }
}

fn decode_1(datagram: &[u8], sync_id: u8, number: u8) -> Message {
    let mut message = Message { version: 1, sync_id, entries: Vec::new(), unknown: 0, fault: None };
    let mut rest = &datagram[HEADER..];
    for place in 1..=usize::from(number) {
        match entry(rest, place) {
            Ok((Some(entry), size)) => {
                message.entries.push(entry);
                rest = after(rest, size);
            }
            Ok((None, size)) => {
                message.unknown += 1;
                rest = after(rest, size);
            }
            Err(fault) => {
                message.fault = Some(fault);
                break;
            }
        }
    }
    message
}

/// What comes after an entry of `size` bytes and its padding.
fn after(rest: &[u8], size: usize) -> &[u8] {
    rest.get(size.next_multiple_of(4)..).unwrap_or_default()
}

/// The first entry of `rest`, unless it has to be passed over, and its size.
fn entry(rest: &[u8], place: usize) -> Result<(Option<Entry>, usize), Fault> {
    let Some(fixed) = rest.first_chunk::<ENTRY_V4>() else {
        return Err(Fault::Beyond(place));
    };
    let versioned = u16::from_be_bytes([fixed[2], fixed[3]]);
    let size = usize::from(versioned & 0x0fff);
    let Some(bytes) = rest.get(..size) else {
        return Err(Fault::Beyond(place));
    };
    if versioned >> 12 != 0 {
        return Err(Fault::Version(place, (versioned >> 12) as u8));
    }
    let family = fixed[0];
    let (addresses, mut options) = match family {
        _ if family & 1 != 0 => (v6(bytes, place)?, &bytes[ENTRY_V6..]),
        0 => (v4(bytes, place)?, &bytes[ENTRY_V4..]),
        _ => return Err(Fault::Family(place, family)),
    };
    let short = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
    let long = |at: usize| u32::from_be_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
    let mut sequences = None;
    let (mut data, mut name): (Option<&[u8]>, Option<&[u8]>) = (None, None);
    while let Some((&kind, rest)) = options.split_first() {
        let bad = Fault::Option(place, kind);
        let (&length, rest) = rest.split_first().ok_or(bad)?;
        let length = usize::from(length);
        let (value, rest) = rest.split_at_checked(length).filter(|_| length > 0).ok_or(bad)?;
        options = rest;
        match kind & !OPTION_MAY_BE_SKIPPED {
            OPTION_SEQUENCES => {
                let value = <&[u8; SEQUENCES]>::try_from(value).map_err(|_| bad)?;
                if sequences.replace(both(value, u32::from_be_bytes)).is_some() {
                    return Err(bad);
                }
            }
            OPTION_ENGINE_DATA => {
                if data.replace(value).is_some() {
                    return Err(bad);
                }
            }
            OPTION_ENGINE_NAME => {
                if length > LONGEST_ENGINE_NAME || name.replace(value).is_some() {
                    return Err(bad);
                }
            }
            _ if kind & OPTION_MAY_BE_SKIPPED != 0 => {}
            _ => return Ok((None, size)),
        }
    }
    let engine = match (name, data) {
        (Some(name), Some(data)) => Some(Engine { name: name.into(), data: data.into() }),
        // Data of nobody knows whom (`ip_vs_conn_fill_param_sync`).
        (None, Some(_)) => return Ok((None, size)),
        (_, None) => None,
    };
    let [client, service, server] = addresses;
    let entry = Entry {
        protocol: fixed[1],
        flags: long(4),
        state: short(8),
        client: (client, short(10)),
        service: (service, short(12)),
        server: (server, short(14)),
        mark: long(16),
        timeout: long(20),
        sequences,
        engine,
    };
    Ok((Some(entry), size))
}

fn v4(bytes: &[u8], place: usize) -> Result<[Address; 3], Fault> {
    let addresses = bytes.get(24..ENTRY_V4).ok_or(Fault::Short(place))?;
    let (addresses, _) = addresses.as_chunks::<4>();
    Ok([0, 1, 2].map(|which| Address::from_v4(addresses[which])))
}

fn v6(bytes: &[u8], place: usize) -> Result<[Address; 3], Fault> {
    let addresses = bytes.get(24..ENTRY_V6).ok_or(Fault::Short(place))?;
    let (addresses, _) = addresses.as_chunks::<16>();
    let addresses = [0, 1, 2].map(|which| Address::from_v6(addresses[which]));
    // It would be taken for an IPv4 address from here on.
    if addresses.iter().any(|address| address.is_v4()) {
        return Err(Fault::Mapped(place));
    }
    Ok(addresses)
}

/// Sequence numbers of both directions, the client's first.
fn both(bytes: &[u8; SEQUENCES], read: fn([u8; 4]) -> u32) -> [Sequence; 2] {
    let (words, _) = bytes.as_chunks::<4>();
    [0, 3].map(|first| Sequence {
        from: read(words[first]),
        delta: read(words[first + 1]),
        previous_delta: read(words[first + 2]),
    })
}

fn decode_0(datagram: &[u8], sync_id: u8, number: u8) -> Message {
    let mut message = Message { version: 0, sync_id, entries: Vec::new(), unknown: 0, fault: None };
    let mut rest = &datagram[HEADER_0..];
    for place in 1..=usize::from(number) {
        let Some((fixed, after)) = rest.split_first_chunk::<ENTRY_0>() else {
            message.fault = Some(Fault::Beyond(place));
            break;
        };
        rest = after;
        let short = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
        let address = |at: usize| Address::from_v4([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
        let flags = u32::from(short(20));
        let mut sequences = None;
        if flags & flags::SEQUENCES != 0 {
            let Some((bytes, after)) = rest.split_first_chunk::<SEQUENCES>() else {
                message.fault = Some(Fault::Beyond(place));
                break;
            };
            rest = after;
            sequences = Some(both(bytes, u32::from_ne_bytes));
        }
        message.entries.push(Entry {
            protocol: fixed[1],
            flags,
            state: short(22),
            client: (address(8), short(2)),
            service: (address(12), short(4)),
            server: (address(16), short(6)),
            mark: 0,
            timeout: 0,
            sequences,
            engine: None,
        });
    }
    message
}

/// Why an entry cannot be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Unsendable {
    /// Its addresses are of both families
    #[error("its addresses are of both families")]
    Families,
    /// The persistence engine's name or data are empty or too long
    #[error("the name or the data of its persistence engine do not fit")]
    Engine,
}

/// Writes a message of version 1.
#[derive(Clone, Debug)]
pub struct Encoder {
    bytes: Vec<u8>,
    longest: usize,
}

impl Encoder {
    /// An empty message of at most `longest` bytes. One entry fits whatever that
    /// is.
    pub fn new(sync_id: u8, longest: u16) -> Self {
        Encoder { bytes: vec![0, sync_id, 0, 0, 0, 1, 0, 0], longest: longest.into() }
    }

    /// Whether it tells of nothing yet.
    pub fn is_empty(&self) -> bool {
        self.bytes[4] == 0
    }

    /// Adds an entry; `false` when it does not fit any more.
    ///
    /// # Errors
    /// When it fits no message.
    pub fn push(&mut self, entry: &Entry) -> Result<bool, Unsendable> {
        let options = options_of(entry)?;
        let addresses = [entry.client.0, entry.service.0, entry.server.0];
        let is_v4 = entry.client.0.is_v4();
        if addresses.iter().any(|address| address.is_v4() != is_v4) {
            return Err(Unsendable::Families);
        }
        let size = if is_v4 { ENTRY_V4 } else { ENTRY_V6 } + options.len();
        let start = self.bytes.len().next_multiple_of(4);
        let full = self.bytes[4] == MOST_ENTRIES || start + size > self.longest.min(u16::MAX.into());
        if full && !self.is_empty() {
            return Ok(false);
        }
        self.bytes.resize(start, 0);
        let bytes = &mut self.bytes;
        bytes.extend([u8::from(!is_v4), entry.protocol]);
        bytes.extend((size as u16).to_be_bytes());
        bytes.extend(entry.flags.to_be_bytes());
        for number in [entry.state, entry.client.1, entry.service.1, entry.server.1] {
            bytes.extend(number.to_be_bytes());
        }
        bytes.extend(entry.mark.to_be_bytes());
        bytes.extend(entry.timeout.to_be_bytes());
        for address in addresses {
            match address.v4() {
                Some(v4) => bytes.extend(v4),
                None => bytes.extend(address.bytes()),
            }
        }
        bytes.extend(options);
        bytes[4] += 1;
        Ok(true)
    }

    /// The message, after which it is empty again.
    pub fn take(&mut self) -> Vec<u8> {
        let empty = Encoder::new(self.bytes[1], 0).bytes;
        let mut bytes = std::mem::replace(&mut self.bytes, empty);
        let size = (bytes.len() as u16).to_be_bytes();
        bytes[2..4].copy_from_slice(&size);
        bytes
    }
}

fn options_of(entry: &Entry) -> Result<Vec<u8>, Unsendable> {
    let mut options = Vec::new();
    if let Some(sequences) = &entry.sequences {
        options.extend([OPTION_SEQUENCES, SEQUENCES as u8]);
        for Sequence { from, delta, previous_delta } in sequences {
            for number in [from, delta, previous_delta] {
                options.extend(number.to_be_bytes());
            }
        }
    }
    if let Some(Engine { name, data }) = &entry.engine {
        let fits = |bytes: &[u8], longest| (1..=longest).contains(&bytes.len());
        if !fits(name, LONGEST_ENGINE_NAME) || !fits(data, LONGEST_ENGINE_DATA) {
            return Err(Unsendable::Engine);
        }
        for (kind, value) in [(OPTION_ENGINE_DATA, data), (OPTION_ENGINE_NAME, name)] {
            options.extend([kind, value.len() as u8]);
            options.extend(&value[..]);
        }
    }
    Ok(options)
}
