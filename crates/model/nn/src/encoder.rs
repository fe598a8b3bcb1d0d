//! A model that reads whole texts: a stack of blocks, mostly in both directions, and a head.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use cupola_artifact::{Error, Result};
use cupola_ops::{Mask, Precision};

use crate::batch::Batch;
use crate::block::BlockSpec;
use crate::heads::{Head, HeadSpec, Output, Targets};
use crate::module::{Module, Piece};
use crate::param::ParamMut;
use crate::source::{Count, Scope, WeightSource};
use crate::stack::{Stack, StackSpec};

/// Blocks that several layers share (ALBERT, Lan et al. 2020).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shared {
    /// Layers; each runs all blocks of a group.
    pub layers: usize,
    /// Groups; each is an equal share of the layers'.
    pub groups: usize,
    /// Blocks of a group.
    pub inner: usize,
}

impl Shared {
    /// Which block runs when.
    fn order(self) -> Vec<usize> {
        let first = |layer: usize| layer * self.groups / self.layers * self.inner;
        (0..self.layers).flat_map(|layer| (0..self.inner).map(move |i| first(layer) + i)).collect()
    }
}

/// The numbers that make an encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderSpec {
    /// Embedding, blocks and last norm.
    pub stack: StackSpec,
    /// How layers share blocks, where they do.
    pub shared: Option<Shared>,
    /// Whether a token sees only what precedes it.
    pub causal: bool,
    /// What stands on it.
    pub head: Option<HeadSpec>,
    /// The labels' names, where the head gives any.
    pub labels: Vec<String>,
    /// The beginning-of-text token.
    pub bos: Option<u32>,
    /// The tokens that end a text.
    pub eos: Vec<u32>,
    /// The padding token.
    pub pad: Option<u32>,
}

impl EncoderSpec {
    /// An encoder of a stack whose blocks run once each.
    pub fn new(stack: StackSpec, head: Option<HeadSpec>) -> Self {
        Self { stack, shared: None, causal: false, head, labels: vec![], bos: None, eos: vec![], pad: None }
    }

    /// Whether the head's last layer is the embedding.
    pub fn tie_embeddings(&self) -> bool {
        matches!(self.head.and_then(|head| head.out), Some(Output::Embedding { .. }))
    }

    fn counted(&self, spec: &Self) -> Count {
        let mut count = Count::default();
        // A count lacks nothing, so the build cannot fail.
        let built = Encoder::build(spec.clone(), &mut count);
        debug_assert!(built.is_ok());
        count
    }

    /// Numbers in all weights.
    pub fn parameters(&self) -> u64 {
        self.counted(self).parameters
    }

    /// The same encoder with a block for each time that one runs.
    fn unrolled(&self) -> Self {
        let Some(shared) = self.shared else { return self.clone() };
        let blocks: Vec<BlockSpec> = shared.order().iter().filter_map(|i| self.stack.blocks.get(*i)).cloned().collect();
        Self { stack: StackSpec { blocks, ..self.stack.clone() }, shared: None, ..self.clone() }
    }

    /// Numbers in the matrices that each token passes through, once for each time; the embedding where it is the last
    /// layer.
    pub fn matrix_parameters(&self) -> u64 {
        let head = if self.tie_embeddings() { self.stack.vocab_size * self.stack.embedding.width } else { 0 };
        self.counted(&self.unrolled()).products as u64 + head as u64
    }

    /// Floating-point operations of training on one token of a sequence of `seq`: 6 for each matrix parameter, and what
    /// the layers do besides, three times over.
    pub fn train_flops_per_token(&self, seq: usize) -> f64 {
        let all = self.unrolled();
        let layers = all.stack.blocks.iter().flat_map(|b| &b.layers);
        // What layers say counts the half that a causal mask leaves.
        let reached = if self.causal { seq } else { 2 * seq };
        let mixing: f64 = layers.map(|(_, layer)| layer.kind().mixing_flops(reached)).sum();
        6.0 * self.matrix_parameters() as f64 + 3.0 * mixing
    }

    /// Bytes that a training step takes as [`StackSpec::activation_bytes`] counts them.
    pub fn activation_bytes(&self, rows: usize, recompute: bool, precision: Precision) -> f64 {
        self.unrolled().stack.activation_bytes(rows, recompute, precision)
    }

    /// Tokens of texts in rows as this encoder wants them; `texts` are their places in the rows.
    pub fn batch(&self, ids: Vec<u32>, texts: &[Range<usize>]) -> Batch {
        let count_padding = self.stack.embedding.positions.is_none_or(|p| p.count_padding);
        let mut batch = Batch::padded(ids, texts, count_padding);
        if self.causal {
            batch.mask = batch.mask.and(&Mask::causal(batch.batch, batch.seq()));
        }
        batch
    }
}

