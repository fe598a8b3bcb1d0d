//! Working memory that a thread keeps between calls, so that a kernel neither allocates nor faults pages in.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// Floats of a cache line.
const LINE: usize = 16;

thread_local! {
    static POOL: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with `len` floats of unspecified content, aligned to 64 bytes. Calls may nest.
///
/// A build with debug assertions gives floats of [`UNWRITTEN`] and asserts that none outside of them was written.
pub fn with<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    if cfg!(debug_assertions) {
        return with_checks(len, f);
    }
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

/// Frees what this thread keeps.
pub fn forget() {
    POOL.with_borrow_mut(Vec::clear);
}

/// A not-a-number: what is read before it is written, or outside, shows in the result.
const UNWRITTEN: u32 = 0x7FC5_C5C5;

/// New memory every time, as short as it can be.
fn with_checks<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = vec![f32::from_bits(UNWRITTEN); LINE + len + LINE];
    let start = 1 + buffer[1..].as_ptr().align_offset(64).min(LINE - 1);
    let result = f(&mut buffer[start..start + len]);
    let around = buffer[..start].iter().chain(&buffer[start + len..]);
    assert!(around.into_iter().all(|x| x.to_bits() == UNWRITTEN), "working memory of {len} floats was written outside");
    result
}

/// Floats aligned to 64 bytes, zeros at first; those around them are [`UNWRITTEN`].
pub struct Buffer {
    data: Vec<f32>,
    start: usize,
    len: usize,
}

impl Buffer {
    pub fn new(len: usize) -> Self {
        let mut data = vec![0.0; len + LINE];
        let start = data.as_ptr().align_offset(64).min(LINE);
        data[..start].fill(f32::from_bits(UNWRITTEN));
        data[start + len..].fill(f32::from_bits(UNWRITTEN));
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
