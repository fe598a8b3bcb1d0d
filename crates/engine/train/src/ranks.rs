//! Ranks that move during training (AdaLoRA, Zhang et al. 2023): a triplet of a row of A, a number of E and a column of B matters as
//! much as the loss would change without it; as the budget falls, those that matter least give way.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use cupola_arch::Model;
use cupola_artifact::{Error, HostTensor, Result, StateDict};
use cupola_nn::Module;
use serde_json::json;

use crate::optim::Gradients;

/// When ranks fall, and what was seen so far.
pub(crate) struct Ranks {
    /// Steps of the run, those before a change, and those after the last.
    steps: [u64; 3],
    every: u64,
    betas: [f32; 2],
    orthogonality: f32,
    /// Triplets at the beginning and at the end.
    budgets: [usize; 2],
    /// Of each parameter of each triplet: how sensitive the loss is to it, and how uncertain that is.
    seen: BTreeMap<String, [Vec<f32>; 2]>,
}

impl Ranks {
    /// The ranks of a model's adapter, where they move; the adapter's settings tell what was planned from now on.
    ///
    /// # Errors
    /// A schedule that leaves no steps for a change.
    pub fn of(model: &mut Model, total: u64) -> Result<Option<Self>> {
        let Some(settings) = model.adapted().and_then(|adapted| adapted.config.adapter.ranks()).cloned() else {
            return Ok(None);
        };
        let (warmup, settle) = (settings.warmup.unwrap_or(total / 10), settings.settle.unwrap_or(total / 3));
        if warmup + settle >= total {
            return Err(Error::usage(format!(
                "of {total} steps, `warmup` = {warmup} and `settle` = {settle} leave none in which ranks can fall"
            ))
            .with_hint("lower them in the adapter's settings, or train longer"));
        }
        let told = [("total_step", total), ("warmup", warmup), ("settle", settle)];
        model.retell_adapter(told.into_iter().map(|(key, value)| (key.to_string(), json!(value))).collect())?;
        let ranked = model.network.ranked();
        let budgets = [ranked.iter().map(|a| a.kept.len()).sum(), ranked.len() * settings.target_r];
        Ok(Some(Self {
            steps: [total, warmup, settle],
            every: settings.every,
            betas: [settings.beta1, settings.beta2],
            orthogonality: settings.orthogonality,
            budgets,
            seen: BTreeMap::new(),
        }))
    }

    /// What keeps rows of A and columns of B orthogonal, `[1]`.
    pub fn penalty(&self, model: &mut Model) -> Tensor<1> {
        let device = model.network.device();
        let ranked = model.network.ranked();
        let count = 2 * ranked.len().max(1);
        let parts = ranked.iter().flat_map(|adapter| adapter.penalty());
        let sum = parts.reduce(|sum, part| sum + part).unwrap_or_else(|| Tensor::zeros([1], &device));
        sum.mul_scalar(self.orthogonality / count as f32)
    }

    /// After the optimizer's step, from 1: looks at the gradients, times `scale`, and takes triplets away.
    pub fn after_step(&mut self, model: &mut Model, gradients: &Gradients, scale: f32, step: u64) {
        let [total, _, settle] = self.steps;
        let last = total - settle;
        if step < last {
            self.look(model, gradients, scale);
        }
        if let Some(budget) = self.budget(step) {
            self.fall_to(model, budget);
        } else if step > last {
            silence(model);
        }
    }

    /// How many triplets may stay after a step; none where nothing changes.
    fn budget(&self, step: u64) -> Option<usize> {
        let ([total, warmup, settle], [first, target]) = (self.steps, self.budgets);
        let last = total - settle;
        if step <= warmup || step > last || !(step.is_multiple_of(self.every) || step == last) {
            return None;
        }
        let left = 1.0 - (step - warmup) as f64 / (last - warmup) as f64;
        Some(((first.saturating_sub(target)) as f64 * left.powi(3) + target as f64) as usize)
    }

    fn look(&mut self, model: &mut Model, gradients: &Gradients, scale: f32) {
        let by_name: BTreeMap<String, &Vec<f32>> = {
            let params = model.params_mut();
            let pairs = params.iter().zip(gradients);
            pairs.filter_map(|(param, g)| Some((param.name().to_string(), g.as_ref()?))).collect()
        };
        let [beta1, beta2] = self.betas;
        for adapter in model.network.ranked() {
            for param in [&adapter.a, &adapter.e, &adapter.b] {
                let Some(gradient) = by_name.get(param.name()) else { continue };
                let numbers = cupola_ops::to_vec(&param.value());
                let fresh = || [vec![0.0; numbers.len()], vec![0.0; numbers.len()]];
                let [sensitivity, uncertainty] = self.seen.entry(param.name().to_string()).or_insert_with(fresh);
                for (i, (x, g)) in numbers.iter().zip(gradient.iter()).enumerate() {
                    let now = (x * g * scale).abs();
                    sensitivity[i] = beta1 * sensitivity[i] + (1.0 - beta1) * now;
                    uncertainty[i] = beta2 * uncertainty[i] + (1.0 - beta2) * (now - sensitivity[i]).abs();
                }
            }
        }
    }

