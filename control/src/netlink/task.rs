//! The task that follows the kernel's tables.

use std::future;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, TryStreamExt};
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage,
};
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use sluice_dataplane::neigh::NextHops;
use sluice_dataplane::wire::Address;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, info, warn};

use super::Error;
use super::events::{Event, Events};
use super::message::{Link, LocalAddress, Neighbour, Route};
use super::model::Model;
use super::slots::{Key, MAX_TRACKED, Slots};
use super::spread::Spread;

/// Shortest time between two snapshots.
const BATCH: Duration = Duration::from_millis(10);

/// Time after the first change of a batch, for those that follow from it.
const SETTLE: Duration = Duration::from_millis(1);

/// Routes may be read for a tenth of the time at most, however fast they
/// change...
const DUMP_SHARE: u32 = 10;

/// ...but are never older than this.
const DUMP_LATEST: Duration = Duration::from_secs(5);

/// How often neighbours are looked through for those to ask the kernel about,
/// and RSS is read: kernels before 6.17 do not tell of its changes.
const ROUND: Duration = Duration::from_secs(1);

/// What has to be read from the kernel again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Stale {
    Nothing,
    Routes,
    /// Links and addresses and, because the kernel removes routes with them
    /// and says nothing, routes. Neighbours too, as those on a link that was
    /// not ours were passed over
    Everything,
}

pub(super) struct Task<P> {
    netlink: rtnetlink::Handle,
    connection: AbortHandle,
    events: Events,
    model: Model,
    slots: Slots,
    spread: Spread,
    publish: P,
    stale: Stale,
    /// When the snapshot is to be brought up to date, if it is not
    due: Option<Instant>,
    published: Instant,
    dump_after: Instant,
}

impl<P> Drop for Task<P> {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl<P: Fn(Arc<NextHops>) + Send> Task<P> {
    /// Reads everything and publishes it.
    pub(super) async fn open(interfaces: &[String], workers: usize, publish: P) -> Result<Self, Error> {
        // Before the first dump, so that no change between the two is missed.
        let events = Events::subscribe().map_err(Error::Socket)?;
        let (connection, netlink, _) = rtnetlink::new_connection().map_err(Error::Socket)?;
        let now = Instant::now();
        let mut task = Task {
            netlink,
            connection: tokio::spawn(connection).abort_handle(),
            events,
            model: Model::new(interfaces),
            slots: Slots::new(MAX_TRACKED),
            spread: Spread::new(interfaces, workers),
            publish,
            stale: Stale::Everything,
            due: None,
            published: now,
            dump_after: now,
        };
        task.read().await?;
        if let Some(name) = task.model.missing_interface() {
            return Err(Error::NoInterface(name.to_owned()));
        }
        task.read_spread();
        task.settle().await;
        Ok(task)
    }

    /// Follows changes until nobody can ask any more.
    pub(super) async fn run(mut self, mut questions: mpsc::Receiver<Address>) {
        let mut round = tokio::time::interval(ROUND);
        round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut events = Vec::new();
        loop {
            let due = self.due;
            let settle = async move {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => future::pending().await,
                }
            };
            tokio::select! {
                () = settle => self.settle().await,
                result = self.events.receive(&mut events) => match result {
                    Ok(()) => events.drain(..).for_each(|event| self.take(event)),
                    Err(error) => {
                        warn!(%error, "the kernel's notifications cannot be read; reading everything again");
                        self.outdated(Stale::Everything);
                        tokio::time::sleep(BATCH).await;
                    }
                },
                question = questions.recv() => match question {
                    Some(address) => self.ask(address).await,
                    None => return,
                },
                _ = round.tick() => {
                    self.read_spread();
                    let due = self.slots.due(Instant::now());
                    self.use_neighbours(&due).await;
                }
            }
        }
    }

    fn take(&mut self, event: Event) {
        let now = Instant::now();
        match event {
            Event::Links | Event::Addresses | Event::Lost => self.outdated(Stale::Everything),
            Event::Routes => self.outdated(Stale::Routes),
            Event::Neighbour(neighbour) => {
                if self.model.is_ours(neighbour.link) && self.slots.set_neighbour(neighbour, now) {
                    self.outdated(Stale::Nothing);
                }
            }
            Event::NeighbourGone(neighbour) => {
                if self.slots.forget_neighbour((neighbour.link, neighbour.address), now) {
                    self.outdated(Stale::Nothing);
                }
            }
        }
    }

    async fn ask(&mut self, address: Address) {
        let (key, new) = self.slots.ask(address, Instant::now());
        if new {
            self.outdated(Stale::Nothing);
        }
        self.use_neighbours(key.as_slice()).await;
    }

