//! Asking the cache for memory that will be needed soon.

/// Bytes of a cache line.
const LINE: usize = 64;

/// Asks for the cache lines of `value`; a hint, with no effect on what the
/// program computes.
#[inline(always)]
pub(crate) fn prefetch<T>(value: &T) {
    hint::<T, false>(value);
}

/// The same for what is about to be changed, and may be in another CPU's cache.
#[inline(always)]
pub(crate) fn prefetch_to_change<T>(value: &T) {
    hint::<T, true>(value);
}

#[inline(always)]
#[allow(unsafe_code)]
fn hint<T, const CHANGES: bool>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    for offset in (0..size_of::<T>()).step_by(LINE) {
        // SAFETY: the pointer stays inside `value`; the instruction reads
        // nothing that the program could see, and never faults.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_ET0, _MM_HINT_T0, _mm_prefetch};
            let line = std::ptr::from_ref(value).cast::<i8>().add(offset);
            if CHANGES { _mm_prefetch::<_MM_HINT_ET0>(line) } else { _mm_prefetch::<_MM_HINT_T0>(line) }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (value, LINE);
}
