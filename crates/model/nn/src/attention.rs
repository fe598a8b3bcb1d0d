//! Multi-head attention (Vaswani et al. 2017) and its variants: grouped queries, rotary positions, ALiBi, windows, norms
//! of queries and keys.

use std::sync::Arc;

use burn::tensor::Tensor;
use cupola_artifact::Result;
use cupola_ops::{AttentionOptions, Heads, Mask, Precision, Span, alibi_slopes};

use crate::adapters::{GatedPrompt, Spanning};
use crate::batch::Batch;
use crate::layer::{Layer, LayerKind, Pass, Reach};
use crate::linear::Linear;
use crate::module::{Module, Piece, Place};
use crate::norm::{Norm, NormSpec};
use crate::relative::Relative;
use crate::rope::{Angles, RopeSpec};
use crate::source::Scope;

/// The numbers that make an attention layer.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionSpec {
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads (grouped queries, Ainslie et al. 2023).
    pub n_kv_heads: usize,
    /// Width of a head.
    pub d_head: usize,
    /// Rotary positions.
    pub rope: Option<RopeSpec>,
    /// Whether scores get the stack's biases for relative positions (T5).
    pub relative: bool,
    /// Scores fall with the distance (ALiBi, Press et al. 2022); the slopes are multiplied by this.
    pub alibi: Option<f32>,
    /// Whether q, k and v have biases.
    pub bias: bool,
    /// Whether the output has a bias.
    pub out_bias: bool,
    /// A norm over each head's queries and keys.
    pub qk_norm: Option<NormSpec>,
    /// How many tokens before and after itself a token attends.
    pub window: Option<[usize; 2]>,
    /// What scores are multiplied by instead of `1 / sqrt(d_head)`.
    pub scale: Option<f32>,
    /// With `c` a score `s` becomes `c * tanh(s / c)`.
    pub soft_cap: Option<f32>,
}

impl AttentionSpec {
    /// Attention without anything special.
    pub fn new(n_heads: usize, n_kv_heads: usize, d_head: usize) -> Self {
        Self {
            n_heads,
            n_kv_heads,
            d_head,
            rope: None,
            relative: false,
            alibi: None,
            bias: false,
            out_bias: false,
            qk_norm: None,
            window: None,
            scale: None,
            soft_cap: None,
        }
    }
}

impl LayerKind for AttentionSpec {
    fn about(&self) -> String {
        let parts = [
            (self.n_kv_heads < self.n_heads, "grouped queries"),
            (self.window.is_some(), "sliding window"),
            (self.qk_norm.is_some(), "norms of queries and keys"),
            (self.soft_cap.is_some(), "soft cap"),
            (self.bias, "biases"),
        ];
        let parts: Vec<&str> = parts.into_iter().filter(|part| part.0).map(|part| part.1).collect();
        if parts.is_empty() { "attention".into() } else { format!("attention ({})", parts.join(", ")) }
    }

    fn positions(&self) -> Option<&'static str> {
        match (&self.rope, self.alibi) {
            (None, None) if self.relative => Some("relative, learned"),
            (Some(_), _) => Some("rotary"),
            (None, Some(_)) => Some("ALiBi"),
            (None, None) => None,
        }
    }

    fn remembers(&self) -> Option<&'static str> {
        Some(if self.window.is_some() { "keys and values of the window" } else { "keys and values" })
    }

    fn build(&self, scope: &mut Scope<'_>, d_model: usize) -> Result<Box<dyn Layer>> {
        let (q, kv) = (self.n_heads * self.d_head, self.n_kv_heads * self.d_head);
        let norm = |scope: &mut Scope<'_>, part| self.qk_norm.map(|n| scope.norm(part, n, self.d_head)).transpose();
        Ok(Box::new(Attention {
            q: scope.linear("q", [q, d_model], self.bias)?,
            k: scope.linear("k", [kv, d_model], self.bias)?,
            v: scope.linear("v", [kv, d_model], self.bias)?,
            o: scope.linear_out("o", [d_model, q], self.out_bias)?,
            span: None,
            prompt: None,
            q_norm: norm(scope, "q_norm")?,
            k_norm: norm(scope, "k_norm")?,
            angles: self.rope.as_ref().map(|rope| scope.angles(rope)),
            slopes: self.alibi.map(|by| alibi_slopes(self.n_heads).iter().map(|slope| slope * by).collect()),
            spec: self.clone(),
        }))
    }

    /// Two products with half the sequence on average.
    fn mixing_flops(&self, seq: usize) -> f64 {
        let reached = self.window.map_or(seq, |[before, after]| (2 * (before + after + 1)).min(seq));
        2.0 * (self.n_heads * self.d_head * reached) as f64
    }

    /// Queries, keys, values, the mix and its log-sum-exp.
    fn kept(&self, _: usize, _: Precision) -> usize {
        2 * self.n_heads * self.d_head + 2 * self.n_kv_heads * self.d_head + self.n_heads
    }

    fn remembered(&self, _: usize, len: usize) -> usize {
        let len = self.window.map_or(len, |[before, _]| len.min(cupola_ops::cached_rows(before)));
        2 * self.n_kv_heads * self.d_head * len
    }
}

