//! LoRA beside the tokens' vectors: `x += scale · Aᵀ[ids]·Bᵀ`.

use std::sync::Arc;

use burn::tensor::Tensor;
use cupola_artifact::Result;
use cupola_ops::Precision;

use crate::adapters::linear_adapter::{Make, product};
use crate::param::{Param, ParamMut};
use crate::source::Init;

/// An embedding's low-rank adapter.
#[derive(Clone, Debug)]
pub struct EmbeddingLora {
    /// `[r, V]`.
    a: Param<2>,
    /// `[D, r]`.
    b: Param<2>,
    scale: f32,
}

impl EmbeddingLora {
    pub(crate) fn make(make: &mut Make<'_>, r: usize, scale: f32, lr_ratio: f32) -> Result<Self> {
        let [width, vocab] = make.dims;
        Ok(Self {
            a: make.param("lora_embedding_A", [r, vocab], Init::Fill(0.0))?,
            b: make.param("lora_embedding_B", [width, r], Init::Deviation(1.0))?.with_lr_ratio(lr_ratio),
            scale,
        })
    }

    /// What it adds to the vectors of tokens, `[N, D]`.
    pub(crate) fn added(&self, ids: &Arc<[u32]>) -> Tensor<2> {
        let down = cupola_ops::embedding(self.a.value().transpose(), ids);
        cupola_ops::linear(down, self.b.value(), None, Precision::F32).mul_scalar(self.scale)
    }

    /// What it adds to the table, `[V, D]`.
    pub fn delta(&self) -> Tensor<2> {
        product(self.b.plain(), self.a.plain()).transpose().mul_scalar(self.scale)
    }

    /// A and B.
    pub(crate) fn params_mut<'a>(&'a mut self, out: &mut Vec<ParamMut<'a>>) {
        out.extend([&mut self.a, &mut self.b].map(ParamMut::Matrix));
    }
}
