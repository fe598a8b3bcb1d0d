//! The sign of an interpolated momentum (Chen et al. 2023, algorithm 2).

use super::moment::Moment;
use super::pass::{Rule, pass};
use crate::simd::Simd;

/// The settings of one Lion step.
#[derive(Clone, Copy, Debug)]
pub struct Lion {
    pub lr: f32,
    /// Weight of the momentum in the direction.
    pub beta1: f32,
    /// Decay of the momentum.
    pub beta2: f32,
    /// Decoupled: `p -= lr * weight_decay * p`.
    pub weight_decay: f32,
    /// Counts from 1.
    pub step: u64,
    /// Multiplies every gradient first.
    pub grad_scale: f32,
}

/// One Lion step: `p -= lr * sign(beta1 * m + (1 - beta1) * g)`, then `m = beta2 * m + (1 - beta2) * g`.
pub fn lion<T: Moment>(p: &mut [f32], g: &[f32], m: &mut [T], h: &Lion) {
    pass("lion", Step { h: *h, decay: super::decay(h.lr, h.weight_decay) }, p, g, [m], h.step);
}

#[derive(Clone, Copy)]
struct Step {
    h: Lion,
    decay: f32,
}

impl Rule<1> for Step {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, g: S::V, p: S::V, [m]: [S::V; 1]) -> (S::V, [S::V; 1]) {
        let h = &self.h;
        let g = s.mul(g, s.splat(h.grad_scale));
        let direction = s.fma(s.splat(h.beta1), s.sub(m, g), g);
        let m = s.fma(s.splat(1.0 - h.beta2), s.sub(g, m), m);
        (s.sub(s.mul(p, s.splat(self.decay)), s.mul(s.splat(h.lr), sign(s, direction))), [m])
    }
}

/// -1, 0 or 1; a NaN stays one. Twice 2^126 lifts the smallest number above one.
#[inline(always)]
fn sign<S: Simd>(s: S, x: S::V) -> S::V {
    let lift = s.splat(f32::from_bits((126 + 127) << 23));
    let x = s.mul(s.mul(x, lift), lift);
    s.min(s.splat(1.0), s.max(s.splat(-1.0), x))
}
