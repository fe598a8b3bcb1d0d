//! Optimizers.

mod adamw;

use std::collections::BTreeMap;

use cupola_artifact::{Error, HostTensor, Result, StateDict};
use cupola_nn::ParamMut;
use serde::{Deserialize, Serialize};

/// What all optimizers are told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Which one.
    pub name: String,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Keeps the step finite where the second moment is zero.
    pub eps: f32,
    /// Decoupled weight decay, applied to matrices only.
    pub weight_decay: f32,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self { name: "adamw".into(), beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 }
    }
}

/// One update of one parameter.
#[derive(Clone, Copy, Debug)]
pub struct Update {
    /// Learning rate.
    pub lr: f32,
    /// Weight decay for this parameter.
    pub weight_decay: f32,
    /// The step, from 1.
    pub step: u64,
    /// Gradients are multiplied by this first (clipping).
    pub grad_scale: f32,
}

/// A rule that turns gradients into changes.
pub trait Rule: Sync {
    /// Its name in recipes.
    fn name(&self) -> &'static str;
    /// How many numbers of state it keeps for each number of a parameter.
    fn slots(&self) -> &'static [&'static str];
    /// Changes a parameter in place; `state` holds one vector for each slot.
    fn apply(&self, config: &OptimizerConfig, update: &Update, param: &mut [f32], grad: &[f32], state: &mut [Vec<f32>]);
}

/// Every optimizer.
pub const ALL: &[&dyn Rule] = &[&adamw::AdamWRule];

/// A rule with its state.
pub struct Optimizer {
    rule: &'static dyn Rule,
    config: OptimizerConfig,
    state: BTreeMap<String, Vec<Vec<f32>>>,
}

/// Gradients by parameter, in the order of the parameters; `None` for those that are not trained.
pub type Gradients = Vec<Option<Vec<f32>>>;

/// The Euclidean norm of all gradients together.
pub fn gradient_norm(gradients: &Gradients) -> f64 {
    gradients.iter().flatten().map(|g| cupola_kernels::sum_of_squares(g)).sum::<f64>().sqrt()
}

impl Optimizer {
    /// An optimizer without state yet.
    ///
    /// # Errors
    /// An unknown name.
    pub fn new(config: &OptimizerConfig) -> Result<Self> {
        let rule = ALL.iter().copied().find(|r| r.name() == config.name).ok_or_else(|| {
            let known: Vec<_> = ALL.iter().map(|r| r.name()).collect();
            Error::usage(format!("unknown optimizer `{}`", config.name))
                .with_hint(format!("there are: {}", known.join(", ")))
        })?;
        Ok(Self { rule, config: config.clone(), state: BTreeMap::new() })
    }

    /// Changes all parameters that have a gradient. `true` when each was changed in place.
    pub fn step(
        &mut self,
        params: Vec<ParamMut<'_>>,
        gradients: &Gradients,
        lr: f32,
        step: u64,
        grad_scale: f32,
    ) -> bool {
        let slots = self.rule.slots().len();
        let mut in_place = true;
        for (mut param, gradient) in params.into_iter().zip(gradients) {
            let Some(gradient) = gradient else { continue };
            if !self.state.contains_key(param.name()) {
                self.state.insert(param.name().to_string(), vec![vec![0.0; gradient.len()]; slots]);
            }
            let Some(state) = self.state.get_mut(param.name()) else { continue };
            let weight_decay = if param.is_matrix() { self.config.weight_decay } else { 0.0 };
            let update = Update { lr, weight_decay, step, grad_scale };
            in_place &= param.update(|data| self.rule.apply(&self.config, &update, data, gradient, state));
        }
        in_place
    }

    /// Its state for a checkpoint.
    pub fn state(&self) -> StateDict {
        let mut out = StateDict::new();
        for (name, slots) in &self.state {
            for (slot, data) in self.rule.slots().iter().zip(slots) {
                out.insert(format!("{name}.{slot}"), HostTensor::from_f32(vec![data.len()], data));
            }
        }
        out
    }

    /// Takes the state out of a checkpoint.
    ///
    /// # Errors
    /// A tensor that is not one of its own.
    pub fn restore(&mut self, state: &StateDict) -> Result<()> {
        self.state.clear();
        for (key, tensor) in state {
            let found = self.rule.slots().iter().enumerate().find_map(|(i, slot)| {
                let name = key.strip_suffix(slot)?.strip_suffix('.')?;
                Some((i, name))
            });
            let (slot, name) = found.ok_or_else(|| {
                Error::failed(format!("the checkpoint's optimizer state `{key}` is not of {}", self.rule.name()))
            })?;
            let slots = self.rule.slots().len();
            self.state.entry(name.to_string()).or_insert_with(|| vec![vec![]; slots])[slot] = tensor.to_f32()?;
        }
        Ok(())
    }
}
