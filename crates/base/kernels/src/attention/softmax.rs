//! The pointwise part of attention of a few queries, on a block of scores `[queries, keys]`.

use super::AttentionShape;
use crate::simd::{Kernel, MAX_LANES, Simd};
use crate::softmax::row_max;

/// Turns raw products into exponentials relative to the running maximum of each row, 0 outside the row's bounds.
pub struct Online<'a> {
    /// `[rows, cols]`
    pub data: &'a mut [f32],
    pub cols: usize,
    pub rows: &'a [Row],
    pub shape: &'a AttentionShape<'a>,
    pub max: &'a mut [f32],
    pub sum: &'a mut [f32],
}

/// A query of one head.
#[derive(Clone, Copy)]
pub struct Row {
    /// The columns that it attends.
    pub bounds: (usize, usize),
    /// What is added to a score per step from key to key, and at column 0.
    pub slope: f32,
    pub start: f32,
}

impl Kernel for Online<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (r, (x, row)) in self.data.chunks_exact_mut(self.cols).zip(self.rows).enumerate() {
            let (lo, hi) = row.bounds;
            x[..lo].fill(0.0);
            x[hi..].fill(0.0);
            if lo < hi {
                let x = &mut x[lo..hi];
                scale(s, x, self.shape, row);
                self.max[r] = row_max(s, x);
                self.sum[r] = exp_sum(s, x, self.max[r]);
            }
        }
    }
}

/// Scales, caps and biases the raw products of a row in place.
#[inline(always)]
fn scale<S: Simd>(s: S, x: &mut [f32], shape: &AttentionShape, row: &Row) {
    let even = x.len() / S::LANES * S::LANES;
    for i in (0..even).step_by(S::LANES) {
        s.put(x, i, score(s, s.at(x, i), shape, (row, i)));
    }
    if even < x.len() {
        s.put_tail(x, even, score(s, s.tail(x, even, 0.0), shape, (row, even)));
    }
}

/// The scores of the raw products from element `i` of a row's bounds.
#[inline(always)]
fn score<S: Simd>(s: S, raw: S::V, shape: &AttentionShape, (row, i): (&Row, usize)) -> S::V {
    const COUNT: [f32; MAX_LANES] = [0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.];
    let score = match shape.soft_cap {
        None => s.mul(raw, s.splat(shape.scale)),
        Some(cap) => s.mul(s.tanh(s.mul(raw, s.splat(shape.scale / cap))), s.splat(cap)),
    };
    if row.slope == 0.0 {
        return score;
    }
    let start = (row.bounds.0 + i) as f32 * row.slope + row.start;
    s.add(score, s.fma(s.at(&COUNT, 0), s.splat(row.slope), s.splat(start)))
}

/// `x = exp(x - max)`; returns the sum.
#[inline(always)]
fn exp_sum<S: Simd>(s: S, x: &mut [f32], max: f32) -> f32 {
    let even = x.len() / S::LANES * S::LANES;
    let max = s.splat(max);
    let mut sum = s.zero();
    for i in (0..even).step_by(S::LANES) {
        let e = s.exp(s.sub(s.at(x, i), max));
        sum = s.add(sum, e);
        s.put(x, i, e);
    }
    let mut total = s.reduce_sum(sum);
    if even < x.len() {
        let e = s.exp(s.sub(s.tail(x, even, 0.0), max));
        s.put_tail(x, even, e);
        total += x[even..].iter().sum::<f32>();
    }
    total
}
