//! Working memory that a thread keeps between calls, so that a kernel neither allocates nor faults pages in.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// Floats of a cache line.
const LINE: usize = 16;

thread_local! {
    static POOL: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with `len` floats of unspecified content, aligned to 64 bytes. Calls may nest.
pub fn with<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = POOL.with_borrow_mut(|pool| {
        let fit = pool.iter().position(|b| b.len() >= len + LINE);
        let fit = fit.or(pool.len().checked_sub(1));
        fit.map(|i| pool.swap_remove(i)).unwrap_or_default()
    });
    if buffer.len() < len + LINE {
        buffer = vec![0.0; len + LINE];
    }
    let start = buffer.as_ptr().align_offset(64).min(LINE);
    let result = f(&mut buffer[start..start + len]);
    POOL.with_borrow_mut(|pool| pool.push(buffer));
    result
}

/// Floats aligned to 64 bytes, zeros at first.
pub struct Buffer {
    data: Vec<f32>,
    start: usize,
    len: usize,
}

impl Buffer {
    pub fn new(len: usize) -> Self {
        let data = vec![0.0; len + LINE];
        let start = data.as_ptr().align_offset(64).min(LINE);
        Buffer { data, start, len }
    }
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.data[self.start..self.start + self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.data[self.start..self.start + self.len]
    }
}
