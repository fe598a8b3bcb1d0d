//! Gradient descent with momentum (Sutskever et al. 2013).

use super::{Moments, OptimizerConfig, Rule, Slot, Target, Update};

/// Gradient descent, equal to `torch.optim.SGD` without dampening; weight decay is added to the gradient.
pub struct SgdRule;

fn momentum(config: &OptimizerConfig) -> f32 {
    config.momentum.unwrap_or(0.9)
}

impl Rule for SgdRule {
    fn name(&self) -> &'static str {
        "sgd"
    }

    fn slots(&self, config: &OptimizerConfig, target: &Target) -> Vec<Slot> {
        if momentum(config) == 0.0 {
            return vec![];
        }
        vec![Slot { name: "momentum_buffer", len: target.numel(), dtype: config.state }]
    }

    fn apply(
        &self,
        config: &OptimizerConfig,
        update: &Update<'_>,
        param: &mut [f32],
        grad: &[f32],
        state: &mut [Moments],
    ) {
        let settings = cupola_kernels::Sgd {
            lr: update.lr,
            momentum: momentum(config),
            nesterov: config.nesterov.unwrap_or(false),
            weight_decay: update.weight_decay,
            step: update.step,
            grad_scale: update.grad_scale,
        };
        match state {
            [] => cupola_kernels::sgd::<f32>(param, grad, &mut [], &settings),
            [Moments::F32(m)] => cupola_kernels::sgd(param, grad, m, &settings),
            [Moments::Bf16(m)] => cupola_kernels::sgd(param, grad, m, &settings),
            _ => unreachable!("gradient descent keeps one moment at most"),
        }
    }
}
