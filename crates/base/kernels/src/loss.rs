//! Cross-entropy of a linear head, a chunk of rows at a time: the logits of the whole batch never exist.

use crate::gemm::{Factor, How, Mat, PackedB, Precision, matmul_strided, matmul_with};
use crate::simd::Level;
use crate::softmax::{row_lse, row_softmax, row_sum};
use crate::{room, scratch, simd};
use rayon::prelude::*;

/// A target that counts for nothing.
pub const IGNORE: i32 = -100;

/// What is added to the negative log-likelihood of the wanted token. With logits z, their log-sum-exp and s the
/// smoothing, a row's loss is `lse - (1 - s) z[target] - s mean(z) + z_loss lse²`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossForm {
    /// The share of the target that all tokens divide equally (Szegedy et al. 2016), as torch counts it.
    pub label_smoothing: f32,
    /// The weight of `lse²`, which keeps the logits from drifting (Chowdhery et al. 2022).
    pub z_loss: f32,
}

/// The head's input `x [N, d_model]`, its weights `w [vocab, d_model]`, and the token wanted at each row `[N]`.
#[derive(Clone, Copy)]
pub struct LinearLoss<'a> {
    pub x: &'a [f32],
    pub w: &'a [f32],
    pub targets: &'a [i32],
    pub d_model: usize,
    pub vocab: usize,
    /// What the products multiply.
    pub precision: Precision,
    pub form: LossForm,
}

/// `nll[i] = lse[i] - logit of targets[i]` and what [`LossForm`] adds, 0 where ignored; `lse[i]` = log of the sum of the exponentials of row
/// `i`'s logits, 0 where ignored. Both `[N]`.
pub fn linear_nll_forward(l: &LinearLoss, nll: &mut [f32], lse: &mut [f32]) {
    l.check("linear_nll_forward", &[("nll", nll.len()), ("lse", lse.len())]);
    nll.fill(0.0);
    lse.fill(0.0);
    let level = simd::level();
    let weights = l.factor(l.weights().t());
    l.for_chunks(|rows, x, logits| {
        let x = Mat::new(x, rows.len(), l.d_model);
        matmul_strided(logits, l.stride(), x, weights.as_factor(), l.how());
        let found: Vec<(f32, f32)> = rows
            .par_iter()
            .zip(logits.par_chunks(l.stride()))
            .map(|(&i, z)| {
                let z = &z[..l.vocab];
                let lse = row_lse(level, z);
                (l.form.loss(level, z, lse, l.targets[i] as usize), lse)
            })
            .collect();
        for (&i, found) in rows.iter().zip(found) {
            (nll[i], lse[i]) = found;
        }
    });
}

/// The gradients of [`linear_nll_forward`] for the gradient `d_nll [N]` of `nll`; overwrites `dx` and `dw`.
/// The logits are computed again.
pub fn linear_nll_backward(l: &LinearLoss, lse: &[f32], d_nll: &[f32], dx: &mut [f32], dw: &mut [f32]) {
    l.check("linear_nll_backward", &[("lse", lse.len()), ("d_nll", d_nll.len())]);
    l.gradients(d_nll, Some(lse), dx, dw, |_, _| {});
}

/// [`linear_nll_forward`] and the gradients of `sum(weights[i] * nll[i])` in one pass; overwrites `nll`, `dx`, `dw`.
pub fn linear_cross_entropy(l: &LinearLoss, weights: &[f32], nll: &mut [f32], dx: &mut [f32], dw: &mut [f32]) {
    l.check("linear_cross_entropy", &[("weights", weights.len()), ("nll", nll.len())]);
    nll.fill(0.0);
    l.gradients(weights, None, dx, dw, |i, x| nll[i] = x);
}

/// Floats of one chunk's logits, about, and the bounds on its rows: the gradient of the weights is read and written once
/// for each chunk.
const CHUNK: usize = 4 << 20;
const MIN_ROWS: usize = 512;
const MAX_ROWS: usize = 1024;

/// How many of `rows` rows have their logits in memory at once.
pub fn loss_rows(rows: usize, vocab: usize) -> usize {
    (CHUNK / vocab.max(1)).clamp(MIN_ROWS, MAX_ROWS).min(rows)
}

/// In more chunks than this the weights are packed once and stay packed.
const PACKED_CHUNKS: usize = 2;

/// The weights as a factor of the products, packed where many chunks take them.
enum Weights<'a> {
    Plain(Mat<'a>),
    Packed(PackedB),
}

impl Weights<'_> {
    fn as_factor(&self) -> Factor<'_> {
        match self {
            Weights::Plain(weights) => Factor::Plain(*weights),
            Weights::Packed(weights) => Factor::Packed(weights),
        }
    }
}

/// Whether the loss of `rows` rows packs the weights, twice at 16 bits a number.
pub fn loss_packs(rows: usize, vocab: usize) -> bool {
    rows > PACKED_CHUNKS * loss_rows(rows, vocab)
}

impl LossForm {
    /// The loss of a row of logits.
    fn loss(&self, level: Level, z: &[f32], lse: f32, target: usize) -> f32 {
        let Self { label_smoothing: s, z_loss } = *self;
        let mut loss = lse - z[target];
        if s != 0.0 {
            loss += s * (z[target] - row_sum(level, z) / z.len() as f32);
        }
        if z_loss != 0.0 {
            loss += z_loss * lse * lse;
        }
        loss
    }

