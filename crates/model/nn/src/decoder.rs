//! The decoder that the Llama-like families share.

use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use cupola_artifact::{Result, StateDict};
use cupola_ops::{Heads, LayerCache, LossForm, Mask, Precision, RopeAngles, Span};
use serde::{Deserialize, Serialize};

use crate::linear::Linear;
use crate::lora::{Lora, LoraConfig};
use crate::param::{Param, ParamMut};
use crate::rope::RopeSpec;

/// The numbers that make a decoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DecoderSpec {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Blocks.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub d_head: usize,
    /// Width of the feed-forward layer.
    pub d_ff: usize,
    /// The longest sequence.
    pub max_seq_len: usize,
    /// The norms' epsilon.
    pub norm_eps: f32,
    /// Rotary positions.
    pub rope: RopeSpec,
    /// Whether the output layer is the embedding.
    pub tie_embeddings: bool,
    /// Whether q, k, v and o have biases.
    pub attention_bias: bool,
    /// Whether the feed-forward layers have biases.
    pub mlp_bias: bool,
    /// The beginning-of-text token.
    pub bos: Option<u32>,
    /// The tokens at which generation ends.
    pub eos: Vec<u32>,
    /// The padding token.
    pub pad: Option<u32>,
}

impl DecoderSpec {
    /// Numbers in all weights.
    pub fn parameters(&self) -> u64 {
        let (d, f, dh) = (self.d_model as u64, self.d_ff as u64, self.d_head as u64);
        let (h, kv) = (self.n_heads as u64, self.n_kv_heads as u64);
        let attention = d * dh * (2 * h + 2 * kv) + u64::from(self.attention_bias) * (dh * (h + 2 * kv) + d);
        let mlp = 3 * d * f + u64::from(self.mlp_bias) * (2 * f + d);
        let heads = if self.tie_embeddings { 1 } else { 2 };
        self.n_layers as u64 * (attention + mlp + 2 * d) + d + heads * self.vocab_size as u64 * d
    }

    /// Numbers in the matrices that each token passes through, the output layer included and the embedding not.
    pub fn matrix_parameters(&self) -> u64 {
        let (d, f, dh) = (self.d_model as u64, self.d_ff as u64, self.d_head as u64);
        let attention = d * dh * (2 * self.n_heads as u64 + 2 * self.n_kv_heads as u64);
        self.n_layers as u64 * (attention + 3 * d * f) + self.vocab_size as u64 * d
    }

    /// Floating-point operations of training on one token of a sequence of `seq`: 6 for each matrix parameter, and
    /// attention's two products with half the sequence on average, three times over.
    pub fn train_flops_per_token(&self, seq: usize) -> f64 {
        let attention = self.n_layers * self.n_heads * self.d_head * seq;
        6.0 * self.matrix_parameters() as f64 + 6.0 * attention as f64
    }
}

/// A weight's place in the decoder; a family names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Token embedding.
    Embed,
    /// Norm after the last block.
    FinalNorm,
    /// Output layer.
    Head,
    /// Norm before attention.
    AttentionNorm,
    /// Queries.
    Q,
    /// Keys.
    K,
    /// Values.
    V,
    /// Attention's output.
    O,
    /// Norm before the feed-forward layer.
    FfnNorm,
    /// The gate.
    Gate,
    /// The gated.
    Up,
    /// Back to the residual stream.
    Down,
}

/// Where a decoder's weights come from: a checkpoint or a random number generator.
pub trait WeightSource {
    /// A norm's weight.
    fn norm(&mut self, role: Role, layer: usize, len: usize) -> Result<Param<1>>;
    /// A linear layer of `[d_out, d_in]`.
    fn linear(&mut self, role: Role, layer: usize, shape: [usize; 2], bias: bool) -> Result<Linear>;
    /// An embedding of `[vocab, d]`.
    fn embedding(&mut self, shape: [usize; 2]) -> Result<Param<2>>;
}

/// The tokens of one forward pass: `batch` rows of equal length, row after row.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Token ids, `[B · T]`.
    pub ids: Arc<[u32]>,
    /// Positions, `[B · T]`.
    pub positions: Arc<[u32]>,
    /// Who attends whom.
    pub mask: Mask,
    /// Rows.
    pub batch: usize,
}

impl Batch {
    /// Rows of plain text, each attending its own past.
    pub fn causal(ids: Vec<u32>, batch: usize) -> Self {
        let seq = ids.len() / batch;
        let positions = (0..batch).flat_map(|_| 0..seq as u32).collect();
        Self { mask: Mask::causal(batch, seq), positions, ids: ids.into(), batch }
    }

