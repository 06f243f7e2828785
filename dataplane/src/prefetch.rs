//! Asking the cache for memory that will be needed soon.

/// Bytes of a cache line.
const LINE: usize = 64;

/// Asks for the cache lines of `value`; a hint, with no effect on what the
/// program computes.
#[inline(always)]
#[allow(unsafe_code)]
pub(crate) fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    for offset in (0..size_of::<T>()).step_by(LINE) {
        // SAFETY: the pointer stays inside `value`; the instruction reads
        // nothing that the program could see, and never faults.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast::<i8>().add(offset));
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (value, LINE);
}
