//! Root-mean-square and layer normalisation, alone or of a sum that is computed on the way.

mod backward;
mod forward;

use crate::simd::{Simd, each_vector};

/// Rows per task, and per partial sum of `dw` and `db`.
const ROWS: usize = 32;

/// `y = (x - mean) * rstd * w + b` per row, with `rstd = 1 / sqrt(mean((x - mean)²) + eps)`. `mean` is that of the row
/// where the norm centers (LayerNorm, Ba et al. 2016), else 0 (RMSNorm, Zhang and Sennrich 2019).
#[derive(Clone, Copy)]
pub struct Norm<'a> {
    /// `[D]`.
    pub w: &'a [f32],
    /// `[D]`; a norm that does not center has none.
    pub b: Option<&'a [f32]>,
    pub eps: f32,
    pub center: bool,
}

/// What the backward pass needs of each row, `[N]`; `mean` is empty where the norm does not center.
pub struct NormStats<'a> {
    pub mean: &'a mut [f32],
    pub rstd: &'a mut [f32],
}

/// What the forward pass was given and found, x `[N, D]`; `x` is the sum where there was one.
#[derive(Clone, Copy)]
pub struct NormSaved<'a> {
    pub x: &'a [f32],
    pub mean: &'a [f32],
    pub rstd: &'a [f32],
}

/// Where a norm's gradients go: `dx [N, D]`, `dw [D]`, and `db [D]` where it has a bias.
pub struct NormGrads<'a> {
    pub dx: &'a mut [f32],
    pub dw: &'a mut [f32],
    pub db: Option<&'a mut [f32]>,
}

/// The norm of each row: x and y `[N, D]`.
pub fn norm_forward(norm: &Norm, x: &[f32], y: &mut [f32], stats: NormStats<'_>) {
    forward::run(norm, x, [&mut [], y], stats);
}

/// `sum += x` and the norm of each row of the sum in one pass, all `[N, D]`.
pub fn add_norm_forward(norm: &Norm, x: &[f32], sum: &mut [f32], y: &mut [f32], stats: NormStats<'_>) {
    assert_eq!(sum.len(), x.len(), "add_norm_forward: sum has {} floats, x {}", sum.len(), x.len());
    forward::run(norm, x, [sum, y], stats);
}

/// The gradients of [`norm_forward`] for the gradient `dy` of its result; overwrites them. With `d_sum`, the gradients
/// of [`add_norm_forward`] for those of both its results: `dx` is then the gradient
/// of both summands alike.
pub fn norm_backward(norm: &Norm, saved: &NormSaved, dy: &[f32], d_sum: Option<&[f32]>, grads: NormGrads<'_>) {
    backward::run(norm, saved, dy, d_sum.unwrap_or(&[]), grads);
}

impl Norm<'_> {
    fn check(&self, what: &str, x: usize, mean: usize, rstd: usize) {
        let d = self.w.len();
        assert_eq!(x, rstd * d, "{what}: x has {x} floats, rstd x w {}", rstd * d);
        assert_eq!(mean, if self.center { rstd } else { 0 }, "{what}: mean has {mean} floats, rstd {rstd}");
        assert!(self.center || self.b.is_none(), "{what}: a norm that does not center has no bias");
        if let Some(b) = self.b {
            assert_eq!(b.len(), d, "{what}: b has {} floats, w {d}", b.len());
        }
    }
}

/// Both halves of a slice that is either empty or at least `at` long.
fn halves(x: &[f32], at: usize) -> (&[f32], &[f32]) {
    x.split_at(at.min(x.len()))
}

fn halves_mut(x: &mut [f32], at: usize) -> (&mut [f32], &mut [f32]) {
    let at = at.min(x.len());
    x.split_at_mut(at)
}

/// `sum += x`
#[inline(always)]
fn add<S: Simd>(s: S, x: &[f32], sum: &mut [f32]) {
    each_vector!(x.len(), W, j => {
        s.set::<W>(sum, j, s.add(s.get::<W>(x, j, 0.0), s.get::<W>(sum, j, 0.0)));
    });
}
