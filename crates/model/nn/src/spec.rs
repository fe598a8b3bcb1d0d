//! The numbers that make a decoder, and what follows from them before it is built.

use std::ops::Deref;

use cupola_ops::Precision;

use crate::decoder::Decoder;
use crate::source::Count;
use crate::stack::StackSpec;

/// The numbers that make a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderSpec {
    /// Embedding, blocks and last norm.
    pub stack: StackSpec,
    /// Whether the output layer is the embedding.
    pub tie_embeddings: bool,
    /// With `c` a logit `l` becomes `c * tanh(l / c)` (Gemma 2).
    pub soft_cap: Option<f32>,
    /// The beginning-of-text token.
    pub bos: Option<u32>,
    /// The tokens at which generation ends.
    pub eos: Vec<u32>,
    /// The padding token.
    pub pad: Option<u32>,
}

impl Deref for DecoderSpec {
    type Target = StackSpec;

    fn deref(&self) -> &StackSpec {
        &self.stack
    }
}

impl DecoderSpec {
    /// What a decoder of these numbers asks its source for.
    fn count(&self) -> Count {
        let mut count = Count::default();
        // A count lacks nothing, so the build cannot fail.
        let built = Decoder::build(self.clone(), &mut count);
        debug_assert!(built.is_ok());
        count
    }

    /// Numbers in all weights.
    pub fn parameters(&self) -> u64 {
        self.count().parameters
    }

    /// Numbers in the matrices that each token passes through, the output layer included and the embedding not; of a
    /// layer's experts those that a token chooses.
    pub fn matrix_parameters(&self) -> u64 {
        let head = if self.tie_embeddings { self.vocab_size * self.embedding.width } else { 0 };
        self.count().products.round() as u64 + head as u64
    }

    /// Floating-point operations of training on one token of a sequence of `seq`: 6 for each matrix parameter, and what
    /// the layers do besides, three times over.
    pub fn train_flops_per_token(&self, seq: usize) -> f64 {
        let layers = self.blocks.iter().flat_map(|b| &b.layers);
        let mixing: f64 = layers.map(|(_, layer)| layer.kind().mixing_flops(seq)).sum();
        6.0 * self.matrix_parameters() as f64 + 3.0 * mixing
    }

    /// Bytes of what a model remembers of a sequence of `len` tokens.
    pub fn cache_bytes(&self, len: usize) -> usize {
        let layers = self.blocks.iter().flat_map(|b| &b.layers);
        layers.map(|(_, layer)| layer.kind().remembered(self.d_model, len) * size_of::<f32>()).sum()
    }

    /// Bytes that a training step takes, as [`StackSpec::activation_bytes`] counts them. Capped logits are there all at once,
    /// with what their functions keep.
    pub fn activation_bytes(&self, rows: usize, recompute: bool, precision: Precision) -> f64 {
        let capped = if self.soft_cap.is_some() { 3 * rows } else { cupola_ops::loss_rows(rows, self.vocab_size) };
        let more = capped.saturating_sub(cupola_ops::loss_rows(rows, self.vocab_size)) * self.vocab_size;
        self.stack.activation_bytes(rows, recompute, precision) + 4.0 * more as f64
    }
}

impl StackSpec {
    /// Bytes that a training step on the CPU takes for `rows` tokens at once besides parameters, gradients and optimizer
    /// state: what the blocks keep for the backward pass, or with `recompute` their inputs and one block's; one block's
    /// gradients; and the loss's logits, packed weights and gradients.
    pub fn activation_bytes(&self, rows: usize, recompute: bool, precision: Precision) -> f64 {
        let d = self.d_model;
        // Before each norm the stream, and the normed.
        let block = |b: &crate::block::BlockSpec| -> usize {
            b.layers.iter().map(|(_, layer)| 2 * d + layer.kind().kept(d, precision)).sum()
        };
        let all: usize = self.blocks.iter().map(block).sum();
        let largest = self.blocks.iter().map(block).max().unwrap_or(0);
        let kept = if recompute { self.blocks.len() * d + largest } else { all };
        let layers = self.blocks.iter().flat_map(|b| &b.layers);
        let wide = layers.map(|(_, layer)| layer.kind().passing(rows)).max().unwrap_or(0);
        let logits = cupola_ops::loss_rows(rows, self.vocab_size) * self.vocab_size;
        let packed = if cupola_ops::loss_packs(rows, self.vocab_size) { self.vocab_size * d } else { 0 };
        4.0 * (rows * (kept + 3 * d) + wide + logits + packed) as f64
    }
}
