//! A packet's connection: found or made, followed through its states, and
//! what it says is to be done with the packet.

use std::sync::Arc;

use super::adopt::{Adoption, Preparation, Schedulers};
use super::defense::Overload;
use super::offload::Carrying;
use super::owners::Owners;
use super::persist::{Kept, Unserved, Wanted};
use super::recent::Recent;
use super::sweep::Sweep;
use super::sync::Syncing;
use crate::conn::timer::ticks;
use crate::conn::{
    Direction, Entry, EntryId, Line, NO_HOP, NO_TEMPLATE, Seed, Side, State, Table, Templates, Tuple,
};
use crate::forward::{self, Plan, Refused, Rewrite, Rewritten, icmp};
use crate::ftp::{Role, Sessions};
use crate::local::{Claims, LocalPorts};
use crate::neigh::{HopId, NextHop, NextHops, Resolution};
use crate::packet::Packet;
use crate::port::Frame;
use crate::sched::{Arrival, Movements};
use crate::service::{Method, Protocol, RealServer, ServerId, ServiceId, ServiceTable, VirtualService};
use crate::stats::DropReason;
use crate::wire::Address;

/// The snapshots in use, both unchanged for the length of a burst.
#[derive(Clone, Default)]
pub(super) struct View {
    pub(super) services: Arc<ServiceTable>,
    pub(super) hops: Arc<NextHops>,
}

/// Seconds that a connection of one packet is kept for it, should it have to
/// wait for its next hop or come in fragments: a little more than it may.
const LONGEST_WAIT: u32 = 2;

/// Local ports that are held for a moment beyond those of connections.
const MOST_PORTS: usize = 64;

/// What is to be done with a packet.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Send it to a next hop, whose MAC is known
    Send(Rewritten, HopId),
    /// Send it in pieces of at most so many bytes, each of which is rewritten
    Split(Rewrite, HopId, u16),
    /// Come again when the next hop towards this address is known
    Wait(Address),
    /// Drop it for the reason and tell its sender
    Answer {
        error: icmp::Error,
        reason: DropReason,
        /// Who tells; `None` is the address that the way to the sender prefers
        source: Option<Address>,
    },
    /// Drop it
    Drop(DropReason),
    /// Another worker has its connection, or keeps the template that it goes by
    Hand(usize),
    /// It is neither a connection's nor the first of one
    Unclaimed,
}

impl Verdict {
    /// No server takes the connection that a packet would begin.
    #[cold]
    pub(super) fn no_server(tuple: &Tuple) -> Self {
        Verdict::Answer {
            error: icmp::Error::PortUnreachable,
            reason: DropReason::NoServer,
            source: Some(tuple.destination),
        }
    }
}

/// Connections of one worker and all that belongs to them.
pub(super) struct Flows {
    pub(super) table: Table,
    pub(super) templates: Templates,
    pub(super) sweep: Sweep,
    pub(super) local_ports: LocalPorts,
    pub(super) ftp: Sessions,
    pub(super) overload: Overload,
    pub(super) sync: Syncing,
    pub(super) carrying: Carrying,
    pub(super) owners: Arc<Owners>,
    pub(super) schedulers: Schedulers,
    pub(super) recent: Recent,
    /// Whose connections all workers changed
    pub(super) movements: Arc<Movements>,
    pub(super) preparation: Option<Preparation>,
    pub(super) adoption: Option<Adoption>,
    /// Whether another director has the VIPs: connections are not begun here
    pub(super) standby: bool,
    pub(super) worker: usize,
    pub(super) workers: usize,
    pub(super) capacity: usize,
    /// Identification of the next packet of our own
    pub(super) packet_id: u16,
}

impl Flows {
    pub(super) fn new(
        worker: usize,
        claims: Vec<Arc<Claims>>,
        owners: Arc<Owners>,
        movements: Arc<Movements>,
        capacity: usize,
        seed: Seed,
        now: u32,
    ) -> Self {
        Flows {
            table: Table::new(capacity, seed, now),
            templates: Templates::new(capacity, seed, now),
            sweep: Sweep::Done,
            overload: Overload::new(seed, now),
            sync: Syncing::new(capacity),
            carrying: Carrying::default(),
            workers: claims.len(),
            local_ports: LocalPorts::shared(worker, claims, capacity + MOST_PORTS).starting_at(seed),
            ftp: Sessions::new(capacity),
            owners,
            schedulers: Schedulers::default(),
            recent: Recent::new(),
            movements,
            preparation: None,
            adoption: None,
            standby: false,
            worker,
            capacity,
            packet_id: 0,
        }
    }

