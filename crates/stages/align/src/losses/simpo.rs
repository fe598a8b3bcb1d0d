//! SimPO and AlphaPO.

use burn::tensor::Tensor;

use crate::loss::{LossSettings, PairLogps, PairLoss, Reward, logistic};

/// `-log σ(β·(r_w - r_l) - γ)` with the mean log-probability of an answer's tokens as its reward r (Meng et al. 2024,
/// "SimPO", equation 6). With α that reward is bent: `(1 - p^-α) / α` of the mean probability p (Gupta et al. 2025,
/// "AlphaPO", equation 8).
pub struct SimPo;

impl PairLoss for SimPo {
    fn name(&self) -> &'static str {
        "simpo"
    }

    fn about(&self) -> &'static str {
        "the margin per token beyond γ, without a reference (Meng et al. 2024); with `alpha` AlphaPO (Gupta et al. 2025)"
    }

    fn keys(&self) -> &'static [&'static str] {
        &["beta", "gamma", "alpha", "label_smoothing", "nll_weight"]
    }

    fn defaults(&self) -> LossSettings {
        // β as the paper advises (2 to 2.5), γ as TRL has it.
        LossSettings { beta: 2.0, gamma: 0.5, ..LossSettings::default() }
    }

    fn reward(&self) -> Reward {
        Reward::Mean
    }

    fn loss(&self, pairs: &PairLogps, settings: &LossSettings) -> Tensor<1> {
        let [chosen, rejected] = pairs.per_token().map(|mean| bent(mean, settings.alpha));
        let margin = (chosen - rejected).mul_scalar(settings.beta).sub_scalar(settings.gamma);
        logistic(margin, settings.label_smoothing) + pairs.chosen_nll().mul_scalar(settings.nll_weight)
    }
}

fn bent(mean: Tensor<1>, alpha: f64) -> Tensor<1> {
    match alpha == 0.0 {
        true => mean,
        false => (mean.mul_scalar(-alpha).exp().sub_scalar(1.0)).div_scalar(-alpha),
    }
}
