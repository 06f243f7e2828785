//! The four rings of a socket that another process opened.
//!
//! The crate maps the rings of the sockets that it opens, and of no others. A
//! socket that another process hands over has its rings mapped once more here:
//! indices are in the shared memory, so that this process goes on where the
//! other one left off. The kernel allows it for bound sockets since Linux 6.4
//! (`xsk_mmap` in `net/xdp/xsk.c`).

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{
    AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};

/// The rings of one socket.
pub(super) struct Rings {
    pub(super) receive: Ring<libc::xdp_desc>,
    pub(super) transmit: Ring<libc::xdp_desc>,
    pub(super) fill: Ring<u64>,
    pub(super) completion: Ring<u64>,
}

impl Rings {
    /// Maps those of a bound socket, of so many elements each on the receive and on
    /// the transmit side. They are used by this process from the moment on that the
    /// other one has left off.
    pub(super) fn map(socket: BorrowedFd, [incoming, outgoing]: [u32; 2]) -> io::Result<Self> {
        let offsets = offsets(socket)?;
        Ok(Rings {
            receive: Ring::map(socket, &offsets.rx, libc::XDP_PGOFF_RX_RING, incoming)?,
            transmit: Ring::map(socket, &offsets.tx, libc::XDP_PGOFF_TX_RING, outgoing)?,
            fill: Ring::map(socket, &offsets.fr, libc::XDP_UMEM_PGOFF_FILL_RING as libc::off_t, incoming)?,
            completion: Ring::map(
                socket,
                &offsets.cr,
                libc::XDP_UMEM_PGOFF_COMPLETION_RING as libc::off_t,
                outgoing,
            )?,
        })
    }
}

#[allow(unsafe_code)]
fn offsets(socket: BorrowedFd) -> io::Result<libc::xdp_mmap_offsets> {
    // SAFETY: all of its fields are integers.
    let mut offsets: libc::xdp_mmap_offsets = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::xdp_mmap_offsets>() as libc::socklen_t;
    // SAFETY: writes at most `length` bytes to `offsets`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            libc::XDP_MMAP_OFFSETS,
            (&raw mut offsets).cast(),
            &mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if length as usize != size_of::<libc::xdp_mmap_offsets>() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    Ok(offsets)
}

/// One ring, of which this process has one end and the kernel the other.
pub(super) struct Ring<T> {
    map: NonNull<u8>,
    length: usize,
    /// Where in the mapping the indices, the flags and the elements are
    producer: usize,
    consumer: usize,
    flags: usize,
    elements: usize,
    /// A power of two
    size: u32,
    of: PhantomData<T>,
}

// SAFETY: the mapping is the ring's alone, and it is used through `&mut` by one
// thread at a time, as far as this process is concerned.
#[allow(unsafe_code)]
unsafe impl<T: Send> Send for Ring<T> {}

impl<T: Copy> Ring<T> {
    #[allow(unsafe_code)]
    fn map(
        socket: BorrowedFd,
        offsets: &libc::xdp_ring_offset,
        page: libc::off_t,
        size: u32,
    ) -> io::Result<Self> {
        let refused = || io::Error::from_raw_os_error(libc::EINVAL);
        if !size.is_power_of_two() {
            return Err(refused());
        }
        let [producer, consumer, flags, elements] =
            [offsets.producer, offsets.consumer, offsets.flags, offsets.desc].map(|at| at as usize);
        let length = elements + size as usize * size_of::<T>();
        let aligned = [producer, consumer, flags].iter().all(|at| at.is_multiple_of(align_of::<AtomicU32>()));
        if !aligned
            || !elements.is_multiple_of(align_of::<T>())
            || producer.max(consumer).max(flags) + 4 > elements
        {
            return Err(refused());
        }
        // SAFETY: a new mapping at a place that the kernel chooses. It refuses a
        // length that is more than the ring has.
        let start = unsafe {
            let (protection, flags) =
                (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
            libc::mmap(null_mut(), length, protection, flags, socket.as_raw_fd(), page)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let map = NonNull::new(start.cast()).ok_or_else(refused)?;
        Ok(Ring { map, length, producer, consumer, flags, elements, size, of: PhantomData })
    }

    #[inline]
    #[allow(unsafe_code)]
    fn word(&self, at: usize) -> &AtomicU32 {
        // SAFETY: `at` is one of three places, which `map` found to be within the
        // mapping and aligned; the kernel changes it atomically, too.
        unsafe { self.map.add(at).cast().as_ref() }
    }

    #[inline]
    #[allow(unsafe_code)]
    fn element(&self, index: u32) -> NonNull<T> {
        let place = (index & (self.size - 1)) as usize;
        // SAFETY: the mapping has `size` elements from there on.
        unsafe { self.map.add(self.elements).cast::<T>().add(place) }
    }

    /// Takes what the kernel has put there, at most so many, and returns how many.
    #[inline]
    #[allow(unsafe_code)]
    pub(super) fn take(&mut self, most: usize, mut each: impl FnMut(T)) -> usize {
        let (begin, end) = (self.word(self.consumer).load(Relaxed), self.word(self.producer).load(Acquire));
        let count = (end.wrapping_sub(begin).min(self.size) as usize).min(most);
        for index in 0..count as u32 {
            // SAFETY: the kernel wrote it before the index that was loaded with
            // `Acquire`, and leaves it alone until the other one is stored. Any
            // bytes are a `T`, which is an integer or a struct of such.
            each(unsafe { self.element(begin.wrapping_add(index)).read() });
        }
        if count > 0 {
            self.word(self.consumer).store(begin.wrapping_add(count as u32), Release);
        }
        count
    }

    /// Puts as many there as there are, and room for; returns how many.
    #[inline]
    #[allow(unsafe_code)]
    pub(super) fn put(&mut self, most: usize, mut next: impl FnMut() -> Option<T>) -> usize {
        let (begin, end) = (self.word(self.producer).load(Relaxed), self.word(self.consumer).load(Acquire));
        let room = self.size.saturating_sub(begin.wrapping_sub(end)) as usize;
        let mut count = 0;
        while count < room.min(most) {
            let Some(element) = next() else { break };
            // SAFETY: the kernel is through with it, as it stored the index that
            // was loaded with `Acquire`, and looks at it after the next store.
            unsafe { self.element(begin.wrapping_add(count as u32)).write(element) };
            count += 1;
        }
        if count > 0 {
            self.word(self.producer).store(begin.wrapping_add(count as u32), Release);
        }
        count
    }

    /// Whether the kernel wants to be woken to go on.
    #[inline]
    pub(super) fn needs_wakeup(&self) -> bool {
        self.word(self.flags).load(Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

impl<T> Drop for Ring<T> {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: the mapping is the ring's, and nothing points into it any more.
        unsafe { libc::munmap(self.map.as_ptr().cast(), self.length) };
    }
}
