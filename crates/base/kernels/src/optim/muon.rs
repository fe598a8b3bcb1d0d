//! Momentum made orthogonal by Newton and Schulz's iteration (Jordan et al. 2024), for hidden matrices.

use super::moment::Moment;
use super::pass::{Rule, pass};
use super::sum_of_squares;
use crate::map::{Map, map};
use crate::simd::Simd;
use crate::{Mat, matmul, scratch};

/// The iteration `x = a x + b (x xᵀ) x + c (x xᵀ)² x`: chosen to lift small singular values fast, not to converge.
pub const MUON_COEFFICIENTS: [f32; 3] = [3.4445, -4.7750, 2.0315];
/// How often it is applied.
pub const MUON_STEPS: usize = 5;
/// The least norm that the direction is divided by.
pub const MUON_EPS: f64 = 1e-7;

/// The settings of one Muon step.
#[derive(Clone, Copy, Debug)]
pub struct Muon {
    pub lr: f32,
    /// Decay of the momentum, which is a running mean.
    pub momentum: f32,
    /// Looks ahead: `g + momentum * (m - g)` in place of `m`.
    pub nesterov: bool,
    /// Multiplies the learning rate of the orthogonal direction, not that of weight decay; see [`Muon::original`].
    pub lr_ratio: f32,
    /// Decoupled: `p -= lr * weight_decay * p`.
    pub weight_decay: f32,
    /// Counts from 1.
    pub step: u64,
    /// Multiplies every gradient first.
    pub grad_scale: f32,
}

impl Muon {
    /// `lr_ratio` as Jordan et al. have it: sqrt(rows / cols) for tall matrices, else 1.
    pub fn original(rows: usize, cols: usize) -> f32 {
        (rows as f64 / cols.max(1) as f64).max(1.0).sqrt() as f32
    }

    /// `lr_ratio` that gives steps the size of AdamW's (Liu et al. 2025): 0.2 sqrt(max(rows, cols)).
    pub fn match_rms_adamw(rows: usize, cols: usize) -> f32 {
        (0.2 * (rows.max(cols) as f64).sqrt()) as f32
    }
}

/// One step as `torch.optim.Muon`: parameters `p` and momentum `m` `[rows, cols]`. All products are in f32.
pub fn muon<T: Moment>(p: &mut [f32], g: &[f32], m: &mut [T], (rows, cols): (usize, usize), h: &Muon) {
    assert_eq!(p.len(), rows * cols, "muon: {} parameters are not [{rows}, {cols}]", p.len());
    let (n, k) = (p.len(), rows.min(cols));
    scratch::with(2 * n + 2 * k * k, |buffer| {
        let (x, rest) = buffer.split_at_mut(n);
        let (y, rest) = rest.split_at_mut(n);
        let (gram, square) = rest.split_at_mut(k * k);
        pass("muon", Direction(*h), x, g, [m], h.step);
        let norm = sum_of_squares(x).sqrt();
        let scale = 1.0 / if norm < MUON_EPS { MUON_EPS } else { norm };
        map(Scale(scale as f32), [], [x]);
        let (mut from, mut to) = (x, y);
        for _ in 0..MUON_STEPS {
            newton_schulz(from, to, gram, square, (rows, cols));
            (from, to) = (to, from);
        }
        let step = Step { lr: h.lr * h.lr_ratio, decay: super::decay(h.lr, h.weight_decay) };
        map(step, [from], [p]);
    });
}

/// One iteration from `x` to `y`, `[rows, cols]`; `gram` and `square` are `[k, k]` with k the shorter side.
fn newton_schulz(x: &[f32], y: &mut [f32], gram: &mut [f32], square: &mut [f32], (rows, cols): (usize, usize)) {
    let (x, k) = (Mat::new(x, rows, cols), rows.min(cols));
    let wide = rows <= cols;
    if wide {
        matmul(gram, x, x.t(), false);
    } else {
        matmul(gram, x.t(), x, false);
    }
    matmul(square, Mat::new(gram, k, k), Mat::new(gram, k, k), false);
    // The polynomial of the Gram matrix, the identity included, so that one product is left.
    let [a, b, c] = MUON_COEFFICIENTS;
    map(Blend(b, c), [square], [gram]);
    for i in 0..k {
        gram[i * k + i] += a;
    }
    let polynomial = Mat::new(gram, k, k);
    if wide {
        matmul(y, polynomial, x, false);
    } else {
        matmul(y, x, polynomial, false);
    }
}

/// Updates the momentum and writes the direction where [`pass`] has the parameter.
#[derive(Clone, Copy)]
struct Direction(Muon);

impl Rule<1> for Direction {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, g: S::V, _: S::V, [m]: [S::V; 1]) -> (S::V, [S::V; 1]) {
        let g = s.mul(g, s.splat(self.0.grad_scale));
        let m = s.fma(s.splat(1.0 - self.0.momentum), s.sub(g, m), m);
        let direction = if self.0.nesterov { s.fma(s.splat(self.0.momentum), s.sub(m, g), g) } else { m };
        (direction, [m])
    }
}

#[derive(Clone, Copy)]
struct Scale(f32);

impl Map<0, 1> for Scale {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, _: [S::V; 0], [x]: [S::V; 1]) -> [S::V; 1] {
        [s.mul(x, s.splat(self.0))]
    }
}

/// `y = b * y + c * x`
#[derive(Clone, Copy)]
struct Blend(f32, f32);

impl Map<1, 1> for Blend {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, [x]: [S::V; 1], [y]: [S::V; 1]) -> [S::V; 1] {
        [s.fma(s.splat(self.0), y, s.mul(s.splat(self.1), x))]
    }
}

/// `p = decay * p - lr * x`
#[derive(Clone, Copy)]
struct Step {
    lr: f32,
    decay: f32,
}

impl Map<1, 1> for Step {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, [x]: [S::V; 1], [p]: [S::V; 1]) -> [S::V; 1] {
        [s.fma(s.splat(-self.lr), x, s.mul(p, s.splat(self.decay)))]
    }
}