    /// Rows that hold several segments, each attending only its own past; `segments` numbers them, `[B · T]`.
    pub fn segmented(ids: Vec<u32>, batch: usize, segments: &[u32]) -> Self {
        let seq = ids.len() / batch;
        let mask = Mask::causal_segments(segments, seq);
        let positions = mask.lo.iter().enumerate().map(|(i, lo)| (i % seq) as u32 - lo).collect();
        Self { mask, positions, ids: ids.into(), batch }
    }

    /// Tokens per row.
    pub fn seq(&self) -> usize {
        self.ids.len() / self.batch
    }
}

/// The keys and values of one sequence, layer by layer.
#[derive(Clone, Debug)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    len: usize,
}

impl KvCache {
    /// An empty cache for a decoder.
    pub fn new(spec: &DecoderSpec) -> Self {
        Self { layers: vec![LayerCache::default(); spec.n_layers], len: 0 }
    }

    /// Tokens held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds nothing yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(LayerCache::bytes).sum()
    }
}

/// One sequence's share of a step of generation.
pub struct Step<'a> {
    /// What precedes.
    pub cache: &'a mut KvCache,
    /// How many of the step's tokens belong to this sequence.
    pub rows: usize,
}

/// What attention reaches: the batch itself, or each sequence's cache.
enum Reach<'a, 'b> {
    Batch(&'a Batch),
    Caches(&'a mut [Step<'b>]),
}

#[derive(Clone, Debug)]
struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
}

#[derive(Clone, Debug)]
struct FeedForward {
    gate: Linear,
    up: Linear,
    down: Linear,
}

#[derive(Clone, Debug)]
struct Block {
    attention_norm: Param<1>,
    attention: Attention,
    ffn_norm: Param<1>,
    ffn: FeedForward,
}

/// Token embedding, blocks, a last norm, and the output layer.
#[derive(Clone, Debug)]
pub struct Decoder {
    spec: DecoderSpec,
    embed: Param<2>,
    blocks: Vec<Block>,
    norm: Param<1>,
    head: Option<Linear>,
    angles: Arc<RopeAngles>,
    precision: Precision,
}

impl Attention {
    fn forward(&self, x: Tensor<2>, layer: usize, pass: &mut Pass<'_, '_, '_>) -> Tensor<2> {
        let heads = pass.heads;
        let q = cupola_ops::rope(self.q.forward(x.clone()), pass.angles, &pass.positions, heads.n_heads); // [N, H·dh]
        let k = cupola_ops::rope(self.k.forward(x.clone()), pass.angles, &pass.positions, heads.n_kv_heads);
        let v = self.v.forward(x); // [N, Hkv·dh]
        let mixed = match &mut pass.reach {
            Reach::Batch(batch) => cupola_ops::attention(q, k, v, heads, &batch.mask),
            Reach::Caches(steps) => {
                let mut spans: Vec<Span<'_>> =
                    steps.iter_mut().map(|s| Span { cache: &mut s.cache.layers[layer], rows: s.rows }).collect();
                cupola_ops::attention_cached(q, k, v, heads, &mut spans)
            }
        };
        self.o.forward(mixed)
    }
}

impl FeedForward {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.down.forward(cupola_ops::gated(
            cupola_ops::Activation::Silu,
            self.gate.forward(x.clone()),
            self.up.forward(x),
        ))
    }
}

impl Block {
    fn forward(&self, x: Tensor<2>, layer: usize, pass: &mut Pass<'_, '_, '_>) -> Tensor<2> {
        let norm = |x: &Tensor<2>, w: &Param<1>| cupola_ops::rms_norm(x.clone(), w.value(), pass.eps);
        let normed = norm(&x, &self.attention_norm);
        let x = x + self.attention.forward(normed, layer, pass);
        let normed = cupola_ops::rms_norm(x.clone(), self.ffn_norm.value(), pass.eps);
        x + self.ffn.forward(normed)
    }
}

/// What all blocks of one forward pass share.
struct Pass<'p, 'a, 'b> {
    angles: &'p Arc<RopeAngles>,
    positions: Arc<[u32]>,
    heads: Heads,
    eps: f32,
    reach: Reach<'a, 'b>,
}

