//! Lion (Chen et al. 2023, algorithm 2).

use super::{Moments, OptimizerConfig, Rule, Slot, Target, Update};

/// The sign of an interpolated momentum. Its steps are larger than AdamW's: the learning rate should be 3 to 10 times
/// smaller and weight decay as much larger.
pub struct LionRule;

impl Rule for LionRule {
    fn name(&self) -> &'static str {
        "lion"
    }

    fn slots(&self, config: &OptimizerConfig, target: &Target) -> Vec<Slot> {
        vec![Slot { name: "exp_avg", len: target.numel(), dtype: config.state }]
    }

    fn apply(
        &self,
        config: &OptimizerConfig,
        update: &Update<'_>,
        param: &mut [f32],
        grad: &[f32],
        state: &mut [Moments],
    ) {
        let settings = cupola_kernels::Lion {
            lr: update.lr,
            beta1: config.beta1,
            beta2: config.beta2,
            weight_decay: update.weight_decay,
            step: update.step,
            grad_scale: update.grad_scale,
        };
        match state {
            [Moments::F32(m)] => cupola_kernels::lion(param, grad, m, &settings),
            [Moments::Bf16(m)] => cupola_kernels::lion(param, grad, m, &settings),
            _ => unreachable!("Lion keeps one moment"),
        }
    }
}
