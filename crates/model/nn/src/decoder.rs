//! The decoder that the families share: Llama's and GPT-2's shapes and what lies between.

use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use cupola_artifact::{Result, StateDict};
use cupola_ops::{Activation, Heads, LayerCache, LossForm, Mask, Precision, RopeAngles, Span};

use crate::linear::Linear;
use crate::lora::{Lora, LoraConfig};
use crate::norm::{Norm, NormKind, Stream};
use crate::param::{Param, ParamMut};
use crate::rope::RopeSpec;

/// The form of the feed-forward layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FfnKind {
    /// `down(f(gate(x)) · up(x))`
    Gated(Activation),
    /// `down(f(up(x)))`
    Plain(Activation),
}

impl FfnKind {
    /// Matrices of a layer.
    fn matrices(self) -> u64 {
        match self {
            FfnKind::Gated(_) => 3,
            FfnKind::Plain(_) => 2,
        }
    }
}

/// How a token knows where it stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Positions {
    /// Queries and keys are rotated.
    Rotary(RopeSpec),
    /// A learned vector for each position is added to the embedding.
    Learned,
}

/// The numbers that make a decoder.
#[derive(Clone, Debug, PartialEq)]
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
    /// The norms.
    pub norm: NormKind,
    /// The feed-forward layers.
    pub ffn: FfnKind,
    /// Positions.
    pub positions: Positions,
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
        let matrices = self.ffn.matrices();
        let mlp = matrices * d * f + u64::from(self.mlp_bias) * ((matrices - 1) * f + d);
        let norm = if self.norm.bias() { 2 * d } else { d };
        let heads = if self.tie_embeddings { 1 } else { 2 };
        let positions = if self.positions == Positions::Learned { self.max_seq_len as u64 * d } else { 0 };
        let blocks = self.n_layers as u64 * (attention + mlp + 2 * norm);
        blocks + norm + positions + heads * self.vocab_size as u64 * d
    }

    /// Numbers in the matrices that each token passes through, the output layer included and the embedding not.
    pub fn matrix_parameters(&self) -> u64 {
        let (d, f, dh) = (self.d_model as u64, self.d_ff as u64, self.d_head as u64);
        let attention = d * dh * (2 * self.n_heads as u64 + 2 * self.n_kv_heads as u64);
        self.n_layers as u64 * (attention + self.ffn.matrices() * d * f) + self.vocab_size as u64 * d
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
    /// Position embedding.
    Positions,
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
    /// The gated, or the only layer that widens.
    Up,
    /// Back to the residual stream.
    Down,
}

/// Where a decoder's weights come from: a checkpoint or a random number generator.
pub trait WeightSource {
    /// A norm's weight and its bias.
    fn norm(&mut self, role: Role, layer: usize, len: usize, bias: bool) -> Result<(Param<1>, Option<Param<1>>)>;
    /// A linear layer of `[d_out, d_in]`.
    fn linear(&mut self, role: Role, layer: usize, shape: [usize; 2], bias: bool) -> Result<Linear>;
    /// An embedding of `[vocab, d]`, or of positions.
    fn embedding(&mut self, role: Role, shape: [usize; 2]) -> Result<Param<2>>;
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
    f: Activation,
    gate: Option<Linear>,
    up: Linear,
    down: Linear,
}

#[derive(Clone, Debug)]
struct Block {
    attention_norm: Norm,
    attention: Attention,
    ffn_norm: Norm,
    ffn: FeedForward,
}

/// Token embedding, blocks, a last norm, and the output layer.
#[derive(Clone, Debug)]
pub struct Decoder {
    spec: DecoderSpec,
    embed: Param<2>,
    positions: Option<Param<2>>,
    blocks: Vec<Block>,
    norm: Norm,
    head: Option<Linear>,
    angles: Option<Arc<RopeAngles>>,
    precision: Precision,
}

impl Attention {
    fn forward(&self, x: Tensor<2>, layer: usize, pass: &mut Pass<'_, '_, '_>) -> Tensor<2> {
        let heads = pass.heads;
        let q = pass.rotated(self.q.forward(x.clone()), heads.n_heads); // [N, H·dh]
        let k = pass.rotated(self.k.forward(x.clone()), heads.n_kv_heads); // [N, Hkv·dh]
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

    fn linears(&self) -> [&Linear; 4] {
        [&self.q, &self.k, &self.v, &self.o]
    }

    fn linears_mut(&mut self) -> [&mut Linear; 4] {
        [&mut self.q, &mut self.k, &mut self.v, &mut self.o]
    }
}

impl FeedForward {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let wide = match &self.gate {
            Some(gate) => cupola_ops::gated(self.f, gate.forward(x.clone()), self.up.forward(x)),
            None => cupola_ops::activation(self.f, self.up.forward(x)),
        };
        self.down.forward(wide)
    }

    fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.gate.iter().chain([&self.up, &self.down])
    }

    fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        self.gate.iter_mut().chain([&mut self.up, &mut self.down])
    }
}

impl Block {
    fn forward(&self, stream: &mut Stream, layer: usize, pass: &mut Pass<'_, '_, '_>) {
        let normed = stream.norm(&self.attention_norm);
        stream.add(self.attention.forward(normed, layer, pass));
        let normed = stream.norm(&self.ffn_norm);
        stream.add(self.ffn.forward(normed));
    }
}

/// What all blocks of one forward pass share.
struct Pass<'p, 'a, 'b> {
    angles: Option<&'p Arc<RopeAngles>>,
    positions: Arc<[u32]>,
    heads: Heads,
    reach: Reach<'a, 'b>,
}

