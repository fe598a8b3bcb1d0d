//! Sums over the rows of a matrix: the gradient of a bias.

use crate::scratch;
use crate::simd::{self, Kernel, Simd};
use rayon::prelude::*;

/// Rows per partial sum.
const ROWS: usize = 64;

/// `sums[j]` = the sum of column `j` of `x [N, D]`; overwrites `sums [D]`.
pub fn column_sums(x: &[f32], sums: &mut [f32]) {
    let d = sums.len();
    sums.fill(0.0);
    if d == 0 {
        return;
    }
    assert!(x.len().is_multiple_of(d), "column_sums: x has {} floats, which are no rows of {d}", x.len());
    let level = simd::level();
    scratch::with(x.len().div_ceil(ROWS * d) * d, |parts| {
        x.par_chunks(ROWS * d).zip(parts.par_chunks_mut(d)).for_each(|(x, sums)| {
            sums.fill(0.0);
            simd::run(level, AddRows { x, sums });
        });
        parts.chunks_exact(d).for_each(|x| simd::run(level, AddRows { x, sums }));
    });
}

struct AddRows<'a> {
    x: &'a [f32],
    sums: &'a mut [f32],
}

impl Kernel for AddRows<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let d = self.sums.len();
        let even = d / S::LANES * S::LANES;
        for row in self.x.chunks_exact(d) {
            for j in (0..even).step_by(S::LANES) {
                s.put(self.sums, j, s.add(s.at(self.sums, j), s.at(row, j)));
            }
            for j in even..d {
                self.sums[j] += row[j];
            }
        }
    }
}
