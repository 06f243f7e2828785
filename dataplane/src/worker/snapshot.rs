//! Snapshots: what control publishes whole and workers take up between two
//! bursts.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};

/// A value that control replaces and workers read.
///
/// A worker never frees one. A replaced value is kept here until nobody else
/// has it, and control frees it with a later [`Snapshot::store`] or
/// [`Snapshot::release`]: to free ten thousand services takes milliseconds,
/// which a worker must not spend between two bursts.
#[derive(Debug, Default)]
pub struct Snapshot<T> {
    current: ArcSwap<T>,
    /// What some worker may still go by, the oldest first. No longer than a few
    /// for each worker, and only control locks it.
    replaced: Mutex<Vec<Arc<T>>>,
}

impl<T> Snapshot<T> {
    /// The present value. Takes no lock.
    pub fn load(&self) -> Guard<Arc<T>> {
        self.current.load()
    }

    /// Replaces the value. For control: frees what workers have let go of.
    pub fn store(&self, value: Arc<T>) {
        let former = self.current.swap(value);
        self.replaced.lock().unwrap_or_else(PoisonError::into_inner).push(former);
        self.release();
    }

    /// Frees replaced values that no worker goes by any more. For control, to
    /// be called now and then.
    pub fn release(&self) {
        let mut replaced = self.replaced.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody can come by another reference to one that only this list has:
        // a reader that was at it when it was replaced has been given its own.
        let (unused, used) = replaced.drain(..).partition(|value| Arc::strong_count(value) == 1);
        *replaced = used;
        drop(replaced);
        drop::<Vec<_>>(unused);
    }

    /// Replaced values that are not freed yet.
    pub fn retained(&self) -> usize {
        self.replaced.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
    use std::thread::{self, ThreadId};

    #[test]
    fn a_replaced_value_is_freed_once_nobody_has_it() {
        let snapshot = Snapshot::<u32>::default();
        let first = Arc::clone(&snapshot.load());
        snapshot.store(Arc::new(1));
        let guard = snapshot.load();
        snapshot.store(Arc::new(2));
        assert_eq!((snapshot.retained(), *first, **guard), (2, 0, 1));
        drop(first);
        snapshot.release();
        assert_eq!((snapshot.retained(), **guard), (1, 1));
        drop(guard);
        snapshot.store(Arc::new(3));
        // That which was replaced just now, and nobody had.
        assert_eq!((snapshot.retained(), **snapshot.load()), (0, 3));
    }

    static FREED_ELSEWHERE: AtomicUsize = AtomicUsize::new(0);

    struct Homesick(Option<ThreadId>);

    impl Drop for Homesick {
        fn drop(&mut self) {
            if self.0.is_some_and(|home| home != thread::current().id()) {
                FREED_ELSEWHERE.fetch_add(1, Relaxed);
            }
        }
    }

    /// Whatever readers do, all is freed by the thread that publishes.
    #[test]
    fn readers_free_nothing() {
        let home = thread::current().id();
        let snapshot =
            Snapshot { current: ArcSwap::from_pointee(Homesick(Some(home))), replaced: Mutex::default() };
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut view = Arc::new(Homesick(None));
                    while !done.load(Relaxed) {
                        let present = snapshot.load();
                        if !Arc::ptr_eq(&present, &view) {
                            view = Arc::clone(&present);
                        }
                    }
                    // It goes by the last one until the end, as workers do.
                    std::mem::forget(view);
                });
            }
            for _ in 0..20_000 {
                snapshot.store(Arc::new(Homesick(Some(home))));
                assert!(snapshot.retained() <= 6);
            }
            done.store(true, Relaxed);
        });
        assert_eq!(FREED_ELSEWHERE.load(Relaxed), 0);
    }
}
