//! Mixtures of experts: rows sorted by expert, a product per expert, and the weighted sum back into token order.
//!
//! Token `i`'s choice `j` is pair `i * k + j`. The sort is stable, so a row's place, and with it every sum, depends on
//! the choices alone.

use crate::simd::{self, Kernel, Simd};
use rayon::prelude::*;

mod grouped;
mod router;

pub use grouped::{grouped_input_grad, grouped_matmul, grouped_weight_grad};
pub use router::{
    Balance, Scores, pick_backward, pick_forward, rank_in_groups, router_scores, router_scores_backward,
    router_z_backward, router_z_loss, top_k,
};

/// The rows of all chosen experts, one expert after another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpertOrder {
    /// Experts per token.
    pub k: usize,
    /// `[E + 1]`: expert `e` has the rows `offsets[e]..offsets[e + 1]`.
    pub offsets: Vec<usize>,
    /// `[N * k]`: the pair of each row.
    pub pairs: Vec<u32>,
    /// `[N * k]`: the row of each pair.
    pub rows: Vec<u32>,
}

impl ExpertOrder {
    /// Sorts the choices `experts [N, k]`, each below `n_experts`, by counting.
    pub fn new(experts: &[u32], k: usize, n_experts: usize) -> Self {
        assert!(k > 0 && experts.len().is_multiple_of(k), "ExpertOrder: {} choices are no rows of {k}", experts.len());
        let mut offsets = vec![0; n_experts + 1];
        for (pair, &e) in experts.iter().enumerate() {
            assert!((e as usize) < n_experts, "ExpertOrder: choice {pair} is expert {e}, but there are {n_experts}");
            offsets[e as usize + 1] += 1;
        }
        for e in 0..n_experts {
            offsets[e + 1] += offsets[e];
        }
        let mut next = offsets.clone();
        let (mut pairs, mut rows) = (vec![0; experts.len()], vec![0; experts.len()]);
        for (pair, &e) in experts.iter().enumerate() {
            let row = next[e as usize];
            next[e as usize] += 1;
            (pairs[row], rows[pair]) = (pair as u32, row as u32);
        }
        ExpertOrder { k, offsets, pairs, rows }
    }

    /// Tokens.
    pub fn tokens(&self) -> usize {
        self.pairs.len() / self.k
    }

    /// Experts.
    pub fn n_experts(&self) -> usize {
        self.offsets.len() - 1
    }

    fn check(&self, what: &str, d: usize, tokens: usize, rows: usize) {
        let n = self.pairs.len();
        assert_eq!(tokens, n / self.k * d, "{what}: {tokens} floats for {} tokens of width {d}", n / self.k);
        assert_eq!(rows, n * d, "{what}: {rows} floats for {n} rows of width {d}");
    }
}

/// Floats per task, about.
const TASK: usize = 1 << 14;

/// Copies each token to the rows of its experts: x `[N, d]`, rows `[N * k, d]`.
pub fn expert_gather(x: &[f32], order: &ExpertOrder, d: usize, rows: &mut [f32]) {
    order.check("expert_gather", d, x.len(), rows.len());
    if d == 0 {
        return;
    }
    let many = TASK.div_ceil(d);
    rows.par_chunks_mut(many * d).zip(order.pairs.par_chunks(many)).for_each(|(rows, pairs)| {
        for (row, &pair) in rows.chunks_exact_mut(d).zip(pairs) {
            row.copy_from_slice(&x[pair as usize / order.k * d..][..d]);
        }
    });
}

/// The gradient of [`expert_gather`]: the sum of each token's rows, in order of its choices; overwrites `dx`.
pub fn expert_gather_backward(d_rows: &[f32], order: &ExpertOrder, d: usize, dx: &mut [f32]) {
    order.check("expert_gather_backward", d, dx.len(), d_rows.len());
    sum_rows(d_rows, None, order, d, dx);
}

/// `y[i] = sum over j of weights[i, j] * the row of pair (i, j)`: rows `[N * k, d]`, weights `[N, k]`, y `[N, d]`.
pub fn expert_combine(rows: &[f32], weights: &[f32], order: &ExpertOrder, d: usize, y: &mut [f32]) {
    order.check("expert_combine", d, y.len(), rows.len());
    let n = order.pairs.len();
    assert_eq!(weights.len(), n, "expert_combine: {} weights for {n} pairs", weights.len());
    sum_rows(rows, Some(weights), order, d, y);
}

