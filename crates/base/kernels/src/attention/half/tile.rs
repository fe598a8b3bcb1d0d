//! The register tile: eight rows of words against two vectors of float16.

use super::super::overlap;
use super::super::tile::{ROWS, Tile};
use super::{QUERIES, STRIPS, WIDTH};
use std::arch::asm;
use std::arch::x86_64::*;

/// Steps that are summed in float16.
pub const RUN: usize = 64;

/// The left factor: the word of row `r` at step `p` is `ptr[r * row + p * step]`. One of the strides is 1.
#[derive(Clone, Copy)]
pub struct Left {
    pub ptr: *const f32,
    pub row: usize,
    pub step: usize,
}

/// The right factor: float16 vectors side by side, `step` numbers from one step to the next.
#[derive(Clone, Copy)]
pub struct Right {
    pub ptr: *const u16,
    pub step: usize,
}

/// Products of eight rows with two vectors of float16, as four vectors of floats.
#[repr(align(64))]
pub struct Products {
    sums: [u16; ROWS * QUERIES],
    /// Of several runs.
    total: [f32; ROWS * QUERIES],
    is_long: bool,
}

impl Products {
    pub fn new() -> Self {
        Products { sums: [0; ROWS * QUERIES], total: [0.0; ROWS * QUERIES], is_long: false }
    }

    /// The products of eight rows with the vectors `first..end` over `steps`.
    ///
    /// # Safety
    /// The CPU must have AVX-512 F, BW and FP16, and both factors must be readable for that.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512fp16,avx2,fma")]
    pub unsafe fn compute(&mut self, left: Left, right: Right, steps: usize, (first, end): (usize, usize)) {
        self.is_long = steps > RUN;
        if self.is_long {
            self.total.fill(0.0);
        }
        for from in (0..steps).step_by(RUN) {
            let count = RUN.min(steps - from);
            let left = left.from(from);
            let right = Right { ptr: right.ptr.wrapping_add(first * WIDTH), ..right }.from(from);
            // SAFETY: passed on; there is room for eight rows of two vectors.
            unsafe {
                let to = self.sums.as_mut_ptr().add(first * WIDTH);
                match (end - first == STRIPS, left.row == 1) {
                    (true, true) => sum::<2, true>(left, right, count, to),
                    (true, false) => sum::<2, false>(left, right, count, to),
                    (false, true) => sum::<1, true>(left, right, count, to),
                    (false, false) => sum::<1, false>(left, right, count, to),
                }
                if self.is_long {
                    let total = self.total.as_mut_ptr();
                    (2 * first..2 * end).for_each(|v| self.add(v, _mm512_set1_ps(1.0), total.add(v * 16), QUERIES));
                }
            }
        }
    }

    /// The products over the strips' own ranges of steps each, of which there are at most 64.
    ///
    /// # Safety
    /// As [`Products::compute`], for the steps of each strip.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512fp16,avx2,fma")]
    pub unsafe fn compute_over(&mut self, left: Left, right: Right, ranges: [(usize, usize); STRIPS]) {
        let both = overlap(ranges[0], ranges[1]);
        self.is_long = false;
        // SAFETY: passed on.
        unsafe {
            if both == ranges[0] && both == ranges[1] {
                return self.compute(left.from(both.0), right.from(both.0), both.1 - both.0, (0, STRIPS));
            }
            for (n, (lo, hi)) in ranges.into_iter().enumerate().filter(|(_, (lo, hi))| lo < hi) {
                self.compute(left.from(lo), right.from(lo), hi - lo, (n, n + 1));
            }
        }
    }

