//! The way of a listing from a worker to its reader: pages that the worker
//! fills and the reader empties, in turn.
//!
//! Neither ever waits for the other. A channel would not do: with one that is
//! full, a sender may have to wait until a reader that was interrupted in the
//! middle of receiving comes back, which takes milliseconds on a busy machine;
//! and to wake the reader is a system call. So the reader looks now and then.
//! All memory is taken and freed by the reader's side.

use std::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use crate::conn::{ConnectionFilter, ConnectionRecord};
use crate::service::Engine;
use crate::sip::LONGEST_CALL_ID;

/// Connections that a page has room for.
pub(super) const PAGE: usize = 64;

/// One page. Its memory is there from the start, and does not grow.
struct Page {
    records: Vec<ConnectionRecord>,
    /// Calls of templates: which record's it is, and how many of `bytes`
    calls: Vec<(usize, usize)>,
    bytes: Vec<u8>,
    /// Whether it waits for the reader
    full: bool,
}

impl Page {
    fn empty() -> Self {
        Page {
            records: Vec::with_capacity(PAGE),
            calls: Vec::with_capacity(PAGE),
            bytes: Vec::with_capacity(PAGE * LONGEST_CALL_ID),
            full: false,
        }
    }

    fn into_records(self) -> Vec<ConnectionRecord> {
        let Page { mut records, calls, bytes, .. } = self;
        let mut rest = bytes.as_slice();
        for (place, length) in calls {
            let (call, further) = rest.split_at(length.min(rest.len()));
            rest = further;
            if let Some(record) = records.get_mut(place) {
                record.engine = Some((Engine::Sip.name(), call.into()));
            }
        }
        records
    }
}

/// What worker and reader share. The lock of a page is only ever tried, and so
/// is never waited for.
pub(super) struct Pages {
    filter: Arc<ConnectionFilter>,
    pages: Box<[Mutex<Page>]>,
    /// The worker has nothing more to write
    over: AtomicBool,
    /// Nobody reads any more
    unwanted: AtomicBool,
}

fn tried<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(error)) => Some(PoisonError::into_inner(error)),
        Err(TryLockError::WouldBlock) => None,
    }
}

impl Pages {
    pub(super) fn new(filter: Arc<ConnectionFilter>, pages: usize) -> Arc<Self> {
        Arc::new(Pages {
            filter,
            pages: (0..pages.max(1)).map(|_| Mutex::new(Page::empty())).collect(),
            over: AtomicBool::new(false),
            unwanted: AtomicBool::new(false),
        })
    }
}

/// What a worker is to list, and where to. Made by
/// [`Exchange::list`](super::Exchange::list).
pub struct Order {
    pages: Arc<Pages>,
    next: usize,
}

impl Order {
    pub(super) fn new(pages: Arc<Pages>) -> Self {
        Order { pages, next: 0 }
    }

    /// Whether nobody wants it any more.
    pub(super) fn is_unwanted(&self) -> bool {
        self.pages.unwanted.load(Relaxed)
    }

    /// Whether there is a page to be written.
    pub(super) fn has_room(&self) -> bool {
        tried(&self.pages.pages[self.next]).is_some_and(|page| !page.full)
    }

    /// Lets a page be written with what is asked for, and gives it to the reader
    /// if there is something on it. Returns false if the reader has not come that
    /// far.
    pub(super) fn write(&mut self, write: impl FnOnce(&mut Writer<'_>, &ConnectionFilter)) -> bool {
        let Some(mut page) = tried(&self.pages.pages[self.next]).filter(|page| !page.full) else {
            return false;
        };
        write(&mut Writer { page: &mut page }, &self.pages.filter);
        page.full = !page.records.is_empty();
        if page.full {
            self.next = (self.next + 1) % self.pages.pages.len();
        }
        true
    }
}

/// The listing is over, whether all was written or not.
impl Drop for Order {
    fn drop(&mut self) {
        self.pages.over.store(true, Release);
    }
}

/// A page that is being written.
pub(super) struct Writer<'a> {
    page: &'a mut Page,
}

impl Writer<'_> {
    /// Adds a connection, or a template with its call; what does not fit is
    /// left out.
    pub(super) fn add(&mut self, record: ConnectionRecord, call: Option<&[u8]>) {
        let Page { records, calls, bytes, .. } = &mut *self.page;
        if records.len() == PAGE {
            return;
        }
        if let Some(call) = call.filter(|call| call.len() <= LONGEST_CALL_ID) {
            calls.push((records.len(), call.len()));
            bytes.extend_from_slice(call);
        }
        records.push(record);
    }
}