impl Decoder {
    /// Builds a decoder from its numbers and a source of weights.
    ///
    /// # Errors
    /// When the source lacks a weight or has it in another shape.
    pub fn build(spec: DecoderSpec, source: &mut dyn WeightSource) -> Result<Self> {
        let DecoderSpec { d_model: d, d_ff: f, .. } = spec;
        let (q, kv) = (spec.n_heads * spec.d_head, spec.n_kv_heads * spec.d_head);
        let (ab, mb) = (spec.attention_bias, spec.mlp_bias);
        let embed = source.embedding([spec.vocab_size, d])?;
        let mut blocks = Vec::with_capacity(spec.n_layers);
        for i in 0..spec.n_layers {
            blocks.push(Block {
                attention_norm: source.norm(Role::AttentionNorm, i, d)?,
                attention: Attention {
                    q: source.linear(Role::Q, i, [q, d], ab)?,
                    k: source.linear(Role::K, i, [kv, d], ab)?,
                    v: source.linear(Role::V, i, [kv, d], ab)?,
                    o: source.linear(Role::O, i, [d, q], ab)?,
                },
                ffn_norm: source.norm(Role::FfnNorm, i, d)?,
                ffn: FeedForward {
                    gate: source.linear(Role::Gate, i, [f, d], mb)?,
                    up: source.linear(Role::Up, i, [f, d], mb)?,
                    down: source.linear(Role::Down, i, [d, f], mb)?,
                },
            });
        }
        let norm = source.norm(Role::FinalNorm, 0, d)?;
        let head = match spec.tie_embeddings {
            true => None,
            false => Some(source.linear(Role::Head, 0, [spec.vocab_size, d], false)?),
        };
        let angles = spec.rope.angles(spec.max_seq_len);
        Ok(Self { spec, embed, blocks, norm, head, angles, precision: Precision::F32 })
    }

    /// The numbers that make it.
    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// Where it lives.
    pub fn device(&self) -> Device {
        self.embed.value().device()
    }

    fn heads(&self, batch: usize) -> Heads {
        let s = &self.spec;
        Heads { batch, n_heads: s.n_heads, n_kv_heads: s.n_kv_heads, d_head: s.d_head }
    }

    fn blocks(&self, ids: &Arc<[u32]>, mut pass: Pass<'_, '_, '_>, mut seen: impl FnMut(&Tensor<2>)) -> Tensor<2> {
        let mut x = cupola_ops::embedding(self.embed.value(), ids); // [N, D]
        for (layer, block) in self.blocks.iter().enumerate() {
            seen(&x);
            x = block.forward(x, layer, &mut pass);
        }
        cupola_ops::rms_norm(x, self.norm.value(), self.spec.norm_eps)
    }

