//! FTP: control connections are followed, data connections expected and
//! claimed. See [`crate::ftp`].

use super::flow::{Flows, Verdict, View, deadline};
use crate::conn::{Entry, EntryId, Side, State, Tuple};
use crate::forward::Plan;
use crate::ftp::command::{Command, Reply, Text};
use crate::ftp::segment::{self, Segment};
use crate::ftp::stream::{self, Line, Stream};
use crate::ftp::{Mode, Role, Streams};
use crate::packet::Packet;
use crate::port::Frame;
use crate::service::{FtpPorts, Method, Protocol};
use crate::stats::DropReason;
use crate::wire::{Address, ipv4, ipv6, tcp};

/// Seconds that a control connection gets when its time is over while it has
/// data connections (`ip_vs_conn_expire`).
const ANOTHER_MINUTE: u32 = 60;

/// Local ports that are passed over for one whose answers land on the right
/// queue.
const MOST_UNFIT: usize = 32;

/// A data connection to be expected.
struct Announced {
    client: Tuple,
    /// The server's address and port; the port is 0 while it is not known
    server: (Address, u16),
    /// The server's port, for listings
    listed_port: u16,
}

impl Flows {
    /// What a new connection to `tuple` is to FTP.
    #[inline]
    pub(super) fn ftp_role(view: &View, method: Method, tuple: &Tuple) -> Role {
        let control = method.has_replies()
            && tuple.protocol == Protocol::Tcp
            && view.services.tunables().ftp.is_control(tuple.destination_port);
        if control { Role::Control } else { Role::None }
    }

    /// Follows a packet of a control connection and changes it where it has to
    /// be. Returns the packet as it is now.
    #[cold]
    pub(super) fn follow<F: Frame>(
        &mut self,
        view: &View,
        frame: &mut F,
        packet: &Packet,
        (id, side): (EntryId, Side),
        mtu: u16,
        now: u32,
    ) -> Result<Packet, Verdict> {
        let drop = Err(Verdict::Drop(DropReason::FtpControl));
        let Some(entry) = self.table.get(id) else { return Ok(*packet) };
        // The client opens it anew where it was over: other numbers, other lines.
        // In one that is established, a SYN changes nothing.
        let opens = side == Side::Client && packet.flags & (tcp::SYN | tcp::ACK) == tcp::SYN;
        if opens && entry.state == State::SynRecv {
            self.ftp.forget_control(id);
        }
        let (mtu, difference) = (usize::from(mtu), ipv6::LEN - ipv4::LEN);
        let room = match (entry.is_of_one_family(), packet.is_v4) {
            (true, _) => mtu,
            (false, true) => mtu.saturating_sub(difference),
            (false, false) => mtu + difference,
        };
        // These are refused as they came, and their sender is told.
        let refused = packet.ttl <= 1 || packet.dont_fragment && usize::from(packet.length) > room;
        if packet.flags & tcp::SYN != 0 || refused {
            return Ok(*packet);
        }
        let Some(segment) = Segment::read(packet, frame.bytes()) else {
            return if self.ftp.follows(id) { drop } else { Ok(*packet) };
        };
        // The first data says where both are: mostly that of the server, which
        // greets.
        let begins = segment.length > 0 && segment.flags & (tcp::ACK | tcp::RST) == tcp::ACK;
        if begins && !self.ftp.follows(id) {
            let streams = match side {
                Side::Client => Streams::new(segment.sequence, segment.acknowledgment),
                Side::Server => Streams::new(segment.acknowledgment, segment.sequence),
            };
            // Sent again, it may find room.
            self.ftp.begin(id, streams).map_err(|_| Verdict::Drop(DropReason::TableFull))?;
        }
        let Some(mut streams) = self.ftp.lend(id) else { return Ok(*packet) };
        streams.catch_up(side, &segment);
        let before = streams.shifts();
        let followed =
            self.follow_streams(view, frame, packet, &mut streams, segment, (id, &entry, side), room, now);
        if self.sync.is_on() {
            self.sync.packet(id, entry.template, streams.shifts() != before);
        }
        self.ftp.keep(id, streams);
        followed
    }

