//! What is kept of FTP connections beside their entries.
//!
//! Only connections that need it have something here: control connections from
//! their first data on. Room for a quarter of the connection table's entries, and
//! for half of them as data connections, is set aside, so that nothing grows or is hashed anew for a packet; the memory
//! is the kernel's until it is used.

use super::segment::Segment;
use super::slots::Slots;
use super::stream::Stream;
use crate::wire::tcp;

pub use super::slots::Full;
use crate::conn::{EntryId, Side};
use crate::sync::FtpControl;

/// Data connections that a control connection may have announced at once: of
/// more, the oldest is not waited for any longer.
pub const MOST_EXPECTED: usize = 8;

/// Bytes of the largest segment: those of a frame, and of texts in the place of
/// shorter ones.
const LARGEST: usize = 8192;

/// What the client asked for with its last `PASV` or `EPSV`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// It waits for a 227
    Passive,
    /// It waits for a 229
    ExtendedPassive,
}

/// Where a control connection is, in both directions.
#[derive(Clone, Debug)]
pub struct Streams {
    /// From the client
    pub client: Stream,
    /// From the server
    pub server: Stream,
    /// What the client waits for
    pub mode: Option<Mode>,
    /// The client asked for encryption
    pub auth: bool,
    /// It is encrypted: nothing can be read
    pub encrypted: bool,
}

impl Streams {
    /// A connection whose client and server send these numbers next.
    pub fn new(client: u32, server: u32) -> Self {
        Streams {
            client: Stream::new(client),
            server: Stream::new(server),
            mode: None,
            auth: false,
            encrypted: false,
        }
    }

    /// Takes up where both are by a segment of `side`, should that not be known.
    pub fn catch_up(&mut self, side: Side, segment: &Segment) {
        let (sent, other) = self.of(side);
        sent.catch_up(segment.sequence);
        if segment.flags & tcp::ACK != 0 {
            other.catch_up_acknowledged(segment.acknowledgment);
        }
    }

    /// How much is added to numbers in each direction, and whether anything can
    /// be read still: others have to know when it changes.
    pub fn shifts(&self) -> (i32, i32, bool) {
        (self.client.adjustment().delta, self.server.adjustment().delta, self.encrypted)
    }

    /// What `side` sends, and what the other side does.
    pub fn of(&mut self, side: Side) -> (&mut Stream, &mut Stream) {
        match side {
            Side::Client => (&mut self.client, &mut self.server),
            Side::Server => (&mut self.server, &mut self.client),
        }
    }
}

/// Data connections of one control connection, the oldest first.
#[derive(Debug, Default)]
struct Expected {
    /// One more than may stay
    ids: [EntryId; MOST_EXPECTED + 1],
    count: u8,
}

impl Expected {
    fn ids(&self) -> &[EntryId] {
        &self.ids[..usize::from(self.count)]
    }

    fn add(&mut self, id: EntryId) {
        if let Some(place) = self.ids.get_mut(usize::from(self.count)) {
            *place = id;
            self.count += 1;
        }
    }

    fn remove(&mut self, id: EntryId) {
        if let Some(place) = self.ids().iter().position(|expected| *expected == id) {
            self.ids.copy_within(place + 1.., place);
            self.count -= 1;
        }
    }
}

/// What is kept of a control connection.
#[derive(Debug)]
struct Session {
    streams: Streams,
    /// Tells it from others that had the same entry before
    serial: u64,
    /// Data connections that there are, expected ones included (`n_control`)
    children: u32,
    /// Those that have not come, the oldest first
    expected: Expected,
}

/// What is kept of a data connection.
#[derive(Clone, Copy, Debug)]
pub struct Data {
    control: EntryId,
    serial: u64,
    /// The server's port in listings, while it is not known
    pub listed_port: u16,
}

/// All FTP connections of a worker.
#[derive(Debug)]
pub struct Sessions {
    controls: Slots<Session>,
    data: Slots<Data>,
    /// Data connections that have not come
    expected: usize,
    serials: u64,
    /// For segments under way
    pub scratch: Vec<u8>,
}

impl Sessions {
    /// For a worker whose table holds `capacity` connections.
    pub fn new(capacity: usize) -> Self {
        let most = capacity.div_ceil(4);
        Sessions {
            controls: Slots::new(capacity, most),
            data: Slots::new(capacity, capacity.div_ceil(2)),
            expected: 0,
            serials: 0,
            scratch: Vec::with_capacity(LARGEST),
        }
    }

    /// Data connections that have not come.
    #[inline]
    pub fn expected(&self) -> usize {
        self.expected
    }

    /// Whether there is no room for another data connection.
    pub fn is_full(&self) -> bool {
        self.data.is_full()
    }

    /// Whether a control connection is followed.
    pub fn follows(&self, control: EntryId) -> bool {
        self.controls.get(control).is_some()
    }

    /// Begins to follow a control connection.
    pub fn begin(&mut self, control: EntryId, streams: Streams) -> Result<(), Full> {
        self.serials += 1;
        let new = Session { streams, serial: self.serials, children: 0, expected: Expected::default() };
        self.controls.insert(control, new)
    }

    /// Goes on with a control connection that another director followed, or with
    /// what it says of one that was gone on with and had no packet yet.
    pub fn resume(&mut self, control: EntryId, told: &FtpControl) -> Result<(), Full> {
        let streams = Streams {
            client: Stream::resumed(&told.client),
            server: Stream::resumed(&told.server),
            encrypted: told.encrypted,
            ..Streams::new(0, 0)
        };
        self.begin(control, streams)
    }

