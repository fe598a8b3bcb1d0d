//! Gradient descent with momentum.

use super::moment::Moment;
use super::pass::{Rule, pass};
use crate::simd::Simd;

/// The settings of one step of gradient descent.
#[derive(Clone, Copy, Debug)]
pub struct Sgd {
    pub lr: f32,
    /// 0 keeps no momentum.
    pub momentum: f32,
    /// Looks ahead: `g + momentum * m` in place of `m`.
    pub nesterov: bool,
    /// Coupled: `g += weight_decay * p`.
    pub weight_decay: f32,
    /// Counts from 1.
    pub step: u64,
    /// Multiplies every gradient first.
    pub grad_scale: f32,
}

/// One step as `torch.optim.SGD` without dampening: `m = momentum * m + g`, `p -= lr * m`. Without momentum `m` is not
/// looked at and may be empty.
pub fn sgd<T: Moment>(p: &mut [f32], g: &[f32], m: &mut [T], h: &Sgd) {
    if h.momentum == 0.0 {
        return pass::<T, 0>("sgd", Plain(*h), p, g, [], h.step);
    }
    pass("sgd", WithMomentum(*h), p, g, [m], h.step);
}

impl Sgd {
    /// The gradient with weight decay.
    #[inline(always)]
    fn slope<S: Simd>(&self, s: S, g: S::V, p: S::V) -> S::V {
        s.fma(s.splat(self.weight_decay), p, s.mul(g, s.splat(self.grad_scale)))
    }
}

#[derive(Clone, Copy)]
struct Plain(Sgd);

impl Rule<0> for Plain {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, g: S::V, p: S::V, _: [S::V; 0]) -> (S::V, [S::V; 0]) {
        (s.fma(s.splat(-self.0.lr), self.0.slope(s, g, p), p), [])
    }
}

#[derive(Clone, Copy)]
struct WithMomentum(Sgd);

impl Rule<1> for WithMomentum {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, g: S::V, p: S::V, [m]: [S::V; 1]) -> (S::V, [S::V; 1]) {
        let (g, momentum) = (self.0.slope(s, g, p), s.splat(self.0.momentum));
        let m = s.fma(momentum, m, g);
        let direction = if self.0.nesterov { s.fma(momentum, m, g) } else { m };
        (s.fma(s.splat(-self.0.lr), direction, p), [m])
    }
}
