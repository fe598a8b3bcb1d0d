//! Eight-bit weights: symmetric, one scale per group of a row.

use crate::gemm::small::X_BLOCK;
use crate::gemm::{Mat, Out, product};
use crate::scratch;
use crate::simd::{self, Kernel, MAX_LANES, Simd};
use rayon::prelude::*;

/// A quantized matrix: `q [rows, cols]`, `scales [rows, ceil(cols / group)]`; element = q * scale of its group.
#[derive(Clone, Copy)]
pub struct Q8<'a> {
    pub q: &'a [i8],
    pub scales: &'a [f32],
    pub rows: usize,
    pub cols: usize,
    pub group: usize,
}

impl Q8<'_> {
    fn check(&self, what: &str) {
        let groups = groups(what, self.cols, self.group);
        let (q, want) = (self.q.len(), self.rows * self.cols);
        assert_eq!(q, want, "{what}: q has {q} elements, but [{}, {}] holds {want}", self.rows, self.cols);
        let (scales, want) = (self.scales.len(), self.rows * groups);
        assert_eq!(scales, want, "{what}: {scales} scales, but {} rows of {groups} groups", self.rows);
    }
}

fn groups(what: &str, cols: usize, group: usize) -> usize {
    assert!(group > 0, "{what}: a group holds at least one weight, got 0");
    cols.div_ceil(group)
}

/// Rounds `w [rows, cols]` to the nearest multiples of absmax / 127 per group of `group` weights of a row (the last
/// may be short). A group of zeros has scale 0.
pub fn quantize_q8(w: &[f32], rows: usize, cols: usize, group: usize) -> (Vec<i8>, Vec<f32>) {
    assert_eq!(w.len(), rows * cols, "quantize_q8: w has {} floats, not [{rows}, {cols}]", w.len());
    let groups = groups("quantize_q8", cols, group);
    let (mut q, mut scales) = (vec![0; w.len()], vec![0.0; rows * groups]);
    if w.is_empty() {
        return (q, scales);
    }
    let tasks = w.par_chunks(cols).zip(q.par_chunks_mut(cols)).zip(scales.par_chunks_mut(groups));
    tasks.for_each(|((w, q), scales)| {
        for ((w, q), scale) in w.chunks(group).zip(q.chunks_mut(group)).zip(scales) {
            let top = w.iter().fold(0.0f32, |top, x| top.max(x.abs()));
            *scale = top / 127.0;
            let inverse = if top > 0.0 { 127.0 / top } else { 0.0 };
            q.iter_mut().zip(w).for_each(|(q, w)| *q = (w * inverse).round().clamp(-127.0, 127.0) as i8);
        }
    });
    (q, scales)
}

/// The weights as floats: out `[rows, cols]`.
pub fn dequantize_q8(m: &Q8, out: &mut [f32]) {
    m.check("dequantize_q8");
    assert_eq!(out.len(), m.q.len(), "dequantize_q8: out has {} floats, m {}", out.len(), m.q.len());
    dequantize_rows(m, 0, out);
}

/// Rows `first..` of `m`, as many as `out` holds.
fn dequantize_rows(m: &Q8, first: usize, out: &mut [f32]) {
    if m.cols == 0 {
        return;
    }
    let groups = m.cols.div_ceil(m.group);
    let level = simd::level();
    out.par_chunks_mut(m.cols).enumerate().for_each(|(i, out)| {
        let q = &m.q[(first + i) * m.cols..][..m.cols];
        let scales = &m.scales[(first + i) * groups..][..groups];
        for ((q, &scale), out) in q.chunks(m.group).zip(scales).zip(out.chunks_mut(m.group)) {
            simd::run(level, Scale { q, scale, out });
        }
    });
}

struct Scale<'a> {
    q: &'a [i8],
    scale: f32,
    out: &'a mut [f32],
}

impl Kernel for Scale<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        self.out.iter_mut().zip(self.q).for_each(|(out, &q)| *out = f32::from(q) * self.scale);
    }
}

/// Up to this many rows of `x`, the product reads the bytes directly; beyond, it unpacks blocks of rows.
const DIRECT_ROWS: usize = 8;
/// Weights per task of the direct product (waking another thread costs as much as some ten thousand), and per unpacked
/// block.
const TASK: usize = 1 << 18;
const BLOCK: usize = 1 << 20;

/// `y = x · mᵀ`: x `[N, cols]`, y `[N, rows]`.
pub fn matmul_q8(x: &[f32], m: &Q8, y: &mut [f32]) {
    m.check("matmul_q8");
    let (rows, k) = (m.rows, m.cols);
    if k == 0 || rows == 0 {
        return y.fill(0.0);
    }
    assert!(x.len().is_multiple_of(k), "matmul_q8: x has {} floats, which are no rows of {k}", x.len());
    let n = x.len() / k;
    assert_eq!(y.len(), n * rows, "matmul_q8: y has {} floats, but x · mᵀ is [{n}, {rows}]", y.len());
    let (level, out) = (simd::level(), Out::new(y, rows));
    if n <= DIRECT_ROWS {
        let step = TASK.div_ceil(k);
        let lanes = simd::lanes(level);
        scratch::with(n * k.div_ceil(m.group) * m.group.next_multiple_of(lanes), |xs| {
            interleave(x, m, lanes, xs);
            let x = &*xs;
            (0..rows.div_ceil(step)).into_par_iter().for_each(|t| {
                let (from, to) = (t * step, rows.min((t + 1) * step));
                simd::run(level, Direct { x, m, from, to, y: out, n });
            });
        });
        return;
    }
    let step = BLOCK.div_ceil(k).min(rows);
    scratch::with(step * k, |w| {
        for from in (0..rows).step_by(step) {
            let count = step.min(rows - from);
            let w = &mut w[..count * k];
            dequantize_rows(m, from, w);
            // SAFETY: columns from.. of `y` lie inside it, and nothing else runs on them.
            unsafe { product(level, out.offset(0, from), Mat::new(x, n, k), Mat::new(w, count, k).t(), false) };
        }
    });
}