fn sum_rows(rows: &[f32], weights: Option<&[f32]>, order: &ExpertOrder, d: usize, y: &mut [f32]) {
    if d == 0 {
        return;
    }
    let (level, many) = (simd::level(), TASK.div_ceil(d));
    y.par_chunks_mut(many * d).enumerate().for_each(|(task, y)| {
        let first = task * many * order.k;
        simd::run(level, Sum { rows, weights, order, first, d, y });
    });
}

struct Sum<'a> {
    rows: &'a [f32],
    weights: Option<&'a [f32]>,
    order: &'a ExpertOrder,
    first: usize,
    d: usize,
    y: &'a mut [f32],
}

impl Kernel for Sum<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (d, k) = (self.d, self.order.k);
        let even = d / S::LANES * S::LANES;
        for (i, y) in self.y.chunks_exact_mut(d).enumerate() {
            for j in 0..k {
                let pair = self.first + i * k + j;
                let row = &self.rows[self.order.rows[pair] as usize * d..][..d];
                let w = s.splat(self.weights.map_or(1.0, |w| w[pair]));
                for c in (0..even).step_by(S::LANES) {
                    let old = if j == 0 { s.zero() } else { s.at(y, c) };
                    s.put(y, c, s.fma(w, s.at(row, c), old));
                }
                if even < d {
                    let old = if j == 0 { s.zero() } else { s.tail(y, even, 0.0) };
                    s.put_tail(y, even, s.fma(w, s.tail(row, even, 0.0), old));
                }
            }
        }
    }
}

/// What [`expert_combine`] took, and the gradient of what it gave.
#[derive(Clone, Copy)]
pub struct CombineSaved<'a> {
    /// `[N * k, d]`.
    pub rows: &'a [f32],
    /// `[N, k]`.
    pub weights: &'a [f32],
    /// `[N, d]`.
    pub dy: &'a [f32],
}

/// The gradients of [`expert_combine`]; overwrites `d_rows` `[N * k, d]` and `d_weights` `[N, k]`.
pub fn expert_combine_backward(
    saved: &CombineSaved,
    order: &ExpertOrder,
    d: usize,
    d_rows: &mut [f32],
    d_weights: &mut [f32],
) {
    let what = "expert_combine_backward";
    order.check(what, d, saved.dy.len(), saved.rows.len());
    order.check(what, d, saved.dy.len(), d_rows.len());
    let n = order.pairs.len();
    for len in [saved.weights.len(), d_weights.len()] {
        assert_eq!(len, n, "{what}: {len} weights for {n} pairs");
    }
    if d == 0 {
        return d_weights.fill(0.0);
    }
    let (level, many) = (simd::level(), TASK.div_ceil(d));
    let tasks = d_rows.par_chunks_mut(many * d).zip(order.pairs.par_chunks(many)).zip(saved.rows.par_chunks(many * d));
    let slopes: Vec<Vec<f32>> = tasks
        .map(|((d_rows, pairs), rows)| simd::run(level, CombineBack { saved, rows, pairs, k: order.k, d, d_rows }))
        .collect();
    for (&pair, slope) in order.pairs.iter().zip(slopes.into_iter().flatten()) {
        d_weights[pair as usize] = slope;
    }
}

struct CombineBack<'a> {
    saved: &'a CombineSaved<'a>,
    rows: &'a [f32],
    pairs: &'a [u32],
    k: usize,
    d: usize,
    d_rows: &'a mut [f32],
}

impl Kernel for CombineBack<'_> {
    /// The gradient of each row's weight.
    type Out = Vec<f32>;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<f32> {
        let d = self.d;
        let even = d / S::LANES * S::LANES;
        let mut slopes = Vec::with_capacity(self.pairs.len());
        let rows = self.rows.chunks_exact(d).zip(self.d_rows.chunks_exact_mut(d));
        for ((row, d_row), &pair) in rows.zip(self.pairs) {
            let dy = &self.saved.dy[pair as usize / self.k * d..][..d];
            let w = s.splat(self.saved.weights[pair as usize]);
            let mut dot = s.zero();
            for c in (0..even).step_by(S::LANES) {
                let g = s.at(dy, c);
                dot = s.fma(g, s.at(row, c), dot);
                s.put(d_row, c, s.mul(w, g));
            }
            if even < d {
                let g = s.tail(dy, even, 0.0);
                dot = s.fma(g, s.tail(row, even, 0.0), dot);
                s.put_tail(d_row, even, s.mul(w, g));
            }
            slopes.push(s.reduce_sum(dot));
        }
        slopes
    }
}