    /// Looks at the interfaces' RSS.
    fn read_spread(&mut self) {
        if let Some(spread) = self.spread.read() {
            self.slots.set_spread(spread, Instant::now());
            self.outdated(Stale::Nothing);
        }
    }

    /// Notes that the snapshot is out of date, and what must be read for it.
    fn outdated(&mut self, stale: Stale) {
        self.stale = self.stale.max(stale);
        let now = Instant::now();
        let mut at = (now + SETTLE).max(self.published + BATCH);
        if self.stale > Stale::Nothing {
            at = at.max(self.dump_after);
        }
        // A changed MAC does not wait for routes that may not be read yet.
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// Reads what has to be read and publishes a snapshot.
    async fn settle(&mut self) {
        self.due = None;
        let now = Instant::now();
        if self.stale > Stale::Nothing {
            if now < self.dump_after {
                self.due = Some(self.dump_after);
            } else if let Err(error) = self.read().await {
                warn!(%error, "next hops may be out of date; trying again");
                self.dump_after = Instant::now() + ROUND;
                self.due = Some(self.dump_after);
            }
        }
        self.published = Instant::now();
        (self.publish)(self.slots.update());
        // New gateways are unknown to the kernel as long as it has no traffic.
        let due = self.slots.due(Instant::now());
        self.use_neighbours(&due).await;
    }

    /// Reads what is stale.
    async fn read(&mut self) -> Result<(), Error> {
        let begun = Instant::now();
        let stale = self.stale;
        if stale == Stale::Everything {
            let links = dump("links", self.netlink.link().get().execute(), Link::parse).await?;
            for change in self.model.set_links(links) {
                let interface = change.interface;
                match (change.exists, change.up) {
                    (true, true) => info!("interface {interface} is up"),
                    (true, false) => warn!("interface {interface} is down: nothing is sent through it"),
                    (false, _) => warn!("interface {interface} is gone: nothing is sent through it"),
                }
            }
            let addresses = self.netlink.address().get().execute();
            self.model.set_addresses(dump("addresses", addresses, LocalAddress::parse).await?);
        }
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            routes.extend(dump("routes", self.netlink.route().get(request).execute(), Route::parse).await?);
        }
        self.model.set_routes(routes);
        if stale == Stale::Everything {
            let neighbours = self.netlink.neighbours().get().execute();
            let mut neighbours = dump("neighbours", neighbours, Neighbour::parse).await?;
            neighbours.retain(|neighbour| self.model.is_ours(neighbour.link));
            self.slots.set_neighbours(neighbours);
        }
        self.slots.set_plan(self.model.plan(), Instant::now());
        self.stale = Stale::Nothing;
        let now = Instant::now();
        self.dump_after = now + (now.duration_since(begun) * DUMP_SHARE).min(DUMP_LATEST);
        Ok(())
    }

    /// Tells the kernel that neighbours are in use: it resolves those that it
    /// does not know and checks those that are stale.
    async fn use_neighbours(&mut self, keys: &[Key]) {
        for (link, address) in keys {
            let mut message = NeighbourMessage::default();
            message.header.ifindex = *link;
            message.header.flags = NeighbourFlags::Use;
            let (family, destination) = match IpAddr::from(*address) {
                IpAddr::V4(v4) => (AddressFamily::Inet, NeighbourAddress::Inet(v4)),
                IpAddr::V6(v6) => (AddressFamily::Inet6, NeighbourAddress::Inet6(v6)),
            };
            message.header.family = family;
            message.attributes.push(NeighbourAttribute::Destination(destination));
            let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewNeighbour(message));
            request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
            match self.netlink.request(request) {
                Ok(mut answers) => {
                    while let Some(answer) = answers.next().await {
                        if let NetlinkPayload::Error(error) = answer.payload
                            && error.code.is_some()
                        {
                            debug!(%address, error = %error.to_io(), "the kernel does not resolve a neighbour");
                        }
                    }
                }
                Err(error) => debug!(%address, %error, "the kernel cannot be asked for a neighbour"),
            }
        }
    }
}

/// All of a table that is of interest.
async fn dump<M, T>(
    table: &'static str,
    messages: impl Stream<Item = Result<M, rtnetlink::Error>>,
    parse: impl Fn(&M) -> Option<T>,
) -> Result<Vec<T>, Error> {
    let mut messages = pin!(messages);
    let mut all = Vec::new();
    while let Some(message) = messages.try_next().await.map_err(|source| Error::Dump { table, source })? {
        all.extend(parse(&message));
    }
    Ok(all)
}