    /// Connections that there is still room for.
    pub(super) fn room(&self) -> usize {
        self.capacity - self.table.len()
    }

    /// The next identification for a packet of our own.
    pub(super) fn next_id(&mut self) -> u16 {
        self.packet_id = self.packet_id.wrapping_add(1);
        self.packet_id
    }

    /// What is to be done with a packet, which is rewritten if it is to be
    /// sent and left as it was otherwise. `interface` is the number of that
    /// which received it, `found` its connection.
    #[inline]
    pub(super) fn process<F: Frame>(
        &mut self,
        view: &View,
        frame: &mut F,
        packet: &Packet,
        interface: usize,
        found: Option<(EntryId, Side)>,
        now: u32,
    ) -> Verdict {
        let found = match found {
            // In the end it is as if there had been none.
            Some((id, side)) if self.is_over(view, id, side, packet) => {
                self.expire(view, id);
                None
            }
            found => found,
        };
        let (id, side) = match found {
            Some(found) => found,
            None => match self.begin(view, packet, interface, frame.bytes(), now) {
                Ok(begun) => begun,
                Err(verdict) => return verdict,
            },
        };
        let verdict = self.forward(view, frame, packet, id, side, now);
        // `ip_vs_conn_put`. One that waits for its next hop stays for that, and
        // one that began with a fragment for the others.
        if !matches!(verdict, Verdict::Wait(_)) && self.table.line(id).is_some_and(|line| line.one_packet) {
            if packet.partial {
                self.table.touch(id, deadline(now, LONGEST_WAIT));
            } else {
                self.expire(view, id);
            }
        }
        verdict
    }

    /// Whether a connection that a packet was found to belong to is to be as if
    /// there had been none.
    #[inline]
    pub(super) fn is_over(&self, view: &View, id: EntryId, side: Side, packet: &Packet) -> bool {
        let spent = |line: &Line| line.one_packet && line.packets > 0 && !packet.later;
        self.table.line(id).is_some_and(spent)
            || side == Side::Client && (self.begins_anew(view, id, packet) || self.is_abandoned(view, id))
    }

    /// The connection that a packet begins, whose frame is `bytes`: one that is
    /// expected, or a new one.
    fn begin(
        &mut self,
        view: &View,
        packet: &Packet,
        interface: usize,
        bytes: &[u8],
        now: u32,
    ) -> Result<(EntryId, Side), Verdict> {
        if let Some(claimed) = self.claim(packet) {
            return Ok(claimed);
        }
        if self.standby {
            return Err(Verdict::Unclaimed);
        }
        match self.connect(view, packet, interface, bytes, now) {
            Err(Verdict::Unclaimed) => self.call(view, packet, bytes, now).map(|id| (id, Side::Server)),
            connected => connected.map(|id| (id, Side::Client)),
        }
    }

