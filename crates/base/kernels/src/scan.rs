//! Recurrences whose channels do not mix: selective scans (Mamba), causal convolutions, RWKV's and Griffin's.
//!
//! Sequences are `[B, T, D]`. A task owns some channels of one row of the batch and goes through its time alone, a
//! vector of channels at a time; sums over channels or rows are put together afterwards, in a fixed order.

use crate::scratch;
use crate::simd::{self, Kernel, Simd};
use rayon::prelude::*;

pub mod conv;
pub mod rglru;
pub mod selective;
pub mod wkv;

/// Channels per task; a multiple of every vector length. Fixed, as the order of sums depends on it.
const BLOCK: usize = 64;
/// Steps between the states that a forward pass keeps; those in between are computed again.
const CHUNK: usize = 32;

/// What a task works on: some channels of one row of the batch.
#[derive(Clone, Copy)]
struct Part {
    b: usize,
    /// The first channel, and how many.
    from: usize,
    len: usize,
}

impl Part {
    /// Its channels in row `row` of a matrix with rows of `d`.
    #[inline(always)]
    fn of(self, x: &[f32], row: usize, d: usize) -> &[f32] {
        &x[row * d + self.from..][..self.len]
    }
}

/// A matrix whose columns belong to several tasks.
#[derive(Clone, Copy)]
struct Shared {
    ptr: *mut f32,
    len: usize,
    width: usize,
}

// SAFETY: tasks that share one take disjoint parts of it, by the contract of `Shared::part`.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    fn new(x: &mut [f32], width: usize) -> Self {
        Shared { ptr: x.as_mut_ptr(), len: x.len(), width }
    }

    /// A task's channels in row `row`; empty of an empty matrix.
    ///
    /// # Safety
    /// The matrix is still borrowed, no other task has a part with these channels of this batch row, and no two slices
    /// of one place live at a time.
    unsafe fn part<'a>(self, p: Part, row: usize) -> &'a mut [f32] {
        if self.len == 0 {
            return &mut [];
        }
        let start = row * self.width + p.from;
        assert!(p.from + p.len <= self.width && start + p.len <= self.len);
        // SAFETY: inside by the assertion, and nobody else's by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(start), p.len) }
    }
}

/// A task's loop over time.
trait Task: Sync {
    /// Floats of working memory.
    fn room(&self) -> usize;

    /// Mark it `#[inline(always)]`.
    fn run<S: Simd>(&self, s: S, p: Part, room: &mut [f32]);
}

/// Runs a task for all channels of all rows of the batch.
fn run_parts(task: &impl Task, batch: usize, d: usize) {
    let (level, blocks) = (simd::level(), d.div_ceil(BLOCK));
    let one = |i: usize| {
        let from = i % blocks * BLOCK;
        let part = Part { b: i / blocks, from, len: BLOCK.min(d - from) };
        scratch::with(task.room(), |room| simd::run(level, Run { task, part, room }));
    };
    if batch * blocks == 1 { one(0) } else { (0..batch * blocks).into_par_iter().for_each(one) }
}

struct Run<'a, T> {
    task: &'a T,
    part: Part,
    room: &'a mut [f32],
}

impl<T: Task> Kernel for Run<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.task.run(s, self.part, self.room);
    }
}

/// `sum[i] = parts[0][i] + parts[1][i] + …`; overwrites `sum`.
fn sum_parts(parts: &[f32], sum: &mut [f32]) {
    let n = sum.len();
    sum.par_chunks_mut(1 << 12).enumerate().for_each(|(i, sum)| {
        sum.fill(0.0);
        for part in parts.chunks_exact(n) {
            sum.iter_mut().zip(&part[i << 12..]).for_each(|(sum, x)| *sum += x);
        }
    });
}

/// The vector at `i` of `x`, whose last one may be incomplete; zero of an empty slice.
#[inline(always)]
pub(crate) fn load<S: Simd>(s: S, x: &[f32], i: usize) -> S::V {
    if i + S::LANES <= x.len() {
        s.at(x, i)
    } else if i < x.len() {
        s.tail(x, i, 0.0)
    } else {
        s.zero()
    }
}

/// A task's vector at channel `i` of its own, in row `row` of a matrix with rows of `d`.
#[inline(always)]
fn cell<S: Simd>(s: S, p: Part, x: &[f32], (row, d): (usize, usize), i: usize) -> S::V {
    load(s, p.of(x, row, d), i)
}

/// The reverse of [`load`]; nothing happens to an empty slice.
#[inline(always)]
pub(crate) fn save<S: Simd>(s: S, x: &mut [f32], i: usize, v: S::V) {
    if i + S::LANES <= x.len() {
        s.put(x, i, v);
    } else if i < x.len() {
        s.put_tail(x, i, v);
    }
}

/// `log(1 + e^x)` within about 1e-7 of its value.
#[inline(always)]
fn softplus<S: Simd>(s: S, x: S::V) -> S::V {
    let zero = s.zero();
    let u = s.exp(s.sub(zero, s.max(s.sub(zero, x), x)));
    // log(1 + u) = 2 artanh(r) with r = u / (2 + u), at most 1/3
    let r = s.div(u, s.add(s.splat(2.0), u));
    let q = s.mul(r, r);
    let mut p = s.splat(2.0 / 15.0);
    for c in [2.0 / 13.0, 2.0 / 11.0, 2.0 / 9.0, 2.0 / 7.0, 2.0 / 5.0, 2.0 / 3.0, 2.0] {
        p = s.fma(p, q, s.splat(c));
    }
    s.fma(r, p, s.max(zero, x))
}