/// Embedding, blocks, a last norm, and a head.
#[derive(Clone, Debug)]
pub struct Encoder {
    spec: EncoderSpec,
    stack: Stack,
    head: Option<Head>,
}

impl Encoder {
    /// Builds an encoder from its numbers and a source of weights.
    ///
    /// # Errors
    /// When the source lacks a weight or has it in another shape.
    pub fn build(spec: EncoderSpec, source: &mut dyn WeightSource) -> Result<Self> {
        let mut angles = vec![];
        let mut scope = Scope::root(source, &mut angles);
        let mut stack = Stack::build(&mut scope, &spec.stack)?;
        if let Some(shared) = spec.shared {
            stack.order = shared.order().into_iter().filter(|i| *i < spec.stack.blocks.len()).collect();
        }
        stack.causal = spec.causal;
        let (d, vocab) = (spec.stack.d_model, spec.stack.vocab_size);
        let head = spec.head.map(|head| Head::build(&mut scope.at(head.task.scope()), &head, d, vocab)).transpose()?;
        Ok(Self { spec, stack, head })
    }

    /// The numbers that make it.
    pub fn spec(&self) -> &EncoderSpec {
        &self.spec
    }

    /// Where it lives.
    pub fn device(&self) -> Device {
        self.stack.device()
    }

    /// What stands on it.
    pub fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    /// The head's weights.
    pub fn head_params(&mut self) -> Vec<ParamMut<'_>> {
        self.head.as_mut().map(Module::params_mut).unwrap_or_default()
    }

    /// The last hidden states of a batch, `[B·T, D]`.
    pub fn hidden(&self, batch: &Batch) -> Tensor<2> {
        self.stack.hidden(batch).last
    }

    /// The embeddings, the input of each further block, and the last hidden states.
    pub fn hidden_states(&self, batch: &Batch) -> Vec<Tensor<2>> {
        self.stack.hidden_states(batch)
    }

    /// The head's scores of hidden states `[B·T, D]`: a row for each token, or for each text; the hidden states
    /// themselves where there is no head.
    pub fn scores(&self, hidden: Tensor<2>, batch: &Batch) -> Tensor<2> {
        match &self.head {
            Some(head) => head.scores(head.read(hidden, batch), self.stack.embedding.tokens.value(), self.precision()),
            None => hidden,
        }
    }

    /// The same of some tokens only, where the head reads tokens.
    pub fn scores_at(&self, hidden: Tensor<2>, rows: &Arc<[u32]>) -> Tensor<2> {
        let some = cupola_ops::embedding(hidden, rows);
        match &self.head {
            Some(head) => head.scores(some, self.stack.embedding.tokens.value(), self.precision()),
            None => some,
        }
    }

    /// Looks its tokens up in another's tables from now on, or in none; whoever trains them trains the other's.
    pub fn share_tables(&mut self, other: Option<&Self>) {
        self.stack.embedding.take_tables(other.map(|other| &other.stack.embedding));
    }

    /// `sum_i weights[i] · loss_i`, `[1]`: a loss and a weight for each token, or for each text where the head reads those.
    ///
    /// # Errors
    /// An encoder without a head.
    pub fn loss(&self, batch: &Batch, targets: &Targets, weights: &Arc<[f32]>) -> Result<Tensor<1>> {
        let Some(head) = &self.head else {
            return Err(Error::failed("the model is an encoder without a head: it has no loss")
                .with_hint("`architectures` in config.json names the head, e.g. BertForMaskedLM"));
        };
        let (hidden, embedding) = (self.stack.hidden(batch), self.stack.embedding.tokens.value());
        let loss = head.loss(hidden.last, batch, (targets, weights), embedding, self.precision());
        Ok(hidden.extra.into_iter().fold(loss, |loss, extra| loss + extra))
    }

    /// Takes `tokens` out of the longest text: they stand before it.
    pub fn take_room(&mut self, tokens: usize) {
        self.spec.stack.max_seq_len -= tokens;
        self.stack.take_room(tokens);
    }

    /// What the products of dense weights and of attention multiply.
    pub fn precision(&self) -> Precision {
        self.stack.precision
    }

    /// What they multiply from now on.
    pub fn set_precision(&mut self, precision: Precision) {
        self.stack.precision = precision;
        self.set_product_precision(precision);
    }

    /// Whether blocks keep their inputs alone from now on and are computed again in the backward pass.
    pub fn set_recompute(&mut self, recompute: bool) {
        self.stack.recompute = recompute;
    }
}

impl Module for Encoder {
    fn pieces<'a>(&'a mut self, out: &mut Vec<Piece<'a>>) {
        self.stack.pieces(out);
        self.head.pieces(out);
    }
}
