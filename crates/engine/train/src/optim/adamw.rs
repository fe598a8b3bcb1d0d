//! AdamW (Loshchilov and Hutter 2019, algorithm 2).

use super::{Moments, OptimizerConfig, Rule, Slot, Target, Update};

/// Adam with decoupled weight decay, equal to `torch.optim.AdamW`.
pub struct AdamWRule;

impl Rule for AdamWRule {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn slots(&self, config: &OptimizerConfig, target: &Target) -> Vec<Slot> {
        ["exp_avg", "exp_avg_sq"].map(|name| Slot { name, len: target.numel(), dtype: config.state }).into()
    }

    fn apply(
        &self,
        config: &OptimizerConfig,
        update: &Update<'_>,
        param: &mut [f32],
        grad: &[f32],
        state: &mut [Moments],
    ) {
        let settings = cupola_kernels::AdamW {
            lr: update.lr,
            beta1: config.beta1,
            beta2: config.beta2,
            eps: config.eps,
            weight_decay: update.weight_decay,
            step: update.step,
            grad_scale: update.grad_scale,
        };
        match state {
            [Moments::F32(m), Moments::F32(v)] => cupola_kernels::adamw(param, grad, m, v, &settings),
            [Moments::Bf16(m), Moments::Bf16(v)] => cupola_kernels::adamw(param, grad, m, v, &settings),
            _ => unreachable!("AdamW keeps two moments of one type"),
        }
    }
}