impl Pass<'_, '_, '_> {
    /// Queries or keys with their positions, where those are rotary.
    fn rotated(&self, x: Tensor<2>, n_heads: usize) -> Tensor<2> {
        match self.angles {
            Some(angles) => cupola_ops::rope(x, angles, &self.positions, n_heads),
            None => x,
        }
    }
}

/// A norm out of a source.
fn norm(source: &mut dyn WeightSource, spec: &DecoderSpec, role: Role, layer: usize) -> Result<Norm> {
    let (weight, bias) = source.norm(role, layer, spec.d_model, spec.norm.bias())?;
    Ok(Norm { kind: spec.norm, eps: spec.norm_eps, weight, bias })
}

/// A feed-forward layer out of a source.
fn feed_forward(source: &mut dyn WeightSource, spec: &DecoderSpec, layer: usize) -> Result<FeedForward> {
    let (wide, narrow) = ([spec.d_ff, spec.d_model], [spec.d_model, spec.d_ff]);
    let (f, gate) = match spec.ffn {
        FfnKind::Gated(f) => (f, Some(source.linear(Role::Gate, layer, wide, spec.mlp_bias)?)),
        FfnKind::Plain(f) => (f, None),
    };
    let up = source.linear(Role::Up, layer, wide, spec.mlp_bias)?;
    Ok(FeedForward { f, gate, up, down: source.linear(Role::Down, layer, narrow, spec.mlp_bias)? })
}

impl Decoder {
    /// Builds a decoder from its numbers and a source of weights.
    ///
    /// # Errors
    /// When the source lacks a weight or has it in another shape.
    pub fn build(spec: DecoderSpec, source: &mut dyn WeightSource) -> Result<Self> {
        let d = spec.d_model;
        let (q, kv) = (spec.n_heads * spec.d_head, spec.n_kv_heads * spec.d_head);
        let ab = spec.attention_bias;
        let embed = source.embedding(Role::Embed, [spec.vocab_size, d])?;
        let (angles, positions) = match &spec.positions {
            Positions::Rotary(rope) => (Some(rope.angles(spec.max_seq_len)), None),
            Positions::Learned => (None, Some(source.embedding(Role::Positions, [spec.max_seq_len, d])?)),
        };
        let mut blocks = Vec::with_capacity(spec.n_layers);
        for i in 0..spec.n_layers {
            blocks.push(Block {
                attention_norm: norm(source, &spec, Role::AttentionNorm, i)?,
                attention: Attention {
                    q: source.linear(Role::Q, i, [q, d], ab)?,
                    k: source.linear(Role::K, i, [kv, d], ab)?,
                    v: source.linear(Role::V, i, [kv, d], ab)?,
                    o: source.linear(Role::O, i, [d, q], ab)?,
                },
                ffn_norm: norm(source, &spec, Role::FfnNorm, i)?,
                ffn: feed_forward(source, &spec, i)?,
            });
        }
        let norm = norm(source, &spec, Role::FinalNorm, 0)?;
        let head = match spec.tie_embeddings {
            true => None,
            false => Some(source.linear(Role::Head, 0, [spec.vocab_size, d], false)?),
        };
        Ok(Self { spec, embed, positions, blocks, norm, head, angles, precision: Precision::F32 })
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

    /// The sum of what a token is and where it stands, `[N, D]`.
    fn embedded(&self, ids: &Arc<[u32]>, positions: &Arc<[u32]>) -> Tensor<2> {
        let x = cupola_ops::embedding(self.embed.value(), ids);
        match &self.positions {
            Some(table) => x + cupola_ops::embedding(table.value(), positions),
            None => x,
        }
    }

    fn blocks(&self, ids: &Arc<[u32]>, mut pass: Pass<'_, '_, '_>, mut seen: impl FnMut(&Stream)) -> Tensor<2> {
        let mut stream = Stream::new(self.embedded(ids, &pass.positions));
        for (layer, block) in self.blocks.iter().enumerate() {
            seen(&stream);
            block.forward(&mut stream, layer, &mut pass);
        }
        stream.norm(&self.norm)
    }

    fn pass<'p, 'a, 'b>(&'p self, positions: Arc<[u32]>, batch: usize, reach: Reach<'a, 'b>) -> Pass<'p, 'a, 'b> {
        Pass { angles: self.angles.as_ref(), positions, heads: self.heads(batch), reach }
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
        let last = self.blocks(&batch.ids, pass, |stream| all.push(stream.value()));
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
        self.blocks.iter_mut().flat_map(|b| b.attention.linears_mut().into_iter().chain(b.ffn.linears_mut()))
    }

    fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.blocks.iter().flat_map(|b| b.attention.linears().into_iter().chain(b.ffn.linears()))
    }

    /// All parameters, always in the same order.
    pub fn params_mut(&mut self) -> Vec<ParamMut<'_>> {
        let mut out = vec![ParamMut::Table(&mut self.embed)];
        out.extend(self.positions.as_mut().map(ParamMut::Table));
        for b in &mut self.blocks {
            b.attention_norm.params_mut(&mut out);
            b.attention.linears_mut().into_iter().for_each(|linear| linear.params_mut(&mut out));
            b.ffn_norm.params_mut(&mut out);
            b.ffn.linears_mut().for_each(|linear| linear.params_mut(&mut out));
        }
        self.norm.params_mut(&mut out);
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
        for embedding in [Some(&self.embed), self.positions.as_ref()].into_iter().flatten() {
            out.insert(embedding.name().to_string(), embedding.to_host());
        }
        for norm in self.blocks.iter().flat_map(|b| [&b.attention_norm, &b.ffn_norm]).chain([&self.norm]) {
            norm.state(&mut out);
        }
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
