//! A second moment kept as the product of a column and a row (Shazeer and Stern 2018).

use crate::scratch;
use crate::simd::{self, Kernel, Simd};
use rayon::prelude::*;

/// The settings of one Adafactor step.
#[derive(Clone, Copy, Debug)]
pub struct Adafactor {
    /// The largest relative step; the step is `min(lr, 1 / sqrt(step))` of the parameter's root mean square.
    pub lr: f32,
    /// The second moment decays by `1 - step^beta2_decay`.
    pub beta2_decay: f32,
    /// The least root of a second moment.
    pub eps: f32,
    /// The least root mean square that a parameter is taken to have.
    pub eps_scale: f32,
    /// The largest root mean square of the gradient over its moment's root; larger ones are scaled down.
    pub clip: f32,
    /// Decoupled: `p -= lr * weight_decay * p`.
    pub weight_decay: f32,
    /// Counts from 1.
    pub step: u64,
    /// Multiplies every gradient first.
    pub grad_scale: f32,
}

impl Adafactor {
    /// The weight of the newest squares.
    fn weight(&self) -> f32 {
        assert!(self.step >= 1, "adafactor: step counts from 1, got {}", self.step);
        (self.step as f64).powf(f64::from(self.beta2_decay)) as f32
    }

    /// The learning rate of the whole parameter, from the sums of the squares of its values and of the clipped ratio.
    fn rate(&self, p_squares: f64, u_squares: f64, len: usize) -> f32 {
        let relative = f64::from(self.lr).min(1.0 / (self.step as f64).sqrt());
        let size = at_least(f64::from(self.eps_scale), (p_squares / len as f64).sqrt());
        let excess = at_least(1.0, (u_squares / len as f64).sqrt() / f64::from(self.clip));
        (relative * size / excess) as f32
    }
}

/// `x`, or `least` where that is more; a NaN stays one.
fn at_least(least: f64, x: f64) -> f64 {
    if x < least { least } else { x }
}

/// One step of a vector, as `torch.optim.Adafactor`: parameters `p`, gradients `g`, second moment `v`. On the calling
/// thread: vectors are short.
pub fn adafactor_vector(p: &mut [f32], g: &[f32], v: &mut [f32], h: &Adafactor) {
    let n = p.len();
    assert!(g.len() == n && v.len() == n, "adafactor: {n} parameters, {} gradients, {} moments", g.len(), v.len());
    let (weight, most) = (h.weight(), 1.0 / h.eps);
    let ratio = |g: f32, v: f32| g * h.grad_scale * (1.0 / v.sqrt()).clamp(0.0, most);
    let (mut p_squares, mut u_squares) = (0.0, 0.0);
    for i in 0..n {
        let g_scaled = g[i] * h.grad_scale;
        v[i] = (1.0 - weight) * v[i] + weight * g_scaled * g_scaled;
        p_squares += f64::from(p[i]).powi(2);
        u_squares += f64::from(ratio(g[i], v[i])).powi(2);
    }
    let (rate, decay) = (h.rate(p_squares, u_squares, n), super::decay(h.lr, h.weight_decay));
    for i in 0..n {
        p[i] = p[i] * decay - rate * ratio(g[i], v[i]);
    }
}

/// Parts that a matrix is cut into at most, each with its own sums over columns.
const PARTS: usize = 64;

/// One step of a matrix, as `torch.optim.Adafactor`: parameters `p` and gradients `g` `[R, C]`, the mean squares of the
/// gradient's rows `row_var` `[R]` and columns `col_var` `[C]`. Reads the gradient three times; the second moment and
/// the ratio never exist as matrices.
pub fn adafactor_matrix(p: &mut [f32], g: &[f32], row_var: &mut [f32], col_var: &mut [f32], h: &Adafactor) {
    let (rows, cols) = (row_var.len(), col_var.len());
    assert!(
        p.len() == rows * cols && g.len() == p.len(),
        "adafactor: {} parameters and {} gradients, but moments of [{rows}, {cols}]",
        p.len(),
        g.len()
    );
    let weight = h.weight();
    if p.is_empty() {
        return;
    }
    let level = simd::level();
    let block = rows.div_ceil(PARTS).max(8);
    let (parts, stretch, scale) = (rows.div_ceil(block), block * cols, h.grad_scale);
    scratch::with(parts * cols + rows + cols, |buffer| {
        let (sums, rest) = buffer.split_at_mut(parts * cols);
        let (row, col) = rest.split_at_mut(rows);
        let tasks =
            (p.par_chunks(stretch), g.par_chunks(stretch), row.par_chunks_mut(block), sums.par_chunks_mut(cols));
        let squares = |(p, g, rows, cols)| simd::run(level, Squares { p, g, rows, cols, scale });
        let p_squares = in_order(tasks.into_par_iter().map(squares));
        col.fill(0.0);
        for part in sums.chunks_exact(cols) {
            col.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
        }
        remember(row_var, row, weight / cols as f32, weight);
        remember(col_var, col, weight / rows as f32, weight);
        // 1 / sqrt(row_var col_var / mean(row_var)) as a product of two factors.
        let mean = row_var.iter().map(|&x| f64::from(x)).sum::<f64>() / rows as f64;
        let mean = at_least(f64::from(h.eps), mean);
        row.iter_mut().zip(&*row_var).for_each(|(r, &v)| *r = (mean / f64::from(v)).sqrt() as f32);
        col.iter_mut().zip(&*col_var).for_each(|(c, &v)| *c = 1.0 / v.sqrt());

        let (row, col, most) = (&*row, &*col, 1.0 / h.eps);
        let tasks = (g.par_chunks(stretch), row.par_chunks(block)).into_par_iter();
        let ratios = |(g, row)| simd::run(level, Ratios { g, ratio: Ratio { row, col, scale, most } });
        let rate = h.rate(p_squares, in_order(tasks.map(ratios)), rows * cols);
        let decay = super::decay(h.lr, h.weight_decay);
        let tasks = (p.par_chunks_mut(stretch), g.par_chunks(stretch), row.par_chunks(block)).into_par_iter();
        tasks.for_each(|(p, g, row)| {
            simd::run(level, Apply { p, g, ratio: Ratio { row, col, scale, most }, rate, decay });
        });
    });
}