    /// Sends a packet of a connection on its way.
    #[inline]
    pub(super) fn forward<F: Frame>(
        &mut self,
        view: &View,
        frame: &mut F,
        packet: &Packet,
        id: EntryId,
        side: Side,
        now: u32,
    ) -> Verdict {
        let Some(line) = self.table.get_mut(id) else { return Verdict::Unclaimed };
        // Nobody knows yet from which port it is opened.
        if line.ftp == Role::Expected {
            return Verdict::Unclaimed;
        }
        let Some(server) = view.services.server(line.server_id) else {
            return Verdict::Drop(DropReason::ServerGone);
        };
        // expire_nodest_conn=0: the entry stays, its packets do not pass
        // (ip_vs_in_hook in ip_vs_core.c).
        if side == Side::Client && !server.available {
            return Verdict::Drop(DropReason::ServerGone);
        }

        // Before anything is counted: a packet that has to wait comes again.
        let (hop_id, hop) = match resolved(&mut self.table, id, side, &view.hops) {
            Ok(resolved) => resolved,
            Err(verdict) => return verdict,
        };
        let Some(line) = self.table.get_mut(id) else { return Verdict::Unclaimed };

        // The fragments of a packet count as the packet, which IPVS has put
        // together.
        let (packets, bytes) = match packet.later {
            false => (1, packet.length),
            true => (0, packet.length - (packet.transport - packet.network)),
        };
        server.count(self.worker, side, packets.into(), bytes.into());
        if side == Side::Client {
            line.packets = line.packets.wrapping_add(packets);
        }

        let direction = match side {
            Side::Client if line.method.has_replies() => Direction::Input,
            Side::Client => Direction::InputOnly,
            Side::Server => Direction::Output,
        };
        let state = match packet.later {
            false => line.state.next(direction, packet.flags, self.overload.secure_tcp()),
            true => line.state,
        };
        if self.sync.is_on() {
            let changed = state != line.state || line.packets == 1 && side == Side::Client;
            self.sync.packet(id, line.template, changed);
        }
        line.state = state;
        // `ip_vs_control_assure_ct`
        if matches!(state, State::Established | State::SctpEstablished)
            || state == State::Udp && side == Side::Server
        {
            self.templates.assure(line.template);
        }
        if state.is_active() != line.active {
            line.active = state.is_active();
            let share = server.counters.share(self.worker);
            let (from, to) = match line.active {
                true => (&share.inactive, &share.active),
                false => (&share.active, &share.inactive),
            };
            from.sub(1);
            to.add(1);
            self.movements.note(self.worker, line.server_id);
        }
        let seconds = view.services.timeouts_of(server).seconds(state);
        self.table.touch(id, deadline(now, seconds));

        let Some(entry) = self.table.get(id) else { return Verdict::Unclaimed };
        let Some(outer_source) = outer_source(&entry, hop) else { return Verdict::Drop(DropReason::NoRoute) };
        let pmtu_disc = view.services.tunables().pmtu_disc;
        let rewrite = forward::rewrite(&entry, side, outer_source, server.encapsulation, pmtu_disc);
        // A packet is for a VIP or a LIP, but for a NAT server's, which is for
        // the client: the director answers that in its own name.
        let (role, for_client) = (entry.ftp, side == Side::Server && entry.method == Method::Nat);
        let packet_id = match entry.method {
            Method::Tunnel => self.next_id(),
            Method::FullNat if !entry.is_of_one_family() => self.next_id(),
            Method::Nat | Method::FullNat | Method::DirectRoute => 0,
        };
        let followed;
        let packet = if role == Role::Control {
            followed = match self.follow(view, frame, packet, (id, side), hop.mtu, now) {
                Ok(followed) => followed,
                Err(verdict) => return verdict,
            };
            &followed
        } else {
            packet
        };
        let (error, reason) = match forward::apply(&rewrite, packet, frame, hop.mtu, packet_id) {
            Ok(rewritten) => return Verdict::Send(rewritten, hop_id),
            Err(Refused::TtlExceeded) => (icmp::Error::TimeExceeded, DropReason::TtlExceeded),
            Err(Refused::TooBig(mtu)) => (icmp::Error::FragmentationNeeded(mtu), DropReason::TooBig),
            Err(Refused::Split(room)) => return Verdict::Split(rewrite, hop_id, room),
            Err(Refused::Drop(reason)) => return Verdict::Drop(reason),
        };
        Verdict::Answer { error, reason, source: (!for_client).then_some(packet.tuple.destination) }
    }

    /// Whether the client opens a new connection where an old one is over
    /// (`ip_vs_in_hook` and `is_new_conn_expected` in ip_vs_core.c).
    #[inline]
    fn begins_anew(&self, view: &View, id: EntryId, packet: &Packet) -> bool {
        if !packet.opens() {
            return false;
        }
        let tunables = view.services.tunables();
        let Some(entry) = self.table.line(id).filter(|_| tunables.conn_reuse_mode != 0) else { return false };
        // A controlled connection is the same again, but for one that was
        // announced since (`is_new_conn_expected`).
        if entry.ftp == Role::Data {
            return entry.state.is_over() && self.expects(packet).is_some();
        }
        let quiesced = tunables.expire_nodest_conn
            && view.services.server(entry.server_id).is_some_and(|s| s.weight == 0);
        let closing =
            tunables.conn_reuse_mode & 2 != 0 && entry.state == State::FinWait && !entry.method.has_replies();
        // By a template, the new one would go to the same server.
        quiesced || (entry.template == NO_TEMPLATE && (entry.state.is_over() || closing))
    }

    /// Whether the server was removed, and connections end with it.
    #[inline]
    pub(super) fn is_abandoned(&self, view: &View, id: EntryId) -> bool {
        view.services.tunables().expire_nodest_conn
            && self
                .table
                .line(id)
                .and_then(|entry| view.services.server(entry.server_id))
                .is_some_and(|server| !server.available)
    }

    /// The scheduler's choice for a new connection.
    #[inline]
    pub(super) fn schedule(
        &mut self,
        view: &View,
        id: ServiceId,
        service: &VirtualService,
        tuple: &Tuple,
        now: u32,
    ) -> Option<ServerId> {
        let arrival = Arrival {
            source: tuple.source,
            source_port: tuple.source_port,
            destination: tuple.destination,
            now,
        };
        self.choose(id, service, &view.services, &arrival)
    }

