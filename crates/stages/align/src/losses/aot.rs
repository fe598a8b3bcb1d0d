//! Alignment by optimal transport.

use burn::tensor::Tensor;

use crate::loss::{LossSettings, PairLogps, PairLoss, logistic};

/// The logistic loss of the sorted margins of the policy against the sorted margins of the reference: their
/// distributions are compared, not the pairs (Melnyk et al. 2024, "Distributional Preference Alignment", paired).
pub struct Aot;

impl PairLoss for Aot {
    fn name(&self) -> &'static str {
        "aot"
    }

    fn about(&self) -> &'static str {
        "makes the whole distribution of margins better than the reference's (Melnyk et al. 2024)"
    }

    fn keys(&self) -> &'static [&'static str] {
        &["beta", "label_smoothing"]
    }

    fn compares_pairs(&self) -> bool {
        true
    }

    fn loss(&self, pairs: &PairLogps, settings: &LossSettings) -> Tensor<1> {
        let policy = sorted(pairs.chosen.clone() - pairs.rejected.clone());
        let reference = sorted(pairs.ref_chosen.clone() - pairs.ref_rejected.clone());
        logistic((policy - reference).mul_scalar(settings.beta), settings.label_smoothing)
    }
}

/// The same of the sorted ratios of all chosen answers against those of all rejected ones (unpaired).
pub struct AotUnpaired;

impl PairLoss for AotUnpaired {
    fn name(&self) -> &'static str {
        "aot_unpaired"
    }

    fn about(&self) -> &'static str {
        "makes the distribution of the chosen answers' ratios better than the rejected ones' (Melnyk et al. 2024)"
    }

    fn keys(&self) -> &'static [&'static str] {
        &["beta", "label_smoothing"]
    }

    fn compares_pairs(&self) -> bool {
        true
    }

    fn loss(&self, pairs: &PairLogps, settings: &LossSettings) -> Tensor<1> {
        let margin = sorted(pairs.chosen_ratio()) - sorted(pairs.rejected_ratio());
        logistic(margin.mul_scalar(settings.beta), settings.label_smoothing)
    }
}

/// The values in rising order; a gradient goes where its value came from.
fn sorted(values: Tensor<1>) -> Tensor<1> {
    let order = values.clone().detach().argsort(0);
    values.select(0, order)
}