    /// Follows a segment of a control connection, in a packet that may have `room`
    /// bytes.
    #[expect(clippy::too_many_arguments, reason = "what a segment is read with")]
    fn follow_streams<F: Frame>(
        &mut self,
        view: &View,
        frame: &mut F,
        packet: &Packet,
        streams: &mut Streams,
        mut segment: Segment,
        (id, entry, side): (EntryId, &Entry, Side),
        room: usize,
        now: u32,
    ) -> Result<Packet, Verdict> {
        let encrypted = streams.encrypted;
        let (sent, other) = streams.of(side);
        if segment.flags & tcp::ACK != 0 && sent.is_near(segment.sequence) {
            other.acknowledge(segment.acknowledgment);
        }
        let consumes = segment.length > 0 || segment.flags & tcp::FIN != 0;
        let missing = stream::before(sent.next(), segment.sequence);
        if consumes && missing && segment.flags & tcp::RST == 0 && !encrypted {
            return Err(Verdict::Drop(DropReason::FtpControl));
        }
        let mut cut = false;
        let (sent, _) = streams.of(side);
        if segment.length > 0 && stream::before(sent.next(), segment.end()) {
            let payload = frame.bytes().get(segment.data..segment.data + segment.length).unwrap_or_default();
            let read = self.read_lines(view, streams, (id, entry, side), segment.sequence, payload, now);
            if let Err(verdict) = read {
                // What comes before the line in question may pass.
                let length = streams.of(side).0.next().wrapping_sub(segment.sequence);
                if !(1..segment.length as u32).contains(&length) {
                    return Err(verdict);
                }
                segment.length = length as usize;
                cut = true;
            }
        }
        if !cut && streams.client.is_unchanged() && streams.server.is_unchanged() {
            return Ok(*packet);
        }
        let (sent, other) = streams.of(side);
        let mut scratch = std::mem::take(&mut self.ftp.scratch);
        let rewritten = segment::rewrite(packet, &segment, frame, (sent, other), room, &mut scratch);
        self.ftp.scratch = scratch;
        rewritten.ok_or(Verdict::Drop(DropReason::TooBig))
    }

    /// Reads the lines that end in a segment, and has those replaced that must
    /// be.
    fn read_lines(
        &mut self,
        view: &View,
        streams: &mut Streams,
        (id, entry, side): (EntryId, &Entry, Side),
        sequence: u32,
        payload: &[u8],
        now: u32,
    ) -> Result<(), Verdict> {
        let Streams { client, server, mode, auth, encrypted } = streams;
        let sent = match side {
            Side::Client => client,
            Side::Server => server,
        };
        sent.read(sequence, payload, |sent, start, line| {
            if *encrypted {
                return Ok(());
            }
            let (whole, text) = match line {
                Line::Whole(text) => (true, text),
                Line::Parted(text) => (false, text),
            };
            match side {
                Side::Client => match Command::parse(text) {
                    Some(Command::Auth) => *auth = true,
                    Some(Command::Pasv) => {
                        *mode = Some(Mode::Passive);
                        // A server of IPv6 has no other answer to it.
                        if whole && !entry.server.source.is_v4() {
                            replace(sent, start, text.len(), Text::of("EPSV"))?;
                        }
                    }
                    Some(Command::Epsv(protocol)) => {
                        *mode = Some(Mode::ExtendedPassive);
                        let of_server = if entry.server.source.is_v4() { "EPSV 1" } else { "EPSV 2" };
                        if whole && protocol.is_some() && !entry.is_of_one_family() {
                            replace(sent, start, text.len(), Text::of(of_server))?;
                        }
                    }
                    Some(Command::Port { address, port }) => {
                        *mode = None;
                        // Somebody else's address: the bounce attack.
                        if !whole || address != entry.client.source {
                            return Ok(());
                        }
                        let Some(at) = self.expect_active(view, id, entry, port, now)? else { return Ok(()) };
                        let extended = text.first().is_some_and(|byte| byte.eq_ignore_ascii_case(&b'E'));
                        if at != (address, port) {
                            replace(sent, start, text.len(), Text::announcing(at.0, at.1, extended))?;
                        }
                    }
                    None => {}
                },
                Side::Server => match Reply::parse(text) {
                    Some(Reply::Encrypted) => *encrypted = *auth,
                    Some(Reply::Passive { address, port, place }) => {
                        let vip = entry.client.destination;
                        let is_server = address == entry.server.source || address == vip;
                        if !whole || *mode != Some(Mode::Passive) || !is_server {
                            return Ok(());
                        }
                        self.expect_passive(view, id, entry, port, now)?;
                        *mode = None;
                        if let (Some(v4), true) = (vip.v4(), address != vip) {
                            let start = start.wrapping_add(place.start as u32);
                            replace(sent, start, place.len(), Text::six_numbers(v4, port))?;
                        }
                    }
                    Some(Reply::ExtendedPassive { address, port, place }) => {
                        let vip = entry.client.destination;
                        let is_server = address.is_none_or(|a| a == entry.server.source || a == vip);
                        // A server of IPv6 was asked for this whatever the client asked for.
                        let answers =
                            |asked: &Mode| *asked == Mode::ExtendedPassive || !entry.server.source.is_v4();
                        let Some(asked) = mode.filter(|asked| whole && is_server && answers(asked)) else {
                            return Ok(());
                        };
                        self.expect_passive(view, id, entry, port, now)?;
                        *mode = None;
                        match (asked, vip.v4()) {
                            (Mode::Passive, Some(v4)) => {
                                replace(sent, start, text.len(), Text::passive_reply(v4, port))?;
                            }
                            (Mode::ExtendedPassive, _) if address.is_some() => {
                                let start = start.wrapping_add(place.start as u32);
                                replace(sent, start, place.len(), Text::only_port(port))?;
                            }
                            _ => {}
                        }
                    }
                    None => {}
                },
            }
            Ok(())
        })
    }