    /// Makes the connection that a packet begins.
    fn connect(
        &mut self,
        view: &View,
        packet: &Packet,
        interface: usize,
        bytes: &[u8],
        now: u32,
    ) -> Result<EntryId, Verdict> {
        let tuple = packet.tuple;
        let services = &view.services;
        let service_id = services.find_for(&tuple, interface).ok_or(Verdict::Unclaimed)?;
        let service = services.service(service_id).ok_or(Verdict::Unclaimed)?;
        if let Some(owner) = self.owners.elsewhere(&tuple, self.worker) {
            return Err(Verdict::Hand(owner));
        }
        let wanted = Wanted::of(service, &tuple, packet, bytes);
        if let Some(keeper) = wanted.as_ref().and_then(|wanted| self.keeper(wanted)) {
            return Err(Verdict::Hand(keeper));
        }
        let tunables = services.tunables();
        let any = match tuple.protocol {
            Protocol::Tcp => tunables.sloppy_tcp,
            Protocol::Udp => true,
            Protocol::Sctp => tunables.sloppy_sctp,
        };
        if packet.resets() || !(any || packet.opens()) {
            return Err(Verdict::Unclaimed);
        }
        if self.room() == 0 {
            return Err(Verdict::Drop(DropReason::TableFull));
        }
        if self.overload.drops() {
            return Err(Verdict::Drop(DropReason::Overload));
        }
        let chosen = match &wanted {
            Some(wanted) => match self.keep(view, service_id, service, wanted, &tuple, now) {
                Ok(kept) => Some(kept),
                Err(Unserved::NoServer) => None,
                Err(Unserved::Drop(reason)) => return Err(Verdict::Drop(reason)),
            },
            None => self
                .schedule(view, service_id, service, &tuple, now)
                .map(|server| Kept { server, template: NO_TEMPLATE }),
        };
        let kept = chosen.ok_or_else(|| Verdict::no_server(&tuple))?;
        let id = self.connect_to(view, service, kept, packet, now)?;
        services.marks().count(&tuple, interface, self.worker);
        Ok(id)
    }

    /// Makes the connection that a packet begins, to a server that was chosen.
    pub(super) fn connect_to(
        &mut self,
        view: &View,
        service: &VirtualService,
        kept: Kept,
        packet: &Packet,
        now: u32,
    ) -> Result<EntryId, Verdict> {
        let tuple = packet.tuple;
        let Some(server) = view.services.server(kept.server) else { return Err(Verdict::no_server(&tuple)) };
        // A mark may bind what FULLNAT does not forward.
        if server.method == Method::FullNat && tuple.protocol == Protocol::Sctp {
            return Err(Verdict::Unclaimed);
        }

        let port = Flows::server_port(service, server, tuple.destination_port);
        let destination = (server.address, port);
        let local = match server.method {
            Method::FullNat => self
                .local_ports
                .allocate(&service.local_addresses, destination, tuple.protocol)
                .map_err(|_| Verdict::Drop(DropReason::NoLocalPort))?,
            Method::Nat | Method::DirectRoute | Method::Tunnel => (tuple.source, tuple.source_port),
        };
        self.enter(view, service, kept, tuple, [destination, local], now)
    }

    /// The port that a server gets the packets of a new connection at.
    #[inline]
    pub(super) fn server_port(service: &VirtualService, server: &RealServer, port: u16) -> u16 {
        match service.options.persistence {
            Some(_) => Flows::kept_port(service, server.port, port),
            None => rport(server, port),
        }
    }

    /// Enters a connection to a server at `ends[0]`, from `ends[1]` by FULLNAT.
    pub(super) fn enter(
        &mut self,
        view: &View,
        service: &VirtualService,
        kept: Kept,
        tuple: Tuple,
        ends: [(Address, u16); 2],
        now: u32,
    ) -> Result<EntryId, Verdict> {
        let Kept { server: server_id, template } = kept;
        let services = &view.services;
        let server = services.server(server_id).ok_or(Verdict::Drop(DropReason::ServerGone))?;
        let [destination, local] = ends;
        let plan = Plan::new(server.method, tuple, destination, local);
        let entry = Entry {
            ftp: Flows::ftp_role(view, server.method, &tuple),
            one_packet: service.options.one_packet && tuple.protocol == Protocol::Udp,
            template,
            ..Entry::new(tuple, plan.server, plan.deltas(), server_id, server.method)
        };
        let Ok(id) = self.table.insert(entry) else {
            self.give_back(&entry);
            return Err(Verdict::Drop(DropReason::TableFull));
        };
        let seconds = match entry.one_packet {
            true => LONGEST_WAIT,
            false => services.timeouts_of(server).seconds(entry.state),
        };
        self.table.schedule(id, deadline(now, seconds));
        self.templates.adopt(template, now);
        self.owners.begun(&tuple, self.worker);
        let share = server.counters.share(self.worker);
        share.inactive.add(1);
        self.connections_changed(server_id, server);
        share.traffic.connections.add(1);
        server.service_counters.share(self.worker).connections.add(1);
        Ok(id)
    }

