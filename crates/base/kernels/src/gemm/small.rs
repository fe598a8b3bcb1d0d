//! Products with few rows (decoding): `b` is read once, straight from memory, and never packed.

use super::{Mat, Out, Work, for_each};
use crate::scratch;
use crate::simd::{self, Kernel, Level, MAX_LANES, Simd};

/// Up to this many rows of `a`, nothing is packed.
pub const MAX_ROWS: usize = 8;
/// Floats of `x` that stay in the first cache.
pub const X_BLOCK: usize = 1 << 12;
/// Floats of `b` per task, about.
const TASK: usize = 1 << 15;

/// # Safety
/// As `gemm::product`; `a.rows` is 1..=MAX_ROWS and one of `b`'s strides is 1.
pub(super) unsafe fn product(level: Level, c: Out, a: Mat, b: Mat, work: Work) {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    let run = if b.row_stride == 1 { simd::lanes(level) } else { 1 };
    scratch::with(m * k.next_multiple_of(run), |x| {
        interleave(a, run, x);
        let step = (TASK / k).max(1).next_multiple_of(64);
        for_each(work.parallel, n.div_ceil(step), |t| {
            let (from, to) = (t * step, n.min((t + 1) * step));
            // SAFETY: columns from..to of `c` are this task's.
            let (c, accumulate) = (unsafe { c.offset(0, from) }, work.how.accumulate);
            let (count, x) = (to - from, &*x);
            if b.row_stride == 1 {
                let w = &b.data[from * b.col_stride..];
                simd::run(level, Dots { c, x, w, stride: b.col_stride, shape: (m, k, count), accumulate });
            } else {
                let w = &b.data[from..];
                simd::run(level, Sums { c, x, w, stride: b.row_stride, shape: (m, k, count), accumulate });
            }
        });
    });
}

/// Runs of `run` elements of every row in turn, the last filled up with zeros: read front to back, and without the
/// cache conflicts of rows that lie a power of two apart.
fn interleave(a: Mat, run: usize, x: &mut [f32]) {
    for i in 0..a.rows {
        let row = &a.data[i * a.row_stride..];
        for p in 0..a.cols.next_multiple_of(run) {
            let v = if p < a.cols { row[p * a.col_stride] } else { 0.0 };
            x[(p / run * a.rows + i) * run + p % run] = v;
        }
    }
}

/// `c[m, n] = x[m, k] · w[n, k]ᵀ`, `x` interleaved by vectors, rows of `w` `stride` apart.
struct Dots<'a> {
    c: Out,
    x: &'a [f32],
    w: &'a [f32],
    stride: usize,
    shape: (usize, usize, usize),
    accumulate: bool,
}

impl Kernel for Dots<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.shape.0 {
            1 => self.rows::<S, 1, 4>(s),
            2 => self.rows::<S, 2, 4>(s),
            3 => self.rows::<S, 3, 3>(s),
            4 => self.rows::<S, 4, 2>(s),
            5 => self.rows::<S, 5, 2>(s),
            6 => self.rows::<S, 6, 2>(s),
            7 => self.rows::<S, 7, 1>(s),
            _ => self.rows::<S, 8, 1>(s),
        }
    }
}

impl Dots<'_> {
    /// Blocks of `k` short enough that their part of `x` stays in the first cache while the rows of `w` go by.
    #[inline(always)]
    fn rows<S: Simd, const M: usize, const R: usize>(&self, s: S) {
        let (_, k, n) = self.shape;
        let (whole, step) = (n / R * R, X_BLOCK / M / MAX_LANES * MAX_LANES);
        for from in (0..k).step_by(step) {
            let part = (from, k.min(from + step));
            for j in (0..whole).step_by(R) {
                self.dots::<S, M, R>(s, j, part);
            }
            for j in whole..n {
                self.dots::<S, M, 1>(s, j, part);
            }
        }
    }

    /// `R` rows of `w` against `M` rows of `x`, over `from..to`.
    #[inline(always)]
    fn dots<S: Simd, const M: usize, const R: usize>(&self, s: S, j: usize, (from, to): (usize, usize)) {
        let w: [&[f32]; R] = std::array::from_fn(|r| &self.w[(j + r) * self.stride + from..][..to - from]);
        let x = &self.x[M * from..][..M * (to - from).next_multiple_of(S::LANES)];
        let mut acc = [[s.zero(); M]; R];
        // The rows after the next: short stretches of long rows are more than the hardware foresees.
        let ahead = 2 * R * self.stride;
        let even = (to - from) / S::LANES * S::LANES;
        for p in (0..even).step_by(S::LANES) {
            // SAFETY: p + LANES <= to - from, the length of every row; `x` holds M such rows.
            unsafe {
                let x = x.as_ptr().add(p * M);
                let wv: [S::V; R] = std::array::from_fn(|r| s.load(w[r].as_ptr().add(p)));
                for r in 0..R {
                    s.prefetch(w[r].as_ptr().wrapping_add(p + ahead));
                }
                for i in 0..M {
                    let xv = s.load(x.add(i * S::LANES));
                    for r in 0..R {
                        acc[r][i] = s.fma(wv[r], xv, acc[r][i]);
                    }
                }
            }
        }
        if even < to - from {
            for r in 0..R {
                let wv = s.tail(w[r], even, 0.0);
                for i in 0..M {
                    acc[r][i] = s.fma(wv, s.at(x, even * M + i * S::LANES), acc[r][i]);
                }
            }
        }
        let accumulate = self.accumulate || from > 0;
        for r in 0..R {
            for i in 0..M {
                let dot = s.reduce_sum(acc[r][i]);
                // SAFETY: rows 0..m and columns 0..n of `c` are this task's.
                let to = unsafe { &mut *self.c.ptr.add(i * self.c.stride + j + r) };
                *to = if accumulate { *to + dot } else { dot };
            }
        }
    }
}

