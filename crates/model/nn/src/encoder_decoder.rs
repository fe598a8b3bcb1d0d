//! A model that reads a text whole and writes another one: an encoder, a decoder that attends to what the encoder gives,
//! and an output layer (Vaswani et al. 2017).

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use cupola_artifact::Result;
use cupola_ops::{LossForm, Precision};

use crate::batch::{Batch, Cache, Step};
use crate::cross_attention::Memory;
use crate::layers::LayerSpec;
use crate::linear::Linear;
use crate::module::{Module, Piece};
use crate::pairs::{Pairs, filled};
use crate::param::{Param, ParamMut};
use crate::source::{Count, Scope, WeightSource};
use crate::stack::{Given, Hidden, Stack, StackSpec};
use crate::switch::row_balance;

/// The numbers that make an encoder-decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderDecoderSpec {
    /// What reads.
    pub encoder: StackSpec,
    /// What writes; its tokens' vectors are the encoder's.
    pub decoder: StackSpec,
    /// Whether the output layer is the embedding.
    pub tie_embeddings: bool,
    /// What the last hidden states are multiplied by before the output layer.
    pub head_scale: Option<f32>,
    /// Whether numbers that are never trained are added to the logits.
    pub logits_bias: bool,
    /// The share in the loss of what keeps the load of each side's experts even, row by row (Switch Transformers).
    pub balance: f32,
    /// The token that a decoder's text begins with.
    pub start: u32,
    /// The beginning-of-text token.
    pub bos: Option<u32>,
    /// The tokens at which generation ends.
    pub eos: Vec<u32>,
    /// The padding token.
    pub pad: Option<u32>,
}

impl EncoderDecoderSpec {
    /// The token that fills rows.
    pub fn padding(&self) -> u32 {
        self.pad.unwrap_or(self.start)
    }

    fn count(&self) -> Count {
        let mut count = Count::default();
        // A count lacks nothing, so the build cannot fail.
        let built = EncoderDecoder::build(self.clone(), &mut count);
        debug_assert!(built.is_ok());
        count
    }

    /// Numbers in all weights.
    pub fn parameters(&self) -> u64 {
        self.count().parameters
    }

    /// Numbers in the matrices that tokens pass through, the output layer included and the embedding not.
    pub fn matrix_parameters(&self) -> u64 {
        let head = if self.tie_embeddings { self.encoder.vocab_size * self.decoder.d_model } else { 0 };
        self.count().products.round() as u64 + head as u64
    }

    /// Floating-point operations of training on a pair of texts of so many tokens: 6 for each number of a matrix and
    /// each token that passes it, and what the layers do besides, three times over.
    pub fn train_flops(&self, source: usize, target: usize) -> f64 {
        let kinds = |stack: &StackSpec| -> Vec<LayerSpec> {
            stack.blocks.iter().flat_map(|b| b.layers.iter().map(|(_, layer)| layer.clone())).collect()
        };
        // What layers say counts the half that a causal mask leaves, which the encoder has not; and of attention over the
        // encoder's text as many tokens as it is told.
        let reached = |layer: &LayerSpec| match layer {
            LayerSpec::CrossAttention(_) => source,
            _ => target,
        };
        let reading: f64 = kinds(&self.encoder).iter().map(|layer| layer.kind().mixing_flops(2 * source)).sum();
        let writing: f64 = kinds(&self.decoder).iter().map(|layer| layer.kind().mixing_flops(reached(layer))).sum();
        let of_memory: usize = kinds(&self.decoder)
            .iter()
            .map(|layer| match layer {
                LayerSpec::CrossAttention(spec) => spec.memory_products(self.decoder.d_model),
                _ => 0,
            })
            .sum();
        let mut encoder = Count::default();
        let built = Stack::build(&mut Scope::root(&mut encoder, &mut vec![]), &self.encoder);
        debug_assert!(built.is_ok());
        let of_source = encoder.products + of_memory as f64;
        let of_target = self.matrix_parameters() as f64 - of_source;
        let products = of_source * source as f64 + of_target * target as f64;
        6.0 * products + 3.0 * (source as f64 * reading + target as f64 * writing)
    }

    /// Floating-point operations of training on one token of a pair of texts of `seq` each.
    pub fn train_flops_per_token(&self, seq: usize) -> f64 {
        self.train_flops(seq, seq) / (2 * seq.max(1)) as f64
    }

