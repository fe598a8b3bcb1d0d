//! A block of the decoder: attention and a feed-forward layer, each behind a norm and beside the residual stream.

use std::sync::Arc;

use burn::tensor::Tensor;
use cupola_artifact::Result;
use cupola_ops::{Activation, AttentionOptions, Heads, Part, Precision, RopeAngles, Span};

use crate::decoder::{Batch, Step};
use crate::linear::Linear;
use crate::norm::{Norm, Stream};
use crate::param::ParamMut;
use crate::spec::{DecoderSpec, FfnKind, Role, WeightSource};

/// What attention reaches: the batch itself, or each sequence's cache.
pub(crate) enum Reach<'a, 'b> {
    Batch(&'a Batch),
    Caches(&'a mut [Step<'b>]),
}

#[derive(Clone, Debug)]
pub(crate) struct Attention {
    pub q: Linear,
    pub k: Linear,
    pub v: Linear,
    pub o: Linear,
}

#[derive(Clone, Debug)]
pub(crate) struct FeedForward {
    pub f: Activation,
    pub gate: Option<Linear>,
    pub up: Linear,
    pub down: Linear,
}

/// Up to so many rows a product does not pack its weights.
const FEW_ROWS: usize = 64;

#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub attention_norm: Norm,
    pub attention: Attention,
    pub ffn_norm: Norm,
    pub ffn: FeedForward,
}

impl Attention {
    pub(crate) fn forward(&self, x: Tensor<2>, layer: usize, pass: &mut Pass<'_, '_, '_>) -> Tensor<2> {
        let heads = pass.heads;
        let q = pass.rotated(self.q.forward(x.clone()), heads.n_heads); // [N, H·dh]
        let k = pass.rotated(self.k.forward(x.clone()), heads.n_kv_heads); // [N, Hkv·dh]
        let v = self.v.forward(x); // [N, Hkv·dh]
        let mixed = match &mut pass.reach {
            Reach::Batch(batch) => {
                let options = AttentionOptions { precision: pass.precision, ..AttentionOptions::default() };
                cupola_ops::attention_with(q, k, v, heads, &batch.mask, &options)
            }
            Reach::Caches(steps) => {
                let mut spans: Vec<Span<'_>> =
                    steps.iter_mut().map(|s| Span { cache: &mut s.cache.layers[layer], rows: s.rows }).collect();
                cupola_ops::attention_cached(q, k, v, heads, &mut spans)
            }
        };
        self.o.forward(mixed)
    }

    pub(crate) fn linears(&self) -> [&Linear; 4] {
        [&self.q, &self.k, &self.v, &self.o]
    }

    pub(crate) fn linears_mut(&mut self) -> [&mut Linear; 4] {
        [&mut self.q, &mut self.k, &mut self.v, &mut self.o]
    }
}

impl FeedForward {
    pub(crate) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        if let Some(y) = self.fused(&x) {
            return y;
        }
        let wide = match &self.gate {
            Some(gate) => cupola_ops::gated(self.f, gate.forward(x.clone()), self.up.forward(x)),
            None => cupola_ops::activation(self.f, self.up.forward(x)),
        };
        self.down.forward(wide)
    }

    /// The whole layer at once, where its parts are plain and there are enough rows to be worth packing weights for.
    fn fused(&self, x: &Tensor<2>) -> Option<Tensor<2>> {
        if x.dims()[0] <= FEW_ROWS {
            return None;
        }
        let gate = match &self.gate {
            Some(gate) => Some(gate.plain()?),
            None => None,
        };
        let (up, down) = (self.up.plain()?, self.down.plain()?);
        Some(cupola_ops::feed_forward(self.f, x.clone(), gate, up, down, self.up.precision))
    }

    pub(crate) fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.gate.iter().chain([&self.up, &self.down])
    }

    pub(crate) fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        self.gate.iter_mut().chain([&mut self.up, &mut self.down])
    }
}

impl Block {
    pub(crate) fn forward(&self, stream: &mut Stream, layer: usize, pass: &mut Pass<'_, '_, '_>) {
        let normed = stream.norm(&self.attention_norm);
        stream.add(self.attention.forward(normed, layer, pass));
        let normed = stream.norm(&self.ffn_norm);
        stream.add(self.ffn.forward(normed));
    }
}

/// What all blocks of one forward pass share.
pub(crate) struct Pass<'p, 'a, 'b> {
    pub angles: Option<&'p Arc<RopeAngles>>,
    pub positions: Arc<[u32]>,
    pub heads: Heads,
    pub reach: Reach<'a, 'b>,
    /// What attention's products multiply.
    pub precision: Precision,
}

