//! The program's allocator: mimalloc for small blocks, for large ones a stretch of addresses of their own.
//!
//! A training step takes and returns the same hundreds of large blocks every time. mimalloc keeps each inside a chunk of
//! 32 MB, so that a fifth of the memory lies in gaps; the lowest place that fits, wherever it is, leaves less than a
//! tenth.

use std::alloc::{GlobalAlloc, Layout};
use std::ffi::c_void;
use std::ptr;

use super::stretch;

/// The allocator of programs that train; others may use any.
pub struct Allocator;

/// From so many bytes on a block is large.
const LARGE: usize = 256 << 10;

fn large(layout: &Layout) -> bool {
    layout.size() >= LARGE && layout.align() <= stretch::GRAIN
}

// SAFETY: a block comes from the stretch or from mimalloc, is as long and as aligned as asked for, and goes back to where
// its address says it came from.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if large(&layout)
            && let Some(block) = stretch::take(layout.size())
        {
            return block.start;
        }
        // SAFETY: the alignment is a power of two.
        unsafe { libmimalloc_sys::mi_malloc_aligned(layout.size(), layout.align()).cast() }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if large(&layout)
            && let Some(block) = stretch::take(layout.size())
        {
            if !block.zeros {
                // SAFETY: the block has that many bytes and nobody else knows it.
                unsafe { ptr::write_bytes(block.start, 0, layout.size()) };
            }
            return block.start;
        }
        // SAFETY: as in `alloc`.
        unsafe { libmimalloc_sys::mi_zalloc_aligned(layout.size(), layout.align()).cast() }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        if large(&layout) && stretch::give(start, layout.size()) {
            return;
        }
        // SAFETY: what is not in the stretch is mimalloc's.
        unsafe { libmimalloc_sys::mi_free(start.cast()) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !large(&layout) && size < LARGE {
            // SAFETY: small blocks are mimalloc's.
            return unsafe { libmimalloc_sys::mi_realloc_aligned(start.cast::<c_void>(), size, layout.align()).cast() };
        }
        let grains = |size: usize| size.div_ceil(stretch::GRAIN);
        if large(&layout) && (LARGE..=layout.size()).contains(&size) && grains(size) == grains(layout.size()) {
            return start;
        }
        // SAFETY: the size is not 0 and the alignment was a layout's; the two blocks do not overlap, and the shorter of
        // them has that many bytes.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !new.is_null() {
                ptr::copy_nonoverlapping(start, new, size.min(layout.size()));
                self.dealloc(start, layout);
            }
            new
        }
    }
}