    /// Ends a connection.
    pub(super) fn expire(&mut self, view: &View, id: EntryId) {
        self.no_longer_carried(view, id);
        let Some(entry) = self.table.remove(id) else { return };
        self.sync.gone(id, &entry.client, &self.owners, self.worker);
        self.owners.over(&entry.client, self.worker);
        self.templates.let_go(entry.template);
        let entry = self.forget_ftp(id, entry);
        self.give_back(&entry);
        // Control keeps a server in the table as long as it has connections.
        if let Some(server) = view.services.server(entry.server_id) {
            let share = server.counters.share(self.worker);
            if entry.active { &share.active } else { &share.inactive }.sub(1);
            self.connections_changed(entry.server_id, server);
        }
    }

    pub(super) fn give_back(&mut self, entry: &Entry) {
        if entry.method == Method::FullNat {
            let Entry { server, .. } = entry;
            self.local_ports.free(
                server.destination,
                server.destination_port,
                (server.source, server.source_port),
                server.protocol,
            );
        }
    }
}

/// The tick after which a connection is over. One more than the timeout, since
/// the present tick has begun already.
#[inline]
pub(super) fn deadline(now: u32, seconds: u32) -> u32 {
    now.saturating_add(ticks(seconds)).saturating_add(1)
}

/// The server's port: its own, or the packet's where it takes all.
#[inline]
pub(super) fn rport(server: &RealServer, port: u16) -> u16 {
    if server.port == 0 { port } else { server.port }
}

/// Where a tunnel to the server begins: at the VIP where the route names no
/// address, unless that is of the other family.
#[inline]
pub(super) fn outer_source(entry: &Entry, hop: &NextHop) -> Option<Address> {
    let vip_fits = entry.method != Method::Tunnel || entry.is_of_one_family();
    hop.source.or(vip_fits.then_some(entry.client.destination))
}

/// Where packets from `side` of a connection go.
#[inline]
fn target(table: &Table, id: EntryId, side: Side) -> Result<Address, Verdict> {
    let entry = table.get(id).ok_or(Verdict::Unclaimed)?;
    Ok(match side {
        Side::Client => entry.server.source,
        Side::Server => entry.client.source,
    })
}

/// The next hop for packets from `side` of a connection, whose MAC is known.
#[inline]
pub(super) fn resolved<'a>(
    table: &mut Table,
    id: EntryId,
    side: Side,
    hops: &'a NextHops,
) -> Result<(HopId, &'a NextHop), Verdict> {
    let known = towards(table, id, side, hops)?;
    let hop = hops.hop(known).ok_or(Verdict::Drop(DropReason::NoRoute))?;
    if hop.mac.is_none() {
        return Err(Verdict::Wait(target(table, id, side)?));
    }
    Ok((known, hop))
}

/// The next hop for packets from `side`, from the entry unless routes changed.
#[inline]
fn towards(table: &mut Table, id: EntryId, side: Side, hops: &NextHops) -> Result<HopId, Verdict> {
    let line = table.get_mut(id).ok_or(Verdict::Unclaimed)?;
    let generation = hops.generation() as u32;
    if line.hop_generation != generation {
        line.hops = [NO_HOP; 2];
        line.hop_generation = generation;
    }
    let known = line.hops[side as usize];
    if known != NO_HOP {
        return Ok(known);
    }
    let target = target(table, id, side)?;
    match hops.resolve(target) {
        Resolution::Hop(hop) => {
            table.get_mut(id).ok_or(Verdict::Unclaimed)?.hops[side as usize] = hop;
            Ok(hop)
        }
        Resolution::Ask => Err(Verdict::Wait(target)),
        Resolution::Foreign => Err(Verdict::Drop(DropReason::ForeignInterface)),
        Resolution::NoRoute => Err(Verdict::Drop(DropReason::NoRoute)),
    }
}