    /// Turns a row of logits into `weight` times the slope of its loss.
    fn slope(&self, level: Level, z: &mut [f32], lse: f32, target: usize, weight: f32) {
        let Self { label_smoothing: s, z_loss } = *self;
        row_softmax(level, z, lse, weight * (1.0 + 2.0 * z_loss * lse));
        if s != 0.0 {
            let share = weight * s / z.len() as f32;
            z.iter_mut().for_each(|z| *z -= share);
        }
        z[target] -= weight * (1.0 - s);
    }
}

impl LinearLoss<'_> {
    fn weights(&self) -> Mat<'_> {
        Mat::new(self.w, self.vocab, self.d_model)
    }

    fn factor<'a>(&self, weights: Mat<'a>) -> Weights<'a> {
        if loss_packs(self.targets.len(), self.vocab) {
            return Weights::Packed(PackedB::new(weights, self.precision));
        }
        Weights::Plain(weights)
    }

    fn how<'a>(&self) -> How<'a> {
        How { precision: self.precision, ..How::default() }
    }

    /// Floats from one row of logits to the next: no power of two, for rows that far apart compete for the same few
    /// lines of a cache when columns are packed.
    fn stride(&self) -> usize {
        self.vocab.next_multiple_of(16) + 16
    }

    fn check(&self, what: &str, per_row: &[(&str, usize)]) {
        let (n, d, v) = (self.targets.len(), self.d_model, self.vocab);
        assert_eq!(self.x.len(), n * d, "{what}: x has {} floats, {n} targets x {d}", self.x.len());
        assert_eq!(self.w.len(), v * d, "{what}: w has {} floats, vocab {v} x {d}", self.w.len());
        for (name, len) in per_row {
            assert_eq!(*len, n, "{what}: {name} has {len} elements, but there are {n} targets");
        }
        for (i, &t) in self.targets.iter().enumerate() {
            let inside = t == IGNORE || (t >= 0 && (t as usize) < v);
            assert!(inside, "{what}: target {t} at row {i} is outside the vocabulary of {v}");
        }
    }

    /// Calls `f` with the rows that count, their inputs side by side, and room for their logits.
    fn for_chunks(&self, mut f: impl FnMut(&[usize], &[f32], &mut [f32])) {
        let d = self.d_model;
        let active: Vec<usize> = (0..self.targets.len()).filter(|&i| self.targets[i] != IGNORE).collect();
        let rows = loss_rows(active.len(), self.vocab);
        // Not working memory that the thread keeps: later gradients take its place.
        let mut logits = room(rows * self.stride());
        scratch::with(rows * d, |x| {
            for chunk in active.chunks(rows.max(1)) {
                for (at, &i) in chunk.iter().enumerate() {
                    x[at * d..][..d].copy_from_slice(&self.x[i * d..][..d]);
                }
                f(chunk, &x[..chunk.len() * d], &mut logits[..chunk.len() * self.stride()]);
            }
        });
    }

    /// `dx` and `dw` for `weights` on the rows' losses; hands each row's loss to `report`.
    fn gradients(
        &self,
        weights: &[f32],
        lse: Option<&[f32]>,
        dx: &mut [f32],
        dw: &mut [f32],
        mut report: impl FnMut(usize, f32),
    ) {
        let d = self.d_model;
        assert_eq!(dx.len(), self.x.len(), "linear loss: dx has {} floats, x {}", dx.len(), self.x.len());
        assert_eq!(dw.len(), self.w.len(), "linear loss: dw has {} floats, w {}", dw.len(), self.w.len());
        dx.par_chunks_mut(1 << 16).for_each(|dx| dx.fill(0.0));
        let level = simd::level();
        let (forward, backward) = (self.factor(self.weights().t()), self.factor(self.weights()));
        let mut accumulate = false;
        self.for_chunks(|rows, x, logits| {
            let x = Mat::new(x, rows.len(), d);
            matmul_strided(logits, self.stride(), x, forward.as_factor(), self.how());
            let losses: Vec<f32> = rows
                .par_iter()
                .zip(logits.par_chunks_mut(self.stride()))
                .map(|(&i, z)| {
                    let z = &mut z[..self.vocab];
                    let (target, weight) = (self.targets[i] as usize, weights[i]);
                    let lse = lse.map_or_else(|| row_lse(level, z), |lse| lse[i]);
                    let loss = self.form.loss(level, z, lse, target);
                    if weight == 0.0 {
                        z.fill(0.0);
                    } else {
                        self.form.slope(level, z, lse, target, weight);
                    }
                    loss
                })
                .collect();
            rows.iter().zip(losses).for_each(|(&i, loss)| report(i, loss));
            let dz = Mat::strided(logits, rows.len(), self.vocab, self.stride());
            matmul_with(dw, dz.t(), x, How { accumulate, ..self.how() });
            accumulate = true;
            scratch::with(rows.len() * d, |part| {
                matmul_strided(part, d, dz, backward.as_factor(), self.how());
                for (part, &i) in part.chunks(d.max(1)).zip(rows) {
                    dx[i * d..][..d].copy_from_slice(part);
                }
            });
        });
        if !accumulate {
            dw.fill(0.0);
        }
    }
}
