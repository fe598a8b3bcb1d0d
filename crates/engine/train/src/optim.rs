//! Optimizers.

mod adafactor;
mod adamw;
mod gradients;
mod lion;
mod moments;
mod muon;
mod sgd;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use cupola_artifact::{Error, Result, StateDict};
use cupola_nn::ParamMut;
use serde::{Deserialize, Serialize};

pub use gradients::{Gradients, accumulate, gradient_norm};
pub use moments::{Moments, StateType};
pub use muon::AdjustLr;

/// What all optimizers are told. A rule reads what it has use for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Which one.
    pub name: String,
    /// Decay of the first moment (AdamW, Lion).
    pub beta1: f32,
    /// Decay of the second moment (AdamW), of the momentum (Lion).
    pub beta2: f32,
    /// Keeps AdamW's step finite where the second moment is zero.
    pub eps: f32,
    /// Weight decay, applied to matrices only: decoupled, with SGD added to the gradient.
    pub weight_decay: f32,
    /// Decay of the momentum (SGD, Muon); not set, 0.9 and 0.95.
    pub momentum: Option<f32>,
    /// Whether the momentum looks one step ahead (SGD, Muon); not set, no and yes.
    pub nesterov: Option<bool>,
    /// How Muon scales the learning rate of a matrix.
    pub adjust_lr: AdjustLr,
    /// What moments are stored in: `f32`, or `bf16` for half the memory.
    pub state: StateType,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            name: "adamw".into(),
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
            momentum: None,
            nesterov: None,
            adjust_lr: AdjustLr::Original,
            state: StateType::F32,
        }
    }
}

impl OptimizerConfig {
    fn check(&self) -> Result<()> {
        let decays = [("beta1", self.beta1), ("beta2", self.beta2), ("momentum", self.momentum.unwrap_or(0.0))];
        if let Some((name, value)) = decays.iter().find(|(_, value)| !(0.0..1.0).contains(value)) {
            return Err(Error::usage(format!("the optimizer's {name} = {value} is not at least 0 and below 1")));
        }
        if !(self.eps > 0.0 && self.weight_decay >= 0.0) {
            let message = format!("the optimizer's eps = {} or weight_decay = {} is", self.eps, self.weight_decay);
            return Err(Error::usage(format!("{message} too small")));
        }
        Ok(())
    }
}

/// What a rule may know of a parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Its shape.
    pub shape: Vec<usize>,
    /// Whether it is a matrix inside the blocks: neither a vector nor a table with a row for each token.
    pub hidden: bool,
}

impl Target {
    fn of(param: &ParamMut<'_>) -> Self {
        Self { shape: param.shape(), hidden: param.is_hidden() }
    }

    /// How many numbers it has.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// Rows and columns of a matrix.
    pub fn matrix(&self) -> Option<(usize, usize)> {
        match self.shape[..] {
            [rows, cols] => Some((rows, cols)),
            _ => None,
        }
    }
}

/// One update of one parameter.
#[derive(Clone, Copy, Debug)]
pub struct Update<'a> {
    /// What is updated.
    pub target: &'a Target,
    /// Learning rate.
    pub lr: f32,
    /// Weight decay for this parameter.
    pub weight_decay: f32,
    /// The step, from 1.
    pub step: u64,
    /// Gradients are multiplied by this first (clipping).
    pub grad_scale: f32,
}

/// Something that a rule remembers of a parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    /// Its name in checkpoints.
    pub name: &'static str,
    /// How many numbers.
    pub len: usize,
    /// Stored as what.
    pub dtype: StateType,
}

/// A rule that turns gradients into changes.
pub trait Rule: Sync {
    /// Its name in recipes.
    fn name(&self) -> &'static str;
    /// Whether it can keep its state in 16 bits.
    fn halves(&self) -> bool {
        true
    }
    /// What it remembers of a parameter; all of it begins as zeros.
    fn slots(&self, config: &OptimizerConfig, target: &Target) -> Vec<Slot>;
    /// Changes a parameter in place; `state` holds what [`Self::slots`] names, in that order.
    fn apply(
        &self,
        config: &OptimizerConfig,
        update: &Update<'_>,
        param: &mut [f32],
        grad: &[f32],
        state: &mut [Moments],
    );
}

/// Every optimizer.
pub const ALL: &[&dyn Rule] =
    &[&adamw::AdamWRule, &lion::LionRule, &sgd::SgdRule, &adafactor::AdafactorRule, &muon::MuonRule];

