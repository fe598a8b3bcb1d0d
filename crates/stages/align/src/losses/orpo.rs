//! ORPO.

use burn::tensor::Tensor;

use crate::loss::{LossSettings, PairLogps, PairLoss, Reward, logistic};

/// The chosen answer's negative log-likelihood, and `-β·log σ` of the logarithm of the odds ratio, where an answer's
/// probability is the geometric mean of its tokens' (Hong et al. 2024, equations 4, 6 and 7; β is λ there).
pub struct Orpo;

impl PairLoss for Orpo {
    fn name(&self) -> &'static str {
        "orpo"
    }

    fn about(&self) -> &'static str {
        "likelihood of the chosen answer and odds against the rejected one in a single step, without a reference (Hong et al. 2024)"
    }

    fn keys(&self) -> &'static [&'static str] {
        &["beta", "nll_weight"]
    }

    fn defaults(&self) -> LossSettings {
        LossSettings { nll_weight: 1.0, ..LossSettings::default() }
    }

    fn reward(&self) -> Reward {
        Reward::Mean
    }

    fn loss(&self, pairs: &PairLogps, settings: &LossSettings) -> Tensor<1> {
        let [chosen, rejected] = pairs.per_token();
        let odds = (chosen.clone() - rejected.clone()) - (log_rest(chosen) - log_rest(rejected));
        logistic(odds, 0.0).mul_scalar(settings.beta) + pairs.chosen_nll().mul_scalar(settings.nll_weight)
    }
}

/// `log(1 - e^x)` for x below 0, as `log(-tanh(x/2)) + log(1 + e^x)`, which loses no digits near 0.
fn log_rest(x: Tensor<1>) -> Tensor<1> {
    let x = x.clamp_max(-1e-6);
    x.clone().mul_scalar(0.5).tanh().neg().log() + x.exp().log1p()
}
