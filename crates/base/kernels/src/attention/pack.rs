//! Copies of a head's rows: contiguous and filled up with zeros, or transposed into panels, and back.

use crate::gemm::{Mat, Out};
use crate::simd::{Kernel, Simd};

/// Copies rows of `from` next to each other, `width` floats each, filled up with zeros, as are rows after the last.
pub fn copy_rows(from: Mat, to: &mut [f32], width: usize) {
    for (r, to) in to.chunks_exact_mut(width).enumerate() {
        let (head, tail) = to.split_at_mut(from.cols);
        match from.data.get(r * from.row_stride..r * from.row_stride + from.cols) {
            Some(row) if r < from.rows => head.copy_from_slice(row),
            _ => head.fill(0.0),
        }
        tail.fill(0.0);
    }
}

/// Panels of `width` rows, each transposed: `to[panel, p, r] = factor * from[panel * width + r, p]`, filled up with
/// zeros.
pub struct ToPanels<'a> {
    pub from: Mat<'a>,
    pub to: &'a mut [f32],
    pub width: usize,
    pub factor: f32,
}

impl Kernel for ToPanels<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let ToPanels { from, to, width, factor } = self;
        let (cols, stride) = (from.cols, from.row_stride);
        assert!(from.rows == 0 || from.data.len() >= (from.rows - 1) * stride + cols);
        let whole_cols = cols / 8 * 8;
        for (i, to) in to.chunks_exact_mut(cols * width).enumerate() {
            let from = &from.data[(i * width * stride).min(from.data.len())..];
            let rows = self.from.rows.saturating_sub(i * width).min(width);
            let whole_rows = rows / 8 * 8;
            for r in (0..whole_rows).step_by(8) {
                for p in (0..whole_cols).step_by(8) {
                    // SAFETY: rows r..r + 8 and columns p..p + 8 exist in both, by the assertion above.
                    unsafe {
                        let (from, to) = (from.as_ptr().add(r * stride + p), to.as_mut_ptr().add(p * width + r));
                        s.transpose::<8>(from, stride, to, width);
                    }
                }
            }
            for (p, row) in to.chunks_exact_mut(width).enumerate() {
                let start = if p < whole_cols { whole_rows } else { 0 };
                (start..rows).for_each(|r| row[r] = from[r * stride + p]);
                row[rows..].fill(0.0);
            }
            if factor != 1.0 {
                for i in (0..to.len()).step_by(S::LANES) {
                    s.put(to, i, s.mul(s.at(to, i), s.splat(factor)));
                }
            }
        }
    }
}

/// `to[r, p] = from[p, r] * factors[r]` for `rows` by `cols`; `from` has rows of `width` floats and is changed.
pub struct FromPanel<'a> {
    pub from: &'a mut [f32],
    pub width: usize,
    pub factors: &'a [f32],
    pub to: Out,
    pub rows: usize,
    pub cols: usize,
}

impl FromPanel<'_> {
    /// # Safety
    /// `to` must be writable for `rows` rows of `cols` floats, by this call alone.
    pub unsafe fn run(self, level: crate::simd::Level) {
        crate::simd::run(level, Unpack(self));
    }
}

struct Unpack<'a>(FromPanel<'a>);

impl Kernel for Unpack<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let FromPanel { from, width, factors, to, rows, cols } = self.0;
        assert!(rows <= width && from.len() >= cols * width && factors.len() >= width);
        for row in from.chunks_exact_mut(width).take(cols) {
            for i in (0..width).step_by(S::LANES) {
                s.put(row, i, s.mul(s.at(row, i), s.at(factors, i)));
            }
        }
        let (whole_rows, whole_cols) = (rows / 8 * 8, cols / 8 * 8);
        for r in (0..whole_rows).step_by(8) {
            for p in (0..whole_cols).step_by(8) {
                // SAFETY: rows r..r + 8 and columns p..p + 8 exist in both, by the assertion and the caller's promise.
                unsafe {
                    let to = to.offset(r, p);
                    s.transpose::<8>(from.as_ptr().add(p * width + r), width, to.ptr, to.stride);
                }
            }
        }
        for r in 0..rows {
            let start = if r < whole_rows { whole_cols } else { 0 };
            // SAFETY: `FromPanel::run`'s caller owns these rows.
            let row = unsafe { to.row(r, 0, cols) };
            (start..cols).for_each(|p| row[p] = from[p * width + r]);
        }
    }
}

/// `sums[r] = a[r] · b[r]`
pub struct RowDots<'a> {
    pub a: Mat<'a>,
    pub b: Mat<'a>,
    pub sums: &'a mut [f32],
}

impl Kernel for RowDots<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let RowDots { a, b, sums } = self;
        let even = a.cols / S::LANES * S::LANES;
        for (r, sum) in sums.iter_mut().enumerate().take(a.rows) {
            let (a, b) = (&a.data[r * a.row_stride..][..a.cols], &b.data[r * b.row_stride..][..a.cols]);
            let mut acc = s.zero();
            for i in (0..even).step_by(S::LANES) {
                acc = s.fma(s.at(a, i), s.at(b, i), acc);
            }
            if even < a.len() {
                acc = s.fma(s.tail(a, even, 0.0), s.tail(b, even, 0.0), acc);
            }
            *sum = s.reduce_sum(acc);
        }
    }
}

/// Writes `rows` by `cols` of `from`, whose rows are `width` floats, times `factor`.
///
/// # Safety
/// `to` must be writable for that, by this call alone.
pub unsafe fn write_rows(from: &[f32], width: usize, factor: f32, to: Out, (rows, cols): (usize, usize)) {
    for (r, from) in from.chunks_exact(width).take(rows).enumerate() {
        // SAFETY: the caller's promise.
        let to = unsafe { to.row(r, 0, cols) };
        to.iter_mut().zip(from).for_each(|(to, x)| *to = factor * x);
    }
}