    /// The sums of row `r` and float vector `v` of the last run.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub fn at(&self, r: usize, v: usize) -> __m512 {
        assert!(r < ROWS && v < QUERIES / 16);
        let x;
        // The compiler would load first, and then needs two steps for the conversion.
        // SAFETY: eight rows of four vectors lie there.
        unsafe {
            let from = self.sums.as_ptr().add(r * QUERIES + v * 16);
            asm!(
                "vcvtph2ps {x}, ymmword ptr [{from}]",
                x = out(zmm_reg) x,
                from = in(reg) from,
                options(pure, readonly, nostack, preserves_flags)
            );
        }
        x
    }

    /// Vector `v` of each row, times `scale`.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub fn tile(&self, v: usize, scale: f32) -> Tile<__m512, 1> {
        assert!(v < QUERIES / 16);
        let (mut tile, scale) = ([[_mm512_setzero_ps()]; ROWS], _mm512_set1_ps(scale));
        for r in 0..ROWS {
            let x = if self.is_long {
                // SAFETY: eight rows of four vectors.
                unsafe { _mm512_load_ps(self.total.as_ptr().add(r * QUERIES + v * 16)) }
            } else {
                self.at(r, v)
            };
            tile[r][0] = _mm512_mul_ps(x, scale);
        }
        tile
    }

    /// Adds vector `v` of each row of the last run, times `scale`, to the rows at `to`, `stride` floats apart.
    ///
    /// # Safety
    /// Eight such rows must be writable.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub unsafe fn add(&self, v: usize, scale: __m512, to: *mut f32, stride: usize) {
        for r in 0..ROWS {
            // SAFETY: the caller's promise.
            unsafe {
                let to = to.add(r * stride);
                _mm512_storeu_ps(to, _mm512_fmadd_ps(self.at(r, v), scale, _mm512_loadu_ps(to)));
            }
        }
    }
}

/// Sums over `steps`, in rows of two vectors at `to`. `SIDE`: the words of a step lie side by side.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512fp16,avx2,fma")]
#[expect(clippy::pointers_in_nomem_asm_block, reason = "nothing is read or written there")]
unsafe fn sum<const C: usize, const SIDE: bool>(left: Left, right: Right, steps: usize, to: *mut u16) {
    let mut acc = [[_mm512_setzero_ph(); C]; ROWS];
    let mut rows = [left.ptr.cast::<i32>(); ROWS];
    for r in 0..ROWS {
        rows[r] = rows[r].wrapping_add(r * left.row);
        if !SIDE {
            // SAFETY: nothing happens. Unless the pointers look unrelated, the compiler computes each from the one before
            // at every step, a chain that takes longer than the products.
            unsafe { asm!("/* {0} */", inout(reg) rows[r], options(pure, nomem, nostack, preserves_flags)) };
        }
    }
    let (mut a, mut b) = (left.ptr.cast::<i32>(), right.ptr);
    for p in 0..steps {
        let mut columns = [_mm512_setzero_ph(); C];
        for c in 0..C {
            // SAFETY: a step of the right factor, by the caller's promise.
            columns[c] = _mm512_castsi512_ph(unsafe { _mm512_loadu_si512(b.add(c * WIDTH).cast()) });
        }
        for r in 0..ROWS {
            // SAFETY: row r at step p of the left factor.
            let x = unsafe { if SIDE { *a.add(r) } else { *rows[r].add(p) } };
            let x = _mm512_castsi512_ph(_mm512_set1_epi32(x));
            for c in 0..C {
                acc[r][c] = _mm512_fmadd_ph(x, columns[c], acc[r][c]);
            }
        }
        (a, b) = (a.wrapping_add(left.step), b.wrapping_add(right.step));
    }
    for r in 0..ROWS {
        for c in 0..C {
            // SAFETY: room for that, by the caller's promise.
            unsafe { _mm512_storeu_si512(to.add(r * QUERIES + c * WIDTH).cast(), _mm512_castph_si512(acc[r][c])) };
        }
    }
}

impl Left {
    #[inline(always)]
    fn from(self, step: usize) -> Self {
        Left { ptr: self.ptr.wrapping_add(step * self.step), ..self }
    }
}

impl Right {
    #[inline(always)]
    fn from(self, step: usize) -> Self {
        Right { ptr: self.ptr.wrapping_add(step * self.step), ..self }
    }
}