/// The sum in the order of the parts, whichever is done first.
fn in_order(parts: impl IndexedParallelIterator<Item = f64>) -> f64 {
    parts.collect::<Vec<f64>>().iter().sum()
}

/// `moment = (1 - weight) * moment + factor * sum`
fn remember(moment: &mut [f32], sums: &[f32], factor: f32, weight: f32) {
    moment.iter_mut().zip(sums).for_each(|(m, &s)| *m = (1.0 - weight) * *m + factor * s);
}

/// Sums of the gradient's squares over each row and over the columns of a block; returns the sum of the parameters'
/// squares.
struct Squares<'a> {
    p: &'a [f32],
    g: &'a [f32],
    rows: &'a mut [f32],
    cols: &'a mut [f32],
    scale: f32,
}

impl Kernel for Squares<'_> {
    type Out = f64;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let d = self.cols.len();
        let (even, scale) = (d / S::LANES * S::LANES, s.splat(self.scale));
        self.cols.fill(0.0);
        let mut p_squares = 0.0;
        for ((p, g), row) in self.p.chunks_exact(d).zip(self.g.chunks_exact(d)).zip(self.rows) {
            let (mut p_sum, mut g_sum) = (s.zero(), s.zero());
            for i in (0..even).step_by(S::LANES) {
                let (p, g) = (s.at(p, i), s.mul(s.at(g, i), scale));
                p_sum = s.fma(p, p, p_sum);
                g_sum = s.fma(g, g, g_sum);
                s.put(self.cols, i, s.fma(g, g, s.at(self.cols, i)));
            }
            if even < d {
                let (p, g) = (s.tail(p, even, 0.0), s.mul(s.tail(g, even, 0.0), scale));
                p_sum = s.fma(p, p, p_sum);
                g_sum = s.fma(g, g, g_sum);
                s.put_tail(self.cols, even, s.fma(g, g, s.tail(self.cols, even, 0.0)));
            }
            *row = s.reduce_sum(g_sum);
            p_squares += f64::from(s.reduce_sum(p_sum));
        }
        p_squares
    }
}

/// The gradient over the root of its second moment, which is at least 1 / `most`.
#[derive(Clone, Copy)]
struct Ratio<'a> {
    row: &'a [f32],
    col: &'a [f32],
    scale: f32,
    most: f32,
}

impl Ratio<'_> {
    #[inline(always)]
    fn of<S: Simd>(&self, s: S, g: S::V, row: f32, col: S::V) -> S::V {
        let inverse = s.min(s.splat(self.most), s.mul(s.splat(row), col));
        s.mul(s.mul(g, s.splat(self.scale)), inverse)
    }
}

/// The sum of the squared ratios of a block.
struct Ratios<'a> {
    g: &'a [f32],
    ratio: Ratio<'a>,
}

impl Kernel for Ratios<'_> {
    type Out = f64;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let (u, d) = (&self.ratio, self.ratio.col.len());
        let even = d / S::LANES * S::LANES;
        let mut sum = 0.0;
        for (g, &row) in self.g.chunks_exact(d).zip(u.row) {
            let mut squares = s.zero();
            for i in (0..even).step_by(S::LANES) {
                let x = u.of(s, s.at(g, i), row, s.at(u.col, i));
                squares = s.fma(x, x, squares);
            }
            if even < d {
                let x = u.of(s, s.tail(g, even, 0.0), row, s.tail(u.col, even, 1.0));
                squares = s.fma(x, x, squares);
            }
            sum += f64::from(s.reduce_sum(squares));
        }
        sum
    }
}

/// `p = decay * p - rate * ratio`
struct Apply<'a> {
    p: &'a mut [f32],
    g: &'a [f32],
    ratio: Ratio<'a>,
    rate: f32,
    decay: f32,
}

impl Kernel for Apply<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (u, d) = (&self.ratio, self.ratio.col.len());
        let (even, decay, rate) = (d / S::LANES * S::LANES, s.splat(self.decay), s.splat(-self.rate));
        for ((p, g), &row) in self.p.chunks_exact_mut(d).zip(self.g.chunks_exact(d)).zip(u.row) {
            for i in (0..even).step_by(S::LANES) {
                let x = u.of(s, s.at(g, i), row, s.at(u.col, i));
                s.put(p, i, s.fma(rate, x, s.mul(s.at(p, i), decay)));
            }
            if even < d {
                let x = u.of(s, s.tail(g, even, 0.0), row, s.tail(u.col, even, 1.0));
                s.put_tail(p, even, s.fma(rate, x, s.mul(s.tail(p, even, 0.0), decay)));
            }
        }
    }
}