    /// Bytes that a training step on the CPU takes for `rows` tokens on each side besides parameters, gradients and optimizer
    /// state: what both sides keep, and the logits once. Scores with relative positions, which are whole matrices, are
    /// counted for a row of [`StackSpec::max_seq_len`].
    pub fn activation_bytes(&self, rows: usize, recompute: bool, precision: Precision) -> f64 {
        let d = self.decoder.d_model;
        let side = |stack: &StackSpec, recompute: bool| {
            let (mut all, mut largest, mut wide) = (0, 0, 0);
            for block in &stack.blocks {
                let scores = |layer: &LayerSpec| match layer {
                    // Scores before and after the bias and the softmax, and which are hidden.
                    LayerSpec::Attention(a) if a.relative => 4 * a.n_heads * stack.max_seq_len,
                    _ => 0,
                };
                let of_layer = |layer: &LayerSpec| 2 * d + layer.kind().kept(d, precision) + scores(layer);
                let kept: usize = block.layers.iter().map(|(_, layer)| of_layer(layer)).sum();
                (all, largest) = (all + kept, largest.max(kept));
                wide = block.layers.iter().map(|(_, layer)| layer.kind().passing(rows)).max().unwrap_or(0).max(wide);
            }
            let kept = if recompute { stack.blocks.len() * d + largest } else { all };
            rows * (kept + 3 * d) + wide
        };
        let vocab = self.encoder.vocab_size;
        let logits = cupola_ops::loss_rows(rows, vocab) * vocab;
        let packed = if cupola_ops::loss_packs(rows, vocab) { vocab * d } else { 0 };
        4.0 * (side(&self.encoder, recompute) + side(&self.decoder, false) + logits + packed) as f64
    }

    /// Bytes of what a model remembers of a text of `source` tokens and the `target` tokens that it has written.
    pub fn cache_bytes(&self, source: usize, target: usize) -> usize {
        let layers = self.decoder.blocks.iter().flat_map(|b| &b.layers);
        let numbers = layers.map(|(_, layer)| {
            let kind = layer.kind();
            kind.remembered(self.decoder.d_model, target) + kind.remembered_of_memory(source)
        });
        numbers.sum::<usize>() * size_of::<f32>()
    }
}

/// An encoder and a decoder.
#[derive(Clone, Debug)]
pub struct EncoderDecoder {
    spec: EncoderDecoderSpec,
    encoder: Stack,
    decoder: Stack,
    head: Option<Linear>,
    /// `[1, V]`.
    logits_bias: Option<Param<2>>,
}

/// The hidden states of both sides: the embeddings, the input of each further block, and the last ones, `[N, D]` each.
pub struct HiddenStates {
    /// The encoder's.
    pub encoder: Vec<Tensor<2>>,
    /// The decoder's.
    pub decoder: Vec<Tensor<2>>,
}

impl EncoderDecoder {
    /// Builds the model from its numbers and a source of weights.
    ///
    /// # Errors
    /// When the source lacks a weight or has it in another shape.
    pub fn build(mut spec: EncoderDecoderSpec, source: &mut dyn WeightSource) -> Result<Self> {
        spec.decoder.embedding.shared = true;
        let mut angles = vec![];
        let mut scope = Scope::root(source, &mut angles);
        let encoder = Stack::build(&mut scope.at("encoder"), &spec.encoder)?;
        let decoder = Stack::build(&mut scope.at("decoder"), &spec.decoder)?;
        let (vocab, d) = (spec.encoder.vocab_size, spec.decoder.d_model);
        let head = (!spec.tie_embeddings).then(|| scope.linear("head", [vocab, d], false)).transpose()?;
        let logits_bias = spec.logits_bias.then(|| scope.fixed("logits_bias", [1, vocab], |_| 0.0)).transpose()?;
        Ok(Self { spec, encoder, decoder, head, logits_bias })
    }

    /// The numbers that make it.
    pub fn spec(&self) -> &EncoderDecoderSpec {
        &self.spec
    }

    /// Where it lives.
    pub fn device(&self) -> Device {
        self.encoder.device()
    }

    /// The vectors of tokens, `[V, D]`.
    fn table(&self) -> Tensor<2> {
        self.encoder.embedding.tokens.value()
    }

    fn given(&self, pairs: &Pairs, states: Tensor<2>) -> Given {
        let memory = Memory { states, mask: pairs.reach.clone(), batch: pairs.source.batch };
        Given { table: Some(self.table()), memory: Some(memory) }
    }

    /// The decoder's last hidden states, `[B·Tt, D]`; what both sides' layers add to the loss, and what their routers decided,
    /// the encoder's first.
    pub fn hidden(&self, pairs: &Pairs) -> Hidden {
        let read = self.encoder.hidden(&pairs.source);
        let mut written = self.decoder.hidden_given(&pairs.target, self.given(pairs, read.last));
        if self.spec.balance != 0.0 {
            let sides = [(&read.routing, pairs.source.batch), (&written.routing, pairs.target.batch)];
            let balance = sides.into_iter().filter_map(|(routing, rows)| row_balance(routing, rows));
            written.extra.extend(balance.map(|loss| loss.mul_scalar(self.spec.balance)));
        }
        written.extra.extend(read.extra);
        written.routing.splice(0..0, read.routing);
        written
    }

    /// All hidden states.
    pub fn hidden_states(&self, pairs: &Pairs) -> HiddenStates {
        let encoder = self.encoder.hidden_states(&pairs.source);
        let last = encoder.last().map_or_else(|| Tensor::zeros([0, 0], &self.device()), Tensor::clone);
        let decoder = self.decoder.hidden_states_given(&pairs.target, self.given(pairs, last));
        HiddenStates { encoder, decoder }
    }

    /// A cache of a text that has not been read.
    pub fn empty_cache(&self) -> Cache {
        self.decoder.cache()
    }