impl Pass<'_, '_, '_> {
    /// Queries or keys with their positions, where those are rotary.
    pub(crate) fn rotated(&self, x: Tensor<2>, n_heads: usize) -> Tensor<2> {
        match self.angles {
            Some(angles) => cupola_ops::rope(x, angles, &self.positions, n_heads),
            None => x,
        }
    }
}

/// A norm out of a source.
pub(crate) fn norm(source: &mut dyn WeightSource, spec: &DecoderSpec, role: Role, layer: usize) -> Result<Norm> {
    let (weight, bias) = source.norm(role, layer, spec.d_model, spec.norm.bias())?;
    Ok(Norm { kind: spec.norm, eps: spec.norm_eps, weight, bias })
}

/// A feed-forward layer out of a source.
pub(crate) fn feed_forward(source: &mut dyn WeightSource, spec: &DecoderSpec, layer: usize) -> Result<FeedForward> {
    let (wide, narrow) = ([spec.d_ff, spec.d_model], [spec.d_model, spec.d_ff]);
    let (f, gate) = match spec.ffn {
        FfnKind::Gated(f) => (f, Some(source.linear(Role::Gate, layer, wide, spec.mlp_bias)?)),
        FfnKind::Plain(f) => (f, None),
    };
    let up = source.linear(Role::Up, layer, wide, spec.mlp_bias)?;
    Ok(FeedForward { f, gate, up, down: source.linear(Role::Down, layer, narrow, spec.mlp_bias)? })
}

impl Block {
    /// A block out of a source.
    pub(crate) fn build(source: &mut dyn WeightSource, spec: &DecoderSpec, layer: usize) -> Result<Self> {
        let (d, bias) = (spec.d_model, spec.attention_bias);
        let (q, kv) = (spec.n_heads * spec.d_head, spec.n_kv_heads * spec.d_head);
        Ok(Self {
            attention_norm: norm(source, spec, Role::AttentionNorm, layer)?,
            attention: Attention {
                q: source.linear(Role::Q, layer, [q, d], bias)?,
                k: source.linear(Role::K, layer, [kv, d], bias)?,
                v: source.linear(Role::V, layer, [kv, d], bias)?,
                o: source.linear(Role::O, layer, [d, q], bias)?,
            },
            ffn_norm: norm(source, spec, Role::FfnNorm, layer)?,
            ffn: feed_forward(source, spec, layer)?,
        })
    }

    /// Its parameters, always in the same order.
    pub(crate) fn params_mut<'a>(&'a mut self, out: &mut Vec<ParamMut<'a>>) {
        self.attention_norm.params_mut(out);
        self.attention.linears_mut().into_iter().for_each(|linear| linear.params_mut(out));
        self.ffn_norm.params_mut(out);
        self.ffn.linears_mut().for_each(|linear| linear.params_mut(out));
    }

    /// [`Self::forward`] of x `[N, D]` that keeps `x` alone; the backward pass computes the block again.
    pub(crate) fn recomputed(&self, x: Tensor<2>, layer: usize, pass: &Pass<'_, '_, '_>, batch: &Batch) -> Tensor<2> {
        let mut plain = self.clone();
        let mut parameters = vec![];
        plain.params_mut(&mut parameters);
        let trainable: Vec<bool> = parameters.iter().map(ParamMut::trainable).collect();
        let leaves: Vec<Tensor<1>> = parameters.iter().filter_map(ParamMut::leaf).collect();
        parameters.iter_mut().for_each(|p| p.set_trainable(false));
        drop(parameters);
        let (angles, positions, heads, batch) =
            (pass.angles.cloned(), Arc::clone(&pass.positions), pass.heads, batch.clone());
        let precision = pass.precision;
        let run = move |block: &Block, x: Tensor<2>| {
            let (positions, reach) = (Arc::clone(&positions), Reach::Batch(&batch));
            let mut stream = Stream::new(x);
            block.forward(
                &mut stream,
                layer,
                &mut Pass { angles: angles.as_ref(), positions, heads, reach, precision },
            );
            stream.value()
        };
        let inner = if x.is_autodiff() { x.clone().inner() } else { x.clone() };
        let result = run(&plain, inner);
        let part: Arc<Part> = Arc::new(move |x| {
            let mut fresh = plain.clone();
            let mut parameters = vec![];
            fresh.params_mut(&mut parameters);
            parameters.iter_mut().zip(&trainable).for_each(|(p, trainable)| p.set_trainable(*trainable));
            let leaves = parameters.iter().filter_map(ParamMut::leaf).collect();
            drop(parameters);
            (run(&fresh, x), leaves)
        });
        cupola_ops::recompute(x, result, &leaves, part)
    }
}
