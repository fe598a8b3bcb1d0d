//! The register tile of attention's products: eight rows by a few vectors, from factors that lie as they are.

use super::overlap;
use crate::simd::Simd;

/// Rows of a tile: keys are taken by eights, and so are the widths of heads.
pub const ROWS: usize = 8;

/// The left factor: row `r` at step `p` is `ptr[r * row + p * step]`. One of the strides is 1.
#[derive(Clone, Copy)]
pub struct Left {
    pub ptr: *const f32,
    pub row: usize,
    pub step: usize,
}

/// The right factor: vectors side by side, `step` floats from one step to the next.
#[derive(Clone, Copy)]
pub struct Right {
    pub ptr: *const f32,
    pub step: usize,
}

/// `C` vectors for each row of a tile.
pub type Tile<V, const C: usize> = [[V; C]; ROWS];

/// The products of eight rows with `C` vectors, over `steps`.
///
/// # Safety
/// Both factors must be readable for that.
#[inline(always)]
pub unsafe fn product<S: Simd, const C: usize>(s: S, left: Left, right: Right, steps: usize) -> Tile<S::V, C> {
    let mut tile = [[s.zero(); C]; ROWS];
    // SAFETY: passed on. The branches are decided at compile time: as many sums as registers allow.
    unsafe {
        if S::LANES == 16 {
            tile = sums::<S, 8, C>(s, left, right, steps);
        } else {
            for half in [0, 4] {
                let left = Left { ptr: left.ptr.add(half * left.row), ..left };
                if S::TILE.1 > 1 {
                    tile[half..half + 4].copy_from_slice(&sums::<S, 4, C>(s, left, right, steps));
                } else {
                    for c in 0..C {
                        let right = Right { ptr: right.ptr.add(c * S::LANES), ..right };
                        let part = sums::<S, 4, 1>(s, left, right, steps);
                        (0..4).for_each(|r| tile[half + r][c] = part[r][0]);
                    }
                }
            }
        }
    }
    tile
}

#[inline(always)]
unsafe fn sums<S: Simd, const R: usize, const C: usize>(
    s: S,
    left: Left,
    right: Right,
    steps: usize,
) -> [[S::V; C]; R] {
    let mut acc = [[s.zero(); C]; R];
    let mut rows = [left.ptr; R];
    for r in 0..R {
        rows[r] = left.ptr.wrapping_add(r * left.row);
    }
    let mut b = right.ptr;
    for p in 0..steps {
        let mut bv = [s.zero(); C];
        for c in 0..C {
            // SAFETY: step p < steps of the right factor.
            bv[c] = unsafe { s.load(b.add(c * S::LANES)) };
        }
        for r in 0..R {
            // SAFETY: row r at step p of the left factor.
            let x = s.splat(unsafe { *rows[r].add(p * left.step) });
            for c in 0..C {
                acc[r][c] = s.fma(x, bv[c], acc[r][c]);
            }
        }
        b = b.wrapping_add(right.step);
    }
    acc
}

/// [`product`] of two vectors over steps of their own each, counted from where the factors point.
///
/// # Safety
/// As [`product`], for the steps of each vector.
#[inline(always)]
pub unsafe fn product_over<S: Simd>(s: S, left: Left, right: Right, ranges: [(usize, usize); 2]) -> Tile<S::V, 2> {
    let both = overlap(ranges[0], ranges[1]);
    // SAFETY: passed on.
    unsafe {
        let mut tile = product::<S, 2>(s, left.from(both.0), right.from(both.0), both.1 - both.0);
        for v in 0..2 {
            for (lo, hi) in outside(ranges[v], both) {
                if lo < hi {
                    let right = Right { ptr: right.ptr.add(v * S::LANES), ..right };
                    let rest = product::<S, 1>(s, left.from(lo), right.from(lo), hi - lo);
                    for r in 0..ROWS {
                        tile[r][v] = s.add(tile[r][v], rest[r][0]);
                    }
                }
            }
        }
        tile
    }
}

/// What remains of `range` before and after `part` of it.
#[inline(always)]
fn outside(range: (usize, usize), part: (usize, usize)) -> [(usize, usize); 2] {
    if part.0 == part.1 { [range, (0, 0)] } else { [(range.0, part.0), (part.1, range.1)] }
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
