//! Memory for results: neither filled with zeros that nobody reads nor given back to the system between two steps.

use std::ffi::c_long;
use std::sync::atomic::Ordering;

use crate::scratch;

mod allocator;
mod stretch;
mod system;

pub use allocator::Allocator;

/// `mi_option_purge_delay`, the same in mimalloc 2 and 3; the binding does not name it.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Milliseconds after which mimalloc gives freed memory back unless told otherwise.
const SOON: c_long = 1000;
/// A week. "Never" would forget what was freed meanwhile, and [`give_back_memory`] would not find it.
const LATE: c_long = 7 * 24 * 3600 * 1000;

/// Tells [`Allocator`], where it is the program's, to keep freed memory for the next allocation. A training step frees
/// what the next one allocates again; getting it from the system anew, page by page, costs a third of the step.
pub fn keep_freed_memory() {
    stretch::KEEP.store(true, Ordering::Relaxed);
    // SAFETY: the option exists and takes any number of milliseconds.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, LATE) };
}

/// Gives the system back what [`Allocator`] holds and nobody uses, and ends [`keep_freed_memory`].
pub fn give_back_memory() {
    stretch::KEEP.store(false, Ordering::Relaxed);
    let collect = || {
        // SAFETY: a thread may collect its own heap at any time.
        unsafe { libmimalloc_sys::mi_collect(true) };
    };
    // SAFETY: as above.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, SOON) };
    rayon::broadcast(|_| {
        scratch::forget();
        collect();
    });
    scratch::forget();
    collect();
    stretch::give_back();
}

/// `len` floats of unspecified value, for a kernel that writes all of them.
pub fn room(len: usize) -> Vec<f32> {
    if cfg!(miri) || !cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
        return vec![f32::NAN; len];
    }
    let mut room: Vec<f32> = Vec::with_capacity(len);
    // SAFETY: the capacity suffices, and every bit pattern is a float. The empty assembly is given the memory's address and
    // may write there as far as the compiler knows, so the floats count as written, with whatever they hold.
    unsafe {
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        std::arch::asm!("/* {0} */", in(reg) room.as_mut_ptr(), options(nostack, preserves_flags));
        room.set_len(len);
    }
    room
}