/// `c[m, n] = x[m, k] · w[k, n]`, `x` transposed, rows of `w` `stride` apart.
struct Sums<'a> {
    c: Out,
    x: &'a [f32],
    w: &'a [f32],
    stride: usize,
    shape: (usize, usize, usize),
    accumulate: bool,
}

impl Kernel for Sums<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.shape.0 {
            1 => self.strips::<S, 1, 8>(s),
            2 => self.strips::<S, 2, 4>(s),
            3 => self.strips::<S, 3, 4>(s),
            4 => self.strips::<S, 4, 2>(s),
            5 => self.strips::<S, 5, 2>(s),
            6 => self.strips::<S, 6, 2>(s),
            7 => self.strips::<S, 7, 1>(s),
            _ => self.strips::<S, 8, 1>(s),
        }
    }
}

impl Sums<'_> {
    #[inline(always)]
    fn strips<S: Simd, const M: usize, const C: usize>(&self, s: S) {
        let (_, k, n) = self.shape;
        assert!(self.x.len() >= M * k && self.w.len() >= (k - 1) * self.stride + n);
        let mut j = 0;
        while n - j >= C * S::LANES {
            self.strip::<S, M, C>(s, j);
            j += C * S::LANES;
        }
        while n - j >= S::LANES {
            self.strip::<S, M, 1>(s, j);
            j += S::LANES;
        }
        if j < n {
            self.rest::<S, M>(s, j);
        }
    }

    /// `C` whole vectors of columns from `j`.
    #[inline(always)]
    fn strip<S: Simd, const M: usize, const C: usize>(&self, s: S, j: usize) {
        let mut acc = [[s.zero(); C]; M];
        for p in 0..self.shape.1 {
            // SAFETY: row `p` of `w` reaches beyond column j + C * LANES, and `x` holds k x M floats: `strips` checked.
            unsafe {
                let (w, x) = (self.w.as_ptr().add(p * self.stride + j), self.x.as_ptr().add(p * M));
                let wv: [S::V; C] = std::array::from_fn(|v| s.load(w.add(v * S::LANES)));
                for i in 0..M {
                    let xv = s.splat(*x.add(i));
                    for v in 0..C {
                        acc[i][v] = s.fma(xv, wv[v], acc[i][v]);
                    }
                }
            }
        }
        for i in 0..M {
            // SAFETY: rows 0..m and columns 0..n of `c` are this task's.
            let to = unsafe { self.c.row(i, j, C * S::LANES) };
            for v in 0..C {
                let at = v * S::LANES;
                let sum = if self.accumulate { s.add(s.at(to, at), acc[i][v]) } else { acc[i][v] };
                s.put(to, at, sum);
            }
        }
    }

    /// The last columns, less than a vector.
    #[inline(always)]
    fn rest<S: Simd, const M: usize>(&self, s: S, j: usize) {
        let (_, k, n) = self.shape;
        let mut acc = [s.zero(); M];
        for p in 0..k {
            let w = s.tail(&self.w[p * self.stride + j..][..n - j], 0, 0.0);
            for i in 0..M {
                acc[i] = s.fma(s.splat(self.x[p * M + i]), w, acc[i]);
            }
        }
        for i in 0..M {
            // SAFETY: rows 0..m and columns 0..n of `c` are this task's.
            let to = unsafe { self.c.row(i, j, n - j) };
            let old = if self.accumulate { s.tail(to, 0, 0.0) } else { s.zero() };
            s.put_tail(to, 0, s.add(old, acc[i]));
        }
    }
}
