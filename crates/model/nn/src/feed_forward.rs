//! Feed-forward layers: plain, or gated (Shazeer 2020).

use burn::tensor::Tensor;
use cupola_artifact::Result;
use cupola_ops::{Activation, Precision};

use crate::adapters::Spanning;
use crate::layer::{Layer, LayerKind, Pass};
use crate::linear::Linear;
use crate::module::{Module, Piece};
use crate::source::Scope;

/// The form of the feed-forward layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FfnKind {
    /// `down(f(gate(x)) · up(x))`
    Gated(Activation),
    /// `down(f(up(x)))`
    Plain(Activation),
}

impl FfnKind {
    /// Matrices that widen.
    fn widened(self) -> usize {
        match self {
            FfnKind::Gated(_) => 2,
            FfnKind::Plain(_) => 1,
        }
    }
}

/// The numbers that make a feed-forward layer.
#[derive(Clone, Debug, PartialEq)]
pub struct FeedForwardSpec {
    /// Its width.
    pub d_ff: usize,
    /// Its form.
    pub kind: FfnKind,
    /// Whether its linear layers have biases.
    pub bias: bool,
}

impl LayerKind for FeedForwardSpec {
    fn about(&self) -> String {
        let name = |f: Activation| match f {
            Activation::Silu => "SiLU",
            Activation::GeluTanh | Activation::GeluErf => "GELU",
            Activation::Relu => "ReLU",
            Activation::ReluSquared => "ReLU²",
        };
        match self.kind {
            FfnKind::Gated(Activation::Silu) => "SwiGLU".into(),
            FfnKind::Gated(f) => format!("gated {}", name(f)),
            FfnKind::Plain(f) => name(f).into(),
        }
    }

    fn build(&self, scope: &mut Scope<'_>, d_model: usize) -> Result<Box<dyn Layer>> {
        Ok(Box::new(FeedForward::build(self, scope, d_model)?))
    }

    fn kept(&self, _: usize, precision: Precision) -> usize {
        cupola_ops::feed_forward_kept(self.kind.widened() * self.d_ff, precision)
    }

    fn passing(&self, rows: usize) -> usize {
        (self.kind.widened() + 1) * self.d_ff * cupola_ops::feed_forward_rows(rows, self.d_ff)
    }
}

/// A feed-forward layer.
#[derive(Clone, Debug)]
pub(crate) struct FeedForward {
    f: Activation,
    gate: Option<Linear>,
    up: Linear,
    down: Linear,
    /// An adapter of the layers that widen, together.
    span: Option<Spanning>,
}

/// Up to so many rows a product does not pack its weights.
const FEW_ROWS: usize = 64;

impl FeedForward {
    pub(crate) fn build(spec: &FeedForwardSpec, scope: &mut Scope<'_>, d_model: usize) -> Result<Self> {
        let (wide, narrow) = ([spec.d_ff, d_model], [d_model, spec.d_ff]);
        let (f, gate) = match spec.kind {
            FfnKind::Gated(f) => (f, Some(scope.linear("gate", wide, spec.bias)?)),
            FfnKind::Plain(f) => (f, None),
        };
        let up = scope.linear("up", wide, spec.bias)?;
        Ok(Self { f, gate, up, down: scope.linear_out("down", narrow, spec.bias)?, span: None })
    }

    /// x `[N, D]`, gives `[N, D]`.
    pub(crate) fn of(&self, x: Tensor<2>) -> Tensor<2> {
        if let Some(y) = self.fused(&x) {
            return y;
        }
        let wide = match &self.gate {
            Some(gate) => {
                let [gate, up] = Linear::together([gate, &self.up], x, self.span.as_ref());
                cupola_ops::gated(self.f, gate, up)
            }
            None => cupola_ops::activation(self.f, self.up.forward(x)),
        };
        self.down.forward(wide)
    }

    /// The whole layer at once, where its parts are plain and there are enough rows to be worth packing weights for.
    fn fused(&self, x: &Tensor<2>) -> Option<Tensor<2>> {
        if x.dims()[0] <= FEW_ROWS || self.span.is_some() {
            return None;
        }
        let gate = match &self.gate {
            Some(gate) => Some(gate.plain()?),
            None => None,
        };
        let (up, down) = (self.up.plain()?, self.down.plain()?);
        Some(cupola_ops::feed_forward(self.f, x.clone(), gate, up, down, self.up.precision))
    }
}

impl Module for FeedForward {
    fn pieces<'a>(&'a mut self, out: &mut Vec<Piece<'a>>) {
        match &mut self.gate {
            Some(gate) => out.push(Piece::Linears(vec![gate, &mut self.up], &mut self.span)),
            None => out.push(Piece::Linear(&mut self.up)),
        }
        out.push(Piece::Linear(&mut self.down));
    }
}

impl Layer for FeedForward {
    fn forward(&self, x: Tensor<2>, _: &mut Pass<'_, '_>) -> Tensor<2> {
        self.of(x)
    }

    fn boxed(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }
}