    /// What another director needs to go on with a control connection; `None`
    /// where that is nothing.
    pub fn adjustments(&self, control: EntryId) -> Option<FtpControl> {
        let streams = &self.controls.get(control)?.streams;
        let changed = !(streams.client.is_unchanged() && streams.server.is_unchanged());
        (changed || streams.encrypted).then(|| FtpControl {
            client: streams.client.adjustment(),
            server: streams.server.adjustment(),
            encrypted: streams.encrypted,
        })
    }

    /// Takes note of a data connection that another director expected, or saw
    /// come. It goes on without its control connection.
    pub fn adopt(&mut self, id: EntryId, listed_port: u16, expected: bool) -> Result<(), Full> {
        self.data.insert(id, Data { control: EntryId::MAX, serial: 0, listed_port })?;
        self.expected += usize::from(expected);
        Ok(())
    }

    /// Lends the directions of a control connection that is followed; they are
    /// to be kept again.
    pub fn lend(&mut self, control: EntryId) -> Option<Streams> {
        let session = self.controls.get_mut(control)?;
        Some(std::mem::replace(&mut session.streams, Streams::new(0, 0)))
    }

    /// Keeps the directions of a control connection that were lent.
    pub fn keep(&mut self, control: EntryId, streams: Streams) {
        if let Some(session) = self.controls.get_mut(control) {
            session.streams = streams;
        }
    }

    /// Data connections of a control connection, expected ones included.
    pub fn children(&self, control: EntryId) -> u32 {
        self.controls.get(control).map_or(0, |session| session.children)
    }

    /// The data connection of an entry.
    pub fn data(&self, id: EntryId) -> Option<&Data> {
        self.data.get(id)
    }

    /// Takes note of a data connection that is expected. Returns one that is not
    /// to be waited for any longer, if there are too many.
    pub fn expect(&mut self, id: EntryId, control: EntryId, listed_port: u16) -> Option<EntryId> {
        let session = self.controls.get_mut(control)?;
        self.data.insert(id, Data { control, serial: session.serial, listed_port }).ok()?;
        session.children += 1;
        session.expected.add(id);
        self.expected += 1;
        let expected = session.expected.ids();
        (expected.len() > MOST_EXPECTED).then(|| expected[0])
    }

    /// Takes note that an expected one came.
    pub fn come(&mut self, id: EntryId) {
        self.expected = self.expected.saturating_sub(1);
        if let Some(session) = self.parent(id) {
            session.expected.remove(id);
        }
    }

    /// Forgets a data connection, which has come or not.
    pub fn forget_data(&mut self, id: EntryId, has_come: bool) {
        if !has_come {
            self.come(id);
        }
        if let Some(session) = self.parent(id) {
            session.children = session.children.saturating_sub(1);
        }
        self.data.remove(id);
    }

    /// Forgets a control connection. Its data connections go on without.
    pub fn forget_control(&mut self, id: EntryId) {
        self.controls.remove(id);
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.controls.is_empty() && self.data.is_empty() && self.expected == 0
    }

    fn parent(&mut self, id: EntryId) -> Option<&mut Session> {
        let data = *self.data.get(id)?;
        self.controls.get_mut(data.control).filter(|session| session.serial == data.serial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_keep_their_parent_and_outlive_it() {
        let mut all = Sessions::new(400);
        all.begin(1, Streams::new(10, 20)).unwrap();
        assert_eq!(all.expect(2, 1, 20), None);
        assert_eq!(all.expect(3, 1, 20), None);
        assert_eq!((all.children(1), all.expected()), (2, 2));
        all.come(2);
        assert_eq!((all.children(1), all.expected()), (2, 1));
        all.forget_data(2, true);
        assert_eq!(all.children(1), 1);
        all.forget_control(1);
        // Another one has its place: it is not the parent.
        all.begin(1, Streams::new(0, 0)).unwrap();
        all.forget_data(3, false);
        assert_eq!((all.children(1), all.expected()), (0, 0));
        all.forget_control(1);
        assert!(all.is_empty());
    }

    #[test]
    fn control_connections_are_bounded() {
        let mut all = Sessions::new(8);
        assert_eq!(all.begin(7, Streams::new(1, 1)), Ok(()));
        assert_eq!(all.begin(3, Streams::new(2, 2)), Ok(()));
        assert_eq!(all.begin(4, Streams::new(3, 3)), Err(Full));
        assert!(!all.follows(4) && all.lend(4).is_none());
        assert!(std::mem::size_of::<Session>() <= 144);
        all.forget_control(7);
        assert_eq!(all.begin(4, Streams::new(3, 3)), Ok(()));
        assert_eq!(all.lend(3).map(|streams| streams.client.next()), Some(2));
    }

    #[test]
    fn the_oldest_is_given_up() {
        let mut all = Sessions::new(400);
        all.begin(0, Streams::new(0, 0)).unwrap();
        for id in 1..=MOST_EXPECTED as EntryId {
            assert_eq!(all.expect(id, 0, 20), None);
        }
        let last = MOST_EXPECTED as EntryId + 1;
        assert_eq!(all.expect(last, 0, 20), Some(1));
        all.forget_data(1, false);
        assert_eq!(all.expected(), MOST_EXPECTED);
        // Nobody's control connection.
        assert_eq!(all.expect(99, 50, 20), None);
        assert_eq!(all.expected(), MOST_EXPECTED);
    }
}
