//! Multi-head latent attention (DeepSeek-AI 2024, DeepSeek-V2): keys and values are widened from a narrow vector that all
//! heads share, and that vector is what generation remembers.

use std::sync::Arc;

use burn::tensor::Tensor;
use cupola_artifact::Result;
use cupola_ops::{AttentionOptions, Heads, Mask, Precision};

use crate::layer::{Layer, LayerKind, LayerState, Pass, Reach};
use crate::linear::Linear;
use crate::module::{Module, Piece};
use crate::norm::{Norm, NormSpec};
use crate::rope::{Angles, RopeSpec};
use crate::source::Scope;

/// The numbers that make a latent attention layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LatentAttentionSpec {
    /// Heads.
    pub n_heads: usize,
    /// Width of the vector that queries are widened from; without one they come from the stream.
    pub q_rank: Option<usize>,
    /// Width of the vector that keys and values are widened from.
    pub kv_rank: usize,
    /// The part of a head's query and key that has no position.
    pub d_plain: usize,
    /// The part that is rotated; one key for all heads.
    pub rope: RopeSpec,
    /// Whether the numbers of a pair that is rotated stand side by side instead of half a head apart.
    pub interleaved: bool,
    /// Width of a head's value.
    pub d_value: usize,
    /// What scores are multiplied by.
    pub scale: f32,
    /// Whether the narrowing layers and the output have biases.
    pub bias: bool,
    /// The norms of the narrow vectors.
    pub norm: NormSpec,
}

impl LatentAttentionSpec {
    /// Width of a head's query and key.
    fn d_head(&self) -> usize {
        self.d_plain + self.rope.rotary_dim
    }
}

impl LayerKind for LatentAttentionSpec {
    fn about(&self) -> String {
        "latent attention".into()
    }

    fn positions(&self) -> Option<&'static str> {
        Some("rotary on a part of each head")
    }

    fn remembers(&self) -> Option<&'static str> {
        Some("latents and rotated keys")
    }

    fn build(&self, scope: &mut Scope<'_>, d_model: usize) -> Result<Box<dyn Layer>> {
        let (q, kv) = (self.n_heads * self.d_head(), self.n_heads * (self.d_plain + self.d_value));
        let q_down = match self.q_rank {
            Some(rank) => {
                Some((scope.linear("q_down", [rank, d_model], self.bias)?, scope.norm("q_norm", self.norm, rank)?))
            }
            None => None,
        };
        Ok(Box::new(LatentAttention {
            q_down,
            q: match self.q_rank {
                Some(rank) => scope.linear("q_up", [q, rank], false)?,
                None => scope.linear("q", [q, d_model], false)?,
            },
            kv_down: scope.linear("kv_down", [self.kv_rank + self.rope.rotary_dim, d_model], self.bias)?,
            kv_norm: scope.norm("kv_norm", self.norm, self.kv_rank)?,
            kv: scope.linear("kv", [kv, self.kv_rank], false)?,
            o: scope.linear_out("o", [d_model, self.n_heads * self.d_value], self.bias)?,
            angles: scope.angles(&self.rope),
            spec: self.clone(),
        }))
    }

    /// Two products with half the sequence on average.
    fn mixing_flops(&self, seq: usize) -> f64 {
        (self.n_heads * (self.d_head() + self.d_value) * seq) as f64
    }

    /// The narrow vectors and their norms; queries and keys before and after their positions, values, the mix and its
    /// log-sum-exp.
    fn kept(&self, _: usize, _: Precision) -> usize {
        let narrow = 2 * (self.q_rank.unwrap_or(0) + self.kv_rank) + self.rope.rotary_dim;
        narrow + self.n_heads * (3 * self.d_head() + self.d_plain + 3 * self.d_value + 1)
    }

    fn remembered(&self, _: usize, len: usize) -> usize {
        (self.kv_rank + self.rope.rotary_dim) * len
    }
}