/// A rule with its state.
pub struct Optimizer {
    rule: &'static dyn Rule,
    config: OptimizerConfig,
    state: BTreeMap<String, Kept>,
}

/// What is remembered of one parameter.
struct Kept {
    slots: Vec<Slot>,
    moments: Vec<Moments>,
}

impl Optimizer {
    /// An optimizer without state yet.
    ///
    /// # Errors
    /// An unknown name, or settings that the rule cannot follow.
    pub fn new(config: &OptimizerConfig) -> Result<Self> {
        let rule = ALL.iter().copied().find(|r| r.name() == config.name).ok_or_else(|| {
            let known: Vec<_> = ALL.iter().map(|r| r.name()).collect();
            Error::usage(format!("unknown optimizer `{}`", config.name))
                .with_hint(format!("there are: {}", known.join(", ")))
        })?;
        config.check()?;
        if config.state == StateType::Bf16 && !rule.halves() {
            return Err(Error::usage(format!("the optimizer `{}` keeps its state in f32", config.name))
                .with_hint("leave the type of its state out: there is little of it"));
        }
        Ok(Self { rule, config: config.clone(), state: BTreeMap::new() })
    }

    /// Bytes of state for each number of a large hidden matrix.
    pub fn bytes_per_parameter(&self) -> f64 {
        let target = Target { shape: vec![1024, 1024], hidden: true };
        let bytes = |slot: &Slot| slot.len as f64 * slot.dtype.size() as f64;
        self.rule.slots(&self.config, &target).iter().map(bytes).sum::<f64>() / target.numel() as f64
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
        let (rule, config) = (self.rule, &self.config);
        let mut in_place = true;
        for (mut param, gradient) in params.into_iter().zip(gradients) {
            let Some(gradient) = gradient else { continue };
            let target = Target::of(&param);
            let kept = self.state.entry(param.name().to_string()).or_insert_with(|| {
                let slots = rule.slots(config, &target);
                let moments = slots.iter().map(|slot| Moments::zeros(slot.dtype, slot.len)).collect();
                Kept { slots, moments }
            });
            let weight_decay = if param.is_matrix() { config.weight_decay } else { 0.0 };
            let lr = lr * param.lr_ratio();
            let update = Update { target: &target, lr, weight_decay, step, grad_scale };
            in_place &= param.update(|data| rule.apply(config, &update, data, gradient, &mut kept.moments));
        }
        in_place
    }

    /// What it remembers, each with its name in a checkpoint.
    pub fn moments(&self) -> impl Iterator<Item = (String, &Moments)> {
        self.state.iter().flat_map(|(name, kept)| {
            kept.slots.iter().zip(&kept.moments).map(move |(slot, m)| (format!("{name}.{}", slot.name), m))
        })
    }

    /// Its state for a checkpoint.
    pub fn state(&self) -> StateDict {
        self.moments().map(|(name, moments)| (name, moments.to_host())).collect()
    }

    /// Takes the state of `params` out of a checkpoint, bit for bit. A parameter that never had a gradient has none.
    ///
    /// # Errors
    /// A tensor that is not one of its own, is missing, or is of another length or type.
    pub fn restore(&mut self, mut state: StateDict, params: &[ParamMut<'_>]) -> Result<()> {
        self.state.clear();
        for param in params {
            let slots = self.rule.slots(&self.config, &Target::of(param));
            let key = |slot: &Slot| format!("{}.{}", param.name(), slot.name);
            if !slots.iter().any(|slot| state.contains_key(&key(slot))) {
                continue;
            }
            let mut moments = Vec::with_capacity(slots.len());
            for slot in &slots {
                let found = state.remove(&key(slot)).and_then(|t| Moments::from_host(&t, slot.dtype, slot.len));
                moments.push(found.ok_or_else(|| {
                    Error::failed(format!(
                        "the checkpoint's optimizer state `{}` is not the {} numbers of type {} that {} keeps",
                        key(slot),
                        slot.len,
                        slot.dtype.name(),
                        self.rule.name()
                    ))
                })?);
            }
            self.state.insert(param.name().to_string(), Kept { slots, moments });
        }
        match state.keys().next() {
            Some(key) => {
                Err(Error::failed(format!("the checkpoint's optimizer state `{key}` is not of {}", self.rule.name())))
            }
            None => Ok(()),
        }
    }
}
