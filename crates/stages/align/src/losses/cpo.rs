//! Contrastive preference optimization.

use burn::tensor::Tensor;
use burn::tensor::activation::relu;

use crate::loss::{LossSettings, PairLogps, PairLoss, Reward, logistic};

/// `-log σ(β·(log π(y_w) - log π(y_l)))` with the chosen answer's negative log-likelihood beside it (Xu et al. 2024,
/// "CPO", equation 5).
pub struct Cpo;

impl PairLoss for Cpo {
    fn name(&self) -> &'static str {
        "cpo"
    }

    fn about(&self) -> &'static str {
        "the logistic loss of the answers' own log-probabilities, beside the chosen answer's likelihood (Xu et al. 2024)"
    }

    fn keys(&self) -> &'static [&'static str] {
        &["beta", "label_smoothing", "nll_weight"]
    }

    fn defaults(&self) -> LossSettings {
        LossSettings { nll_weight: 1.0, ..LossSettings::default() }
    }

    fn reward(&self) -> Reward {
        Reward::Sum
    }

    fn loss(&self, pairs: &PairLogps, settings: &LossSettings) -> Tensor<1> {
        let margin = (pairs.chosen.clone() - pairs.rejected.clone()).mul_scalar(settings.beta);
        logistic(margin, settings.label_smoothing) + pairs.chosen_nll().mul_scalar(settings.nll_weight)
    }
}

/// The same with the hinge loss (Zhao et al. 2023, "SLiC-HF", whose margin it is).
pub struct CpoHinge;

impl PairLoss for CpoHinge {
    fn name(&self) -> &'static str {
        "cpo_hinge"
    }

    fn about(&self) -> &'static str {
        "the hinge loss of the answers' own log-probabilities, beside the chosen answer's likelihood (Zhao et al. 2023)"
    }

    fn keys(&self) -> &'static [&'static str] {
        &["beta", "nll_weight"]
    }

    fn defaults(&self) -> LossSettings {
        LossSettings { nll_weight: 1.0, ..LossSettings::default() }
    }

    fn reward(&self) -> Reward {
        Reward::Sum
    }

    fn loss(&self, pairs: &PairLogps, settings: &LossSettings) -> Tensor<1> {
        let margin = (pairs.chosen.clone() - pairs.rejected.clone()).mul_scalar(-settings.beta);
        relu(margin.add_scalar(1.0)) + pairs.chosen_nll().mul_scalar(settings.nll_weight)
    }
}