#[derive(Clone, Debug)]
struct Attention {
    spec: AttentionSpec,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    /// An adapter of q, k and v together.
    span: Option<Spanning>,
    /// Learned vectors that queries attend besides.
    prompt: Option<GatedPrompt>,
    q_norm: Option<Norm>,
    k_norm: Option<Norm>,
    angles: Option<Arc<Angles>>,
    slopes: Option<Arc<[f32]>>,
}

impl Attention {
    fn heads(&self, batch: usize) -> Heads {
        let s = &self.spec;
        Heads { batch, n_heads: s.n_heads, n_kv_heads: s.n_kv_heads, d_head: s.d_head }
    }

    /// Queries or keys, `[N, heads · dh]`, with their norm and their positions.
    fn placed(&self, x: Tensor<2>, norm: Option<&Norm>, n_heads: usize, pass: &Pass<'_, '_>) -> Tensor<2> {
        let x = norm.map_or_else(|| x.clone(), |norm| norm.of_heads(x.clone(), n_heads));
        match &self.angles {
            Some(angles) => cupola_ops::rope(x, &angles.upto(pass.positions_end()), &pass.positions, n_heads),
            None => x,
        }
    }

    fn options(&self, precision: Precision) -> AttentionOptions {
        let (scale, soft_cap) = (self.spec.scale, self.spec.soft_cap);
        AttentionOptions { d_value: None, scale, soft_cap, slopes: self.slopes.clone(), precision }
    }

    /// What heads gather, `[N, H·dh]`, the stack's relative positions taking part.
    fn relative(&self, qkv: [Tensor<2>; 3], relative: &Relative, pass: &mut Pass<'_, '_>) -> Tensor<2> {
        let options = self.options(pass.precision);
        if let Reach::Batch(batch) = &pass.reach {
            let bias = relative.bias(batch.seq(), batch.seq());
            return cupola_ops::attention_biased(qkv, self.heads(batch.batch), &self.mask(batch), &options, bias);
        }
        let mut spans: Vec<Span<'_>> =
            pass.states().map(|(state, rows)| Span { cache: &mut state.keys, rows }).collect();
        let bias = |rows, total| relative.bias(rows, total);
        cupola_ops::attention_cached_biased(qkv, self.heads(1), &options, &mut spans, &bias)
    }

    fn mask(&self, batch: &Batch) -> Mask {
        match self.spec.window {
            Some([before, after]) => batch.mask.and(&Mask::window(batch.batch, batch.seq(), before, after)),
            None => batch.mask.clone(),
        }
    }
}

impl Module for Attention {
    fn pieces<'a>(&'a mut self, out: &mut Vec<Piece<'a>>) {
        out.push(Piece::Linears(vec![&mut self.q, &mut self.k, &mut self.v], &mut self.span));
        out.push(Piece::Linear(&mut self.o));
        out.push(Piece::Place(Place::Attention(&mut self.prompt)));
        self.q_norm.pieces(out);
        self.k_norm.pieces(out);
    }
}

impl Layer for Attention {
    fn forward(&self, x: Tensor<2>, pass: &mut Pass<'_, '_>) -> Tensor<2> {
        let [q, k, v] = Linear::together([&self.q, &self.k, &self.v], x, self.span.as_ref()); // [N, H·dh], [N, Hkv·dh] twice
        let q = self.placed(q, self.q_norm.as_ref(), self.spec.n_heads, pass);
        let k = self.placed(k, self.k_norm.as_ref(), self.spec.n_kv_heads, pass);
        if let (true, Some(relative)) = (self.spec.relative, pass.relative.clone()) {
            return self.o.forward(self.relative([q, k, v], &relative, pass));
        }
        let asked = self.prompt.is_some().then(|| q.clone());
        let y = self.o.forward(self.mixed([q, k, v], pass));
        match (&self.prompt, asked) {
            (Some(prompt), Some(q)) => y + prompt.added(q, [&self.k, &self.v, &self.o], self.heads(1)),
            _ => y,
        }
    }

    fn boxed(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }
}

impl Attention {
    /// What heads gather, `[N, H·dh]`.
    fn mixed(&self, [q, k, v]: [Tensor<2>; 3], pass: &mut Pass<'_, '_>) -> Tensor<2> {
        let options = self.options(pass.precision);
        if let Reach::Batch(batch) = &pass.reach {
            let heads = self.heads(batch.batch);
            let prefixed =
                pass.prefix.as_ref().and_then(|p| p.with(pass.slot, [k.clone(), v.clone()], self.spec.window));
            match prefixed {
                Some((k, v, mask)) => cupola_ops::attention_with(q, k, v, heads, &mask, &options),
                None => cupola_ops::attention_with(q, k, v, heads, &self.mask(batch), &options),
            }
        } else {
            let mut spans: Vec<Span<'_>> =
                pass.states().map(|(state, rows)| Span { cache: &mut state.keys, rows }).collect();
            let before = self.spec.window.map(|[before, _]| before);
            cupola_ops::attention_cached([q, k, v], self.heads(1), &options, before, &mut spans)
        }
    }
}
