//! Softmax over rows, and the row reductions that the losses share.

use crate::simd::{self, Kernel, Level, Simd};
use rayon::prelude::*;

/// `y = x - log(sum(exp(x)))` per row of `cols`.
pub fn log_softmax_rows(x: &[f32], cols: usize, y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "log_softmax_rows: x has {} floats, y {}", x.len(), y.len());
    if cols == 0 {
        return;
    }
    assert!(x.len().is_multiple_of(cols), "log_softmax_rows: {} floats are no rows of {cols}", x.len());
    let level = simd::level();
    let rows = (1usize << 13).div_ceil(cols);
    x.par_chunks(rows * cols).zip(y.par_chunks_mut(rows * cols)).for_each(|(x, y)| {
        for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)) {
            let lse = row_lse(level, x);
            y.iter_mut().zip(x).for_each(|(y, x)| *y = x - lse);
        }
    });
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
