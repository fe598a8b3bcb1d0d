//! Softmax over rows, and the row reductions that the losses share.

use crate::simd::{self, Kernel, Level, Simd, each_vector};
use rayon::prelude::*;

/// `y = x - log(sum(exp(x)))` per row of `cols`.
pub fn log_softmax_rows(x: &[f32], cols: usize, y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "log_softmax_rows: x has {} floats, y {}", x.len(), y.len());
    if cols == 0 {
        return;
    }
    assert!(x.len().is_multiple_of(cols), "log_softmax_rows: {} floats are no rows of {cols}", x.len());
    let level = simd::level();
    let rows = ROW_TASK.div_ceil(cols);
    x.par_chunks(rows * cols).zip(y.par_chunks_mut(rows * cols)).for_each(|(x, y)| {
        for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)) {
            let lse = row_lse(level, x);
            y.iter_mut().zip(x).for_each(|(y, x)| *y = x - lse);
        }
    });
}

/// `y = exp(x) / sum(exp(x))` per row of `cols`.
pub fn softmax_rows(x: &[f32], cols: usize, y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "softmax_rows: x has {} floats, y {}", x.len(), y.len());
    if cols == 0 {
        return;
    }
    assert!(x.len().is_multiple_of(cols), "softmax_rows: {} floats are no rows of {cols}", x.len());
    let level = simd::level();
    let rows = ROW_TASK.div_ceil(cols);
    x.par_chunks(rows * cols).zip(y.par_chunks_mut(rows * cols)).for_each(|(x, y)| {
        y.copy_from_slice(x);
        y.chunks_exact_mut(cols).for_each(|y| row_softmax(level, y, row_lse(level, y), 1.0));
    });
}

/// The gradient of [`softmax_rows`], from its result `y` and the gradient `dy` of that; overwrites `dx`.
pub fn softmax_rows_backward(y: &[f32], dy: &[f32], cols: usize, dx: &mut [f32]) {
    assert_eq!(y.len(), dy.len(), "softmax_rows_backward: y has {} floats, dy {}", y.len(), dy.len());
    assert_eq!(y.len(), dx.len(), "softmax_rows_backward: y has {} floats, dx {}", y.len(), dx.len());
    if cols == 0 {
        return;
    }
    assert!(y.len().is_multiple_of(cols), "softmax_rows_backward: {} floats are no rows of {cols}", y.len());
    let level = simd::level();
    let chunk = ROW_TASK.div_ceil(cols) * cols;
    let tasks = y.par_chunks(chunk).zip(dy.par_chunks(chunk)).zip(dx.par_chunks_mut(chunk));
    tasks.for_each(|((y, dy), dx)| simd::run(level, Backward { y, dy, cols, dx }));
}

/// Floats of one task, about.
const ROW_TASK: usize = 1 << 13;

struct Backward<'a> {
    y: &'a [f32],
    dy: &'a [f32],
    cols: usize,
    dx: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let cols = self.cols;
        let rows = self.y.chunks_exact(cols).zip(self.dy.chunks_exact(cols));
        for ((y, dy), dx) in rows.zip(self.dx.chunks_exact_mut(cols)) {
            let mut dot = s.zero();
            each_vector!(cols, W, j => {
                dot = s.fma(s.get::<W>(y, j, 0.0), s.get::<W>(dy, j, 0.0), dot);
            });
            let dot = s.splat(s.reduce_sum(dot));
            each_vector!(cols, W, j => {
                let slope = s.sub(s.get::<W>(dy, j, 0.0), dot);
                s.set::<W>(dx, j, s.mul(s.get::<W>(y, j, 0.0), slope));
            });
        }
    }
}

/// The sum of `x`.
pub(crate) fn row_sum(level: Level, x: &[f32]) -> f32 {
    simd::run(level, Sum(x))
}

struct Sum<'a>(&'a [f32]);

impl Kernel for Sum<'_> {
    type Out = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let mut sum = s.zero();
        each_vector!(self.0.len(), W, j => {
            sum = s.add(sum, s.get::<W>(self.0, j, 0.0));
        });
        s.reduce_sum(sum)
    }
}

/// log(sum(exp(x)))
pub(crate) fn row_lse(level: Level, x: &[f32]) -> f32 {
    simd::run(level, Lse(x))
}

/// `x = exp(x - lse) * weight`
pub(crate) fn row_softmax(level: Level, x: &mut [f32], lse: f32, weight: f32) {
    simd::run(level, Softmax { x, lse, weight });
}

/// The largest of `x`.
#[inline(always)]
pub(crate) fn row_max<S: Simd>(s: S, x: &[f32]) -> f32 {
    let even = x.len() / S::LANES * S::LANES;
    let mut top = s.splat(f32::NEG_INFINITY);
    for i in (0..even).step_by(S::LANES) {
        top = s.max(top, s.at(x, i));
    }
    if even < x.len() {
        top = s.max(top, s.tail(x, even, f32::NEG_INFINITY));
    }
    s.reduce_max(top)
}

struct Lse<'a>(&'a [f32]);

impl Kernel for Lse<'_> {
    type Out = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let x = self.0;
        let even = x.len() / S::LANES * S::LANES;
        let top = row_max(s, x);
        if top == f32::NEG_INFINITY {
            return top;
        }
        let shift = s.splat(top);
        let mut sum = s.zero();
        for i in (0..even).step_by(S::LANES) {
            sum = s.add(sum, s.exp(s.sub(s.at(x, i), shift)));
        }
        let mut total = s.reduce_sum(sum);
        if even < x.len() {
            let mut rest = [0.0; simd::MAX_LANES];
            s.put(&mut rest, 0, s.exp(s.sub(s.tail(x, even, 0.0), shift)));
            total += rest[..x.len() - even].iter().sum::<f32>();
        }
        top + total.ln()
    }
}

struct Softmax<'a> {
    x: &'a mut [f32],
    lse: f32,
    weight: f32,
}

impl Kernel for Softmax<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let even = self.x.len() / S::LANES * S::LANES;
        let (lse, weight) = (s.splat(self.lse), s.splat(self.weight));
        for i in (0..even).step_by(S::LANES) {
            s.put(self.x, i, s.mul(s.exp(s.sub(s.at(self.x, i), lse)), weight));
        }
        if even < self.x.len() {
            let rest = s.tail(self.x, even, 0.0);
            s.put_tail(self.x, even, s.mul(s.exp(s.sub(rest, lse)), weight));
        }
    }
}
