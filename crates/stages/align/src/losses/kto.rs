//! Kahneman-Tversky optimization, and APO on single answers.

use burn::tensor::Tensor;
use burn::tensor::activation::sigmoid;

use crate::unpaired::{SingleLogps, SingleLoss, SingleSettings};

/// `λ_D·(1 - σ(β·(r - z)))` of desirable and `λ_U·(1 - σ(β·(z - r)))` of undesirable answers, with `r` an answer's ratio
/// and `z` an estimate of the policy's divergence from the reference (Ethayarajh et al. 2024, equation 7).
pub struct Kto;

impl SingleLoss for Kto {
    fn name(&self) -> &'static str {
        "kto"
    }

    fn about(&self) -> &'static str {
        "learns from single answers, good or bad, against the policy's mean divergence (Ethayarajh et al. 2024)"
    }

    fn needs_divergence(&self) -> bool {
        true
    }

    fn loss(&self, answers: &SingleLogps, settings: &SingleSettings) -> Tensor<1> {
        let distance = answers.ratio().sub_scalar(answers.divergence.max(0.0));
        rest_of(distance, answers, settings)
    }
}

/// The same without the divergence: `1 - σ(β·r)` and `σ(β·r)` (D'Oosterlinck et al. 2024, equation 7, on single answers).
pub struct ApoZeroUnpaired;

impl SingleLoss for ApoZeroUnpaired {
    fn name(&self) -> &'static str {
        "apo_zero_unpaired"
    }

    fn about(&self) -> &'static str {
        "raises good answers and lowers bad ones, each by itself (D'Oosterlinck et al. 2024)"
    }

    fn loss(&self, answers: &SingleLogps, settings: &SingleSettings) -> Tensor<1> {
        rest_of(answers.ratio(), answers, settings)
    }
}

/// `λ·(1 - σ(±β·x))`, the sign by what an answer is.
fn rest_of(x: Tensor<1>, answers: &SingleLogps, settings: &SingleSettings) -> Tensor<1> {
    let by_kind = |good: f64, bad: f64| {
        let values =
            answers.desirable.iter().map(|desirable| if *desirable { good as f32 } else { bad as f32 }).collect();
        cupola_ops::from_vec::<1>(values, [answers.desirable.len()], &x.device())
    };
    let (signs, weights) =
        (by_kind(settings.beta, -settings.beta), by_kind(settings.desirable_weight, settings.undesirable_weight));
    (-sigmoid(x * signs)).add_scalar(1.0) * weights
}