/// Vectors of every row of `x` in turn, each group filled up with zeros to whole vectors.
fn interleave(x: &[f32], m: &Q8, lanes: usize, to: &mut [f32]) {
    let (n, padded) = (x.len() / m.cols, m.group.next_multiple_of(lanes));
    to.fill(0.0);
    for (i, row) in x.chunks_exact(m.cols).enumerate() {
        for (g, part) in row.chunks(m.group).enumerate() {
            for (v, vector) in part.chunks(lanes).enumerate() {
                let at = ((g * padded / lanes + v) * n + i) * lanes;
                to[at..at + vector.len()].copy_from_slice(vector);
            }
        }
    }
}

/// Columns from..to of `y` for up to [`DIRECT_ROWS`] rows of interleaved `x`.
struct Direct<'a> {
    x: &'a [f32],
    m: &'a Q8<'a>,
    from: usize,
    to: usize,
    y: Out,
    n: usize,
}

impl Kernel for Direct<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.n {
            0 => {}
            1 => self.rows::<S, 1, 4>(s),
            2 => self.rows::<S, 2, 3>(s),
            3 => self.rows::<S, 3, 2>(s),
            4 => self.rows::<S, 4, 2>(s),
            5 => self.rows::<S, 5, 1>(s),
            6 => self.rows::<S, 6, 1>(s),
            7 => self.rows::<S, 7, 1>(s),
            _ => self.rows::<S, 8, 1>(s),
        }
    }
}

impl Direct<'_> {
    /// `R` rows of weights at a time.
    #[inline(always)]
    fn rows<S: Simd, const N: usize, const R: usize>(&self, s: S) {
        let whole = self.from + (self.to - self.from) / R * R;
        let groups = self.m.cols.div_ceil(self.m.group);
        // So many groups that their part of `x` stays in the first cache while the rows of weights go by.
        let step = (X_BLOCK / N / self.m.group).max(1);
        for from in (0..groups).step_by(step) {
            let part = (from, groups.min(from + step));
            for j in (self.from..whole).step_by(R) {
                self.dots::<S, N, R>(s, j, part);
            }
            for j in whole..self.to {
                self.dots::<S, N, 1>(s, j, part);
            }
        }
    }

    /// `R` rows from `j`, over some groups.
    #[inline(always)]
    fn dots<S: Simd, const N: usize, const R: usize>(&self, s: S, j: usize, part: (usize, usize)) {
        let (k, group) = (self.m.cols, self.m.group);
        let (groups, padded) = (k.div_ceil(group), group.next_multiple_of(S::LANES));
        let q: [&[i8]; R] = std::array::from_fn(|r| &self.m.q[(j + r) * k..][..k]);
        let mut sum = [[s.zero(); N]; R];
        for g in part.0..part.1 {
            let (from, to) = (g * group, k.min((g + 1) * group));
            let x = &self.x[g * padded * N..][..padded * N];
            for r in 0..R {
                s.prefetch(q[r].as_ptr().wrapping_add(from + 2 * R * k));
            }
            let dots: [[S::V; N]; R] = group_dots(s, x, q.map(|q| &q[from..to]));
            for r in 0..R {
                let scale = s.splat(self.m.scales[(j + r) * groups + g]);
                for i in 0..N {
                    sum[r][i] = s.fma(dots[r][i], scale, sum[r][i]);
                }
            }
        }
        for r in 0..R {
            for i in 0..N {
                let dot = s.reduce_sum(sum[r][i]);
                // SAFETY: column `j + r` of `y` is this task's, row `i` is below n.
                let y = unsafe { &mut *self.y.ptr.add(i * self.y.stride + j + r) };
                *y = if part.0 > 0 { *y + dot } else { dot };
            }
        }
    }
}

/// Partial sums of `N` interleaved rows of `x` with each row of `q`, lane by lane.
#[inline(always)]
fn group_dots<S: Simd, const N: usize, const R: usize>(s: S, x: &[f32], q: [&[i8]; R]) -> [[S::V; N]; R] {
    let mut acc = [[s.zero(); N]; R];
    let len = q[0].len();
    let even = len / S::LANES * S::LANES;
    assert!(q.iter().all(|q| q.len() == len) && x.len() >= N * len);
    for p in (0..even).step_by(S::LANES) {
        // SAFETY: p + LANES <= len, the length of every row of `q`; `x` holds N such rows.
        unsafe {
            let w: [S::V; R] = std::array::from_fn(|r| s.load_i8(q[r].as_ptr().add(p)));
            for i in 0..N {
                let xv = s.load(x.as_ptr().add(p * N + i * S::LANES));
                for r in 0..R {
                    acc[r][i] = s.fma(w[r], xv, acc[r][i]);
                }
            }
        }
    }
    if even < len {
        for r in 0..R {
            let mut rest = [0i8; MAX_LANES];
            rest[..len - even].copy_from_slice(&q[r][even..]);
            // SAFETY: `rest` is as long as the longest vector.
            let w = unsafe { s.load_i8(rest.as_ptr()) };
            for i in 0..N {
                acc[r][i] = s.fma(w, s.at(x, even * N + i * S::LANES), acc[r][i]);
            }
        }
    }
    acc
}
