//! Attention of a decoder to what an encoder has given (Vaswani et al. 2017): queries of the decoder's tokens, keys and
//! values of the encoder's. While a sequence is continued these are computed once and kept.

use burn::tensor::Tensor;
use cupola_artifact::Result;
use cupola_ops::{AttentionOptions, Heads, Mask, Precision};

use crate::layer::{Layer, LayerKind, LayerState, Pass};
use crate::linear::Linear;
use crate::module::{Module, Piece};
use crate::source::Scope;

/// What an encoder has given.
#[derive(Clone, Debug)]
pub struct Memory {
    /// Its last hidden states, `[B·Ts, D]`.
    pub states: Tensor<2>,
    /// Which of them each of the decoder's tokens attends, `[B·Tt]`.
    pub mask: Mask,
    /// Rows of the batch.
    pub batch: usize,
}

/// The numbers that make a cross-attention layer.
#[derive(Clone, Debug, PartialEq)]
pub struct CrossAttentionSpec {
    /// Heads.
    pub n_heads: usize,
    /// Width of a head.
    pub d_head: usize,
    /// Whether its linear layers have biases.
    pub bias: bool,
    /// What scores are multiplied by instead of `1 / sqrt(d_head)`.
    pub scale: Option<f32>,
}

impl CrossAttentionSpec {
    fn width(&self) -> usize {
        self.n_heads * self.d_head
    }

    /// Numbers in the matrices that each of the encoder's tokens is multiplied by.
    pub(crate) fn memory_products(&self, d_model: usize) -> usize {
        2 * self.width() * d_model
    }
}

impl LayerKind for CrossAttentionSpec {
    fn about(&self) -> String {
        "attention over the encoder's text".into()
    }

    fn remembers(&self) -> Option<&'static str> {
        Some("keys and values of the encoder's text")
    }

    fn build(&self, scope: &mut Scope<'_>, d_model: usize) -> Result<Box<dyn Layer>> {
        let wide = [self.width(), d_model];
        Ok(Box::new(CrossAttention {
            q: scope.linear("q", wide, self.bias)?,
            k: scope.linear("k", wide, self.bias)?,
            v: scope.linear("v", wide, self.bias)?,
            o: scope.linear_out("o", [d_model, self.width()], self.bias)?,
            spec: self.clone(),
        }))
    }

    /// Two products with all of the encoder's tokens, here taken to be as many as the decoder's.
    fn mixing_flops(&self, seq: usize) -> f64 {
        4.0 * (self.width() * seq) as f64
    }

    /// Queries, keys, values, the mix and its log-sum-exp.
    fn kept(&self, _: usize, _: Precision) -> usize {
        4 * self.width() + self.n_heads
    }

    fn remembered_of_memory(&self, len: usize) -> usize {
        2 * self.width() * len
    }
}

#[derive(Clone, Debug)]
struct CrossAttention {
    spec: CrossAttentionSpec,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
}

impl CrossAttention {
    fn mixed(&self, [q, k, v]: [Tensor<2>; 3], mask: &Mask, batch: usize, precision: Precision) -> Tensor<2> {
        let CrossAttentionSpec { n_heads, d_head, scale, .. } = self.spec;
        let heads = Heads { batch, n_heads, n_kv_heads: n_heads, d_head };
        let options = AttentionOptions { scale, precision, ..Default::default() };
        cupola_ops::attention_with(q, k, v, heads, mask, &options)
    }

    /// New tokens' queries, `[N, H·dh]`, against what is kept of each sequence's encoder.
    fn kept(&self, q: Tensor<2>, pass: &mut Pass<'_, '_>) -> Tensor<2> {
        let (mut at, mut mixed, precision) = (0, vec![], pass.precision);
        for (state, rows) in pass.states() {
            let own = q.clone().narrow(0, at, rows);
            at += rows;
            mixed.push(match &state.memory {
                Some([k, v]) => {
                    let mask = Mask { lo: vec![0; rows].into(), hi: vec![k.dims()[0] as u32; rows].into() };
                    self.mixed([own, k.clone(), v.clone()], &mask, 1, precision)
                }
                None => own.zeros_like(),
            });
        }
        Tensor::cat(mixed, 0)
    }
}

impl Module for CrossAttention {
    fn pieces<'a>(&'a mut self, out: &mut Vec<Piece<'a>>) {
        out.extend([&mut self.q, &mut self.k, &mut self.v, &mut self.o].map(Piece::Linear));
    }
}

impl Layer for CrossAttention {
    fn forward(&self, x: Tensor<2>, pass: &mut Pass<'_, '_>) -> Tensor<2> {
        let q = self.q.forward(x); // [N, H·dh]
        let mixed = match &pass.memory {
            Some(memory) => {
                let (k, v) = (self.k.forward(memory.states.clone()), self.v.forward(memory.states.clone()));
                self.mixed([q, k, v], &memory.mask, memory.batch, pass.precision)
            }
            None => self.kept(q, pass),
        };
        self.o.forward(mixed)
    }

    fn remember(&self, memory: &Tensor<2>, state: &mut LayerState) {
        state.memory = Some([&self.k, &self.v].map(|layer| layer.forward(memory.clone())));
    }

    fn boxed(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }
}
