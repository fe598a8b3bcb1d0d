//! The numbers that make a decoder, and where its weights come from.

use cupola_artifact::Result;
use cupola_ops::{Activation, Precision};

use crate::linear::Linear;
use crate::norm::NormKind;
use crate::param::Param;
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

    /// Bytes that a training step on the CPU takes for `rows` tokens at once besides parameters, gradients and optimizer
    /// state: what the blocks keep for the backward pass, or with `recompute` their inputs and one block's; one block's
    /// gradients; and the loss's logits, packed weights and gradients.
    pub fn activation_bytes(&self, rows: usize, recompute: bool, precision: Precision) -> f64 {
        let d = self.d_model;
        let (q, kv) = (self.n_heads * self.d_head, self.n_kv_heads * self.d_head);
        let widened = match self.ffn {
            FfnKind::Gated(_) => 2,
            FfnKind::Plain(_) => 1,
        };
        let kept = cupola_ops::feed_forward_kept(widened * self.d_ff, precision);
        // The stream before both norms and both normed; queries, keys, values, the mix and its log-sum-exp.
        let block = 4 * d + 2 * q + 2 * kv + self.n_heads + kept;
        let kept = if recompute { self.n_layers * d + block } else { self.n_layers * block };
        let wide = (widened + 1) * self.d_ff * cupola_ops::feed_forward_rows(rows, self.d_ff);
        let logits = cupola_ops::loss_rows(rows, self.vocab_size) * self.vocab_size;
        let packed = if cupola_ops::loss_packs(rows, self.vocab_size) { self.vocab_size * d } else { 0 };
        4.0 * (rows * (kept + 3 * d) + wide + logits + packed) as f64
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
