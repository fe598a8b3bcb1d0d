//! Routers of mixtures of experts (Shazeer et al. 2017): which experts a token goes to, with what weights, and what keeps
//! their load even.

use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{Int, Tensor};
use cupola_artifact::Result;
use cupola_ops::{Precision, Scores};

use crate::layer::{Pass, Reach};
use crate::param::Param;
use crate::source::{Init, Scope, Use};

/// The numbers that make a router.
#[derive(Clone, Debug, PartialEq)]
pub struct RouterSpec {
    /// Experts.
    pub n_experts: usize,
    /// Experts that a token goes to.
    pub chosen: usize,
    /// How logits become scores.
    pub scores: Scores,
    /// Whether the chosen scores are divided by their sum.
    pub normalize: bool,
    /// What the weights are multiplied by.
    pub scale: f32,
    /// So many equal groups of experts, and from how many of them a token may choose: those whose best two experts have
    /// the highest sum (DeepSeek-AI 2024).
    pub groups: Option<[usize; 2]>,
    /// Experts are chosen, not weighted, by `score + bias`; a bias moves by so much after each step of training, up where an
    /// expert got less than the mean load and down where it got more (Wang et al. 2024).
    pub bias_step: Option<f32>,
    /// The share of the load-balancing loss (Fedus et al. 2021) in the loss of training.
    pub balance: f32,
    /// The share of the squared log-sum-exp of the logits (Zoph et al. 2022).
    pub z_loss: f32,
}

/// A router.
#[derive(Clone, Debug)]
pub struct Router {
    spec: RouterSpec,
    /// `[E, D]`.
    pub(crate) weight: Param<2>,
    /// `[E]`; no gradient reaches it.
    bias: Option<Param<1>>,
    /// Tokens that each expert got in training, `[E]`; copies of the model share it.
    load: Arc<Mutex<Vec<u64>>>,
}

/// What a router decided for a batch.
#[derive(Clone, Debug)]
pub struct Routing {
    /// `[N, E]`.
    pub logits: Tensor<2>,
    /// `[N · k]`.
    pub chosen: Arc<[u32]>,
    /// The router's numbers.
    pub spec: RouterSpec,
}

impl Router {
    pub(crate) fn build(scope: &mut Scope<'_>, spec: &RouterSpec, d_model: usize) -> Result<Self> {
        let experts = spec.n_experts;
        Ok(Self {
            weight: scope.param_for("weight", [experts, d_model], Init::Normal, Use::Product)?,
            bias: spec
                .bias_step
                .map(|_| scope.param_for("bias", [experts], Init::Fill(0.0), Use::Buffer))
                .transpose()?,
            load: Arc::new(Mutex::new(vec![0; experts])),
            spec: spec.clone(),
        })
    }

    /// Each token's experts `[N · k]` and their weights `[N, k]`: x `[N, D]`. The product is in 32 bits.
    pub(crate) fn choose(&self, x: Tensor<2>, pass: &mut Pass<'_, '_>) -> (Arc<[u32]>, Tensor<2>) {
        self.choose_from(cupola_ops::linear(x, self.weight.value(), None, Precision::F32), pass)
    }

    /// The same by logits, `[N, E]`.
    pub(crate) fn choose_from(&self, logits: Tensor<2>, pass: &mut Pass<'_, '_>) -> (Arc<[u32]>, Tensor<2>) {
        let spec = &self.spec;
        let scores = cupola_ops::router_scores(logits.clone(), spec.scores);
        let bias = self.bias.as_ref().map(|bias| cupola_ops::to_vec(&bias.value()));
        let chosen = match spec.groups {
            Some(groups) => cupola_ops::choose_in_groups(&scores, spec.chosen, bias.as_deref(), groups),
            None => cupola_ops::choose_experts(&scores, spec.chosen, bias.as_deref()),
        };
        let mut weights = cupola_ops::expert_weights(scores, &chosen, spec.normalize);
        if spec.scale != 1.0 {
            weights = weights.mul_scalar(spec.scale);
        }
        if let Reach::Batch(batch) = &pass.reach {
            if logits.is_autodiff() {
                self.count(&chosen, batch.real.as_deref());
            }
            pass.routing.push(Routing { logits, chosen: Arc::clone(&chosen), spec: spec.clone() });
        }
        (chosen, weights)
    }

