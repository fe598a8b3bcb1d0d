//! The hybrid layer of Zamba 2 (Glorioso et al. 2024): a Mamba-2 mixer in front of which a Transformer block, which several
//! layers share, looks at the stream beside the embeddings; each of them has adapters of its own in it.

use std::sync::Arc;

use burn::tensor::Tensor;
use cupola_artifact::Result;
use cupola_ops::{Activation, AttentionOptions, Heads, Precision, Span};

use crate::layer::{Layer, LayerKind, Pass, Reach};
use crate::linear::Linear;
use crate::mamba2::{Mamba2, Mamba2Spec};
use crate::module::{Module, Piece};
use crate::norm::{Norm, NormSpec};
use crate::rope::{Angles, RopeSpec};
use crate::sequences::scanned;
use crate::source::Scope;

/// The numbers that make a shared Transformer block.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedBlockSpec {
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub d_head: usize,
    /// Rotary positions.
    pub rope: Option<RopeSpec>,
    /// Width of the gated feed-forward layer.
    pub d_ff: usize,
    /// Its activation.
    pub activation: Activation,
    /// Whether its linear layers have biases.
    pub bias: bool,
}

/// The numbers that make a hybrid layer.
#[derive(Clone, Debug, PartialEq)]
pub struct HybridSpec {
    /// The Transformer block.
    pub block: SharedBlockSpec,
    /// Which of the shared blocks.
    pub shared: usize,
    /// Whether this layer is the first that uses it.
    pub owner: bool,
    /// Width of the adapters.
    pub rank: usize,
    /// Whether queries, keys and values have adapters, too.
    pub adapts_attention: bool,
    /// The mixer.
    pub mixer: Mamba2Spec,
    /// The norms.
    pub norm: NormSpec,
}

impl LayerKind for HybridSpec {
    fn about(&self) -> String {
        "selective state space with heads behind shared attention".into()
    }

    fn remembers(&self) -> Option<&'static str> {
        Some("keys, values and states")
    }

    fn build(&self, scope: &mut Scope<'_>, d_model: usize) -> Result<Box<dyn Layer>> {
        let (b, rank) = (&self.block, self.rank);
        let widths = [b.n_heads, b.n_kv_heads, b.n_kv_heads].map(|heads| heads * b.d_head);
        let shared = if self.owner { Some(SharedBlock::build(self, &mut scope.at("shared"), d_model)?) } else { None };
        let mut adapter = |part: &str, d_in: usize, d_out: usize| -> Result<Adapter> {
            let mut here = scope.at(part);
            Ok(Adapter { a: here.linear("a", [rank, d_in], false)?, b: here.linear("b", [d_out, rank], false)? })
        };
        let attention: Vec<Adapter> = match self.adapts_attention {
            true => ["q_adapter", "k_adapter", "v_adapter"]
                .iter()
                .zip(widths)
                .map(|(part, width)| adapter(part, 2 * d_model, width))
                .collect::<Result<_>>()?,
            false => vec![],
        };
        Ok(Box::new(Hybrid {
            shared,
            attention,
            ffn: adapter("ffn_adapter", d_model, 2 * b.d_ff)?,
            linear: scope.linear("linear", [d_model, d_model], false)?,
            norm: scope.norm("norm", self.norm, d_model)?,
            mixer: Mamba2::build(&self.mixer, &mut scope.at("mixer"), d_model)?,
            angles: b.rope.as_ref().map(|rope| scope.angles(rope)),
            spec: self.clone(),
        }))
    }

    /// The mixer's, two products with half the sequence on average, and the shared matrices where they count as another
    /// layer's.
    fn mixing_flops(&self, seq: usize) -> f64 {
        let b = &self.block;
        // The block reads twice the model's width, which is that of all its heads.
        let (q, kv, d_model) = (b.n_heads * b.d_head, b.n_kv_heads * b.d_head, b.n_heads * b.d_head / 2);
        let matrices = 2 * d_model * (q + 2 * kv) + d_model * (q + 3 * b.d_ff);
        let again = if self.owner { 0 } else { matrices };
        2.0 * (q * seq + again) as f64 + self.mixer.mixing_flops(seq)
    }

    fn kept(&self, d_model: usize, precision: Precision) -> usize {
        let b = &self.block;
        let attention = (2 * b.n_heads + 2 * b.n_kv_heads) * b.d_head + b.n_heads;
        self.mixer.kept(d_model, precision) + attention + 9 * d_model + 5 * b.d_ff
    }

    fn remembered(&self, d_model: usize, len: usize) -> usize {
        2 * self.block.n_kv_heads * self.block.d_head * len + self.mixer.remembered(d_model, len)
    }

    fn stands_alone(&self) -> bool {
        false
    }
}

/// A product of two narrow matrices that is added to a shared one.
#[derive(Clone, Debug)]
struct Adapter {
    a: Linear,
    b: Linear,
}

impl Adapter {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.b.forward(self.a.forward(x))
    }
}

/// A Transformer block without residual connections; x beside the embeddings goes in, `[N, 2·D]`.
#[derive(Clone, Debug)]
pub(crate) struct SharedBlock {
    norm: Norm,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    ffn_norm: Norm,
    gate_up: Linear,
    down: Linear,
}

