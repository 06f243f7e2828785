//! Asking the cache for memory that will be needed soon.

/// Bytes of a cache line.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;

/// Asks for the cache lines of `value`; a hint, with no effect on what the
/// program computes.
#[inline(always)]
pub(crate) fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    hint::<T, { std::arch::x86_64::_MM_HINT_T0 }>(value);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

/// The same for what is about to be changed, and may be in another CPU's cache.
#[inline(always)]
pub(crate) fn prefetch_to_change<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    hint::<T, { std::arch::x86_64::_MM_HINT_ET0 }>(value);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
#[allow(unsafe_code)]
fn hint<T, const HINT: i32>(value: &T) {
    for offset in (0..size_of::<T>()).step_by(LINE) {
        // SAFETY: the pointer stays inside `value`; the instruction reads
        // nothing that the program could see, and never faults.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<HINT>(std::ptr::from_ref(value).cast::<i8>().add(offset));
        }
    }
}
