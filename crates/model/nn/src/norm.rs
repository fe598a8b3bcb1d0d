//! The norms of a model, and the residual stream that they read.

use burn::tensor::Tensor;

use crate::module::{Module, Piece};
use crate::param::{Param, ParamMut};

/// Which norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// RMSNorm (Zhang and Sennrich 2019).
    Rms,
    /// LayerNorm (Ba et al. 2016).
    Layer,
}

/// The numbers that make a norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormSpec {
    /// Which.
    pub kind: NormKind,
    /// Added to the variance.
    pub eps: f32,
    /// Whether it has a bias; LayerNorm alone may.
    pub bias: bool,
    /// Whether the weight is added to 1 (Gemma).
    pub plus_one: bool,
}

impl NormSpec {
    /// RMSNorm.
    pub fn rms(eps: f64) -> Self {
        Self { kind: NormKind::Rms, eps: eps as f32, bias: false, plus_one: false }
    }

    /// LayerNorm with a bias.
    pub fn layer(eps: f64) -> Self {
        Self { kind: NormKind::Layer, eps: eps as f32, bias: true, plus_one: false }
    }
}

/// A norm.
#[derive(Clone, Debug)]
pub struct Norm {
    /// The numbers that make it.
    pub spec: NormSpec,
    /// `[D]`.
    pub weight: Param<1>,
    /// `[D]`.
    pub bias: Option<Param<1>>,
}

impl Norm {
    /// Its parameters.
    pub fn params_mut<'a>(&'a mut self, out: &mut Vec<ParamMut<'a>>) {
        out.push(ParamMut::Vector(&mut self.weight));
        out.extend(self.bias.as_mut().map(ParamMut::Vector));
    }

    fn weight(&self) -> Tensor<1> {
        let weight = self.weight.value();
        if self.spec.plus_one { weight.add_scalar(1.0) } else { weight }
    }

    fn bias(&self) -> Option<Tensor<1>> {
        self.bias.as_ref().map(Param::value)
    }

    /// x `[N, D]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        match self.spec.kind {
            NormKind::Rms => cupola_ops::rms_norm(x, self.weight(), self.spec.eps),
            NormKind::Layer => cupola_ops::layer_norm(x, self.weight(), self.bias(), self.spec.eps),
        }
    }

    /// Each head of x `[N, heads · D]` for itself.
    pub fn of_heads(&self, x: Tensor<2>, heads: usize) -> Tensor<2> {
        let [rows, width] = x.dims();
        self.forward(x.reshape([rows * heads, width / heads])).reshape([rows, width])
    }

    /// `x + delta` and its norm.
    pub fn of_sum(&self, x: Tensor<2>, delta: Tensor<2>) -> [Tensor<2>; 2] {
        match self.spec.kind {
            NormKind::Rms => cupola_ops::add_rms_norm(x, delta, self.weight(), self.spec.eps),
            NormKind::Layer => cupola_ops::add_layer_norm(x, delta, self.weight(), self.bias(), self.spec.eps),
        }
    }
}

impl Module for Norm {
    fn pieces<'a>(&'a mut self, out: &mut Vec<Piece<'a>>) {
        out.push(Piece::Norm(self));
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
