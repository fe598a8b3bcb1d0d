//! The pointwise part of attention, on a block of scores.

use super::AttentionShape;
use crate::simd::{Kernel, Simd};
use crate::softmax::row_max;

/// A block of scores `[rows, cols]` and the columns that each row attends.
pub struct Scores<'a> {
    pub data: &'a mut [f32],
    pub cols: usize,
    pub bounds: &'a [(usize, usize)],
    pub shape: &'a AttentionShape,
}

/// Turns raw products into exponentials relative to the running maximum of each row, 0 outside the row's bounds.
pub struct Online<'a> {
    pub scores: Scores<'a>,
    pub max: &'a mut [f32],
    pub sum: &'a mut [f32],
    /// What the row's earlier output is to be multiplied by.
    pub fade: &'a mut [f32],
}

impl Kernel for Online<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Scores { data, cols, bounds, shape } = self.scores;
        for (r, (row, &(lo, hi))) in data.chunks_exact_mut(cols).zip(bounds).enumerate() {
            row[..lo].fill(0.0);
            row[hi..].fill(0.0);
            self.fade[r] = 1.0;
            if lo == hi {
                continue;
            }
            let row = &mut row[lo..hi];
            scale(s, row, shape);
            let max = row_max(s, row).max(self.max[r]);
            self.fade[r] = (self.max[r] - max).exp();
            self.max[r] = max;
            self.sum[r] = self.sum[r] * self.fade[r] + exp_sum(s, row, max);
        }
    }
}

/// Scales and caps raw products in place.
#[inline(always)]
fn scale<S: Simd>(s: S, row: &mut [f32], shape: &AttentionShape) {
    let even = row.len() / S::LANES * S::LANES;
    for i in (0..even).step_by(S::LANES) {
        s.put(row, i, score(s, s.at(row, i), shape).0);
    }
    if even < row.len() {
        s.put_tail(row, even, score(s, s.tail(row, even, 0.0), shape).0);
    }
}

/// The score of a raw product, and its slope.
#[inline(always)]
fn score<S: Simd>(s: S, raw: S::V, shape: &AttentionShape) -> (S::V, S::V) {
    let scale = s.splat(shape.scale);
    match shape.soft_cap {
        None => (s.mul(raw, scale), scale),
        Some(cap) => {
            let t = s.tanh(s.mul(raw, s.splat(shape.scale / cap)));
            (s.mul(t, s.splat(cap)), s.mul(scale, s.sub(s.splat(1.0), s.mul(t, t))))
        }
    }
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

/// From raw products and the gradients of the probabilities: the probabilities and the gradients of the raw products,
/// each in place; 0 outside a row's bounds.
pub struct Slopes<'a> {
    pub scores: Scores<'a>,
    pub d_probs: &'a mut [f32],
    pub lse: &'a [f32],
    /// Per row: d_out · out.
    pub delta: &'a [f32],
}

impl Kernel for Slopes<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Scores { data, cols, bounds, shape } = self.scores;
        let rows = data.chunks_exact_mut(cols).zip(self.d_probs.chunks_exact_mut(cols)).zip(bounds);
        for (r, ((p, dp), &(lo, hi))) in rows.enumerate() {
            for x in [&mut *p, &mut *dp] {
                x[..lo].fill(0.0);
                x[hi..].fill(0.0);
            }
            let (p, dp) = (&mut p[lo..hi], &mut dp[lo..hi]);
            let even = p.len() / S::LANES * S::LANES;
            let (lse, delta) = (s.splat(self.lse[r]), s.splat(self.delta[r]));
            for i in (0..even).step_by(S::LANES) {
                let (prob, d) = slope(s, (s.at(p, i), s.at(dp, i)), (lse, delta), shape);
                s.put(p, i, prob);
                s.put(dp, i, d);
            }
            if even < p.len() {
                let raw = (s.tail(p, even, 0.0), s.tail(dp, even, 0.0));
                let (prob, d) = slope(s, raw, (lse, delta), shape);
                s.put_tail(p, even, prob);
                s.put_tail(dp, even, d);
            }
        }
    }
}

#[inline(always)]
fn slope<S: Simd>(
    s: S,
    (raw, d_prob): (S::V, S::V),
    (lse, delta): (S::V, S::V),
    shape: &AttentionShape,
) -> (S::V, S::V) {
    let (score, slope) = score(s, raw, shape);
    let p = s.exp(s.sub(score, lse));
    (p, s.mul(s.mul(p, s.sub(d_prob, delta)), slope))
}
