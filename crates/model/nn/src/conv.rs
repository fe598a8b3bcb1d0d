//! A causal convolution of each channel over time, which mixers have in front of their recurrence.

use burn::tensor::Tensor;
use cupola_artifact::Result;

use crate::module::{Module, Piece};
use crate::param::{Param, ParamMut};
use crate::sequences::Run;
use crate::source::{Init, Scope};

/// The convolution.
#[derive(Clone, Debug)]
pub(crate) struct CausalConv {
    /// `[D · K]`, in one row: no matrix that multiplies.
    weight: Param<1>,
    /// `[D]`.
    bias: Option<Param<1>>,
    /// `[D, K]`.
    shape: [usize; 2],
}

impl CausalConv {
    /// `width` channels by `kernel` steps; filled as PyTorch does.
    pub(crate) fn build(scope: &mut Scope<'_>, width: usize, kernel: usize, bias: bool) -> Result<Self> {
        let bound = 1.0 / (kernel as f32).sqrt();
        Ok(Self {
            weight: scope.param("weight", [width * kernel], Init::Uniform(bound))?,
            bias: bias.then(|| scope.param("bias", [width], Init::Fill(0.0))).transpose()?,
            shape: [width, kernel],
        })
    }

    /// Numbers that it remembers of a sequence.
    pub(crate) fn remembered(width: usize, kernel: usize) -> usize {
        width * kernel.saturating_sub(1)
    }

    /// The inputs before a sequence, `[K - 1, D]`: zeros, and the last of them `before` as often as `padding` says.
    pub(crate) fn start(&self, padding: usize, before: Option<&[f32]>) -> Vec<f32> {
        let [width, kernel] = self.shape;
        let mut start = vec![0.0; width * (kernel - 1)];
        if let Some(before) = before {
            start.chunks_exact_mut(width).rev().take(padding).for_each(|row| row.copy_from_slice(before));
        }
        start
    }

    /// x `[B·T, D]`, gives the same shape; `kind` says which of the states is its own.
    pub(crate) fn forward(&self, x: Tensor<2>, run: &mut Run<'_>, kind: usize) -> Tensor<2> {
        let weight: Tensor<2> = self.weight.value().reshape(self.shape);
        let bias = match &self.bias {
            Some(bias) => bias.value(),
            None => Tensor::zeros([self.shape[0]], &x.device()),
        };
        match &mut run.states {
            None => cupola_ops::causal_conv(x, weight, bias, run.batch),
            Some(states) => cupola_ops::causal_conv_from(x, weight, bias, &mut states[kind], run.batch),
        }
    }
}

impl Module for CausalConv {
    fn pieces<'a>(&'a mut self, out: &mut Vec<Piece<'a>>) {
        out.push(Piece::Param(ParamMut::Vector(&mut self.weight)));
        out.extend(self.bias.as_mut().map(|bias| Piece::Param(ParamMut::Vector(bias))));
    }
}
