//! Mixtures of experts (Shazeer et al. 2017): feed-forward layers of which each token passes through a few (Jiang et al.
//! 2024, Mixtral), beside some that all tokens pass through (Dai et al. 2024, DeepSeekMoE).

use std::sync::Arc;

use burn::tensor::Tensor;
use cupola_artifact::Result;
use cupola_ops::{Activation, ExpertOrder, ExpertWeights, Precision};

use crate::feed_forward::{FeedForward, FeedForwardSpec};
use crate::layer::{Layer, LayerKind, Pass};
use crate::module::{Module, Piece};
use crate::param::{Param, ParamMut};
use crate::router::{Router, RouterSpec};
use crate::source::{Init, Scope, Use};

/// The numbers that make a mixture of gated experts.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertsSpec {
    /// How tokens choose.
    pub router: RouterSpec,
    /// The width of an expert.
    pub d_ff: usize,
    /// The activation.
    pub f: Activation,
    /// Experts that all tokens pass through, as one feed-forward layer.
    pub shared: Option<FeedForwardSpec>,
}

impl LayerKind for ExpertsSpec {
    fn about(&self) -> String {
        let shared = if self.shared.is_some() { ", and shared ones" } else { "" };
        format!("{} of {} experts{shared}", self.router.chosen, self.router.n_experts)
    }

    fn build(&self, scope: &mut Scope<'_>, d_model: usize) -> Result<Box<dyn Layer>> {
        let (experts, d_ff) = (self.router.n_experts, self.d_ff);
        let router = Router::build(&mut scope.at("router"), &self.router, d_model)?;
        let mut stack = |part: &str, shape: [usize; 2], init: Init<'_>| {
            let share = Use::Share(self.router.chosen as f64 / experts as f64);
            scope.at("experts").param_for(part, [experts, shape[0], shape[1]], init, share)
        };
        let gate = stack("gate", [d_ff, d_model], Init::Normal)?;
        let up = stack("up", [d_ff, d_model], Init::Normal)?;
        let down = stack("down", [d_model, d_ff], Init::Residual)?;
        let shared =
            self.shared.as_ref().map(|s| FeedForward::build(s, &mut scope.at("shared"), d_model)).transpose()?;
        Ok(Box::new(Experts { router, gate, up, down, f: self.f, shared }))
    }

    /// Of each choice its token, the gate, what is gated, their product and the result; the router's logits and scores.
    fn kept(&self, d_model: usize, precision: Precision) -> usize {
        let shared = self.shared.as_ref().map_or(0, |s| s.kept(d_model, precision));
        self.router.chosen * (2 * d_model + 3 * self.d_ff) + 2 * self.router.n_experts + shared
    }

    fn passing(&self, rows: usize) -> usize {
        let shared = self.shared.as_ref().map_or(0, |s| s.passing(rows));
        shared.max(rows * self.router.chosen * self.d_ff)
    }
}

#[derive(Clone, Debug)]
struct Experts {
    router: Router,
    /// `[E, F, D]`.
    gate: Param<3>,
    /// `[E, F, D]`.
    up: Param<3>,
    /// `[E, D, F]`.
    down: Param<3>,
    f: Activation,
    shared: Option<FeedForward>,
}

impl Module for Experts {
    fn pieces<'a>(&'a mut self, out: &mut Vec<Piece<'a>>) {
        out.push(Piece::Router(&mut self.router));
        out.extend([&mut self.gate, &mut self.up, &mut self.down].map(|p| Piece::Param(ParamMut::Stack(p))));
        self.shared.pieces(out);
    }
}

impl Layer for Experts {
    fn forward(&self, x: Tensor<2>, pass: &mut Pass<'_, '_>) -> Tensor<2> {
        let (chosen, weights) = self.router.choose(x.clone(), pass);
        let spec = self.router.spec();
        let order = Arc::new(ExpertOrder::new(&chosen, spec.chosen, spec.n_experts));
        let experts = ExpertWeights { gate: self.gate.value(), up: self.up.value(), down: self.down.value() };
        let y = cupola_ops::experts_gated(self.f, x.clone(), weights, experts, &order, pass.precision);
        match &self.shared {
            Some(shared) => y + shared.of(x),
            None => y,
        }
    }

    fn boxed(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }
}