#[derive(Clone, Debug)]
struct LatentAttention {
    spec: LatentAttentionSpec,
    q_down: Option<(Linear, Norm)>,
    q: Linear,
    kv_down: Linear,
    kv_norm: Norm,
    kv: Linear,
    o: Linear,
    angles: Arc<Angles>,
}

/// What attention is over.
struct Latent {
    /// Each head's query, `[N, H · (dp + dr)]`: the part without position, then the rotated one.
    q: Tensor<2>,
    /// The narrow vectors, `[N, R]`.
    narrow: Tensor<2>,
    /// The rotated keys, `[N, dr]`.
    rotated: Tensor<2>,
}

impl LatentAttention {
    /// Rotates `heads` heads of x `[N, heads · dr]`. The numbers come out half a head apart, for queries and keys alike, which
    /// no score notices.
    fn placed(&self, x: Tensor<2>, heads: usize, pass: &Pass<'_, '_>) -> Tensor<2> {
        let ([rows, width], half) = (x.dims(), self.spec.rope.rotary_dim / 2);
        let x = match self.spec.interleaved {
            true => x.reshape([rows, heads, half, 2]).swap_dims(2, 3).reshape([rows, width]),
            false => x,
        };
        cupola_ops::rope(x, &self.angles.upto(pass.positions_end()), &pass.positions, heads)
    }

    fn latent(&self, x: Tensor<2>, pass: &Pass<'_, '_>) -> Latent {
        let (spec, rows) = (&self.spec, x.dims()[0]);
        let (heads, plain, rotary) = (spec.n_heads, spec.d_plain, spec.rope.rotary_dim);
        let q = match &self.q_down {
            Some((down, norm)) => self.q.forward(norm.forward(down.forward(x.clone()))),
            None => self.q.forward(x.clone()),
        };
        let q = q.reshape([rows, heads, plain + rotary]);
        let q_rotated = self.placed(q.clone().narrow(2, plain, rotary).reshape([rows, heads * rotary]), heads, pass);
        let q = Tensor::cat(vec![q.narrow(2, 0, plain), q_rotated.reshape([rows, heads, rotary])], 2);
        let kv = self.kv_down.forward(x);
        Latent {
            q: q.reshape([rows, heads * (plain + rotary)]),
            narrow: self.kv_norm.forward(kv.clone().narrow(1, 0, spec.kv_rank)),
            rotated: self.placed(kv.narrow(1, spec.kv_rank, rotary), 1, pass),
        }
    }

    fn heads(&self, batch: usize) -> Heads {
        let n = self.spec.n_heads;
        Heads { batch, n_heads: n, n_kv_heads: n, d_head: self.spec.d_head() }
    }

    fn options(&self, d_value: usize, precision: Precision) -> AttentionOptions {
        AttentionOptions {
            d_value: Some(d_value),
            scale: Some(self.spec.scale),
            precision,
            ..AttentionOptions::default()
        }
    }

    /// Attention with every head's keys and values, `[N, H · dv]`.
    fn widened(&self, latent: Latent, batch: usize, mask: &Mask, precision: Precision) -> Tensor<2> {
        let (spec, rows) = (&self.spec, latent.narrow.dims()[0]);
        let (heads, plain, rotary, value) = (spec.n_heads, spec.d_plain, spec.rope.rotary_dim, spec.d_value);
        let kv = self.kv.forward(latent.narrow).reshape([rows, heads, plain + value]);
        let rotated = latent.rotated.reshape([rows, 1, rotary]).repeat_dim(1, heads);
        let k = Tensor::cat(vec![kv.clone().narrow(2, 0, plain), rotated], 2).reshape([rows, heads * (plain + rotary)]);
        let v = kv.narrow(2, plain, value).reshape([rows, heads * value]);
        cupola_ops::attention_with(latent.q, k, v, self.heads(batch), mask, &self.options(value, precision))
    }

