//! What this machine reaches: the denominators of utilisation figures, and the report of `doctor`.

use crate::Precision;
use crate::simd::{self, Kernel, Level, Simd};
use rayon::prelude::*;
use std::hint::black_box;
use std::time::Instant;

/// Floating-point operations per second (a fused multiply-add counts two) of f32 register loops on all threads, the
/// best of short repetitions over about `seconds`.
pub fn measure_peak_flops(seconds: f64) -> f64 {
    const ROUNDS: usize = 200_000;
    let level = simd::level();
    best_rate(seconds, || {
        let flops: Vec<f64> = rayon::broadcast(|_| simd::run(level, FmaLoop { rounds: ROUNDS }));
        flops.iter().sum()
    })
}

/// As [`measure_peak_flops`] for products of another precision: of the register tile over panels in the first cache. A
/// precision that this processor only imitates has the peak of 32-bit floats.
pub fn measure_peak_in(precision: Precision, seconds: f64) -> f64 {
    match crate::gemm::peak_loop(precision) {
        Some(tiles) => best_rate(seconds, || rayon::broadcast(|_| tiles()).iter().sum()),
        None => measure_peak_flops(seconds),
    }
}

/// Bytes per second read from memory on all threads, the best pass over a buffer far larger than the caches.
pub fn measure_bandwidth(seconds: f64) -> f64 {
    const FLOATS: usize = 96 << 20;
    let buffer = vec![1.0f32; FLOATS];
    let level = simd::level();
    let share = FLOATS.div_ceil(8 * threads());
    best_rate(seconds, || {
        let total: f32 = buffer.par_chunks(share).map(|x| simd::run(level, ReadLoop(x))).sum();
        black_box(total);
        (4 * FLOATS) as f64
    })
}

/// The best of amount / time over repeated calls of `work`.
fn best_rate(seconds: f64, work: impl Fn() -> f64) -> f64 {
    let start = Instant::now();
    let mut best = 0.0f64;
    loop {
        let from = Instant::now();
        let amount = work();
        best = best.max(amount / from.elapsed().as_secs_f64());
        if start.elapsed().as_secs_f64() >= seconds {
            return best;
        }
    }
}

/// The instruction set that the kernels use on this machine.
pub fn simd_name() -> &'static str {
    match simd::level() {
        Level::Avx512 => "avx512f",
        Level::Avx2 => "avx2+fma",
        Level::Neon => "neon",
        Level::Portable => "portable",
    }
}

/// The threads that the kernels use.
pub fn threads() -> usize {
    rayon::current_num_threads()
}

/// Independent chains of multiply-adds that stay in registers; returns the operations done.
struct FmaLoop {
    rounds: usize,
}

impl Kernel for FmaLoop {
    type Out = f64;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        const CHAINS: usize = 12;
        let (a, b) = (s.splat(black_box(0.999)), s.splat(black_box(0.001)));
        let mut acc = [s.splat(1.0); CHAINS];
        for _ in 0..self.rounds {
            for c in 0..CHAINS {
                acc[c] = s.fma(acc[c], a, b);
            }
        }
        let mut sum = s.zero();
        for c in 0..CHAINS {
            sum = s.add(sum, acc[c]);
        }
        black_box(s.reduce_sum(sum));
        (2 * CHAINS * S::LANES * self.rounds) as f64
    }
}

struct ReadLoop<'a>(&'a [f32]);

impl Kernel for ReadLoop<'_> {
    type Out = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let mut acc = [s.zero(); 8];
        for x in self.0.chunks_exact(8 * S::LANES) {
            for c in 0..8 {
                acc[c] = s.add(acc[c], s.at(x, c * S::LANES));
            }
        }
        acc.into_iter().map(|a| s.reduce_sum(a)).sum()
    }
}
