//! The optimizer's pass over the parameters.

use crate::map::{Map, map};
use crate::simd::{self, Kernel, Simd};
use rayon::prelude::*;

/// The settings of one AdamW step.
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    pub lr: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    /// Decoupled: `p -= lr * weight_decay * p`.
    pub weight_decay: f32,
    /// Counts from 1.
    pub step: u64,
    /// Multiplies every gradient first (clipping, loss scaling, accumulation).
    pub grad_scale: f32,
}

/// One AdamW step, as `torch.optim.AdamW`: parameters `p`, gradients `g`, moments `m` and `v`, all of one length.
pub fn adamw(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], h: &AdamW) {
    assert!(
        g.len() == p.len() && m.len() == p.len() && v.len() == p.len(),
        "adamw: {} parameters, but {} gradients and moments of {} and {}",
        p.len(),
        g.len(),
        m.len(),
        v.len()
    );
    assert!(h.step >= 1, "adamw: step counts from 1, got {}", h.step);
    map(Step::new(h), [g], [p, m, v]);
}

#[derive(Clone, Copy)]
struct Step {
    h: AdamW,
    /// lr / (1 - beta1^step)
    step_size: f32,
    /// 1 / sqrt(1 - beta2^step)
    v_scale: f32,
    decay: f32,
}

impl Step {
    fn new(h: &AdamW) -> Self {
        let correction = |beta: f32| 1.0 - f64::from(beta).powf(h.step as f64);
        Step {
            h: *h,
            step_size: (f64::from(h.lr) / correction(h.beta1)) as f32,
            v_scale: (1.0 / correction(h.beta2).sqrt()) as f32,
            decay: (1.0 - f64::from(h.lr) * f64::from(h.weight_decay)) as f32,
        }
    }
}

impl Map<1, 3> for Step {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, [g]: [S::V; 1], [p, m, v]: [S::V; 3]) -> [S::V; 3] {
        let h = &self.h;
        let g = s.mul(g, s.splat(h.grad_scale));
        let m = s.fma(s.splat(1.0 - h.beta1), s.sub(g, m), m);
        let v = s.fma(s.splat(1.0 - h.beta2), s.mul(g, g), s.mul(s.splat(h.beta2), v));
        let root = s.fma(s.sqrt(v), s.splat(self.v_scale), s.splat(h.eps));
        let step = s.div(s.mul(s.splat(self.step_size), m), root);
        [s.sub(s.mul(p, s.splat(self.decay)), step), m, v]
    }
}

/// The sum of the squares in double precision, for gradient norms.
pub fn sum_of_squares(x: &[f32]) -> f64 {
    const TASK: usize = 1 << 16;
    let level = simd::level();
    let parts: Vec<f64> = x.par_chunks(TASK).map(|x| simd::run(level, Squares(x))).collect();
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