    /// Expects the server to connect to the client's `port`. Returns where it is
    /// to connect to; `None` if the connection cannot be told from another.
    fn expect_active(
        &mut self,
        view: &View,
        control: EntryId,
        entry: &Entry,
        port: u16,
        now: u32,
    ) -> Result<Option<(Address, u16)>, Verdict> {
        let server_port = FtpPorts::active(entry.server.source_port);
        let announced = Announced {
            client: Tuple {
                source_port: port,
                destination_port: FtpPorts::active(entry.client.destination_port),
                ..entry.client
            },
            // Servers that may not take port 20 connect from any.
            server: (entry.server.source, 0),
            listed_port: server_port,
        };
        let Some(id) = self.expect(view, control, entry, announced, now)? else { return Ok(None) };
        let expected = self.table.get(id);
        Ok(expected.map(|expected| (expected.server.destination, expected.server.destination_port)))
    }

    /// Expects the client to connect to `port` at the VIP.
    fn expect_passive(
        &mut self,
        view: &View,
        control: EntryId,
        entry: &Entry,
        port: u16,
        now: u32,
    ) -> Result<(), Verdict> {
        let announced = Announced {
            client: Tuple { source_port: 0, destination_port: port, ..entry.client },
            server: (entry.server.source, port),
            listed_port: port,
        };
        self.expect(view, control, entry, announced, now).map(|_| ())
    }

    /// Makes the entry of a data connection that was announced.
    fn expect(
        &mut self,
        view: &View,
        control: EntryId,
        entry: &Entry,
        announced: Announced,
        now: u32,
    ) -> Result<Option<EntryId>, Verdict> {
        let Announced { client, server, listed_port } = announced;
        let old = self.table.find(&client, self.table.hash(&client)).map(|(id, _)| id);
        match old.and_then(|id| Some((id, self.table.line(id)?.ftp))) {
            Some((id, Role::Expected | Role::Data)) => self.expire(view, id),
            Some(_) => return Ok(None),
            None => {}
        }
        let full = Verdict::Drop(DropReason::TableFull);
        let expected = self.ftp.expected();
        if self.table.len() >= self.capacity || expected >= self.capacity.div_ceil(4) || self.ftp.is_full() {
            return Err(full);
        }
        let real = view.services.server(entry.server_id).ok_or(Verdict::Drop(DropReason::ServerGone))?;
        let local = match entry.method {
            // Servers refuse data connections of another address than the
            // control connection's, and to one.
            Method::FullNat => self.data_port(entry, listed_port)?,
            Method::Nat | Method::DirectRoute | Method::Tunnel => (client.source, client.source_port),
        };
        let plan = Plan::new(entry.method, client, server, local);
        let data = Entry {
            state: State::Listen,
            ftp: Role::Expected,
            ..Entry::new(client, plan.server, plan.deltas(), entry.server_id, entry.method)
        };
        let Ok(id) = self.table.insert(data) else {
            self.give_back(&of_pool(data));
            return Err(full);
        };
        let seconds = view.services.timeouts_of(real).seconds(State::Listen);
        self.table.schedule(id, deadline(now, seconds));
        // As in IPVS, it counts as a connection of the server, but not as one that
        // was scheduled.
        real.counters.share(self.worker).inactive.add(1);
        self.connections_changed(data.server_id, real);
        if let Some(oldest) = self.ftp.expect(id, control, listed_port) {
            self.expire(view, oldest);
        }
        Ok(Some(id))
    }

