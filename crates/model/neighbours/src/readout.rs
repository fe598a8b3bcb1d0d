//! The tokens of the nearest keys, mixed into a model's prediction.

use burn::tensor::Tensor;
use cupola_nn::Readout;
use cupola_ops::{from_vec, to_vec};
use rayon::prelude::*;

use crate::memory::Memory;

impl Readout for Memory {
    /// `ln(λ · p_memory + (1 − λ) · p_model)`, `[N, V]`.
    fn mix(&self, hidden: &Tensor<2>, logits: Tensor<2>) -> Tensor<2> {
        if self.is_empty() || self.settings.lambda == 0.0 {
            return logits;
        }
        let (shape, device) = (logits.dims(), logits.device());
        let mut numbers = to_vec(&logits);
        let predicted = self.predict(&to_vec(hidden));
        numbers.par_chunks_exact_mut(shape[1]).zip(predicted).for_each(|(row, shares)| self.mix_row(row, &shares));
        from_vec(numbers, shape, &device)
    }
}

impl Memory {
    /// Logits become log-probabilities of the mixture.
    fn mix_row(&self, row: &mut [f32], shares: &[(u32, f64)]) {
        if shares.is_empty() {
            return;
        }
        let lambda = f64::from(self.settings.lambda);
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f64 = row.iter().map(|l| f64::from(l - largest).exp()).sum();
        let all = f64::from(largest) + total.ln();
        let model: Vec<f64> = shares.iter().map(|(token, _)| (f64::from(row[*token as usize]) - all).exp()).collect();
        let shift = (1.0 - lambda).ln() - all;
        row.iter_mut().for_each(|l| *l = (f64::from(*l) + shift) as f32);
        for ((token, share), model) in shares.iter().zip(model) {
            row[*token as usize] = (lambda * share + (1.0 - lambda) * model).ln() as f32;
        }
    }
}