    /// The same with the widening moved from the keys to the queries and from the values to the mix, so that all heads attend
    /// the narrow vectors themselves; `w` is the widening layer's weight, `[H · (dp + dv), R]`.
    fn absorbed(&self, latent: Latent, w: Tensor<2>, mask: &Mask, precision: Precision) -> Tensor<2> {
        let (spec, rows) = (&self.spec, latent.q.dims()[0]);
        let (heads, plain, rotary, value) = (spec.n_heads, spec.d_plain, spec.rope.rotary_dim, spec.d_value);
        let w = w.reshape([heads, plain + value, spec.kv_rank]);
        let q = latent.q.reshape([rows, heads, plain + rotary]);
        let by_head = q.clone().narrow(2, 0, plain).swap_dims(0, 1); // [H, N, dp]
        let narrow_q = by_head.matmul(w.clone().narrow(1, 0, plain)).swap_dims(0, 1); // [N, H, R]
        let q = Tensor::cat(vec![narrow_q, q.narrow(2, plain, rotary)], 2);
        let d_head = spec.kv_rank + rotary;
        let k = Tensor::cat(vec![latent.narrow.clone(), latent.rotated], 1); // [T, R + dr]
        let shape = Heads { batch: 1, n_heads: heads, n_kv_heads: 1, d_head };
        let options = self.options(spec.kv_rank, precision);
        let q = q.reshape([rows, heads * d_head]);
        let mix = cupola_ops::attention_with(q, k, latent.narrow, shape, mask, &options);
        let mix = mix.reshape([rows, heads, spec.kv_rank]).swap_dims(0, 1); // [H, N, R]
        let mixed = mix.matmul(w.narrow(1, plain, value).swap_dims(1, 2)); // [H, N, dv]
        mixed.swap_dims(0, 1).reshape([rows, heads * value])
    }

    /// Whether so few new tokens are cheaper with the widening moved: it costs each of them a longer query, and saves
    /// widening all that came before.
    fn few(&self, rows: usize) -> bool {
        let spec = &self.spec;
        let widened = spec.d_plain + spec.d_value;
        rows * (2 * spec.kv_rank).saturating_sub(widened) < spec.kv_rank * widened
    }

    /// New tokens of one sequence, `[N, H · dv]`.
    fn step(&self, new: Latent, state: &mut LayerState, precision: Precision) -> Tensor<2> {
        let rows = new.q.dims()[0];
        let (narrow, rotated) = state.keys.extend(new.narrow, new.rotated);
        let total = narrow.dims()[0];
        let mask = Mask::last(rows, total);
        let all = Latent { q: new.q, narrow, rotated };
        match self.kv.plain() {
            Some((w, None)) if self.few(rows) => self.absorbed(all, w, &mask, precision),
            _ => self.widened(all, 1, &mask, precision),
        }
    }
}

impl Module for LatentAttention {
    fn pieces<'a>(&'a mut self, out: &mut Vec<Piece<'a>>) {
        if let Some((down, norm)) = &mut self.q_down {
            down.pieces(out);
            norm.pieces(out);
        }
        self.q.pieces(out);
        self.kv_down.pieces(out);
        self.kv_norm.pieces(out);
        self.kv.pieces(out);
        self.o.pieces(out);
    }
}

impl Layer for LatentAttention {
    fn forward(&self, x: Tensor<2>, pass: &mut Pass<'_, '_>) -> Tensor<2> {
        let latent = self.latent(x, pass);
        let precision = pass.precision;
        if let Reach::Batch(batch) = &pass.reach {
            return self.o.forward(self.widened(latent, batch.batch, &batch.mask, precision));
        }
        let mut first = 0;
        let parts = pass.states().map(|(state, rows)| {
            let part = |t: &Tensor<2>| t.clone().narrow(0, first, rows);
            let new = Latent { q: part(&latent.q), narrow: part(&latent.narrow), rotated: part(&latent.rotated) };
            first += rows;
            self.step(new, state, precision)
        });
        self.o.forward(Tensor::cat(parts.collect(), 0))
    }

    fn boxed(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }
}