    /// A port of the control connection's LIP for a data connection with
    /// `server_port`. All those with a server share a pool, that of its port 0:
    /// each passive port would else take one of its own, and there are only so
    /// many. So a port is looked for whose answers land on this worker's queue, and
    /// that nobody uses towards that very port.
    fn data_port(&mut self, entry: &Entry, server_port: u16) -> Result<(Address, u16), Verdict> {
        let server = (entry.server.source, 0);
        let lips = [entry.server.destination];
        let exhausted = |_| Verdict::Drop(DropReason::NoLocalPort);
        let mut local = self.local_ports.allocate(&lips, server, Protocol::Tcp).map_err(exhausted)?;
        let mut unfit = [None; MOST_UNFIT];
        for place in &mut unfit {
            let answer = Tuple { source_port: server_port, destination_port: local.1, ..entry.server };
            let taken = self.table.find(&answer, self.table.hash(&answer)).is_some();
            if !taken && self.local_ports.owner_of(&answer) == self.worker {
                break;
            }
            let Ok(other) = self.local_ports.allocate(&lips, server, Protocol::Tcp) else { break };
            *place = Some(std::mem::replace(&mut local, other));
        }
        for (lip, port) in unfit.into_iter().flatten() {
            self.local_ports.free(lip, port, server, Protocol::Tcp);
        }
        Ok(local)
    }

    /// Whether a packet opens a data connection that is expected.
    #[inline]
    pub(super) fn expects(&self, packet: &Packet) -> Option<(EntryId, Side)> {
        if self.ftp.expected() == 0 || packet.flags & (tcp::SYN | tcp::ACK | tcp::RST) != tcp::SYN {
            return None;
        }
        let tuple = Tuple { source_port: 0, ..packet.tuple };
        let found = self.table.find(&tuple, self.table.hash(&tuple))?;
        let expected = self.table.line(found.0).is_some_and(|line| line.ftp == Role::Expected);
        (expected && packet.tuple.source_port != 0).then_some(found)
    }

    /// The data connection that a packet opens, which is expected no more.
    #[inline]
    pub(super) fn claim(&mut self, packet: &Packet) -> Option<(EntryId, Side)> {
        let (id, side) = self.expects(packet)?;
        let over = self.table.deadline(id);
        let mut entry = self.table.remove(id)?;
        self.sync.gone(id, &entry.client, &self.owners, self.worker);
        let (mut client, mut server) = (entry.client, (entry.server.source, entry.server.source_port));
        let mut local = (entry.server.destination, entry.server.destination_port);
        match side {
            Side::Client => {
                client.source_port = packet.tuple.source_port;
                if entry.method == Method::Nat {
                    local.1 = client.source_port;
                }
            }
            Side::Server => server.1 = packet.tuple.source_port,
        }
        let plan = Plan::new(entry.method, client, server, local);
        (entry.client, entry.server) = (client, plan.server);
        (entry.ip_delta, entry.transport_delta) = (plan.ip_delta, plan.transport_delta);
        entry.ftp = Role::Data;
        // The number that was given back last is the first to be given away.
        let again = self.table.insert(entry);
        debug_assert_eq!(again, Ok(id));
        if let Some(deadline) = over {
            self.table.schedule(id, deadline);
        }
        self.ftp.come(id);
        Some((id, side))
    }

    /// Takes an entry that is removed out of what is kept of FTP. Returns it as
    /// its local port was taken.
    pub(super) fn forget_ftp(&mut self, id: EntryId, entry: Entry) -> Entry {
        match entry.ftp {
            Role::None => entry,
            Role::Control => {
                self.ftp.forget_control(id);
                entry
            }
            Role::Expected | Role::Data => {
                self.ftp.forget_data(id, entry.ftp == Role::Data);
                of_pool(entry)
            }
        }
    }

    /// Whether a connection whose time is over goes on for its data connections.
    pub(super) fn outlives(&mut self, id: EntryId, now: u32) -> bool {
        let needed =
            self.table.line(id).is_some_and(|line| line.ftp == Role::Control) && self.ftp.children(id) > 0;
        if needed {
            self.table.schedule(id, deadline(now, ANOTHER_MINUTE));
        }
        needed
    }
}

/// The entry of a data connection as its local port was taken.
pub(super) fn of_pool(mut entry: Entry) -> Entry {
    entry.server.source_port = 0;
    entry
}

fn replace(sent: &mut Stream, start: u32, length: usize, text: Text) -> Result<(), Verdict> {
    sent.replace(start, length, text).map_err(|_| Verdict::Drop(DropReason::FtpControl))
}

#[cfg(test)]
mod tests;