    /// Reads texts: for each a cache that holds what the decoder's layers need of it.
    pub fn read(&self, texts: &[&[u32]]) -> Vec<Cache> {
        let (batch, real) = filled(texts, self.spec.padding());
        self.read_batch(&batch, &real)
    }

    /// Reads one text.
    pub fn read_one(&self, text: &[u32]) -> Cache {
        let (batch, real) = filled(&[text], self.spec.padding());
        self.decoder.remember(&self.encoder.hidden(&batch).last.narrow(0, 0, real[0].len()))
    }

    /// As [`Self::read`] of rows of which `real` holds text; no part is empty.
    pub fn read_batch(&self, batch: &Batch, real: &[Range<usize>]) -> Vec<Cache> {
        let (states, seq) = (self.encoder.hidden(batch).last, batch.seq());
        let of_row = |(row, part): (usize, &Range<usize>)| {
            self.decoder.remember(&states.clone().narrow(0, row * seq + part.start, part.len()))
        };
        real.iter().enumerate().map(of_row).collect()
    }

    /// The decoder's last hidden states of new tokens, `[N, D]`, for several sequences at once; the caches, which
    /// [`Self::read`] made, grow by them.
    pub fn step(&self, ids: &Arc<[u32]>, steps: &mut [Step<'_>]) -> Tensor<2> {
        self.decoder.step_of(self.table(), ids, steps)
    }

    /// What the output layer is given.
    fn scaled(&self, hidden: Tensor<2>) -> Tensor<2> {
        match self.spec.head_scale {
            Some(scale) => hidden.mul_scalar(scale),
            None => hidden,
        }
    }

    /// The output layer's weight as floats, `[V, D]`.
    fn head_weight(&self) -> Tensor<2> {
        self.head.as_ref().map_or_else(|| self.table(), Linear::whole_weight)
    }

    /// The logits of the decoder's hidden states, `[N, V]`.
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        let hidden = self.scaled(hidden);
        let logits = match &self.head {
            Some(head) => head.forward(hidden),
            None => cupola_ops::linear(hidden, self.table(), None, self.decoder.precision),
        };
        match &self.logits_bias {
            Some(bias) => logits + bias.value(),
            None => logits,
        }
    }

    /// What the loss's output layer is given and its weight: what is added to the logits is one more column.
    fn problem(&self, hidden: Tensor<2>) -> [Tensor<2>; 2] {
        let (hidden, weight) = (self.scaled(hidden), self.head_weight());
        let Some(bias) = &self.logits_bias else { return [hidden, weight] };
        let ([rows, _], [vocab, _]) = (hidden.dims(), weight.dims());
        let ones = Tensor::ones([rows, 1], &hidden.device());
        [Tensor::cat(vec![hidden, ones], 1), Tensor::cat(vec![weight, bias.value().reshape([vocab, 1])], 1)]
    }

    /// `sum_i weights[i] · nll_i`, `[1]`: labels and weights `[B·Tt]`; a label of [`cupola_ops::IGNORE`] counts nothing.
    /// What the layers add to the loss is added.
    pub fn loss(&self, pairs: &Pairs, labels: &Arc<[i32]>, weights: &Arc<[f32]>) -> Tensor<1> {
        let hidden = self.hidden(pairs);
        let [x, w] = self.problem(hidden.last);
        let loss = cupola_ops::linear_cross_entropy(x, w, labels, weights, LossForm::default(), self.decoder.precision);
        hidden.extra.into_iter().fold(loss, |loss, extra| loss + extra)
    }

    /// The negative log-likelihood of each label, `[B·Tt]`.
    pub fn nll(&self, pairs: &Pairs, labels: &Arc<[i32]>) -> Tensor<1> {
        let [x, w] = self.problem(self.hidden(pairs).last);
        cupola_ops::linear_nll(x, w, labels, self.decoder.precision)
    }

    /// What the products of dense weights and of attention multiply.
    pub fn precision(&self) -> Precision {
        self.decoder.precision
    }

    /// What they multiply from now on.
    pub fn set_precision(&mut self, precision: Precision) {
        (self.encoder.precision, self.decoder.precision) = (precision, precision);
        self.set_product_precision(precision);
    }

    /// Whether the encoder's blocks are computed again in the backward pass from now on; the decoder's, which attend to
    /// what the encoder gives, never are.
    pub fn set_recompute(&mut self, recompute: bool) {
        self.encoder.recompute = recompute;
    }

    /// The same weights without a tape, for evaluation and generation; shares the memory.
    #[must_use]
    pub fn frozen(&self) -> Self {
        let mut copy = self.clone();
        copy.set_trainable(|_| false);
        copy.set_recompute(false);
        copy
    }
}

impl Module for EncoderDecoder {
    fn pieces<'a>(&'a mut self, out: &mut Vec<Piece<'a>>) {
        self.encoder.pieces(out);
        self.decoder.pieces(out);
        out.extend(self.head.as_mut().map(Piece::Output));
        out.extend(self.logits_bias.as_mut().map(|bias| Piece::Param(ParamMut::Table(bias))));
    }
}