impl SharedBlock {
    fn build(spec: &HybridSpec, scope: &mut Scope<'_>, d_model: usize) -> Result<Self> {
        let (b, d_in) = (&spec.block, 2 * d_model);
        let (q, kv) = (b.n_heads * b.d_head, b.n_kv_heads * b.d_head);
        Ok(Self {
            norm: scope.norm("norm", spec.norm, d_in)?,
            q: scope.linear("q", [q, d_in], false)?,
            k: scope.linear("k", [kv, d_in], false)?,
            v: scope.linear("v", [kv, d_in], false)?,
            o: scope.linear("o", [d_model, q], false)?,
            ffn_norm: scope.norm("ffn_norm", spec.norm, d_model)?,
            gate_up: scope.linear("gate_up", [2 * b.d_ff, d_model], b.bias)?,
            down: scope.linear("down", [d_model, b.d_ff], b.bias)?,
        })
    }
}

#[derive(Clone, Debug)]
struct Hybrid {
    spec: HybridSpec,
    shared: Option<SharedBlock>,
    /// Of queries, keys and values, if they have any.
    attention: Vec<Adapter>,
    ffn: Adapter,
    linear: Linear,
    norm: Norm,
    mixer: Mamba2,
    angles: Option<Arc<Angles>>,
}

impl Hybrid {
    /// Queries, keys and values of x `[N, 2·D]`.
    fn projected(&self, block: &SharedBlock, x: Tensor<2>, pass: &Pass<'_, '_>) -> [Tensor<2>; 3] {
        let mut all = [&block.q, &block.k, &block.v].map(|linear| linear.forward(x.clone()));
        for (projected, adapter) in all.iter_mut().zip(&self.attention) {
            *projected = projected.clone() + adapter.forward(x.clone());
        }
        let Some(angles) = &self.angles else { return all };
        let angles = angles.upto(pass.positions_end());
        let [q, k, v] = all;
        let place = |x: Tensor<2>, heads: usize| cupola_ops::rope(x, &angles, &pass.positions, heads);
        [place(q, self.spec.block.n_heads), place(k, self.spec.block.n_kv_heads), v]
    }

    /// The shared block's result, `[N, D]`.
    fn looked_at(&self, block: &SharedBlock, x: Tensor<2>, pass: &mut Pass<'_, '_>) -> Tensor<2> {
        let spec = &self.spec.block;
        let heads = |batch| Heads { batch, n_heads: spec.n_heads, n_kv_heads: spec.n_kv_heads, d_head: spec.d_head };
        // Half of what goes in is the stream: scores are as large as with heads half as wide.
        let scale = Some((spec.d_head as f32 / 2.0).powf(-0.5));
        let options = AttentionOptions { scale, precision: pass.precision, ..Default::default() };
        let [q, k, v] = self.projected(block, block.norm.forward(x), pass);
        let mixed = if let Reach::Batch(batch) = &pass.reach {
            cupola_ops::attention_with(q, k, v, heads(batch.batch), &batch.mask, &options)
        } else {
            let mut spans: Vec<Span<'_>> =
                pass.states().map(|(state, rows)| Span { cache: &mut state.keys, rows }).collect();
            cupola_ops::attention_cached([q, k, v], heads(1), &options, None, &mut spans)
        };
        let x = block.ffn_norm.forward(block.o.forward(mixed));
        let wide = block.gate_up.forward(x.clone()) + self.ffn.forward(x);
        let (gate, up) = (wide.clone().narrow(1, 0, spec.d_ff), wide.narrow(1, spec.d_ff, spec.d_ff));
        block.down.forward(cupola_ops::gated(spec.activation, gate, up))
    }
}

impl Module for Hybrid {
    fn pieces<'a>(&'a mut self, out: &mut Vec<Piece<'a>>) {
        if let Some(shared) = &mut self.shared {
            shared.norm.pieces(out);
            out.extend([&mut shared.q, &mut shared.k, &mut shared.v, &mut shared.o].map(Piece::Linear));
            shared.ffn_norm.pieces(out);
            out.extend([&mut shared.gate_up, &mut shared.down].map(Piece::Linear));
        }
        for adapter in self.attention.iter_mut().chain([&mut self.ffn]) {
            out.extend([&mut adapter.a, &mut adapter.b].map(Piece::Linear));
        }
        self.linear.pieces(out);
        self.norm.pieces(out);
        self.mixer.pieces(out);
    }
}

impl Layer for Hybrid {
    /// x is the stream itself: the layer has its own norms.
    fn forward(&self, x: Tensor<2>, pass: &mut Pass<'_, '_>) -> Tensor<2> {
        if let Some(shared) = &self.shared {
            pass.shared.push(shared.clone());
        }
        // Owners come first, in the order of their blocks.
        let block = pass.shared[self.spec.shared].clone();
        let embedded = pass.embedded.clone().unwrap_or_else(|| x.clone());
        let seen = self.looked_at(&block, Tensor::cat(vec![x.clone(), embedded], 1), pass);
        scanned(&self.mixer, self.norm.forward(x + self.linear.forward(seen)), pass)
    }

    fn boxed(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }
}
