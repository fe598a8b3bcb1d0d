//! The decoder that the Llama-like families and GPT-2 share.

use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use cupola_artifact::{Result, StateDict};
use cupola_ops::{Heads, LayerCache, LossForm, Mask, Precision, RopeAngles};

use crate::block::{Block, Pass, Reach, norm};
use crate::linear::Linear;
use crate::lora::{Lora, LoraConfig};
use crate::norm::{Norm, Stream};
use crate::param::{Param, ParamMut};
use crate::spec::{DecoderSpec, Positions, Role, WeightSource};

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
    pub(crate) layers: Vec<LayerCache>,
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
    recompute: bool,
}

impl Decoder {
    /// Builds a decoder from its numbers and a source of weights.
    ///
    /// # Errors
    /// When the source lacks a weight or has it in another shape.
    pub fn build(spec: DecoderSpec, source: &mut dyn WeightSource) -> Result<Self> {
        let d = spec.d_model;
        let embed = source.embedding(Role::Embed, [spec.vocab_size, d])?;
        let (angles, positions) = match &spec.positions {
            Positions::Rotary(rope) => (Some(rope.angles(spec.max_seq_len)), None),
            Positions::Learned => (None, Some(source.embedding(Role::Positions, [spec.max_seq_len, d])?)),
        };
        let blocks = (0..spec.n_layers).map(|i| Block::build(source, &spec, i)).collect::<Result<_>>()?;
        let norm = norm(source, &spec, Role::FinalNorm, 0)?;
        let head = match spec.tie_embeddings {
            true => None,
            false => Some(source.linear(Role::Head, 0, [spec.vocab_size, d], false)?),
        };
        Ok(Self { spec, embed, positions, blocks, norm, head, angles, precision: Precision::F32, recompute: false })
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
            match pass.reach {
                Reach::Batch(batch) if self.recompute => {
                    stream = Stream::new(block.recomputed(stream.value(), layer, &pass, batch));
                }
                _ => block.forward(&mut stream, layer, &mut pass),
            }
        }
        stream.norm(&self.norm)
    }

    fn pass<'p, 'a, 'b>(&'p self, positions: Arc<[u32]>, batch: usize, reach: Reach<'a, 'b>) -> Pass<'p, 'a, 'b> {
        let (heads, precision) = (self.heads(batch), self.precision);
        Pass { angles: self.angles.as_ref(), positions, heads, reach, precision }
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
            b.params_mut(&mut out);
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

    /// What the products of dense weights and of attention multiply.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Whether blocks keep their inputs alone from now on and are computed again in the backward pass (activation
    /// checkpointing): a third more work for a fraction of the memory. On the CPU only.
    pub fn set_recompute(&mut self, recompute: bool) {
        self.recompute = recompute;
    }

    /// What the products of dense weights, and those of attention over a batch, multiply from now on.
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
        copy.recompute = false;
        copy
    }
}
