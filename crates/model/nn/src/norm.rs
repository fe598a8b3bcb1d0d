//! The norms of a decoder, and the residual stream that they read.

use burn::tensor::Tensor;
use cupola_artifact::StateDict;

use crate::param::{Param, ParamMut};

/// Which norm a decoder has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// RMSNorm, without biases.
    Rms,
    /// LayerNorm, with biases.
    Layer,
}

impl NormKind {
    /// Whether it has a bias.
    pub fn bias(self) -> bool {
        self == NormKind::Layer
    }
}

/// A norm's weights.
#[derive(Clone, Debug)]
pub struct Norm {
    /// Which.
    pub kind: NormKind,
    /// Added to the variance.
    pub eps: f32,
    /// `[D]`.
    pub weight: Param<1>,
    /// `[D]`.
    pub bias: Option<Param<1>>,
}

impl Norm {
    fn bias(&self) -> Option<Tensor<1>> {
        self.bias.as_ref().map(Param::value)
    }

    /// x `[N, D]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        match self.kind {
            NormKind::Rms => cupola_ops::rms_norm(x, self.weight.value(), self.eps),
            NormKind::Layer => cupola_ops::layer_norm(x, self.weight.value(), self.bias(), self.eps),
        }
    }

    /// `x + delta` and its norm.
    fn of_sum(&self, x: Tensor<2>, delta: Tensor<2>) -> [Tensor<2>; 2] {
        match self.kind {
            NormKind::Rms => cupola_ops::add_rms_norm(x, delta, self.weight.value(), self.eps),
            NormKind::Layer => cupola_ops::add_layer_norm(x, delta, self.weight.value(), self.bias(), self.eps),
        }
    }

    /// Its parameters.
    pub fn params_mut<'a>(&'a mut self, out: &mut Vec<ParamMut<'a>>) {
        out.push(ParamMut::Vector(&mut self.weight));
        out.extend(self.bias.as_mut().map(ParamMut::Vector));
    }

    /// Adds what belongs in a checkpoint.
    pub fn state(&self, out: &mut StateDict) {
        for param in [Some(&self.weight), self.bias.as_ref()].into_iter().flatten() {
            out.insert(param.name().to_string(), param.to_host());
        }
    }
}

/// The residual stream. What a layer adds to it waits for the next norm, which adds on its way through memory.
pub struct Stream {
    x: Tensor<2>,
    delta: Option<Tensor<2>>,
}

impl Stream {
    /// A stream of the embeddings, `[N, D]`.
    pub fn new(x: Tensor<2>) -> Self {
        Self { x, delta: None }
    }

    /// Adds a layer's result.
    pub fn add(&mut self, delta: Tensor<2>) {
        self.x = self.value();
        self.delta = Some(delta);
    }

    /// The norm of what it holds.
    pub fn norm(&mut self, norm: &Norm) -> Tensor<2> {
        let Some(delta) = self.delta.take() else { return norm.forward(self.x.clone()) };
        let [sum, y] = norm.of_sum(self.x.clone(), delta);
        self.x = sum;
        y
    }

    /// What it holds.
    pub fn value(&self) -> Tensor<2> {
        match &self.delta {
            Some(delta) => self.x.clone() + delta.clone(),
            None => self.x.clone(),
        }
    }
}
