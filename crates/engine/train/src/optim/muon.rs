//! Muon (Jordan et al. 2024) for the hidden matrices, AdamW for everything else.

use super::adamw::AdamWRule;
use super::{Moments, OptimizerConfig, Rule, Slot, Target, Update};
use serde::{Deserialize, Serialize};

/// Momentum made orthogonal, equal to `torch.optim.Muon` up to its products, which are in bfloat16 there and in f32
/// here. It is made for matrices that map activations to activations; the embedding, the output layer, norms and biases
/// follow AdamW with the same learning rate.
pub struct MuonRule;

/// How the learning rate of a matrix follows from its shape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdjustLr {
    /// Times sqrt(rows / cols) where that is above 1, as Jordan et al. have it.
    #[default]
    Original,
    /// Times 0.2 sqrt(max(rows, cols)), which makes steps as large as AdamW's, so that one learning rate fits both
    /// (Liu et al. 2025).
    MatchRmsAdamw,
}

/// Rows and columns where Muon applies.
fn hidden(target: &Target) -> Option<(usize, usize)> {
    target.matrix().filter(|_| target.hidden)
}

impl Rule for MuonRule {
    fn name(&self) -> &'static str {
        "muon"
    }

    fn slots(&self, config: &OptimizerConfig, target: &Target) -> Vec<Slot> {
        match hidden(target) {
            Some(_) => vec![Slot { name: "momentum_buffer", len: target.numel(), dtype: config.state }],
            None => AdamWRule.slots(config, target),
        }
    }

    fn apply(
        &self,
        config: &OptimizerConfig,
        update: &Update<'_>,
        param: &mut [f32],
        grad: &[f32],
        state: &mut [Moments],
    ) {
        let Some((rows, cols)) = hidden(update.target) else {
            return AdamWRule.apply(config, update, param, grad, state);
        };
        let lr_ratio = match config.adjust_lr {
            AdjustLr::Original => cupola_kernels::Muon::original(rows, cols),
            AdjustLr::MatchRmsAdamw => cupola_kernels::Muon::match_rms_adamw(rows, cols),
        };
        let settings = cupola_kernels::Muon {
            lr: update.lr,
            momentum: config.momentum.unwrap_or(0.95),
            nesterov: config.nesterov.unwrap_or(true),
            lr_ratio,
            weight_decay: update.weight_decay,
            step: update.step,
            grad_scale: update.grad_scale,
        };
        match state {
            [Moments::F32(m)] => cupola_kernels::muon(param, grad, m, (rows, cols), &settings),
            [Moments::Bf16(m)] => cupola_kernels::muon(param, grad, m, (rows, cols), &settings),
            _ => unreachable!("Muon keeps one moment"),
        }
    }
}
