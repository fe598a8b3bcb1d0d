//! The backward pass, a row at a time.

use super::{Norm, NormGrads, NormSaved, ROWS, halves, halves_mut};
use crate::scratch;
use crate::simd::{self, Kernel, Level, Simd, each_vector};

/// `d_sum` is empty where nothing was added.
pub fn run(norm: &Norm, saved: &NormSaved, dy: &[f32], d_sum: &[f32], grads: NormGrads<'_>) {
    let NormSaved { x, mean, rstd } = *saved;
    let NormGrads { dx, dw, mut db } = grads;
    let d = norm.w.len();
    norm.check("norm_backward", x.len(), mean.len(), rstd.len());
    assert_eq!(dy.len(), x.len(), "norm_backward: dy has {} floats, x {}", dy.len(), x.len());
    assert_eq!(dx.len(), x.len(), "norm_backward: dx has {} floats, x {}", dx.len(), x.len());
    assert!(
        d_sum.is_empty() || d_sum.len() == x.len(),
        "norm_backward: d_sum has {} floats, x {}",
        d_sum.len(),
        x.len()
    );
    assert_eq!(dw.len(), d, "norm_backward: dw has {} floats, w {d}", dw.len());
    let bias = db.as_ref().map(|db| db.len());
    assert_eq!(bias, norm.b.map(<[f32]>::len), "norm_backward: db and b differ");
    dw.fill(0.0);
    if let Some(db) = &mut db {
        db.fill(0.0);
    }
    if x.is_empty() {
        return;
    }
    let width = if db.is_some() { 2 * d } else { d };
    scratch::with(rstd.len().div_ceil(ROWS) * width, |parts| {
        split(simd::level(), Rows { norm: *norm, saved: *saved, dy, d_sum, dx, parts }, width);
        for part in parts.chunks_exact(width) {
            let (part_w, part_b) = part.split_at(d);
            dw.iter_mut().zip(part_w).for_each(|(sum, p)| *sum += p);
            if let Some(db) = &mut db {
                db.iter_mut().zip(part_b).for_each(|(sum, p)| *sum += p);
            }
        }
    });
}

struct Rows<'a> {
    norm: Norm<'a>,
    saved: NormSaved<'a>,
    dy: &'a [f32],
    d_sum: &'a [f32],
    dx: &'a mut [f32],
    /// For each task its share of `dw` and, where there is a bias, of `db`.
    parts: &'a mut [f32],
}

fn split(level: Level, rows: Rows<'_>, width: usize) {
    let n = rows.saved.rstd.len();
    if n <= ROWS {
        return match (rows.norm.center, rows.norm.b.is_some()) {
            (false, _) => simd::run(level, Backward::<false, false>(rows)),
            (true, false) => simd::run(level, Backward::<true, false>(rows)),
            (true, true) => simd::run(level, Backward::<true, true>(rows)),
        };
    }
    let mid = (n / 2).next_multiple_of(ROWS);
    let at = mid * rows.norm.w.len();
    let ((x, x2), (dy, dy2), (d_sum, d_sum2)) = (halves(rows.saved.x, at), halves(rows.dy, at), halves(rows.d_sum, at));
    let ((mean, mean2), (rstd, rstd2)) = (halves(rows.saved.mean, mid), halves(rows.saved.rstd, mid));
    let ((dx, dx2), (parts, parts2)) = (halves_mut(rows.dx, at), halves_mut(rows.parts, mid / ROWS * width));
    let norm = rows.norm;
    let (first, second) = (NormSaved { x, mean, rstd }, NormSaved { x: x2, mean: mean2, rstd: rstd2 });
    rayon::join(
        || split(level, Rows { norm, saved: first, dy, d_sum, dx, parts }, width),
        || split(level, Rows { norm, saved: second, dy: dy2, d_sum: d_sum2, dx: dx2, parts: parts2 }, width),
    );
}

struct Backward<'a, const CENTER: bool, const BIAS: bool>(Rows<'a>);

impl<const CENTER: bool, const BIAS: bool> Kernel for Backward<'_, CENTER, BIAS> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Rows { norm, saved, dy, d_sum, dx, parts } = self.0;
        let (w, d) = (norm.w, norm.w.len());
        parts.fill(0.0);
        let (dw, db) = parts.split_at_mut(d);
        for (i, &rstd) in saved.rstd.iter().enumerate() {
            let (x, dy) = (&saved.x[i * d..][..d], &dy[i * d..][..d]);
            let center = s.splat(if CENTER { saved.mean[i] } else { 0.0 });
            let scale = s.splat(rstd);
            let (mut dot, mut sum) = (s.zero(), s.zero());
            each_vector!(d, W, j => {
                let (x, g, w) = (s.get::<W>(x, j, 0.0), s.get::<W>(dy, j, 0.0), s.get::<W>(w, j, 0.0));
                let gx = s.mul(g, if CENTER { s.sub(x, center) } else { x });
                dot = s.fma(gx, w, dot);
                s.set::<W>(dw, j, s.fma(gx, scale, s.get::<W>(dw, j, 0.0)));
                if CENTER {
                    sum = s.fma(g, w, sum);
                }
                if BIAS {
                    s.set::<W>(db, j, s.add(g, s.get::<W>(db, j, 0.0)));
                }
            });
            // With g = dy * w and c = x - mean: dx = rstd * (g - mean(g) - c * rstd² * mean(g * c))
            let back = s.splat(-s.reduce_sum(dot) / d as f32 * rstd * rstd);
            let lift = s.splat(if CENTER { s.reduce_sum(sum) / d as f32 } else { 0.0 });
            let dx = &mut dx[i * d..][..d];
            each_vector!(d, W, j => {
                let (x, g) = (s.get::<W>(x, j, 0.0), s.mul(s.get::<W>(dy, j, 0.0), s.get::<W>(w, j, 0.0)));
                let (x, g) = if CENTER { (s.sub(x, center), s.sub(g, lift)) } else { (x, g) };
                s.set::<W>(dx, j, s.mul(scale, s.fma(x, back, g)));
            });
            if !d_sum.is_empty() {
                super::add(s, &d_sum[i * d..][..d], dx);
            }
        }
    }
}
