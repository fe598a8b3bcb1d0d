//! Mixtures of experts of which a token goes to one (Fedus et al. 2021, Switch Transformers): each expert takes so many tokens
//! of a row, the first that choose it; the others get nothing from it.

use std::sync::Arc;

use burn::tensor::Tensor;
use cupola_artifact::Result;
use cupola_ops::{Activation, ExpertOrder, Precision, Scores};

use crate::layer::{Layer, LayerKind, Pass, Reach};
use crate::module::{Module, Piece};
use crate::param::{Param, ParamMut};
use crate::router::{Router, RouterSpec, Routing};
use crate::source::{Init, Scope, Use};

/// The numbers that make such a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct SwitchSpec {
    /// Experts.
    pub n_experts: usize,
    /// Tokens of a row that an expert takes, padding included.
    pub capacity: usize,
    /// The width of an expert.
    pub d_ff: usize,
    /// The activation.
    pub f: Activation,
    /// Whether the router has a bias.
    pub router_bias: bool,
    /// The share of the squared log-sum-exp of the router's logits in the loss (Zoph et al. 2022).
    pub z_loss: f32,
}

impl SwitchSpec {
    /// The best by softmax. Load is balanced row by row, which [`row_balance`] sees to.
    fn router(&self) -> RouterSpec {
        RouterSpec {
            n_experts: self.n_experts,
            chosen: 1,
            scores: Scores::Softmax,
            normalize: false,
            scale: 1.0,
            groups: None,
            bias_step: None,
            balance: 0.0,
            z_loss: self.z_loss,
        }
    }
}

impl LayerKind for SwitchSpec {
    fn about(&self) -> String {
        format!("1 of {} experts with a capacity", self.n_experts)
    }

    fn build(&self, scope: &mut Scope<'_>, d_model: usize) -> Result<Box<dyn Layer>> {
        let (experts, d_ff) = (self.n_experts, self.d_ff);
        let router = Router::build(&mut scope.at("router"), &self.router(), d_model)?;
        let shift =
            self.router_bias.then(|| scope.at("router").param("shift", [experts], Init::Fill(0.0))).transpose()?;
        let mut stack = |part: &str, shape: [usize; 2], init: Init<'_>| {
            scope.at("experts").param_for(part, [experts, shape[0], shape[1]], init, Use::Share(1.0 / experts as f64))
        };
        let up = stack("up", [d_ff, d_model], Init::Normal)?;
        let down = stack("down", [d_model, d_ff], Init::Residual)?;
        Ok(Box::new(Switch { router, shift, up, down, spec: self.clone() }))
    }

    /// The token, what is widened before and after the activation, and the result; the router's logits and scores.
    fn kept(&self, d_model: usize, _: Precision) -> usize {
        2 * d_model + 2 * self.d_ff + 2 * self.n_experts
    }

    fn passing(&self, rows: usize) -> usize {
        rows * self.d_ff
    }
}

#[derive(Clone, Debug)]
struct Switch {
    spec: SwitchSpec,
    router: Router,
    /// `[E]`.
    shift: Option<Param<1>>,
    /// `[E, F, D]`.
    up: Param<3>,
    /// `[E, D, F]`.
    down: Param<3>,
}

/// For each token 1 where its expert still takes it, 0 where it is full; a row has `lengths[i]` tokens.
fn taken(chosen: &[u32], lengths: &[usize], spec: &SwitchSpec) -> Vec<f32> {
    let (mut rest, mut out) = (chosen, Vec::with_capacity(chosen.len()));
    for length in lengths {
        let (row, after) = rest.split_at(*length);
        let mut load = vec![0; spec.n_experts];
        out.extend(row.iter().map(|expert| {
            load[*expert as usize] += 1;
            f32::from(load[*expert as usize] <= spec.capacity)
        }));
        rest = after;
    }
    out
}

impl Module for Switch {
    fn pieces<'a>(&'a mut self, out: &mut Vec<Piece<'a>>) {
        out.push(Piece::Router(&mut self.router));
        out.extend(self.shift.as_mut().map(|shift| Piece::Param(ParamMut::Vector(shift))));
        out.extend([&mut self.up, &mut self.down].map(|p| Piece::Param(ParamMut::Stack(p))));
    }
}

impl Layer for Switch {
    fn forward(&self, x: Tensor<2>, pass: &mut Pass<'_, '_>) -> Tensor<2> {
        let (weight, shift) = (self.router.weight().value(), self.shift.as_ref().map(Param::value));
        let logits = cupola_ops::linear(x.clone(), weight, shift, Precision::F32); // [N, E]
        let (chosen, weights) = self.router.choose_from(logits, pass);
        let lengths: Vec<usize> = match &pass.reach {
            Reach::Batch(batch) => vec![batch.seq(); batch.batch],
            Reach::Caches(steps) => steps.iter().map(|step| step.rows).collect(),
        };
        let taken = taken(&chosen, &lengths, &self.spec);
        let weights = weights * cupola_ops::from_vec(taken, [chosen.len(), 1], &x.device());
        let order = Arc::new(ExpertOrder::new(&chosen, 1, self.spec.n_experts));
        let wide = cupola_ops::grouped_linear(cupola_ops::permute(x, &order), self.up.value(), &order, pass.precision);
        let wide = cupola_ops::activation(self.spec.f, wide);
        let narrow = cupola_ops::grouped_linear(wide, self.down.value(), &order, pass.precision);
        cupola_ops::combine(narrow, weights, &order)
    }

    fn boxed(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }
}

/// The load-balancing loss of Fedus et al. (2021), equation 4, over all layers of a stack at once, for each of `rows` rows by
/// itself and averaged, `[1]`. Padding counts.
pub fn row_balance(routing: &[Routing], rows: usize) -> Option<Tensor<1>> {
    let experts = routing.first()?.spec.n_experts;
    let seq = routing[0].chosen.len() / rows.max(1);
    let shares = routing.iter().map(|r| {
        let shares = cupola_ops::router_scores(r.logits.clone(), r.spec.scores);
        shares.reshape([rows, seq, experts])
    });
    let shares: Tensor<3> = Tensor::cat(shares.collect(), 1).mean_dim(1); // [B, 1, E]
    let mut load = vec![0.0; rows * experts];
    for (i, expert) in routing.iter().flat_map(|r| r.chosen.iter().enumerate()) {
        load[i / seq * experts + *expert as usize] += 1.0 / (seq * routing.len()) as f32;
    }
    let load = cupola_ops::from_vec(load, [rows, 1, experts], &shares.device());
    Some((shares * load).sum().mul_scalar(experts as f32 / rows as f32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expert_takes_the_first_tokens_of_each_row() {
        let spec =
            SwitchSpec { n_experts: 3, capacity: 2, d_ff: 1, f: Activation::Relu, router_bias: false, z_loss: 0.0 };
        let chosen = [0, 0, 1, 0, 0, 2, 2, 2, 0, 2];
        assert_eq!(taken(&chosen, &[5, 5], &spec), [1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0]);
        assert_eq!(taken(&chosen[..3], &[1, 2], &SwitchSpec { capacity: 1, ..spec }), [1.0; 3]);
    }
}