    fn count(&self, chosen: &[u32], real: Option<&[bool]>) {
        let mut load = self.load.lock().unwrap_or_else(PoisonError::into_inner);
        for (token, experts) in chosen.chunks(self.spec.chosen).enumerate() {
            if real.is_none_or(|real| real[token]) {
                experts.iter().for_each(|e| load[*e as usize] += 1);
            }
        }
    }

    /// Its numbers.
    pub fn spec(&self) -> &RouterSpec {
        &self.spec
    }

    /// The weight, `[E, D]`.
    pub fn weight(&self) -> &Param<2> {
        &self.weight
    }

    /// The bias, `[E]`, where it has one.
    pub fn bias_mut(&mut self) -> Option<&mut Param<1>> {
        self.bias.as_mut()
    }

    pub(crate) fn bias(&self) -> Option<&Param<1>> {
        self.bias.as_ref()
    }

    /// The tokens that each expert got in training since this was last asked, `[E]`.
    pub fn take_load(&self) -> Vec<u64> {
        let mut load = self.load.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut load, vec![0; self.spec.n_experts])
    }

    /// Moves the bias against an uneven load: `bias += u · sign(mean load - load)` (Wang et al. 2024, algorithm 1).
    pub fn balance(&mut self, load: &[u64]) {
        let (Some(bias), Some(step)) = (&mut self.bias, self.spec.bias_step) else { return };
        let (total, experts) = (load.iter().sum::<u64>(), load.len() as u64);
        let moved = cupola_ops::to_vec(&bias.value()).into_iter().zip(load).map(|(b, n)| {
            // Compared as whole numbers: a load that is the mean moves nothing.
            match (n * experts).cmp(&total) {
                std::cmp::Ordering::Less => b + step,
                std::cmp::Ordering::Equal => b,
                std::cmp::Ordering::Greater => b - step,
            }
        });
        let moved = cupola_ops::from_vec(moved.collect(), [load.len()], &bias.value().device());
        bias.set(moved);
    }
}

/// The rows that are no padding; all where `real` is absent.
fn real_rows(x: Tensor<2>, real: Option<&[bool]>) -> Tensor<2> {
    let Some(real) = real else { return x };
    let rows: Vec<i32> = real.iter().enumerate().filter(|(_, real)| **real).map(|(i, _)| i as i32).collect();
    let rows = Tensor::<1, Int>::from_data(&rows[..], &x.device());
    x.select(0, rows)
}

/// The logits of all layers, one after another, without padding: `[L · N, E]`.
fn all_logits(routing: &[Routing], real: Option<&[bool]>) -> Tensor<2> {
    Tensor::cat(routing.iter().map(|r| real_rows(r.logits.clone(), real)).collect(), 0)
}

/// The load-balancing loss over all layers at once, as transformers has it for Mixtral, `[1]`; padding does not count. There
/// must be a layer. Sigmoid scores are divided by their sum first (DeepSeek-AI 2024, equation 19).
pub fn balance_loss(routing: &[Routing], real: Option<&[bool]>) -> Tensor<1> {
    let spec = &routing[0].spec;
    let mut shares = cupola_ops::router_scores(all_logits(routing, real), spec.scores);
    if spec.scores == Scores::Sigmoid {
        shares = shares.clone() / shares.sum_dim(1);
    }
    let counts = |token: usize| real.is_none_or(|real| real[token]);
    let chosen: Vec<u32> = routing
        .iter()
        .flat_map(|r| r.chosen.chunks(spec.chosen).enumerate().filter(|(token, _)| counts(*token)))
        .flat_map(|(_, experts)| experts.iter().copied())
        .collect();
    cupola_ops::balance_loss(shares, &chosen)
}

/// What routers add to the loss, weighted, `[1]` each.
pub(crate) fn losses(routing: &[Routing], real: Option<&[bool]>) -> Vec<Tensor<1>> {
    let Some(spec) = routing.first().map(|r| &r.spec) else { return vec![] };
    let balance = (spec.balance != 0.0).then(|| balance_loss(routing, real).mul_scalar(spec.balance));
    let z_loss =
        (spec.z_loss != 0.0).then(|| cupola_ops::router_z_loss(all_logits(routing, real)).mul_scalar(spec.z_loss));
    balance.into_iter().chain(z_loss).collect()
}
