//! Sums over gradients.

use crate::simd::{self, Kernel, Simd};
use rayon::prelude::*;

/// Elements per task, and per partial sum.
const TASK: usize = 1 << 16;

/// The sum of the squares in double precision, for gradient norms.
pub fn sum_of_squares(x: &[f32]) -> f64 {
    let level = simd::level();
    let parts: Vec<f64> = x.par_chunks(TASK).map(|x| simd::run(level, Squares(x))).collect();
    parts.iter().sum()
}

/// `sum += x`, and [`sum_of_squares`] of what it comes to: accumulates gradients and measures them in one pass.
pub fn add_with_squares(sum: &mut [f32], x: &[f32]) -> f64 {
    assert_eq!(sum.len(), x.len(), "add_with_squares: sum has {} floats, x {}", sum.len(), x.len());
    let level = simd::level();
    let tasks = sum.par_chunks_mut(TASK).zip(x.par_chunks(TASK));
    let parts: Vec<f64> = tasks.map(|(sum, x)| simd::run(level, AddSquares(sum, x))).collect();
    parts.iter().sum()
}

struct Squares<'a>(&'a [f32]);

impl Kernel for Squares<'_> {
    type Out = f64;
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> f64 {
        let mut acc = [0.0f64; 16];
        let (chunks, rest) = self.0.as_chunks::<16>();
        for x in chunks {
            for i in 0..16 {
                let v = f64::from(x[i]);
                acc[i] += v * v;
            }
        }
        let tail: f64 = rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        acc.iter().sum::<f64>() + tail
    }
}

struct AddSquares<'a>(&'a mut [f32], &'a [f32]);

impl Kernel for AddSquares<'_> {
    type Out = f64;
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> f64 {
        let mut acc = [0.0f64; 16];
        let (sums, sum_rest) = self.0.as_chunks_mut::<16>();
        let (chunks, rest) = self.1.as_chunks::<16>();
        for (sum, x) in sums.iter_mut().zip(chunks) {
            for i in 0..16 {
                sum[i] += x[i];
                let v = f64::from(sum[i]);
                acc[i] += v * v;
            }
        }
        sum_rest.iter_mut().zip(rest).for_each(|(sum, x)| *sum += x);
        let tail: f64 = sum_rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        acc.iter().sum::<f64>() + tail
    }
}