    /// How much each number of a parameter matters.
    fn score(&self, name: &str) -> Vec<f32> {
        let both = self.seen.get(name).map(|[s, u]| s.iter().zip(u).map(|(s, u)| s * u).collect());
        both.unwrap_or_default()
    }

    fn fall_to(&mut self, model: &mut Model, budget: usize) {
        let mut scores: Vec<Vec<f32>> = vec![];
        for adapter in model.network.ranked() {
            let r = adapter.kept.len();
            let [a, e, b] = [&adapter.a, &adapter.e, &adapter.b].map(|param| self.score(param.name()));
            let (d_in, d_out) = (a.len() / r.max(1), b.len() / r.max(1));
            let mean = |numbers: &mut dyn Iterator<Item = f32>, n: usize| numbers.sum::<f32>() / n.max(1) as f32;
            let of = |k: usize| {
                e.get(k).copied().unwrap_or(0.0)
                    + mean(&mut a.iter().skip(k * d_in).take(d_in).copied(), d_in)
                    + mean(&mut b.iter().skip(k).step_by(r).copied(), d_out)
            };
            scores.push((0..r).map(of).collect());
        }
        let mut all: Vec<f32> = scores.iter().flatten().copied().collect();
        let drop = self.budgets[0].saturating_sub(budget);
        if drop == 0 || drop > all.len() {
            return;
        }
        all.sort_by(f32::total_cmp);
        let threshold = all[drop - 1];
        for (adapter, scores) in model.network.ranked().into_iter().zip(&scores) {
            adapter.kept = scores.iter().map(|score| *score > threshold).collect();
        }
        silence(model);
    }

    /// What a checkpoint keeps.
    pub fn state(&self, model: &mut Model) -> StateDict {
        let mut state = StateDict::new();
        for (name, [sensitivity, uncertainty]) in &self.seen {
            state.insert(format!("{name}.sensitivity"), HostTensor::from_f32([sensitivity.len()], sensitivity));
            state.insert(format!("{name}.uncertainty"), HostTensor::from_f32([uncertainty.len()], uncertainty));
        }
        for adapter in model.network.ranked() {
            let kept: Vec<u8> = adapter.kept.iter().map(|kept| u8::from(*kept)).collect();
            state.insert(format!("{}.kept", adapter.e.name()), HostTensor::from_u8([kept.len()], &kept));
        }
        state
    }

    /// Takes that out of a checkpoint.
    ///
    /// # Errors
    /// A tensor that is missing or of another size.
    pub fn restore(&mut self, model: &mut Model, state: &mut StateDict) -> Result<()> {
        self.seen.clear();
        for adapter in model.network.ranked() {
            let name = format!("{}.kept", adapter.e.name());
            let kept = state.remove(&name).filter(|tensor| tensor.len() == adapter.kept.len());
            let kept = kept.ok_or_else(|| Error::failed(format!("the checkpoint has no `{name}` that fits")))?;
            adapter.kept = kept.bytes.iter().map(|byte| *byte != 0).collect();
            for param in [&adapter.a, &adapter.e, &adapter.b] {
                let mut part = |part: &str| state.remove(&format!("{}.{part}", param.name())).map(|t| t.to_f32());
                if let (Some(sensitivity), Some(uncertainty)) = (part("sensitivity"), part("uncertainty")) {
                    self.seen.insert(param.name().to_string(), [sensitivity?, uncertainty?]);
                }
            }
        }
        Ok(())
    }
}

/// Sets the numbers of triplets that gave way to zero.
fn silence(model: &mut Model) {
    for adapter in model.network.ranked() {
        let kept = &adapter.kept;
        adapter.e.update(|numbers| {
            numbers.iter_mut().zip(kept).filter(|(_, kept)| !**kept).for_each(|(x, _)| *x = 0.0);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_falls_as_the_third_power_of_what_is_left() {
        let ranks = Ranks {
            steps: [100, 10, 20],
            every: 5,
            betas: [0.85; 2],
            orthogonality: 0.5,
            budgets: [96, 64],
            seen: BTreeMap::new(),
        };
        let budgets: Vec<Option<usize>> = [5, 10, 11, 15, 45, 80, 81].map(|step| ranks.budget(step)).into();
        assert_eq!(budgets, [None, None, None, Some(89), Some(68), Some(64), None]);
    }
}
