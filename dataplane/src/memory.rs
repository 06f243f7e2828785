//! Memory that is taken at start, so that the packet path never waits for any.

use std::ffi::c_void;

/// Bytes of a huge page.
const HUGE: usize = 2 << 20;

/// Lets the kernel provide all memory of an array at once, in huge pages where it
/// has any. What cannot be had yet comes as it is used.
///
/// An address that is not in the processor's own table of pages costs a walk
/// through the kernel's, and in a virtual machine through two of them: with
/// ten million connections as much as the connection itself. Providing a page
/// takes a few microseconds, a huge one some hundred, and where the host has
/// to find it first, milliseconds: so it is done before there are packets.
pub(crate) fn provide<T>(array: &Vec<T>) {
    advise(array.as_ptr().cast(), array.capacity() * size_of::<T>());
}

#[allow(unsafe_code)]
fn advise(start: *const u8, length: usize) {
    if length < HUGE {
        return;
    }
    // SAFETY: sysconf reads a constant.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
    let first = (start as usize).next_multiple_of(page);
    let end = (start as usize + length) / page * page;
    for advice in [libc::MADV_HUGEPAGE, libc::MADV_POPULATE_WRITE] {
        // SAFETY: the pages are wholly the array's, and neither advice changes what
        // is in them. Where the kernel knows the advice not, or has no memory,
        // everything is as it was.
        unsafe { libc::madvise(first as *mut c_void, end.saturating_sub(first), advice) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_provided_is_resident_and_as_it_was() {
        let mut array: Vec<u64> = Vec::with_capacity(4 * HUGE / 8);
        array.extend(0..1000);
        provide(&array);
        assert!(array.iter().copied().eq(0..1000));
        let place = array.as_ptr() as usize + 2 * HUGE;
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut resident = None;
        let mut inside = false;
        for line in maps.lines() {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            if let Some((Ok(start), Ok(end))) =
                range.map(|(start, end)| (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16)))
            {
                inside = (start..end).contains(&place);
            } else if inside && line.starts_with("Rss:") {
                resident = line.split_whitespace().nth(1).and_then(|kib| kib.parse::<usize>().ok());
            }
        }
        assert!(resident.is_some_and(|kib| kib * 1024 >= 3 * HUGE), "{resident:?} KiB");
    }
}
