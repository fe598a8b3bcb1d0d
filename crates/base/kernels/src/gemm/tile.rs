//! The register tile: a few rows by a few vectors of `c` held in registers over a block of `k`.

use super::Out;
#[cfg(target_arch = "aarch64")]
use crate::simd::Neon;
use crate::simd::Portable;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};
use crate::simd::{Kernel, Level, MAX_LANES, Simd};

/// Steps that panels are asked for ahead of their use.
const AHEAD: usize = 8;

/// Rows and columns of the tile at `level`.
pub fn shape(level: Level) -> (usize, usize) {
    fn of<S: Simd>() -> (usize, usize) {
        (S::TILE.0, S::TILE.1 * S::LANES)
    }
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => of::<Avx512>(),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => of::<Avx2>(),
        #[cfg(target_arch = "aarch64")]
        Level::Neon => of::<Neon>(),
        _ => of::<Portable>(),
    }
}

#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "16-bit formats exist on x86-64 only"))]
/// A block of `c` from packed panels of `a` and `b`, which lie `a_panel` and `b_panel` floats apart.
pub struct Block {
    pub c: Out,
    pub a: *const f32,
    pub a_panel: usize,
    pub b: *const f32,
    pub b_panel: usize,
    /// In float16: each panel's scale, as far apart as the panels.
    pub a_scale: *const f32,
    pub b_scale: *const f32,
    /// In 16-bit formats: the words from row to row where panels of `a` lie row by row instead of step by step.
    pub a_rows: Option<usize>,
    /// m, k, n
    pub shape: (usize, usize, usize),
    pub accumulate: bool,
    /// Added to each row (`n` floats), or null.
    pub bias: *const f32,
}

impl Kernel for Block {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (m, _, n) = self.shape;
        let (mr, nr) = (S::TILE.0, S::TILE.1 * S::LANES);
        for j in (0..n).step_by(nr) {
            for i in (0..m).step_by(mr) {
                // SAFETY: whoever made the block vouches for the panels and for `c`.
                unsafe { self.tile(s, i, j) };
            }
        }
    }
}

impl Block {
    /// The tile at `(i, j)`, computed no larger than what is left of the block needs.
    #[inline(always)]
    unsafe fn tile<S: Simd>(&self, s: S, i: usize, j: usize) {
        let (m, _, n) = self.shape;
        let few_rows = m - i <= S::TILE.0 / 2;
        let one_vector = n - j <= S::LANES;
        // SAFETY: passed on. The branches on `S::TILE` are decided at compile time.
        unsafe {
            match (S::TILE, few_rows, one_vector) {
                ((4, 1), false, _) => self.micro::<S, 4, 4, 1, 1>(s, i, j),
                ((4, 1), true, _) => self.micro::<S, 2, 4, 1, 1>(s, i, j),
                ((6, 2), false, false) => self.micro::<S, 6, 6, 2, 2>(s, i, j),
                ((6, 2), true, false) => self.micro::<S, 3, 6, 2, 2>(s, i, j),
                ((6, 2), false, true) => self.micro::<S, 6, 6, 1, 2>(s, i, j),
                ((6, 2), true, true) => self.micro::<S, 3, 6, 1, 2>(s, i, j),
                ((14, 2), false, false) => self.micro::<S, 14, 14, 2, 2>(s, i, j),
                ((14, 2), true, false) => self.micro::<S, 7, 14, 2, 2>(s, i, j),
                ((14, 2), false, true) => self.micro::<S, 14, 14, 1, 2>(s, i, j),
                ((14, 2), true, true) => self.micro::<S, 7, 14, 1, 2>(s, i, j),
                (tile, ..) => unreachable!("no micro-kernel for a tile of {tile:?}"),
            }
        }
    }

    /// `R` rows of panels packed `MR` wide, by `C` vectors of panels packed `NV` vectors wide.
    #[inline(always)]
    unsafe fn micro<S: Simd, const R: usize, const MR: usize, const C: usize, const NV: usize>(
        &self,
        s: S,
        i: usize,
        j: usize,
    ) {
        let (m, k, n) = self.shape;
        let mut acc = [[s.zero(); C]; R];
        // SAFETY: panel i / MR of `a` and panel j / (NV * LANES) of `b` hold `k` steps each.
        unsafe {
            let mut a = self.a.add(i / MR * self.a_panel);
            let mut b = self.b.add(j / (NV * S::LANES) * self.b_panel);
            for _ in 0..k {
                let mut bv = [s.zero(); C];
                for v in 0..C {
                    bv[v] = s.load(b.add(v * S::LANES));
                }
                for v in 0..C {
                    s.prefetch(b.wrapping_add((AHEAD * NV + v) * S::LANES));
                }
                s.prefetch(a.wrapping_add(AHEAD * MR));
                for r in 0..R {
                    let x = s.splat(*a.add(r));
                    for v in 0..C {
                        acc[r][v] = s.fma(x, bv[v], acc[r][v]);
                    }
                }
                a = a.add(MR);
                b = b.add(NV * S::LANES);
            }
        }
        // Into memory by a loop of one store, which is unrolled: with more in it the accumulators would live there.
        let mut sums = Sums([0.0; 14 * 2 * MAX_LANES]);
        for r in 0..R {
            for v in 0..C {
                // SAFETY: no tile has more than 14 rows of two vectors.
                unsafe { s.store(sums.0.as_mut_ptr().add((r * C + v) * S::LANES), acc[r][v]) };
            }
        }
        let (rows, cols) = (R.min(m - i), (C * S::LANES).min(n - j));
        for (r, sums) in sums.0.chunks_exact_mut(C * S::LANES).take(rows).enumerate() {
            // SAFETY: `rows` by `cols` of `c` from (i, j) are ours, and the bias, where there is one, has all columns.
            let (to, bias) = unsafe {
                let bias = (!self.bias.is_null()).then(|| std::slice::from_raw_parts(self.bias.add(j), cols));
                (self.c.offset(i, j).row(r, 0, cols), bias)
            };
            if let Some(bias) = bias {
                sums.iter_mut().zip(bias).for_each(|(x, bias)| *x += bias);
            }
            if self.accumulate {
                to.iter_mut().zip(sums).for_each(|(to, x)| *to += *x);
            } else {
                to.copy_from_slice(&sums[..cols]);
            }
        }
    }
}

/// A tile's sums, row by row.
#[repr(align(64))]
struct Sums([f32; 14 * 2 * MAX_LANES]);
