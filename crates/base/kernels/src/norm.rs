//! Root-mean-square normalisation.

use crate::scratch;
use crate::simd::{self, Kernel, Simd};
use rayon::prelude::*;

/// Rows per task, and per partial sum of `dw`.
const ROWS: usize = 32;

/// `y = x * rstd * w` with `rstd = 1 / sqrt(mean(x²) + eps)` per row: x, y `[N, D]`, w `[D]`, rstd `[N]`.
pub fn rms_norm_forward(x: &[f32], w: &[f32], eps: f32, y: &mut [f32], rstd: &mut [f32]) {
    let d = w.len();
    assert_eq!(x.len(), rstd.len() * d, "rms_norm_forward: x has {} floats, rstd x w {}", x.len(), rstd.len() * d);
    assert_eq!(y.len(), x.len(), "rms_norm_forward: y has {} floats, x {}", y.len(), x.len());
    if d == 0 {
        return rstd.fill(eps.sqrt().recip());
    }
    let level = simd::level();
    let tasks = x.par_chunks(ROWS * d).zip(y.par_chunks_mut(ROWS * d)).zip(rstd.par_chunks_mut(ROWS));
    tasks.for_each(|((x, y), rstd)| simd::run(level, Forward { x, w, eps, y, rstd }));
}

struct Forward<'a> {
    x: &'a [f32],
    w: &'a [f32],
    eps: f32,
    y: &'a mut [f32],
    rstd: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let d = self.w.len();
        let even = d / S::LANES * S::LANES;
        for ((x, y), rstd) in self.x.chunks_exact(d).zip(self.y.chunks_exact_mut(d)).zip(self.rstd) {
            let mut sum = s.zero();
            for i in (0..even).step_by(S::LANES) {
                let v = s.at(x, i);
                sum = s.fma(v, v, sum);
            }
            if even < d {
                let v = s.tail(x, even, 0.0);
                sum = s.fma(v, v, sum);
            }
            *rstd = (s.reduce_sum(sum) / d as f32 + self.eps).sqrt().recip();
            let scale = s.splat(*rstd);
            for i in (0..even).step_by(S::LANES) {
                s.put(y, i, s.mul(s.mul(s.at(x, i), scale), s.at(self.w, i)));
            }
            if even < d {
                s.put_tail(y, even, s.mul(s.mul(s.tail(x, even, 0.0), scale), s.tail(self.w, even, 0.0)));
            }
        }
    }
}

/// The gradients of [`rms_norm_forward`] for the gradient `dy` of its result; overwrites `dx` and `dw`.
pub fn rms_norm_backward(x: &[f32], w: &[f32], rstd: &[f32], dy: &[f32], dx: &mut [f32], dw: &mut [f32]) {
    let d = w.len();
    assert_eq!(x.len(), rstd.len() * d, "rms_norm_backward: x has {} floats, rstd x w {}", x.len(), rstd.len() * d);
    assert_eq!(dy.len(), x.len(), "rms_norm_backward: dy has {} floats, x {}", dy.len(), x.len());
    assert_eq!(dx.len(), x.len(), "rms_norm_backward: dx has {} floats, x {}", dx.len(), x.len());
    assert_eq!(dw.len(), d, "rms_norm_backward: dw has {} floats, w {d}", dw.len());
    dw.fill(0.0);
    if d == 0 {
        return;
    }
    let level = simd::level();
    scratch::with(rstd.len().div_ceil(ROWS) * d, |parts| {
        let rows = (x.par_chunks(ROWS * d), dy.par_chunks(ROWS * d), rstd.par_chunks(ROWS));
        let tasks = (rows, dx.par_chunks_mut(ROWS * d), parts.par_chunks_mut(d)).into_par_iter();
        tasks.for_each(|((x, dy, rstd), dx, dw)| {
            dw.fill(0.0);
            simd::run(level, Backward { x, w, rstd, dy, dx, dw });
        });
        for part in parts.chunks_exact(d) {
            dw.iter_mut().zip(part).for_each(|(sum, p)| *sum += p);
        }
    });
}

struct Backward<'a> {
    x: &'a [f32],
    w: &'a [f32],
    rstd: &'a [f32],
    dy: &'a [f32],
    dx: &'a mut [f32],
    dw: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (w, d) = (self.w, self.w.len());
        let even = d / S::LANES * S::LANES;
        let rows = self.x.chunks_exact(d).zip(self.dy.chunks_exact(d)).zip(self.rstd);
        for (((x, dy), &rstd), dx) in rows.zip(self.dx.chunks_exact_mut(d)) {
            let scale = s.splat(rstd);
            let mut dot = s.zero();
            for i in (0..even).step_by(S::LANES) {
                let (x, g) = (s.at(x, i), s.at(dy, i));
                let gx = s.mul(g, x);
                dot = s.fma(gx, s.at(w, i), dot);
                s.put(self.dw, i, s.fma(gx, scale, s.at(self.dw, i)));
            }
            if even < d {
                let gx = s.mul(s.tail(dy, even, 0.0), s.tail(x, even, 0.0));
                dot = s.fma(gx, s.tail(w, even, 0.0), dot);
                s.put_tail(self.dw, even, s.fma(gx, scale, s.tail(self.dw, even, 0.0)));
            }
            // dx = rstd * (dy * w - x * rstd² * mean(dy * w * x))
            let back = s.splat(-s.reduce_sum(dot) / d as f32 * rstd * rstd);
            for i in (0..even).step_by(S::LANES) {
                let g = s.mul(s.at(dy, i), s.at(w, i));
                s.put(dx, i, s.mul(scale, s.fma(s.at(x, i), back, g)));
            }
            if even < d {
                let g = s.mul(s.tail(dy, even, 0.0), s.tail(w, even, 0.0));
                s.put_tail(dx, even, s.mul(scale, s.fma(s.tail(x, even, 0.0), back, g)));
            }
        }
    }
}
