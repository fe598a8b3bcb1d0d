//! The forward pass, a row at a time.

use super::{Norm, NormStats, ROWS, halves, halves_mut};
use crate::simd::{self, Kernel, Level, Simd, each_vector};

/// `sum` is empty where nothing is added.
pub fn run(norm: &Norm, x: &[f32], [sum, y]: [&mut [f32]; 2], stats: NormStats<'_>) {
    let NormStats { mean, rstd } = stats;
    norm.check("norm_forward", x.len(), mean.len(), rstd.len());
    assert_eq!(y.len(), x.len(), "norm_forward: y has {} floats, x {}", y.len(), x.len());
    if norm.w.is_empty() {
        mean.fill(0.0);
        return rstd.fill(norm.eps.sqrt().recip());
    }
    split(simd::level(), Rows { norm: *norm, x, sum, y, mean, rstd });
}

struct Rows<'a> {
    norm: Norm<'a>,
    x: &'a [f32],
    sum: &'a mut [f32],
    y: &'a mut [f32],
    mean: &'a mut [f32],
    rstd: &'a mut [f32],
}

fn split(level: Level, rows: Rows<'_>) {
    let n = rows.rstd.len();
    if n <= ROWS {
        return match (rows.norm.center, rows.norm.b.is_some()) {
            (false, _) => simd::run(level, Forward::<false, false>(rows)),
            (true, false) => simd::run(level, Forward::<true, false>(rows)),
            (true, true) => simd::run(level, Forward::<true, true>(rows)),
        };
    }
    let mid = (n / 2).next_multiple_of(ROWS);
    let at = mid * rows.norm.w.len();
    let ((x, x2), (sum, sum2), (y, y2)) = (halves(rows.x, at), halves_mut(rows.sum, at), halves_mut(rows.y, at));
    let ((mean, mean2), (rstd, rstd2)) = (halves_mut(rows.mean, mid), halves_mut(rows.rstd, mid));
    let norm = rows.norm;
    rayon::join(
        || split(level, Rows { norm, x, sum, y, mean, rstd }),
        || split(level, Rows { norm, x: x2, sum: sum2, y: y2, mean: mean2, rstd: rstd2 }),
    );
}

struct Forward<'a, const CENTER: bool, const BIAS: bool>(Rows<'a>);

impl<const CENTER: bool, const BIAS: bool> Kernel for Forward<'_, CENTER, BIAS> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Rows { norm, x, sum, y, mean, rstd } = self.0;
        let (w, b, d) = (norm.w, norm.b.unwrap_or(&[]), norm.w.len());
        for i in 0..rstd.len() {
            let mut x = &x[i * d..][..d];
            if !sum.is_empty() {
                let sum = &mut sum[i * d..][..d];
                super::add(s, x, sum);
                x = sum;
            }
            let center = if CENTER { row_sum(s, x) / d as f32 } else { 0.0 };
            rstd[i] = (square_sum::<S, CENTER>(s, x, center) / d as f32 + norm.eps).sqrt().recip();
            if CENTER {
                mean[i] = center;
            }
            let (scale, center) = (s.splat(rstd[i]), s.splat(center));
            let y = &mut y[i * d..][..d];
            each_vector!(d, W, j => {
                let x = s.get::<W>(x, j, 0.0);
                let unit = s.mul(if CENTER { s.sub(x, center) } else { x }, scale);
                let w = s.get::<W>(w, j, 0.0);
                s.set::<W>(y, j, if BIAS { s.fma(unit, w, s.get::<W>(b, j, 0.0)) } else { s.mul(unit, w) });
            });
        }
    }
}

#[inline(always)]
fn row_sum<S: Simd>(s: S, x: &[f32]) -> f32 {
    let mut sum = s.zero();
    each_vector!(x.len(), W, j => {
        sum = s.add(sum, s.get::<W>(x, j, 0.0));
    });
    s.reduce_sum(sum)
}

/// The sum of `(x - center)²`.
#[inline(always)]
fn square_sum<S: Simd, const CENTER: bool>(s: S, x: &[f32], center: f32) -> f32 {
    let shift = s.splat(center);
    let mut sum = s.zero();
    each_vector!(x.len(), W, j => {
        let v = s.get::<W>(x, j, center);
        let v = if CENTER { s.sub(v, shift) } else { v };
        sum = s.fma(v, v, sum);
    });
    s.reduce_sum(sum)
}
