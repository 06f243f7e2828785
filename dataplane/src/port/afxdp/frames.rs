//! The memory of a port's frames.
//!
//! It is a file in memory, so that a process that takes this one's place can map
//! it too, with what the kernel has written there.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use ::afxdp::buf::Buf;
use ::afxdp::buf_mmap::BufMmap;
use ::afxdp::mmap_area::{MmapArea, MmapAreaOptions};

/// Bytes that the kernel and the crate keep free in front of each frame.
pub(super) const RESERVED: usize = 256;

/// A handle on a frame's memory.
pub(super) type Buffer = BufMmap<'static, ()>;

/// The frames of one port, all of a size.
pub(super) struct Frames {
    area: Arc<MmapArea<'static, ()>>,
    /// Each once more, to make handles from where those that there were are lost,
    /// or another process's. Never used otherwise.
    all: Vec<ManuallyDrop<Buffer>>,
    chunk: usize,
    /// What the memory is of; nothing where the kernel gave no file for it
    file: Option<OwnedFd>,
}

impl Frames {
    /// Memory for `count` frames of `chunk` bytes, and a handle on each.
    pub(super) fn new(count: usize, chunk: usize) -> Option<(Self, Vec<Buffer>)> {
        let (area, free) = MmapArea::new(count, chunk, MmapAreaOptions { huge_tlb: false }).ok()?;
        // Frames borrow the memory for 'static: it must never be unmapped.
        std::mem::forget(Arc::clone(&area));
        let all = free.iter().map(duplicate).collect();
        let mut frames = Frames { area, all, chunk, file: None };
        // Without the file everything works but being taken over.
        frames.file = memory_file(frames.bytes()).ok().filter(|file| frames.map(file.as_fd()).is_ok());
        Some((frames, free))
    }

    fn bytes(&self) -> usize {
        self.all.len() * self.chunk
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    /// Bytes from one to the next.
    pub(super) fn chunk(&self) -> usize {
        self.chunk
    }

    /// The memory, as the crate wants it.
    pub(super) fn area(&self) -> Arc<MmapArea<'static, ()>> {
        Arc::clone(&self.area)
    }

    /// The file that the memory is of.
    pub(super) fn file(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }

    /// Has the frames in another process's memory from now on; nobody may use one.
    pub(super) fn share(&mut self, file: OwnedFd) -> io::Result<()> {
        if length(&file)? < self.bytes() as u64 {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        self.map(file.as_fd())?;
        self.file = Some(file);
        Ok(())
    }

    /// Puts a file in the place of the memory.
    #[allow(unsafe_code)]
    fn map(&self, file: BorrowedFd) -> io::Result<()> {
        let (start, length) = (self.area.get_ptr(), self.bytes());
        // SAFETY: the range is this area's own mapping, which stays one of the same
        // length; what is in it is only ever read and written as bytes.
        let placed = unsafe {
            let (protection, flags) =
                (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_POPULATE);
            libc::mmap(start, length, protection, flags, file.as_raw_fd(), 0)
        };
        if placed == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// A handle on a frame, which the caller knows to have no other.
    #[allow(unsafe_code)]
    pub(super) fn handle(&self, index: usize) -> Option<Buffer> {
        let frame = self.all.get(index)?;
        // SAFETY: as in `duplicate`.
        Some(unsafe { std::ptr::read(&**frame) })
    }

    /// The number of a frame.
    #[inline]
    pub(super) fn index(&self, frame: &Buffer) -> usize {
        self.address(frame) as usize / self.chunk
    }

    /// Where a frame's data begins, as the kernel counts.
    #[inline]
    pub(super) fn address(&self, frame: &Buffer) -> u64 {
        (frame.get_data().as_ptr() as usize - self.area.get_ptr() as usize) as u64
    }

    /// The frame that the kernel says has so many bytes at an address.
    #[inline]
    pub(super) fn received(&self, address: u64, length: usize) -> Option<Buffer> {
        let (index, offset) = (address as usize / self.chunk, address as usize % self.chunk);
        let mut frame = self.handle(index)?;
        let length = length.min(self.chunk.saturating_sub(offset)).min(frame.get_data().len());
        if offset != RESERVED {
            self.move_data(index, offset, length);
        }
        frame.set_len(length as u16);
        Some(frame)
    }

    /// Moves what a driver put elsewhere to where a frame's data begins.
    #[cold]
    #[allow(unsafe_code)]
    fn move_data(&self, index: usize, from: usize, length: usize) {
        let start = self.area.get_ptr().cast::<u8>();
        let frame = start.wrapping_add(index * self.chunk);
        debug_assert!(from.max(RESERVED) + length <= self.chunk);
        // SAFETY: both ranges are within one frame, as `received` saw to, of which
        // the caller has the only handle.
        unsafe { std::ptr::copy(frame.wrapping_add(from), frame.wrapping_add(RESERVED), length) };
    }

    /// A handle on each, when all that there were are gone.
    pub(super) fn anew(&self) -> impl Iterator<Item = Buffer> + '_ {
        self.all.iter().map(|frame| ManuallyDrop::into_inner(duplicate(frame)))
    }
}

/// A second handle on a frame's memory, which only the first may use until it
/// is gone.
#[allow(unsafe_code)]
fn duplicate(frame: &Buffer) -> ManuallyDrop<Buffer> {
    // SAFETY: a buffer owns nothing: it is an address, a length and a slice of
    // memory that is never unmapped. The copies are kept unused in `Frames::all`,
    // and become handles only when the earlier ones are gone.
    ManuallyDrop::new(unsafe { std::ptr::read(frame) })
}

/// A file in memory of so many bytes.
#[allow(unsafe_code)]
fn memory_file(bytes: usize) -> io::Result<OwnedFd> {
    // SAFETY: the name is a C string; the descriptor is new, and nobody else's.
    let file = unsafe {
        let fd = libc::memfd_create(c"sluice-frames".as_ptr(), libc::MFD_CLOEXEC);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: no pointer is passed.
    match unsafe { libc::ftruncate(file.as_raw_fd(), bytes as libc::off_t) } {
        0 => Ok(file),
        _ => Err(io::Error::last_os_error()),
    }
}

fn length(file: &OwnedFd) -> io::Result<u64> {
    Ok(std::fs::File::from(file.try_clone()?).metadata()?.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_where_the_other_process_has_them() {
        let (ours, mut free) = Frames::new(4, 2048).unwrap();
        let (mut theirs, _) = Frames::new(4, 2048).unwrap();
        theirs.share(ours.file().unwrap().try_clone_to_owned().unwrap()).unwrap();
        let mut frame = free.pop().unwrap();
        frame.get_data_mut()[..5].copy_from_slice(b"hello");
        assert_eq!((ours.index(&frame), ours.address(&frame)), (3, 3 * 2048 + RESERVED as u64));
        let seen = theirs.received(ours.address(&frame), 5).unwrap();
        assert_eq!(&seen.get_data()[..usize::from(seen.get_len())], b"hello");
    }

    #[test]
    fn data_elsewhere_in_a_frame_is_moved_to_its_place() {
        let (frames, mut free) = Frames::new(2, 2048).unwrap();
        let mut frame = free.pop().unwrap();
        frame.get_data_mut()[8..13].copy_from_slice(b"hello");
        let seen = frames.received(frames.address(&frame) + 8, 5).unwrap();
        assert_eq!(&seen.get_data()[..5], b"hello");
        assert_eq!(frames.address(&seen), frames.address(&frame));
    }

    #[test]
    fn what_is_not_there_or_too_long_is_not_had() {
        let (mut frames, _) = Frames::new(2, 2048).unwrap();
        assert!(frames.received(2 * 2048 + 256, 5).is_none());
        let longest = frames.received(256, 70_000).unwrap();
        assert_eq!(usize::from(longest.get_len()), 2048 - RESERVED);
        let short = memory_file(2048).unwrap();
        assert!(frames.share(short).is_err());
    }
}
