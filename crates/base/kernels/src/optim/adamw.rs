//! Adam with decoupled weight decay.

use super::moment::Moment;
use super::pass::{Rule, pass};
use crate::simd::Simd;

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
pub fn adamw<T: Moment>(p: &mut [f32], g: &[f32], m: &mut [T], v: &mut [T], h: &AdamW) {
    pass("adamw", Step::new(h), p, g, [m, v], h.step);
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
            decay: super::decay(h.lr, h.weight_decay),
        }
    }
}

impl Rule<2> for Step {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, g: S::V, p: S::V, [m, v]: [S::V; 2]) -> (S::V, [S::V; 2]) {
        let h = &self.h;
        let g = s.mul(g, s.splat(h.grad_scale));
        let m = s.fma(s.splat(1.0 - h.beta1), s.sub(g, m), m);
        let v = s.fma(s.splat(1.0 - h.beta2), s.mul(g, g), s.mul(s.splat(h.beta2), v));
        let root = s.fma(s.sqrt(v), s.splat(self.v_scale), s.splat(h.eps));
        let step = s.div(s.mul(s.splat(self.step_size), m), root);
        (s.sub(s.mul(p, s.splat(self.decay)), step), [m, v])
    }
}