/// What comes of a listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Slice {
    /// Some connections
    Of(Vec<ConnectionRecord>),
    /// Nothing so far: look again later
    NotYet,
    /// Nothing more
    End,
}

/// The reader's end of a listing.
pub struct Slices {
    pages: Arc<Pages>,
    next: usize,
}

impl Slices {
    pub(super) fn new(pages: Arc<Pages>) -> Self {
        Slices { pages, next: 0 }
    }

    /// The next connections. Never waits.
    pub fn next_slice(&mut self) -> Slice {
        // Before the page is looked at: what is written later is seen later.
        let over = self.pages.over.load(Acquire);
        match tried(&self.pages.pages[self.next]).map(|page| page.full) {
            Some(true) => {}
            Some(false) if over => return Slice::End,
            Some(false) | None => return Slice::NotYet,
        }
        let empty = Page::empty();
        let Some(page) =
            tried(&self.pages.pages[self.next]).map(|mut page| std::mem::replace(&mut *page, empty))
        else {
            return Slice::NotYet;
        };
        self.next = (self.next + 1) % self.pages.pages.len();
        Slice::Of(page.into_records())
    }

    /// Whether the worker waits until a slice is taken.
    pub fn are_full(&self) -> bool {
        self.pages.pages.iter().all(|page| tried(page).is_none_or(|page| page.full))
    }
}

impl Drop for Slices {
    fn drop(&mut self) {
        self.pages.unwanted.store(true, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::{Method, Protocol};
    use crate::wire::Address;

    fn record(port: u16) -> ConnectionRecord {
        let end = (Address::from_v4([192, 0, 2, 1]), port);
        ConnectionRecord {
            protocol: Protocol::Tcp,
            expires: 1,
            state: "NONE",
            client: end,
            service: end,
            local: None,
            server: end,
            method: Method::Nat,
            any_protocol: false,
            mark: None,
            engine: None,
        }
    }

    fn both(pages: usize) -> (Order, Slices) {
        let pages = Pages::new(Arc::default(), pages);
        (Order::new(Arc::clone(&pages)), Slices::new(pages))
    }

    #[test]
    fn pages_come_in_turn_and_with_their_calls() {
        let (mut order, mut slices) = both(2);
        assert_eq!(slices.next_slice(), Slice::NotYet);
        let call = [7; LONGEST_CALL_ID];
        assert!(order.write(|page, _| {
            page.add(record(1), None);
            page.add(record(2), Some(&call));
            page.add(record(3), Some(b"x"));
        }));
        assert!(order.write(|_, _| {}) && order.has_room(), "nothing on it: it is written on");
        assert!(order.write(|page, _| page.add(record(4), None)));
        assert!(!order.has_room() && slices.are_full());
        assert!(!order.write(|_, _| panic!("the reader has not come that far")));
        let Slice::Of(first) = slices.next_slice() else { panic!("a slice") };
        assert_eq!(first[0], record(1));
        assert_eq!(first[1].engine, Some(("sip", call.into())));
        assert_eq!(first[2].engine, Some(("sip", b"x"[..].into())));
        assert!(order.write(|page, _| (0..2 * PAGE as u16).for_each(|port| page.add(record(port), None))));
        assert_eq!(slices.next_slice(), Slice::Of(vec![record(4)]));
        drop(order);
        let Slice::Of(last) = slices.next_slice() else { panic!("a slice") };
        assert_eq!((last.len(), slices.next_slice()), (PAGE, Slice::End));
    }

    #[test]
    fn whoever_reads_no_more_is_not_written_for() {
        let (order, slices) = both(1);
        assert!(!order.is_unwanted());
        drop(slices);
        assert!(order.is_unwanted());
    }

    /// Whatever the other one does, even if it stops in the middle.
    #[test]
    fn neither_waits_for_the_other() {
        let (mut order, mut slices) = both(1);
        let pages = Arc::clone(&order.pages);
        let stopped = pages.pages[0].lock().unwrap();
        assert!(!order.has_room() && !order.write(|_, _| {}));
        assert_eq!(slices.next_slice(), Slice::NotYet);
        drop(stopped);
        assert!(order.has_room());
    }
}