    fn pass<'p, 'a, 'b>(&'p self, positions: Arc<[u32]>, batch: usize, reach: Reach<'a, 'b>) -> Pass<'p, 'a, 'b> {
        Pass { angles: &self.angles, positions, heads: self.heads(batch), eps: self.spec.norm_eps, reach }
    }

    /// The last hidden states of a batch, `[B·T, D]`.
    pub fn hidden(&self, batch: &Batch) -> Tensor<2> {
        let pass = self.pass(Arc::clone(&batch.positions), batch.batch, Reach::Batch(batch));
        self.blocks(&batch.ids, pass, |_| {})
    }

    /// The embeddings, the input of each further block, and the last hidden states.
    pub fn hidden_states(&self, batch: &Batch) -> Vec<Tensor<2>> {
        let mut all = Vec::with_capacity(self.spec.n_layers + 1);
        let pass = self.pass(Arc::clone(&batch.positions), batch.batch, Reach::Batch(batch));
        let last = self.blocks(&batch.ids, pass, |x| all.push(x.clone()));
        all.push(last);
        all
    }

    /// The last hidden states of new tokens, `[N, D]`, for several sequences at once; the caches grow by them.
    pub fn step(&self, ids: &Arc<[u32]>, steps: &mut [Step<'_>]) -> Tensor<2> {
        let positions = steps.iter().flat_map(|s| s.cache.len as u32..(s.cache.len + s.rows) as u32).collect();
        let hidden = self.blocks(ids, self.pass(positions, 1, Reach::Caches(steps)), |_| {});
        for step in steps {
            step.cache.len += step.rows;
        }
        hidden
    }

    /// The logits of hidden states, `[N, V]`.
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        match &self.head {
            Some(head) => head.forward(hidden),
            None => cupola_ops::linear(hidden, self.embed.value(), None, self.precision),
        }
    }

    /// The output layer's weight as floats, `[V, D]`.
    fn head_weight(&self) -> Tensor<2> {
        self.head.as_ref().map_or_else(|| self.embed.value(), |head| head.weight.dense())
    }

    /// `sum_i weights[i] · nll_i`, `[1]`: targets and weights `[B·T]`; a target of [`cupola_ops::IGNORE`] counts nothing.
    pub fn loss(&self, batch: &Batch, targets: &Arc<[i32]>, weights: &Arc<[f32]>) -> Tensor<1> {
        self.loss_of_form(batch, targets, weights, LossForm::default())
    }

    /// The same with smoothed labels or a penalty on the logits' size.
    pub fn loss_of_form(&self, batch: &Batch, targets: &Arc<[i32]>, weights: &Arc<[f32]>, form: LossForm) -> Tensor<1> {
        cupola_ops::linear_cross_entropy(self.hidden(batch), self.head_weight(), targets, weights, form, self.precision)
    }

    /// The negative log-likelihood of each target, `[B·T]`.
    pub fn nll(&self, batch: &Batch, targets: &Arc<[i32]>) -> Tensor<1> {
        cupola_ops::linear_nll(self.hidden(batch), self.head_weight(), targets, self.precision)
    }

    /// Its linear layers inside the blocks.
    fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        self.blocks.iter_mut().flat_map(|b| {
            let (a, f) = (&mut b.attention, &mut b.ffn);
            [&mut a.q, &mut a.k, &mut a.v, &mut a.o, &mut f.gate, &mut f.up, &mut f.down]
        })
    }

    fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.blocks.iter().flat_map(|b| {
            let (a, f) = (&b.attention, &b.ffn);
            [&a.q, &a.k, &a.v, &a.o, &f.gate, &f.up, &f.down]
        })
    }

    /// All parameters, always in the same order.
    pub fn params_mut(&mut self) -> Vec<ParamMut<'_>> {
        let mut out = vec![ParamMut::Table(&mut self.embed)];
        for b in &mut self.blocks {
            out.push(ParamMut::Vector(&mut b.attention_norm));
            let (a, f) = (&mut b.attention, &mut b.ffn);
            for linear in [&mut a.q, &mut a.k, &mut a.v, &mut a.o] {
                linear.params_mut(&mut out);
            }
            out.push(ParamMut::Vector(&mut b.ffn_norm));
            for linear in [&mut f.gate, &mut f.up, &mut f.down] {
                linear.params_mut(&mut out);
            }
        }
        out.push(ParamMut::Vector(&mut self.norm));
        if let Some(head) = &mut self.head {
            let mut of_head = vec![];
            head.params_mut(&mut of_head);
            out.extend(of_head.into_iter().map(ParamMut::into_table));
        }
        out
    }

    /// What belongs in a checkpoint, adapters apart.
    pub fn state(&self) -> StateDict {
        let mut out = StateDict::new();
        out.insert(self.embed.name().to_string(), self.embed.to_host());
        for b in &self.blocks {
            for norm in [&b.attention_norm, &b.ffn_norm] {
                out.insert(norm.name().to_string(), norm.to_host());
            }
        }
        out.insert(self.norm.name().to_string(), self.norm.to_host());
        for linear in self.linears().chain(&self.head) {
            linear.state(&mut out);
        }
        out
    }

    /// Gives fresh adapters to the layers that `config` names; gives back how many.
    pub fn add_lora(&mut self, config: &LoraConfig, seed: u64) -> usize {
        let like = self.embed.plain();
        let mut count = 0;
        for linear in self.linears_mut() {
            let module = linear.weight.name().trim_end_matches(".weight").to_string();
            let last = module.rsplit('.').next().unwrap_or_default();
            if config.target_modules.iter().any(|t| t == last) {
                linear.lora = Some(Lora::new(&module, linear.weight.dims(), config, seed, &like));
                count += 1;
            }
        }
        count
    }

    /// The adapters' weights, named after their layers (`….q_proj.lora_A.weight`).
    pub fn lora_state(&self) -> StateDict {
        let adapters = self.linears().filter_map(|l| l.lora.as_ref());
        adapters.flat_map(|l| [&l.a, &l.b]).map(|p| (p.name().to_string(), p.to_host())).collect()
    }

    /// Adds the adapters to the weights and removes them.
    ///
    /// # Errors
    /// When a weight is quantized.
    pub fn merge_lora(&mut self) -> Result<()> {
        self.linears_mut().try_for_each(Linear::merge_adapter)
    }

    /// Replaces the blocks' weights, and the output layer's unless it is the embedding, by int8 numbers.
    pub fn quantize_int8(&mut self, group: usize) {
        self.linears_mut().for_each(|l| l.quantize_int8(group));
        if let Some(head) = &mut self.head {
            head.quantize_int8(group);
        }
    }

    /// What the products of dense weights multiply.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// What the products of dense weights multiply from now on.
    pub fn set_precision(&mut self, precision: Precision) {
        self.precision = precision;
        self.linears_mut().for_each(|l| l.precision = precision);
        if let Some(head) = &mut self.head {
            head.precision = precision;
        }
    }

    /// Which parameters are trained: `f` says it for each.
    pub fn set_trainable(&mut self, f: impl Fn(&ParamMut<'_>) -> bool) {
        for mut param in self.params_mut() {
            let trainable = f(&param);
            param.set_trainable(trainable);
        }
    }

    /// The same weights without a tape, for evaluation and generation; shares the memory.
    #[must_use]
    pub fn frozen(&self) -> Self {
        let mut copy = self.clone();
        copy.set_trainable(|_| false);
        copy
    }
}
